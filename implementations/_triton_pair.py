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


@triton.jit
def _across(q, k, g, rows, row, key_head, head, table, tile, exact, at_tile, key_row, gate_row, length, K,
            BK: tl.constexpr, COPIED: tl.constexpr, FETCH: tl.constexpr, STAGES: tl.constexpr,
            PRECISION: tl.constexpr, OPERAND: tl.constexpr):  # fmt: skip
    """A tile's kd, qd, kg and last, and what crosses the chunk's middle of the products with keys."""
    i = tl.arange(0, C)[:, None]
    pairs = tl.zeros((2 * C, C // 2), tl.float32)
    both, to_half = matrix(table, FROM_START, 2 * C), matrix(table, TO_HALF)
    for b in tl.range(0, BK // KB, num_stages=STAGES):
        query, key, gate = loaded(q, k, g, row, key_head, head, b, key_row, gate_row, length, K, COPIED, FETCH, OPERAND)
        channels = b * KB + tl.arange(0, KB)[None, :]
        at = tile + i * BK + channels
        whole, rest = unstacked(tl.exp2(exponent(both, gate, PRECISION, OPERAND)))
        if COPIED and (gate.dtype == tl.bfloat16):
            rows.store([at_tile, b * KB], stored(stacked(key * whole, query * whole), tile, OPERAND))
            tl.store(exact + channels + i * 0, whole, mask=i == C - 1)
        else:  # float32 gates leave less shared memory: two programs a multiprocessor need half of it each
            tl.store(at, stored(key * whole, tile, OPERAND))
            tl.store(at + C * BK, stored(query * whole, tile, OPERAND))
            tl.store(exact + b * KB + tl.arange(0, KB), tl.sum(tl.where(i == C - 1, whole, 0.0), axis=0))
        tl.store(at + 2 * C * BK, stored(key * rest, tile, OPERAND))
        half = tl.exp2(exponent(to_half, gate, PRECISION, OPERAND))
        held = (key * half).to(OPERAND)
        target = tl.trans(tl.split(tl.permute(tl.reshape(held, (2, C // 2, KB)), (1, 2, 0)))[0])
        pairs = tl.dot(stacked((query * half).to(OPERAND), held), target, pairs, input_precision=PRECISION)
    reads, keys = unstacked(pairs)
    j = tl.arange(0, C // 2)[None, :]
    crossing = (i >= C // 2) & (j < C // 2)
    tl.store(tile + 3 * C * BK + i * C + j, stored(reads, tile, OPERAND), mask=crossing)
    tl.store(exact + BK + i * C + j, keys, mask=crossing)


@triton.jit
def _near(q, k, g, row, key_head, head, table, tile, exact, mark, key_row, gate_row, length, K, BK: tl.constexpr,
          FAST: tl.constexpr, COPIED: tl.constexpr, FETCH: tl.constexpr, STAGES: tl.constexpr,
          PRECISION: tl.constexpr, OPERAND: tl.constexpr):  # fmt: skip
    """The products of queries or keys with keys of the same half of a chunk, and A's zeros."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
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
    tl.store(exact + BK + i * C + j, tl.where(j < i, keys, 0.0), mask=here)


@triton.jit
def _pairs(q, k, g, rows, row, key_head, head, table, tile, exact, mark, at_tile, key_row, gate_row, length, K,
           BK: tl.constexpr, FAST: tl.constexpr, COPIED: tl.constexpr, FETCH: tl.constexpr, STAGES: tl.constexpr,
           PRECISION: tl.constexpr, OPERAND: tl.constexpr):  # fmt: skip
    if tl.program_id(0) % 2 == 0:
        _across(
            q, k, g, rows, row, key_head, head, table, tile, exact, at_tile, key_row, gate_row, length, K, BK, COPIED,
            FETCH, STAGES, PRECISION, OPERAND,
        )  # fmt: skip
    else:
        _near(
            q, k, g, row, key_head, head, table, tile, exact, mark, key_row, gate_row, length, K, BK, FAST, COPIED,
            FETCH, STAGES, PRECISION, OPERAND,
        )  # fmt: skip


@triton.jit(do_not_specialize=["H", "HV", "K"])
def pair_kernel(
    q,
    k,
    g,
    whole_q,
    whole_k,
    whole_g,
    rows,
    chunks,
    table,
    tiles,
    exact,
    marks,
    H,
    HV,
    K,
    BK: tl.constexpr,
    SIZE: tl.constexpr,
    WIDE: tl.constexpr,
    FAST: tl.constexpr,
    COPIED: tl.constexpr,
    FETCH: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    UNIT: tl.constexpr,
):
    """Two programs for each chunk of one value head; they write a tile's kd, qd, kg, A, last and k Gamma k^T.

    `chunks` [.., 2] holds each chunk's first token and the token behind its sequence, or zeros where there is no
    chunk; `exact` is `tiles` as float32. With FAST the tiles that have rows beyond REACH are marked, for
    `_triton_far.far_kernel`; without, every row goes the long way. K comes in multiples of UNIT, which tells the
    compiler its alignment without a compilation for each width. With COPIED whole chunks are copied by the
    hardware, all channels ahead: `whole_q`, `whole_k` and `whole_g` describe the inputs to it by head, token and
    channel, `rows` the tiles as rows of BK numbers.
    """
    K = K * UNIT
    program = tl.program_id(0).to(tl.int64) // 2
    head, number = program % HV, program // HV
    row, length = chunk_of(chunks, number)
    head, at_tile = head.to(tl.int32), (program * (SIZE // BK)).to(tl.int32)
    key_head = head // (HV // H)
    tile, mark = tiles + program * SIZE, marks + program
    exact = exact_part(exact, program, BK, SIZE, WIDE)
    if COPIED and (length == C):
        _pairs(
            whole_q, whole_k, whole_g, rows, row, key_head, head, table, tile, exact, mark, at_tile, H * K, HV * K,
            length, K, BK, FAST, True, False, 3, PRECISION, OPERAND,
        )  # fmt: skip
    elif length > 0:
        _pairs(
            q, k, g, rows, row, key_head, head, table, tile, exact, mark, at_tile, H * K, HV * K, length, K, BK, FAST,
            False, FETCH, 1, PRECISION, OPERAND,
        )  # fmt: skip
