"""The raw form in Triton: a layer's projections mapped to what the recurrence takes, in one pass over each tensor.

q and k come normalised in their own dtype, log decays and strengths in float32, rounded nowhere else. Equations, ranges
and their source: `kda_spec.maps`.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from implementations._contract import Shape
from implementations._triton import cdiv, launch, padded

EPSILON = tl.constexpr(1e-6)
BLOCK = 4096  # numbers of a program


class Raw(NamedTuple):
    """Which maps a call asks for, by the names of fla's `chunk_kda`; see `triton_chunked`."""

    use_qk_l2norm_in_kernel: bool = False
    use_gate_in_kernel: bool = False
    use_beta_sigmoid_in_kernel: bool = False
    allow_neg_eigval: bool = False
    safe_gate: bool = False
    lower_bound: float | None = None
    A_log: Tensor | None = None
    dt_bias: Tensor | None = None


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _softplus(x):
    """log(1 + exp(x)), exact where exp(x) is small beside 1 too."""
    small = tl.exp(tl.minimum(x, 20.0))
    one = 1.0 + small
    return tl.where(
        x > 20.0, x, tl.where(one == 1.0, small, tl.log(one) * (small / tl.where(one == 1.0, 1.0, one - 1.0)))
    )


@triton.jit(do_not_specialize=["rows", "K"])
def norm_kernel(x, out, rows, K, BK: tl.constexpr, BR: tl.constexpr):
    """One program: BR rows of x [rows, K], each divided by its length."""
    r, channels = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)[:, None], tl.arange(0, BK)[None, :]
    mask, at = (r < rows) & (channels < K), r * K + channels
    row = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    row = row / tl.sqrt(tl.sum(row * row, axis=1)[:, None] + EPSILON)
    tl.store(out + at, row.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "HV", "K", "bound"])
def gate_kernel(g, A_log, dt_bias, out, rows, HV, K, bound, BOUNDED: tl.constexpr, BIASED: tl.constexpr,
                BK: tl.constexpr, BR: tl.constexpr):  # fmt: skip
    """One program: BR rows of g [tokens x HV, K] as log decays, float32."""
    r, channels = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)[:, None], tl.arange(0, BK)[None, :]
    mask, at, head = (r < rows) & (channels < K), r * K + channels, r % HV
    x = tl.load(g + at, mask=mask, other=0.0).to(tl.float32)
    if BIASED:
        x += tl.load(dt_bias + head * K + channels, mask=mask, other=0.0).to(tl.float32)
    rate = tl.exp(tl.load(A_log + head, mask=r < rows, other=0.0).to(tl.float32))
    gate = bound * _sigmoid(rate * x) if BOUNDED else -rate * _softplus(x)
    tl.store(out + at, gate, mask=mask)


@triton.jit(do_not_specialize=["count", "factor"])
def strength_kernel(beta, out, count, factor, BLOCK: tl.constexpr):
    """The strengths, factor sigmoid(beta), in float32."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(beta + at, mask=at < count, other=0.0).to(tl.float32)
    tl.store(out + at, factor * _sigmoid(x), mask=at < count)


def mapped(q: Tensor, k: Tensor, g: Tensor, beta: Tensor, shape: Shape, raw: Raw) -> tuple[Tensor, ...]:
    """q, k, g and beta after the maps that are asked for; the others as they came.

    Raises:
        ValueError: where a map lacks a parameter, or one has a wrong shape or value.
    """
    if raw.use_qk_l2norm_in_kernel:
        q, k = _normalised(q, shape.K), _normalised(k, shape.K)
    if raw.use_gate_in_kernel:
        g = _decays(g, shape, raw)
    if raw.use_beta_sigmoid_in_kernel:
        beta, source = torch.empty(beta.shape, dtype=torch.float32, device=beta.device), beta.contiguous()
        if source.numel():
            factor = 2.0 if raw.allow_neg_eigval else 1.0
            blocks = cdiv(source.numel(), BLOCK)
            launch(strength_kernel, (blocks,), source, beta, source.numel(), factor, BLOCK=BLOCK)
    return q, k, g, beta


def _normalised(x: Tensor, K: int) -> Tensor:
    x, rows, block = x.contiguous(), x.numel() // K if K else 0, _rows(K)
    out = torch.empty_like(x)
    if rows:
        launch(norm_kernel, (cdiv(rows, block),), x, out, rows, K, BK=padded(K), BR=block)
    return out


def _decays(g: Tensor, shape: Shape, raw: Raw) -> Tensor:
    HV, K = shape.HV, shape.K
    bound: Any = raw.lower_bound if raw.safe_gate else 0.0
    if raw.A_log is None or raw.A_log.numel() != HV:
        raise ValueError(
            f"A_log: use_gate_in_kernel expects {HV} numbers, one for each value head; got {_size(raw.A_log)}"
        )
    if raw.dt_bias is not None and raw.dt_bias.numel() != HV * K:
        raise ValueError(f"dt_bias: expected {HV} x {K} numbers; got {_size(raw.dt_bias)}")
    if raw.safe_gate and (bound is None or not bound < 0):
        raise ValueError(f"lower_bound: safe_gate expects a number below 0; got {bound}")
    g, out, block = g.contiguous(), torch.empty(g.shape, dtype=torch.float32, device=g.device), _rows(K)
    rows = g.numel() // K if K else 0
    bias = None if raw.dt_bias is None else raw.dt_bias.contiguous()
    if rows:
        launch(
            gate_kernel, (cdiv(rows, block),), g, raw.A_log.contiguous(), bias, out, rows, HV, K, float(bound),
            BOUNDED=raw.safe_gate, BIASED=bias is not None, BK=padded(K), BR=block,
        )  # fmt: skip
    return out


def _rows(K: int) -> int:
    return max(1, BLOCK // padded(max(K, 1)))


def _size(x: Tensor | None) -> str:
    return "none" if x is None else f"shape {tuple(x.shape)}"
