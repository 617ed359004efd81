"""Honest algorithms in one file: what the error budgets are fitted on, none of them a kernel to use.

Each computes the recurrence as real kernels do, in float32, with the operands of matrix products rounded as tensor
cores round them. Forward and backward passes round alike, so that gradients can be fitted too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from implementations.torch_recurrent import torch_recurrent

Round = Callable[[Tensor], Tensor]


def exact(x: Tensor) -> Tensor:
    """Operands stay float32."""
    return x


def tf32(x: Tensor) -> Tensor:
    """Operands with ten explicit bits of mantissa, ties away from zero (what NVIDIA's cvt.rna does)."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def bf16(x: Tensor) -> Tensor:
    """Operands in bfloat16."""
    return x.to(torch.bfloat16).float()


def fp16(x: Tensor) -> Tensor:
    """Operands in float16."""
    return x.to(torch.float16).float()


class _Product(torch.autograd.Function):
    """A matrix product whose operands are rounded, in the backward pass as well."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, rounding: Round) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.rounding = rounding
        return rounding(a) @ rounding(b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        a, b = ctx.saved_tensors
        r = ctx.rounding
        return r(grad) @ r(b).transpose(-1, -2), r(a).transpose(-1, -2) @ r(grad), None


def chunked(q,  # noqa: D417
             k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None,
            chunk: int = 64, decays: str = "safe", solve: str = "substitution", rounding: Round = exact,
            reading: Round | None = None, writing: Round | None = None, storing: Round = exact,
            decaying: Round = exact):  # fmt: skip
    """The chunkwise form for a dense batch.

    Args:
        q: the contract's tensors and keywords: k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens.
        chunk: tokens in a chunk.
        decays: "safe" (exponents of float64 differences), "float32" (exponents of differences of float32 sums) or
            "factored" (exp(G_i - G_a) times exp(G_a - G_j) with the anchor a at i's sub-chunk of 16).
        solve: "substitution" (u by forward substitution), "inverse" (T = (I + L)^-1, then u = T (..)) or "wy"
            (T (beta V) - T (beta Gamma K) S, as flash-linear-attention does).
        rounding: what happens to the operands of matrix products.
        reading: what happens to those of the one product of decayed queries and state, where that is another rounding.
        writing: likewise, of the one product of keys and values that is added to the state.
        storing: what happens to the state from chunk to chunk; no honest kernel rounds it.
        decaying: what happens to the decays from the first and to the last token of a chunk; likewise.
    """
    if cu_seqlens is not None:
        raise NotImplementedError("packed sequences: this form is for fitting budgets")
    (B, T, HV, V), H, K = v.shape, q.shape[2], q.shape[3]
    scale, product = K**-0.5 if scale is None else scale, lambda a, b: _Product.apply(a, b, rounding)
    count = -(-T // chunk)

    def cut(x: Tensor) -> Tensor:
        x = x if x.ndim == 4 else x[..., None]
        x = pad(x.double() if x is g else x.float(), (0, 0, 0, 0, 0, count * chunk - T))
        return x.reshape(B, count, chunk, x.shape[2], -1).permute(0, 3, 1, 2, 4)

    queries, keys = (cut(x).repeat_interleave(HV // H, dim=1) for x in (q, k))
    values, strength = cut(v), cut(beta)
    G = cut(g).cumsum(dim=3) if decays == "safe" else cut(g).float().cumsum(dim=3)
    from_start, to_end = (decaying(x.exp().float()) for x in (G, G[..., -1:, :] - G))
    read, write = (product if own is None else _rounded(own) for own in (reading, writing))
    A, L = (_scores(x, keys, G, decays, product) for x in (queries, keys))
    A, system = A.tril(), torch.eye(chunk) + strength * L.tril(-1)
    inverse = _solve(system, torch.eye(chunk).expand_as(system))
    S = v.new_zeros(B, HV, K, V, dtype=torch.float32) if initial_state is None else initial_state.float()
    outputs = []
    for m in range(count):
        decayed, strengths = from_start[:, :, m] * keys[:, :, m], strength[:, :, m]
        if solve == "wy":
            T_ = inverse[:, :, m]
            u = product(T_, strengths * values[:, :, m]) - product(product(T_, strengths * decayed), S)
        else:
            left = strengths * (values[:, :, m] - product(decayed, S))
            direct = solve == "substitution"
            u = _solve(system[:, :, m], left) if direct else product(inverse[:, :, m], left)
        outputs.append(scale * (read(from_start[:, :, m] * queries[:, :, m], S) + product(A[:, :, m], u)))
        put = write((to_end[:, :, m] * keys[:, :, m]).transpose(-1, -2), u)
        S = storing(from_start[:, :, m, -1, :, None] * S + put)
    o = torch.cat(outputs, dim=2).transpose(1, 2)[:, :T] if outputs else v.new_zeros(v.shape)
    return o.to(v.dtype), S if output_final_state else None


def _rounded(own: Round) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, b: _Product.apply(a, b, own)


def _solve(system: Tensor, right: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(system, right, upper=False)


def _scores(x: Tensor, k: Tensor, G: Tensor, decays: str, product: Any, sub: int = 16) -> Tensor:
    """x_i . Gamma_ij k_j for j <= i (what stands above the diagonal is cut off later)."""
    C = k.shape[3]
    future = torch.ones(C, C, dtype=torch.bool).triu(1)[..., None]
    between = (G[..., :, None, :] - G[..., None, :, :]).masked_fill(future, -torch.inf).exp().float()
    pairwise = (x[..., :, None, :] * between * k[..., None, :, :]).sum(-1)
    if decays != "factored" or sub >= C:
        return pairwise
    rows = []
    for start in range(0, C, sub):
        some = slice(start, start + sub)
        anchor = G[..., start : start + 1, :] if start else None
        parts = [pairwise[..., some, start:]]
        if anchor is not None:
            left = x[..., some, :] * (G[..., some, :] - anchor).exp()
            parts.insert(0, product(left, (k[..., :start, :] * (anchor - G[..., :start, :]).exp()).transpose(-1, -2)))
        rows.append(torch.cat(parts, dim=-1))
    return torch.cat(rows, dim=-2)


def _variant(name: str, **options: Any) -> tuple[str, Callable[..., Any]]:
    return name, partial(chunked, **options)


# Kernels that compute in float32 throughout, by name.
FLOAT32 = dict(
    [
        ("recurrent", torch_recurrent),
        _variant("chunk 16", chunk=16),
        _variant("chunk 32, inverse", chunk=32, solve="inverse"),
        _variant("chunk 64", chunk=64),
        _variant("chunk 64, inverse", chunk=64, solve="inverse"),
        _variant("chunk 64, WY, factored", chunk=64, solve="wy", decays="factored"),
        _variant("chunk 64, float32 sums of gates", chunk=64, decays="float32"),
        _variant("chunk 32, WY, factored", chunk=32, solve="wy", decays="factored"),
    ]
)
# No float32 kernel: measured, not held.
NOT_FLOAT32 = dict(
    [
        _variant("chunk 64, WY, factored, TF32", chunk=64, solve="wy", decays="factored", rounding=tf32),
    ]
)


def _half(name: str, rounding: Round) -> dict[str, Callable[..., Any]]:
    """Kernels whose products round their operands, as tensor cores take them."""
    return dict(
        [
            _variant(f"chunk 64, WY, factored, {name}", chunk=64, solve="wy", decays="factored", rounding=rounding),
            _variant(f"chunk 64, inverse, {name}", chunk=64, solve="inverse", rounding=rounding),
            _variant(f"chunk 16, {name}", chunk=16, solve="inverse", rounding=rounding),
        ]
    )


VARIANTS = {
    "float32": FLOAT32 | NOT_FLOAT32,
    "bfloat16": FLOAT32 | _half("TF32", tf32) | _half("bfloat16", bf16),
    "float16": FLOAT32 | _half("TF32", tf32) | _half("float16", fp16),
}
