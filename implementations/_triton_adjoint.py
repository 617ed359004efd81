"""Host side of the chunked backward: which kernel is started on what, in steps that free what is no longer needed."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from implementations._contract import Shape
from implementations._triton import alignment, cdiv, interpreted, launch, padded
from implementations._triton_backward import ahead_kernel, behind_kernel, level_kernel, pair_kernel
from implementations._triton_gradient import (
    backward_walk_kernel,
    forward_walk_kernel,
    gradient_kernel,
    pair_gradient_kernel,
    sum_heads_kernel,
)
from implementations._triton_plan import packed_chunks, placed
from implementations._triton_training import gradients as of_tiles
from implementations._triton_training import takes

# Tokens of a chunk. With identical keys, beta = 2 and no decay, the errors of float32 grow with the chunk: 4 budget
# units at 64 tokens, 0.5 at 16. Half precision has room enough.
CHUNK = {torch.float32: 16, torch.bfloat16: 64, torch.float16: 64}


class Inputs(NamedTuple):
    """The contiguous tensors of a call; do is the cotangent of o."""

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    beta: Tensor
    do: Tensor


class Plan(NamedTuple):
    """What every launch needs: extents, chunk tables, scratch dtype, and the configuration of every kernel."""

    shape: Shape
    scale: float
    C: int
    mode: str
    scratch: torch.dtype
    table: Tensor | None
    cu: Tensor | None
    starts: Tensor | None
    chunks: int
    spans: Tensor
    blocks: dict[str, tuple[int, int, int, int]]

    def constants(self, *names: str) -> dict[str, Any]:
        """The named numbers of a kernel, besides those that all of them have; widths in multiples of UNIT."""
        H, HV, K, V = self.shape.H, self.shape.HV, self.shape.K, self.shape.V
        unit = alignment(K, V)
        known = {"H": H, "K": K // unit, "V": V // unit, "LEVELS": self.C.bit_length() - 1}
        common = {"HV": HV, "C": self.C, "PACKED": self.table is not None, "MODE": self.mode, "UNIT": unit}
        return common | {name: known[name] for name in names}

    def of_tokens(self, *widths: int, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Scratch [B, T, HV, width], not filled."""
        B, T, HV = self.shape.B, self.shape.T, self.shape.HV
        new = {"dtype": dtype or self.scratch, "device": self.spans.device}
        return [torch.empty((B, T, HV, width), **new) for width in widths]

    def of_chunks(self, *sizes: int, dtype: torch.dtype | None = None) -> Tensor:
        """Scratch [chunks, HV, ...], not filled."""
        new = {"dtype": dtype or self.scratch, "device": self.spans.device}
        return torch.empty((self.chunks, self.shape.HV, *sizes), **new)


def gradients(
    x: Inputs, dfinal: Tensor | None, shape: Shape, scale: float, initial_state: Tensor | None, cu: Tensor | None
) -> tuple[Tensor, ...]:
    """Gradients of q, k, v, g, beta in their dtypes, of the initial state in float32 (empty where there is none)."""
    if takes(x.v.dtype, shape.K):
        dq, dk, *others = of_tiles(x, dfinal, shape, scale, initial_state, cu)
        return (dq, dk, *others) if shape.H == shape.HV else (_summed(dq, x.q), _summed(dk, x.k), *others)
    plan = _plan(x, shape, scale, cu)
    states, r, last, X, A = _forwards(plan, x, initial_state)
    cotangents, e, dinitial = _backwards(plan, x, last, X, A, dfinal, initial_state)
    del X, A
    dA, dM, own, dv, dbeta = _pair_gradients(plan, x, r, e)
    dg = torch.empty_like(x.g)
    grouped = shape.H != shape.HV
    dq, dk = plan.of_tokens(shape.K, shape.K, dtype=torch.float32 if grouped else x.q.dtype)
    config = plan.blocks["gradient"]
    tensors = (x.q, x.k, x.do, x.g, x.beta, plan.spans, plan.table, states, cotangents, r, e, dA, dM, own, dq, dk, dg)
    programs = plan.chunks * shape.HV * cdiv(shape.K, config[0])
    constants = plan.constants("H", "K", "V", "LEVELS")
    _launch(gradient_kernel, programs, config, *tensors, plan.scale, shape.T, **constants)
    if grouped:
        dq, dk = _summed(dq, x.q), _summed(dk, x.k)
    return dq, dk, dv, dg, dbeta, dinitial


def _plan(x: Inputs, shape: Shape, scale: float, cu_seqlens: Tensor | None) -> Plan:
    name, device = str(x.v.dtype).removeprefix("torch."), x.v.device
    half = x.v.dtype == torch.bfloat16
    C, mode = CHUNK[x.v.dtype], f"interpreted {name}" if half and interpreted() else name
    scratch = torch.bfloat16 if mode == "bfloat16" else torch.float32
    levels = C.bit_length() - 1
    spans = torch.empty((2 * levels + 2, C, C), dtype=scratch, device=device)
    _launch(level_kernel, 2 * levels + 2, (0, 0, 4, 1), spans, C=C, LEVELS=levels)
    blocks = _blocks(half, shape.K, shape.V)
    return Plan(shape, scale, C, mode, scratch, *_chunk_table(shape, cu_seqlens, C, device), spans, blocks)


def _forwards(plan: Plan, x: Inputs, initial_state: Tensor | None) -> tuple[Tensor, ...]:
    """The states before all chunks, r, the chunks' decays; and X and A of every chunk."""
    T, HV, K, V, N = plan.shape.T, plan.shape.HV, plan.shape.K, plan.shape.V, plan.shape.N
    X, Y = plan.of_tokens(plan.C, plan.C, dtype=torch.float32)
    (A,) = plan.of_tokens(plan.C)
    constants = plan.constants("H", "K", "LEVELS")
    tensors = (x.q, x.k, x.g, x.beta, plan.spans, plan.table, X, Y, A)
    _launch(pair_kernel, plan.chunks * HV, plan.blocks["pair"], *tensors, T, **constants)

    w, u, kb = plan.of_tokens(K, V, K)
    last = plan.of_chunks(K, dtype=torch.float32)
    programs, constants = _apply(plan)
    tensors = (x.k, x.v, x.g, x.beta, plan.spans, plan.table, Y, w, u, kb, last)
    _launch(ahead_kernel, programs, plan.blocks["apply"], *tensors, T, **constants)

    (r,), states = plan.of_tokens(V), plan.of_chunks(K, V)
    config = plan.blocks["walk"]
    constants = plan.constants("K", "V") | {"HAS_STATE": initial_state is not None}
    tensors = (w, u, kb, last, plan.cu, plan.starts, initial_state, states, r)
    _launch(forward_walk_kernel, N * HV * cdiv(V, config[1]), config, *tensors, T, **constants)
    return states, r, last, X, A


def _backwards(
    plan: Plan, x: Inputs, last: Tensor, X: Tensor, A: Tensor, dfinal: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The cotangents of the states behind all chunks, e, and the gradient of the initial state."""
    T, HV, K, V, N = plan.shape.T, plan.shape.HV, plan.shape.K, plan.shape.V, plan.shape.N
    y, e0, qs, kb = plan.of_tokens(K, V, K, K)
    programs, constants = _apply(plan)
    tensors = (x.q, x.k, x.do, x.g, x.beta, plan.spans, plan.table, X, A, y, e0, qs, kb)
    _launch(behind_kernel, programs, plan.blocks["apply"], *tensors, plan.scale, T, **constants)

    (e,), cotangents = plan.of_tokens(V), plan.of_chunks(K, V)
    has = {"HAS_FINAL": dfinal is not None, "HAS_STATE": initial_state is not None}
    dinitial = x.v.new_empty((N, HV, K, V) if has["HAS_STATE"] else (0,), dtype=torch.float32)
    config = plan.blocks["walk"]
    constants = plan.constants("K", "V") | has
    tensors = (y, e0, qs, kb, x.do, last, plan.cu, plan.starts, dfinal, cotangents, e, dinitial)
    _launch(backward_walk_kernel, N * HV * cdiv(V, config[1]), config, *tensors, T, **constants)
    return cotangents, e, dinitial


def _apply(plan: Plan) -> tuple[int, dict[str, Any]]:
    """Programs and constants of the two kernels between pairs and walks."""
    BK, BV, _, _ = plan.blocks["apply"]
    blocks = max(cdiv(plan.shape.K, BK), cdiv(plan.shape.V, BV))
    return plan.chunks * plan.shape.HV * blocks, plan.constants("H", "K", "V", "LEVELS") | {"BLOCKS": blocks}


def _pair_gradients(plan: Plan, x: Inputs, r: Tensor, e: Tensor) -> tuple[Tensor, ...]:
    """dA, dM (symmetric), the diagonal of dA, dv and dbeta."""
    dA, dM = plan.of_tokens(plan.C, plan.C)
    (own,) = plan.of_tokens(1, dtype=torch.float32)
    dv, dbeta = torch.empty_like(x.v), torch.empty_like(x.beta)
    tensors = (x.do, r, e, x.beta, plan.table, dA, dM, own, dv, dbeta)
    config, constants = plan.blocks["pair gradient"], plan.constants("V")
    programs = plan.chunks * plan.shape.HV
    _launch(pair_gradient_kernel, programs, config, *tensors, plan.scale, plan.shape.T, **constants)
    return dA, dM, own, dv, dbeta


def _summed(wide: Tensor, like: Tensor) -> Tensor:
    """Gradients [B, T, HV, K] in float32, added up over the value heads of each key head."""
    narrow, block = torch.empty_like(like), 1024
    group = wide.shape[2] // like.shape[2]
    programs = cdiv(narrow.numel(), block)
    constants = {"GROUP": group, "K": like.shape[3], "BLOCK": block}
    _launch(sum_heads_kernel, programs, (0, 0, 4, 1), wide, narrow, narrow.numel(), **constants)
    return narrow


def _launch(kernel: Any, programs: int, config: tuple[int, int, int, int], *arguments: Any, **constants: Any) -> None:
    """Start so many programs, or none, with a kernel's configuration (BK, BV, warps, stages)."""
    widths = {name: size for name, size in zip(("BK", "BV"), config[:2], strict=True) if size}
    if programs:
        launch(kernel, (programs,), *arguments, num_warps=config[2], num_stages=config[3], **widths, **constants)


def _blocks(half: bool, K: int, V: int) -> dict[str, tuple[int, int, int, int]]:
    """(BK, BV, warps, stages) of every kernel by dtype and widths alone, so that no result depends on the batch.

    Four warps where a product has 64 rows: Hopper's warp groups work on 64 each, and a second one would repeat them.
    """
    if half:  # 64: narrower bfloat16 tiles were seen to be read outside their shared memory (Triton 3.6, H100)
        wide = max(padded(K), 64)
        return {
            "pair": (64, 0, 4, 1),
            "apply": (64, 64, 4, 1),
            "walk": (wide, 32, 4, 3 if wide <= 128 else 1),
            "pair gradient": (0, 64, 4, 1),
            "gradient": (64, 64, 4, 1),
        }
    wide, tall = max(padded(K), 16), max(padded(V), 16)
    return {
        "pair": (min(wide, 32), 0, 4, 1),
        "apply": (min(wide, 32), min(tall, 32), 4, 1),
        "walk": (wide, 16, 4, 1),
        "pair gradient": (0, min(tall, 32), 4, 1),
        "gradient": (min(wide, 32), min(tall, 32), 4, 1),
    }


def _chunk_table(
    shape: Shape, cu_seqlens: Tensor | None, C: int, device: torch.device
) -> tuple[Tensor | None, Tensor | None, Tensor | None, int]:
    """(First row, row behind the sequence) of every chunk, boundaries, each sequence's first chunk, how many chunks.

    Computed where the tensors are, without waiting for them: there may be up to N idle chunks at the end, which have no
    rows. Whatever cu_seqlens holds, all stay within the T tokens. A dense batch needs no tables.
    """
    if cu_seqlens is None:
        return None, None, None, shape.N * cdiv(shape.T, C)
    table, cu, starts = packed_chunks(placed(cu_seqlens, device), shape.N, shape.T, C)
    return table, cu, starts, table.shape[0]
