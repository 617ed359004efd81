"""The Triton code of the chunked forward, second half: the walk of the state over chunks and over segments.

With the tiles of `_triton_chunk` a chunk takes the state S before it to

    v' = u - w S          o = scale (qg S + A v')          S <- last S + kg^T v'

which is serial over chunks; `exact` is `tiles` as float32. A long sequence of few heads is cut into segments: what a
segment does to the state is S -> M S + N, so M and N of all segments are found side by side (walking from the identity
without values, and from zero), the states between segments follow one after the other, and then all segments walk at
once.
"""

import triton
import triton.language as tl

from implementations._triton_chunk import C, ahead, cut, dot, exact_part, values_part


@triton.jit
def _whole(exact, tile, left, BK: tl.constexpr, SIZE: tl.constexpr, WIDE: tl.constexpr):
    """The decay of a whole chunk, [BK], while any are left."""
    channels = tl.arange(0, BK)
    return ahead(exact_part(exact, tile, BK, SIZE, WIDE), channels, channels < BK, left)


@triton.jit
def _behind(S, w, value, whole, BK: tl.constexpr, PRECISION: tl.constexpr, OPERAND: tl.constexpr):
    """The state behind a chunk in which `value` is written."""
    kg = tl.load(w + 2 * C * BK + tl.arange(0, C)[:, None] * BK + tl.arange(0, BK)[None, :])
    return S * whole[:, None] + dot(tl.trans(kg), value, PRECISION, OPERAND)


@triton.jit(do_not_specialize=["HV", "K", "V", "scale"])
def walk_kernel(
    tiles,
    exact,
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
    SIZE: tl.constexpr,
    WIDE: tl.constexpr,
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
    both = tl.arange(0, 2 * C)[:, None]
    whole = _whole(exact, first * HV + head, count, BK, SIZE, WIDE)
    for c in range(count):
        tile = (first + c) * HV + head
        later = _whole(exact, tile + HV, count - c - 1, BK, SIZE, WIDE)
        w = tiles + tile * SIZE
        held = dot(tl.load(w + both * BK + channels[None, :]), S, PRECISION, OPERAND)  # w S above qg S
        held, read = tl.split(tl.permute(tl.reshape(held, (2, C, BV)), (1, 2, 0)))
        u, A = values_part(w, BK, WIDE), w + 3 * C * BK
        value = tl.load(u + i[:, None] * VP + columns[None, :]).to(tl.float32) - held
        S = _behind(S, w, value, whole, BK, PRECISION, OPERAND)
        read += dot(tl.load(A + i[:, None] * C + i[None, :]), value, PRECISION, OPERAND)
        whole = later
        rows = token + c * C + i
        at_value = ((rows * HV + head) * V)[:, None] + columns[None, :]
        tl.store(o + at_value, (scale * read).to(o.dtype.element_ty), mask=(rows < stop)[:, None] & fits[None, :])
    if WANTS_STATE:
        if tl.load(segments + 6 * m + 5) != 0:
            tl.store(final_state + n * (HV * K * V) + at_state, S, mask=inner)


@triton.jit
def _through(S, tiles, exact, first, count, HV, columns, BK: tl.constexpr, VP: tl.constexpr, SIZE: tl.constexpr,
             WIDE: tl.constexpr, PRECISION: tl.constexpr, OPERAND: tl.constexpr, VALUES: tl.constexpr):  # fmt: skip
    """The state behind `count` chunks of a head, the first tile of which is `first`; with or without values written."""
    i, channels = tl.arange(0, C)[:, None], tl.arange(0, BK)[None, :]
    whole = _whole(exact, first, count, BK, SIZE, WIDE)
    for c in range(count):
        tile = first + c * HV
        later = _whole(exact, tile + HV, count - c - 1, BK, SIZE, WIDE)
        w = tiles + tile * SIZE
        value = -dot(tl.load(w + i * BK + channels), S, PRECISION, OPERAND)
        if VALUES:
            value += tl.load(values_part(w, BK, WIDE) + i * VP + columns[None, :]).to(tl.float32)
        S = _behind(S, w, value, whole, BK, PRECISION, OPERAND)
        whole = later
    return S


@triton.jit(do_not_specialize=["HV"])
def transition_kernel(
    tiles,
    exact,
    segments,
    M,
    N,
    HV,
    BK: tl.constexpr,
    VP: tl.constexpr,
    SIZE: tl.constexpr,
    WIDE: tl.constexpr,
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
        first, channels, tile = first * HV + head, tl.arange(0, BK), m * HV + head
        if block < of_M:
            columns = block * BV + tl.arange(0, BV)
            S = tl.where(channels[:, None] == columns[None, :], 1.0, 0.0)
            S = _through(S, tiles, exact, first, count, HV, columns, BK, VP, SIZE, WIDE, PRECISION, OPERAND, False)
            at = channels[:, None] * BK + columns[None, :]
            if OPERAND == tl.bfloat16:  # cut in two once: each step between segments would do it again
                high, low = cut(S)
                tl.store(M + tile * (2 * BK * BK) + at, high)
                tl.store(M + tile * (2 * BK * BK) + BK * BK + at, low)
            else:
                tl.store(M + tile * (BK * BK) + at, S)
        else:
            columns = (block - of_M) * BV + tl.arange(0, BV)
            S = tl.zeros((BK, BV), tl.float32)
            S = _through(S, tiles, exact, first, count, HV, columns, BK, VP, SIZE, WIDE, PRECISION, OPERAND, True)
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
    CUT: tl.constexpr,
    PRECISION: tl.constexpr,
    UNIT: tl.constexpr,
):
    """One program: BV columns of the states before all segments of one sequence and head: S <- M S + N.

    With CUT, M comes as two bfloat16 matrices whose sum it is; S is cut in three, so what M leaves alone stays float32.
    """
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
        within = channels[:, None] * BK + channels[None, :]
        added = tl.load(N + tile * (BK * VP) + channels[:, None] * VP + columns[None, :])
        if CUT:
            step = tl.load(M + tile * (2 * BK * BK) + within)
            fine = tl.load(M + tile * (2 * BK * BK) + BK * BK + within)
            high, rest = cut(S)
            low = (S - high.to(tl.float32) - rest.to(tl.float32)).to(tl.bfloat16)
            S = tl.dot(step, high, tl.dot(step, rest, tl.dot(fine, high, tl.dot(step, low, tl.dot(fine, rest, added)))))
        else:
            S = tl.dot(tl.load(M + tile * (BK * BK) + within), S, input_precision=PRECISION) + added
    tl.store(starts + (first + count - 1) * (HV * K * V) + at_state, S, mask=inner)
