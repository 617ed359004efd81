"""What a wrong output looks like: the specification with one stage altered, compared with what the kernel gave."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from kda_spec import Problem, decay, erase, l2norm, read, sigmoid_beta, trace, write
from properties.budgets import OUTPUT, ROUNDING, output_budget, state_budget
from properties.calls import Output
from properties.edits import with_
from properties.numbers import round_to

# The state before a token, its tensors, the state decayed: (S, k, v, alpha, beta) -> S'
Step = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Altered:
    """One altered specification: what it is, in words that follow "the spec with ..", and what it computes."""

    words: str
    compute: Callable[[Problem], tuple[np.ndarray, np.ndarray]]


def explain(outputs: list[tuple[Problem, Output, str]]) -> str | None:
    """The alteration that explains most of the results, given as (problem, result, dtype); the first must be explained.

    Returns None where the specification itself explains the first result, or where nothing does.
    """
    counts: dict[str, int] = {}
    wrong = _misfit(lambda p: (trace(p).o, trace(p).final_state), *outputs[0])
    if wrong <= 1.0:
        return None
    for altered in ALTERED:
        # Merely inside the budget is not enough: it must fit far better than the truth does.
        if _misfit(altered.compute, *outputs[0]) <= min(1.0, wrong / 3):
            counts[altered.words] = sum(_misfit(altered.compute, *one) <= 1.0 for one in outputs)
    most = [words for words, count in counts.items() if count == max(counts.values())]
    return " or ".join(most[:2]) if most else None


def explain_after(earlier: Problem, problem: Problem, output: Output, dtype: str) -> str | None:
    """What a result holds of the call before it, of the problem `earlier`; None where it is right or nothing fits."""
    wrong = _misfit(run, problem, output, dtype)
    fits = [a.words for a in _left_behind(earlier) if _misfit(a.compute, problem, output, dtype) <= min(1.0, wrong / 3)]
    return " or ".join(fits[:2]) if wrong > 1.0 and fits else None


def _left_behind(earlier: Problem) -> list[Altered]:
    """Specifications in which something of an earlier call is in use still."""
    o, state = run(earlier)
    names = ("q", "k", "v", "g", "beta", "cu_seqlens", "initial_state")
    left = {name: x for name in names if (x := getattr(earlier, name)) is not None}
    return [
        *(Altered(f"{name} of the call before", partial(_with_left, {name: x})) for name, x in left.items()),
        Altered("the scale of the call before", lambda p: run(_unchecked(p, scale=earlier.scale_value))),
        Altered("the state that the call before left", partial(_with_left, {"initial_state": state})),
        Altered("the result of the call before in place of its own", lambda p: (o, state)),
        Altered("the result of the call before added to its own", lambda p: (run(p)[0] + o, run(p)[1])),
        Altered("both results of the call before added to its own", lambda p: (run(p)[0] + o, run(p)[1] + state)),
    ]


def _with_left(left: dict[str, np.ndarray], p: Problem) -> tuple[np.ndarray, np.ndarray]:
    """The recurrence with tensors of another call. Raises ValueError where they do not fit."""
    for name, x in left.items():
        own = getattr(p, name) if name != "initial_state" else np.zeros((p.N, p.HV, p.K, p.V))
        if own is None or own.shape != x.shape or (name == "cu_seqlens" and x[-1] != p.T):
            raise ValueError(f"{name} of another shape")
    return run(_unchecked(p, **left))


def _misfit(compute: Any, problem: Problem, output: Output, dtype: str) -> float:
    """Worst distance of output and final state, over the budget (that of the larger of truth and alteration)."""
    try:
        o, state = compute(problem)
    except (ValueError, FloatingPointError):
        return float("inf")
    if o.shape != output.o.shape or (output.final_state is not None and state.shape != output.final_state.shape):
        return float("inf")
    truth, unit = trace(problem), OUTPUT[dtype] * ROUNDING[dtype]
    largest = np.max(np.abs(o), axis=-1, initial=0.0)
    far = [np.abs(output.o - o) / (output_budget(problem, truth, dtype) + unit * largest)[..., None]]
    if output.final_state is not None:
        room = state_budget(problem, truth, dtype) + unit * np.max(
            np.abs(state), axis=(-2, -1), keepdims=True, initial=0
        )
        far.append(np.abs(output.final_state - state) / room)
    return max(float(np.max(np.nan_to_num(x, nan=np.inf), initial=0.0)) for x in far)


def run(
    problem: Problem,
    step: Step | None = None,
    *,
    reads: str = "after",
    alpha: np.ndarray | None = None,
    chunk: int = 0,
    joined: bool = False,
    rounding: str = "float64",
) -> tuple[np.ndarray, np.ndarray]:
    """The recurrence with a stage replaced.

    Args:
        problem: the inputs.
        step: (S, k, v, alpha, beta) -> S' in place of decay, erase, write.
        reads: "after" the write, "before" the token, or "decayed": after the decay only.
        alpha: decay factors in place of exp(g).
        chunk: tokens after which the state is lost; 0 for never.
        joined: whether a packed sequence goes on from the state of the one before it.
        rounding: dtype in which the state is kept between tokens.
    """
    step, group = step or _standard, problem.HV // problem.H
    problem = _unchecked(problem, q=np.repeat(problem.q, group, axis=2), k=np.repeat(problem.k, group, axis=2))
    alpha = np.exp(problem.g) if alpha is None else alpha
    o, states = np.zeros((problem.B, problem.T, problem.HV, problem.V)), []
    S = np.zeros((problem.HV, problem.K, problem.V))
    for n, (row, start, stop) in enumerate(problem.bounds()):
        if not joined or n == 0:
            S = np.zeros_like(S) if problem.initial_state is None else np.array(problem.initial_state[n])
        for t in range(start, stop):
            if chunk and (t - start) % chunk == 0 and t > start:
                S = np.zeros_like(S)
            before, at = S, (row, t)
            S = step(S, problem.k[at], problem.v[at], alpha[at], problem.beta[at])
            S = S if rounding == "float64" else round_to(S, rounding)
            seen = {"after": S, "before": before, "decayed": decay(before, alpha[at])}[reads]
            o[at] = read(seen, problem.q[at], problem.scale_value)
        states.append(S)
    return o, np.stack(states) if states else np.zeros((0, *S.shape))


def _standard(S: np.ndarray, k: np.ndarray, v: np.ndarray, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    return write(erase(decay(S, alpha), k, beta), k, v, beta)


def _by(**changes: Callable[[Problem], Any]) -> Callable[[Problem], tuple[np.ndarray, np.ndarray]]:
    """The recurrence of a problem some of whose tensors are changed."""
    return lambda p: run(_unchecked(p, **{name: change(p) for name, change in changes.items()}))


def _unchecked(problem: Problem, **changes: Any) -> Problem:
    """A problem that may leave the contract's ranges, as wrong kernels do."""
    altered = object.__new__(Problem)
    for name in Problem.__dataclass_fields__:
        object.__setattr__(altered, name, changes.get(name, getattr(problem, name)))
    return altered


def _decayed_by(alpha: Callable[[Problem], np.ndarray]) -> Callable[[Problem], tuple[np.ndarray, np.ndarray]]:
    return lambda p: run(p, alpha=np.minimum(alpha(p), 1e30))


def _shifted(p: Problem, by: int) -> np.ndarray:
    """Each token's gate from `by` tokens before it in its sequence; no decay where there is none."""
    g = np.zeros_like(p.g)
    for row, start, stop in p.bounds():
        some = p.g[row, start:stop]
        if by > 0:
            g[row, start + by : stop] = some[:-by]
        else:
            g[row, start : stop + by] = some[-by:]
    return np.exp(g)


def _other_heads(index: Callable[[np.ndarray, int, int], np.ndarray]) -> Callable[[Problem], Any]:
    def compute(p: Problem) -> tuple[np.ndarray, np.ndarray]:
        heads = index(np.arange(p.HV), p.H, p.HV // p.H)
        return run(_unchecked(p, q=p.q[:, :, heads], k=p.k[:, :, heads]))

    return compute


def _transposed(p: Problem) -> tuple[np.ndarray, np.ndarray]:
    """The state's memory read and written as [V, K]."""
    turn = lambda x, *shape: np.swapaxes(x.reshape(*x.shape[:2], *shape), -1, -2)  # noqa: E731
    state = None if p.initial_state is None else turn(p.initial_state, p.V, p.K)
    o, S = run(with_(p, initial_state=state))
    return o, np.swapaxes(S, -1, -2).reshape(S.shape)


def _without_last(p: Problem) -> tuple[np.ndarray, np.ndarray]:
    beta, alpha, (o, _) = p.beta.copy(), np.exp(p.g), run(p)
    for row, start, stop in p.bounds():
        if stop > start:
            o[row, stop - 1], beta[row, stop - 1], alpha[row, stop - 1] = 0.0, 0.0, 1.0
    return o, run(with_(p, beta=beta), alpha=alpha)[1]


def _late_decay(S: np.ndarray, k: np.ndarray, v: np.ndarray, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    return decay(write(erase(S, k, beta), k, v, beta), alpha)


def _undecayed(S: np.ndarray, k: np.ndarray, v: np.ndarray, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    return decay(S, alpha) + erase(S, k, beta) - S + write(np.zeros_like(S), k, v, beta)


def _step(words: str, step: Step) -> Altered:
    return Altered(words, partial(run, step=step))


def _scaled(words: str, scale: Callable[[Problem], float]) -> Altered:
    return Altered(words, _by(scale=scale))


ALTERED: tuple[Altered, ...] = (
    Altered("no decay", _decayed_by(lambda p: np.ones_like(p.g))),
    _step("no erase", lambda S, k, v, a, b: write(decay(S, a), k, v, b)),
    _step("no write", lambda S, k, v, a, b: erase(decay(S, a), k, b)),
    _step("the decay applied after the erase", lambda S, k, v, a, b: write(decay(erase(S, k, b), a), k, v, b)),
    _step("the decay applied after the write", _late_decay),
    _step("the erase read from the state before its decay", _undecayed),
    _step("the erase after the write", lambda S, k, v, a, b: erase(write(decay(S, a), k, v, b), k, b)),
    _step("the erase without beta", lambda S, k, v, a, b: write(erase(decay(S, a), k, 1.0), k, v, b)),
    _step("the write without beta", lambda S, k, v, a, b: write(erase(decay(S, a), k, b), k, v, 1.0)),
    _step("beta twice in the write", lambda S, k, v, a, b: write(erase(decay(S, a), k, b), k, v, b * b)),
    _step("beta twice in the erase", lambda S, k, v, a, b: write(erase(decay(S, a), k, b * b), k, v, b)),
    _step("the write added with the wrong sign", lambda S, k, v, a, b: write(erase(decay(S, a), k, b), k, -v, b)),
    Altered("beta squared", _by(beta=lambda p: p.beta**2)),
    Altered("no beta", _by(beta=lambda p: np.ones_like(p.beta))),
    Altered("beta clipped at 1", _by(beta=lambda p: np.minimum(p.beta, 1.0))),
    Altered("beta doubled", _by(beta=lambda p: 2 * p.beta)),
    Altered("a sigmoid on beta inside", _by(beta=lambda p: sigmoid_beta(p.beta))),
    Altered("the read before the write", partial(run, reads="decayed")),
    Altered("the read before the token", partial(run, reads="before")),
    Altered("one decay for all channels, their mean", _decayed_by(lambda p: _mean(np.exp(p.g)))),
    Altered("one decay for all channels, exp of the mean gate", _decayed_by(lambda p: np.exp(_mean(p.g)))),
    Altered("the first channel's decay for all", _decayed_by(lambda p: np.exp(p.g[..., :1] + 0 * p.g))),
    Altered("the previous token's gate", _decayed_by(lambda p: _shifted(p, 1))),
    Altered("the next token's gate", _decayed_by(lambda p: _shifted(p, -1))),
    Altered("2^g in place of e^g", _decayed_by(lambda p: np.exp2(p.g))),
    Altered("e^(g log2 e) in place of e^g", _decayed_by(lambda p: np.exp(p.g / np.log(2.0)))),
    Altered("g itself as the decay factor", _decayed_by(lambda p: p.g)),
    Altered("1 + g as the decay factor", _decayed_by(lambda p: 1.0 + p.g)),
    Altered("e^-g in place of e^g", _decayed_by(lambda p: np.exp(np.minimum(-p.g, 60.0)))),
    Altered("the decay applied twice", _decayed_by(lambda p: np.exp(2 * p.g))),
    Altered("gates clamped at -5", _decayed_by(lambda p: np.exp(np.maximum(p.g, -5.0)))),
    Altered("value head hv reading key head hv % H", _other_heads(lambda hv, H, group: hv % H)),
    Altered("every value head reading key head 0", _other_heads(lambda hv, H, group: 0 * hv)),
    _scaled("no scale", lambda p: 1.0),
    _scaled("the scale applied twice", lambda p: p.scale_value**2),
    _scaled("the default scale whatever was given", lambda p: p.K**-0.5),
    _scaled("the scale 1 / K", lambda p: 1.0 / p.K),
    _scaled("the scale V^-1/2", lambda p: p.V**-0.5),
    Altered("the initial state ignored", _by(initial_state=lambda p: None)),
    Altered(
        "the first sequence's initial state for all",
        _by(initial_state=lambda p: None if p.initial_state is None else p.initial_state[:1] + 0 * p.initial_state),
    ),
    Altered("the state transposed", _transposed),
    *(
        Altered(f"the state not carried across chunks of {chunk}", partial(run, chunk=chunk))
        for chunk in (16, 32, 64, 128)
    ),
    Altered("packed boundaries ignored", partial(run, joined=True)),
    Altered("the last token dropped", _without_last),
    Altered("q and k normalised inside", _by(q=lambda p: l2norm(p.q), k=lambda p: l2norm(p.k))),
    Altered("k normalised inside", _by(k=lambda p: l2norm(p.k))),
    Altered("q normalised inside", _by(q=lambda p: l2norm(p.q))),
    Altered("the state kept in bfloat16", partial(run, rounding="bfloat16")),
    Altered("the state kept in float16", partial(run, rounding="float16")),
    Altered("zeros for everything", lambda p: tuple(0 * x for x in run(p))),  # type: ignore[arg-type, return-value]
)


def _mean(x: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x.mean(axis=-1, keepdims=True), x.shape)
