"""The Triton code of the chunked forward, first half: what a chunk needs of itself, all chunks side by side.

A chunk has 64 tokens in 4 parts of 16. Rows of one block against columns of the block before it (blocks of 32 and 16
tokens, and of 8, 4, 2, 1 where needed): query and key are both decayed to the border between the blocks, so that every
exponent is a sum of log decays, never positive. Nothing overflows at any gate, no small decay is lost beside a large
one, and no row looks at a later one. Inside a part of 16 there is a faster way: exp2(G_i + 60) exp2(-G_j - 60), exact
enough while G, the sum of log2 decays from the part's start, stays above -120 (16 tokens at a gate of -5 reach -115.4).
Rows beyond that, and all rows of float32 inputs, take the blocks of 8 to 1. Which way a row takes depends on that row
and earlier ones alone, so the future changes no bit of the past.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
# exp(-111) is 2^-160: 0 in float32 even after a state of 1e4 and values of 2^20. bfloat16 holds the number exactly.
LEAST = tl.constexpr(-111.0)
C = tl.constexpr(64)
SUB = tl.constexpr(16)
REACH = tl.constexpr(-120.0)
UP = tl.constexpr(2.0**60)


@triton.jit
def dot(a, b, PRECISION: tl.constexpr, OPERAND: tl.constexpr):
    """A matrix product summed in float32, with operands rounded to OPERAND."""
    return tl.dot(a.to(OPERAND), b.to(OPERAND), input_precision=PRECISION)


@triton.jit
def _sums(chosen, gate, OPERAND: tl.constexpr):
    """Sums of log decays over the rows chosen [C, C] for each row, in base 2, with the accuracy of float32."""
    if gate.dtype == tl.bfloat16 and OPERAND == tl.bfloat16:
        return tl.dot(chosen.to(tl.bfloat16), gate) * LOG2E
    if OPERAND == tl.bfloat16:
        return tl.dot(chosen.to(tl.float32), gate.to(tl.float32), input_precision="tf32x3") * LOG2E
    return tl.dot(chosen.to(tl.float32), gate.to(tl.float32), input_precision="ieee") * LOG2E


@triton.jit
def _blocks(query, key, gate, SIZE: tl.constexpr, PRECISION: tl.constexpr, OPERAND: tl.constexpr):
    """q_i . Gamma_ij k_j and k_i . Gamma_ij k_j for i in an odd block of SIZE tokens and j in the even one before it."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    same = i // SIZE == j // SIZE
    here = tl.exp2(_sums(same & (j <= i), gate, OPERAND))
    target = tl.trans(key * tl.exp2(_sums(same & (j > i), gate, OPERAND)))
    chosen = (i // SIZE == j // SIZE + 1) & (i // SIZE % 2 == 1)
    reads = tl.where(chosen, dot(query * here, target, PRECISION, OPERAND), 0.0)
    return reads, tl.where(chosen, dot(key * here, target, PRECISION, OPERAND), 0.0)


@triton.jit
def _rows(x, at, mask):
    """Some rows and channels of a tensor, zero outside it."""
    return tl.load(x + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _gates(g, at, mask):
    """Log decays in g's dtype, cut off where nothing is left anyway."""
    gate = tl.load(g + at, mask=mask, other=0.0)
    return tl.maximum(gate.to(tl.float32), LEAST).to(gate.dtype)


@triton.jit
def _inside_parts(q, k, g, at_key, at_gate, mask, PRECISION: tl.constexpr, OPERAND: tl.constexpr):
    """q_i . Gamma_ij k_j for j <= i and k_i . Gamma_ij k_j for j < i inside parts of 16, at any gate."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    query, key, gate = _rows(q, at_key, mask), _rows(k, at_key, mask), _gates(g, at_gate, mask)
    reads = tl.where(i == j, tl.sum(query * key, axis=1)[:, None], 0.0)
    keys = tl.zeros((C, C), tl.float32)
    for level in tl.static_range(4):
        more_reads, more_keys = _blocks(query, key, gate, 8 >> level, PRECISION, OPERAND)
        reads, keys = reads + more_reads, keys + more_keys
    return reads, keys


@triton.jit
def _merged(X, L, SIZE: tl.constexpr, SOLVE: tl.constexpr):
    """The inverse of blocks of 2 SIZE from that of blocks of SIZE: X - X L X with what L has between them."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    between = tl.where((i // SIZE == j // SIZE + 1) & (i // SIZE % 2 == 1), L, 0.0)
    return X - tl.dot(tl.dot(X, between, input_precision=SOLVE), X, input_precision=SOLVE)


@triton.jit
def _inverse(L, SOLVE: tl.constexpr):
    """(I + L)^-1 of a strictly lower triangular [C, C], from blocks of 2 to 4, 8, .., 64."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    X = tl.where(i == j, 1.0, 0.0) - tl.where((i == j + 1) & (i % 2 == 1), L, 0.0)
    for level in tl.static_range(1, 6):
        X = _merged(X, L, 1 << level, SOLVE)
    return X


@triton.jit
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
    H: tl.constexpr,
    HV: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    KB: tl.constexpr,
    VP: tl.constexpr,
    BV: tl.constexpr,
    FAST: tl.constexpr,
    PRECISION: tl.constexpr,
    SOLVE: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """One program: one chunk of one value head.

    `chunks` [.., 2] holds each chunk's first token and the token behind its sequence. Writes, in tiles [chunk, head,
    C, width] that are zero behind the sequence: A = tril(q Gamma k^T), w = T (k decayed from the chunk's start),
    u = T v with T = (I + tril(beta k Gamma k^T, -1))^-1 diag(beta), qg and kg = q and k decayed from the start and to
    the end, and `last`, the decay of the whole chunk.
    """
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
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    part = i // SUB
    reads, keys = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    for b in range(BK // KB):
        channels = (b * KB + tl.arange(0, KB))[None, :]
        mask = (i < length) & (channels < K)
        at_key, at_gate = i * (H * K) + channels, i * (HV * K) + channels
        gate = _gates(g, at_gate, mask)
        into = _sums((part == j // SUB) & (j <= i), gate, OPERAND)
        wide = gate.to(tl.float32) * LOG2E
        first, second = tl.sum(tl.where(part == 0, wide, 0.0), axis=0), tl.sum(tl.where(part == 1, wide, 0.0), axis=0)
        third, fourth = tl.sum(tl.where(part == 2, wide, 0.0), axis=0), tl.sum(tl.where(part == 3, wide, 0.0), axis=0)
        key = _rows(k, at_key, mask)
        if FAST:
            least = tl.min(into, axis=1)
            mine = (part == j // SUB) & (least >= REACH)[:, None]
            target = tl.trans(key * tl.exp2(tl.minimum(-into - 60.0, 60.0)))
            raised = tl.exp2(into + 60.0)
            keys += tl.where(mine & (i > j), dot(key * raised, target, PRECISION, OPERAND), 0.0)
            reads += tl.where(mine & (i >= j), dot(_rows(q, at_key, mask) * raised, target, PRECISION, OPERAND), 0.0)
            if tl.min(least, axis=0) < REACH:
                far_reads, far_keys = _inside_parts(q, k, g, at_key, at_gate, mask, PRECISION, OPERAND)
                far = (least < REACH)[:, None]
                reads, keys = reads + tl.where(far, far_reads, 0.0), keys + tl.where(far, far_keys, 0.0)
        else:
            far_reads, far_keys = _inside_parts(q, k, g, at_key, at_gate, mask, PRECISION, OPERAND)
            reads, keys = reads + far_reads, keys + far_keys

        if OPERAND == tl.bfloat16:
            own = tl.where(part < 2, tl.where(part == 0, first[None, :], second[None, :]),
                           tl.where(part == 2, third[None, :], fourth[None, :]))  # fmt: skip
            ahead = key * tl.exp2(tl.minimum(own - into, 0.0))
        else:  # a difference would lose the small decays beside a large one
            ahead = key * tl.exp2(_sums((part == j // SUB) & (j > i), gate, OPERAND))
        here = tl.exp2(into)
        query, key = _rows(q, at_key, mask) * here, key * here
        target, sibling = tl.trans(ahead), (part == j // SUB + 1) & (part % 2 == 1)
        reads += tl.where(sibling, dot(query, target, PRECISION, OPERAND), 0.0)
        keys += tl.where(sibling, dot(key, target, PRECISION, OPERAND), 0.0)

        first, second, third, fourth = tl.exp2(first), tl.exp2(second), tl.exp2(third), tl.exp2(fourth)
        before = tl.where(part % 2 == 0, 1.0, tl.where(part == 1, first[None, :], third[None, :]))
        behind = tl.where(part % 2 == 1, 1.0, tl.where(part == 0, second[None, :], fourth[None, :]))
        query, key, ahead = query * before, key * before, ahead * behind
        target, lower = tl.trans(ahead), (i >= C // 2) & (j < C // 2)
        reads += tl.where(lower, dot(query, target, PRECISION, OPERAND), 0.0)
        keys += tl.where(lower, dot(key, target, PRECISION, OPERAND), 0.0)

        before = tl.where(part < 2, 1.0, (first * second)[None, :])
        at = i * BK + channels
        tl.store(qg + at, (query * before).to(qg.dtype.element_ty))
        tl.store(w + at, (key * before).to(w.dtype.element_ty))
        behind = tl.where(part >= 2, 1.0, (third * fourth)[None, :])
        tl.store(kg + at, (ahead * behind).to(kg.dtype.element_ty))
        whole = (first * second) * (third * fourth)
        tl.store(last + tile * BK + b * KB + tl.arange(0, KB), whole)

    tl.store(A + tile * (C * C) + i * C + j, reads.to(A.dtype.element_ty))
    places = tl.arange(0, C)
    strength = tl.load(beta + (start + places) * HV + head, mask=places < length, other=0.0).to(tl.float32)
    inverse = _inverse(strength[:, None] * keys, SOLVE) * tl.reshape(strength, (1, C))
    tl.debug_barrier()  # w holds the decayed keys, written by other threads of this program
    for b in range(BK // KB):
        at = i * BK + (b * KB + tl.arange(0, KB))[None, :]
        tl.store(w + at, dot(inverse, tl.load(w + at), PRECISION, OPERAND).to(w.dtype.element_ty))
    for b in range(VP // BV):
        columns = b * BV + tl.arange(0, BV)
        fits = (places < length)[:, None] & (columns < V)[None, :]
        value = tl.load(v + i * (HV * V) + columns[None, :], mask=fits, other=0.0)
        value = dot(inverse, value, PRECISION, OPERAND)
        tl.store(u + tile * (C * VP) + i * VP + columns[None, :], value.to(u.dtype.element_ty))
