"""Chunk by chunk in Triton: all chunks side by side for what needs no state, then a walk over chunks.

Forward only. Products take the inputs' half precision where that is bfloat16; float16 and float32 are multiplied with
float32 accuracy. Runs on a GPU, or on the CPU through Triton's interpreter. Nothing is tuned at call time.
"""

import itertools

import torch
import triton
import triton.language as tl

from implementations._contract import check
from implementations._triton import interpreted, padded, ready
from implementations._triton_chunk import chunk_kernel, walk_kernel

HINTS = {"array": "torch"}
CHUNK = 64


def triton_chunked(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    """S_t = (I - beta_t k_t k_t^T) Diag(exp g_t) S_(t-1) + beta_t k_t v_t^T,  o_t = scale S_t^T q_t.

    Shapes and ranges are the contract's (`implementations/_contract.py`); float32, bfloat16 or float16; K up to 256.

    Raises:
        NotImplementedError: for float64, K above 256, gradients, and on a CPU without the interpreter.
    """
    shape = check(q, k, v, g, beta, initial_state=initial_state, cu_seqlens=cu_seqlens)
    ready(q, k, v, g, beta, initial_state)
    if shape.K > 256:
        raise NotImplementedError(f"K = {shape.K}: this kernel goes up to 256")
    q, k, v, g, beta = (x.contiguous() for x in (q, k, v, g, beta))
    initial_state = None if initial_state is None else initial_state.contiguous()
    device, (B, T, H, HV, K, V, N) = v.device, shape
    o = torch.empty_like(v)
    final_state = torch.empty((N, HV, K, V), dtype=torch.float32, device=device) if output_final_state else None
    cu, chunks, slots = _chunk_list(shape, cu_seqlens, device)
    half = v.dtype == torch.bfloat16
    store = torch.bfloat16 if half else torch.float32
    w, qg, kg = (torch.empty((B, T, HV, K), dtype=store, device=device) for _ in range(3))
    u, A = torch.empty(v.shape, dtype=store, device=device), torch.empty((B, T, HV, CHUNK), dtype=store, device=device)
    last = torch.empty((slots, HV, K), dtype=torch.float32, device=device)
    operand = tl.bfloat16 if half and not interpreted() else tl.float32
    precision = {torch.bfloat16: "tf32", torch.float16: "tf32x3"}.get(v.dtype, "ieee")
    BK, config = max(padded(K), 16), _config(half, padded(K), padded(V))
    common = {
        "HV": HV,
        "K": K,
        "V": V,
        "BK": BK,
        "PACKED": chunks is not None,
        "PRECISION": precision,
        "OPERAND": operand,
    }
    count = slots if chunks is None else len(chunks)
    if count and HV:
        chunk_kernel[(count * HV,)](
            q,
            k,
            v,
            g,
            beta,
            cu,
            chunks,
            A,
            w,
            u,
            qg,
            kg,
            last,
            T,
            H=H,
            SOLVE="tf32" if half else precision,
            BV=config["BV1"],
            num_warps=config["warps1"],
            num_stages=1,
            **common,
        )
    programs = N * HV * triton.cdiv(V, config["BV2"])
    if programs:
        walk_kernel[(programs,)](
            A,
            w,
            u,
            qg,
            kg,
            last,
            cu,
            initial_state,
            o,
            final_state,
            K**-0.5 if scale is None else scale,
            T,
            BV=config["BV2"],
            HAS_STATE=initial_state is not None,
            WANTS_STATE=output_final_state,
            num_warps=config["warps2"],
            num_stages=config["stages2"],
            **common,
        )
    return o, final_state


def _chunk_list(shape, cu_seqlens, device):
    """Boundaries, (sequence, chunk) of every chunk, and how many slots chunks take; None, None for a dense batch."""
    if cu_seqlens is None:
        return None, None, shape.N * triton.cdiv(shape.T, CHUNK)
    ends = cu_seqlens.tolist()
    lengths = [stop - start for start, stop in itertools.pairwise(ends)]
    pairs = [(n, c) for n, length in enumerate(lengths) for c in range(triton.cdiv(length, CHUNK))]
    chunks = torch.tensor(pairs, dtype=torch.int32).reshape(-1, 2).to(device)
    return cu_seqlens.to(device=device, dtype=torch.int64).contiguous(), chunks, shape.T // CHUNK + shape.N + 1


def _config(half: bool, K: int, V: int) -> dict[str, int]:
    """Block widths, warps and stages by dtype and widths alone, so that no result depends on the batch."""
    if half:
        wide = K > 128
        return {
            "BV1": min(max(V, 16), 64),
            "warps1": 8 if wide else 4,
            "BV2": min(max(V, 16), 16 if wide else 32),
            "warps2": 4,
            "stages2": 1 if wide else 2,
        }
    return {"BV1": min(max(V, 16), 32), "warps1": 8, "BV2": 16, "warps2": 4, "stages2": 1}
