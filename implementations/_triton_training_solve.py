"""The Triton code of the chunked backward in bfloat16 between pairs and walks: Z, of which both inverses are made.

With M = tril(k Gamma k^T, -1) and D = diag(beta), as in `_triton_backward`,

    Z = (I + M D)^-1 M        X = (I + D M)^-1 = I - D Z        Y = (I + M D)^-1 = I - Z D

so one strictly lower triangular matrix in place of two inverses, and a walk never rounds what the identity passes on.
"""

import triton
import triton.language as tl

from implementations._triton_chunk import SUB, C, between, chunk_of, exact_part, solve_part, stored
from implementations._triton_solve import fine, written_over


@triton.jit
def _diagonal(products, beta, HV, length):
    """In place of the diagonal blocks of 16 x 16 of M those of Z = M - M D Z, row after row.

    Every thread holds a column of a block.
    """
    column = tl.arange(0, C)
    first = column // SUB * SUB
    block = products + first * C + first
    rows, strengths = (), ()
    for r in tl.static_range(SUB):
        row = tl.load(block + r * C + column % SUB)
        for s in tl.static_range(r):
            row -= tl.load(block + r * C + s) * strengths[s] * rows[s]
        rows += (row,)
        strengths += (tl.load(beta + (first + r) * HV, mask=first + r < length, other=0.0).to(tl.float32),)
    written_over(block, rows)


@triton.jit(do_not_specialize=["HV"])
def core_kernel(
    beta,
    chunks,
    strengths,
    tiles,
    exact,
    HV,
    BK: tl.constexpr,
    SIZE: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """One program: one chunk of one value head; Z in place of the products of keys, as `solve_kernel` puts T there.

    Writes also beta in float32 by chunk, `strengths` [chunk, HV, C], zero behind the sequence: walks read it at once.

    Blocks of 16 are solved in float32; between blocks of 16, then of 32, Z is Y M X with what stands on the diagonal.
    """
    program = tl.program_id(0).to(tl.int64)
    head, number = program % HV, program // HV
    start, length = chunk_of(chunks, number)
    products = exact_part(exact, program, BK, SIZE, WIDE) + BK
    beta += start * HV + head
    _diagonal(products, beta, HV, length)
    i, j, places = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :], tl.arange(0, C)
    down = tl.load(beta + places * HV, mask=places < length, other=0.0).to(tl.float32)[:, None]
    across = tl.load(beta + tl.arange(0, C) * HV, mask=tl.arange(0, C) < length, other=0.0).to(tl.float32)[None, :]
    tl.store(strengths + program * C + i, down)
    Z = tl.load(products + i * C + j, mask=i // SUB == j // SUB, other=0.0)
    M = tl.load(products + i * C + j, mask=i // SUB > j // SUB, other=0.0)
    for level in range(4, 6):
        one = tl.where(i == j, 1.0, 0.0)
        step = tl.where(between(level), fine(one - Z * across, M, PRECISION, OPERAND), 0.0)
        Z += fine(step, one - down * Z, PRECISION, OPERAND)
    tl.debug_barrier()  # Z takes the place of the products, which other threads of this program have read
    at = solve_part(tiles + program * SIZE, BK, WIDE) + i * C + j
    high = stored(Z, tiles, OPERAND)
    tl.store(at, high)
    tl.store(at + C * C, stored(Z - high.to(tl.float32), tiles, OPERAND))
