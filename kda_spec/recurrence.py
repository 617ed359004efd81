"""The recurrence over tokens, heads, batches and packed sequences, and what error budgets need of it."""

import itertools
from dataclasses import dataclass

import numpy as np

from kda_spec.equation import decay, read, step
from kda_spec.problem import Problem, Solution


def recurrence(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    g: np.ndarray | None,
    beta: np.ndarray,
    *,
    scale: float | None = None,
    initial_state: np.ndarray | None = None,
    cu_seqlens: np.ndarray | None = None,
    alpha: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Run the equation over every token, in the arithmetic of the arrays given.

    S_t = (I - beta_t k_t k_t^T) Diag(exp g_t) S_(t-1) + beta_t k_t v_t^T,  o_t = scale S_t^T q_t

    Args:
        q: [B, T, H, K].
        k: [B, T, H, K].
        v: [B, T, HV, V].
        g: natural-log decay [B, T, HV, K], or None where `alpha` is given.
        beta: [B, T, HV].
        scale: default K ** -0.5.
        initial_state: [N, HV, K, V]; zeros by default.
        cu_seqlens: [N + 1] with B = 1.
        alpha: exp(g) itself, for exact arithmetic.

    Returns:
        o [B, T, HV, V] and the final states [N, HV, K, V].

    >>> one = np.ones((1, 2, 1, 1))
    >>> o, S = recurrence(one, one, 3 * one, 0 * one, np.ones((1, 2, 1)))
    >>> o.ravel(), S.ravel()
    (array([3., 3.]), array([3.]))
    """
    alpha = decay_factors(g, alpha)
    (B, T, HV, V), H, K = v.shape, q.shape[2], q.shape[3]
    q, k = np.repeat(q, HV // H, axis=2), np.repeat(k, HV // H, axis=2)
    ends = [] if cu_seqlens is None else [int(x) for x in cu_seqlens]
    bounds = (
        [(b, 0, T) for b in range(B)]
        if cu_seqlens is None
        else [(0, start, stop) for start, stop in itertools.pairwise(ends)]
    )
    factor = float(K) ** -0.5 if scale is None else scale
    o, states = np.zeros_like(v), []
    for n, (b, start, stop) in enumerate(bounds):
        S = np.zeros((HV, K, V), v.dtype) if initial_state is None else initial_state[n]
        for t in range(start, stop):
            S = step(S, k[b, t], v[b, t], alpha[b, t], beta[b, t])
            o[b, t] = read(S, q[b, t], factor)
        states.append(S)
    return o, np.stack(states) if states else np.zeros((0, HV, K, V), v.dtype)


def decay_factors(g: np.ndarray | None, alpha: np.ndarray | None) -> np.ndarray:
    """Alpha as given, or exp(g); exactly one of the two must be given, or ValueError."""
    if alpha is not None and g is None:
        return alpha
    if g is not None and alpha is None:
        return np.exp(g)
    raise ValueError("alpha: expected either g or alpha, not both or neither")


@dataclass(frozen=True, eq=False)
class Trace:
    """A solution and the sizes its rounding errors scale with.

    `mass_norm` [B, T, HV] is the largest column norm of the written mass W, the size the state would have if nothing
    ever cancelled: W_t^2 = alpha^2 W_(t-1)^2 + (beta k (v - S~^T k))^2 elementwise, W_0 = |S_0|, S~ the decayed state.
    `read_norm` is the largest column norm of S itself, `q_norm` [B, T, HV] that of the query, `final_mass`
    [N, HV, K, V] is W after the last token.
    """

    o: np.ndarray
    final_state: np.ndarray
    read_norm: np.ndarray
    mass_norm: np.ndarray
    q_norm: np.ndarray
    final_mass: np.ndarray


def solve(problem: Problem) -> Solution:
    """The float64 solution of a problem: o [B, T, HV, V] and final states [N, HV, K, V]."""
    result = trace(problem)
    return Solution(result.o, result.final_state)


def trace(problem: Problem) -> Trace:
    """Solve in float64, all sequences and heads side by side, and keep the sizes of `Trace`."""
    group, (N, L) = problem.HV // problem.H, (problem.N, max(problem.lengths, default=0))
    q, k, v, g, beta = (
        _padded(np.asarray(x, np.float64), problem, L)
        for x in (problem.q, problem.k, problem.v, problem.g, problem.beta)
    )
    q, k, alpha = np.repeat(q, group, axis=2), np.repeat(k, group, axis=2), np.exp(g)
    shape = (N, problem.HV, problem.K, problem.V)
    S = np.zeros(shape) if problem.initial_state is None else np.array(problem.initial_state, np.float64)
    square = S * S
    o = np.zeros((N, L, problem.HV, problem.V))
    read_norm, mass_norm = np.zeros((N, L, problem.HV)), np.zeros((N, L, problem.HV))
    for t in range(L):
        S, square = decay(S, alpha[:, t]), decay(square, alpha[:, t] ** 2)
        key = k[:, t]
        residual = v[:, t] - (key[..., None, :] @ S)[..., 0, :]
        put = (beta[:, t, :, None] * key)[..., :, None] * residual[..., None, :]
        S, square = S + put, square + put * put
        o[:, t] = read(S, q[:, t], problem.scale_value)
        read_norm[:, t] = np.sqrt((S * S).sum(axis=-2).max(axis=-1, initial=0.0))
        mass_norm[:, t] = np.sqrt(square.sum(axis=-2).max(axis=-1, initial=0.0))
    back = [_unpadded(x, problem) for x in (o, read_norm, mass_norm, np.linalg.norm(q, axis=-1))]
    return Trace(back[0], S, back[1], back[2], back[3], np.sqrt(square))


def _padded(x: np.ndarray, problem: Problem, L: int) -> np.ndarray:
    """[B, T, ...] to [N, L, ...]; the padding is zero: no decay, nothing written."""
    if problem.cu_seqlens is None:
        return x
    out = np.zeros((problem.N, L, *x.shape[2:]))
    for n, (b, start, stop) in enumerate(problem.bounds()):
        out[n, : stop - start] = x[b, start:stop]
    return out


def _unpadded(x: np.ndarray, problem: Problem) -> np.ndarray:
    if problem.cu_seqlens is None:
        return x
    out = np.zeros((1, problem.T, *x.shape[2:]))
    for n, (b, start, stop) in enumerate(problem.bounds()):
        out[b, start:stop] = x[n, : stop - start]
    return out
