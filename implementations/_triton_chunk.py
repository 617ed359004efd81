"""The Triton code of the chunked forward, first half: what a chunk needs of itself, all chunks side by side.

For float32 and float16; bfloat16 has its own, faster code in `_triton_chunk_half.py`. A chunk has 64 tokens in 4 parts
of 16. Rows of part p against columns of earlier parts: both are decayed to the border before part p, so that every
exponent is a sum of log decays, never positive: nothing overflows at any gate, and no row looks at a later one. Inside
a part the same is done for blocks of 8, 4, 2 and 1.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
# exp(-111) is 2^-160: 0 in float32 even after a state of 1e4 and values of 2^20. bfloat16 holds the number exactly.
LEAST = tl.constexpr(-111.0)
C = tl.constexpr(64)
SUB = tl.constexpr(16)
KB = tl.constexpr(64)
PARTS = tl.constexpr(4)


@triton.jit
def dot(a, b, PRECISION: tl.constexpr, OPERAND: tl.constexpr):
    """A matrix product summed in float32, with operands rounded to OPERAND; of matrices or of stacks of them."""
    return tl.dot(a.to(OPERAND), b.to(OPERAND), input_precision=PRECISION)


@triton.jit
def between(SIZE: tl.constexpr):
    """Pairs [C, C] of a row in an odd block of SIZE tokens and a column in the block before it."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    return (i // SIZE == j // SIZE + 1) & (i // SIZE % 2 == 1)


@triton.jit
def _turned(x):
    """Every matrix of a stack transposed."""
    return tl.permute(x, (0, 2, 1))


@triton.jit
def _rows(x, at, mask):
    """Some rows and channels of a tensor, zero outside it."""
    return tl.load(x + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _gates(g, at, mask):
    """Log2 decays, cut off where nothing is left anyway."""
    return tl.maximum(_rows(g, at, mask), LEAST) * LOG2E


@triton.jit
def _decays(g, at, row, mask, followed, gate_row, SIZE: tl.constexpr):
    """Decay of each row [C, n] from the start of its block of SIZE tokens, and to the end of it.

    Both are sums: the decays behind a row are loaded once more, a row later, because a difference would lose the small
    ones beside a large one.
    """
    n: tl.constexpr = at.shape[1]
    into = tl.cumsum(tl.reshape(_gates(g, at, mask), (C // SIZE, SIZE, n)), axis=1)
    later = _gates(g, at + gate_row, followed & (row % SIZE != SIZE - 1))
    out_of = tl.cumsum(tl.reshape(later, (C // SIZE, SIZE, n)), axis=1, reverse=True)
    return tl.reshape(tl.exp2(into), (C, n)), tl.reshape(tl.exp2(out_of), (C, n))


@triton.jit
def _blocks(query, key, here, to_end, SIZE: tl.constexpr, PRECISION: tl.constexpr, OPERAND: tl.constexpr):
    """q_i . Gamma_ij k_j and k_i . Gamma_ij k_j for i in an odd block of SIZE tokens and j in the even one before."""
    target, chosen = tl.trans(key * to_end), between(SIZE)
    reads = tl.where(chosen, dot(query * here, target, PRECISION, OPERAND), 0.0)
    return reads, tl.where(chosen, dot(key * here, target, PRECISION, OPERAND), 0.0)


@triton.jit
def _inside_parts(q, k, g, key_row, gate_row, channels, length, K, PRECISION: tl.constexpr,
                  OPERAND: tl.constexpr):  # fmt: skip
    """q_i . Gamma_ij k_j for j <= i and k_i . Gamma_ij k_j for j < i inside parts of 16, at any gate, [C, C]."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    mask = (i < length) & (channels[None, :] < K)
    at_key, at_gate = i * key_row + channels[None, :], i * gate_row + channels[None, :]
    query, key = _rows(q, at_key, mask), _rows(k, at_key, mask)
    reads = tl.where(i == j, tl.sum(query * key, axis=1)[:, None], 0.0)
    keys = tl.zeros((C, C), tl.float32)
    followed = mask & (i + 1 < length)
    for level in tl.static_range(4):
        here, to_end = _decays(g, at_gate, i, mask, followed, gate_row, 8 >> level)
        more_reads, more_keys = _blocks(query, key, here, to_end, 8 >> level, PRECISION, OPERAND)
        reads, keys = reads + more_reads, keys + more_keys
    return reads, keys


@triton.jit
def _decay_of_parts(total, from_part, to_part):
    """Per part p the decay of all parts m with from_part(p) <= m < to_part(p), [PARTS, 1, n]; totals are log2."""
    m = tl.arange(0, PARTS)
    chosen = (m[:, None] >= from_part[None, :]) & (m[:, None] < to_part[None, :])
    return tl.exp2(tl.sum(tl.where(chosen[:, :, None], total[:, None, :], 0.0), axis=0))[:, None, :]


@triton.jit
def _targets(ahead, total):
    """The keys each part is multiplied with, [PARTS, n, C]: those of earlier parts, decayed to its border."""
    p, m = tl.arange(0, PARTS)[:, None], tl.arange(0, PARTS)[None, :]
    x = tl.arange(0, PARTS)[None, None, :]
    chosen = (x > m[:, :, None]) & (x < p[:, :, None])
    decay = tl.exp2(tl.sum(tl.where(chosen[:, :, :, None], total[None, None, :, :], 0.0), axis=2))
    earlier = (m < p)[:, :, None, None]
    keys = tl.where(earlier, ahead[None, :, :, :] * decay[:, :, None, :], 0.0)
    return _turned(tl.reshape(keys, (PARTS, C, ahead.shape[2])))


@triton.jit
def _merged(X, L, SIZE: tl.constexpr, SOLVE: tl.constexpr):
    """The inverses of blocks of 2 SIZE from those of blocks of SIZE: X - X L X with what L has between them."""
    between_blocks = tl.where(between(SIZE), L, 0.0)
    return X - tl.dot(tl.dot(X, between_blocks, input_precision=SOLVE), X, input_precision=SOLVE)


@triton.jit
def inverse_of(L, SOLVE: tl.constexpr):
    """(I + L)^-1 of a strictly lower triangular [C, C], from blocks of 2 to 4, 8, .., 64."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    X = tl.where(i == j, 1.0, 0.0) - tl.where((i == j + 1) & (i % 2 == 1), L, 0.0)
    for level in tl.static_range(1, 6):
        X = _merged(X, L, 1 << level, SOLVE)
    return X


@triton.jit(do_not_specialize=["H", "HV", "K", "V"])
def chunk_kernel(
    q,
    k,
    v,
    g,
    beta,
    chunks,
    A,
    w,
    u,
    qg,
    kg,
    last,
    H,
    HV,
    K,
    V,
    BK: tl.constexpr,
    VP: tl.constexpr,
    BV: tl.constexpr,
    PRECISION: tl.constexpr,
    SOLVE: tl.constexpr,
    OPERAND: tl.constexpr,
    UNIT: tl.constexpr,
):
    """One program: one chunk of one value head.

    `chunks` [.., 2] holds each chunk's first token and the token behind its sequence. Writes, in tiles [chunk, head,
    C, width] that are zero behind the sequence: A = tril(q Gamma k^T), w = T (k decayed from the chunk's start),
    u = T v with T = (I + tril(beta k Gamma k^T, -1))^-1 diag(beta), qg and kg = q and k decayed from the start and to
    the end, and `last`, the decay of the whole chunk. K and V come in multiples of UNIT, which tells the compiler their
    alignment without a compilation for each width.
    """
    K, V = K * UNIT, V * UNIT
    program = tl.program_id(0).to(tl.int64)
    head, number = program % HV, program // HV
    tile = number * HV + head
    start = tl.load(chunks + 2 * number)
    length = tl.minimum(tl.load(chunks + 2 * number + 1) - start, C).to(tl.int32)
    q += (start * H + head // (HV // H)) * K
    k += (start * H + head // (HV // H)) * K
    g += (start * HV + head) * K
    v += (start * HV + head) * V
    qg, kg, w = qg + tile * (C * BK), kg + tile * (C * BK), w + tile * (C * BK)
    p, r = tl.arange(0, PARTS)[:, None, None], tl.arange(0, SUB)[None, :, None]
    row, i = p * SUB + r, tl.arange(0, C)[:, None]
    reads, keys = tl.zeros((PARTS, SUB, C), tl.float32), tl.zeros((PARTS, SUB, C), tl.float32)
    near_reads, near_keys = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    part = tl.arange(0, PARTS)
    for b in range(BK // KB):
        channels = (tl.arange(0, KB) + b * KB)[None, None, :]
        mask = (row < length) & (channels < K)
        at_key, at_gate, at = row * (H * K) + channels, row * (HV * K) + channels, row * BK + channels
        gate, key, query = _gates(g, at_gate, mask), _rows(k, at_key, mask), _rows(q, at_key, mask)
        into, total = tl.cumsum(gate, axis=1), tl.sum(gate, axis=1)
        # A difference of sums would lose the small decays beside a large one.
        later = _gates(g, at_gate + HV * K, mask & (row + 1 < length) & (r < SUB - 1))
        ahead = key * tl.exp2(tl.cumsum(later, axis=1, reverse=True))
        here = tl.exp2(into)
        query, key = query * here, key * here
        before, behind = _decay_of_parts(total, part * 0, part), _decay_of_parts(total, part + 1, part * 0 + PARTS)
        tl.store(qg + at, (query * before).to(qg.dtype.element_ty))
        tl.store(w + at, (key * before).to(w.dtype.element_ty))
        tl.store(kg + at, (ahead * behind).to(kg.dtype.element_ty))
        tl.store(last + tile * BK + tl.arange(0, KB) + b * KB, tl.exp2(tl.sum(total, axis=0)))
        target = _targets(ahead, total)
        reads += dot(query, target, PRECISION, OPERAND)
        keys += dot(key, target, PRECISION, OPERAND)
        more_reads, more_keys = _inside_parts(
            q, k, g, H * K, HV * K, tl.arange(0, KB) + b * KB, length, K, PRECISION, OPERAND
        )
        near_reads, near_keys = near_reads + more_reads, near_keys + more_keys

    reads += tl.reshape(near_reads, (PARTS, SUB, C))  # of other pairs: each is zero where the other is not
    keys += tl.reshape(near_keys, (PARTS, SUB, C))
    j = tl.arange(0, C)[None, None, :]
    tl.store(A + tile * (C * C) + row * C + j, tl.where(j <= row, reads, 0.0).to(A.dtype.element_ty))
    places = tl.arange(0, C)
    strength = tl.load(beta + (start + places) * HV + head, mask=places < length, other=0.0).to(tl.float32)
    keys = tl.where(j < row, keys * tl.reshape(strength, (PARTS, SUB, 1)), 0.0)
    inverse = inverse_of(tl.reshape(keys, (C, C)), SOLVE) * strength[None, :]
    tl.debug_barrier()  # w holds the decayed keys, written by other threads of this program
    for b in range(BK // KB):
        at = i * BK + (tl.arange(0, KB) + b * KB)[None, :]
        tl.store(w + at, dot(inverse, tl.load(w + at), PRECISION, OPERAND).to(w.dtype.element_ty))
    for b in range(VP // BV):
        columns = b * BV + tl.arange(0, BV)
        fits = (places < length)[:, None] & (columns < V)[None, :]
        value = tl.load(v + i * (HV * V) + columns[None, :], mask=fits, other=0.0)
        value = dot(inverse, value, PRECISION, OPERAND)
        tl.store(u + tile * (C * VP) + i * VP + columns[None, :], value.to(u.dtype.element_ty))
