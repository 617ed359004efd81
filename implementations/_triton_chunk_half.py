"""The Triton code of `_triton_chunk.py` for bfloat16: the same tiles, made for tensor cores.

Every decay between two tokens is exp2 of a sum of gates, and every sum is a product with a matrix of 0 and 1
(`sum_tables`): bfloat16 gates are summed without rounding. Tokens of different blocks of 16 meet at the border between
their blocks (of 32, or of 16), so that no exponent is positive. Inside a block the product splits as
exp2(G_i) exp2(-G_j), exact enough while G, the sum of log2 decays from the block's start, stays above -110 (a gate of
-4.7 at every token reaches it at the 16th). (I + L)^-1 is formed with float16 operands, as exact as TF32; they hold
every number as long as beta |k|^2 is at most about 2, where the recurrence is stable.

Rows beyond either limit take a long way: blocks of 8, 4, 2 and 1, and the inverse in TF32. Which way a row takes
depends on that row and earlier ones alone, so the future changes no bit of the past. Chunks with such rows are marked
and done in a second launch, so that the common case keeps its registers.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl

from implementations._triton_chunk import LEAST, LOG2E, SUB, C, between, dot, inverse_of

KB = tl.constexpr(64)
REACH = tl.constexpr(-110.0)
# Where float16 could overflow: entries of the inverse grow by up to beta |k|^2 - 1 at every token.
STABLE = tl.constexpr(2.25)
FROM_START, TO_END, INTO_BLOCK, OUT_OF_BLOCK, TO_BORDER = (tl.constexpr(n) for n in range(5))


@lru_cache(maxsize=8)
def sum_tables(device: torch.device) -> torch.Tensor:
    """Which tokens t a row i sums, [5, C, C] of 0 and 1, by the names above; TO_BORDER: between two blocks of 32."""
    i, t = torch.arange(C.value)[:, None], torch.arange(C.value)[None, :]
    into = lambda size: (t <= i) & (t // size == i // size)  # noqa: E731
    out_of = lambda size: (t > i) & (t // size == i // size)  # noqa: E731
    border = torch.where(i >= 32, into(32), out_of(32))
    return torch.stack([into(64), out_of(64), into(16), out_of(16), border]).to(torch.bfloat16).to(device)


@triton.jit
def _table(tables, NUMBER: tl.constexpr):
    i, t = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    return tl.load(tables + NUMBER * (C * C) + i * C + t)


@triton.jit
def _to_border(SIZE: tl.constexpr):
    """Which tokens a row sums up to the border between its block of SIZE tokens and its neighbour."""
    i, t = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    return tl.where(((t <= i) == (i // SIZE % 2 == 1)) & (t // SIZE == i // SIZE), 1.0, 0.0)


@triton.jit
def _gates(g, at, mask, OPERAND: tl.constexpr):
    """Natural log decays, cut off where nothing is left anyway; bfloat16 stays what it is."""
    gate = tl.load(g + at, mask=mask, other=0.0)
    if gate.dtype != tl.bfloat16 or OPERAND != tl.bfloat16:
        gate = gate.to(tl.float32)
    return tl.where(gate < LEAST, tl.full((1, 1), LEAST, gate.dtype), gate)


@triton.jit
def _log_decays(table, gate, PRECISION: tl.constexpr, OPERAND: tl.constexpr):
    """Log2 decays [C, n]: sums of gates [C, n]; float32 ones as two bfloat16 terms."""
    if OPERAND == tl.bfloat16 and gate.dtype == tl.float32:
        high = gate.to(tl.bfloat16)
        total = tl.dot(table.to(tl.bfloat16), (gate - high.to(tl.float32)).to(tl.bfloat16))
        total = tl.dot(table.to(tl.bfloat16), high, total)
    else:
        total = dot(table, gate, PRECISION, OPERAND)
    return total * LOG2E


@triton.jit
def _level(query, key, gate, table, SIZE: tl.constexpr, PRECISION: tl.constexpr, OPERAND: tl.constexpr):
    """q_i . Gamma_ij k_j and k_i . Gamma_ij k_j for the pairs of `between(SIZE)`."""
    decay = tl.exp2(_log_decays(table, gate, PRECISION, OPERAND))
    read, held = (query * decay).to(OPERAND), (key * decay).to(OPERAND)
    target, chosen = tl.trans(held), between(SIZE)
    reads = tl.where(chosen, dot(read, target, PRECISION, OPERAND), 0.0)
    return reads, tl.where(chosen, dot(held, target, PRECISION, OPERAND), 0.0)


@triton.jit
def _near(one, two):
    """Products inside blocks of 16, and of rows in odd blocks with the block before."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    return tl.where(i // SUB == j // SUB, one, tl.where(between(SUB), two, 0.0))


@triton.jit
def _half_inverse(L):
    """`inverse_of` with operands in float16."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    N = (-L).to(tl.float16)
    X = tl.where(i == j, 1.0, 0.0) - tl.where((i == j + 1) & (i % 2 == 1), L, 0.0)
    for level in tl.static_range(1, 6):
        half = X.to(tl.float16)
        X = tl.dot(tl.where(between(1 << level), tl.dot(half, N), 0.0).to(tl.float16), half, X)
    return X


@triton.jit
def _unstable(diagonal):
    """Whether a row or one before it has beta |k|^2 beyond STABLE, [C, 1]."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    growth = tl.max(tl.where(i == j, diagonal, 0.0), axis=0)
    return tl.max(tl.where((j <= i) & (growth[None, :] > STABLE), 1, 0), axis=1)[:, None] > 0


@triton.jit(do_not_specialize=["H", "HV", "K", "V"])
def half_chunk_kernel(
    q,
    k,
    v,
    g,
    beta,
    chunks,
    tables,
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
    FAR: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    UNIT: tl.constexpr,
):
    """One program: one chunk of one value head; arguments and results as in `_triton_chunk.chunk_kernel`.

    The launch without FAR marks in `far` the chunks that have rows beyond REACH or STABLE; the one with it does those
    again. `tables`: see `sum_tables`.
    """
    K, V = K * UNIT, V * UNIT
    program = tl.program_id(0)  # divided in 32 bits; what is multiplied with is 64 bits wide
    head, number = (program % HV).to(tl.int64), (program // HV).to(tl.int64)
    tile = number * HV + head
    if FAR:
        if tl.load(far + tile) == 0:
            return
    start = tl.load(chunks + 2 * number)
    length = tl.minimum(tl.load(chunks + 2 * number + 1) - start, C).to(tl.int32)
    key_head = program % HV // (HV // H)
    q += (start * H + key_head) * K
    k += (start * H + key_head) * K
    g += (start * HV + head) * K
    v += (start * HV + head) * V
    qg, kg, w, u = qg + tile * (C * BK), kg + tile * (C * BK), w + tile * (C * BK), u + tile * (C * VP)
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    reads, keys = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    far_reads, far_keys = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    least = tl.zeros((C, 1), tl.float32)
    for b in range(BK // KB):
        channels = b * KB + tl.arange(0, KB)[None, :]
        mask, at = (i < length) & (channels < K), i * BK + channels
        gate = _gates(g, i * (HV * K) + channels, mask, OPERAND)
        key = tl.load(k + i * (H * K) + channels, mask=mask, other=0.0).to(tl.float32)
        query = tl.load(q + i * (H * K) + channels, mask=mask, other=0.0).to(tl.float32)
        decay = tl.exp2(_log_decays(_table(tables, FROM_START), gate, PRECISION, OPERAND))
        tl.store(qg + at, (query * decay).to(qg.dtype.element_ty))
        tl.store(w + at, (key * decay).to(w.dtype.element_ty))
        tl.store(last + tile * BK + channels + i * 0, decay, mask=i == C - 1)
        decay = tl.exp2(_log_decays(_table(tables, TO_END), gate, PRECISION, OPERAND))
        tl.store(kg + at, (key * decay).to(kg.dtype.element_ty))
        into = _log_decays(_table(tables, INTO_BLOCK), gate, PRECISION, OPERAND)
        least = tl.minimum(least, tl.min(into, axis=1)[:, None])
        same = tl.trans((key * tl.exp2(tl.minimum(-into, -REACH))).to(OPERAND))
        decay = tl.exp2(_log_decays(_table(tables, OUT_OF_BLOCK), gate, PRECISION, OPERAND))
        before = tl.trans((key * decay).to(OPERAND))
        decay = tl.exp2(into)
        read, held = (query * decay).to(OPERAND), (key * decay).to(OPERAND)
        reads += _near(dot(read, same, PRECISION, OPERAND), dot(read, before, PRECISION, OPERAND))
        keys += _near(dot(held, same, PRECISION, OPERAND), dot(held, before, PRECISION, OPERAND))
        more_reads, more_keys = _level(query, key, gate, _table(tables, TO_BORDER), 2 * SUB, PRECISION, OPERAND)
        reads, keys = reads + more_reads, keys + more_keys
        if FAR:
            far_reads += tl.where(i == j, tl.sum(query * key, axis=1)[:, None], 0.0)
            far_keys += tl.where(i == j, tl.sum(key * key, axis=1)[:, None], 0.0)
            for level in tl.static_range(4):
                more_reads, more_keys = _level(query, key, gate, _to_border(1 << level), 1 << level, PRECISION, OPERAND)
                far_reads, far_keys = far_reads + more_reads, far_keys + more_keys
    if FAR:
        chosen = (least < REACH) & (i // SUB == j // SUB)
        reads, keys = tl.where(chosen, far_reads, reads), tl.where(chosen, far_keys, keys)
    tl.store(A + tile * (C * C) + i * C + j, tl.where(j <= i, reads, 0.0).to(A.dtype.element_ty))
    places = tl.arange(0, C)
    strength = tl.load(beta + (start + places) * HV + head, mask=places < length, other=0.0).to(tl.float32)
    keys *= strength[:, None]
    L = tl.where(j < i, keys, 0.0)
    if FAR:
        slow = _unstable(keys)
        inverse = tl.where(slow, inverse_of(L, PRECISION), _half_inverse(tl.where(slow, 0.0, L)))
    else:
        growth = tl.max(tl.max(tl.where(i == j, keys, 0.0), axis=1), axis=0)
        beyond = (tl.min(tl.min(least, axis=1), axis=0) < REACH) | (growth > STABLE)
        tl.store(far + tile, beyond.to(tl.int32))
        inverse = _half_inverse(L)
    inverse *= strength[None, :]
    tl.debug_barrier()  # w holds the decayed keys, written by other threads of this program
    for b in range(BK // KB):
        at = i * BK + b * KB + tl.arange(0, KB)[None, :]
        tl.store(w + at, dot(inverse, tl.load(w + at), PRECISION, OPERAND).to(w.dtype.element_ty))
    for b in range(VP // BV):
        columns = b * BV + tl.arange(0, BV)
        fits = (places < length)[:, None] & (columns < V)[None, :]
        value = tl.load(v + i * (HV * V) + columns[None, :], mask=fits, other=0.0)
        tl.store(u + i * VP + columns[None, :], dot(inverse, value, PRECISION, OPERAND).to(u.dtype.element_ty))
