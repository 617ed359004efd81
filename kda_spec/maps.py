"""Maps of the raw form: what a layer applies to its projections before the recurrence.

Source: flash-linear-attention's `chunk_kda` with its in-kernel flags; Kimi Linear (arXiv 2510.26692), section 4.
"""

import numpy as np


def l2norm(x: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """X / sqrt(|x|^2 + eps) over the last axis; q and k of the raw form, [..., K].

    >>> l2norm(np.array([3.0, 4.0]), eps=0.0)
    array([0.6, 0.8])
    """
    return x / np.sqrt(np.sum(x * x, axis=-1, keepdims=True) + eps)


def sigmoid_beta(x: np.ndarray, allow_neg_eigval: bool = False) -> np.ndarray:
    """sigmoid(x), doubled where negative eigenvalues of the eraser are allowed; in (0, 1) or (0, 2).

    >>> float(sigmoid_beta(np.array(0.0))), float(sigmoid_beta(np.array(0.0), allow_neg_eigval=True))
    (0.5, 1.0)
    """
    return _sigmoid(x) * (2.0 if allow_neg_eigval else 1.0)


def softplus_gate(g: np.ndarray, A_log: np.ndarray, dt_bias: np.ndarray) -> np.ndarray:
    """Unbounded gate, natural log: -exp(A_log) softplus(g + dt_bias).

    Args:
        g: raw gate, [..., HV, K].
        A_log: [HV].
        dt_bias: [HV, K].

    Returns:
        Log decay, [..., HV, K], below 0.

    >>> round(float(softplus_gate(np.zeros((1, 1)), np.zeros(1), np.zeros((1, 1)))[0, 0]), 6)
    -0.693147
    """
    return -np.exp(A_log)[:, None] * np.logaddexp(g + dt_bias, 0.0)


def bounded_gate(g: np.ndarray, A_log: np.ndarray, dt_bias: np.ndarray, lower_bound: float) -> np.ndarray:
    """Bounded gate, natural log: lower_bound sigmoid(exp(A_log) (g + dt_bias)).

    Args:
        g: raw gate, [..., HV, K].
        A_log: [HV].
        dt_bias: [HV, K].
        lower_bound: the most negative log decay, below 0; -5 in production.

    Returns:
        Log decay, [..., HV, K], in (lower_bound, 0).

    >>> float(bounded_gate(np.zeros((1, 1)), np.zeros(1), np.zeros((1, 1)), -5.0)[0, 0])
    -2.5
    """
    if not lower_bound < 0:
        raise ValueError(f"lower_bound: expected a number below 0; got {lower_bound}")
    return lower_bound * _sigmoid(np.exp(A_log)[:, None] * (g + dt_bias))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -x))
