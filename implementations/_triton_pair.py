"""The Triton code of the chunked forward, first half: the kernel of all pairs of tokens inside chunks.

Its parts and the tiles that it writes are explained in `_triton_chunk`.
"""

import triton
import triton.language as tl

from implementations._triton_chunk import (
    FROM_PART,
    FROM_START,
    KB,
    REACH,
    SUB,
    TO_HALF,
    C,
    by_levels,
    chunk_of,
    exact_part,
    exponent,
    loaded,
    matrix,
    stacked,
    stored,
    unstacked,
)

# Heads that one program takes for what crosses the middle; a program for each head takes the rest.
HEADS = tl.constexpr(2)


@triton.jit
def _across(q, k, g, rows, row, first, heads, span, table, tiles, exact, number, key_row, gate_row, length, K,
            BK: tl.constexpr, SIZE: tl.constexpr, WIDE: tl.constexpr, COPIED: tl.constexpr, FETCH: tl.constexpr,
            STAGES: tl.constexpr, PRECISION: tl.constexpr, OPERAND: tl.constexpr):  # fmt: skip
    """Kd, qd, kg and last of the tiles of `heads` heads, and what crosses the middle of the products with keys.

    One loop over channels of all heads, so that those of the next head are copied meanwhile.
    """
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C // 2)[None, :]
    pairs = tl.zeros((2 * C, C // 2), tl.float32)
    both, to_half = matrix(table, FROM_START, 2 * C), matrix(table, TO_HALF)
    blocks: tl.constexpr = BK // KB
    for turn in tl.range(0, heads * blocks, num_stages=STAGES):
        n = turn // blocks
        b = turn - n * blocks
        query, key, gate = loaded(
            q, k, g, row, (first + n) // span, first + n, b, key_row, gate_row, length, K, COPIED, FETCH, OPERAND
        )
        tile, decays = tiles + (number + n) * SIZE, exact_part(exact, number + n, BK, SIZE, WIDE)
        channels = b * KB + tl.arange(0, KB)[None, :]
        at = tile + i * BK + channels
        whole, rest = unstacked(tl.exp2(exponent(both, gate, PRECISION, OPERAND)))
        if COPIED and (gate.dtype == tl.bfloat16):
            at_tile = ((number + n) * (SIZE // BK)).to(tl.int32)
            rows.store([at_tile, b * KB], stored(stacked(key * whole, query * whole), tiles, OPERAND))
            tl.store(decays + channels + i * 0, whole, mask=i == C - 1)
        else:  # float32 gates leave less shared memory: two programs a multiprocessor need half of it each
            tl.store(at, stored(key * whole, tiles, OPERAND))
            tl.store(at + C * BK, stored(query * whole, tiles, OPERAND))
            tl.store(decays + b * KB + tl.arange(0, KB), tl.sum(tl.where(i == C - 1, whole, 0.0), axis=0))
        tl.store(at + 2 * C * BK, stored(key * rest, tiles, OPERAND))
        half = tl.exp2(exponent(to_half, gate, PRECISION, OPERAND))
        held = (key * half).to(OPERAND)
        target = tl.trans(tl.split(tl.permute(tl.reshape(held, (2, C // 2, KB)), (1, 2, 0)))[0])
        pairs = tl.dot(stacked((query * half).to(OPERAND), held), target, pairs, input_precision=PRECISION)
        if b == blocks - 1:
            reads, keys = unstacked(pairs)
            crossing = (i >= C // 2) & (j < C // 2)
            tl.store(tile + 3 * C * BK + i * C + j, stored(reads, tiles, OPERAND), mask=crossing)
            tl.store(decays + BK + i * C + j, keys, mask=crossing)
            pairs = tl.zeros((2 * C, C // 2), tl.float32)


@triton.jit
def _near(q, k, g, beta, row, key_head, head, HV, table, tile, exact, mark, key_row, gate_row, length, K,
          BK: tl.constexpr, FAST: tl.constexpr, COPIED: tl.constexpr, FETCH: tl.constexpr, STAGES: tl.constexpr,
          PRECISION: tl.constexpr, OPERAND: tl.constexpr):  # fmt: skip
    """The products of queries or keys with keys of the same half of a chunk, A's zeros, and beta on the diagonal."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    strength = tl.load(beta + (row + i) * HV + head, mask=i < length, other=0.0).to(tl.float32)
    if FAST:
        # Queries and keys on the left, below each other; on the right keys of the same part and of the part before it.
        pairs = tl.zeros((2 * C, 2 * C), tl.float32)
        least = tl.zeros((C,), tl.float32)
        parts = matrix(table, FROM_PART, 2 * C)
        for b in tl.range(0, BK // KB, num_stages=STAGES):
            query, key, gate = loaded(
                q, k, g, row, key_head, head, b, key_row, gate_row, length, K, COPIED, FETCH, OPERAND
            )
            into, to_end = unstacked(exponent(parts, gate, PRECISION, OPERAND))
            least = tl.minimum(least, tl.min(into, axis=1))
            here = tl.exp2(into)
            left = stacked((query * here).to(OPERAND), (key * here).to(OPERAND))
            inside = (key * tl.exp2(tl.minimum(-into, -REACH))).to(OPERAND)
            before = (key * tl.exp2(to_end)).to(OPERAND)
            pairs = tl.dot(left, tl.trans(stacked(inside, before)), pairs, input_precision=PRECISION)
        within, across = tl.split(tl.permute(tl.reshape(pairs, (2 * C, 2, C)), (0, 2, 1)))
        same = stacked(i // SUB, i // SUB) == j // SUB
        reads, keys = unstacked(tl.where(same, within, across))
        tl.store(mark, (tl.min(least, axis=0) < REACH).to(tl.int32))
    else:
        reads, keys = by_levels(
            q, k, g, row, key_head, head, table, key_row, gate_row, i >= 0, length, K, BK, 5, PRECISION, OPERAND
        )
    here = (j // SUB <= i // SUB) & (i // (C // 2) == j // (C // 2))
    reads = stored(tl.where(here & (j <= i), reads, 0.0), tile, OPERAND)
    tl.store(tile + 3 * C * BK + i * C + j, reads, mask=(i < C // 2) | (j >= C // 2))
    tl.store(exact + BK + i * C + j, tl.where(j < i, keys, tl.where(j == i, strength, 0.0)), mask=here)


@triton.jit
def _pairs(q, k, g, beta, rows, row, side, first, heads, HV, span, table, tiles, exact, marks, number, key_row,
           gate_row, length, K, BK: tl.constexpr, SIZE: tl.constexpr, WIDE: tl.constexpr, FAST: tl.constexpr,
           COPIED: tl.constexpr, FETCH: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
           OPERAND: tl.constexpr):  # fmt: skip
    if side == HEADS:
        _across(
            q, k, g, rows, row, first, heads, span, table, tiles, exact, number, key_row, gate_row, length, K, BK, SIZE,
            WIDE, COPIED, FETCH, STAGES, PRECISION, OPERAND,
        )  # fmt: skip
    elif side < heads:
        head, number = first + side, number + side
        _near(
            q, k, g, beta, row, head // span, head, HV, table, tiles + number * SIZE,
            exact_part(exact, number, BK, SIZE, WIDE), marks + number, key_row, gate_row, length, K, BK, FAST, COPIED,
            FETCH, STAGES, PRECISION, OPERAND,
        )  # fmt: skip


@triton.jit(do_not_specialize=["start", "stride", "tokens", "H", "HV", "K"])
def pair_kernel(
    q,
    k,
    g,
    beta,
    whole_q,
    whole_k,
    whole_g,
    rows,
    chunks,
    table,
    tiles,
    exact,
    marks,
    start,
    stride,
    tokens,
    H,
    HV,
    K,
    BK: tl.constexpr,
    SIZE: tl.constexpr,
    WIDE: tl.constexpr,
    EVEN: tl.constexpr,
    FAST: tl.constexpr,
    COPIED: tl.constexpr,
    FETCH: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    UNIT: tl.constexpr,
):
    """The programs of a chunk and HEADS value heads: one for each head's near pairs, one for what crosses the middle.

    They write a tile's kd, qd, kg, A, last and k Gamma k^T, with beta on its diagonal.

    `chunks` [.., 2] holds each chunk's first token and the token behind its sequence, or zeros where there is no
    chunk. With EVEN sequences have `tokens` tokens each, the first begins at `start`, another every `stride` tokens.
    `exact` is `tiles` as float32. With FAST the tiles that have rows beyond REACH are marked, for
    `_triton_far.far_kernel`; without, every row goes the long way. K comes in multiples of UNIT, which tells the
    compiler its alignment without a compilation for each width. With COPIED whole chunks are copied by the
    hardware, all channels ahead: `whole_q`, `whole_k` and `whole_g` describe the inputs to it by head, token and
    channel, `rows` the tiles as rows of BK numbers.
    """
    K = K * UNIT
    groups = tl.cdiv(HV, HEADS)
    group, side = tl.program_id(0) // (HEADS + 1), tl.program_id(0) % (HEADS + 1)
    first, chunk = group % groups * HEADS, (group // groups).to(tl.int64)
    if EVEN:  # what is not looked up is not waited for
        sequence = chunk // tl.cdiv(tokens, C)
        within = (chunk - sequence * tl.cdiv(tokens, C)) * C
        row, length = start + sequence * stride + within, tl.minimum(tokens - within, C).to(tl.int32)
    else:
        row, length = chunk_of(chunks, chunk)
    heads, number, span = tl.minimum(HEADS, HV - first), chunk * HV + first, HV // H
    if COPIED and (length == C):
        _pairs(
            whole_q, whole_k, whole_g, beta, rows, row, side, first, heads, HV, span, table, tiles, exact, marks,
            number, H * K, HV * K, length, K, BK, SIZE, WIDE, FAST, True, False, 3, PRECISION, OPERAND,
        )  # fmt: skip
    elif length > 0:
        _pairs(
            q, k, g, beta, rows, row, side, first, heads, HV, span, table, tiles, exact, marks, number, H * K, HV * K,
            length, K, BK, SIZE, WIDE, FAST, False, FETCH, 1, PRECISION, OPERAND,
        )  # fmt: skip
