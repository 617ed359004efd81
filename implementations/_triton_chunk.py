"""The Triton code of the chunked forward: what one chunk needs of itself, and the walk over chunks.

Exponents are base 2 and only of sums of log decays, which are never positive: no running sum is subtracted from
another, so a gate of -1000 costs its neighbours no precision, nothing can overflow, and no row looks at a later one.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
# A decay of 2^-1000 is 0 in float32, and sums of 64 of them are still ordinary numbers.
LEAST = tl.constexpr(-1000.0)
C = tl.constexpr(64)
SUB = tl.constexpr(16)
PARTS = tl.constexpr(4)


@triton.jit
def _dot(a, b, PRECISION: tl.constexpr, OPERAND: tl.constexpr):
    """A matrix product summed in float32, with operands rounded to OPERAND."""
    return tl.dot(a.to(OPERAND), b.to(OPERAND), input_precision=PRECISION)


@triton.jit
def _gate(g, rows, inside, HV: tl.constexpr, head, K: tl.constexpr, channels, wide):
    """Log2 decay of some rows [.., BK]; 0 for rows outside the sequence and for padding channels."""
    place = (rows * HV + head)[:, None] * K + channels[None, :]
    x = tl.load(g + place, mask=inside[:, None] & wide[None, :], other=0.0).to(tl.float32)
    return tl.maximum(x * LOG2E, LEAST)


@triton.jit
def _sum_of_parts(total, from_part, to_part, BK: tl.constexpr):
    """Per part p the sum of the totals of parts m with from_part(p) <= m < to_part(p); totals are [PARTS, BK]."""
    m = tl.arange(0, PARTS)
    chosen = (m[:, None] >= from_part[None, :]) & (m[:, None] < to_part[None, :])
    return tl.sum(tl.where(chosen[:, :, None], total[:, None, :], 0.0), axis=0)


@triton.jit
def _inverse(L, PRECISION: tl.constexpr):
    """(I + L)^-1 of a strictly lower triangular [C, C]: substitution inside 16 x 16 blocks, then block by block."""
    part, r = tl.arange(0, PARTS), tl.arange(0, SUB)
    same = part[:, None] == part[None, :]
    blocks = tl.reshape(L, (PARTS, SUB, PARTS, SUB))
    lower = tl.sum(tl.where(same[:, None, :, None], blocks, 0.0), axis=2)
    X = tl.zeros((PARTS, SUB, SUB), tl.float32) + tl.where(r[:, None] == r[None, :], 1.0, 0.0)[None, :, :]
    for j in range(SUB - 1):
        column = tl.sum(tl.where((r == j)[None, None, :], lower, 0.0), axis=2)
        row = tl.sum(tl.where((r == j)[None, :, None], X, 0.0), axis=1)
        X -= column[:, :, None] * row[:, None, :]
    spread = tl.where(same[:, None, :, None], X[:, :, None, :] + tl.zeros((PARTS, SUB, PARTS, SUB), tl.float32), 0.0)
    diagonal = tl.reshape(spread, (C, C))
    i, k = tl.arange(0, C), tl.arange(0, C)
    below = tl.where((i[:, None] // SUB) > (k[None, :] // SUB), L, 0.0)
    inverse = diagonal
    for s in range(1, PARTS):
        found = tl.where(((i // SUB) == s)[:, None], tl.dot(below, inverse, input_precision=PRECISION), 0.0)
        inverse -= tl.dot(diagonal, found, input_precision=PRECISION)
    return inverse


@triton.jit
def chunk_kernel(
    q,
    k,
    v,
    g,
    beta,
    cu,
    chunks,
    A,
    w,
    u,
    qg,
    kg,
    last,
    T,
    H: tl.constexpr,
    HV: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    PACKED: tl.constexpr,
    PRECISION: tl.constexpr,
    SOLVE: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """One program: one chunk of one value head. Writes q . Gamma k (A), w, u, and q, k decayed to the chunk's ends."""
    program = tl.program_id(0).to(tl.int64)
    head, number = program % HV, program // HV
    if PACKED:
        n, c = tl.load(chunks + 2 * number).to(tl.int64), tl.load(chunks + 2 * number + 1).to(tl.int64)
        start, stop = tl.load(cu + n).to(tl.int64), tl.load(cu + n + 1).to(tl.int64)
        slot = start // C + n + c
    else:
        per = tl.cdiv(T, C)
        n, c = number // per, number % per
        start, stop = n * T, n * T + T
        slot = number
    i, channels = tl.arange(0, C), tl.arange(0, BK)
    rows, wide = start + c * C + i, channels < K
    inside = rows < stop
    both = inside[:, None] & wide[None, :]
    at_key = (rows * H + head // (HV // H))[:, None] * K + channels[None, :]
    at_gate = (rows * HV + head)[:, None] * K + channels[None, :]
    query = tl.load(q + at_key, mask=both, other=0.0).to(tl.float32)
    key = tl.load(k + at_key, mask=both, other=0.0).to(tl.float32)
    strength = tl.load(beta + rows * HV + head, mask=inside, other=0.0).to(tl.float32)

    own = _gate(g, rows, inside, HV, head, K, channels, wide)
    later = _gate(g, rows + 1, inside & (rows + 1 < stop) & (i % SUB != SUB - 1), HV, head, K, channels, wide)
    parts = tl.reshape(own, (PARTS, SUB, BK))
    into = tl.reshape(tl.cumsum(parts, axis=1), (C, BK))
    out_of = tl.reshape(tl.cumsum(tl.reshape(later, (PARTS, SUB, BK)), axis=1, reverse=True), (C, BK))
    total = tl.sum(parts, axis=1)
    p = tl.arange(0, PARTS)
    before = _spread(_sum_of_parts(total, p * 0, p, BK), BK)
    behind = _spread(_sum_of_parts(total, p + 1, p * 0 + PARTS, BK), BK)
    from_start, to_end = tl.exp2(before + into), tl.exp2(behind + out_of)

    # Rows of part s against the columns of earlier parts, both decayed to the start of part s.
    reads = tl.zeros((C, C), tl.float32)
    keys = tl.zeros((C, C), tl.float32)
    here = tl.exp2(into)
    query_here, key_here = query * here, key * here
    for s in tl.static_range(1, PARTS):
        between = _spread(_sum_of_parts(total, p + 1, p * 0 + s, BK), BK)
        earlier = (i // SUB) < s
        decayed = tl.trans(key * tl.exp2(tl.where(earlier[:, None], between + out_of, float("-inf"))))
        mine = ((i // SUB) == s)[:, None]
        reads += tl.where(mine, _dot(query_here, decayed, PRECISION, OPERAND), 0.0)
        keys += tl.where(mine, _dot(key_here, decayed, PRECISION, OPERAND), 0.0)

    # Inside a part: the row d tokens back, with the decay in between grown one token at a time.
    column = tl.arange(0, C)
    reads += tl.where(column[None, :] == i[:, None], tl.sum(query * key, axis=1)[:, None], 0.0)
    decay = tl.zeros((C, BK), tl.float32)
    for d in range(1, SUB):
        valid = (i % SUB >= d) & inside
        decay += _gate(g, rows - (d - 1), valid, HV, head, K, channels, wide)
        place = at_key - d * H * K
        back = tl.load(k + place, mask=valid[:, None] & wide[None, :], other=0.0).to(tl.float32) * tl.exp2(decay)
        target = column[None, :] == (i - d)[:, None]
        reads += tl.where(target, tl.sum(query * back, axis=1)[:, None], 0.0)
        keys += tl.where(target, tl.sum(key * back, axis=1)[:, None], 0.0)

    inverse = _inverse(strength[:, None] * keys, SOLVE)
    weighted = _dot(inverse, (strength[:, None] * key) * from_start, PRECISION, OPERAND)
    tl.store(w + at_gate, weighted.to(w.dtype.element_ty), mask=both)
    tl.store(qg + at_gate, (query * from_start).to(qg.dtype.element_ty), mask=both)
    tl.store(kg + at_gate, (key * to_end).to(kg.dtype.element_ty), mask=both)
    at_A = (rows * HV + head)[:, None] * C + column[None, :]
    tl.store(A + at_A, reads.to(A.dtype.element_ty), mask=inside[:, None])
    whole = tl.exp2(tl.sum(total, axis=0))
    tl.store(last + (slot * HV + head) * K + channels, whole, mask=wide)
    for b in range(tl.cdiv(V, BV)):
        columns = b * BV + tl.arange(0, BV)
        at_value = (rows * HV + head)[:, None] * V + columns[None, :]
        fits = inside[:, None] & (columns < V)[None, :]
        value = strength[:, None] * tl.load(v + at_value, mask=fits, other=0.0).to(tl.float32)
        tl.store(u + at_value, _dot(inverse, value, PRECISION, OPERAND).to(u.dtype.element_ty), mask=fits)


@triton.jit
def _spread(x, BK: tl.constexpr):
    """[PARTS, BK] to [C, BK]: every row of a part gets its part's numbers."""
    return tl.reshape(x[:, None, :] + tl.zeros((PARTS, SUB, BK), tl.float32), (C, BK))


@triton.jit
def walk_kernel(
    A,
    w,
    u,
    qg,
    kg,
    last,
    cu,
    initial_state,
    o,
    final_state,
    scale,
    T,
    HV: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    PACKED: tl.constexpr,
    HAS_STATE: tl.constexpr,
    WANTS_STATE: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """One program: one sequence, one value head, BV columns of its state, chunk after chunk."""
    blocks = tl.cdiv(V, BV)
    program = tl.program_id(0).to(tl.int64)
    block, head, n = program % blocks, (program // blocks) % HV, program // (blocks * HV)
    if PACKED:
        start, stop = tl.load(cu + n).to(tl.int64), tl.load(cu + n + 1).to(tl.int64)
        slot = start // C + n
    else:
        start, stop = n * T, n * T + T
        slot = n * tl.cdiv(T, C)
    i, channels, columns = tl.arange(0, C), tl.arange(0, BK), block * BV + tl.arange(0, BV)
    wide, fits = channels < K, columns < V
    at_state = ((n * HV + head) * K + channels)[:, None] * V + columns[None, :]
    S = tl.zeros((BK, BV), tl.float32)
    if HAS_STATE:
        S += tl.load(initial_state + at_state, mask=wide[:, None] & fits[None, :], other=0.0).to(tl.float32)
    for c in range(tl.cdiv(stop - start, C)):
        rows = start + c * C + i
        inside = rows < stop
        at_key = (rows * HV + head)[:, None] * K + channels[None, :]
        at_value = (rows * HV + head)[:, None] * V + columns[None, :]
        keyed, valued = inside[:, None] & wide[None, :], inside[:, None] & fits[None, :]
        held = _dot(tl.load(w + at_key, mask=keyed, other=0.0), S, PRECISION, OPERAND)
        value = tl.load(u + at_value, mask=valued, other=0.0).to(tl.float32) - held
        reads = tl.load(A + (rows * HV + head)[:, None] * C + i[None, :], mask=inside[:, None], other=0.0)
        read = _dot(tl.load(qg + at_key, mask=keyed, other=0.0), S, PRECISION, OPERAND)
        read += _dot(reads, value, PRECISION, OPERAND)
        tl.store(o + at_value, (scale * read).to(o.dtype.element_ty), mask=valued)
        whole = tl.load(last + ((slot + c) * HV + head) * K + channels, mask=wide, other=0.0)
        key = tl.load(kg + at_key, mask=keyed, other=0.0)
        S = S * whole[:, None] + _dot(tl.trans(key), value, PRECISION, OPERAND)
    if WANTS_STATE:
        tl.store(final_state + at_state, S, mask=wide[:, None] & fits[None, :])
