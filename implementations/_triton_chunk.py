"""The Triton code of the chunked forward, first half: what a chunk needs of itself, all chunks side by side.

A chunk has 64 tokens in 4 parts of 16. Rows of part p against columns of earlier parts: both are decayed to the border
before part p, so that every exponent is a sum of log decays, never positive: nothing overflows at any gate, and no row
looks at a later one. Inside a part the product splits as exp2(G_i) exp2(-G_j), exact enough while G, the sum of log2
decays from the part's start, stays above -110 (a gate of -4.7 at every token reaches it at the 16th). Rows beyond that,
and all rows of float32 inputs, take the way between parts once more inside them, in blocks of 8, 4, 2 and 1. Which way
a row takes depends on that row and earlier ones alone, so the future changes no bit of the past. Chunks with such rows
are marked and done in a second launch, so that the common case keeps its registers.
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
REACH = tl.constexpr(-110.0)


@triton.jit
def dot(a, b, PRECISION: tl.constexpr, OPERAND: tl.constexpr):
    """A matrix product summed in float32, with operands rounded to OPERAND; of matrices or of stacks of them."""
    return tl.dot(a.to(OPERAND), b.to(OPERAND), input_precision=PRECISION)


@triton.jit
def _sums(chosen, x, PRECISION: tl.constexpr, OPERAND: tl.constexpr):
    """Sums of the rows of x that 0 and 1 choose, [C, C] times [C, n]; in halves where operands are bfloat16."""
    if OPERAND == tl.bfloat16:
        low = x - x.to(tl.bfloat16).to(tl.float32)
        return dot(chosen, low, PRECISION, OPERAND) + dot(chosen, x, PRECISION, OPERAND)
    else:
        return dot(chosen, x, PRECISION, OPERAND)


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
def _between(level):
    """Pairs [C, C] of a row in an odd block of 2^level tokens and a column in the block before it."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    return (i >> level == (j >> level) + 1) & ((i >> level) % 2 == 1)


@triton.jit
def _inside_parts(q, k, g, key_row, gate_row, channels, length, K, PRECISION: tl.constexpr,
                  OPERAND: tl.constexpr):  # fmt: skip
    """q_i . Gamma_ij k_j for j <= i and k_i . Gamma_ij k_j for j < i inside parts of 16, at any gate, [C, C].

    Level by level: a pair belongs to the blocks of 1, 2, 4 or 8 tokens that are neighbours, and both decay to the
    border between them. The sums of gates are products with a matrix of 0 and 1.
    """
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    mask = (i < length) & (channels[None, :] < K)
    at_key, at_gate = i * key_row + channels[None, :], i * gate_row + channels[None, :]
    query, key, gate = _rows(q, at_key, mask), _rows(k, at_key, mask), _gates(g, at_gate, mask)
    reads = tl.where(i == j, tl.sum(query * key, axis=1)[:, None], 0.0)
    keys = tl.zeros((C, C), tl.float32)
    for level in range(4):
        spans = ((j <= i) == ((i >> level) % 2 == 1)) & (j >> level == i >> level)
        decay = tl.exp2(_sums(spans.to(tl.float32), gate, PRECISION, OPERAND))
        here = key * decay
        target = tl.trans(here)
        reads += tl.where(_between(level), dot(query * decay, target, PRECISION, OPERAND), 0.0)
        keys += tl.where(_between(level), dot(here, target, PRECISION, OPERAND), 0.0)
    return reads, keys


@triton.jit
def _decay_of_parts(total, from_part, to_part):
    """Per part p the decay of all parts m with from_part(p) <= m < to_part(p), [PARTS, 1, n]; totals are log2."""
    m = tl.arange(0, PARTS)
    chosen = (m[:, None] >= from_part[None, :]) & (m[:, None] < to_part[None, :])
    return tl.exp2(tl.sum(tl.where(chosen[:, :, None], total[:, None, :], 0.0), axis=0))[:, None, :]


@triton.jit
def _targets(inside, ahead, total):
    """The keys each part is multiplied with, [PARTS, n, C]: earlier ones decayed to its border, its own as `inside`."""
    p, m = tl.arange(0, PARTS)[:, None], tl.arange(0, PARTS)[None, :]
    x = tl.arange(0, PARTS)[None, None, :]
    chosen = (x > m[:, :, None]) & (x < p[:, :, None])
    decay = tl.exp2(tl.sum(tl.where(chosen[:, :, :, None], total[None, None, :, :], 0.0), axis=2))
    earlier, own = (m < p)[:, :, None, None], (m == p)[:, :, None, None]
    keys = tl.where(earlier, ahead[None, :, :, :] * decay[:, :, None, :], tl.where(own, inside[None, :, :, :], 0.0))
    return _turned(tl.reshape(keys, (PARTS, C, ahead.shape[2])))


@triton.jit
def _inverse(L, SOLVE: tl.constexpr):
    """(I + L)^-1 of a strictly lower triangular [C, C], from blocks of 2 to 4, 8, .., 64.

    X - X L X with what L has between blocks; in a loop at run time, for code that is compiled once.
    """
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    X = tl.where(i == j, 1.0, 0.0) - tl.where((i == j + 1) & (i % 2 == 1), L, 0.0)
    for level in range(1, 6):
        between = tl.where(_between(level), L, 0.0)
        X -= tl.dot(tl.dot(X, between, input_precision=SOLVE), X, input_precision=SOLVE)
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
    far,
    H,
    HV,
    K,
    V,
    BK: tl.constexpr,
    VP: tl.constexpr,
    BV: tl.constexpr,
    FAST: tl.constexpr,
    FAR: tl.constexpr,
    PRECISION: tl.constexpr,
    SOLVE: tl.constexpr,
    OPERAND: tl.constexpr,
    UNIT: tl.constexpr,
):
    """One program: one chunk of one value head.

    `chunks` [.., 2] holds each chunk's first token and the token behind its sequence. Writes, in tiles [chunk, head,
    C, width] that are zero behind the sequence: A = tril(q Gamma k^T), w = T (k decayed from the chunk's start),
    u = T v with T = (I + tril(beta k Gamma k^T, -1))^-1 diag(beta), qg and kg = q and k decayed from the start and to
    the end, and `last`, the decay of the whole chunk. The launch with FAST and not FAR marks in `far` the chunks that
    have rows beyond REACH; the one with both does the marked ones again; without FAST every row goes the long way.
    K and V come in multiples of UNIT, which tells the compiler their alignment without a compilation for each width.
    """
    K, V = K * UNIT, V * UNIT
    program = tl.program_id(0).to(tl.int64)
    head, number = program % HV, program // HV
    tile = number * HV + head
    if FAST and FAR:
        if tl.load(far + tile) == 0:
            return
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
    far_reads, far_keys = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    least = tl.zeros((PARTS, SUB, 1), tl.float32)
    part = tl.arange(0, PARTS)
    for b in range(BK // KB):
        channels = (tl.arange(0, KB) + b * KB)[None, None, :]
        mask = (row < length) & (channels < K)
        at_key, at_gate, at = row * (H * K) + channels, row * (HV * K) + channels, row * BK + channels
        gate, key, query = _gates(g, at_gate, mask), _rows(k, at_key, mask), _rows(q, at_key, mask)
        into, total = tl.cumsum(gate, axis=1), tl.sum(gate, axis=1)
        if OPERAND == tl.bfloat16:
            ahead = key * tl.exp2(tl.minimum(total[:, None, :] - into, 0.0))
        else:  # a difference would lose the small decays beside a large one
            later = _gates(g, at_gate + HV * K, mask & (row + 1 < length) & (r < SUB - 1))
            ahead = key * tl.exp2(tl.cumsum(later, axis=1, reverse=True))
        inside = key * tl.exp2(tl.minimum(-into, -REACH))
        least = tl.minimum(least, tl.min(into, axis=2)[:, :, None])
        here = tl.exp2(into)
        query, key = query * here, key * here
        before, behind = _decay_of_parts(total, part * 0, part), _decay_of_parts(total, part + 1, part * 0 + PARTS)
        tl.store(qg + at, (query * before).to(qg.dtype.element_ty))
        tl.store(w + at, (key * before).to(w.dtype.element_ty))
        tl.store(kg + at, (ahead * behind).to(kg.dtype.element_ty))
        tl.store(last + tile * BK + tl.arange(0, KB) + b * KB, tl.exp2(tl.sum(total, axis=0)))
        target = _targets(inside, ahead, total)
        reads += dot(query, target, PRECISION, OPERAND)
        keys += dot(key, target, PRECISION, OPERAND)
        if FAR:
            more_reads, more_keys = _inside_parts(
                q, k, g, H * K, HV * K, tl.arange(0, KB) + b * KB, length, K, PRECISION, OPERAND
            )
            far_reads, far_keys = far_reads + more_reads, far_keys + more_keys

    if FAR:
        chosen = (least < REACH) if FAST else (least <= 0.0)
        chosen = chosen & (p == tl.arange(0, C)[None, None, :] // SUB)
        reads = tl.where(chosen, tl.reshape(far_reads, (PARTS, SUB, C)), reads)
        keys = tl.where(chosen, tl.reshape(far_keys, (PARTS, SUB, C)), keys)
    elif FAST:
        tl.store(far + tile, (tl.min(tl.min(tl.min(least, axis=2), axis=1), axis=0) < REACH).to(tl.int32))
    j = tl.arange(0, C)[None, None, :]
    tl.store(A + tile * (C * C) + row * C + j, tl.where(j <= row, reads, 0.0).to(A.dtype.element_ty))
    places = tl.arange(0, C)
    strength = tl.load(beta + (start + places) * HV + head, mask=places < length, other=0.0).to(tl.float32)
    keys = tl.where(j < row, keys * tl.reshape(strength, (PARTS, SUB, 1)), 0.0)
    inverse = _inverse(tl.reshape(keys, (C, C)), SOLVE) * strength[None, :]
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
