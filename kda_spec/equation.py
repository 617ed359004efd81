"""The equation, one token and one head at a time: decay, erase, write, read.

    S_t = (I - beta_t k_t k_t^T) Diag(alpha_t) S_(t-1) + beta_t k_t v_t^T,    o_t = scale S_t^T q_t

Source: Kimi Linear (arXiv 2510.26692), equation 1. Every function is pure, broadcasts over leading axes and computes in
whatever its arrays hold: float64, longdouble, `fractions.Fraction` or SymPy symbols.
"""

import numpy as np


def decay(S: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Fade every row of the state: Diag(alpha) S.

    Args:
        S: state, [..., K, V]; rows belong to the key.
        alpha: kept fraction per key channel, [..., K], in [0, 1]; alpha = exp(g).

    Returns:
        A new array, [..., K, V].

    >>> decay(np.array([[10, 10], [2, 2]]), np.array([1.0, 0.5]))
    array([[10., 10.],
           [ 1.,  1.]])
    """
    return alpha[..., :, None] * S


def erase(S: np.ndarray, k: np.ndarray, beta: np.ndarray | float) -> np.ndarray:
    """Clear what the state holds along the key, and only that: (I - beta k k^T) S.

    Args:
        S: state, [..., K, V].
        k: key, [..., K]; `beta |k|^2 <= 2`, or the recurrence diverges.
        beta: strength, [...], in [0, 1] (up to 2 for negative eigenvalues).

    Returns:
        A new array, [..., K, V].

    >>> erase(np.array([[10., 10.], [1., 1.]]), np.array([0., 1.]), 1.0)
    array([[10., 10.],
           [ 0.,  0.]])
    """
    return S - _outer(np.asarray(beta)[..., None] * k, _read_row(S, k))


def write(S: np.ndarray, k: np.ndarray, v: np.ndarray, beta: np.ndarray | float) -> np.ndarray:
    """Add the new association: S + beta k v^T.

    Args:
        S: state, [..., K, V].
        k: key, [..., K].
        v: value, [..., V].
        beta: strength, [...].

    Returns:
        A new array, [..., K, V].

    >>> write(np.zeros((2, 2)), np.array([0., 1.]), np.array([5., 5.]), 1.0)
    array([[0., 0.],
           [5., 5.]])
    """
    return S + _outer(np.asarray(beta)[..., None] * k, v)


def read(S: np.ndarray, q: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Read the state with a query, after the write: o = scale S^T q.

    Args:
        S: state, [..., K, V].
        q: query, [..., K].
        scale: factor; kernels use K ** -0.5 by default.

    Returns:
        The output, [..., V].

    >>> read(np.array([[10., 10.], [5., 5.]]), np.array([0., 1.]), 2.0)
    array([10., 10.])
    """
    return scale * _read_row(S, q)


def step(S: np.ndarray, k: np.ndarray, v: np.ndarray, alpha: np.ndarray, beta: np.ndarray | float) -> np.ndarray:
    """One token: decay, then erase, then write.

    Args:
        S: state before the token, [..., K, V].
        k: key, [..., K].
        v: value, [..., V].
        alpha: decay, [..., K], in [0, 1].
        beta: strength, [...].

    Returns:
        The state after the token, [..., K, V].

    >>> S = np.array([[10, 10], [2, 2]])
    >>> step(S, np.array([0, 1]), np.array([5, 5]), np.array([1.0, 0.5]), 1.0)
    array([[10., 10.],
           [ 5.,  5.]])
    """
    return write(erase(decay(S, alpha), k, beta), k, v, beta)


def _read_row(S: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x^T S, [..., V]."""
    return np.sum(x[..., :, None] * S, axis=-2)


def _outer(k: np.ndarray, v: np.ndarray) -> np.ndarray:
    return k[..., :, None] * v[..., None, :]
