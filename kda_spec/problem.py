"""Records of a problem and its solution, checked on construction."""

import itertools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Problem:
    """The arguments of one kernel call, checked against the contract.

    Args:
        q: queries, [B, T, H, K], used as given.
        k: keys, [B, T, H, K], used as given.
        v: values, [B, T, HV, V]; HV is a multiple of H, and value head hv reads key head hv // (HV // H).
        g: natural-log decay, [B, T, HV, K], at most 0.
        beta: write strength, [B, T, HV], in [0, 2].
        scale: factor of the output; None means K ** -0.5.
        initial_state: [N, HV, K, V] or None for zeros; N is the number of sequences.
        output_final_state: whether the caller wants the final state.
        cu_seqlens: boundaries of packed sequences, [N + 1], from 0 to T, never decreasing; B is then 1.

    Raises:
        ValueError: one sentence that names the argument, what was expected and what came.
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    g: np.ndarray
    beta: np.ndarray
    scale: float | None = None
    initial_state: np.ndarray | None = None
    output_final_state: bool = False
    cu_seqlens: np.ndarray | None = None

    def __post_init__(self) -> None:
        self._check_shapes()
        self._check_sequences()
        self._check_values()

    @property
    def B(self) -> int:
        """Batch rows."""
        return int(self.q.shape[0])

    @property
    def T(self) -> int:
        """Tokens in a row."""
        return int(self.q.shape[1])

    @property
    def H(self) -> int:
        """Query and key heads."""
        return int(self.q.shape[2])

    @property
    def HV(self) -> int:
        """Value heads."""
        return int(self.v.shape[2])

    @property
    def K(self) -> int:
        """Width of queries and keys."""
        return int(self.q.shape[3])

    @property
    def V(self) -> int:
        """Width of values."""
        return int(self.v.shape[3])

    @property
    def N(self) -> int:
        """Sequences: rows, or packed sequences."""
        return self.B if self.cu_seqlens is None else len(self.cu_seqlens) - 1

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of every sequence."""
        return tuple(stop - start for _, start, stop in self.bounds())

    @property
    def scale_value(self) -> float:
        """The scale in force."""
        return float(self.K) ** -0.5 if self.scale is None else float(self.scale)

    def bounds(self) -> list[tuple[int, int, int]]:
        """(batch row, first token, token behind the last) of every sequence."""
        if self.cu_seqlens is None:
            return [(b, 0, self.T) for b in range(self.B)]
        ends = [int(x) for x in self.cu_seqlens]
        return [(0, start, stop) for start, stop in itertools.pairwise(ends)]

    def _check_shapes(self) -> None:
        if self.q.ndim != 4:
            raise ValueError(f"q: expected [B, T, H, K]; got shape {list(self.q.shape)}")
        if self.v.ndim != 4 or self.v.shape[:2] != self.q.shape[:2]:
            raise ValueError(f"v: expected [{self.B}, {self.T}, HV, V]; got shape {list(self.v.shape)}")
        if self.H == 0 or self.HV == 0 or self.HV % self.H:
            raise ValueError(f"v: expected a head count that is a multiple of H = {self.H}; got HV = {self.HV}")
        token = (self.B, self.T)
        expected = {"k": (*token, self.H, self.K), "g": (*token, self.HV, self.K), "beta": (*token, self.HV)}
        for name, shape in expected.items():
            got = getattr(self, name).shape
            if got != shape:
                raise ValueError(f"{name}: expected shape {list(shape)}; got {list(got)}")

    def _check_sequences(self) -> None:
        cu = self.cu_seqlens
        if cu is not None:
            if cu.ndim != 1 or cu.dtype.kind not in "iu" or len(cu) < 1:
                raise ValueError(f"cu_seqlens: expected a list of integers; got {cu.dtype} of shape {list(cu.shape)}")
            if self.B != 1:
                raise ValueError(f"cu_seqlens: expected B = 1 with packed sequences; got B = {self.B}")
            if cu[0] != 0 or cu[-1] != self.T or np.any(np.diff(cu) < 0):
                raise ValueError(f"cu_seqlens: expected to rise from 0 to T = {self.T}; got {cu.tolist()}")
        state, shape = self.initial_state, (self.N, self.HV, self.K, self.V)
        if state is not None and state.shape != shape:
            raise ValueError(f"initial_state: expected shape [N, HV, K, V] = {list(shape)}; got {list(state.shape)}")

    def _check_values(self) -> None:
        for name in ("q", "k", "v", "g", "beta", "initial_state"):
            x = getattr(self, name)
            if x is not None and not np.all(np.isfinite(x)):
                raise ValueError(f"{name}: expected finite numbers; got {x[~np.isfinite(x)].flat[0]}")
        if np.any(self.g > 0):
            raise ValueError(f"g: expected natural-log decay, at most 0; got {self.g.max()}")
        if np.any(self.beta < 0) or np.any(self.beta > 2):
            raise ValueError(f"beta: expected numbers in [0, 2]; got {self.beta.min()} to {self.beta.max()}")


@dataclass(frozen=True, eq=False)
class Solution:
    """What a kernel returns: `o` [B, T, HV, V] and `final_state` [N, HV, K, V]."""

    o: np.ndarray
    final_state: np.ndarray
