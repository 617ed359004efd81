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


def _sum(count: int) -> str:
    """Assembly: products of `count` numbers in memory from $1 on, up to four of them read at once, added up."""
    said = "fma.rn.f32 $0, {x}, ${at}, {so_far};"
    lines = [".reg .f32 a, b, c, d;"]
    for s in range(0, count, 4):
        names = "abcd"[: count - s]
        read = {1: "ld.global.f32 a", 2: "ld.global.v2.f32 {a, b}"}.get(len(names), "ld.global.v4.f32 {a, b, c, d}")
        lines.append(f"{read}, [$1 + {4 * s}];")
        lines += [said.format(x=x, at=s + n + 2, so_far="$0" if s + n else "0f00000000") for n, x in enumerate(names)]
    return f"{{ {' '.join(lines)} }}"


SUMS = tl.constexpr(tuple(_sum(count) for count in range(HALF.value)))
REGISTERS = tl.constexpr(tuple("=&f,l" + ",f" * count for count in range(HALF.value)))


@triton.jit
def sum_before(block, rows, R: tl.constexpr, PTX: tl.constexpr):
    """The sum of M_Rs times row s over s < R, a column a thread; `block` is where each thread's block of M begins.

    With PTX one piece of assembly, not pure, so that no read is moved behind the barrier where rows are written over.
    One load for each number also works, but compiling 500 of them takes a minute.
    """
    if R == 0:
        return tl.zeros((2 * C,), tl.float32)
    elif PTX:
        numbers = ((block + R * C).to(tl.int64),) + rows  # noqa: RUF005
        return tl.inline_asm_elementwise(SUMS[R], REGISTERS[R], numbers, tl.float32, is_pure=False, pack=1)
    else:
        total = tl.zeros((2 * C,), tl.float32)
        for s in tl.static_range(R):
            total += tl.load(block + (R * C + s)) * rows[s]
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
