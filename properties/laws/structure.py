"""Structural laws: a kernel against itself on a problem cut, packed or permuted another way, within the budget."""

import itertools

import numpy as np

from kda_spec import Trace, trace
from properties.budgets import informative, output_budget, state_budget, worst
from properties.calls import Kernel, Output, problem_of
from properties.case import Case
from properties.edits import (
    alone,
    insert_empty,
    insert_neutral,
    packed,
    repeat_heads,
    rotate_heads,
    window,
    window_rows,
    with_,
    with_state,
)
from properties.law import Judgement, judge, law, need_state, with_fields, worst_of

# Two answers may each be a budget away from the truth, in opposite directions.
BOTH = 2.0


def agree(got: Output, expected: Output, problem: object, case: Case, relation: str) -> Judgement:
    """Two results for the same problem differ by no more than two budgets."""
    truth = trace(problem)  # type: ignore[arg-type]
    judgements = [agree_o(got.o, expected.o, problem, truth, case, relation)]
    if got.final_state is not None and expected.final_state is not None:
        judgements.append(agree_state(got.final_state, expected.final_state, problem, truth, case, relation))
    return worst_of(judgements)


def agree_o(got: np.ndarray, expected: np.ndarray, problem, truth: Trace, case: Case, relation: str) -> Judgement:  # type: ignore[no-untyped-def]
    """The same for o alone."""
    errors = worst(got, expected, BOTH * output_budget(problem, truth, case.dtype)[..., None])
    return judge("o", errors, problem, informative(problem, truth, case.dtype), relation)


def agree_state(got: np.ndarray, expected: np.ndarray, problem, truth: Trace, case: Case, relation: str) -> Judgement:  # type: ignore[no-untyped-def]
    """The same for the final state alone."""
    errors = worst(got, expected, BOTH * state_budget(problem, truth, case.dtype)[..., None, None])
    return judge("final_state", errors, problem, bool(np.any(truth.final_state != 0)), relation)


@law(
    "structure",
    "Splitting a sequence anywhere and handing the state over does not change the result.",
    "f(x[:t], S) = (o1, S1), f(x[t:], S1) = (o2, S2)  =>  f(x, S) = (o1 o2, S2)",
    adjust=with_fields(final_state=True),
)
def splitting_the_sequence_changes_nothing(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    at = case.at % (max(problem.lengths, default=0) + 1)
    return _in_pieces(kernel, case, [0, at, None], "the result in one piece")


@law(
    "structure",
    "Prefill and then one token at a time gives the result of one call.",
    "f(x[:t], S), f(x_t, S_t), f(x_(t+1), S_(t+1)), ..  =  f(x, S)",
    adjust=with_fields(final_state=True),
)
def decoding_continues_the_prefill(kernel: Kernel, case: Case) -> Judgement:
    longest = max(problem_of(case).lengths, default=0)
    start = max(0, longest - 1 - case.at % 3)
    return _in_pieces(kernel, case, [0, *range(start, longest), None], "the result in one piece")


def _in_pieces(kernel: Kernel, case: Case, cuts: list[int | None], relation: str) -> Judgement:
    problem = problem_of(case)
    whole, state = kernel(case), problem.initial_state
    o = np.zeros_like(whole.o)
    for first, last in itertools.pairwise(cuts):
        piece = kernel(case, with_state(window(problem, int(first or 0), last), state))
        o[:, window_rows(problem, int(first or 0), last)] = piece.o
        state = need_state(piece)
    joined = Output(o, state, {}, whole.dtypes)
    return agree(joined, whole, problem, case, relation)


def _packing(case: Case) -> Case:
    return case if case.packed else case.but(packed=(case.T, (case.T * 3 + 1) % 7, case.T // 2 + 1), B=1)


@law(
    "structure",
    "Packed sequences give what each of them gives alone.",
    "f(packed x_1 .. x_N)_n = f(x_n)",
    adjust=_packing,
)
def packed_sequences_are_independent(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    whole = kernel(case)
    parts = [kernel(case, alone(problem, n)) for n in range(problem.N)]
    o = np.zeros_like(whole.o)
    for (row, start, stop), part in zip(problem.bounds(), parts, strict=True):
        o[row, start:stop] = part.o[0]
    state = None if whole.final_state is None else np.concatenate([need_state(part) for part in parts])
    return agree(whole, Output(o, state, {}, {}), problem, case, "the sequence alone")


@law(
    "structure",
    "A dense batch gives what the same sequences give packed.",
    "f([B, T]) = f([1, B T], cu_seqlens = 0, T, 2T, ..)",
    adjust=lambda case: case.but(packed=(), T=max(case.T, 1)),
)
def dense_equals_packed(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    dense, flat = kernel(case), kernel(case, packed(problem))
    together = Output(flat.o.reshape(dense.o.shape), flat.final_state, {}, {})
    return agree(together, dense, problem, case, "the dense batch")


@law(
    "structure",
    "A batch row gives alone what it gives in its batch.",
    "f(x)_b = f(x_b)",
    adjust=lambda case: case.but(packed=(), B=max(case.B, 2)),
)
def a_batch_row_is_independent(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    n = case.at % problem.N
    whole, part = kernel(case), kernel(case, alone(problem, n))
    state = None if whole.final_state is None else whole.final_state[n : n + 1]
    return agree(part, Output(whole.o[n : n + 1], state, {}, {}), alone(problem, n), case, "the row in its batch")


@law(
    "structure",
    "A sequence without tokens changes nothing for the others and passes its own state through.",
    "f(x_1, (), x_2) = (f(x_1), S, f(x_2))",
    adjust=_packing,
)
def an_empty_sequence_changes_nothing(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    n = case.at % (problem.N + 1)
    without, with_empty = kernel(case), kernel(case, insert_empty(problem, n))
    if with_empty.final_state is None:
        return agree(with_empty, without, problem, case, "the call without the empty sequence")
    own, expected = with_empty.final_state[n], 0.0 if problem.initial_state is None else 7.0
    if np.any(own != expected):
        return Judgement(
            np.inf, True, f"the empty sequence's final state is {own.flat[0]:.6g}, its initial state {expected:g}"
        )
    others = Output(with_empty.o, np.delete(with_empty.final_state, n, axis=0), {}, {})
    return agree(others, without, problem, case, "the call without the empty sequence")


@law(
    "structure",
    "Value head hv reads query and key head hv // (HV // H): grouping is explicit repetition.",
    "f(q, k, ..) = f(repeat(q), repeat(k), ..)",
    adjust=lambda case: case.but(group=max(case.group, 2)),
)
def grouped_heads_are_repeated_heads(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    return agree(kernel(case), kernel(case, repeat_heads(problem)), problem, case, "the call with repeated heads")


@law(
    "structure",
    "Moving the heads moves the results.",
    "f(P x) = P f(x) for a permutation P of heads",
    adjust=lambda case: case.but(H=max(case.H, 2)),
)
def heads_are_independent(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    group = problem.HV // problem.H
    first, moved = kernel(case), kernel(case, rotate_heads(problem))
    state = None if moved.final_state is None else np.roll(moved.final_state, -group, axis=1)
    back = Output(np.roll(moved.o, -group, axis=2), state, {}, {})
    return agree(back, first, problem, case, "the result before the heads were moved")


@law(
    "structure",
    "A token with g = 0 and beta = 0 changes no other token's output and no state.",
    "g_t = 0, beta_t = 0  =>  S_t = S_(t-1)",
    adjust=lambda case: case.but(packed=(), T=max(case.T, 1)),
)
def a_neutral_token_changes_nothing(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    longer, rows = insert_neutral(problem, case.at % (problem.T + 1))
    got = kernel(case, longer)
    kept = Output(got.o[:, rows], got.final_state, {}, {})
    return agree(kept, kernel(case), problem, case, "the call without the neutral token")


@law(
    "structure",
    "A shorter call gives the beginning of the longer one.",
    "f(x[:t]) = f(x)[:t]",
    adjust=lambda case: case.but(T=max(case.T, 2)),
)
def a_prefix_gives_the_beginning(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    at = 1 + case.at % max(max(problem.lengths, default=1), 1)
    short = window(problem, 0, at)
    beginning = kernel(case).o[:, window_rows(problem, 0, at)]
    got = kernel(case, short).o
    return agree_o(got, beginning, short, trace(short), case, "the beginning of the longer call")


@law(
    "structure",
    "The result is linear in values and state together.",
    "f(v1 + v2, S1 + S2) = f(v1, S1) + f(v2, S2)",
    adjust=lambda case: case.but(dtype="float32", final_state=True),
)
def values_and_states_superpose(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    mask = (np.arange(problem.V) + case.at) % 2 == 0
    state = problem.initial_state
    halves = [
        with_state(
            with_(problem, v=np.where(keep, problem.v, 0.0)), None if state is None else np.where(late, state, 0.0)
        )
        for keep, late in ((mask, ~mask), (~mask, mask))
    ]
    whole, (a, b) = kernel(case), [kernel(case, half) for half in halves]
    total = Output(a.o + b.o, need_state(a) + need_state(b), {}, {})
    return agree(total, whole, problem, case, "the call with the sum")
