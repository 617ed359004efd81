"""Laws of heads and channels: each is computed on its own, and values superpose."""

import numpy as np

from properties.calls import Kernel, problem_of
from properties.case import Case
from properties.compare import Pair, agree, result
from properties.edits import permute_keys, permute_values, repeat_heads, with_, with_state
from properties.law import Judgement, law, need_state
from properties.numbers import draw_uniform
from properties.pairs import moved_heads


@law(
    "structure",
    "Value head hv reads query and key head hv // (HV // H): grouping is explicit repetition.",
    "f(q, k, ..) = f(repeat(q), repeat(k), ..)",
    adjust=lambda case: case.but(group=max(case.group, 2)),
)
def grouped_heads_are_repeated_heads(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    repeated = kernel(case, repeat_heads(problem))
    return agree(Pair(kernel(case), repeated, problem, "the call with repeated heads"), case)


@law(
    "structure",
    "Moving the heads moves the results.",
    "f(P x) = P f(x) for a permutation P of heads",
    adjust=lambda case: case.but(H=max(case.H, 2)),
)
def heads_are_independent(kernel: Kernel, case: Case) -> Judgement:
    return agree(moved_heads(kernel, case), case)


@law(
    "structure",
    "Permuting the value channels permutes the columns of output and state.",
    "f(q, k, v P, g, beta, S P) = (o P, S_T P)",
    adjust=lambda case: case.but(V=max(case.V, 2)),
)
def value_channels_are_independent(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    order = _order(case, problem.V)
    first, moved = kernel(case), kernel(case, permute_values(problem, order))
    state = None if first.final_state is None else first.final_state[..., order]
    relation = "the result before value channels were permuted"
    return agree(Pair(moved, result(first.o[..., order], state), permute_values(problem, order), relation), case)


@law(
    "structure",
    "Permuting the key channels changes no output and permutes the rows of the state.",
    "f(P q, P k, v, P g, beta, P S) = (o, P S_T)",
    adjust=lambda case: case.but(K=max(case.K, 2)),
)
def key_channels_are_alike(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    order = _order(case, problem.K)
    first, moved = kernel(case), kernel(case, permute_keys(problem, order))
    state = None if first.final_state is None else first.final_state[..., order, :]
    relation = "the result before key channels were permuted"
    return agree(Pair(moved, result(first.o, state), permute_keys(problem, order), relation), case)


def _order(case: Case, size: int) -> np.ndarray:
    """A permutation that moves every channel, drawn by the case's numbers."""
    drawn = np.argsort(draw_uniform(case.seed, "order", size))
    moved = np.empty(size, int)
    moved[drawn] = np.roll(drawn, 1)
    return moved


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
    total = result(a.o + b.o, need_state(a) + need_state(b))
    return agree(Pair(total, whole, problem, "the call with the sum"), case)
