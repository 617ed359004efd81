"""The Triton code of the chunked forward, first half: what a chunk needs of itself, all chunks side by side.

A chunk has 64 tokens in 4 parts of 16. `_triton_pair.pair_kernel` multiplies every query and key with the keys before
it, decayed by what lies between; `_triton_solve.solve_kernel` inverts the triangular matrix of the keys. The decay
between two tokens is a product of two whose exponents are sums of log decays, never positive: nothing overflows at any
gate, and no row looks at a later one. Between the halves of a chunk, and between the parts of a half, both tokens decay
to the border. Inside a part the decay splits as exp2(G_i) exp2(-G_j), exact enough while G, the sum of log2 decays from
the part's start, stays above -110 (a gate of -4.7 at every token reaches it at the 16th). Rows beyond that, and all
rows of float16 and float32 inputs, take the way to the border inside parts too, between blocks of 8, 4, 2 and 1. Which
way a row takes depends on that row and earlier ones alone, so the future changes no bit of the past.

What the halves of the computation hand over is one tile a chunk and head, in bfloat16 or float32, its rows zero behind
the sequence (`tile_size` numbers):

    kd, qd  [C, BK]   k and q decayed from the chunk's start
    kg      [C, BK]   k decayed to its end
    A       [C, C]    tril(q Gamma k^T)
    last    [BK]      the decay of the whole chunk, in float32
    T       [C, C]    (I + L)^-1 diag(beta), L = tril(beta k Gamma k^T, -1); before that, in float32, the products
                      k Gamma k^T, of which blocks of 16 x 16 on or below the diagonal are written and read, with beta
                      on the diagonal
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
# exp(-111) is 2^-160: 0 in float32 even after a state of 1e4 and values of 2^20. bfloat16 holds the number exactly.
LEAST = tl.constexpr(-111.0)
C = tl.constexpr(64)
SUB = tl.constexpr(16)
KB = tl.constexpr(64)
REACH = tl.constexpr(-110.0)
SMALLEST = tl.constexpr(2.0**-126)  # the interpreter casts smaller numbers to arbitrary bfloat16 ones
# The rows of the table of 0 and 1: which tokens' gates a row sums.
FROM_START, TO_END, TO_HALF, FROM_PART, TO_PART, TO_BORDER = (tl.constexpr(n) for n in range(6))


def tile_size(BK: int, WIDE: int) -> int:
    """Numbers in a tile, of which a float32 number takes the room of WIDE."""
    return 3 * C.value * BK + C.value**2 + WIDE * BK + WIDE * C.value**2


def choices() -> list[list[list[bool]]]:
    """The table [10, C, C] of which tokens' gates a row sums.

    From the chunk's start, to its end, to the middle; from the part's start, to its end; to the border between
    neighbouring blocks of 1, 2, 4, 8 and 16 tokens: odd blocks from it, even ones up to it.
    """
    rules = [lambda i, j: j <= i, lambda i, j: j > i, lambda i, j: (j <= i) == (i >= 32) and i // 32 == j // 32]
    rules += [lambda i, j: j <= i and i // 16 == j // 16, lambda i, j: j > i and i // 16 == j // 16]
    rules += [lambda i, j, n=n: (j <= i) == (i >> n & 1) and i >> n == j >> n for n in range(5)]
    return [[[bool(rule(i, j)) for j in range(64)] for i in range(64)] for rule in rules]


@triton.jit
def chunk_of(chunks, number):
    """The first token of a chunk, and how many it has: none where a row of zeros stands for no chunk."""
    row = tl.load(chunks + 2 * number)
    return row, tl.minimum(tl.load(chunks + 2 * number + 1) - row, C).to(tl.int32)


@triton.jit
def exact_part(exact, tile, BK: tl.constexpr, SIZE: tl.constexpr, WIDE: tl.constexpr):
    """Where a tile's float32 numbers begin in `exact`: `last`, and behind it the products of keys."""
    return exact + tile * (SIZE // WIDE) + (3 * C * BK + C * C) // WIDE


@triton.jit
def products_part(exact, tile, BK: tl.constexpr, SIZE: tl.constexpr, WIDE: tl.constexpr):
    """Where a tile's products of keys begin in `exact`, behind `last`."""
    return exact_part(exact, tile, BK, SIZE, WIDE) + BK


@triton.jit
def solve_part(tile, BK: tl.constexpr, WIDE: tl.constexpr):
    """Where the T of a tile begins that begins at `tile`."""
    return tile + 3 * C * BK + C * C + WIDE * BK


@triton.jit
def dot(a, b, PRECISION: tl.constexpr, OPERAND: tl.constexpr):
    """A matrix product summed in float32, with operands rounded to OPERAND."""
    return tl.dot(a.to(OPERAND), b.to(OPERAND), input_precision=PRECISION)


@triton.jit
def stored(x, tiles, OPERAND: tl.constexpr):
    """Numbers as a tile holds them; where Triton's interpreter would cast what is below 2^-126 to anything, to 0."""
    if (OPERAND == tl.float32) and (tiles.dtype.element_ty == tl.bfloat16):
        x = tl.where(tl.abs(x) < SMALLEST, 0.0, x)
    return x.to(tiles.dtype.element_ty)


@triton.jit
def ahead(decays, channels, wide, left):
    """The decay of a whole chunk by channel, while any chunks are left.

    Asked for a chunk ahead: no product takes it, so no pipeline fetches it.
    """
    return tl.load(decays + channels, mask=wide & (channels * 0 < left), other=0.0)


@triton.jit
def cut(x):
    """Float32 numbers as sums of two bfloat16 ones, 16 bits of them; a bit mask costs less than rounding and back."""
    high = (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
    return high.to(tl.bfloat16), (x - high).to(tl.bfloat16)


@triton.jit
def _gates(gate, OPERAND: tl.constexpr):
    """Log decays, cut off where nothing is left anyway; to base 2, unless they are bfloat16 and summed as they are."""
    if (OPERAND == tl.bfloat16) and (gate.dtype == tl.bfloat16):
        return gate
    else:
        return tl.maximum(gate.to(tl.float32), LEAST) * LOG2E


@triton.jit
def fetch(at):
    """Asks for lines of memory to be brought to the second cache; nothing waits for them."""
    code: tl.constexpr = "prefetch.global.L2 [$1]; mov.u32 $0, 0;"
    tl.inline_asm_elementwise(code, "=r,l", [at.to(tl.int64)], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def loaded(q, k, g, row, key_head, head, b, key_row, gate_row, length, K, COPIED: tl.constexpr, FETCH: tl.constexpr,
           OPERAND: tl.constexpr):  # fmt: skip
    """Queries, keys and log decays of a chunk, KB channels from b * KB on; all are asked for before one is used.

    With COPIED q, k and g are tensor descriptors, and the chunk is whole; otherwise they are pointers, and with FETCH
    the next channels are asked for too, as far as the second cache.
    """
    if COPIED:
        row = row.to(tl.int32)
        gate = tl.reshape(g.load([head, row, b * KB]), (C, KB))
        key = tl.reshape(k.load([key_head, row, b * KB]), (C, KB))
        query = tl.reshape(q.load([key_head, row, b * KB]), (C, KB))
    else:
        i, channels = tl.arange(0, C)[:, None], b * KB + tl.arange(0, KB)[None, :]
        mask = (i < length) & (channels < K)
        at_gate, at_key = row * gate_row + head * K, row * key_row + key_head * K
        gate = tl.load(g + at_gate + i * gate_row + channels, mask=mask, other=0.0)
        key = tl.load(k + at_key + i * key_row + channels, mask=mask, other=0.0)
        query = tl.load(q + at_key + i * key_row + channels, mask=mask, other=0.0)
        if FETCH and ((b + 1) * KB < K):
            rows, later = tl.minimum(tl.arange(0, C), length - 1), (b + 1) * KB
            fetch(g + (at_gate + later) + rows * gate_row)
            fetch(k + (at_key + later) + rows * key_row)
            fetch(q + (at_key + later) + rows * key_row)
    return query.to(tl.float32), key.to(tl.float32), _gates(gate, OPERAND)


@triton.jit
def stacked(a, b):
    """[a; b]: one product in place of two, and every thread keeps its own numbers."""
    return tl.reshape(tl.permute(tl.join(a, b), (2, 0, 1)), (2 * a.shape[0], a.shape[1]))


@triton.jit
def unstacked(x):
    """The upper and the lower half of a matrix."""
    return tl.split(tl.permute(tl.reshape(x, (2, x.shape[0] // 2, x.shape[1])), (1, 2, 0)))


@triton.jit
def matrix(table, which, ROWS: tl.constexpr = C):
    """A matrix of the table; with ROWS = 2 C, two that follow each other, stacked."""
    return tl.load(table + which * (C * C) + tl.arange(0, ROWS)[:, None] * C + tl.arange(0, C)[None, :])


@triton.jit
def exponent(chosen, gate, PRECISION: tl.constexpr, OPERAND: tl.constexpr):
    """Log2 of decays [C, n]: sums of the gates that a matrix of 0 and 1 chooses."""
    if OPERAND == tl.float32:
        return tl.dot(chosen.to(tl.float32), gate, input_precision=PRECISION)
    elif gate.dtype == tl.float32:
        high, low = cut(gate)
        return tl.dot(chosen, high, tl.dot(chosen, low))
    else:
        return tl.dot(chosen, gate) * LOG2E


@triton.jit
def between(level):
    """Pairs [C, C] of a row in an odd block of 2^level tokens and a column in the block before it."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    return (i >> level == (j >> level) + 1) & ((i >> level) % 2 == 1)


@triton.jit
def by_levels(q, k, g, row, key_head, head, table, key_row, gate_row, far, length, K, BK: tl.constexpr,
              LEVELS: tl.constexpr, PRECISION: tl.constexpr, OPERAND: tl.constexpr):  # fmt: skip
    """q_i . Gamma_ij k_j for j <= i and k_i . Gamma_ij k_j for j < i at any gate, [C, C].

    For rows that are `far`, and pairs of tokens in the same block of 2^LEVELS.

    Level by level: a pair belongs to the blocks of 1, 2, 4, 8 (or 16) tokens that are neighbours, and both decay to the
    border between them.
    """
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    reads, keys = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    for b in range(BK // KB):
        for level in range(LEVELS):
            query, key, gate = loaded(
                q, k, g, row, key_head, head, b, key_row, gate_row, length, K, False, False, OPERAND
            )
            decay = tl.exp2(exponent(matrix(table, TO_BORDER + level), gate, PRECISION, OPERAND))
            if level == 0:
                reads += tl.where((i == j) & far, tl.sum(query * key, axis=1)[:, None], 0.0)
            key, query = key * decay, query * decay
            target, pairs = tl.trans(key), between(level) & far
            reads += tl.where(pairs, dot(query, target, PRECISION, OPERAND), 0.0)
            keys += tl.where(pairs, dot(key, target, PRECISION, OPERAND), 0.0)
    return reads, keys
