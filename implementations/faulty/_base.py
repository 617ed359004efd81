"""The honest torch base of the faulty kernels: chunk by chunk, one sequence after the other, every step a hook.

A fault overrides one method of `Chunked`. Formulas are those of `implementations/torch_chunked.py`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from implementations._contract import Shape, bounds, check


@dataclass
class Call:
    """What every chunk of one call shares."""

    shape: Shape
    scale: float
    packed: bool
    stated: bool
    dtype: torch.dtype
    gate_dtype: torch.dtype
    real: torch.dtype
    cuts: list[tuple[int, int, int]]


@dataclass
class Chunk:
    """One chunk: heads first, filled up to the kernel's chunk length; `length` rows of it are tokens."""

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    beta: Tensor
    call: Call
    n: int
    index: int
    length: int
    tokens: int

    @property
    def last(self) -> bool:
        """Whether no chunk of this sequence follows."""
        return self.index * self.q.shape[1] + self.length == self.tokens


class Chunked:
    """u = (I + L)^-1 diag(beta) (V - (exp(G) K) S);  O = scale ((exp(G) Q) S + A u);  S <- exp(G_C) S + (..K)^T u."""

    array = "torch"
    chunk = 16

    def __call__(
        self, q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None
    ) -> Any:
        """The contract's call."""
        shape = self.accept(q, k, v, g, beta, initial_state, cu_seqlens)
        real = torch.float64 if v.dtype == torch.float64 else torch.float32
        scale = self.scale(scale, shape)
        cuts = self.sequences(shape, cu_seqlens)
        packed, stated = cu_seqlens is not None, initial_state is not None
        call = Call(shape, scale, packed, stated, v.dtype, g.dtype, real, cuts)
        rows = self.gather(q, k, v, g, beta, call)
        outputs, states = [], []
        for n, (b, start, stop) in enumerate(cuts):
            S = self.initial(initial_state, n, call)
            parts = []
            for index, first in enumerate(range(start, stop, self.chunk)):
                c = self.cut(rows, call, n, index, b * shape.T + first, stop - first, stop - start)
                o, S = self.step(c, S)
                parts.append(o[:, : c.length].transpose(0, 1))
            outputs.append(torch.cat(parts) if parts else rows[2].new_zeros(0, shape.HV, shape.V))
            states.append(self.final(S, n, call))
        o = torch.cat(outputs) if outputs else rows[2]
        o = self.result(o.reshape(v.shape).to(v.dtype), call)
        if not output_final_state:
            return o, None
        return o, torch.stack(states) if states else v.new_zeros(0, shape.HV, shape.K, shape.V, dtype=real)

    def accept(self, q, k, v, g, beta, initial_state, cu_seqlens) -> Shape:
        """Refuse what is malformed."""
        return check(q, k, v, g, beta, initial_state=initial_state, cu_seqlens=cu_seqlens)

    def scale(self, scale: float | None, shape: Shape) -> float:
        """The factor of the output."""
        return shape.K**-0.5 if scale is None else scale

    def sequences(self, shape: Shape, cu_seqlens: Tensor | None) -> list[tuple[int, int, int]]:
        """(batch row, first token, token behind the last) of every sequence."""
        return bounds(shape, cu_seqlens)

    def gather(self, q, k, v, g, beta, call: Call) -> list[Tensor]:
        """q, k, v, g, beta as [B T, HV, ..]; q and k repeated for their value heads."""
        q, k = (self.heads(x.to(call.real), call) for x in (q, k))
        g = self.gate(g, call)
        flat = (q, k, v.to(call.real), g, beta.to(call.real)[..., None])
        return [x.reshape(-1, *x.shape[2:]) for x in flat]

    def heads(self, x: Tensor, call: Call) -> Tensor:
        """[B, T, H, K] to [B, T, HV, K]."""
        return x.repeat_interleave(call.shape.HV // call.shape.H, dim=2)

    def gate(self, g: Tensor, call: Call) -> Tensor:
        """Natural-log decay in the precision of its running sum."""
        return g.double()

    def initial(self, initial_state: Tensor | None, n: int, call: Call) -> Tensor:
        """The state before the first token of sequence n, [HV, K, V]."""
        shape = call.shape
        if initial_state is None:
            return torch.zeros(shape.HV, shape.K, shape.V, dtype=call.real)
        return initial_state[n].to(call.real).clone()

    def cut(self, rows: list[Tensor], call: Call, n: int, index: int, first: int, left: int, tokens: int) -> Chunk:
        """The chunk that begins at row `first`, with `left` tokens of its sequence still to come."""
        length = min(left, self.chunk)
        parts = [self.pad(x, first, length).transpose(0, 1) for x in rows]
        return Chunk(*parts, call, n, index, length, tokens)

    def pad(self, x: Tensor, first: int, length: int) -> Tensor:
        """Rows of one tensor, filled up with neutral rows: no decay, no key, no strength."""
        x = x[first : first + length]
        return torch.cat([x, x.new_zeros(self.chunk - length, *x.shape[1:])])

    def step(self, c: Chunk, S: Tensor) -> tuple[Tensor, Tensor]:
        """Output [HV, C, V] and next state of one chunk."""
        total = self.running(c)
        reads, L = self.products(c, total)
        u = self.solve(c, L, self.residual(c, total, S))
        return c.call.scale * self.read(c, total, S, reads, u), self.carry(c, total, S, u)

    def running(self, c: Chunk) -> Tensor:
        """The running sum G of log decays, [HV, C, K]."""
        return c.g.cumsum(dim=1)

    def products(self, c: Chunk, total: Tensor) -> tuple[Tensor, Tensor]:
        """A_ij = q_i . Gamma_ij k_j for j <= i, and L_ij = beta_i k_i . Gamma_ij k_j for j < i."""
        decayed = self.pairs(c, total).to(c.call.real) * c.k[:, None]
        reads = (decayed * c.q[:, :, None]).sum(dim=-1)
        return reads, c.beta * (decayed * c.k[:, :, None]).sum(dim=-1).tril(-1)

    def pairs(self, c: Chunk, total: Tensor) -> Tensor:
        """Gamma_ij = exp(G_i - G_j) for j <= i, else 0: [HV, C, C, K]."""
        difference = total[:, :, None] - total[:, None]
        return difference.masked_fill(~self.causal(c), -torch.inf).exp()

    def causal(self, c: Chunk) -> Tensor:
        """Where j <= i, [C, C, 1]."""
        size = c.q.shape[1]
        return torch.ones(size, size, dtype=torch.bool).tril()[..., None]

    def residual(self, c: Chunk, total: Tensor, S: Tensor) -> Tensor:
        """diag(beta) (V - (exp(G) K) S)."""
        return c.beta * (c.v - (self.from_start(c, total) * c.k) @ S)

    def from_start(self, c: Chunk, total: Tensor) -> Tensor:
        """exp(G), [HV, C, K]."""
        return total.exp().to(c.call.real)

    def solve(self, c: Chunk, L: Tensor, right: Tensor) -> Tensor:
        """(I + L)^-1 right."""
        return torch.linalg.solve_triangular(L, right, upper=False, unitriangular=True)

    def read(self, c: Chunk, total: Tensor, S: Tensor, reads: Tensor, u: Tensor) -> Tensor:
        """(exp(G) Q) S + A u."""
        return (self.from_start(c, total) * c.q) @ S + reads @ u

    def carry(self, c: Chunk, total: Tensor, S: Tensor, u: Tensor) -> Tensor:
        """exp(G_C) S + (exp(G_C - G) K)^T u."""
        to_end = self.to_end(c, total)
        whole = self.whole(c, total)
        return whole[..., None] * S + (to_end * c.k).transpose(-1, -2) @ u

    def to_end(self, c: Chunk, total: Tensor) -> Tensor:
        """exp(G_C - G), [HV, C, K]."""
        return (total[:, -1:] - total).exp().to(c.call.real)

    def whole(self, c: Chunk, total: Tensor) -> Tensor:
        """exp(G_C), [HV, K]."""
        return total[:, -1].exp().to(c.call.real)

    def borders(self, c: Chunk, length: int) -> bool:
        """Whether a segment of `length` tokens ends with the chunk and another one follows."""
        return (c.index + 1) * self.chunk % length == 0 and not c.last

    def final(self, S: Tensor, n: int, call: Call) -> Tensor:
        """The final state of sequence n as it is returned."""
        return S

    def result(self, o: Tensor, call: Call) -> Tensor:
        """The output as it is returned."""
        return o


honest = Chunked()
honest.HINTS = {"array": "torch"}  # type: ignore[attr-defined]


class _Altered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Any) -> Tensor:
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.change(gradient), None


def altered(x: Tensor | None, change: Any) -> Tensor | None:
    """X itself, whose gradient goes through `change` on its way back."""
    return None if x is None else _Altered.apply(x, change)
