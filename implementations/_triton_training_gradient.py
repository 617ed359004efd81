"""The Triton code of the chunked backward in bfloat16: all gradients of a chunk from what the walks leave.

With P = do r^T, Q = e r^T, e and dS divided by the scale s (`_triton_training_walk`), beta_i and beta_j,

    dA_ij = s P_ij beta_j   (j <= i)           dM_ij = -s beta_i Q_ij beta_j   (j < i)        dbeta_i = s Q_ii

and both meet queries and keys that decay to a border between i and j: inside a part of 16 tokens to its start, times
2^55, against what grows from there, times 2^-55; otherwise the start of an odd part or the middle of the chunk. A tile
with rows beyond reach there (`marks`) takes borders between blocks of 8, 4, 2 and 1 tokens, in a launch of its own.

Of pairs the gradient of a log decay is a sum: with the terms Z_i = q_i dq_i + k_i dk_i of later tokens and
Z_j = -k_j dk_j of earlier ones, dg_t is the sum of Z from t on, to which only pairs on both sides of t are left.
"""

import triton
import triton.language as tl

from implementations._triton_backward import LOG2E, dot, gates, rounded, sums
from implementations._triton_chunk import FROM_PART, FROM_START, KB, SUB, TO_BORDER, TO_END, TO_HALF, C, matrix

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


@triton.jit
def _pairs(do, r, e, tile, at_row, inside, V, VP: tl.constexpr, MODE: tl.constexpr):
    """The products do r^T, e r^T and both transposed."""
    reads, keys = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    reads_across, keys_across = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    for b in range(VP // KB):
        cotangent = _of_tokens(do, at_row, inside, b, V)
        residual, along = _tile(r, tile * VP + b * KB, 0), _tile(e, tile * VP + b * KB, 0)
        reads += dot(cotangent, residual, MODE)
        keys += dot(tl.trans(along), residual, MODE)
        reads_across += dot(tl.trans(residual), tl.trans(cotangent), MODE)
        keys_across += dot(tl.trans(residual), along, MODE)
    return reads, keys, reads_across, keys_across


@triton.jit
def _inputs(q, k, g, at_key, at, both, MODE: tl.constexpr):
    """Queries, keys and log decays, [C, KB]; read anew wherever they are needed, as registers are short."""
    tl.debug_barrier()  # or the compiler would keep what it has read before
    query = tl.load(q + at_key, mask=both, other=0.0).to(tl.float32)
    key = tl.load(k + at_key, mask=both, other=0.0).to(tl.float32)
    return query, key, gates(g, at, both, MODE)


@triton.jit
def _across(level, reads, keys, q, k, gate, table, dq, dk, back, MODE: tl.constexpr):
    """Adds what pairs of neighbouring blocks of 2^level tokens give to dq and dk; to earlier keys apart, `back`."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    later, now = (i >> level) % 2 == 1, (i >> level) ^ (j >> level) == 1
    decay = tl.exp2(sums(matrix(table, tl.where(level == 5, TO_HALF, TO_BORDER + level)), gate, MODE))
    # A later token meets decayed keys, an earlier one the decayed queries that read it.
    by_reads = decay * dot(tl.where(now, reads, 0.0), tl.where(later, q, k) * decay, MODE)
    dq += tl.where(later, by_reads, 0.0)
    by_keys = decay * dot(tl.where(now, keys, 0.0), k * decay, MODE)
    dk += tl.where(later, by_keys, 0.0)
    back += tl.where(later, 0.0, by_reads + by_keys)
    return dq, dk, back


@triton.jit
def _inside(reads, keys, q, k, gate, table, dq, dk, back, MODE: tl.constexpr):
    """The same of pairs in the same part of 16 tokens."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    into = sums(matrix(table, FROM_PART), gate, MODE) + SHIFT
    here, grown = tl.exp2(into), tl.exp2(-into)
    before, behind = (i // SUB == j // SUB) & (j < i), (i // SUB == j // SUB) & (j > i)
    dq += here * dot(tl.where(before, reads, 0.0), k * grown, MODE)
    dk += here * dot(tl.where(before, keys, 0.0), k * grown, MODE)
    by = dot(tl.where(behind, reads, 0.0), q * here, MODE)
    back += grown * tl.dot(rounded(tl.where(behind, keys, 0.0), MODE), rounded(k * here, MODE), by)
    return dq, dk, back


@triton.jit
def _scaled(do, r, e, beta, dbeta, scale, tile, at_row, inside, block, V, VP: tl.constexpr, MODE: tl.constexpr):
    """Symmetric matrices of dA and dM without diagonals, and dA's diagonal; one program of a tile stores dbeta."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    reads, keys, reads_across, keys_across = _pairs(do, r, e, tile, at_row, inside, V, VP, MODE)
    dstrength = scale * tl.sum(tl.where(i == j, keys, 0.0), axis=1)
    tl.store(dbeta + at_row, dstrength.to(dbeta.dtype.element_ty), mask=inside & (at_row * 0 + block == 0))
    # beta twice: as a column and, loaded in the layout of a row, as a row.
    down = tl.load(beta + at_row, mask=inside, other=0.0).to(tl.float32)[:, None]
    across = tl.sum(tl.where(i == j, down, 0.0), axis=0)[None, :]
    own = scale * down * tl.sum(tl.where(i == j, reads, 0.0), axis=1)[:, None]
    reads = scale * tl.where(i > j, reads * across, reads_across * down)
    keys = -scale * down * across * tl.where(i > j, keys, keys_across)
    return rounded(reads, MODE), rounded(keys, MODE), own


@triton.jit
def _from_before(do, states, e, tile, at_row, inside, block, V, VP: tl.constexpr, MODE: tl.constexpr):
    """The products do S^T and e S^T, [C, KB] each."""
    by_read, by_key = tl.zeros((C, KB), tl.float32), tl.zeros((C, KB), tl.float32)
    for b in range(VP // KB):
        S = _tile(states, tile * VP + b * KB, block * KB)
        by_read += dot(_of_tokens(do, at_row, inside, b, V), S, MODE)
        by_key += dot(tl.trans(_tile(e, tile * VP + b * KB, 0)), S, MODE)
    return by_read, by_key


@triton.jit
def _from_behind(states, cotangents, r, tile, block, VP: tl.constexpr, MODE: tl.constexpr):
    """The product r dS^T, [C, KB], and the row sums of S dS, [KB]."""
    by_end, kept = tl.zeros((C, KB), tl.float32), tl.zeros((KB,), tl.float32)
    for b in range(VP // KB):
        row = tile * VP + b * KB
        S, dS = _tile(states, row, block * KB), _tile(cotangents, row, block * KB)
        by_end += dot(tl.trans(_tile(r, row, 0)), dS, MODE)
        kept += tl.sum(S.to(tl.float32) * dS.to(tl.float32), axis=0)
    return by_end, kept


@triton.jit(do_not_specialize=["H", "HV", "K", "V", "scale"])
def gradient_kernel(
    do, q, k, g, beta, chunks, table, marks, states, cotangents, r, e, dq, dk, dg, dbeta, scale, H, HV, K, V,
    BK: tl.constexpr, VP: tl.constexpr, FAR: tl.constexpr, MODE: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """One program: KB channels of one chunk of one value head. Writes dq and dk of that head, dg, and dbeta.

    Nothing where the tile is marked and FAR is not set, or the other way round.
    """
    K, V = K * UNIT, V * UNIT
    blocks: tl.constexpr = BK // KB
    program = tl.program_id(0).to(tl.int64)
    block, tile = (program % blocks).to(tl.int32), program // blocks
    if (tl.load(marks + tile) != 0) == FAR:
        head, number = tile % HV, tile // HV
        first, stop = tl.load(chunks + 2 * number), tl.load(chunks + 2 * number + 1)
        rows, channels = first + tl.arange(0, C), block * KB + tl.arange(0, KB)
        inside, at_row = rows < stop, rows * HV + head
        both = inside[:, None] & (channels < K)[None, :]
        at_key = (rows * H + head // (HV // H))[:, None] * K + channels[None, :]
        at = at_row[:, None] * K + channels[None, :]
        reads, keys, own = _scaled(do, r, e, beta, dbeta, scale, tile, at_row, inside, block, V, VP, MODE)
        dquery, dkey = tl.zeros((C, KB), tl.float32), tl.zeros((C, KB), tl.float32)
        back = tl.zeros((C, KB), tl.float32)
        for level in range(0 if FAR else 4, 6):
            query, key, gate = _inputs(q, k, g, at_key, at, both, MODE)
            dquery, dkey, back = _across(level, reads, keys, query, key, gate, table, dquery, dkey, back, MODE)
        if not FAR:
            query, key, gate = _inputs(q, k, g, at_key, at, both, MODE)
            dquery, dkey, back = _inside(reads, keys, query, key, gate, table, dquery, dkey, back, MODE)
        by_read, by_key = _from_before(do, states, e, tile, at_row, inside, block, V, VP, MODE)
        query, key, gate = _inputs(q, k, g, at_key, at, both, MODE)
        strength = scale * tl.load(beta + at_row, mask=inside, other=0.0).to(tl.float32)[:, None]
        from_start, to_end = matrix(table, FROM_START), matrix(table, TO_END)
        into = tl.exp2(sums(from_start, gate, MODE))
        dquery += scale * into * by_read
        dkey -= strength * into * by_key
        dgate = dot(tl.trans(from_start), query * dquery + key * (dkey - back), MODE)
        tl.store(dq + at, (dquery + own * key).to(dq.dtype.element_ty), mask=both)
        by_end, kept = _from_behind(states, cotangents, r, tile, block, VP, MODE)
        behind = strength * tl.exp2(sums(to_end, gate, MODE)) * by_end
        tl.store(dk + at, (dkey + back + behind + own * query).to(dk.dtype.element_ty), mask=both)
        whole = tl.exp2(tl.sum(gate.to(tl.float32), axis=0) * LOG2E)
        dgate += dot(tl.trans(to_end), key * behind, MODE) + (scale * whole * kept)[None, :]
        tl.store(dg + at, dgate.to(dg.dtype.element_ty), mask=both)
