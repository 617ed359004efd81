"""The Triton code of the chunked backward in bfloat16 between pairs and walks: Z, of which both inverses are made.

With M = tril(k Gamma k^T, -1) and D = diag(beta), as in `_triton_backward`,

    Z = (I + M D)^-1 M        X = (I + D M)^-1 = I - D Z        Y = (I + M D)^-1 = I - Z D

so one strictly lower triangular matrix in place of two inverses, and a walk never rounds what the identity passes on.
"""

import triton
import triton.language as tl

from implementations._triton_chunk import C, products_part, solve_part, stored
from implementations._triton_solve import (
    HALF,
    asked_for,
    below,
    beside,
    fine,
    own_blocks,
    sum_before,
    two_tiles,
    written_over,
)


@triton.jit
def _diagonal(block, PTX: tl.constexpr):
    """Z's rows Z_r = M_r - sum of M_rs beta_s Z_s over s < r inside diagonal blocks of 32 x 32, a column a thread."""
    column = tl.arange(0, 2 * C) % HALF
    rows, scaled = (), ()
    for r in tl.static_range(HALF):
        taken = sum_before(block, scaled, r, PTX)
        rows += (tl.load(block + r * C + column, mask=column < r, other=0.0) - taken,)
        scaled += (tl.load(block + r * (C + 1)) * rows[r],)
    return rows


@triton.jit
def _cut(at, Z, tiles, OPERAND: tl.constexpr):
    """Sixteen bits of Z, as two matrices behind each other."""
    high = stored(Z, tiles, OPERAND)
    tl.store(at, high)
    tl.store(at + C * C, stored(Z - high.to(tl.float32), tiles, OPERAND))


@triton.jit(do_not_specialize=["count"])
def core_kernel(
    strengths,
    tiles,
    exact,
    count,
    BK: tl.constexpr,
    SIZE: tl.constexpr,
    WIDE: tl.constexpr,
    PTX: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """One program: two of `count` tiles; Z in place of the products of keys, as `solve_kernel` puts T there.

    Writes also beta in float32 by tile, `strengths` [count, C], zero behind the sequence: walks read it at once.

    Blocks of 32 are solved in float32; below them Z_10 = Y_11 M_10 X_00 with what stands on the diagonal.
    """
    tile, column = two_tiles(count, C), tl.arange(0, 2 * C) % C
    if PTX:
        asked_for(exact, tile, BK, SIZE, WIDE)
    products = products_part(exact, tile, BK, SIZE, WIDE)
    tl.store(strengths + tile * C + column, tl.load(products + column * (C + 1)))
    block = products + column // HALF * (HALF * (C + 1))
    written_over(block, _diagonal(block, PTX))
    own, i, j = two_tiles(count, HALF), tl.arange(0, C) % HALF, tl.arange(0, HALF)
    products, beta = products_part(exact, own, BK, SIZE, WIDE), strengths + own * C
    second = tl.load(below(products, HALF) + HALF)
    Y = tl.where(i[:, None] == j[None, :], 1.0, 0.0) - second * tl.load((beta + HALF)[:, None] + j[None, :])
    M, Z = tl.load(beside(products, HALF)), tl.load(beside(products, 0))
    X = tl.where(i[None, :] == j[:, None], 1.0, 0.0) - tl.load(beta[None, :] + j[:, None]) * Z
    lower = own_blocks(fine(own_blocks(fine(Y, M, PRECISION, OPERAND)), X, PRECISION, OPERAND))
    first = tl.load(below(products, 0))
    tl.debug_barrier()  # Z takes the place of the products, which other threads of this program have read
    at = solve_part(tiles + own * SIZE, BK, WIDE)
    _cut(below(at, 0), first, tiles, OPERAND)
    _cut(below(at, 0) + HALF, tl.zeros_like(first), tiles, OPERAND)
    _cut(below(at, HALF), lower, tiles, OPERAND)
    _cut(below(at, HALF) + HALF, second, tiles, OPERAND)
