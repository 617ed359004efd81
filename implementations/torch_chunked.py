"""Chunk by chunk in torch (UT transform): all chunks' products side by side, then a walk over chunks for the state.

Inside a chunk of C tokens, with G the cumulative log decay and Gamma_ij = exp(G_i - G_j):

    u = (I + L)^-1 diag(beta) (V - (exp(G) K) S),   L_ij = beta_i k_i . Gamma_ij k_j  (j < i)
    O = scale ((exp(G) Q) S + A u),                 A_ij = q_i . Gamma_ij k_j         (j <= i)
    S <- exp(G_C) S + (Gamma_Cj K)^T u

Decays are exponents of differences, masked before the exponential, so that outputs and gradients are finite at any
gate and no future token touches a past one. The differences are taken in float64: behind a gate of -1000 a float32
running sum would have lost the small ones. Chunks are short (16), which keeps the pairwise decays in cache.
"""

import torch
from torch import Tensor

from implementations._contract import bounds, check

HINTS = {"array": "torch"}
CHUNK = 16


def torch_chunked(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    """S_t = (I - beta_t k_t k_t^T) Diag(exp g_t) S_(t-1) + beta_t k_t v_t^T,  o_t = scale S_t^T q_t.

    Shapes and ranges are the contract's (`implementations/_contract.py`). Computes in float32, or in float64 where the
    inputs are float64; differentiable in every floating input.
    """
    shape = check(q, k, v, g, beta, initial_state=initial_state, cu_seqlens=cu_seqlens)
    real = torch.float64 if v.dtype == torch.float64 else torch.float32
    scale = shape.K**-0.5 if scale is None else scale
    rows, back = _grid(bounds(shape, cu_seqlens), shape.T, v.device)
    group = shape.HV // shape.H
    queries, keys = (_chunks(x.to(real), rows).repeat_interleave(group, dim=1) for x in (q, k))
    values, strength = _chunks(v.to(real), rows), _chunks(beta.to(real)[..., None], rows)
    total = _chunks(g.double(), rows).cumsum(dim=-2)
    from_start = total.exp().to(real)
    to_end = (total[..., -1:, :] - total).exp().to(real)
    reads, L = _products(queries, keys, total, strength, real)
    if initial_state is None:
        S = torch.zeros(shape.N, shape.HV, shape.K, shape.V, dtype=real, device=v.device)
    else:
        S = initial_state.to(real).clone()
    outputs = []
    for m in range(rows.shape[1] // CHUNK):
        left = strength[:, :, m] * (values[:, :, m] - (from_start[:, :, m] * keys[:, :, m]) @ S)
        u = torch.linalg.solve_triangular(L[:, :, m], left, upper=False, unitriangular=True)
        outputs.append(scale * ((from_start[:, :, m] * queries[:, :, m]) @ S + reads[:, :, m] @ u))
        S = from_start[:, :, m, -1, :, None] * S + (to_end[:, :, m] * keys[:, :, m]).transpose(-1, -2) @ u
    if not outputs:
        return v.new_zeros(v.shape), S if output_final_state else None
    o = torch.stack(outputs, dim=2).flatten(2, 3).transpose(1, 2).flatten(0, 1)[back]
    return o.reshape(v.shape).to(v.dtype), S if output_final_state else None


def _grid(cuts: list[tuple[int, int, int]], T: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of [B * T] for every place of [N, length padded to chunks] (-1: none), and the way back."""
    longest = max((stop - start for _, start, stop in cuts), default=0)
    padded = -(-longest // CHUNK) * CHUNK
    place = torch.arange(padded, device=device)
    first = torch.tensor([b * T + start for b, start, _ in cuts], device=device, dtype=torch.long)
    length = torch.tensor([stop - start for _, start, stop in cuts], device=device, dtype=torch.long)
    inside = place[None] < length[:, None]
    rows = torch.where(inside, first[:, None] + place[None], -1)
    return rows, torch.nonzero(inside.flatten()).flatten()


def _chunks(x: Tensor, rows: Tensor) -> Tensor:
    """[B, T, H, D] to [N, H, chunks, CHUNK, D]; places without a token hold zero."""
    B, T, H, D = x.shape
    flat = torch.cat([x.reshape(B * T, H, D), x.new_zeros(1, H, D)])
    index = torch.where(rows < 0, B * T, rows).flatten()
    return flat[index].reshape(rows.shape[0], -1, CHUNK, H, D).permute(0, 3, 1, 2, 4)


def _products(q: Tensor, k: Tensor, total: Tensor, beta: Tensor, real: torch.dtype) -> tuple[Tensor, Tensor]:
    """A [.., C, C] with its diagonal, and I + L (the diagonal of ones is implied)."""
    difference = total[..., :, None, :] - total[..., None, :, :]
    future = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=q.device).triu(1)
    decayed = difference.masked_fill(future[..., None], -torch.inf).exp().to(real) * k[..., None, :, :]
    reads = (decayed * q[..., :, None, :]).sum(dim=-1)
    L = beta * (decayed * k[..., :, None, :]).sum(dim=-1).tril(-1)
    return reads, L
