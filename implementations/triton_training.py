"""The chunked kernel with gradients: a forward and a backward in Triton, joined as one operator of torch.

The forward saves its inputs and nothing else. The backward computes each chunk's matrices again, walks over the chunks
forwards for the states and backwards for their cotangents, and takes all gradients of a chunk from those two
(`_triton_backward.py` has the equations). No atomics, no tuning at call time: equal calls give equal bits, whatever
else stands in the batch. Both passes are operators (`kda::chunked`, `kda::chunked_backward`), so the function works
under `torch.compile(fullgraph=True)`. Gradients of gradients are refused.
"""

import torch
import triton
from torch import Tensor

from implementations._contract import check
from implementations._triton import interpreted, padded, ready
from implementations._triton_backward import ahead_kernel, behind_kernel, pair_kernel
from implementations._triton_gradient import (
    backward_walk_kernel,
    forward_walk_kernel,
    gradient_kernel,
    sum_heads_kernel,
)
from implementations.triton_chunked import triton_chunked

HINTS = {"array": "torch"}
# Tokens of a chunk. With identical keys, beta = 2 and no decay, the errors of float32 grow with the chunk: 4 budget
# units at 64 tokens, 0.5 at 16. Half precision has room enough.
CHUNK = {torch.float32: 16, torch.bfloat16: 64, torch.float16: 64}


def triton_training(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    """S_t = (I - beta_t k_t k_t^T) Diag(exp g_t) S_(t-1) + beta_t k_t v_t^T,  o_t = scale S_t^T q_t.

    Shapes and ranges are the contract's (`implementations/_contract.py`); float32, bfloat16 or float16; K up to 256.
    Differentiable in q, k, v, g, beta and initial_state; a gradient has the dtype of its input.

    Raises:
        ValueError: for a wrong shape, device or value of cu_seqlens.
        TypeError: for a wrong dtype.
        NotImplementedError: for float64, K above 256, and on a CPU without the interpreter.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    o, state = torch.ops.kda.chunked(q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens)
    return o, state if output_final_state else None


@torch.library.custom_op("kda::chunked", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float,
    initial_state: Tensor | None,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        o, state = triton_chunked(
            q,
            k,
            v,
            g,
            beta,
            scale=scale,
            initial_state=initial_state,
            output_final_state=output_final_state,
            cu_seqlens=cu_seqlens,
        )
    return o, v.new_empty(0, dtype=torch.float32) if state is None else state


@_forward.register_fake
def _(q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens):
    sequences = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    shape = (sequences, v.shape[2], q.shape[3], v.shape[3]) if output_final_state else (0,)
    return v.new_empty(v.shape), v.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("kda::chunked_backward", mutates_args=())
def _backward(
    do: Tensor | None,
    dfinal: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, g, beta and initial_state (empty where there is none)."""
    with torch.no_grad():
        return _gradients(do, dfinal, q, k, v, g, beta, scale, initial_state, cu_seqlens)


@_backward.register_fake
def _(do, dfinal, q, k, v, g, beta, scale, initial_state, cu_seqlens):
    first = q.new_empty(0, dtype=torch.float32) if initial_state is None else initial_state
    return tuple(x.new_empty(x.shape) for x in (q, k, v, g, beta, first))


def _save(ctx, inputs, output):
    q, k, v, g, beta, ctx.scale, initial_state, ctx.wants_state, cu_seqlens = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, g, beta, initial_state, cu_seqlens)


def _differentiate(ctx, do, dfinal):
    q, k, v, g, beta, initial_state, cu_seqlens = ctx.saved_tensors
    dfinal = dfinal if ctx.wants_state else None
    grads = torch.ops.kda.chunked_backward(do, dfinal, q, k, v, g, beta, ctx.scale, initial_state, cu_seqlens)
    return *grads[:5], None, None if initial_state is None else grads[5], None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def _gradients(do, dfinal, q, k, v, g, beta, scale, initial_state, cu_seqlens):
    """All gradients; a missing cotangent is None."""
    shape = check(q, k, v, g, beta, initial_state=initial_state, cu_seqlens=cu_seqlens)
    ready(q, k, v, g, beta, initial_state)
    if shape.K > 256:
        raise NotImplementedError(f"K = {shape.K}: this kernel goes up to 256")
    q, k, v, g, beta = (x.contiguous() for x in (q, k, v, g, beta))
    initial_state, dfinal = (None if x is None else x.contiguous() for x in (initial_state, dfinal))
    do = torch.zeros_like(v) if do is None else do.contiguous()
    (B, T, H, HV, K, V, _), device = shape, v.device
    mode = _mode(v.dtype)
    settings = _settings(mode, K, V)
    C = CHUNK[v.dtype]
    table, cu, slots, count = _chunk_table(shape, cu_seqlens, C, device)
    sizes = {"HV": HV, "K": K, "V": V, "C": C, "PACKED": table is not None, "MODE": mode}
    store = torch.bfloat16 if v.dtype == torch.bfloat16 else torch.float32
    of_tokens = lambda *widths: (torch.empty((B, T, HV, x), dtype=store, device=device) for x in widths)  # noqa: E731
    of_chunks = lambda: torch.empty((count, HV, K, V), dtype=store, device=device)  # noqa: E731

    levels = C.bit_length() - 1
    X, Y = (torch.empty((B, T, HV, C), dtype=torch.float32, device=device) for _ in range(2))
    (A,) = of_tokens(C)
    last = torch.empty((count, HV, K), dtype=torch.float32, device=device)
    BK, BV, warps = settings["pair"]
    pairs = {name: sizes[name] for name in ("HV", "K", "C", "PACKED", "MODE")}
    _launch(pair_kernel, count * HV, warps, q, k, g, beta, table, X, Y, A, T, H=H, BK=BK, LEVELS=levels, **pairs)

    BK, BV, warps = settings["apply"]
    blocks = max(triton.cdiv(K, BK), triton.cdiv(V, BV))
    apply = {"H": H, "BK": BK, "BV": BV, "BLOCKS": blocks, **sizes}
    w, u, kb = of_tokens(K, V, K)
    _launch(ahead_kernel, count * HV * blocks, warps, k, v, g, beta, table, Y, w, u, kb, last, T, **apply)

    BK, BV, warps = settings["walk"]
    walk = {"BK": BK, "BV": BV, "HAS_STATE": initial_state is not None, **sizes}
    programs = shape.N * HV * triton.cdiv(V, BV)
    (r,), states = of_tokens(V), of_chunks()
    _launch(forward_walk_kernel, programs, warps, w, u, kb, last, cu, slots, initial_state, states, r, T, **walk)
    del w, u, kb, Y

    y, e0, qs, kb = of_tokens(K, V, K, K)
    _, _, warps = settings["apply"]
    _launch(behind_kernel, count * HV * blocks, warps, q, k, do, g, beta, table, X, A, y, e0, qs, kb, scale, T, **apply)
    del X, A
    _, _, warps = settings["walk"]
    (e,), cotangents = of_tokens(V), of_chunks()
    dinitial = torch.empty((0,) if initial_state is None else initial_state.shape, dtype=torch.float32, device=device)
    tensors = (y, e0, qs, kb, do, last, cu, slots, dfinal, cotangents, e, dinitial)
    _launch(backward_walk_kernel, programs, warps, *tensors, T, HAS_FINAL=dfinal is not None, **walk)
    del y, e0, qs, kb, tensors

    wide = [torch.empty_like(x) if H == HV else x.new_empty((B, T, HV, K), dtype=torch.float32) for x in (q, k)]
    dv, dg, dbeta = torch.empty_like(v), torch.empty_like(g), torch.empty_like(beta)
    BK, BV, warps = settings["gradient"]
    tensors = (q, k, do, g, beta, table, states, cotangents, r, e, *wide, dv, dg, dbeta)
    programs = count * HV * triton.cdiv(K, BK)
    _launch(gradient_kernel, programs, warps, *tensors, scale, T, H=H, BK=BK, BV=BV, LEVELS=levels, **sizes)
    dq, dk = wide if H == HV else (_summed(x, q) for x in wide)
    return dq, dk, dv, dg, dbeta, dinitial if initial_state is None else dinitial.to(initial_state.dtype)


def _launch(kernel, programs: int, warps: int, *arguments, **constants) -> None:
    """Start so many programs, or none."""
    if programs:
        kernel[(programs,)](*arguments, num_warps=warps, num_stages=1, **constants)


def _summed(wide: Tensor, like: Tensor) -> Tensor:
    """Gradients [B, T, HV, K] in float32, added up over the value heads of each key head."""
    narrow, block = torch.empty_like(like), 1024
    group = wide.shape[2] // like.shape[2]
    programs = triton.cdiv(narrow.numel(), block)
    _launch(sum_heads_kernel, programs, 4, wide, narrow, narrow.numel(), GROUP=group, K=like.shape[3], BLOCK=block)
    return narrow


def _mode(dtype: torch.dtype) -> str:
    """How products are computed: see `_triton_backward.dot`."""
    name = str(dtype).removeprefix("torch.")
    return f"interpreted {name}" if dtype == torch.bfloat16 and interpreted() else name


def _settings(mode: str, K: int, V: int) -> dict[str, tuple[int, int, int]]:
    """(BK, BV, warps) of every kernel by dtype and widths alone, so that no result depends on the batch."""
    wide, tall = max(padded(K), 16), max(padded(V), 16)
    if mode.endswith("bfloat16"):
        return {
            "pair": (min(wide, 64), 0, 4),
            "apply": (min(wide, 64), min(tall, 64), 4),
            "walk": (wide, min(tall, 32 if wide <= 128 else 16), 4),
            "gradient": (min(wide, 64), min(tall, 64), 8),
        }
    return {
        "pair": (min(wide, 32), 0, 8),
        "apply": (min(wide, 32), min(tall, 32), 8),
        "walk": (wide, 16, 4 if wide <= 128 else 8),
        "gradient": (min(wide, 32), min(tall, 32), 8),
    }


def _chunk_table(shape, cu_seqlens: Tensor | None, C: int, device: torch.device):
    """(First row, row behind the sequence) of every chunk, boundaries, each sequence's first chunk, how many chunks.

    Computed where the tensors are, without waiting for them: there may be up to N idle chunks at the end, which have no
    rows. A dense batch needs no tables.
    """
    if cu_seqlens is None:
        return None, None, None, shape.N * triton.cdiv(shape.T, C)
    count = shape.T // C + shape.N
    cu = cu_seqlens.to(device=device, dtype=torch.int64)
    ends = ((cu.diff() + C - 1) // C).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends])[:-1].contiguous()
    if shape.N == 0:
        return cu.new_zeros((count, 2)), cu, starts, count
    number = torch.arange(count, device=device)
    n = torch.searchsorted(ends, number, right=True)
    used, n = n < shape.N, n.clamp(max=shape.N - 1)
    first = torch.where(used, cu[n] + (number - starts[n]) * C, 0)
    stop = torch.where(used, cu[n + 1], 0)
    return torch.stack([first, stop], dim=1).contiguous(), cu.contiguous(), starts, count
