"""Named regimes of gates, keys, write strengths and states; a Case names one of each."""

from collections.abc import Callable

import numpy as np

from properties.numbers import draw_normal, draw_uniform


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _token(seed: int, name: str, N: int, L: int) -> np.ndarray:
    """One token of each sequence, [N, 1]."""
    return np.floor(draw_uniform(seed, name, N, 1) * max(L, 1)).astype(int)


def _typical(seed: int, N: int, L: int, HV: int, K: int) -> np.ndarray:
    return np.log(_sigmoid(draw_normal(seed, "gate", N, L, HV, K) + 2.0))


def _production(seed: int, N: int, L: int, HV: int, K: int) -> np.ndarray:
    """The bounded gate of production models, lower bound -5."""
    return -5.0 * _sigmoid(2.0 * draw_normal(seed, "gate", N, L, HV, K))


def _constant(value: float) -> Callable[..., np.ndarray]:
    return lambda seed, N, L, HV, K: np.full((N, L, HV, K), value)


def _channel(seed: int, N: int, L: int, HV: int, K: int) -> np.ndarray:
    g = _typical(seed, N, L, HV, K)
    channel = int(draw_uniform(seed, "channel", 1)[0] * K)
    g[..., channel] = -1000.0
    return g


def _slow(seed: int, N: int, L: int, HV: int, K: int) -> np.ndarray:
    """The rates of `steady`, more at some tokens than at others."""
    return 2 * draw_uniform(seed, "gate", N, L, HV, K) * _steady(seed, N, L, HV, K)


def _steady(seed: int, N: int, L: int, HV: int, K: int) -> np.ndarray:
    """Channels that fade over tens to hundreds of tokens, each at its own rate: what each decay loses adds up."""
    return np.broadcast_to(-0.05 * draw_uniform(seed, "gate/rate", N, 1, HV, K), (N, L, HV, K)).copy()


def _medium(seed: int, N: int, L: int, HV: int, K: int) -> np.ndarray:
    """Channels that fade to between a hundredth and a ten-millionth over 16 tokens, each at its own constant rate."""
    rate = 0.3 + 0.7 * draw_uniform(seed, "gate/rate", N, 1, HV, K)
    return np.broadcast_to(-rate, (N, L, HV, K)).copy()


def _one_token(seed: int, N: int, L: int, HV: int, K: int) -> np.ndarray:
    g = _typical(seed, N, L, HV, K)
    g[np.arange(L) == _token(seed, "gate/token", N, L)] = -90.0
    return g


def _spike(seed: int, N: int, L: int, HV: int, K: int) -> np.ndarray:
    """No decay but for a -1000 at about one token in sixteen of each channel."""
    return np.where(draw_uniform(seed, "gate", N, L, HV, K) < 1 / 16, -1000.0, 0.0)


def _ramp(seed: int, N: int, L: int, HV: int, K: int) -> np.ndarray:
    """From no decay at the first token and channel to about -10 at the last ones."""
    token = np.arange(L).reshape(1, L, 1, 1) / max(L, 1)
    channel = (np.arange(K) + 1) / K
    return np.broadcast_to(-10.0 * token * channel, (N, L, HV, K)).copy()


def _half(seed: int, N: int, L: int, HV: int, K: int) -> np.ndarray:
    """One half of the channels, the first or the last, forgets at every token; the other fades slowly."""
    first = np.arange(K) < (K + 1) // 2
    return np.where(first == (draw_uniform(seed, "gate/half", 1)[0] < 0.5), -1000.0, _slow(seed, N, L, HV, K))


def _mixed(seed: int, N: int, L: int, HV: int, K: int) -> np.ndarray:
    """Another regime for every sequence, head and channel of the same call."""
    parts = [GATES[name](seed, N, L, HV, K) for name in ("zero", "tiny", "typical", "production", "strong", "spike")]
    choice = np.floor(draw_uniform(seed, "gate/choice", N, 1, HV, K) * len(parts)).astype(int)
    return np.choose(np.broadcast_to(choice, (N, L, HV, K)), parts)


GATES: dict[str, Callable[..., np.ndarray]] = {
    "zero": _constant(0.0),
    "typical": _typical,
    "tiny": _constant(-1e-6),
    "slow": _slow,
    "steady": _steady,
    "medium": _medium,
    "production": _production,
    "pinned": _constant(-5.0),
    "strong": _constant(-20.0),
    "forget": _constant(-1000.0),
    "channel": _channel,
    "token": _one_token,
    "spike": _spike,
    "ramp": _ramp,
    "half": _half,
    "mixed": _mixed,
}


def _normalised(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-30)


def _unit(seed: int, N: int, L: int, H: int, K: int) -> np.ndarray:
    return _normalised(draw_normal(seed, "key", N, L, H, K))


def _basis(seed: int, N: int, L: int, H: int, K: int) -> np.ndarray:
    return np.eye(K)[np.floor(draw_uniform(seed, "key/basis", N, L, H) * K).astype(int)]


def _same(seed: int, N: int, L: int, H: int, K: int) -> np.ndarray:
    return np.repeat(_unit(seed, N, min(L, 1), H, K), L, axis=1)


def _nearly_same(seed: int, N: int, L: int, H: int, K: int) -> np.ndarray:
    return _normalised(_same(seed, N, L, H, K) + 0.01 * draw_normal(seed, "key/noise", N, L, H, K) / np.sqrt(K))


def _cone(seed: int, N: int, L: int, H: int, K: int) -> np.ndarray:
    return _normalised(np.abs(draw_normal(seed, "key", N, L, H, K)))


def _alternating(seed: int, N: int, L: int, H: int, K: int) -> np.ndarray:
    return _nearly_same(seed, N, L, H, K) * np.where(np.arange(L) % 2, -1.0, 1.0).reshape(1, L, 1, 1)


KEYS: dict[str, Callable[..., np.ndarray]] = {
    "unit": _unit,
    "basis": _basis,
    "same": _same,
    "nearly-same": _nearly_same,
    "cone": _cone,
    "alternating": _alternating,
    "tiny": lambda *a: 2.0**-10 * _unit(*a),
    "zero": lambda seed, *shape: np.zeros(shape),
}


def _fixed(value: float) -> Callable[..., np.ndarray]:
    return lambda seed, *shape: np.full(shape, value)


def _sparse(seed: int, N: int, L: int, HV: int) -> np.ndarray:
    """About one token in three writes nothing, in no head, as masked tokens do."""
    silent = draw_uniform(seed, "beta/silent", N, L, 1) < 1 / 3
    return np.where(silent, 0.0, draw_uniform(seed, "beta", N, L, HV))


BETAS: dict[str, Callable[..., np.ndarray]] = {
    "one": _fixed(1.0),
    "random": lambda seed, *shape: draw_uniform(seed, "beta", *shape),
    "near-one": lambda seed, *shape: 1.0 - 2.0**-5 * draw_uniform(seed, "beta", *shape),
    "tiny": _fixed(2.0**-10),
    "zero": _fixed(0.0),
    "two": _fixed(2.0),
    "to-two": lambda seed, *shape: 2.0 * draw_uniform(seed, "beta", *shape),
    "sparse": _sparse,
}


def _state_spike(seed: int, N: int, HV: int, K: int, V: int) -> np.ndarray:
    state = np.zeros((N, HV, K * V))
    state[..., int(draw_uniform(seed, "state/place", 1)[0] * K * V)] = 1000.0
    return state.reshape(N, HV, K, V)


def _asymmetric(seed: int, N: int, HV: int, K: int, V: int) -> np.ndarray:
    """Rows and columns told apart at a glance: entry (i, j) is i + 1 + (j + 1) / 100, over K."""
    return np.broadcast_to((np.arange(K)[:, None] + 1 + (np.arange(V) + 1) / 100) / K, (N, HV, K, V)).copy()


STATES: dict[str, Callable[..., np.ndarray | None]] = {
    "none": lambda *a: None,
    "random": lambda seed, *shape: draw_normal(seed, "state", *shape),
    "zero": lambda seed, *shape: np.zeros(shape),
    "asymmetric": _asymmetric,
    "huge": lambda seed, *shape: 1e4 * draw_normal(seed, "state", *shape),
    "spike": _state_spike,
}
