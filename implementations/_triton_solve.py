"""The Triton code of the chunked forward between its halves: T = (I + L)^-1 diag(beta), L = tril(beta k Gamma k^T, -1).

Reads and writes the tiles of `_triton_chunk`. With M = k Gamma k^T the rows of T are

    T_r = beta_r (e_r - sum of M_rs T_s over s < r)

inside blocks of 32 tokens, in float32, and below them T_10 = -T_11 M_10 T_00. bfloat16 inputs are multiplied there with
16 bits: with identical keys and beta near two the inverse has large entries of alternating sign, and eight bits of them
are not enough.
"""

import triton
import triton.language as tl

from implementations._triton_chunk import C, cut, fetch, products_part, solve_part, stored

HALF = tl.constexpr(32)


@triton.jit
def fine(a, b, PRECISION: tl.constexpr, OPERAND: tl.constexpr):
    """A product of float32 numbers with 16 bits of them where `dot` keeps 8."""
    if OPERAND == tl.bfloat16:
        a_high, a_low = cut(a)
        b_high, b_low = cut(b)
        return tl.dot(a_high, b_high, tl.dot(a_high, b_low, tl.dot(a_low, b_high)))
    else:
        return tl.dot(a, b, input_precision=PRECISION)


def _four(count: int) -> str:
    """Assembly: the number $1 plus products of `count` numbers in memory from $2 on, four of them read at once."""
    loads = {1: "ld.global.f32 a,", 2: "ld.global.v2.f32 {a, b},"}.get(count, "ld.global.v4.f32 {a, b, c, d},")
    names = "abcd"[:count]
    sums = [f"fma.rn.f32 $0, {x}, ${3 + n}, ${0 if n else 1};" for n, x in enumerate(names)]
    return f"{{ .reg .f32 a, b, c, d; {loads} [$2]; {' '.join(sums)} }}"


ONE, TWO, THREE, FOUR = (tl.constexpr(_four(count)) for count in range(1, 5))


@triton.jit
def _added(x, at, rows, FIRST: tl.constexpr, COUNT: tl.constexpr, PTX: tl.constexpr):
    """X plus products of up to four numbers, which stand at `at`, with as many rows from the FIRST on.

    With PTX one instruction reads the four, not pure, so that none is moved behind the barrier where rows are written
    over. One for each number also works, but compiling 500 of them takes a minute.
    """
    if not PTX:
        for s in tl.static_range(COUNT):
            x += tl.load(at + s) * rows[FIRST + s]
        return x
    elif COUNT == 1:
        numbers = [x, at.to(tl.int64), rows[FIRST]]
        return tl.inline_asm_elementwise(ONE, "=&f,f,l,f", numbers, tl.float32, is_pure=False, pack=1)
    elif COUNT == 2:
        numbers = [x, at.to(tl.int64), rows[FIRST], rows[FIRST + 1]]
        return tl.inline_asm_elementwise(TWO, "=&f,f,l,f,f", numbers, tl.float32, is_pure=False, pack=1)
    elif COUNT == 3:
        numbers = [x, at.to(tl.int64), rows[FIRST], rows[FIRST + 1], rows[FIRST + 2]]
        return tl.inline_asm_elementwise(THREE, "=&f,f,l,f,f,f", numbers, tl.float32, is_pure=False, pack=1)
    else:
        numbers = [x, at.to(tl.int64), rows[FIRST], rows[FIRST + 1], rows[FIRST + 2], rows[FIRST + 3]]
        return tl.inline_asm_elementwise(FOUR, "=&f,f,l,f,f,f,f", numbers, tl.float32, is_pure=False, pack=1)


@triton.jit
def sum_before(block, rows, R: tl.constexpr, PTX: tl.constexpr):
    """The sum of M_Rs times row s over s < R, a column a thread; `block` is where each thread's block of M begins."""
    total = tl.zeros((2 * C,), tl.float32)
    for s in tl.static_range(0, R, 4):
        total = _added(total, block + (R * C + s), rows, s, R - s if R - s < 4 else 4, PTX)
    return total


@triton.jit
def two_tiles(count, WIDTH: tl.constexpr):
    """The tiles, of `count`, of 2 * WIDTH numbers in a row; the last one twice where it is alone.

    The last tiles first: of those the second cache still holds what was written.
    """
    place = tl.num_programs(0) - 1 - tl.program_id(0)
    tile = 2 * place.to(tl.int64) + tl.arange(0, 2 * WIDTH) // WIDTH
    return tl.minimum(tile, count - 1)


@triton.jit
def asked_for(exact, tile, BK: tl.constexpr, SIZE: tl.constexpr, WIDE: tl.constexpr):
    """Asks for the lines of two tiles' products: two a row, of whose upper rows the second holds nothing."""
    row = tl.arange(0, 2 * C) % C
    line = products_part(exact, tile, BK, SIZE, WIDE) + row * C
    fetch(line)
    fetch(line + tl.where(row < HALF, 0, HALF))


@triton.jit
def written_over(block, rows):
    """Rows of diagonal blocks in place of what stood there, once nobody reads that any more."""
    tl.debug_barrier()
    for r in tl.static_range(HALF):
        tl.store(block + r * C + tl.arange(0, 2 * C) % HALF, rows[r])
    tl.debug_barrier()


@triton.jit
def below(at, FIRST: tl.constexpr):
    """Of two tiles that begin at `at` the left halves of HALF rows from the FIRST on, below each other."""
    return (at + (tl.arange(0, C) % HALF + FIRST) * C)[:, None] + tl.arange(0, HALF)[None, :]


@triton.jit
def beside(at, FIRST: tl.constexpr):
    """The same, beside each other."""
    return (at + tl.arange(0, C) % HALF)[None, :] + (tl.arange(0, HALF) + FIRST)[:, None] * C


@triton.jit
def own_blocks(x):
    """Of products of two tiles' rows [2 n, ..] and columns [.., 2 n] those of one tile, below each other, [2 n, n]."""
    left, right = tl.split(tl.permute(tl.reshape(x, (x.shape[0], 2, x.shape[1] // 2)), (0, 2, 1)))
    return tl.where(tl.arange(0, x.shape[0])[:, None] < x.shape[0] // 2, left, right)


@triton.jit
def _diagonal(block, PTX: tl.constexpr):
    """T's rows inside diagonal blocks of 32 x 32, of which every thread holds a column."""
    column = tl.arange(0, 2 * C) % HALF
    rows = ()
    for r in tl.static_range(HALF):
        taken = sum_before(block, rows, r, PTX)
        strength = tl.load(block + r * (C + 1))
        rows += (strength * (tl.where(column == r, 1.0, 0.0) - taken),)
    return rows


@triton.jit(do_not_specialize=["count"])
def solve_kernel(
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
    """One program: two of `count` tiles; T in place of the products of keys, on whose diagonal beta stands.

    Where there is no chunk it inverts what it finds; nobody reads that. With PTX, instructions of NVIDIA's ask for all
    products at once, as far as the second cache, and read four numbers at a time.
    """
    tile, column = two_tiles(count, C), tl.arange(0, 2 * C) % C
    if PTX:
        asked_for(exact, tile, BK, SIZE, WIDE)
    block = products_part(exact, tile, BK, SIZE, WIDE) + column // HALF * (HALF * (C + 1))
    written_over(block, _diagonal(block, PTX))
    own = two_tiles(count, HALF)
    products = products_part(exact, own, BK, SIZE, WIDE)
    upper, lower, across, down = below(products, 0), below(products, HALF), beside(products, 0), beside(products, HALF)
    second = tl.load(lower + HALF)
    between = own_blocks(fine(second, tl.load(down), PRECISION, OPERAND))
    between = -own_blocks(fine(between, tl.load(across), PRECISION, OPERAND))
    first = tl.load(upper)
    tl.debug_barrier()  # T takes the place of the products, which other threads of this program have read
    T = solve_part(tiles + own * SIZE, BK, WIDE)
    upper, lower = below(T, 0), below(T, HALF)
    tl.store(upper, stored(first, tiles, OPERAND))
    tl.store(upper + HALF, stored(tl.zeros_like(first), tiles, OPERAND))
    tl.store(lower, stored(between, tiles, OPERAND))
    tl.store(lower + HALF, stored(second, tiles, OPERAND))
