"""The Triton code of the chunked forward, second half: the walk of the state over chunks and over segments.

With the tiles of `_triton_chunk.chunk_kernel` a chunk takes the state S before it to

    v' = u - w S          o = scale (qg S + A v')          S <- last S + kg^T v'

which is serial over chunks. A long sequence of few heads is cut into segments: what a segment does to the state is
S -> M S + N, so M and N of all segments are found side by side (walking from the identity without values, and from
zero), the states between segments follow one after the other, and then all segments walk at once.
"""

import triton
import triton.language as tl

from implementations._triton_chunk import C, dot


@triton.jit
def _step(S, w, u, kg, last, tile, columns, BK: tl.constexpr, VP: tl.constexpr, PRECISION: tl.constexpr,
          OPERAND: tl.constexpr, VALUES: tl.constexpr):  # fmt: skip
    """The values written in a chunk, and the state behind it."""
    i, channels = tl.arange(0, C), tl.arange(0, BK)
    at_key = tile * (C * BK) + i[:, None] * BK + channels[None, :]
    held = dot(tl.load(w + at_key), S, PRECISION, OPERAND)
    if VALUES:
        held = tl.load(u + tile * (C * VP) + i[:, None] * VP + columns[None, :]).to(tl.float32) - held
    else:
        held = -held
    key = tl.load(kg + at_key)
    whole = tl.load(last + tile * BK + channels)
    return held, S * whole[:, None] + dot(tl.trans(key), held, PRECISION, OPERAND)


@triton.jit(do_not_specialize=["HV", "K", "V", "scale"])
def walk_kernel(
    A,
    w,
    u,
    qg,
    kg,
    last,
    segments,
    starts,
    o,
    final_state,
    scale,
    HV,
    K,
    V,
    BK: tl.constexpr,
    VP: tl.constexpr,
    BV: tl.constexpr,
    HAS_STATE: tl.constexpr,
    WANTS_STATE: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    UNIT: tl.constexpr,
):
    """One program: one segment of one value head, BV columns of its state, chunk after chunk.

    `segments` [.., 6]: first chunk, chunks, sequence, first token, token behind the sequence, whether it is the last.
    `starts` [segment, HV, K, V]: the state before each segment. K and V come in multiples of UNIT.
    """
    K, V = K * UNIT, V * UNIT
    blocks: tl.constexpr = VP // BV
    program = tl.program_id(0).to(tl.int64)
    block, head, m = program % blocks, (program // blocks) % HV, program // (blocks * HV)
    first, count = tl.load(segments + 6 * m), tl.load(segments + 6 * m + 1)
    n, token, stop = tl.load(segments + 6 * m + 2), tl.load(segments + 6 * m + 3), tl.load(segments + 6 * m + 4)
    i, channels, columns = tl.arange(0, C), tl.arange(0, BK), block * BV + tl.arange(0, BV)
    fits = columns < V
    at_state = (head * K + channels)[:, None] * V + columns[None, :]
    inner = (channels < K)[:, None] & fits[None, :]
    S = tl.zeros((BK, BV), tl.float32)
    if HAS_STATE:
        S += tl.load(starts + m * (HV * K * V) + at_state, mask=inner, other=0.0).to(tl.float32)
    for c in range(count):
        tile = (first + c) * HV + head
        at_key = tile * (C * BK) + i[:, None] * BK + channels[None, :]
        read = dot(tl.load(qg + at_key), S, PRECISION, OPERAND)
        value, S = _step(S, w, u, kg, last, tile, columns, BK, VP, PRECISION, OPERAND, True)
        read += dot(tl.load(A + tile * (C * C) + i[:, None] * C + i[None, :]), value, PRECISION, OPERAND)
        rows = token + c * C + i
        at_value = ((rows * HV + head) * V)[:, None] + columns[None, :]
        tl.store(o + at_value, (scale * read).to(o.dtype.element_ty), mask=(rows < stop)[:, None] & fits[None, :])
    if WANTS_STATE:
        if tl.load(segments + 6 * m + 5) != 0:
            tl.store(final_state + n * (HV * K * V) + at_state, S, mask=inner)


@triton.jit(do_not_specialize=["HV"])
def transition_kernel(
    w,
    u,
    kg,
    last,
    segments,
    M,
    N,
    HV,
    BK: tl.constexpr,
    VP: tl.constexpr,
    BV: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """One program: BV columns of what one segment does to the state: of M [BK, BK] or of N [BK, VP]."""
    of_M: tl.constexpr = BK // BV
    blocks: tl.constexpr = of_M + VP // BV
    program = tl.program_id(0).to(tl.int64)
    block, head, m = program % blocks, (program // blocks) % HV, program // (blocks * HV)
    if tl.load(segments + 6 * m + 5) == 0:
        first, count = tl.load(segments + 6 * m), tl.load(segments + 6 * m + 1)
        channels, tile = tl.arange(0, BK), m * HV + head
        if block < of_M:
            columns = block * BV + tl.arange(0, BV)
            S = tl.where(channels[:, None] == columns[None, :], 1.0, 0.0)
            for c in range(count):
                _, S = _step(S, w, u, kg, last, (first + c) * HV + head, columns, BK, VP, PRECISION, OPERAND, False)
            tl.store(M + tile * (BK * BK) + channels[:, None] * BK + columns[None, :], S)
        else:
            columns = (block - of_M) * BV + tl.arange(0, BV)
            S = tl.zeros((BK, BV), tl.float32)
            for c in range(count):
                _, S = _step(S, w, u, kg, last, (first + c) * HV + head, columns, BK, VP, PRECISION, OPERAND, True)
            tl.store(N + tile * (BK * VP) + channels[:, None] * VP + columns[None, :], S)


@triton.jit(do_not_specialize=["HV", "K", "V"])
def link_kernel(
    M,
    N,
    sequences,
    initial_state,
    starts,
    HV,
    K,
    V,
    BK: tl.constexpr,
    VP: tl.constexpr,
    BV: tl.constexpr,
    HAS_STATE: tl.constexpr,
    PRECISION: tl.constexpr,
    UNIT: tl.constexpr,
):
    """One program: BV columns of the states before all segments of one sequence and head: S <- M S + N."""
    K, V = K * UNIT, V * UNIT
    blocks: tl.constexpr = VP // BV
    program = tl.program_id(0).to(tl.int64)
    block, head, n = program % blocks, (program // blocks) % HV, program // (blocks * HV)
    first, count = tl.load(sequences + 2 * n), tl.load(sequences + 2 * n + 1)
    channels, columns = tl.arange(0, BK), block * BV + tl.arange(0, BV)
    at_state = (head * K + channels)[:, None] * V + columns[None, :]
    inner = (channels < K)[:, None] & (columns < V)[None, :]
    S = tl.zeros((BK, BV), tl.float32)
    if HAS_STATE:
        S += tl.load(initial_state + n * (HV * K * V) + at_state, mask=inner, other=0.0).to(tl.float32)
    for m in range(first, first + count - 1):
        tl.store(starts + m * (HV * K * V) + at_state, S, mask=inner)
        tile = m * HV + head
        step = tl.load(M + tile * (BK * BK) + channels[:, None] * BK + channels[None, :])
        S = tl.dot(step, S, input_precision=PRECISION)
        S += tl.load(N + tile * (BK * VP) + channels[:, None] * VP + columns[None, :])
    tl.store(starts + (first + count - 1) * (HV * K * V) + at_state, S, mask=inner)
