"""How far rounding errors have grown in the gradients: the condition of the adjoint.

Errors of the state have the covariance P of `properties/condition.py`. The adjoint state runs backwards through the
same eraser and decay, G <- Diag(alpha) (I - beta k k^T) (G + scale q do^T), so its errors have a covariance Q that
obeys the mirrored recursion, and coherent ones a Y like X. What an inverse is multiplied with here is a read of the
cotangents behind the token in its chunk, only decayed: they stay in every term, also where G has erased them. To first
order an error of a product is each factor's error times the other factor:

    dq ~ scale sigma(S) |do|                       dv ~ beta sigma(G^T k)
    dbeta ~ sigma(G^T k) |r| + |G^T k| sigma(r)    dS0 ~ sigma(G)
    dk ~ beta (sigma(G) |r| + |G| sigma(r) + |S~| sigma(G^T k) + sigma(S~) |G^T k|)
    dg ~ sigma(G) |S~| + |G| sigma(S~), or what q dq - k dk summed from the end loses, whichever is larger.
"""

import numpy as np

from kda_spec import Problem, decay, erase
from properties.condition import CHUNK, FADE, FLOAT32, Token, along, diagonal, grown_errors, spread


def gradient_condition(problem: Problem, do: np.ndarray, dstate: np.ndarray | None, u: float) -> dict[str, np.ndarray]:
    """Sizes of grown errors in multiples of u, broadcastable against each gradient."""
    token, HV = (problem.B, problem.T, problem.HV), problem.HV
    sizes = {name: np.zeros((*token, problem.K)) for name in ("q", "k", "g")}
    sizes |= {
        "v": np.zeros((*token, 1)),
        "beta": np.zeros(token),
        "initial_state": np.zeros((problem.N, HV, problem.K, 1)),
    }
    for n, (row, start, stop) in enumerate(problem.bounds()):
        tokens = list(grown_errors(problem, n, row, slice(start, stop), FLOAT32 / u))
        G = np.zeros((HV, problem.K, problem.V)) if dstate is None else np.array(dstate[n], np.float64)
        Y, Q, square, later = np.zeros_like(G), np.zeros((HV, problem.K, problem.K)), G * G, np.zeros((HV, problem.K))
        R, parts, free = np.zeros_like(Q), np.zeros_like(later), G
        for t in range(len(tokens) - 1, -1, -1):
            one, d, at = tokens[t], do[row, start + t], (row, start + t)
            put = problem.scale_value * one.q[:, :, None] * d[:, None, :]
            free = (free if (t + 1) % CHUNK else G) + put
            G, square = G + put, square + put * put
            gk = (one.k[:, None, :] @ G)[:, 0]
            terms = np.sum(one.k**2, axis=-1) * (np.max(square.sum(axis=-2), axis=-1) + parts.sum(axis=-1))
            gk_error = along(Q, Y, one.k) + np.sqrt(terms)
            some = _products(one, G, (_rows(Q, Y), gk, gk_error), d, abs(problem.scale_value))
            later = later + (np.abs(one.q) * some["q"] + np.abs(one.k) * some["k"]) ** 2
            some["g"] = np.maximum(some["g"], np.sqrt(later))
            for name, size in some.items():
                sizes[name][at] = size
            size = np.max(np.maximum(gk**2, (one.k[:, None, :] @ free)[:, 0] ** 2), axis=-1)
            inner = (one.k[:, None, :] @ R @ one.k[:, :, None])[:, 0]
            parts = parts + (one.beta[:, None] * one.k) ** 2 * (size[:, None] + inner)
            R = spread(R, one.k, one.beta, size, np.zeros_like(one.k))
            R, parts = FADE * one.alpha[:, :, None] * R * one.alpha[:, None, :], FADE * one.alpha**2 * parts
            erased = (one.beta[:, None] * one.k)[:, :, None] * gk[:, None, :]
            Q = spread(Q, one.k, one.beta, terms, (FLOAT32 / u * (1 + one.lost)) ** 2 * np.max(G * G, axis=-1))
            Q = one.alpha[:, :, None] * Q * one.alpha[:, None, :]
            Y = decay(erase(Y, one.k, one.beta) + FLOAT32 / u * (G - erased), one.alpha)
            free = decay(free, one.alpha)
            G, square = decay(G - erased, one.alpha), decay(square + erased * erased, one.alpha**2)
        sizes["initial_state"][n] = _rows(Q, Y)[..., None]
    narrow = (*token[:2], problem.H, HV // problem.H, problem.K)
    return sizes | {name: sizes[name].reshape(narrow).sum(axis=3) for name in ("q", "k")}


def _products(
    one: Token, G: np.ndarray, errors: tuple[np.ndarray, np.ndarray, np.ndarray], d: np.ndarray, scale: float
) -> dict[str, np.ndarray]:
    held, (adjoint, read_back, gk_error) = _rows(one.P, one.X), errors
    norm = lambda x: np.linalg.norm(x, axis=-1)  # noqa: E731
    r = norm(one.v - (one.k[:, None, :] @ one.held)[:, 0])
    gk = norm(read_back)
    beta, read = one.beta[:, None], one.read[:, None]
    dk = adjoint * r[:, None] + norm(G) * read + norm(one.held) * gk_error[:, None] + held * gk[:, None]
    return {
        "q": scale * held * norm(d)[:, None],
        "k": beta * dk,
        "v": beta * gk_error[:, None],
        "g": adjoint * norm(one.held) + norm(G) * held,
        "beta": gk_error * r + gk * one.read,
    }


def _rows(P: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Size of the errors of a row, [HV, K]."""
    return np.sqrt(diagonal(P)) + np.max(np.abs(X), axis=-1, initial=0.0)
