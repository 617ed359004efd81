"""The Triton code of the chunked forward for rows whose decay within a part of 16 tokens is beyond float32.

`_triton_chunk.pair_kernel` marks the tiles that have such rows: few, if any.
"""

import triton
import triton.language as tl

from implementations._triton_chunk import (
    FROM_PART,
    KB,
    REACH,
    SUB,
    C,
    by_levels,
    exact_part,
    exponent,
    loaded,
    matrix,
    stored,
)  # fmt: skip


@triton.jit(do_not_specialize=["H", "HV", "K", "count"])
def far_kernel(
    q,
    k,
    g,
    chunks,
    table,
    tiles,
    exact,
    marks,
    count,
    H,
    HV,
    K,
    BK: tl.constexpr,
    SIZE: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    UNIT: tl.constexpr,
):
    """One program: BLOCK of `count` tiles; of those that are marked it mends rows beyond REACH, inside their parts."""
    K = K * UNIT
    first = tl.program_id(0).to(tl.int64) * BLOCK
    block = first + tl.arange(0, BLOCK)
    if tl.max(tl.load(marks + block, mask=block < count, other=0), axis=0) != 0:
        i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
        for tile in range(first, tl.minimum(first + BLOCK, count)):
            head, number = tile % HV, tile // HV
            start = tl.load(chunks + 2 * number)
            length = tl.minimum(tl.load(chunks + 2 * number + 1) - start, C).to(tl.int32)
            if (length > 0) & (tl.load(marks + tile) != 0):  # tiles of no chunk have no mark
                key_at, gate_at = (start * H + head // (HV // H)) * K, (start * HV + head) * K
                least = tl.zeros((C,), tl.float32)
                for b in range(BK // KB):
                    gate = loaded(q + key_at, k + key_at, g + gate_at, b, H * K, HV * K, length, K, False, OPERAND)[2]
                    into = exponent(matrix(table, FROM_PART), gate, PRECISION, OPERAND)
                    least = tl.minimum(least, tl.min(into, axis=1))
                far = least[:, None] < REACH
                reads, keys = by_levels(
                    q + key_at, k + key_at, g + gate_at, table, H * K, HV * K, far, length, K, BK, 4, PRECISION, OPERAND
                )
                chosen = far & (i // SUB == j // SUB) & (j <= i)
                A, products = tiles + tile * SIZE + 3 * C * BK, exact_part(exact, tile, BK, SIZE, WIDE) + BK
                tl.store(A + i * C + j, stored(reads, tiles, OPERAND), mask=chosen)
                tl.store(products + i * C + j, keys, mask=chosen)
