"""The Triton code of the chunked forward between its halves: T = (I + L)^-1 diag(beta), L = tril(beta k Gamma k^T, -1).

Reads and writes the tiles of `_triton_chunk`. bfloat16 inputs are solved with 16 bits: with identical keys and beta
near two the inverse has large entries of alternating sign, and eight bits of them are not enough.
"""

import triton
import triton.language as tl

from implementations._triton_chunk import SUB, C, between, chunk_of, cut, exact_part, fetch, solve_part, stored


@triton.jit
def fine(a, b, PRECISION: tl.constexpr, OPERAND: tl.constexpr):
    """A product of float32 numbers with 16 bits of them where `dot` keeps 8."""
    if OPERAND == tl.bfloat16:
        a_high, a_low = cut(a)
        b_high, b_low = cut(b)
        return tl.dot(a_high, b_high, tl.dot(a_high, b_low, tl.dot(a_low, b_high)))
    else:
        return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def written_over(block, rows):
    """Rows of diagonal blocks in place of what stood there, once nobody reads that any more."""
    tl.debug_barrier()
    for r in tl.static_range(SUB):
        tl.store(block + r * C + tl.arange(0, C) % SUB, rows[r])
    tl.debug_barrier()


@triton.jit
def _diagonal(products, beta, HV, length):
    """In place of the products of keys, the inverses of the diagonal blocks of 16 x 16 of I + L, row after row.

    Every thread holds a column of a block.
    """
    column = tl.arange(0, C)
    first = column // SUB * SUB
    block = products + first * C + first
    rows = ()
    for r in tl.static_range(SUB):
        taken = tl.zeros((C,), tl.float32)
        for s in tl.static_range(r):
            taken += tl.load(block + r * C + s) * rows[s]
        strength = tl.load(beta + (first + r) * HV, mask=first + r < length, other=0.0).to(tl.float32)
        rows += (tl.where(column % SUB == r, 1.0, 0.0) - strength * taken,)
    written_over(block, rows)


@triton.jit(do_not_specialize=["HV"])
def solve_kernel(
    beta,
    chunks,
    tiles,
    exact,
    HV,
    BK: tl.constexpr,
    SIZE: tl.constexpr,
    WIDE: tl.constexpr,
    FETCH: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """One program: one chunk of one value head; T in place of the products of keys.

    Blocks of 16 are inverted in float32, those of 32 and 64 follow from X - X L X with what L has between blocks. With
    FETCH all that L has is asked for at once, as far as the second cache.
    """
    program = tl.program_id(0).to(tl.int64)
    head, number = program % HV, program // HV
    start, length = chunk_of(chunks, number)
    if length <= 0:
        return
    products = exact_part(exact, program, BK, SIZE, WIDE) + BK
    beta += start * HV + head
    if FETCH:
        line = tl.arange(0, 2 * C)  # two a row; the second of an upper row has nothing
        fetch(products + tl.where((line % 2 == 1) & (line < C), 0, line) * (C // 2))
    _diagonal(products, beta, HV, length)
    i, j, places = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :], tl.arange(0, C)
    strength = tl.load(beta + places * HV, mask=places < length, other=0.0).to(tl.float32)
    X = tl.load(products + i * C + j, mask=i // SUB == j // SUB, other=0.0)
    L = tl.load(products + i * C + j, mask=i // SUB > j // SUB, other=0.0) * strength[:, None]
    for level in range(4, 6):
        step = tl.where(between(level), fine(X, L, PRECISION, OPERAND), 0.0)
        X -= fine(step, X, PRECISION, OPERAND)
    tl.debug_barrier()  # T takes the place of the products, which other threads of this program have read
    T = stored(X * strength[None, :], tiles, OPERAND)
    tl.store(solve_part(tiles + program * SIZE, BK, WIDE) + i * C + j, T)
