"""What wrong gradients look like: the adjoint with one stage altered, compared with what the kernel gave."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from kda_spec import Problem, adjoint, trace
from properties.edits import TOKENS, with_
from properties.gradient_budgets import gradient_truth

Gradients = dict[str, np.ndarray]
Truth = dict[str, tuple[np.ndarray, np.ndarray]]  # gradient and budget


@dataclass(frozen=True)
class Upstream:
    """A problem with the cotangents of its output and of its final state."""

    problem: Problem
    do: np.ndarray
    dstate: np.ndarray

    @cached_property
    def gradients(self) -> Gradients:
        """The adjoint's."""
        return adjoint(self.problem, self.do, self.dstate)


@dataclass(frozen=True)
class Altered:
    """What it is, in words that follow "the spec with .." and precede "in its adjoint", and what it computes."""

    words: str
    compute: Callable[[Upstream], Gradients]


def explain_gradients(results: list[tuple[Upstream, Gradients, str]]) -> str | None:
    """The alterations, two at the most, that explain most results, given as (problem, gradients, dtype).

    They explain every wrong gradient of the first result; None where it has none or nothing does.
    """
    judged = [
        (got, gradient_truth(up.problem, up.do, up.dstate, dtype, conditioned=True)) for up, got, dtype in results
    ]
    right = {name: want for name, (want, _) in judged[0][1].items()}
    wrong = {name: far for name, far in _misfits(*judged[0], right).items() if far > 1.0}
    if not wrong:
        return None
    counts: dict[str, int] = {}
    for altered in ALTERED:
        first, *others = (_misfits(*one, altered.compute(up)) for one, (up, _, _) in zip(judged, results, strict=True))
        # Merely inside the budget is not enough: it must fit far better than the truth does.
        if all(first[name] <= min(1.0, far / 3) for name, far in wrong.items()):
            counts[altered.words] = sum(all(misfits[name] <= 1.0 for name in wrong) for misfits in others)
    most = [words for words, count in counts.items() if count == max(counts.values())]
    return f"{' or '.join(most[:2])} in its adjoint ({', '.join(f'd{name}' for name in wrong)})" if most else None


def _misfits(got: Gradients, truth: Truth, gradients: Gradients) -> dict[str, float]:
    """Worst distance of each gradient from the one given, over its budget (or a hundredth of what is altered)."""
    misfits = {}
    for name, x in got.items():
        want, room = truth[name]
        far = np.abs(x - gradients[name]) / (room + np.abs(gradients[name] - want) / 100)
        misfits[name] = float(np.max(np.nan_to_num(far, nan=np.inf), initial=0.0))
    return misfits


def _each(change: Callable[[Upstream, str, np.ndarray], np.ndarray]) -> Callable[[Upstream], Gradients]:
    """Every gradient changed on its own."""
    return lambda up: {name: change(up, name, x) for name, x in up.gradients.items()}


def _with(**changes: Callable[[Upstream], np.ndarray]) -> Callable[[Upstream], Gradients]:
    """The adjoint of other cotangents."""
    return lambda up: replace(up, **{name: change(up) for name, change in changes.items()}).gradients


def _at(name: str, change: Callable[[Upstream, np.ndarray], np.ndarray]) -> Callable[[Upstream], Gradients]:
    """One gradient changed, the others as they are."""
    return _each(lambda up, which, x: change(up, x) if which == name else x)


def _in_segments(up: Upstream, length: int) -> Gradients:
    """Every `length` tokens on their own, with the true state before them and no cotangent from behind them."""
    p, whole = up.problem, {name: np.zeros(np.shape(getattr(up.problem, name))) for name in TOKENS}
    first = np.array(up.dstate, np.float64)  # an empty sequence passes it through
    for n, (row, start, stop) in enumerate(p.bounds()):
        S = np.zeros(first.shape[1:]) if p.initial_state is None else p.initial_state[n]
        for a in range(start, stop, length):
            at = (slice(row, row + 1), slice(a, min(a + length, stop)))
            tokens = {name: getattr(p, name)[at] for name in TOKENS}
            piece = with_(p, **tokens, cu_seqlens=None, initial_state=S[None])
            gradients = adjoint(piece, up.do[at], up.dstate[n : n + 1] if a + length >= stop else None)
            for name in TOKENS:
                whole[name][at] = gradients[name]
            first[n] = gradients["initial_state"][0] if a == start else first[n]
            S = trace(piece).final_state[0]
    return whole | {"initial_state": first}


def _of_heads(up: Upstream, some: slice) -> Gradients:
    """Of the value heads that read a query and key head, only the share of some."""
    p = up.problem
    group = p.HV // p.H
    wide = with_(p, q=np.repeat(p.q, group, axis=2), k=np.repeat(p.k, group, axis=2))
    each = replace(up, problem=wide).gradients
    shares = {name: each[name].reshape(p.B, p.T, p.H, group, p.K)[:, :, :, some].sum(axis=3) for name in ("q", "k")}
    return up.gradients | shares


def _turned(up: Upstream) -> np.ndarray:
    """The cotangent of o, whose heads lie before its tokens in memory, read as if they lay behind."""
    return np.ascontiguousarray(up.do.swapaxes(1, 2)).reshape(up.do.shape)


def _without_last(up: Upstream) -> np.ndarray:
    do = up.do.copy()
    for row, start, stop in up.problem.bounds():
        do[row, max(start, stop - 1) : stop] = 0.0
    return do


def _without_empty(up: Upstream, x: np.ndarray) -> np.ndarray:
    return x * np.reshape([float(stop > start) for _, start, stop in up.problem.bounds()], (-1, 1, 1, 1))


ALTERED: tuple[Altered, ...] = (
    Altered("zeros", _each(lambda up, name, x: 0 * x)),
    Altered("the state's cotangent left out", _with(dstate=lambda up: 0 * up.dstate)),
    Altered("the output's cotangent left out", _with(do=lambda up: 0 * up.do)),
    Altered("the state's cotangent added twice", _with(dstate=lambda up: 2 * up.dstate)),
    Altered("the output's cotangent without the scale", _with(do=lambda up: up.do / up.problem.scale_value)),
    Altered("the output's cotangent scaled twice", _with(do=lambda up: up.do * up.problem.scale_value)),
    Altered("the output's cotangent read with another stride", _with(do=_turned)),
    Altered("the last token's cotangent left out", _with(do=_without_last)),
    Altered("the state's cotangent of the sequence before", _with(dstate=lambda up: np.roll(up.dstate, 1, axis=0))),
    *(
        Altered(f"the state's gradient not carried across chunks of {length}", lambda up, n=length: _in_segments(up, n))
        for length in (16, 32, 64, 128, 256, 512)
    ),
    Altered("the first value head's share alone", lambda up: _of_heads(up, slice(0, 1))),
    Altered("the last value head's share left out", lambda up: _of_heads(up, slice(0, -1))),
    Altered("the wrong sign", _each(lambda up, name, x: -x)),
    Altered("all doubled", _each(lambda up, name, x: 2 * x)),
    Altered("all halved", _each(lambda up, name, x: x / 2)),
    Altered("a factor ln 2 too many", _at("g", lambda up, x: x * np.log(2.0))),
    Altered("a factor ln 2 too few", _at("g", lambda up, x: x / np.log(2.0))),
    Altered("nothing where the gate is 0", _at("g", lambda up, x: x * (up.problem.g != 0))),
    Altered("half where the gate is 0", _at("g", lambda up, x: x * np.where(up.problem.g == 0, 0.5, 1.0))),
    Altered("nothing where beta is 0", _at("beta", lambda up, x: x * (up.problem.beta != 0))),
    Altered("nothing for sequences without tokens", _at("initial_state", _without_empty)),
)
