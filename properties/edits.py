"""Problems made from other problems: cut, taken apart, put together, scaled. Laws relate a kernel's answers to them."""

from dataclasses import replace
from typing import Any

import numpy as np

from kda_spec import Problem

TOKENS = ("q", "k", "v", "g", "beta")


def with_(problem: Problem, **changes: Any) -> Problem:
    """A copy with some fields changed, checked again like any problem."""
    return replace(problem, **changes)


def tokens(problem: Problem, cut: Any) -> dict[str, np.ndarray]:
    """The five token tensors after `cut` was applied to each."""
    return {name: cut(getattr(problem, name)) for name in TOKENS}


def packed(problem: Problem) -> Problem:
    """The same sequences packed one behind the other."""
    if problem.cu_seqlens is not None:
        return problem
    flat = tokens(problem, lambda x: x.reshape(1, problem.B * problem.T, *x.shape[2:]))
    return with_(problem, **flat, cu_seqlens=np.arange(problem.B + 1) * problem.T)


def alone(problem: Problem, n: int) -> Problem:
    """Sequence n as a dense problem of its own."""
    row, start, stop = problem.bounds()[n]
    state = None if problem.initial_state is None else problem.initial_state[n : n + 1]
    part = tokens(problem, lambda x: x[row : row + 1, start:stop])
    return with_(problem, **part, initial_state=state, cu_seqlens=None)


def window(problem: Problem, first: int, last: int | None = None) -> Problem:
    """Tokens first..last of every sequence (positions beyond a sequence's end give it nothing)."""
    if problem.cu_seqlens is None:
        return with_(problem, **tokens(problem, lambda x: x[:, first:last]))
    return _repacked(problem, [np.arange(start, stop)[first:last] for _, start, stop in problem.bounds()])


def window_rows(problem: Problem, first: int, last: int | None = None) -> np.ndarray:
    """The token axis of o that `window` keeps."""
    if problem.cu_seqlens is None:
        return np.arange(problem.T)[first:last]
    parts = [np.arange(start, stop)[first:last] for _, start, stop in problem.bounds()]
    return np.concatenate(parts) if parts else np.arange(0)


def with_state(problem: Problem, state: np.ndarray | None) -> Problem:
    """The same tokens from another state."""
    return with_(problem, initial_state=None if state is None else np.asarray(state, np.float64))


def insert_empty(problem: Problem, n: int) -> Problem:
    """A sequence of no token put before sequence n; its state, where there are states, is all 7."""
    assert problem.cu_seqlens is not None
    cu_seqlens = np.insert(problem.cu_seqlens, n, problem.cu_seqlens[n])
    state = problem.initial_state
    return with_(
        problem, cu_seqlens=cu_seqlens, initial_state=None if state is None else np.insert(state, n, 7.0, axis=0)
    )


def insert_neutral(problem: Problem, at: int) -> tuple[Problem, np.ndarray]:
    """A token with g = 0 and beta = 0 put before token `at` of a dense problem, and the rows the others keep."""
    at = min(at, problem.T)
    q, k, v, g, beta = (np.insert(getattr(problem, name), at, 0.5, axis=1) for name in TOKENS)
    g[:, at], beta[:, at] = 0.0, 0.0
    rows = np.delete(np.arange(problem.T + 1), at)
    return with_(problem, q=q, k=k, v=v, g=g, beta=beta), rows


def change_from(problem: Problem, at: int) -> Problem:
    """Every token from position `at` of every sequence on replaced by others, with the strongest legal change."""
    parts = {name: getattr(problem, name).copy() for name in TOKENS}
    for row, start, stop in problem.bounds():
        later = slice(min(start + at, stop), stop)
        for name in ("q", "k", "v"):
            parts[name][row, later] = -parts[name][row, later][..., ::-1]
        old = parts["g"][row, later]
        parts["g"][row, later] = np.where(old < -0.7, 0.0, -5.0)
    return with_(problem, **parts)


def repeat_heads(problem: Problem) -> Problem:
    """Grouped value heads written out: every value head gets its own copy of q and k."""
    group = problem.HV // problem.H
    return with_(problem, q=np.repeat(problem.q, group, axis=2), k=np.repeat(problem.k, group, axis=2))


def rotate_heads(problem: Problem) -> Problem:
    """All heads moved on by one (value heads by one group)."""
    group = problem.HV // problem.H
    moved = {name: np.roll(getattr(problem, name), 1 if name in ("q", "k") else group, axis=2) for name in TOKENS}
    state = problem.initial_state
    return with_(problem, **moved, initial_state=None if state is None else np.roll(state, group, axis=1))


def _repacked(problem: Problem, parts: list[np.ndarray]) -> Problem:
    index = np.concatenate(parts) if parts else np.arange(0)
    cu_seqlens = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    return with_(problem, **tokens(problem, lambda x: x[:, index]), cu_seqlens=cu_seqlens)


def reordered(problem: Problem, order: np.ndarray) -> tuple[Problem, np.ndarray]:
    """Packed sequences in another order, and where each token of the new order came from."""
    bounds = problem.bounds()
    parts = [np.arange(bounds[n][1], bounds[n][2]) for n in order]
    state = problem.initial_state
    moved = with_state(_repacked(with_state(problem, None), parts), None if state is None else state[order])
    return moved, np.concatenate(parts)


def permute_values(problem: Problem, order: np.ndarray) -> Problem:
    """The value channels in another order."""
    state = problem.initial_state
    return with_(problem, v=problem.v[..., order], initial_state=None if state is None else state[..., order])


def permute_keys(problem: Problem, order: np.ndarray) -> Problem:
    """The key channels in another order, in q, k, g and the state's rows."""
    moved = {name: getattr(problem, name)[..., order] for name in ("q", "k", "g")}
    state = problem.initial_state
    return with_(problem, **moved, initial_state=None if state is None else state[..., order, :])
