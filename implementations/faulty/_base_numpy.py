"""The honest NumPy base of the faulty kernels: token by token over all heads, every step of the equation a hook."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from implementations._contract import Shape, bounds, check


@dataclass
class Call:
    """What every token of one call shares."""

    shape: Shape
    scale: float
    packed: bool
    stated: bool
    dtype: Any
    gate_dtype: Any


@dataclass
class Token:
    """One token: q, k [HV, K]; v [HV, V]; g [HV, K]; beta [HV, 1, 1]; its place in the sequence, of `tokens`."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    g: np.ndarray
    beta: np.ndarray
    call: Call
    n: int
    t: int
    tokens: int


class Loop:
    """decay, erase, write, read."""

    array = "numpy"

    def __call__(
        self, q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None
    ) -> Any:
        """The contract's call."""
        shape = check(q, k, v, g, beta, initial_state=initial_state, cu_seqlens=cu_seqlens)
        call = Call(
            shape, self.scale(scale, shape), cu_seqlens is not None, initial_state is not None, v.dtype, g.dtype
        )
        q, k, v, g, beta = self.gather(*(x.astype(np.float32) for x in (q, k, v, g, beta)), call)
        o = np.zeros((shape.B, shape.T, shape.HV, shape.V), np.float32)
        states = np.zeros((shape.N, shape.HV, shape.K, shape.V), np.float32)
        for n, (b, start, stop) in enumerate(self.sequences(shape, cu_seqlens)):
            S = self.initial(initial_state, n, call)
            for t in range(start, stop):
                x = Token(
                    q[b, t], k[b, t], v[b, t], g[b, t], beta[b, t][:, None, None], call, n, t - start, stop - start
                )
                S = self.update(x, S)
                o[b, t] = np.float32(call.scale) * self.read(x, S)
            states[n] = self.final(S, n, call)
        return o.astype(call.dtype), states if output_final_state else None

    def scale(self, scale: float | None, shape: Shape) -> float:
        """The factor of the output."""
        return shape.K**-0.5 if scale is None else scale

    def sequences(self, shape: Shape, cu_seqlens: Any) -> list[tuple[int, int, int]]:
        """(batch row, first token, token behind the last) of every sequence."""
        return bounds(shape, cu_seqlens)

    def gather(self, q, k, v, g, beta, call: Call) -> tuple[np.ndarray, ...]:
        """All tensors per value head."""
        group = call.shape.HV // call.shape.H
        return np.repeat(q, group, axis=2), np.repeat(k, group, axis=2), v, g, beta

    def initial(self, initial_state: Any, n: int, call: Call) -> np.ndarray:
        """The state before the first token of sequence n, [HV, K, V]."""
        shape = call.shape
        if initial_state is None:
            return np.zeros((shape.HV, shape.K, shape.V), np.float32)
        return np.array(initial_state[n], np.float32)

    def update(self, x: Token, S: np.ndarray) -> np.ndarray:
        """The state after the token."""
        S = self.decay(x, S)
        return S + x.beta * x.k[..., None] * (x.v - self.held(x, S))[:, None, :]

    def decay(self, x: Token, S: np.ndarray) -> np.ndarray:
        """Diag(exp g) S."""
        return np.exp(x.g)[..., None] * S

    def held(self, x: Token, S: np.ndarray) -> np.ndarray:
        """S^T k, what the state holds under the key, [HV, V]."""
        return (x.k[..., None] * S).sum(axis=1)

    def read(self, x: Token, S: np.ndarray) -> np.ndarray:
        """S^T q, [HV, V]."""
        return (x.q[..., None] * S).sum(axis=1)

    def final(self, S: np.ndarray, n: int, call: Call) -> np.ndarray:
        """The final state of sequence n as it is returned."""
        return S


honest = Loop()
honest.HINTS = {"array": "numpy"}  # type: ignore[attr-defined]
