"""Triton code of the chunked backward, second part: the walks over chunks, and all gradients from what they leave.

The equations stand at the top of `_triton_backward.py`.
"""

import triton
import triton.language as tl

from implementations._triton_backward import dot, gates, place_of, rounded, sums, table_of, whole_decay
from implementations._triton_chunk import ahead


@triton.jit
def _sequence(n, cu, slots, T, C: tl.constexpr, PACKED: tl.constexpr):
    """First row of a sequence, the row behind it, and its first chunk."""
    if PACKED:
        return tl.load(cu + n), tl.load(cu + n + 1), tl.load(slots + n)
    else:
        return n * T, n * T + T, n * tl.cdiv(T, C)


@triton.jit(do_not_specialize=["T", "HV", "K", "V"])
def forward_walk_kernel(
    w, u, kb, last, cu, slots, initial_state, states, r, T, HV, K, V,
    BK: tl.constexpr, BV: tl.constexpr, C: tl.constexpr, PACKED: tl.constexpr, HAS_STATE: tl.constexpr,
    MODE: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """One program: one sequence, one head, BV columns. Writes the state before every chunk, and the residuals r."""
    K, V = K * UNIT, V * UNIT
    blocks = tl.cdiv(V, BV)
    program = tl.program_id(0).to(tl.int64)
    block, head, n = program % blocks, (program // blocks) % HV, program // (blocks * HV)
    start, stop, slot = _sequence(n, cu, slots, T, C, PACKED)
    i, channels, columns = tl.arange(0, C), tl.arange(0, BK), block * BV + tl.arange(0, BV)
    wide, fits = channels < K, columns < V
    mask = wide[:, None] & fits[None, :]
    at_state = channels[:, None] * V + columns[None, :]
    S = tl.zeros((BK, BV), tl.float32)
    if HAS_STATE:
        S += tl.load(initial_state + (n * HV + head) * K * V + at_state, mask=mask, other=0.0).to(tl.float32)
    chunks, at_slot, step = tl.cdiv(stop - start, C), (slot * HV + head) * K, HV * K
    whole = ahead(last + at_slot, channels, wide, chunks)
    for c in range(chunks):
        later = ahead(last + at_slot + step, channels, wide, chunks - c - 1)
        tl.store(states + at_slot * V + at_state, rounded(S, MODE), mask=mask)
        rows = start + c * C + i
        inside, at_row = rows < stop, rows * HV + head
        at_key, at_value = at_row[:, None] * K + channels[None, :], at_row[:, None] * V + columns[None, :]
        keyed, valued = inside[:, None] & wide[None, :], inside[:, None] & fits[None, :]
        held = dot(tl.load(w + at_key, mask=keyed, other=0.0), S, MODE)
        residual = tl.load(u + at_value, mask=valued, other=0.0).to(tl.float32) - held
        tl.store(r + at_value, rounded(residual, MODE), mask=valued)
        S = S * whole[:, None] + dot(tl.trans(tl.load(kb + at_key, mask=keyed, other=0.0)), residual, MODE)
        whole, at_slot = later, at_slot + step


@triton.jit(do_not_specialize=["T", "HV", "K", "V"])
def backward_walk_kernel(
    y, e0, qs, kb, do, last, cu, slots, dfinal, cotangents, e, dinitial, T,
    HV, K, V, BK: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
    PACKED: tl.constexpr, HAS_FINAL: tl.constexpr, HAS_STATE: tl.constexpr, MODE: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """The same from the last chunk to the first. Writes the cotangent of the state behind every chunk, e and dS_0."""
    K, V = K * UNIT, V * UNIT
    blocks = tl.cdiv(V, BV)
    program = tl.program_id(0).to(tl.int64)
    block, head, n = program % blocks, (program // blocks) % HV, program // (blocks * HV)
    start, stop, slot = _sequence(n, cu, slots, T, C, PACKED)
    i, channels, columns = tl.arange(0, C), tl.arange(0, BK), block * BV + tl.arange(0, BV)
    wide, fits = channels < K, columns < V
    mask = wide[:, None] & fits[None, :]
    at_state = channels[:, None] * V + columns[None, :]
    dS = tl.zeros((BK, BV), tl.float32)
    if HAS_FINAL:
        dS += tl.load(dfinal + (n * HV + head) * K * V + at_state, mask=mask, other=0.0).to(tl.float32)
    chunks, step = tl.cdiv(stop - start, C), HV * K
    at_slot = ((slot + chunks - 1) * HV + head) * K
    whole = ahead(last + at_slot, channels, wide, chunks)
    for done in range(chunks):
        c = chunks - 1 - done
        earlier = ahead(last + at_slot - step, channels, wide, c)
        tl.store(cotangents + at_slot * V + at_state, rounded(dS, MODE), mask=mask)
        rows = start + c * C + i
        inside, at_row = rows < stop, rows * HV + head
        at_key, at_value = at_row[:, None] * K + channels[None, :], at_row[:, None] * V + columns[None, :]
        keyed, valued = inside[:, None] & wide[None, :], inside[:, None] & fits[None, :]
        along = dot(tl.load(y + at_key, mask=keyed, other=0.0), dS, MODE)
        along += tl.load(e0 + at_value, mask=valued, other=0.0).to(tl.float32)
        tl.store(e + at_value, rounded(along, MODE), mask=valued)
        query, key = tl.load(qs + at_key, mask=keyed, other=0.0), tl.load(kb + at_key, mask=keyed, other=0.0)
        put = dot(tl.trans(query), tl.load(do + at_value, mask=valued, other=0.0), MODE)
        dS = dS * whole[:, None] + put - dot(tl.trans(key), along, MODE)
        whole, at_slot = earlier, at_slot - step
    if HAS_STATE:
        tl.store(dinitial + (n * HV + head) * K * V + at_state, dS, mask=mask)


@triton.jit(do_not_specialize=["T", "HV", "V"])
def pair_gradient_kernel(
    do, r, e, beta, table, dA, dM, own, dv, dbeta, scale, T, HV, V, BV: tl.constexpr,
    C: tl.constexpr, PACKED: tl.constexpr, MODE: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """One program: one chunk of one value head. Writes dA and dM as symmetric matrices, A's diagonal, dv and dbeta."""
    V = V * UNIT
    program = tl.program_id(0).to(tl.int64)
    head, number = program % HV, program // HV
    first, stop = place_of(number, table, T, C, PACKED)
    i = tl.arange(0, C)
    rows = first + i
    inside, at_row = rows < stop, rows * HV + head
    strength = tl.load(beta + at_row, mask=inside, other=0.0).to(tl.float32)[:, None]
    pairs, reads = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    diagonal, dstrength = tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32)
    for b in range(tl.cdiv(V, BV)):
        columns = b * BV + tl.arange(0, BV)
        fits = inside[:, None] & (columns < V)[None, :]
        at = at_row[:, None] * V + columns[None, :]
        cotangent = tl.load(do + at, mask=fits, other=0.0)
        residual = tl.load(r + at, mask=fits, other=0.0).to(tl.float32)
        along = tl.load(e + at, mask=fits, other=0.0).to(tl.float32)
        written, dvalue = strength * residual, strength * along
        tl.store(dv + at, dvalue.to(dv.dtype.element_ty), mask=fits)
        pairs += dot(dvalue, tl.trans(written), MODE)
        reads += dot(cotangent, tl.trans(written), MODE)
        diagonal += tl.sum(cotangent.to(tl.float32) * written, axis=1)
        dstrength += tl.sum(residual * along, axis=1)
    lower = i[:, None] > i[None, :]
    at_pair = at_row[:, None] * C + i[None, :]
    tl.store(dM + at_pair, rounded(-tl.where(lower, pairs, tl.trans(pairs)), MODE), mask=inside[:, None])
    tl.store(dA + at_pair, rounded(scale * tl.where(lower, reads, tl.trans(reads)), MODE), mask=inside[:, None])
    tl.store(own + at_row, scale * diagonal, mask=inside)
    tl.store(dbeta + at_row, dstrength.to(dbeta.dtype.element_ty), mask=inside)


@triton.jit
def _state_terms(
    do, r, e, states, cotangents, at_row, inside, strength, at_state, channels, wide,
    V, BK: tl.constexpr, BV: tl.constexpr, C: tl.constexpr, MODE: tl.constexpr,
):  # fmt: skip
    """The products do S^T, (beta e) S^T, (beta r) dS^T, [C, BK] each, and the row sums of S dS, [BK]."""
    by_read, by_key = tl.zeros((C, BK), tl.float32), tl.zeros((C, BK), tl.float32)
    by_end = tl.zeros((C, BK), tl.float32)
    kept = tl.zeros((BK,), tl.float32)
    for b in range(tl.cdiv(V, BV)):
        columns = b * BV + tl.arange(0, BV)
        fits = inside[:, None] & (columns < V)[None, :]
        at = at_row[:, None] * V + columns[None, :]
        place = (at_state + channels)[:, None] * V + columns[None, :]
        mask = wide[:, None] & (columns < V)[None, :]
        S, dS = tl.load(states + place, mask=mask, other=0.0), tl.load(cotangents + place, mask=mask, other=0.0)
        by_read += dot(tl.load(do + at, mask=fits, other=0.0), tl.trans(S), MODE)
        by_key += dot(strength * tl.load(e + at, mask=fits, other=0.0).to(tl.float32), tl.trans(S), MODE)
        by_end += dot(strength * tl.load(r + at, mask=fits, other=0.0).to(tl.float32), tl.trans(dS), MODE)
        kept += tl.sum(S.to(tl.float32) * dS.to(tl.float32), axis=1)
    return by_read, by_key, by_end, kept


@triton.jit(do_not_specialize=["T", "H", "HV", "K", "V"])
def gradient_kernel(
    q, k, do, g, beta, spans, table, states, cotangents, r, e, dA, dM, own, dq, dk, dg, scale, T,
    H, HV, K, V, BK: tl.constexpr, BV: tl.constexpr,
    C: tl.constexpr, LEVELS: tl.constexpr, PACKED: tl.constexpr, MODE: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """One program: BK channels of one chunk of one value head. Writes dq and dk of that head, and dg."""
    K, V = K * UNIT, V * UNIT
    blocks = tl.cdiv(K, BK)
    program = tl.program_id(0).to(tl.int64)
    block, head, number = program % blocks, (program // blocks) % HV, program // (blocks * HV)
    first, stop = place_of(number, table, T, C, PACKED)
    i = tl.arange(0, C)
    rows, channels = first + i, block * BK + tl.arange(0, BK)
    inside, at_row = rows < stop, rows * HV + head
    strength = tl.load(beta + at_row, mask=inside, other=0.0).to(tl.float32)[:, None]
    at_state = (number * HV + head) * K
    # Nobody wrote a state for an idle chunk.
    wide = channels < K * (first < stop).to(tl.int32)
    from_read, from_key, to_end, kept = _state_terms(
        do, r, e, states, cotangents, at_row, inside, strength, at_state, channels, wide, V, BK, BV, C, MODE
    )
    both = inside[:, None] & wide[None, :]
    at_key = (rows * H + head // (HV // H))[:, None] * K + channels[None, :]
    at_gate = at_row[:, None] * K + channels[None, :]
    query = tl.load(q + at_key, mask=both, other=0.0).to(tl.float32)
    key = tl.load(k + at_key, mask=both, other=0.0).to(tl.float32)
    gate = gates(g, at_gate, both, MODE)
    into, out_of = table_of(spans, LEVELS, C), table_of(spans, LEVELS + 1, C)
    dquery = scale * tl.exp2(sums(into, gate, MODE)) * from_read
    before = -tl.exp2(sums(into, gate, MODE)) * from_key
    behind = tl.exp2(sums(out_of, gate, MODE)) * to_end
    dgate = dot(tl.trans(into), query * dquery + key * before, MODE) + dot(tl.trans(out_of), key * behind, MODE)
    dgate += (whole_decay(gate) * kept)[None, :]
    diagonal = tl.load(own + at_row, mask=inside, other=0.0)[:, None]
    dquery, dkey = dquery + diagonal * key, before + behind + diagonal * query
    at_pair, mask = at_row[:, None] * C + i[None, :], inside[:, None]
    keys = rounded(tl.load(dM + at_pair, mask=mask, other=0.0), MODE)
    reads = rounded(tl.load(dA + at_pair, mask=mask, other=0.0), MODE)
    for level in range(LEVELS):
        span, now = table_of(spans, level, C), rounded(table_of(spans, LEVELS + 2 + level, C), MODE)
        decay = tl.exp2(sums(span, gate, MODE))
        later = ((i >> level) & 1)[:, None] == 1
        here = key * decay
        # A later token meets decayed keys, an earlier one the decayed queries that read it.
        by_keys = decay * dot(keys * now, here, MODE)
        by_reads = decay * dot(reads * now, tl.where(later, query * decay, here), MODE)
        dquery += tl.where(later, by_reads, 0.0)
        dkey += by_keys + tl.where(later, 0.0, by_reads)
        dgate += dot(tl.trans(span), key * by_keys + tl.where(later, query, key) * by_reads, MODE)
    tl.store(dq + at_gate, dquery.to(dq.dtype.element_ty), mask=both)
    tl.store(dk + at_gate, dkey.to(dk.dtype.element_ty), mask=both)
    tl.store(dg + at_gate, dgate.to(dg.dtype.element_ty), mask=both)


@triton.jit
def sum_heads_kernel(wide, narrow, count, GROUP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr):
    """narrow[row, head] = sum of wide[row, head GROUP + m] over the GROUP value heads of a key head, in order."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = place < count
    source = place // K * GROUP * K + place % K
    total = tl.zeros((BLOCK,), tl.float32)
    for m in range(GROUP):
        total += tl.load(wide + source + m * K, mask=mask, other=0.0)
    tl.store(narrow + place, total.to(narrow.dtype.element_ty), mask=mask)
