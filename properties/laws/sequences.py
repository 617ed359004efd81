"""Laws of sequences: cut, packed, reordered, alone or in a batch, they give the same, within the budget."""

import itertools

import numpy as np

from kda_spec import trace
from properties.budgets import state_errors
from properties.calls import Kernel, problem_of
from properties.case import Case
from properties.compare import Pair, agree, result
from properties.edits import alone, insert_neutral, reordered, window, window_rows, with_state
from properties.law import Judgement, judge, law, need_state, with_fields
from properties.pairs import dense_and_packed, prefix, row_alone, with_empty_sequence, with_packing


@law(
    "structure",
    "Splitting a sequence anywhere and handing the state over does not change the result.",
    "f(x[:t], S) = (o1, S1), f(x[t:], S1) = (o2, S2)  =>  f(x, S) = (o1 o2, S2)",
    adjust=with_fields(final_state=True),
)
def splitting_the_sequence_changes_nothing(kernel: Kernel, case: Case) -> Judgement:
    at = case.at % (max(problem_of(case).lengths, default=0) + 1)
    return _in_pieces(kernel, case, [0, at, None])


@law(
    "structure",
    "Prefill and then one token at a time gives the result of one call.",
    "f(x[:t], S), f(x_t, S_t), f(x_(t+1), S_(t+1)), ..  =  f(x, S)",
    adjust=with_fields(final_state=True),
)
def decoding_continues_the_prefill(kernel: Kernel, case: Case) -> Judgement:
    longest = max(problem_of(case).lengths, default=0)
    start = max(0, longest - 1 - case.at % 3)
    return _in_pieces(kernel, case, [0, *range(start, longest), None])


def _in_pieces(kernel: Kernel, case: Case, cuts: list[int | None]) -> Judgement:
    problem = problem_of(case)
    whole, state = kernel(case), problem.initial_state
    o = np.zeros_like(whole.o)
    for first, last in itertools.pairwise(cuts):
        piece = kernel(case, with_state(window(problem, int(first or 0), last), state))
        o[:, window_rows(problem, int(first or 0), last)] = piece.o
        state = need_state(piece)
    return agree(Pair(result(o, state), whole, problem, "the result in one piece"), case)


@law(
    "structure",
    "Packed sequences give what each of them gives alone.",
    "f(packed x_1 .. x_N)_n = f(x_n)",
    adjust=with_packing,
)
def packed_sequences_are_independent(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    whole = kernel(case)
    each = [kernel(case, alone(problem, n)) for n in range(problem.N)]
    o = np.zeros_like(whole.o)
    for (row, start, stop), part in zip(problem.bounds(), each, strict=True):
        o[row, start:stop] = part.o[0]
    state = None if whole.final_state is None else np.concatenate([need_state(part) for part in each])
    return agree(Pair(whole, result(o, state), problem, "the sequence alone"), case)


@law(
    "structure",
    "Packing the sequences in another order gives each the same.",
    "f(packed x_2, x_1) = (f(x_2), f(x_1)) where f(packed x_1, x_2) = (f(x_1), f(x_2))",
    adjust=lambda case: case.but(packed=case.packed if len(case.packed) > 1 else (case.T, case.T // 2 + 1), B=1),
)
def the_order_of_sequences_does_not_matter(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    order = np.roll(np.arange(problem.N)[::-1], case.at)
    moved, rows = reordered(problem, order)
    first, other = kernel(case), kernel(case, moved)
    state = None if first.final_state is None else first.final_state[order]
    return agree(Pair(other, result(first.o[:, rows], state), moved, "the result in the first order"), case)


@law(
    "structure",
    "A dense batch gives what the same sequences give packed.",
    "f([B, T]) = f([1, B T], cu_seqlens = 0, T, 2T, ..)",
    adjust=lambda case: case.but(packed=(), T=max(case.T, 1)),
)
def dense_equals_packed(kernel: Kernel, case: Case) -> Judgement:
    return agree(dense_and_packed(kernel, case), case)


@law(
    "structure",
    "A batch row gives alone what it gives in its batch.",
    "f(x)_b = f(x_b)",
    adjust=lambda case: case.but(packed=(), B=max(case.B, 2)),
)
def a_batch_row_is_independent(kernel: Kernel, case: Case) -> Judgement:
    return agree(row_alone(kernel, case), case)


@law(
    "structure",
    "A sequence without tokens changes nothing for the others and passes its own state through.",
    "f(x_1, (), x_2) = (f(x_1), S, f(x_2))",
    adjust=with_packing,
)
def an_empty_sequence_changes_nothing(kernel: Kernel, case: Case) -> Judgement:
    pair, own = with_empty_sequence(kernel, case)
    expected = 0.0 if problem_of(case).initial_state is None else 7.0
    if own is not None and np.any(own != expected):
        return Judgement(
            np.inf, True, f"the empty sequence's final state is {own.flat[0]:.6g}, its initial state {expected:g}"
        )
    return agree(pair, case)


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
    kept = result(got.o[:, rows], got.final_state)
    return agree(Pair(kept, kernel(case), problem, "the call without the neutral token"), case)


@law(
    "structure",
    "A state that no token touches is handed on in float32, whatever the dtype of the tokens.",
    "g = 0, beta = 0  =>  S_T = S_0, within the float32 budget",
    adjust=lambda case: case.but(
        T=max(case.T, 65 if case.at % 2 else 1), packed=(), gate="zero", beta="zero", edits=(), final_state=True,
        state="random" if case.state in ("none", "zero") else case.state,
    ),
    share=0.5,
)  # fmt: skip
def an_untouched_state_is_kept_in_float32(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    state, truth = need_state(kernel(case)), trace(problem)
    errors = state_errors(state, problem, truth, "float32")
    return judge("final_state", errors, problem, True, "the initial state")


@law(
    "structure",
    "A shorter call gives the beginning of the longer one.",
    "f(x[:t]) = f(x)[:t]",
    adjust=lambda case: case.but(T=max(case.T, 2)),
)
def a_prefix_gives_the_beginning(kernel: Kernel, case: Case) -> Judgement:
    return agree(prefix(kernel, case), case)
