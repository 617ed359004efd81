"""Chunk by chunk in Triton: all chunks side by side for what needs no state, then a walk over chunks.

Forward only, and not under `torch.compile`: there `triton_training` is an operator of torch. Products take the inputs'
half precision where that is bfloat16; float16 and float32 are multiplied with more (`_triton.precision`). Runs on a
GPU, or on the CPU through Triton's interpreter. Nothing is tuned at call time: the launch configurations are a table by
dtype, widths and number of heads, so that no result depends on what else is in a batch.
"""

from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import NamedTuple

import torch
import triton.language as tl

from implementations._contract import check
from implementations._triton import (
    Blocks,
    alignment,
    blocks,
    cdiv,
    interpreted,
    launch,
    padded,
    precision,
    prefetches,
    ready,
    roomy,
    together,
)
from implementations._triton_chunk import KB, choices, tile_size
from implementations._triton_far import far_kernel
from implementations._triton_pair import HEADS, pair_kernel
from implementations._triton_plan import CHUNK, judgement, placed, plans
from implementations._triton_raw import Raw, mapped
from implementations._triton_solve import solve_kernel
from implementations._triton_walk import link_kernel, transition_kernel, walk_kernel

# Eight warps were slower than four in each kernel but a walk of many heads (docs/kernels.md).
WARPS = 4
SOLVE_REGISTERS = 128  # fewer leave no room for numbers asked for ahead


class Config(NamedTuple):
    """How walks are launched: columns of a program, stages of the pipeline, and how long sequences are cut.

    `segment`: chunks in a segment, all of which walk at once. `apart`: from so many chunks on a single sequence is cut
    in two, a `share` of it and the rest, and the walk of the first runs beside the chunks of the second. 0: not cut.
    """

    block: int
    stages: int
    segment: int = 0
    apart: int = 0
    share: float = 0.75
    warps: int = 4
    transition_stages: int = 2
    link_block: int = 16
    link_stages: int = 3


CONFIGURATIONS = {
    "exact": Config(16, 1),
    "exact-wide": Config(16, 1, warps=8),
    "wide": Config(64, 1),
    "whole": Config(64, 3),
    "apart": Config(64, 3, apart=96, share=23 / 32),
    "apart-early": Config(64, 3, apart=96, share=0.625),
    "many-heads": Config(128, 2, apart=96, share=27 / 32, warps=8),
    "most-heads": Config(128, 2, warps=8),
    "some-heads": Config(64, 3, segment=32),
    "few-heads": Config(64, 3, segment=16),
    # Not chosen by itself: what cuts do, on sequences short enough to check.
    "short-pieces": Config(64, 3, apart=2),
    "exact-segments": Config(16, 1, segment=2, transition_stages=1, link_stages=1),
    "short-segments": Config(64, 3, segment=2),
}
# Heads up to which a configuration is chosen.
BY_HEADS = {8: "few-heads", 16: "some-heads", 24: "apart-early", 32: "apart", 64: "whole", 112: "many-heads"}
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
            name = next((name for heads, name in BY_HEADS.items() if HV <= heads), "most-heads")
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

    Values of cu_seqlens on a GPU are judged behind the launches, and while a CUDA graph is captured not at all: there a
    boundary that is wrong counts as the nearest possible one, and a replay takes what the tensor holds by then.

    The raw form, with flash-linear-attention's keywords: use_qk_l2norm_in_kernel divides q and k by sqrt(|x|^2 + 1e-6);
    use_gate_in_kernel takes g as -exp(A_log) softplus(g + dt_bias), with safe_gate as lower_bound sigmoid(exp(A_log)
    (g + dt_bias)); use_beta_sigmoid_in_kernel takes beta as sigmoid(beta), twice that with allow_neg_eigval. A_log has
    HV numbers, dt_bias [HV, K] or None, lower_bound is below 0.

    Raises:
        ValueError: for an unknown configuration, and for a missing or wrong parameter of the raw form.
        NotImplementedError: for float64, K above 256, gradients, and on a CPU without the interpreter.
    """
    shape = check(q, k, v, g, beta, initial_state=initial_state, cu_seqlens=cu_seqlens, values=False)
    ready(q, k, v, g, beta, initial_state)
    if shape.K > 256:
        raise NotImplementedError(f"K = {shape.K}: this kernel goes up to 256")
    config = choose(v.dtype, shape.HV, padded(shape.K), configuration)
    raw = Raw(
        use_qk_l2norm_in_kernel, use_gate_in_kernel, use_beta_sigmoid_in_kernel, allow_neg_eigval, safe_gate,
        lower_bound, A_log, dt_bias,
    )  # fmt: skip
    judge, cu_seqlens = judgement(cu_seqlens, shape.T), placed(cu_seqlens, v.device)
    q, k, g, beta = mapped(q, k, g, beta, shape, raw)
    inputs = q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens
    results = together(v.device, lambda: forward(*inputs, shape, config))
    judge()
    return results


def forward(q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens, shape, config):
    """The forward pass of checked inputs with a given configuration; returns (o, final_state or None)."""
    q, k, v, g, beta = (x.contiguous() for x in (q, k, v, g, beta))
    state = None if initial_state is None else initial_state.contiguous()
    o, scale = torch.empty_like(v), shape.K**-0.5 if scale is None else scale
    whole = described(q, k, g) if v.dtype == torch.bfloat16 else (None,) * 3
    *first, last = plans(shape, cu_seqlens, config.segment, config.apart, config.share, v.device)
    kept = []  # freed behind the last walk: others may still be on their stream
    with beside(v.device) if first and v.device.type == "cuda" else nullcontext(nullcontext) as walking:
        for plan in first:
            tiles, common = _prepared(q, k, g, beta, whole, plan, shape)
            before, state = state, _new_state(shape, v.device)
            kept += [tiles, before]
            with walking():
                _walked(v, tiles, o, before, state, scale, plan, config, shape, common)
        tiles, common = _prepared(q, k, g, beta, whole, last, shape)
    before, state = state, _new_state(shape, v.device) if output_final_state else None
    _walked(v, tiles, o, before, state, scale, last, config, shape, common)
    return o, state


@contextmanager
def beside(device):
    """Gives a context, to be entered as often as one likes, whose launches go to a second stream.

    Each time they wait for what was launched before on the first stream, which in the end waits for all of them.
    """
    main, second = torch.cuda.current_stream(device), _stream(device)

    @contextmanager
    def walking():
        second.wait_stream(main)
        torch.cuda.set_stream(second)  # a third of what torch.cuda.stream takes, which asks for both streams again
        try:
            yield
        finally:
            torch.cuda.set_stream(main)

    try:
        with torch.cuda.device(device):
            yield walking
    finally:
        main.wait_stream(second)


@lru_cache(maxsize=16)
def _stream(device):
    return torch.cuda.Stream(device, priority=-1)


def _new_state(shape, device):
    return torch.empty((shape.N, shape.HV, shape.K, shape.V), dtype=torch.float32, device=device)


def _prepared(q, k, g, beta, whole, plan, shape):
    """The tiles of a plan's chunks, and the parameters that all kernels share."""
    tiles, common, _ = paired(q, k, g, beta, whole, plan, shape)
    count = len(plan.chunks) * shape.HV
    if count:
        launch(
            solve_kernel, (cdiv(count, 2),), tiles, tiles.view(torch.float32), count, PTX=prefetches(q.device),
            num_warps=WARPS, num_stages=1, maxnreg=SOLVE_REGISTERS if common["WIDE"] == 2 else None, **common,
        )  # fmt: skip
    return tiles, common


def paired(q, k, g, beta, whole, plan, shape):
    """Tiles that are not yet solved, the parameters that all kernels share, and which tiles have rows beyond reach.

    `whole`: what `described` says of q, k and g.
    """
    device, HV, K, V = q.device, shape.HV, shape.K, shape.V
    # At least 64: narrower bfloat16 tiles were seen to be read outside their shared memory (Triton 3.6, H100).
    BK, half = max(padded(K), 64), q.dtype == torch.bfloat16
    wide, unit, count = 2 if half else 1, alignment(K, V), len(plan.chunks) * HV
    size = tile_size(BK, wide)
    tiles = torch.empty(max(count, 1) * size, dtype=torch.bfloat16 if half else torch.float32, device=device)
    exact = tiles.view(torch.float32)
    common = {
        "BK": BK,
        "SIZE": size,
        "WIDE": wide,
        "PRECISION": precision(q.dtype),
        "OPERAND": tl.bfloat16 if half and not interpreted() else tl.float32,
    }
    marks = torch.empty(count if half else 0, dtype=torch.int32, device=device)
    if count:
        inputs, outputs = (q, k, g), (plan.chunks, choices_on(device), tiles, exact, marks)
        own = {"H": shape.H, "HV": HV, "K": K // unit, "UNIT": unit, "num_warps": WARPS, "num_stages": 1, **common}
        copied, heads = whole[0] is not None, HEADS.value
        rows = blocks(tiles.view(-1, BK), 2 * CHUNK, KB.value) if copied else None
        launch(
            pair_kernel, (len(plan.chunks) * cdiv(HV, heads) * (heads + 1),), *inputs, beta, *whole, rows,
            *outputs, *(plan.even or (0, 0, 0)), EVEN=plan.even is not None, FAST=half, COPIED=copied,
            FETCH=prefetches(device), **own,
        )  # fmt: skip
        if half:
            some = far_tiles(count)
            launch(far_kernel, (cdiv(count, some),), *inputs, *outputs, count, BLOCK=some, **own)
    return tiles, common, marks


def far_tiles(count):
    """Of how many tiles a program looks for marked ones, where there are `count`: few are marked, if any."""
    return 8 if count < 8192 else 32


def described(*inputs):
    """Descriptors of tensors [B, T, heads, K] as [heads, tokens, K]; none where the hardware cannot copy them."""
    K = inputs[0].shape[-1]
    if any(x.data_ptr() % 16 or K * x.element_size() % 16 or not x.numel() for x in inputs):
        return (None,) * len(inputs)
    sizes = [(x.shape[-2], x.shape[0] * x.shape[1]) for x in inputs]
    return tuple(
        Blocks(x, [heads, tokens, K], [K, heads * K, 1], [1, CHUNK, KB.value])
        for x, (heads, tokens) in zip(inputs, sizes, strict=True)
    )


def _walked(v, tiles, o, starts, final_state, scale, plan, config, shape, common):
    """Walks over the tiles of a plan: fills its tokens of o and the final state."""
    HV, K, V, VP, unit = shape.HV, shape.K, shape.V, max(padded(shape.V), 64), alignment(shape.K, shape.V)
    widths = {"HV": HV, "K": K // unit, "V": V // unit, "VP": VP, "UNIT": unit}
    walked = (
        v,
        blocks(tiles.view(-1, common["BK"]), CHUNK, common["BK"]),
        blocks(tiles.view(-1, CHUNK), CHUNK, CHUNK),
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
def choices_on(device):
    """The table of `_triton_chunk.choices`, remembered by device."""
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
        transition_kernel, (count * HV * (BK // block + VP // block),), *walked, M, N_, HV=HV, V=widths["V"], VP=VP,
        UNIT=widths["UNIT"], BV=block, num_warps=config.warps, num_stages=config.transition_stages, **common,
    )  # fmt: skip
    block = min(config.link_block, VP)
    launch(
        link_kernel, (N * HV * (VP // block),), M, N_, plan.sequences, initial_state, starts, BK=BK, BV=block,
        HAS_STATE=initial_state is not None, CUT=cut, PRECISION=precision(torch.float32), num_warps=WARPS,
        num_stages=min(config.link_stages, 3 if roomy(device) else 2), **widths,
    )  # fmt: skip
    return starts
