"""How far rounding errors made along the way have grown by the time they are read: the problem's own condition.

Every honest kernel makes, at every token, an error of about one unit roundoff u of what it adds up:

* errors that differ from token to token. The residual v - S~^T k is a sum whose terms have the size M, in any order of
  computing it: M^2 = max_v v^2 + |k|^2 (max_v |W[:, v]|^2 + |I|^2) with W the written mass and I that of an explicit
  inverse, below; and the state itself is rounded. What becomes of them later is what becomes of the state:
  A = (I - beta k k^T) Diag(alpha). So their covariance obeys

      P_t = A P_(t-1) A^T + beta^2 M^2 k k^T + s^2 Diag((1 + c_t)^2 max_v max(S_t, S~_t)[:, v]^2),

  where S~ is the decayed state, whose roundings stay where the write erases it; s = 2^-24 / u, since states and gates
  are kept in float32 whatever the dtype of the operands; and c_t is what
  the sum of gates over a chunk adds: exp(G) with |G| = 100 is off by 100 roundings of float32. c_t sums min(|g|, 90)
  over about 64 tokens, up to 128, and counts where g_t is not 0. What a sum swallows behind gates of -1000 is more than
  that, and not granted;
* a kernel that forms the inverse of its triangular system adds up, for every token, what each earlier one of the chunk
  contributed alone, where a solution would have let those cancel. R is the covariance of such contributions, r the
  residual, both faded over about 64 tokens: R <- A R A^T + beta^2 max_v r^2 k k^T, I^2 <- alpha^2 I^2 +
  (beta k)^2 (max_v r^2 + k^T R k). What the inverse is multiplied with is v less a read of the state at the chunk's
  start, only decayed, so r^2 is the larger one of that residual and of the one at token t: a large first state that
  the first tokens erase stays in every term of the chunk;
* errors that are the same at every token, such as that of exp(g) for a constant gate. They add up in one direction:

      X_t = A (X_(t-1) + s S_(t-1)).

An error of the read is then u (scale sqrt(q^T P q) + scale max_v |X^T q|), up to a constant. With beta |k|^2 <= 1 the
eraser removes errors along a key and P stays near W^2; with beta near 2 and keys that stay the same it reflects them
instead and P grows with the square of W: the ill-conditioned corner, in which chunk kernels need ten times what they
need elsewhere. A state that was erased while its rows still hold errors is the other case that W alone does not see.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kda_spec import Problem, decay, erase

FLOAT32 = 2.0**-24  # unit roundoff in which kernels keep states and sum gates
CHUNK, BOUND = 64, 90.0  # the chunk most kernels use; gates below -90 forget everything in float32
GRANTED = 128.0  # roundings that a sum of gates may cost, at most
FADE = (1 - 1 / CHUNK) ** 2


@dataclass(frozen=True, eq=False)
class Condition:
    """Sizes of grown errors, in multiples of u: `read` [B, T, HV] of the output, `state` [N, HV, K, V]."""

    read: np.ndarray
    state: np.ndarray


def condition(problem: Problem, u: float) -> Condition:
    """The condition of every read and of the final states; costs about three times the oracle.

    Args:
        problem: the inputs.
        u: unit roundoff of the kernel's dtype; states and gates are float32 in any case.
    """
    read = np.zeros((problem.B, problem.T, problem.HV))
    state = np.zeros((problem.N, problem.HV, problem.K, problem.V))
    for n, (row, start, stop) in enumerate(problem.bounds()):
        read[row, start:stop], state[n] = _sequence(problem, n, row, slice(start, stop), FLOAT32 / u)
    return Condition(read, state)


def _sequence(problem: Problem, n: int, row: int, span: slice, share: float) -> tuple[np.ndarray, np.ndarray]:
    reads, rows = [], np.zeros((problem.HV, problem.K, problem.V))
    for token in grown_errors(problem, n, row, span, share):
        reads.append(along(token.P, token.X, token.q))
        rows = np.sqrt(diagonal(token.P))[..., None] + np.abs(token.X)
    if not reads:
        return np.zeros((0, problem.HV)), rows
    return abs(problem.scale_value) * np.stack(reads), rows


@dataclass(frozen=True, eq=False)
class Token:
    """One token of every value head: its tensors, the state around it, and the errors grown until it was read.

    `held` is the state before the write (decayed), `S` the one after it, `P` and `X` as above; `read` [HV] is the size
    of the errors that the residual v - S~^T k has, `lost` [HV, K] the roundings that summed gates cost.
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    held: np.ndarray
    S: np.ndarray
    P: np.ndarray
    X: np.ndarray
    read: np.ndarray
    lost: np.ndarray


def grown_errors(problem: Problem, n: int, row: int, span: slice, share: float) -> Iterator[Token]:
    """Token by token through one sequence; `share` weighs roundings that are float32 in any case."""
    group, HV, K = problem.HV // problem.H, problem.HV, problem.K
    q, k = (np.repeat(np.asarray(x[row, span], np.float64), group, axis=1) for x in (problem.q, problem.k))
    v, g, beta = problem.v[row, span], problem.g[row, span], problem.beta[row, span]
    S = np.zeros((HV, K, problem.V)) if problem.initial_state is None else np.array(problem.initial_state[n])
    X, P, square, sums = np.zeros_like(S), np.zeros((HV, K, K)), S * S, np.zeros((HV, K))
    R, parts, first = np.zeros_like(P), np.zeros((HV, K)), S
    for t in range(len(q)):
        alpha, key = np.exp(g[t]), k[t]
        first = decay(S if t % CHUNK == 0 else first, alpha)
        held, X, square = decay(S, alpha), decay(X + share * S, alpha), decay(square, alpha**2)
        P = alpha[:, :, None] * P * alpha[:, None, :]
        terms = np.max(v[t] ** 2, axis=-1) + np.sum(key**2, axis=-1) * np.max(square.sum(axis=-2), axis=-1)
        residual = v[t] - (key[:, None, :] @ held)[:, 0]
        unsolved = v[t] - (key[:, None, :] @ first)[:, 0]
        size = np.max(np.maximum(residual**2, unsolved**2), axis=-1)
        R = FADE * alpha[:, :, None] * R * alpha[:, None, :]
        parts = FADE * alpha**2 * parts
        terms = terms + np.sum(key**2, axis=-1) * parts.sum(axis=-1)
        parts = parts + (beta[t, :, None] * key) ** 2 * (size[:, None] + (key[:, None, :] @ R @ key[:, :, None])[:, 0])
        R = spread(R, key, beta[t], size, np.zeros((HV, K)))
        read = along(P, X, key) + np.sqrt(terms)
        put = (beta[t, :, None] * key)[:, :, None] * residual[:, None, :]
        S, X, square = held + put, erase(X, key, beta[t]), square + put * put
        sums = (1 - 1 / CHUNK) * sums + np.minimum(-g[t], BOUND)
        lost = np.minimum(sums, GRANTED) * (g[t] != 0)
        rounded = np.max(np.maximum(S * S, held * held), axis=-1)
        P = spread(P, key, beta[t], terms, (share * (1 + lost)) ** 2 * rounded)
        yield Token(q[t], key, v[t], alpha, beta[t], held, S, P, X, read, lost)


def spread(P: np.ndarray, k: np.ndarray, beta: np.ndarray, terms: np.ndarray, rounding: np.ndarray) -> np.ndarray:
    """(I - beta k k^T) P (I - beta k k^T) + beta^2 terms k k^T + Diag(rounding), for a symmetric P."""
    left = erase(P, k, beta)
    P = np.swapaxes(erase(np.swapaxes(left, 1, 2), k, beta), 1, 2)
    P = P + (beta**2 * terms)[:, None, None] * (k[:, :, None] * k[:, None, :])
    P[:, np.arange(k.shape[1]), np.arange(k.shape[1])] += rounding
    return P


def along(P: np.ndarray, X: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Size of the errors of a read with x: sqrt(x^T P x) + max_v |X^T x|, [HV]."""
    inner = np.maximum((x[:, None, :] @ P @ x[:, :, None])[:, 0, 0], 0.0)
    return np.sqrt(inner) + np.max(np.abs((x[:, None, :] @ X)[:, 0]), axis=-1, initial=0.0)


def diagonal(P: np.ndarray) -> np.ndarray:
    """The variances of a covariance, [HV, K]."""
    return np.maximum(np.diagonal(P, axis1=1, axis2=2), 0.0)
