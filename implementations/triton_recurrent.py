"""Token by token in one Triton kernel: the state of a head stays on the chip, split over blocks of value columns.

Computes in float32. Runs on a GPU, or on the CPU through Triton's interpreter (TRITON_INTERPRET=1 before Triton is
imported). Forward only: an input that requires a gradient is refused.
"""

import torch
import triton
import triton.language as tl

from implementations._contract import check
from implementations._triton import padded, ready, sequence_bounds

HINTS = {"array": "torch"}


@triton.jit
def _recurrent(
    q,
    k,
    v,
    g,
    beta,
    initial_state,
    cu,
    o,
    final_state,
    scale,
    T,
    H: tl.constexpr,
    HV: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    HAS_STATE: tl.constexpr,
    WANTS_STATE: tl.constexpr,
):
    """One program: one sequence, one value head, BV columns."""
    blocks = tl.cdiv(V, BV)
    program = tl.program_id(0).to(tl.int64)
    block, head, n = program % blocks, (program // blocks) % HV, program // (blocks * HV)
    start, stop = tl.load(cu + n).to(tl.int64), tl.load(cu + n + 1).to(tl.int64)
    rows, columns = tl.arange(0, BK), block * BV + tl.arange(0, BV)
    inside, wide = rows < K, columns < V
    both = inside[:, None] & wide[None, :]
    place = (n * HV + head) * K * V + rows[:, None] * V + columns[None, :]
    S = tl.zeros((BK, BV), tl.float32)
    if HAS_STATE:
        S += tl.load(initial_state + place, mask=both, other=0.0).to(tl.float32)
    for t in range(start, stop):
        key_at = (t * H + head // (HV // H)) * K + rows
        value_at = t * HV + head
        key = tl.load(k + key_at, mask=inside, other=0.0).to(tl.float32)
        query = tl.load(q + key_at, mask=inside, other=0.0).to(tl.float32)
        gate = tl.load(g + value_at * K + rows, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(v + value_at * V + columns, mask=wide, other=0.0).to(tl.float32)
        strength = tl.load(beta + value_at).to(tl.float32)
        S = S * tl.exp(gate)[:, None]
        held = tl.sum(S * key[:, None], axis=0)
        S += (strength * key)[:, None] * (value - held)[None, :]
        read = scale * tl.sum(S * query[:, None], axis=0)
        tl.store(o + value_at * V + columns, read.to(o.dtype.element_ty), mask=wide)
    if WANTS_STATE:
        tl.store(final_state + place, S, mask=both)


def triton_recurrent(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    """S_t = (I - beta_t k_t k_t^T) Diag(exp g_t) S_(t-1) + beta_t k_t v_t^T,  o_t = scale S_t^T q_t.

    Shapes and ranges are the contract's (`implementations/_contract.py`); float32, bfloat16 or float16.

    Raises:
        NotImplementedError: for float64, for gradients, and on a CPU without the interpreter.
    """
    shape = check(q, k, v, g, beta, initial_state=initial_state, cu_seqlens=cu_seqlens)
    ready(q, k, v, g, beta, initial_state)
    q, k, v, g, beta = (x.contiguous() for x in (q, k, v, g, beta))
    initial_state = None if initial_state is None else initial_state.contiguous()
    cu = sequence_bounds(shape, cu_seqlens, v.device)
    o = torch.empty_like(v)
    size = (shape.N, shape.HV, shape.K, shape.V)
    final_state = torch.empty(size, dtype=torch.float32, device=v.device) if output_final_state else None
    BK, BV = padded(shape.K), min(padded(shape.V), 32 if shape.K <= 64 else 8)
    programs = shape.N * shape.HV * triton.cdiv(shape.V, BV)
    if programs:
        _recurrent[(programs,)](
            q,
            k,
            v,
            g,
            beta,
            initial_state,
            cu,
            o,
            final_state,
            shape.K**-0.5 if scale is None else scale,
            shape.T,
            H=shape.H,
            HV=shape.HV,
            K=shape.K,
            V=shape.V,
            BK=BK,
            BV=BV,
            HAS_STATE=initial_state is not None,
            WANTS_STATE=output_final_state,
            num_warps=1 if BK * BV <= 1024 else 4,
        )
    return o, final_state
