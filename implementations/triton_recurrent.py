"""Token by token in one Triton kernel: the state of a head stays on the chip, split over blocks of value columns.

For decoding: `triton_recurrent` has the contract's call, `pool_step` updates a pool of states in place. Computes in
float32. Runs on a GPU, or on the CPU through Triton's interpreter (TRITON_INTERPRET=1 before Triton is imported).
Forward only: an input that requires a gradient is refused. Nothing is read back from the device but cu_seqlens: by
`pool_step` before it changes the pool, by `triton_recurrent` behind its launch, and not while a CUDA graph is captured.
Without it both calls can be captured, with it `triton_recurrent`.
"""

import torch
import triton
import triton.language as tl

from implementations._contract import check, dtype_name
from implementations._triton import alignment, cdiv, launch, padded, ready
from implementations._triton_plan import judgement, placed

HINTS = {"array": "torch", "pool": "pool_step"}


@triton.jit
def _token(S, q, k, v, g, beta, o, scale, key_at, value_at, K, rows, columns, inside, wide, padding):
    """One token: the state [BK, BV] behind it; writes its columns of o, zero where `padding`."""
    key = tl.load(k + key_at * K + rows, mask=inside, other=0.0).to(tl.float32)
    query = tl.load(q + key_at * K + rows, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(g + value_at * K + rows, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(v + columns, mask=wide, other=0.0).to(tl.float32)
    strength = tl.load(beta + value_at).to(tl.float32)
    S = S * tl.exp(gate)[:, None]
    read = tl.sum(S * key[:, None], axis=0)
    S += (strength * key)[:, None] * (value - read)[None, :]
    read = tl.where(padding, 0.0, scale * tl.sum(S * query[:, None], axis=0))
    tl.store(o + columns, read.to(o.dtype.element_ty), mask=wide)
    return S


@triton.jit(do_not_specialize=["scale", "T", "H", "HV", "GROUP", "K", "V"])
def _recurrent(
    q,
    k,
    v,
    g,
    beta,
    source,
    sink,
    slots,
    cu,
    o,
    scale,
    T,
    H,
    HV,
    GROUP,
    K,
    V,
    BK: tl.constexpr,
    BV: tl.constexpr,
    HAS_STATE: tl.constexpr,
    WANTS_STATE: tl.constexpr,
    HAS_SLOTS: tl.constexpr,
    PACKED: tl.constexpr,
    ONE: tl.constexpr,
    UNIT: tl.constexpr,
):
    """One program: one sequence, one value head, BV columns. A slot below 0 is padding: reads zero, writes nothing.

    Programs that follow each other share a state's rows: memory is read and written in its own order.
    """
    K, V = K * UNIT, V * UNIT
    blocks, program = tl.cdiv(V, BV), tl.program_id(0)
    block, head, n = program % blocks, program // blocks % HV, (program // blocks // HV).to(tl.int64)
    if PACKED:  # launched before the host has judged the values
        start = tl.minimum(tl.maximum(tl.load(cu + n).to(tl.int64), 0), T)
        stop = tl.minimum(tl.load(cu + n + 1).to(tl.int64), T)
    else:
        start, stop = n * T, n * T + T
    where = n
    if HAS_SLOTS:
        where = tl.load(slots + n).to(tl.int64)
    rows, columns = tl.arange(0, BK), block * BV + tl.arange(0, BV)
    # Padding is masked like a lane outside the tensors; `where` is spread first: no mask is a scalar.
    inside, wide = (rows < K) & (rows * 0 + where >= 0), columns < V
    both = inside[:, None] & wide[None, :]
    # Where a state starts needs 64 bits, where its numbers are inside it 32.
    state, place = (where * HV + head) * K * V, rows[:, None] * V + columns[None, :]
    S = tl.zeros((BK, BV), tl.float32)
    if HAS_STATE:
        # Read once and written once: the second cache had better keep what else there is.
        S = tl.load(source + state + place, mask=both, other=0.0, eviction_policy="evict_first").to(tl.float32)
    key_head, padding = head // GROUP, columns * 0 + where < 0
    # Without a loop the token is on its way while the state still is. The last bit may differ from the loop's, so only
    # decoding from a pool, where a call has one token for every row, takes this way.
    if ONE:
        at = start * HV + head
        S = _token(
            S, q, k, v + at * V, g, beta, o + at * V, scale, start * H + key_head, at, K, rows, columns, inside, wide,
            padding,
        )  # fmt: skip
    else:
        for t in range(start, stop):
            at = t * HV + head
            S = _token(
                S, q, k, v + at * V, g, beta, o + at * V, scale, t * H + key_head, at, K, rows, columns, inside, wide,
                padding,
            )  # fmt: skip
    if WANTS_STATE:
        tl.store(sink + state + place, S, mask=both, eviction_policy="evict_first")


def triton_recurrent(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    """S_t = (I - beta_t k_t k_t^T) Diag(exp g_t) S_(t-1) + beta_t k_t v_t^T,  o_t = scale S_t^T q_t.

    Shapes and ranges are the contract's (`implementations/_contract.py`); float32, bfloat16 or float16. While a CUDA
    graph is captured the values of cu_seqlens are not judged: each counts as the nearest one between 0 and T.

    Raises:
        NotImplementedError: for float64, for gradients, and on a CPU without the interpreter.
    """
    shape = check(q, k, v, g, beta, initial_state=initial_state, cu_seqlens=cu_seqlens, values=False)
    ready(q, k, v, g, beta, initial_state)
    size = (shape.N, shape.HV, shape.K, shape.V)
    final_state = torch.empty(size, dtype=torch.float32, device=v.device) if output_final_state else None
    source = None if initial_state is None else initial_state.contiguous()
    judge = judgement(cu_seqlens, shape.T)
    o = _launch(q, k, v, g, beta, source, final_state, None, cu_seqlens, scale, shape)
    judge()
    return o, final_state


def pool_step(q, k, v, g, beta, *, pool, slots, cu_seqlens=None, scale=None):
    """One or a few tokens of N sequences whose states live in rows of a pool, updated in place.

    S <- pool[slots[n]], then the recurrence of `triton_recurrent` over the tokens of sequence n, then
    pool[slots[n]] <- S. A slot of -1 is padding: no row is read or written and its outputs are zero. Rows that no
    slot names keep their bits. No slot but -1 may occur twice.

    Args:
        q: [N, T, H, K], or [1, T, H, K] with cu_seqlens; k, v, g, beta as in the contract.
        k: see q.
        v: see q.
        g: see q.
        beta: see q.
        pool: [P, HV, K, V] float32, contiguous.
        slots: [N] integers below P; not read by the host.
        cu_seqlens: [N + 1], or None for T tokens each.
        scale: default K ** -0.5.

    Returns:
        o in v's shape and dtype. A row's bits do not depend on the other rows; with T = 1 they may differ in the last
        place from those of a longer or packed call.

    Raises:
        ValueError: for a wrong shape or a pool that is not contiguous.
        TypeError: for a wrong dtype.
        NotImplementedError: see `triton_recurrent`.
    """
    shape = check(q, k, v, g, beta, cu_seqlens=cu_seqlens)
    ready(q, k, v, g, beta, pool)
    if pool.ndim != 4 or tuple(pool.shape[1:]) != (shape.HV, shape.K, shape.V) or not pool.is_contiguous():
        raise ValueError(
            f"pool: expected contiguous [P, {shape.HV}, {shape.K}, {shape.V}]; got {tuple(pool.shape)} "
            f"with strides {pool.stride()}"
        )
    if pool.dtype != torch.float32:
        raise TypeError(f"pool: expected float32; got {dtype_name(pool)}")
    if tuple(slots.shape) != (shape.N,):
        raise ValueError(f"slots: expected one for each of {shape.N} sequences; got shape {tuple(slots.shape)}")
    if slots.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"slots: expected int32 or int64; got {dtype_name(slots)}")
    return _launch(q, k, v, g, beta, pool, pool, slots.contiguous(), cu_seqlens, scale, shape)


def _launch(q, k, v, g, beta, source, sink, slots, cu_seqlens, scale, shape):
    q, k, v, g, beta = (x.contiguous() for x in (q, k, v, g, beta))
    cu = None if cu_seqlens is None else placed(cu_seqlens, v.device).contiguous()
    o = torch.empty_like(v)
    BK = padded(shape.K)
    BV, warps = configuration(BK, padded(shape.V))
    unit = alignment(shape.K, shape.V)
    programs = shape.N * shape.HV * cdiv(shape.V, BV)
    if programs >= 2**31:
        raise NotImplementedError(f"{programs} programs (N x HV x blocks of {BV} columns): this kernel takes 2^31 - 1")
    if programs:
        launch(
            _recurrent, (programs,), q, k, v, g, beta, source, sink, slots, cu, o,
            shape.K**-0.5 if scale is None else scale, shape.T, H=shape.H, HV=shape.HV, GROUP=shape.HV // shape.H,
            K=shape.K // unit, V=shape.V // unit, BK=BK, BV=BV, HAS_STATE=source is not None,
            WANTS_STATE=sink is not None, HAS_SLOTS=slots is not None, PACKED=cu is not None,
            ONE=slots is not None and cu is None and shape.T == 1, UNIT=unit, num_warps=warps,
        )  # fmt: skip
    return o


def configuration(BK: int, V: int) -> tuple[int, int]:
    """Columns of a program and its warps, by the padded widths alone: 64 of 128 rows kept an H100's memory busiest."""
    columns = max(1, min(V, 8192 // BK))
    return columns, 2 if BK * columns > 2048 else 1
