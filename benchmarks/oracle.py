"""The truth about timed inputs: the recurrence in float64 on the device, chunk by chunk, all heads side by side.

With G the running sum of log decay inside a chunk and D_ij = exp(G_i - G_j), j <= i, the written values u solve

    (I + L) u = diag(beta) (V - (exp(G) K) S),   L_ij = beta_i k_i . D_ij k_j   (j < i)
    O = scale ((exp(G) Q) S + A u),              A_ij = q_i . D_ij k_j          (j <= i)

and a token writes k_j u_j^T, so the squared mass of `kda_spec.trace` is the same walk with squares and no eraser. The
budget is `properties.budgets`' own, computed from these sizes. tests/suite/test_bench.py holds it against
`kda_spec.trace`.
"""

import itertools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.inputs import Inputs
from kda_spec import Trace
from properties.budgets import output_budget, state_budget

SCRATCH = {"cuda": 4 << 30, "cpu": 128 << 20}
CHUNK = {"cuda": 64, "cpu": 16}


@dataclass
class Truth:
    """What the recurrence gives for some inputs, in float64 on the device.

    `o` is [B, T, HV, V], `final_state` [N, HV, K, V], their budgets [B, T, HV] and [N, HV, 1, 1]; `informative` says
    whether zeros would exceed them.
    """

    o: Tensor
    final_state: Tensor
    o_budget: Tensor
    state_budget: Tensor
    informative: bool

    def nbytes(self) -> int:
        """Bytes held on the device."""
        return 8 * (self.o.numel() + self.final_state.numel() + self.o_budget.numel())


@dataclass(frozen=True)
class Verdict:
    """The worst error of a result in budget units, and in words where it is."""

    units: float
    words: str


def solve(x: Inputs) -> Truth:
    """Solve the recurrence for every sequence and head, and its budgets."""
    group = x.v.shape[2] // x.q.shape[2]
    o = torch.empty(x.v.shape, dtype=torch.float64, device=x.v.device)
    mass = torch.empty(x.v.shape[:3], dtype=torch.float64, device=x.v.device)
    states, columns = [], []
    for rows, tokens, numbers in _spans(x):
        state = None if x.initial_state is None else x.initial_state[numbers]
        part = [y[rows, tokens] for y in (x.q, x.k, x.v, x.g, x.beta)]
        o[rows, tokens], mass[rows, tokens], S, column = _heads(*part, state, x.scale_value, group)
        states.append(S)
        columns.append(column)
    return _with_budgets(x, o, torch.cat(states), mass, torch.cat(columns))


def _spans(x: Inputs) -> list[tuple[slice, slice, slice]]:
    """(batch rows, tokens, sequence numbers) that can be walked together."""
    if x.cu_seqlens is None:
        return [(slice(None), slice(None), slice(None))]
    ends = np.concatenate([[0], np.cumsum(x.lengths)])
    return [(slice(0, 1), slice(int(a), int(b)), slice(n, n + 1)) for n, (a, b) in enumerate(itertools.pairwise(ends))]


def _heads(q: Any, k: Any, v: Any, g: Any, beta: Any, state: Any, scale: float, group: int) -> tuple[Tensor, ...]:
    """Walk groups of (row, value head) pairs that fit into the scratch memory."""
    (B, L, _, K), (HV, V), kind = q.shape, v.shape[2:], q.device.type
    S = torch.zeros(B * HV, K, V, dtype=torch.float32, device=q.device) if state is None else state.reshape(-1, K, V)
    o = torch.empty(B, L, HV, V, dtype=torch.float64, device=q.device)
    mass = torch.empty(B, L, HV, dtype=torch.float64, device=q.device)
    final = torch.empty(B * HV, K, V, dtype=torch.float64, device=q.device)
    column = torch.empty(B * HV, V, dtype=torch.float64, device=q.device)
    C = max(1, min(CHUNK[kind], L))
    each = 8 * (4 * C * C * K + 6 * K * V + 8 * C * (K + V))
    step = max(1, SCRATCH[kind] // each)
    b, h = (i.flatten() for i in torch.meshgrid(torch.arange(B), torch.arange(HV), indexing="ij"))
    for first in range(0, B * HV, step):
        rows, heads = b[first : first + step].to(q.device), h[first : first + step].to(q.device)
        here = slice(first, first + len(rows))
        pick = lambda x, heads, rows=rows: x[rows, :, heads]  # noqa: E731  [M, L, ..]
        parts = pick(q, heads // group), pick(k, heads // group), pick(v, heads), pick(g, heads), pick(beta, heads)
        o[rows, :, heads], mass[rows, :, heads], final[here], column[here] = _walk(*parts, S[here], scale, C)
    return o, mass, final.reshape(B, HV, K, V), column.reshape(B, HV, V)


def _walk(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, S: Tensor, scale: float, C: int
) -> tuple[Tensor, ...]:
    """[M, L, ..] chunk after chunk; returns o, the largest column norm of the mass, the state and its mass' columns."""
    S = S.double()
    square = S * S
    o = torch.empty(*v.shape, dtype=torch.float64, device=v.device)
    mass = torch.empty(v.shape[:2], dtype=torch.float64, device=v.device)
    for t in range(0, v.shape[1], C):
        part = slice(t, t + C)
        queries, keys, values, gate = (x[:, part].double() for x in (q, k, v, g))
        strength = beta[:, part, None].double()
        total = gate.cumsum(dim=1)
        D = (total[:, :, None] - total[:, None]).masked_fill_(_future(total)[..., None], -torch.inf).exp_()
        D *= keys[:, None]
        A = torch.einsum("mik,mijk->mij", queries, D)
        L = strength * torch.einsum("mik,mijk->mij", keys, D).tril(-1)
        B = D.square_().sum(dim=-1)
        fade = total.exp()
        left = strength * (values - (fade * keys) @ S)
        u = torch.linalg.solve_triangular(L, left, upper=False, unitriangular=True)
        o[:, part] = scale * ((fade * queries) @ S + A @ u)
        mass[:, part] = (fade.square() @ square + B @ u.square()).amax(dim=-1).sqrt()
        last, tail = fade[:, -1, :, None], (total[:, -1:] - total).exp() * keys
        S = last * S + tail.mT @ u
        square = last.square() * square + tail.square().mT @ u.square()
    return o, mass, S, square.sum(dim=1).sqrt()


def _future(total: Tensor) -> Tensor:
    return torch.ones(total.shape[1], total.shape[1], dtype=torch.bool, device=total.device).triu_(1)


def _with_budgets(x: Inputs, o: Tensor, state: Tensor, mass: Tensor, columns: Tensor) -> Truth:
    """Budgets from `properties.budgets`, which sees the largest entries and norms in place of whole tensors."""
    q_norm = torch.linalg.vector_norm(x.q.double(), dim=-1).repeat_interleave(x.v.shape[2] // x.q.shape[2], dim=-1)
    largest = o.abs().amax(dim=-1, keepdim=True) if o.numel() else o[..., :1]
    host = lambda y: y.cpu().numpy()  # noqa: E731
    sizes = Trace(host(largest), host(columns), host(mass), host(mass), host(q_norm), host(columns)[:, :, None])
    first = x.initial_state
    first = None if first is None else host(torch.linalg.vector_norm(first.double(), dim=-2, keepdim=True))
    problem: Any = SimpleNamespace(
        scale_value=x.scale_value,
        beta=host(x.beta.double()),
        v=host(x.v.abs().amax(dim=-1, keepdim=True).double()),
        initial_state=first,
    )
    of_o, of_state = output_budget(problem, sizes, x.dtype), state_budget(problem, sizes, x.dtype)
    informative = bool(np.any(sizes.o[..., 0] > 8 * of_o))
    of_state = of_state.reshape(*state.shape[:2], 1, 1)
    back = lambda y: torch.from_numpy(np.ascontiguousarray(y)).to(o.device)  # noqa: E731
    return Truth(o, state, back(of_o), back(of_state), informative)


def judge(truth: Truth, o: Tensor, state: Tensor | None) -> Verdict:
    """The worst error of an output and a final state, in budget units."""
    found = [_worst("o", o, truth.o, truth.o_budget[..., None], ("row", "token", "head", "column"))]
    if state is not None:
        names = ("sequence", "head", "row", "column")
        found.append(_worst("final_state", state, truth.final_state, truth.state_budget, names))
    return max(found, key=lambda verdict: verdict.units)


def _worst(name: str, got: Tensor, true: Tensor, budget: Tensor, axes: tuple[str, ...]) -> Verdict:
    if got.numel() == 0:
        return Verdict(0.0, "")
    units = (got.double() - true).abs_().div_(budget)
    units = torch.where(torch.isfinite(units), units, torch.inf)
    flat = int(units.argmax())
    place = np.unravel_index(flat, tuple(got.shape))
    worst = float(units.flatten()[flat])
    where = ", ".join(f"{axis} {int(i)}" for axis, i in zip(axes, place, strict=True))
    words = f"{name} is {float(got[place]):.4g} where the recurrence is {float(true[place]):.4g} ({where})"
    return Verdict(worst, words)
