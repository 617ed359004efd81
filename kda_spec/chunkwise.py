"""The chunkwise (WY) form: the same mathematics as the recurrence, a chunk of tokens at a time.

Inside a chunk with state S before it, Gamma_(i,j) the decay from behind token j to token i (a product of alphas, one
number per key channel) and Gamma_i the decay from the chunk's start to token i, the values actually written obey

    u_i = beta_i (v_i - S^T (Gamma_i k_i) - sum_(j<i) (k_i . Gamma_(i,j) k_j) u_j)

which is a unit lower triangular system, solved by forward substitution. Then

    o_i = scale (S^T (Gamma_i q_i) + sum_(j<=i) (q_i . Gamma_(i,j) k_j) u_j)
    S' = Gamma_C S + sum_j (Gamma_(C,j) k_j) u_j^T

Source: Kimi Linear (arXiv 2510.26692), section 3; Yang et al., gated delta networks (arXiv 2412.06464).
"""

import numpy as np

from kda_spec.recurrence import decay_factors


def chunkwise(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    g: np.ndarray | None,
    beta: np.ndarray,
    *,
    chunk: int = 64,
    scale: float | None = None,
    initial_state: np.ndarray | None = None,
    alpha: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The recurrence's result, computed chunk by chunk, in the arithmetic of the arrays given.

    Args:
        q: [B, T, H, K].
        k: [B, T, H, K].
        v: [B, T, HV, V].
        g: natural-log decay [B, T, HV, K], or None where `alpha` is given.
        beta: [B, T, HV].
        chunk: tokens in a chunk, at least 1.
        scale: default K ** -0.5.
        initial_state: [B, HV, K, V]; zeros by default.
        alpha: exp(g) itself, for exact arithmetic.

    Returns:
        o [B, T, HV, V] and the final states [B, HV, K, V].

    Raises:
        ValueError: where chunk is below 1.
    """
    if chunk < 1:
        raise ValueError(f"chunk: expected at least 1; got {chunk}")
    alpha = decay_factors(g, alpha)
    (B, T, HV, V), H, K = v.shape, q.shape[2], q.shape[3]
    q, k = np.repeat(q, HV // H, axis=2), np.repeat(k, HV // H, axis=2)
    factor = float(K) ** -0.5 if scale is None else scale
    S = np.zeros((B, HV, K, V), v.dtype) if initial_state is None else initial_state
    o = np.zeros_like(v)
    for start in range(0, T, chunk):
        part = slice(start, min(start + chunk, T))
        o[:, part], S = _one_chunk(q[:, part], k[:, part], v[:, part], alpha[:, part], beta[:, part], S, factor)
    return o, S


def _one_chunk(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, alpha: np.ndarray, beta: np.ndarray, S: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    C, from_start, between = k.shape[1], *_decays(alpha)
    u: list[np.ndarray] = []
    o = np.zeros_like(v)
    for i in range(C):
        left = v[:, i] - _read(S, from_start[i] * k[:, i])
        for j in range(i):
            left = left - np.sum(k[:, i] * between[i][j] * k[:, j], axis=-1)[..., None] * u[j]
        u.append(beta[:, i][..., None] * left)
        o[:, i] = _read(S, from_start[i] * q[:, i])
        for j in range(i + 1):
            o[:, i] = o[:, i] + np.sum(q[:, i] * between[i][j] * k[:, j], axis=-1)[..., None] * u[j]
    after = from_start[-1][..., None] * S
    for j in range(C):
        after = after + (between[C - 1][j] * k[:, j])[..., None] * u[j][..., None, :]
    return scale * o, after


def _decays(alpha: np.ndarray) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Decay from the chunk's start to each token, and from behind token j to token i (products, never quotients)."""
    from_start, between = [alpha[:, 0]], [[np.ones_like(alpha[:, 0])]]
    for i in range(1, alpha.shape[1]):
        from_start.append(from_start[-1] * alpha[:, i])
        between.append([row * alpha[:, i] for row in between[-1]] + [np.ones_like(alpha[:, i])])
    return from_start, between


def _read(S: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.sum(x[..., :, None] * S, axis=-2)
