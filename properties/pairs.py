"""Pairs of calls that should give the same: one law asks for their budgets, another for their bits."""

import numpy as np

from properties.calls import Kernel, problem_of
from properties.case import Case
from properties.compare import Pair, result
from properties.edits import alone, insert_empty, packed, rotate_heads, window, window_rows, with_


def with_packing(case: Case) -> Case:
    """A case of packed sequences: its own, or three made from its length."""
    return case if case.packed else case.but(packed=(case.T, (case.T * 3 + 1) % 7, case.T // 2 + 1), B=1)


def dense_and_packed(kernel: Kernel, case: Case) -> Pair:
    """A dense batch, and the same rows packed."""
    problem = problem_of(case)
    dense, flat = kernel(case), kernel(case, packed(problem))
    return Pair(result(flat.o.reshape(dense.o.shape), flat.final_state), dense, problem, "the dense batch")


def row_alone(kernel: Kernel, case: Case) -> Pair:
    """One row of a batch, and the same row alone."""
    problem = problem_of(case)
    n = case.at % problem.N
    whole, part = kernel(case), kernel(case, alone(problem, n))
    state = None if whole.final_state is None else whole.final_state[n : n + 1]
    return Pair(part, result(whole.o[n : n + 1], state), alone(problem, n), "the row in its batch")


def with_empty_sequence(kernel: Kernel, case: Case) -> tuple[Pair, np.ndarray | None]:
    """Packed sequences with and without an empty one among them, and the empty one's final state."""
    problem = problem_of(case)
    n = case.at % (problem.N + 1)
    without, got = kernel(case), kernel(case, insert_empty(problem, n))
    if got.final_state is None:
        return Pair(got, without, problem, "the call without the empty sequence"), None
    others = result(got.o, np.delete(got.final_state, n, axis=0))
    return Pair(others, without, problem, "the call without the empty sequence"), got.final_state[n]


def moved_heads(kernel: Kernel, case: Case) -> Pair:
    """The heads moved on by one and the results moved back."""
    problem = problem_of(case)
    group = problem.HV // problem.H
    first, moved = kernel(case), kernel(case, rotate_heads(problem))
    state = None if moved.final_state is None else np.roll(moved.final_state, -group, axis=1)
    return Pair(result(np.roll(moved.o, -group, axis=2), state), first, problem, "the result before heads were moved")


def strided_and_contiguous(kernel: Kernel, case: Case) -> Pair:
    """Views of larger buffers, and the same numbers one behind the other."""
    layout = case.layout
    if layout == "contiguous":
        layout = "sliced" if len(case.lengths) > 1 else "strided"
    contiguous = kernel(case, layout="contiguous")
    return Pair(kernel(case, layout=layout), contiguous, problem_of(case), "the result for contiguous inputs")


def expanded_and_copied(kernel: Kernel, case: Case) -> Pair:
    """One input stored once with stride 0, and written out."""
    problem = problem_of(case)
    name = ("g", "beta", "v", "q", "initial_state")[case.at % 5]
    name = "g" if getattr(problem, name) is None else name
    x = getattr(problem, name)
    axis = {"g": 3, "beta": 2, "v": 1, "q": 1, "initial_state": 0}[name]
    same = with_(problem, **{name: np.repeat(x.take([0], axis=axis), x.shape[axis], axis=axis)}) if x.size else problem
    got = kernel(case, same, layouts={name: "expanded"})
    return Pair(got, kernel(case, same), same, f"the result for a copy of {name}")


def prefix(kernel: Kernel, case: Case) -> Pair:
    """A shorter call, and the beginning of the longer one."""
    problem = problem_of(case)
    at = 1 + case.at % max(max(problem.lengths, default=1), 1)
    short = window(problem, 0, at)
    beginning = kernel(case).o[:, window_rows(problem, 0, at)]
    return Pair(result(kernel(case, short).o), result(beginning), short, "the beginning of the longer call")
