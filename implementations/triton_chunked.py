"""Chunk by chunk in Triton: all chunks side by side for what needs no state, then a walk over chunks.

Forward only, and not under `torch.compile`: there `triton_training` is an operator of torch. Products take the inputs'
half precision where that is bfloat16; float16 and float32 are multiplied with more (`_triton.precision`). Runs on a
GPU, or on the CPU through Triton's interpreter. Nothing is tuned at call time: the launch configurations are a table by
dtype, widths and number of heads, so that no result depends on what else is in a batch.
"""

import itertools
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from implementations._contract import check
from implementations._triton import alignment, interpreted, launch, padded, precision, prefetches, ready, roomy
from implementations._triton_chunk import choices, pair_kernel, tile_size
from implementations._triton_far import far_kernel
from implementations._triton_raw import Raw, mapped
from implementations._triton_solve import solve_kernel
from implementations._triton_walk import link_kernel, transition_kernel, walk_kernel

CHUNK = 64
# Eight warps were slower than four in each kernel of the forward pass that was timed with them (docs/kernels.md).
WARPS = 4
SOLVE_REGISTERS = 128  # four programs a multiprocessor in place of three
FAR_TILES = 8  # tiles of a program that looks for marked ones: few are marked, if any


class Config(NamedTuple):
    """How walks are launched: columns of a program, stages of the pipeline, and how long sequences are cut.

    `segment`: chunks in a segment, all of which walk at once. `apart`: from so many chunks on a single sequence is cut
    in two, and the walk of the first runs beside the chunks of the second. 0: not cut.
    """

    block: int
    stages: int
    segment: int = 0
    apart: int = 0
    warps: int = 4
    transition_stages: int = 2
    link_block: int = 16
    link_stages: int = 3


CONFIGURATIONS = {
    "exact": Config(16, 1),
    "exact-wide": Config(16, 1, warps=8),
    "wide": Config(64, 1),
    "whole": Config(64, 3),
    "apart": Config(64, 3, apart=96),
    "some-heads": Config(64, 3, segment=32),
    "few-heads": Config(64, 3, segment=16),
    # Not chosen by itself: what cuts do, on sequences short enough to check.
    "short-pieces": Config(64, 3, apart=2),
    "exact-segments": Config(16, 1, segment=2, transition_stages=1, link_stages=1),
    "short-segments": Config(64, 3, segment=2),
}
HINTS = {
    "array": "torch",
    "configurations": tuple({"configuration": name} for name in CONFIGURATIONS),
    "raw": True,
}


def choose(dtype: torch.dtype, HV: int, K: int, name: str | None) -> Config:
    """The configuration for a dtype, a number of value heads and a padded key width, or the one that is named.

    Raises:
        ValueError: for an unknown name.
        NotImplementedError: where a named one does not fit a multiprocessor's memory.
    """
    small = dtype != torch.bfloat16 or K > 128
    if name is None:
        if small:
            name = "wide" if dtype == torch.bfloat16 else "exact" if K <= 128 else "exact-wide"
        else:
            name = "few-heads" if HV <= 8 else "some-heads" if HV <= 16 else "apart" if HV <= 32 else "whole"
    if name not in CONFIGURATIONS:
        raise ValueError(f"configuration: expected one of {', '.join(CONFIGURATIONS)}; got {name!r}")
    if small and not name.startswith("exact") and not (name == "wide" and dtype == torch.bfloat16):
        raise NotImplementedError(f"configuration {name!r}: tiles of {dtype} with K = {K} are too large for it")
    if K > 128 and CONFIGURATIONS[name].segment:
        raise NotImplementedError(f"configuration {name!r}: segments take K up to 128, not {K}")
    return CONFIGURATIONS[name]


def triton_chunked(
    q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None, configuration=None,
    use_qk_l2norm_in_kernel=False, use_gate_in_kernel=False, use_beta_sigmoid_in_kernel=False, allow_neg_eigval=False,
    safe_gate=False, lower_bound=None, A_log=None, dt_bias=None,
):  # fmt: skip
    """S_t = (I - beta_t k_t k_t^T) Diag(exp g_t) S_(t-1) + beta_t k_t v_t^T,  o_t = scale S_t^T q_t.

    Shapes and ranges are the contract's (`implementations/_contract.py`); float32, bfloat16 or float16; K up to 256.
    `configuration` names a row of CONFIGURATIONS in place of the one chosen by shape.

    The raw form, with flash-linear-attention's keywords: use_qk_l2norm_in_kernel divides q and k by sqrt(|x|^2 + 1e-6);
    use_gate_in_kernel takes g as -exp(A_log) softplus(g + dt_bias), with safe_gate as lower_bound sigmoid(exp(A_log)
    (g + dt_bias)); use_beta_sigmoid_in_kernel takes beta as sigmoid(beta), twice that with allow_neg_eigval. A_log has
    HV numbers, dt_bias [HV, K] or None, lower_bound is below 0.

    Raises:
        ValueError: for an unknown configuration, and for a missing or wrong parameter of the raw form.
        NotImplementedError: for float64, K above 256, gradients, and on a CPU without the interpreter.
    """
    shape = check(q, k, v, g, beta, initial_state=initial_state, cu_seqlens=cu_seqlens)
    ready(q, k, v, g, beta, initial_state)
    if shape.K > 256:
        raise NotImplementedError(f"K = {shape.K}: this kernel goes up to 256")
    config = choose(v.dtype, shape.HV, padded(shape.K), configuration)
    raw = Raw(
        use_qk_l2norm_in_kernel, use_gate_in_kernel, use_beta_sigmoid_in_kernel, allow_neg_eigval, safe_gate,
        lower_bound, A_log, dt_bias,
    )  # fmt: skip
    q, k, g, beta = mapped(q, k, g, beta, shape, raw)
    return forward(q, k, v, g, beta, scale, initial_state, output_final_state, shape, config)


def forward(q, k, v, g, beta, scale, initial_state, output_final_state, shape, config):
    """The forward pass of checked inputs with a given configuration; returns (o, final_state or None)."""
    q, k, v, g, beta = (x.contiguous() for x in (q, k, v, g, beta))
    state = None if initial_state is None else initial_state.contiguous()
    o, scale = torch.empty_like(v), shape.K**-0.5 if scale is None else scale
    pieces, kept = _pieces(_cuts(shape), config.apart), []
    apart = len(pieces) > 1 and v.device.type == "cuda"
    with _beside(v.device) if apart else nullcontext(nullcontext) as walking:
        for n, cuts in enumerate(pieces):
            plan = _plan(cuts, config.segment, v.device)
            tiles, common = _prepared(q, k, v, g, beta, plan, shape)
            wanted = output_final_state or n + 1 < len(pieces)
            before, state = state, _new_state(shape, v.device) if wanted else None
            kept += [tiles, before]  # freed behind the last walk, which may be on another stream
            with walking():
                _walked(v, tiles, o, before, state, scale, plan, config, shape, common)
    return o, state


@contextmanager
def _beside(device):
    """Gives a context, to be entered as often as one likes, whose launches go to a second stream.

    Each time they wait for what was launched before on the first stream, which in the end waits for all of them.
    """
    main, second = torch.cuda.current_stream(device), _stream(device)

    @contextmanager
    def walking():
        second.wait_stream(main)
        with torch.cuda.stream(second):
            yield

    try:
        yield walking
    finally:
        main.wait_stream(second)


@lru_cache(maxsize=16)
def _stream(device):
    return torch.cuda.Stream(device, priority=-1)


def _new_state(shape, device):
    return torch.empty((shape.N, shape.HV, shape.K, shape.V), dtype=torch.float32, device=device)


def _prepared(q, k, v, g, beta, plan, shape):
    """The tiles of a plan's chunks, and the parameters that all kernels share."""
    tiles, common, _ = paired(q, k, v, g, plan, shape)
    if len(plan.chunks) and shape.HV:
        launch(
            solve_kernel, (len(plan.chunks) * shape.HV,), beta, plan.chunks, tiles, tiles.view(torch.float32),
            num_warps=WARPS, num_stages=1, maxnreg=SOLVE_REGISTERS if common["WIDE"] == 2 else None, **common,
        )  # fmt: skip
    return tiles, common


def paired(q, k, v, g, plan, shape):
    """Tiles that are not yet solved, the parameters that all kernels share, and which tiles have rows beyond reach."""
    device, HV, K, V = v.device, shape.HV, shape.K, shape.V
    # At least 64: narrower bfloat16 tiles were seen to be read outside their shared memory (Triton 3.6, H100).
    BK, half = max(padded(K), 64), v.dtype == torch.bfloat16
    wide, unit, count = 2 if half else 1, alignment(K, V), len(plan.chunks) * HV
    size = tile_size(BK, wide)
    tiles = torch.empty(max(count, 1) * size, dtype=torch.bfloat16 if half else torch.float32, device=device)
    exact = tiles.view(torch.float32)
    common = {
        "HV": HV,
        "BK": BK,
        "SIZE": size,
        "WIDE": wide,
        "PRECISION": precision(v.dtype),
        "OPERAND": tl.bfloat16 if half and not interpreted() else tl.float32,
    }
    marks = torch.empty(count if half else 0, dtype=torch.int32, device=device)
    if count:
        inputs = (q, k, g, plan.chunks, _table(device), tiles, exact, marks)
        own = {"H": shape.H, "K": K // unit, "UNIT": unit, "num_warps": WARPS, "num_stages": 1, **common}
        launch(pair_kernel, (2 * count,), *inputs, FAST=half, FETCH=prefetches(device), **own)
        if half:
            launch(far_kernel, (triton.cdiv(count, FAR_TILES),), *inputs, count, BLOCK=FAR_TILES, **own)
    return tiles, common, marks


def _walked(v, tiles, o, starts, final_state, scale, plan, config, shape, common):
    """Walks over the tiles of a plan: fills its tokens of o and the final state."""
    HV, K, V, VP, unit = shape.HV, shape.K, shape.V, max(padded(shape.V), 64), alignment(shape.K, shape.V)
    widths = {"K": K // unit, "V": V // unit, "VP": VP, "UNIT": unit}
    walked = (
        v,
        TensorDescriptor.from_tensor(tiles.view(-1, common["BK"]), [CHUNK, common["BK"]]),
        TensorDescriptor.from_tensor(tiles.view(-1, CHUNK), [CHUNK, CHUNK]),
        tiles.view(torch.float32),
        plan.segments,
    )
    if plan.divided:
        starts = _between_segments(walked, plan, starts, (shape.N, HV, K, V), config, widths, common)
    block = min(config.block, VP)
    if len(plan.segments) and HV:
        launch(
            walk_kernel, (len(plan.segments) * HV * (VP // block),), *walked, starts, o, final_state, scale, BV=block,
            HAS_STATE=starts is not None, WANTS_STATE=final_state is not None, num_warps=config.warps,
            num_stages=config.stages, **widths, **common,
        )  # fmt: skip


@lru_cache(maxsize=8)
def _table(device):
    return torch.tensor(choices(), dtype=torch.bfloat16).to(device)


def _between_segments(walked, plan, initial_state, size, config, widths, common):
    """The state before every segment, [segments, HV, K, V]."""
    (N, HV, K, V), BK, VP = size, common["BK"], widths["VP"]
    count, device = len(plan.segments), plan.segments.device
    block = min(config.block, BK, VP)
    cut = common["OPERAND"] == tl.bfloat16
    M = torch.empty((count, HV, 1 + cut, BK, BK), dtype=torch.bfloat16 if cut else torch.float32, device=device)
    N_ = torch.empty((count, HV, BK, VP), dtype=torch.float32, device=device)
    starts = torch.empty((count, HV, K, V), dtype=torch.float32, device=device)
    launch(
        transition_kernel, (count * HV * (BK // block + VP // block),), *walked, M, N_, V=widths["V"], VP=VP,
        UNIT=widths["UNIT"], BV=block, num_warps=config.warps, num_stages=config.transition_stages, **common,
    )  # fmt: skip
    block = min(config.link_block, VP)
    launch(
        link_kernel, (N * HV * (VP // block),), M, N_, plan.sequences, initial_state, starts, HV=HV, BK=BK, BV=block,
        HAS_STATE=initial_state is not None, CUT=cut, PRECISION=precision(torch.float32), num_warps=WARPS,
        num_stages=min(config.link_stages, 3 if roomy(device) else 2), **widths,
    )  # fmt: skip
    return starts


class Plan(NamedTuple):
    """Where chunks, segments and sequences are, as int64 tables on the device; see the kernels for their columns."""

    chunks: torch.Tensor
    segments: torch.Tensor
    sequences: torch.Tensor
    divided: bool


def _cuts(shape):
    """First token and the one behind the last, of every sequence over the flattened [B * T] tokens."""
    if shape.ends is None:
        return tuple((n * shape.T, (n + 1) * shape.T) for n in range(shape.N))
    return tuple(itertools.pairwise(shape.ends))


def _pieces(cuts, apart):
    """A sequence of at least `apart` chunks in two, the first three times as long; anything else in one piece."""
    if len(cuts) != 1 or not apart or triton.cdiv(cuts[0][1] - cuts[0][0], CHUNK) < apart:
        return [cuts]
    start, stop = cuts[0]
    middle = start + CHUNK * max(3 * triton.cdiv(stop - start, CHUNK) // 4, 1)
    return [((start, middle),), ((middle, stop),)]


@lru_cache(maxsize=64)
def _plan(cuts, segment, device):
    """The tables of a call; remembered, because they depend on lengths alone."""
    chunks, segments, sequences = [], [], []
    for n, (start, stop) in enumerate(cuts):
        first, count = len(chunks), triton.cdiv(stop - start, CHUNK)
        chunks += [(start + c * CHUNK, stop) for c in range(count)]
        step = min(segment, count) or max(count, 1)
        sequences.append((len(segments), max(triton.cdiv(count, step), 1)))
        for c in range(0, max(count, 1), step):
            here = min(step, count - c)
            segments.append((first + c, here, n, start + c * CHUNK, stop, int(c + here >= count)))
    tables = [
        torch.tensor(x, dtype=torch.int64).reshape(-1, width).to(device)
        for x, width in ((chunks, 2), (segments, 6), (sequences, 2))
    ]
    return Plan(*tables, divided=len(segments) > len(cuts))
