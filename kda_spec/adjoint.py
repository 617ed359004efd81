"""Gradients of the recurrence by its adjoint, run from the last token to the first."""

import numpy as np

from kda_spec.problem import Problem


def adjoint(problem: Problem, do: np.ndarray, dfinal_state: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Gradients of <do, o> + <dfinal_state, S_T> in float64.

    With S~ = Diag(alpha) S_(t-1), r = v - S~^T k, S = S~ + beta k r^T and o = scale S^T q, and G the cotangent of S
    joined by scale q do^T, going backwards:

        dq = scale S do          dv = beta G^T k          dbeta = k^T G r
        dk = beta (G r - S~ G^T k)        G~ = G - beta k (G^T k)^T
        dg = alpha sum_v G~ S_(t-1)       G <- Diag(alpha) G~

    Args:
        problem: the inputs.
        do: cotangent of o, [B, T, HV, V].
        dfinal_state: cotangent of the final states, [N, HV, K, V], or None.

    Returns:
        Gradients named q, k, v, g, beta and initial_state, each in its input's shape; those of q and k are summed over
        the value heads that read them. That of a missing initial state is the one zeros would have.
    """
    group, H, HV = problem.HV // problem.H, problem.H, problem.HV
    grads = {name: np.zeros(np.shape(getattr(problem, name))) for name in ("v", "g", "beta")}
    wide = (problem.B, problem.T, HV, problem.K)
    dq, dk = np.zeros(wide), np.zeros(wide)
    first = np.zeros((problem.N, HV, problem.K, problem.V))
    for n, (b, start, stop) in enumerate(problem.bounds()):
        span = slice(start, stop)
        q, k = (np.repeat(np.asarray(x[b, span], np.float64), group, axis=1) for x in (problem.q, problem.k))
        v, beta = np.asarray(problem.v[b, span], np.float64), np.asarray(problem.beta[b, span], np.float64)[..., None]
        alpha = np.exp(np.asarray(problem.g[b, span], np.float64))
        before = _states(problem, n, k, v, alpha, beta)
        G = np.zeros_like(first[n]) if dfinal_state is None else np.array(dfinal_state[n], np.float64)
        for i in range(stop - start - 1, -1, -1):
            t, S = start + i, alpha[i][..., None] * before[i]
            key, d = k[i], np.asarray(do[b, t], np.float64)
            r = v[i] - _along(S, key)
            dq[b, t] = problem.scale_value * ((S + (beta[i] * key)[..., None] * r[:, None, :]) @ d[..., None])[..., 0]
            G = G + problem.scale_value * q[i][..., None] * d[:, None, :]
            gk = _along(G, key)
            grads["v"][b, t] = beta[i] * gk
            grads["beta"][b, t] = np.sum(gk * r, axis=-1)
            dk[b, t] = beta[i] * ((G @ r[..., None]) - (S @ gk[..., None]))[..., 0]
            G = G - (beta[i] * key)[..., None] * gk[:, None, :]
            grads["g"][b, t] = np.sum(G * S, axis=-1)
            G = alpha[i][..., None] * G
        first[n] = G
    narrow = (problem.B, problem.T, H, group, problem.K)
    return {"q": dq.reshape(narrow).sum(axis=3), "k": dk.reshape(narrow).sum(axis=3), **grads, "initial_state": first}


def _along(S: np.ndarray, k: np.ndarray) -> np.ndarray:
    """S^T k per head, [HV, V]."""
    return (k[:, None, :] @ S)[:, 0]


def _states(
    problem: Problem, n: int, k: np.ndarray, v: np.ndarray, alpha: np.ndarray, beta: np.ndarray
) -> list[np.ndarray]:
    """The state before every token of one sequence."""
    shape = (problem.HV, problem.K, problem.V)
    S = np.zeros(shape) if problem.initial_state is None else np.array(problem.initial_state[n], np.float64)
    states = []
    for t in range(len(k)):
        states.append(S)
        S = alpha[t][..., None] * S
        S = S + (beta[t] * k[t])[..., None] * (v[t] - _along(S, k[t]))[:, None, :]
    return states
