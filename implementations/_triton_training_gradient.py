"""The Triton code of the chunked backward in bfloat16: all gradients of a chunk from what the walks leave.

All gradients have the scale as a factor, which comes last (`_triton_training_walk`). But for it,

    dA = tril(do r^T) diag(beta)       dM = -diag(beta) tril(e r^T, -1) diag(beta)       dbeta_i = e_i . r_i

and dA and dM meet queries and keys that decay to a border between i and j: inside a part of 16 tokens to its start,
times 2^55, against what grows from there, times 2^-55; otherwise the start of an odd part or the middle of the chunk. A
tile with rows beyond reach there (`marks`) takes borders between blocks of 8, 4, 2 and 1 tokens, in another launch.

Of pairs the gradient of a log decay is a sum: with the terms Z_i = q_i dq_i + k_i dk_i of later tokens and
Z_j = -k_j dk_j of earlier ones, dg_t is the sum of Z from t on, to which only pairs on both sides of t are left.
"""

import triton
import triton.language as tl

from implementations._triton_backward import LOG2E, dot, gates, rounded, sums
from implementations._triton_chunk import FROM_PART, FROM_START, KB, TO_BORDER, TO_END, TO_HALF, TO_PART, C, matrix

SHIFT = tl.constexpr(55.0)  # half of what `_triton_chunk.REACH` allows


@triton.jit
def _tile(of, row, column):
    """A tile of 64 x 64 numbers that a walk left."""
    return of.load([row.to(tl.int32), column])


@triton.jit
def _of_tokens(x, at_row, inside, b, width):
    """Rows of a chunk, KB columns from b * KB on."""
    columns = b * KB + tl.arange(0, KB)
    return tl.load(x + at_row[:, None] * width + columns[None, :], mask=inside[:, None] & (columns < width)[None, :],
                   other=0.0)  # fmt: skip


@triton.jit(do_not_specialize=["HV", "V", "scale"])
def pair_gradient_kernel(
    do, strengths, chunks, r, e, dA, dM, own, dv, dbeta, scale, HV, V,
    VP: tl.constexpr, MODE: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """One program: one chunk of one value head. Writes symmetric dA and dM, A's diagonal, dv and dbeta."""
    V = V * UNIT
    tile = tl.program_id(0).to(tl.int64)
    head, number, i = tile % HV, tile // HV, tl.arange(0, C)
    first, stop = tl.load(chunks + 2 * number), tl.load(chunks + 2 * number + 1)
    inside, at_row = first + i < stop, (first + i) * HV + head
    strength = tl.load(strengths + tile * C + i)
    reads, reads_across = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    keys, keys_across = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    for b in tl.range(VP // KB, num_stages=3):
        cotangent = _of_tokens(do, at_row, inside, b, V)
        residual, along = _tile(r, tile * VP + b * KB, 0), _tile(e, tile * VP + b * KB, 0)
        reads += dot(cotangent, residual, MODE)
        reads_across += dot(tl.trans(residual), tl.trans(cotangent), MODE)
        keys += dot(tl.trans(along), residual, MODE)
        keys_across += dot(tl.trans(residual), along, MODE)
        columns = b * KB + tl.arange(0, KB)[:, None]
        dvalue = (scale * strength[None, :] * along.to(tl.float32)).to(dv.dtype.element_ty)
        tl.store(dv + at_row[None, :] * V + columns, dvalue, mask=inside[None, :] & (columns < V))
    j = tl.arange(0, C)
    down, across = tl.load(strengths + tile * C + i), tl.load(strengths + tile * C + j)[None, :]
    lower, same = i[:, None] > j[None, :], i[:, None] == j[None, :]
    at = tile * (C * C) + i[:, None] * C + j[None, :]
    reads_across = tl.where(lower, reads * across, reads_across * down[:, None])
    tl.store(dA + at, rounded(tl.where(same, 0.0, reads_across), MODE))
    tl.store(own + tile * C + i, down * tl.sum(tl.where(same, reads, 0.0), axis=1))
    keys_across = -down[:, None] * across * tl.where(lower, keys, keys_across)
    tl.store(dM + at, rounded(tl.where(same, 0.0, keys_across), MODE))
    dstrength = scale * tl.sum(tl.where(same, keys, 0.0), axis=1)
    tl.store(dbeta + at_row, dstrength.to(dbeta.dtype.element_ty), mask=inside)


@triton.jit
def _read(x, at, both):
    """A tile of queries or keys; a barrier before it, or the compiler would keep what it has read in registers."""
    tl.debug_barrier()
    return tl.load(x + at, mask=both, other=0.0)


@triton.jit
def _chosen(x, ones, PTX: tl.constexpr):
    """X times a matrix of 0 and 1, two numbers at a time."""
    if PTX:
        code: tl.constexpr = "{ .reg .b32 z; mov.b32 z, 0x80008000; fma.rn.bf16x2 $0, $1, $2, z; }"
        return tl.inline_asm_elementwise(code, "=r,r,r", [x, ones], dtype=tl.bfloat16, is_pure=True, pack=2)
    else:
        return x.to(tl.float32) * ones.to(tl.float32)


@triton.jit
def _neighbours(x, now, PTX: tl.constexpr):
    """X where `now`, else 0. Of two numbers side by side the second goes with the first."""
    if PTX:
        code: tl.constexpr = "and.b32 $0, $1, $2;"
        chosen = -now.to(tl.int32)
        return tl.inline_asm_elementwise(code, "=r,r,r,r", [x, chosen], dtype=tl.bfloat16, is_pure=True, pack=2)
    else:
        return tl.where(now, x, 0.0)


@triton.jit
def _inside(dA, dM, q, k, gate, table, PTX: tl.constexpr, MODE: tl.constexpr):
    """What pairs in the same part of 16 tokens give to dq and dk; to earlier keys apart."""
    into = sums(matrix(table, FROM_PART), gate, MODE) + SHIFT
    here, grown = tl.exp2(into), tl.exp2(-into)
    before, behind = matrix(table, FROM_PART), matrix(table, TO_PART)
    reads, keys = matrix(dA, 0), matrix(dM, 0)
    dq = here * dot(_chosen(reads, before, PTX), k * grown, MODE)
    dk = here * dot(_chosen(keys, before, PTX), k * grown, MODE)
    back = dot(_chosen(reads, behind, PTX), q * here, MODE)
    back = tl.dot(rounded(_chosen(keys, behind, PTX), MODE), rounded(k * here, MODE), back)
    return dq, dk, grown * back


@triton.jit
def _across(level, dA, dM, one, k, gate, table, dq, dk, back, PTX: tl.constexpr, MODE: tl.constexpr):
    """Adds what pairs of neighbouring blocks of 2^level tokens give.

    `one`: of later tokens the queries, which meet decayed keys, of earlier ones the keys, which decayed queries read.
    """
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    now = (i >> level) ^ (j >> level) == 1
    decay = tl.exp2(sums(matrix(table, tl.where(level == 5, TO_HALF, TO_BORDER + level)), gate, MODE))
    later = ((i >> level) % 2).to(tl.float32)
    by = decay * dot(_neighbours(matrix(dA, 0), now, PTX), one * decay, MODE)
    dq += later * by
    back += (1 - later) * by
    by = decay * dot(_neighbours(matrix(dM, 0), now, PTX), k * decay, MODE)
    return dq, dk + later * by, back + (1 - later) * by


@triton.jit
def _from_before(do, states, e, tile, at_row, inside, block, V, VP: tl.constexpr, MODE: tl.constexpr):
    """The products do S^T and e S^T, [C, KB] each."""
    by_read, by_key = tl.zeros((C, KB), tl.float32), tl.zeros((C, KB), tl.float32)
    for b in tl.range(VP // KB, num_stages=3):
        S = _tile(states, tile * VP + b * KB, block * KB)
        by_read += dot(_of_tokens(do, at_row, inside, b, V), S, MODE)
        by_key += dot(tl.trans(_tile(e, tile * VP + b * KB, 0)), S, MODE)
    return by_read, by_key


@triton.jit
def _from_behind(states, cotangents, r, tile, block, VP: tl.constexpr, MODE: tl.constexpr):
    """The product r dS^T, [C, KB], and the row sums of S dS, [KB]."""
    by_end, kept = tl.zeros((C, KB), tl.float32), tl.zeros((KB,), tl.float32)
    for b in tl.range(VP // KB, num_stages=3):
        row = tile * VP + b * KB
        S, dS = _tile(states, row, block * KB), _tile(cotangents, row, block * KB)
        by_end += dot(tl.trans(_tile(r, row, 0)), dS, MODE)
        kept += tl.sum(S.to(tl.float32) * dS.to(tl.float32), axis=0)
    return by_end, kept


@triton.jit
def _gradients(
    do, q, k, g, strengths, chunks, table, states, cotangents, r, e, dA, dM, own, dq, dk, dg, scale, tile, block,
    H, HV, K, V, VP: tl.constexpr, FAR: tl.constexpr, PTX: tl.constexpr, MODE: tl.constexpr,
):  # fmt: skip
    """The gradients of KB channels of a tile."""
    head, number = tile % HV, tile // HV
    first, stop = tl.load(chunks + 2 * number), tl.load(chunks + 2 * number + 1)
    rows, channels = first + tl.arange(0, C), block * KB + tl.arange(0, KB)
    inside, at_row = rows < stop, rows * HV + head
    both = inside[:, None] & (channels < K)[None, :]
    at_key = (rows * H + head // (HV // H))[:, None] * K + channels[None, :]
    at = at_row[:, None] * K + channels[None, :]
    dA, dM = dA + tile * (C * C), dM + tile * (C * C)
    gate = gates(g, at, both, MODE)
    whole = tl.exp2(tl.sum(gate.to(tl.float32), axis=0) * LOG2E)
    dquery, dkey = tl.zeros((C, KB), tl.float32), tl.zeros((C, KB), tl.float32)
    back = tl.zeros((C, KB), tl.float32)
    if not FAR:
        query, key = _read(q, at_key, both).to(tl.float32), _read(k, at_key, both).to(tl.float32)
        dquery, dkey, back = _inside(dA, dM, query, key, gate, table, PTX, MODE)
    for level in range(0 if FAR else 4, 6):
        later = (tl.arange(0, C)[:, None] >> level) % 2 == 1
        one = _read(tl.where(later, q, k), at_key, both).to(tl.float32)
        key = _read(k, at_key, both).to(tl.float32)
        dquery, dkey, back = _across(level, dA, dM, one, key, gate, table, dquery, dkey, back, PTX and not FAR, MODE)
    by_read, by_key = _from_before(do, states, e, tile, at_row, inside, block, V, VP, MODE)
    query, key = _read(q, at_key, both).to(tl.float32), _read(k, at_key, both).to(tl.float32)
    strength = tl.load(strengths + tile * C + tl.arange(0, C))[:, None]
    from_start, to_end = matrix(table, FROM_START), matrix(table, TO_END)
    into = tl.exp2(sums(from_start, gate, MODE))
    dquery += into * by_read
    dkey -= strength * (into * by_key)
    diagonal = tl.load(own + tile * C + tl.arange(0, C))[:, None]
    dgate = dot(tl.trans(from_start), query * dquery + key * (dkey - back), MODE)
    tl.store(dq + at, (scale * (dquery + diagonal * key)).to(dq.dtype.element_ty), mask=both)
    by_end, kept = _from_behind(states, cotangents, r, tile, block, VP, MODE)
    behind = strength * tl.exp2(sums(to_end, gate, MODE)) * by_end
    tl.store(dk + at, (scale * (dkey + back + behind + diagonal * query)).to(dk.dtype.element_ty), mask=both)
    dgate += dot(tl.trans(to_end), key * behind, MODE) + (whole * kept)[None, :]
    tl.store(dg + at, (scale * dgate).to(dg.dtype.element_ty), mask=both)


@triton.jit(do_not_specialize=["count", "H", "HV", "K", "V", "scale"])
def gradient_kernel(
    do, q, k, g, strengths, chunks, table, marks, states, cotangents, r, e, dA, dM, own, dq, dk, dg, scale, count,
    H, HV, K, V, BK: tl.constexpr, VP: tl.constexpr, TILES: tl.constexpr, FAR: tl.constexpr, PTX: tl.constexpr,
    MODE: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """One program: KB channels of one chunk of one value head. Writes dq and dk of that head, and dg.

    With FAR those of TILES of `count` chunks that are marked, which are few if any; without, none that is.
    """
    blocks: tl.constexpr = BK // KB
    program = tl.program_id(0).to(tl.int64)
    block, first = (program % blocks).to(tl.int32), program // blocks * TILES
    if not FAR:
        if tl.load(marks + first) == 0:
            _gradients(
                do, q, k, g, strengths, chunks, table, states, cotangents, r, e, dA, dM, own, dq, dk, dg, scale,
                first, block, H, HV, K * UNIT, V * UNIT, VP, FAR, PTX, MODE,
            )  # fmt: skip
    else:
        places = first + tl.arange(0, TILES)
        if tl.max(tl.load(marks + places, mask=places < count, other=0), axis=0) != 0:
            for n in range(tl.minimum(TILES, count - first).to(tl.int32)):
                tile = first + n
                if tl.load(marks + tile) != 0:
                    _gradients(
                        do, q, k, g, strengths, chunks, table, states, cotangents, r, e, dA, dM, own, dq, dk, dg, scale,
                        tile, block, H, HV, K * UNIT, V * UNIT, VP, FAR, PTX, MODE,
                    )  # fmt: skip
