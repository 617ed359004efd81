"""The Triton code of the chunked forward, first half: what a chunk needs of itself, all chunks side by side.

A chunk has 64 tokens in 4 parts of 16. `pair_kernel` multiplies every query and key with the keys before it, decayed by
what lies between; `_triton_solve.solve_kernel` inverts the triangular matrix of the keys and applies it. The decay
between two tokens is a product of two whose exponents are sums of log decays, never positive: nothing overflows at any
gate, and no row looks at a later one. Between the halves of a chunk, and between the parts of a half, both tokens decay
to the border. Inside a part the decay splits as exp2(G_i) exp2(-G_j), exact enough while G, the sum of log2 decays from
the part's start, stays above -110 (a gate of -4.7 at every token reaches it at the 16th). Rows beyond that, and all
rows of float16 and float32 inputs, take the way to the border inside parts too, between blocks of 8, 4, 2 and 1. Which
way a row takes depends on that row and earlier ones alone, so the future changes no bit of the past.

What the halves of the computation hand over is one tile a chunk and head, in bfloat16 or float32, its rows zero behind
the sequence (`tile_size` numbers):

    w       [C, BK]   T (k decayed from the chunk's start), T = (I + tril(beta k Gamma k^T, -1))^-1 diag(beta)
    qg, kg  [C, BK]   q decayed from the chunk's start, k decayed to its end
    A       [C, C]    tril(q Gamma k^T)
    last    [BK]      the decay of the whole chunk, in float32
    u       [C, VP]   T v; before that, in float32, the products k Gamma k^T [C, C]
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


def tile_size(BK: int, VP: int, WIDE: int) -> int:
    """Numbers in a tile, of which a float32 number takes the room of WIDE."""
    return 3 * C.value * BK + C.value**2 + WIDE * BK + max(C.value * VP, WIDE * C.value**2)


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
def exact_part(exact, tile, BK: tl.constexpr, SIZE: tl.constexpr, WIDE: tl.constexpr):
    """Where a tile's float32 numbers begin in `exact`: `last`, and behind it the products of keys."""
    return exact + tile * (SIZE // WIDE) + (3 * C * BK + C * C) // WIDE


@triton.jit
def values_part(w, BK: tl.constexpr, WIDE: tl.constexpr):
    """Where the u of a tile begins that begins at w."""
    return w + 3 * C * BK + C * C + WIDE * BK


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
    kept = tl.maximum(gate.to(tl.float32), LEAST)
    if (OPERAND == tl.bfloat16) and (gate.dtype == tl.bfloat16):
        return kept.to(tl.bfloat16)
    else:
        return kept * LOG2E


@triton.jit
def _loaded(q, k, g, b, key_row, gate_row, length, K, OPERAND: tl.constexpr):
    """Queries, keys and log decays of a chunk, KB channels from b * KB on; all are asked for before one is used."""
    i, channels = tl.arange(0, C)[:, None], b * KB + tl.arange(0, KB)[None, :]
    mask = (i < length) & (channels < K)
    gate = tl.load(g + i * gate_row + channels, mask=mask, other=0.0)
    key = tl.load(k + i * key_row + channels, mask=mask, other=0.0)
    query = tl.load(q + i * key_row + channels, mask=mask, other=0.0)
    return query.to(tl.float32), key.to(tl.float32), _gates(gate, OPERAND)


@triton.jit
def _chosen(table, which):
    """A matrix of the table."""
    return tl.load(table + which * (C * C) + tl.arange(0, C)[:, None] * C + tl.arange(0, C)[None, :])


@triton.jit
def _decay(chosen, gate, PRECISION: tl.constexpr, OPERAND: tl.constexpr):
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
def _inside(q, k, g, table, key_row, gate_row, far, length, K, BK: tl.constexpr, LEVELS: tl.constexpr,
            PRECISION: tl.constexpr, OPERAND: tl.constexpr):  # fmt: skip
    """q_i . Gamma_ij k_j for j <= i and k_i . Gamma_ij k_j for j < i at any gate, [C, C].

    For rows that are `far`, and pairs of tokens in the same block of 2^LEVELS.

    Level by level: a pair belongs to the blocks of 1, 2, 4, 8 (or 16) tokens that are neighbours, and both decay to the
    border between them.
    """
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    reads, keys = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    for b in range(BK // KB):
        for level in range(LEVELS):
            query, key, gate = _loaded(q, k, g, b, key_row, gate_row, length, K, OPERAND)
            decay = tl.exp2(_decay(_chosen(table, TO_BORDER + level), gate, PRECISION, OPERAND))
            if level == 0:
                reads += tl.where((i == j) & far, tl.sum(query * key, axis=1)[:, None], 0.0)
            key, query = key * decay, query * decay
            target, pairs = tl.trans(key), between(level) & far
            reads += tl.where(pairs, dot(query, target, PRECISION, OPERAND), 0.0)
            keys += tl.where(pairs, dot(key, target, PRECISION, OPERAND), 0.0)
    return reads, keys


@triton.jit(do_not_specialize=["H", "HV", "K"])
def pair_kernel(
    q,
    k,
    g,
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
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    UNIT: tl.constexpr,
):
    """One program: one chunk of one value head; writes a tile's qg, kg, A, last, k decayed in place of w, k Gamma k^T.

    `chunks` [.., 2] holds each chunk's first token and the token behind its sequence; `exact` is `tiles` as float32.
    With FAST the tiles that have rows beyond REACH are marked, for `far_kernel` to mend; without, every row goes the
    long way. K comes in multiples of UNIT, which tells the compiler its alignment without a compilation for each width.
    """
    K = K * UNIT
    program = tl.program_id(0).to(tl.int64)
    head, number = program % HV, program // HV
    start = tl.load(chunks + 2 * number)
    length = tl.minimum(tl.load(chunks + 2 * number + 1) - start, C).to(tl.int32)
    q += (start * H + head // (HV // H)) * K
    k += (start * H + head // (HV // H)) * K
    g += (start * HV + head) * K
    tiles += program * SIZE
    exact = exact_part(exact, program, BK, SIZE, WIDE)
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    reads, keys = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    least = tl.zeros((C,), tl.float32)
    if FAST:  # kept in shared memory, which has no room for the larger numbers
        from_start, to_end, to_half = _chosen(table, FROM_START), _chosen(table, TO_END), _chosen(table, TO_HALF)
        from_part, to_part = _chosen(table, FROM_PART), _chosen(table, TO_PART)
    for b in range(BK // KB):
        if not FAST:
            from_start, to_end, to_half = _chosen(table, FROM_START), _chosen(table, TO_END), _chosen(table, TO_HALF)
        query, key, gate = _loaded(q, k, g, b, H * K, HV * K, length, K, OPERAND)
        channels = b * KB + tl.arange(0, KB)[None, :]
        at = tiles + i * BK + channels
        whole = tl.exp2(_decay(from_start, gate, PRECISION, OPERAND))
        tl.store(at, stored(key * whole, tiles, OPERAND))
        tl.store(at + C * BK, stored(query * whole, tiles, OPERAND))
        tl.store(exact + channels + i * 0, whole, mask=i == C - 1)
        rest = tl.exp2(_decay(to_end, gate, PRECISION, OPERAND))
        tl.store(at + 2 * C * BK, stored(key * rest, tiles, OPERAND))
        half = tl.exp2(_decay(to_half, gate, PRECISION, OPERAND))
        held = key * half
        target = tl.trans(tl.where(i < C // 2, held, 0.0).to(OPERAND))
        read, held = tl.where(i < C // 2, 0.0, query * half), tl.where(i < C // 2, 0.0, held)
        reads = tl.dot(read.to(OPERAND), target, reads, input_precision=PRECISION)
        keys = tl.dot(held.to(OPERAND), target, keys, input_precision=PRECISION)
        if FAST:
            into = _decay(from_part, gate, PRECISION, OPERAND)
            least = tl.minimum(least, tl.min(into, axis=1))
            here = tl.exp2(into)
            read, held = query * here, key * here
            inside = tl.trans(key * tl.exp2(tl.minimum(-into, -REACH)))
            before = tl.trans(key * tl.exp2(_decay(to_part, gate, PRECISION, OPERAND)))
            same = i // SUB == j // SUB
            reads += tl.where(same, dot(read, inside, PRECISION, OPERAND), 0.0)
            reads += tl.where(between(4), dot(read, before, PRECISION, OPERAND), 0.0)
            keys += tl.where(same, dot(held, inside, PRECISION, OPERAND), 0.0)
            keys += tl.where(between(4), dot(held, before, PRECISION, OPERAND), 0.0)
    if FAST:
        tl.store(marks + program, (tl.min(least, axis=0) < REACH).to(tl.int32))
    else:
        near_reads, near_keys = _inside(q, k, g, table, H * K, HV * K, i >= 0, length, K, BK, 5, PRECISION, OPERAND)
        reads, keys = reads + near_reads, keys + near_keys
    tl.store(tiles + 3 * C * BK + i * C + j, stored(tl.where(j <= i, reads, 0.0), tiles, OPERAND))
    tl.store(exact + BK + i * C + j, tl.where(j < i, keys, 0.0))


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
            if tl.load(marks + tile) != 0:
                head, number = tile % HV, tile // HV
                start = tl.load(chunks + 2 * number)
                length = tl.minimum(tl.load(chunks + 2 * number + 1) - start, C).to(tl.int32)
                key_at, gate_at = (start * H + head // (HV // H)) * K, (start * HV + head) * K
                least = tl.zeros((C,), tl.float32)
                for b in range(BK // KB):
                    gate = _loaded(q + key_at, k + key_at, g + gate_at, b, H * K, HV * K, length, K, OPERAND)[2]
                    into = _decay(_chosen(table, FROM_PART), gate, PRECISION, OPERAND)
                    least = tl.minimum(least, tl.min(into, axis=1))
                far = least[:, None] < REACH
                reads, keys = _inside(
                    q + key_at, k + key_at, g + gate_at, table, H * K, HV * K, far, length, K, BK, 4, PRECISION, OPERAND
                )
                chosen = far & (i // SUB == j // SUB) & (j <= i)
                A, products = tiles + tile * SIZE + 3 * C * BK, exact_part(exact, tile, BK, SIZE, WIDE) + BK
                tl.store(A + i * C + j, stored(reads, tiles, OPERAND), mask=chosen)
                tl.store(products + i * C + j, keys, mask=chosen)
