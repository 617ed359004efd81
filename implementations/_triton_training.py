"""Host side of the chunked backward in bfloat16, K up to 128: the forward's tiles, two walks, then all gradients."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from implementations._contract import Shape
from implementations._triton import alignment, blocks, cdiv, interpreted, launch, padded, prefetches, roomy
from implementations._triton_plan import CHUNK, placed, plans
from implementations._triton_training_gradient import gradient_kernel, pair_gradient_kernel
from implementations._triton_training_solve import core_kernel
from implementations._triton_training_walk import cotangent_walk_kernel, state_walk_kernel
from implementations.triton_chunked import WARPS, beside, choices_on, described, far_tiles, paired

BLOCK = 64  # columns of a walk's program, and of the tiles that gradients read
SMALLEST_SCALE = 2.0**-40  # cotangents are divided by it, and grow by up to 2^55 where they meet keys
APART = 128  # programs of a walk, of which one fits a multiprocessor; so few leave room for the other walk's


def takes(dtype: torch.dtype, K: int) -> bool:
    """Whether this way takes inputs of that dtype and width; `_triton_adjoint` takes all others."""
    return dtype == torch.bfloat16 and padded(K) <= 128


class Left:
    """What the walks leave for the gradients: padded tiles in bfloat16, or float32 where Triton is interpreted.

    And beta by chunk, which they read.
    """

    def __init__(self, count: int, BK: int, VP: int, device: torch.device) -> None:
        new = {"dtype": torch.float32 if interpreted() else torch.bfloat16, "device": device}
        rows = max(count, 1) * VP  # nothing cannot be described to the hardware
        self.states, self.cotangents = (torch.empty((rows, BK), **new) for _ in range(2))
        self.r, self.e = (torch.empty((rows, CHUNK), **new) for _ in range(2))
        self.strengths = torch.empty((count, CHUNK), dtype=torch.float32, device=device)


def gradients(
    x: Any, dfinal: Tensor | None, shape: Shape, scale: float, first: Tensor | None, cu: Tensor | None
) -> tuple[Tensor, ...]:
    """Gradients of q, k, v, g, beta in their dtypes, of the initial state in float32 (empty where there is none).

    Of q and k by value head where those share a key head, in float32.
    """
    if abs(scale) < SMALLEST_SCALE:
        x, scale = x._replace(do=x.do * scale), 1.0
    device = x.v.device
    (plan,) = plans(shape, placed(cu, device), 0, 0, 1.0, device)
    left, dinitial, marks, common = _left(x, plan, dfinal, first, scale, shape)
    dv, dg, dbeta = torch.empty_like(x.v), torch.empty_like(x.g), torch.empty_like(x.beta)
    wide = x.q.dtype if shape.H == shape.HV else torch.float32
    dq, dk = (torch.empty((shape.B, shape.T, shape.HV, shape.K), dtype=wide, device=device) for _ in range(2))
    count, parts = len(plan.chunks) * shape.HV, common["BK"] // BLOCK
    if count:
        known = _known(shape, common) | {"num_warps": WARPS, "num_stages": 1}
        pairs = _pairs(x, left, dv, dbeta, plan, scale, count, known)
        read = (blocks(t, BLOCK, BLOCK) for t in (left.states, left.cotangents, left.r, left.e))
        inputs = (x.do, x.q, x.k, x.g, left.strengths, plan.chunks, choices_on(device), marks, *read, *pairs)
        known |= {"H": shape.H, "BK": common["BK"], "PTX": prefetches(device)}
        for far, some in ((False, 1), (True, far_tiles(count))):
            grid = (cdiv(count, some) * parts,)
            launch(gradient_kernel, grid, *inputs, dq, dk, dg, scale, count, TILES=some, FAR=far, **known)
    return dq, dk, dv, dg, dbeta, dinitial


def _left(
    x: Any, plan: Any, dfinal: Tensor | None, first: Tensor | None, scale: float, shape: Shape
) -> tuple[Left, Tensor, Tensor, dict[str, Any]]:
    """What the walks leave, the initial state's gradient, which tiles have rows beyond reach, and shared parameters."""
    tiles, common, marks = paired(x.q, x.k, x.g, x.beta, described(x.q, x.k, x.g), plan, shape)
    count = len(plan.chunks) * shape.HV
    left = Left(count, common["BK"], _width(shape), x.v.device)
    if count:
        launch(
            core_kernel, (cdiv(count, 2),), left.strengths, tiles, tiles.view(torch.float32), count,
            PTX=prefetches(x.v.device), num_warps=WARPS, num_stages=1, **common,
        )  # fmt: skip
    return left, _walked(x, tiles, left, dfinal, first, plan, scale, shape, common), marks, common


def _width(shape: Shape) -> int:
    return max(padded(shape.V), BLOCK)


def _known(shape: Shape, common: dict[str, Any]) -> dict[str, Any]:
    """What all kernels of this file are told; widths in multiples of UNIT."""
    unit, half = alignment(shape.K, shape.V), "interpreted bfloat16" if interpreted() else "bfloat16"
    return {"HV": shape.HV, "K": shape.K // unit, "V": shape.V // unit, "UNIT": unit, "MODE": half, "VP": _width(shape)}


def _pairs(
    x: Any, left: Left, dv: Tensor, dbeta: Tensor, plan: Any, scale: float, count: int, known: dict[str, Any]
) -> tuple[Tensor, ...]:
    """DA, dM and dA's diagonal; fills dv and dbeta."""
    dA, dM = (left.r.new_empty((count, CHUNK, CHUNK)) for _ in range(2))
    own = torch.empty((count, CHUNK), dtype=torch.float32, device=x.v.device)
    tensors = (blocks(left.r, BLOCK, BLOCK), blocks(left.e, BLOCK, BLOCK), dA, dM, own, dv, dbeta, scale)
    known = {name: value for name, value in known.items() if name != "K"}
    launch(pair_gradient_kernel, (count,), x.do, left.strengths, plan.chunks, *tensors, **known)
    return dA, dM, own


def _walked(
    x: Any, tiles: Tensor, left: Left, dfinal: Tensor | None, first: Tensor | None, plan: Any, scale: float,
    shape: Shape, common: dict[str, Any],
) -> Tensor:  # fmt: skip
    """Walks forwards and backwards, side by side; fills what is left and returns the initial state's gradient."""
    BK, has_state = common["BK"], first is not None
    size = (shape.N, shape.HV, shape.K, shape.V) if has_state else (0,)
    dinitial = torch.empty(size, dtype=torch.float32, device=x.v.device)
    rows, pairs = blocks(tiles.view(-1, BK), CHUNK, BK), blocks(tiles.view(-1, CHUNK), CHUNK, CHUNK)
    tensors = (left.strengths, rows, pairs, tiles.view(torch.float32), plan.segments)
    known = _known(shape, common) | {name: common[name] for name in ("BK", "SIZE", "WIDE")}
    known |= {"BV": BLOCK, "HAS_STATE": has_state, "num_warps": WARPS}
    known["num_stages"] = 3 if roomy(x.v.device) else 1
    grid = (shape.N * shape.HV * (_width(shape) // BLOCK),)
    if grid[0]:
        states, r = blocks(left.states, BLOCK, BK), blocks(left.r, BLOCK, CHUNK)
        outputs = (left.cotangents, left.e, dinitial, scale)
        apart = x.v.device.type == "cuda" and grid[0] <= APART
        with beside(x.v.device) if apart else nullcontext(nullcontext) as walking:
            with walking():
                final = {"HAS_FINAL": dfinal is not None}
                launch(cotangent_walk_kernel, grid, x.do, *tensors, dfinal, *outputs, **final, **known)
            launch(state_walk_kernel, grid, x.v, *tensors, first, states, r, **known)
    return dinitial
