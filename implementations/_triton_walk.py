"""The Triton code of the chunked forward, second half: the walk of the state over chunks and over segments.

With the tiles of `_triton_chunk` a chunk takes the state S before it to

    v' = T (v - kd S)          o = scale (qd S + A v')          S <- last S + kg^T v'

which is serial over chunks. Here the state is held transposed, [BV, BK], so that every product has what the last one
left in registers on its left and a part of a tile on its right: nothing that the chain waits for goes through shared
memory. `rows` and `pairs` describe the tiles to the hardware that copies them there, as rows of BK numbers (kd, qd, kg)
and of C numbers (A, T); `exact` is the tiles as float32.

A long sequence of few heads is cut into segments: what a segment does to the state is S -> M S + N, so M and N of all
segments are found side by side (walking from the identity without values, and from zero), the states between segments
follow one after the other, and then all segments walk at once.
"""

import triton
import triton.language as tl

from implementations._triton_chunk import C, ahead, cut, dot, exact_part, solve_part


@triton.jit
def whole_of(exact, tile, left, BK: tl.constexpr, SIZE: tl.constexpr, WIDE: tl.constexpr):
    """The decay of a whole chunk, [BK], while any are left."""
    channels = tl.arange(0, BK)
    return ahead(exact_part(exact, tile, BK, SIZE, WIDE), channels, channels < BK, left)


@triton.jit
def rows_of(rows, tile, which: tl.constexpr, BK: tl.constexpr, SIZE: tl.constexpr):
    """Of a tile kd (0), qd (1) or kg (2), [C, BK]."""
    return rows.load([(tile * (SIZE // BK)).to(tl.int32) + which * C, 0])


@triton.jit
def _pairs(pairs, tile, which: tl.constexpr, BK: tl.constexpr, SIZE: tl.constexpr, WIDE: tl.constexpr):
    """Of a tile A (0) or T (1), [C, C], transposed."""
    first = solve_part(0, BK, WIDE) if which else 3 * C * BK
    return tl.trans(pairs.load([(tile * (SIZE // C)).to(tl.int32) + first // C, 0]))


@triton.jit
def _written(S, rows, T, tile, value, BK: tl.constexpr, SIZE: tl.constexpr, PRECISION: tl.constexpr,
             OPERAND: tl.constexpr):  # fmt: skip
    """What a chunk writes into the state S before it, v'^T [BV, C], given `value`, (T v)^T."""
    held = dot(S, tl.trans(rows_of(rows, tile, 0, BK, SIZE)), PRECISION, OPERAND)
    return tl.dot((-held).to(OPERAND), T.to(OPERAND), value, input_precision=PRECISION)


@triton.jit(do_not_specialize=["HV", "K", "V", "scale"])
def walk_kernel(
    v,
    rows,
    pairs,
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

    `segments` [.., 7]: first chunk, chunks, sequence, first token, token behind the sequence, whether it is the last,
    and which one it is in the order of sequences; zeros where there is no segment. `starts` [.., HV, K, V]: the state
    before each segment, in the order of sequences. K and V come in multiples of UNIT.
    """
    K, V = K * UNIT, V * UNIT
    blocks: tl.constexpr = VP // BV
    program = tl.program_id(0).to(tl.int64)
    block, head, m = program % blocks, (program // blocks) % HV, program // (blocks * HV)
    first, count = tl.load(segments + 7 * m), tl.load(segments + 7 * m + 1)
    token, stop = tl.load(segments + 7 * m + 3), tl.load(segments + 7 * m + 4)
    i, channels, columns = tl.arange(0, C), tl.arange(0, BK), block * BV + tl.arange(0, BV)
    fits = columns < V
    at_state = (head * K + channels)[None, :] * V + columns[:, None]
    inner = (channels < K)[None, :] & fits[:, None]
    S = tl.zeros((BV, BK), tl.float32)
    if HAS_STATE:
        before = starts + tl.load(segments + 7 * m + 6) * (HV * K * V)
        S += tl.load(before + at_state, mask=inner, other=0.0).to(tl.float32)
    whole = whole_of(exact, first * HV + head, count, BK, SIZE, WIDE)
    for c in range(count):
        tile, tokens = (first + c) * HV + head, token + c * C + i
        later = whole_of(exact, tile + HV, count - c - 1, BK, SIZE, WIDE)
        at, real = ((tokens * HV + head) * V)[:, None] + columns[None, :], (tokens < stop)[:, None] & fits[None, :]
        T = _pairs(pairs, tile, 1, BK, SIZE, WIDE)
        value = dot(tl.trans(tl.load(v + at, mask=real, other=0.0)), T, PRECISION, OPERAND)
        value = _written(S, rows, T, tile, value, BK, SIZE, PRECISION, OPERAND)
        read = dot(S, tl.trans(rows_of(rows, tile, 1, BK, SIZE)), PRECISION, OPERAND)
        read += dot(value, _pairs(pairs, tile, 0, BK, SIZE, WIDE), PRECISION, OPERAND)
        S = S * whole[None, :] + dot(value, rows_of(rows, tile, 2, BK, SIZE), PRECISION, OPERAND)
        whole = later
        tl.store(o + at, tl.trans((scale * read).to(o.dtype.element_ty)), mask=real)
    if WANTS_STATE:
        if tl.load(segments + 7 * m + 5) != 0:
            n = tl.load(segments + 7 * m + 2)
            tl.store(final_state + n * (HV * K * V) + at_state, S, mask=inner)


@triton.jit(do_not_specialize=["HV", "V"])
def transition_kernel(
    v,
    rows,
    pairs,
    exact,
    segments,
    M,
    N,
    HV,
    V,
    BK: tl.constexpr,
    VP: tl.constexpr,
    SIZE: tl.constexpr,
    WIDE: tl.constexpr,
    BV: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    UNIT: tl.constexpr,
):
    """One program: BV columns of what one segment does to the state: of M [BK, BK] or of N [BK, VP]."""
    V = V * UNIT
    of_M: tl.constexpr = BK // BV
    blocks: tl.constexpr = of_M + VP // BV
    program = tl.program_id(0).to(tl.int64)
    block, head, m = program % blocks, (program // blocks) % HV, program // (blocks * HV)
    first, count = tl.load(segments + 7 * m), tl.load(segments + 7 * m + 1)
    if (count > 0) & (tl.load(segments + 7 * m + 5) == 0):
        token, stop = tl.load(segments + 7 * m + 3), tl.load(segments + 7 * m + 4)
        channels, number = tl.arange(0, BK), tl.load(segments + 7 * m + 6) * HV + head
        from_zero = block >= of_M
        columns = tl.where(from_zero, block - of_M, block) * BV + tl.arange(0, BV)
        S = tl.where((channels[None, :] == columns[:, None]) & (block < of_M), 1.0, 0.0)
        last = tl.where(from_zero, stop, token)  # M has no values
        whole = whole_of(exact, first * HV + head, count, BK, SIZE, WIDE)
        for c in range(count):
            tile, tokens = (first + c) * HV + head, token + c * C + tl.arange(0, C)
            later = whole_of(exact, tile + HV, count - c - 1, BK, SIZE, WIDE)
            at = ((tokens * HV + head) * V)[:, None] + columns[None, :]
            real = (tokens < last)[:, None] & (columns < V)[None, :]
            T = _pairs(pairs, tile, 1, BK, SIZE, WIDE)
            value = dot(tl.trans(tl.load(v + at, mask=real, other=0.0)), T, PRECISION, OPERAND)
            value = _written(S, rows, T, tile, value, BK, SIZE, PRECISION, OPERAND)
            S = S * whole[None, :] + dot(value, rows_of(rows, tile, 2, BK, SIZE), PRECISION, OPERAND)
            whole = later
        if from_zero:
            tl.store(N + number * (BK * VP) + channels[None, :] * VP + columns[:, None], S)
        else:
            at = channels[None, :] * BK + columns[:, None]
            if OPERAND == tl.bfloat16:  # cut in two once: each step between segments would do it again
                high, low = cut(S)
                tl.store(M + number * (2 * BK * BK) + at, high)
                tl.store(M + number * (2 * BK * BK) + BK * BK + at, low)
            else:
                tl.store(M + number * (BK * BK) + at, S)


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
