"""The Triton code of the chunked forward for rows whose decay within a part of 16 tokens is beyond float32.

`_triton_pair.pair_kernel` marks the tiles that have such rows: few, if any.
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
    chunk_of,
    exponent,
    loaded,
    matrix,
    products_part,
    stored,
)  # fmt: skip


@triton.jit
def _mend(q, k, g, row, key_head, head, table, reads_at, keys_at, key_row, gate_row, length, K, BK: tl.constexpr,
         PRECISION: tl.constexpr, OPERAND: tl.constexpr):  # fmt: skip
    """Of a tile's A and its products of keys what rows beyond REACH have inside their parts."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    least = tl.zeros((C,), tl.float32)
    for b in range(BK // KB):
        gate = loaded(q, k, g, row, key_head, head, b, key_row, gate_row, length, K, False, False, OPERAND)[2]
        into = exponent(matrix(table, FROM_PART), gate, PRECISION, OPERAND)
        least = tl.minimum(least, tl.min(into, axis=1))
    far = least[:, None] < REACH
    reads, keys = by_levels(
        q, k, g, row, key_head, head, table, key_row, gate_row, far, length, K, BK, 4, PRECISION, OPERAND
    )
    chosen = far & (i // SUB == j // SUB) & (j <= i)
    tl.store(reads_at + i * C + j, stored(reads, reads_at, OPERAND), mask=chosen)
    tl.store(keys_at + i * C + j, keys, mask=chosen & (j < i))  # on the diagonal stands beta


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
    """One program: BLOCK of `count` tiles; of those that are marked it mends rows beyond REACH, inside their parts.

    A kernel of its own: as a branch of `solve_kernel` it makes that a third slower where nothing is marked.
    """
    K = K * UNIT
    first = tl.program_id(0).to(tl.int64) * BLOCK
    block = first + tl.arange(0, BLOCK)
    if tl.max(tl.load(marks + block, mask=block < count, other=0), axis=0) != 0:
        for tile in range(first, tl.minimum(first + BLOCK, count)):
            head, number = tile % HV, tile // HV
            row, length = chunk_of(chunks, number)
            if (length > 0) & (tl.load(marks + tile) != 0):  # where there is no chunk nobody has marked
                reads_at, keys_at = tiles + tile * SIZE + 3 * C * BK, products_part(exact, tile, BK, SIZE, WIDE)
                _mend(
                    q, k, g, row, head // (HV // H), head, table, reads_at, keys_at, H * K, HV * K, length, K, BK,
                    PRECISION, OPERAND,
                )  # fmt: skip
