"""The Triton code of the chunked forward between its halves: T = (I + L)^-1 diag(beta), L = tril(beta k Gamma k^T, -1).

Reads and writes the tiles of `_triton_chunk`. bfloat16 inputs are solved with 16 bits: with identical keys and beta
near two the inverse has large entries of alternating sign, and eight bits of them are not enough.
"""

import triton
import triton.language as tl

from implementations._triton_chunk import KB, C, between, cut, dot, exact_part, stored, values_part


@triton.jit
def _fine(a, b, PRECISION: tl.constexpr, OPERAND: tl.constexpr):
    """A product of float32 numbers with 16 bits of them where `dot` keeps 8."""
    if OPERAND == tl.bfloat16:
        a_high, a_low = cut(a)
        b_high, b_low = cut(b)
        return tl.dot(a_high, b_high, tl.dot(a_high, b_low, tl.dot(a_low, b_high)))
    else:
        return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _inverse(L, PRECISION: tl.constexpr, OPERAND: tl.constexpr):
    """(I + L)^-1 of a strictly lower triangular [C, C], from blocks of 2 to 4, 8, .., 64.

    X - X L X with what L has between blocks; in a loop at run time, for code that is compiled once.
    """
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    X = tl.where(i == j, 1.0, 0.0) - tl.where((i == j + 1) & (i % 2 == 1), L, 0.0)
    for level in range(1, 6):
        step = tl.where(between(level), _fine(X, L, PRECISION, OPERAND), 0.0)
        X -= _fine(step, X, PRECISION, OPERAND)
    return X


@triton.jit(do_not_specialize=["HV", "V"])
def solve_kernel(
    v,
    beta,
    chunks,
    tiles,
    exact,
    HV,
    V,
    BK: tl.constexpr,
    VP: tl.constexpr,
    SIZE: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    UNIT: tl.constexpr,
):
    """One program: one chunk of one value head; T of the products of keys, and with it a tile's w and u."""
    V = V * UNIT
    program = tl.program_id(0).to(tl.int64)
    head, number = program % HV, program // HV
    start = tl.load(chunks + 2 * number)
    length = tl.minimum(tl.load(chunks + 2 * number + 1) - start, C).to(tl.int32)
    tiles += program * SIZE
    products = exact_part(exact, program, BK, SIZE, WIDE) + BK
    i, places = tl.arange(0, C)[:, None], tl.arange(0, C)
    strength = tl.load(beta + (start + places) * HV + head, mask=places < length, other=0.0).to(tl.float32)
    L = tl.load(products + i * C + places[None, :])
    inverse = _inverse(L * strength[:, None], PRECISION, OPERAND) * strength[None, :]
    tl.debug_barrier()  # u takes the place of the products, which other threads of this program have read
    channels = tl.arange(0, KB)[None, :]
    v += (start * HV + head) * V
    w, u = tiles + i * BK, values_part(tiles, BK, WIDE) + i * VP
    for b in range(tl.maximum(BK, VP) // KB):  # both are asked for before one is used
        columns = b * KB + channels
        fits = (places < length)[:, None] & (columns < V)
        key = tl.load(w + columns, mask=columns < BK, other=0.0)
        value = tl.load(v + i * (HV * V) + columns, mask=fits, other=0.0)
        key = dot(inverse, key, PRECISION, OPERAND)
        tl.store(w + columns, stored(key, tiles, OPERAND), mask=columns < BK)
        value = dot(inverse, value, PRECISION, OPERAND)
        tl.store(u + columns, stored(value, tiles, OPERAND), mask=columns < VP)
