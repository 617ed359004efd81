"""Triton code of the chunked backward: its equations, the pairs inside a chunk, and what two walks over chunks need.

One chunk of C tokens, S the state before it, dS the cotangent of the state behind it, G_i the sum of the log decays
of tokens 1 .. i. k+ = exp(G) k and q+ = exp(G) q decay from the chunk's start to the token, k- = exp(G_C - G) k from
the token to the chunk's end; Gamma_ij = exp(G_i - G_j) for i >= j. With

    M_ij = k_i . Gamma_ij k_j  (j < i)     A_ij = q_i . Gamma_ij k_j  (j <= i)
    X = (I + diag(beta) M)^-1              Y = (I + M diag(beta))^-1 = I - M X diag(beta)

the residuals r_t = v_t - S~_t^T k_t, the output and the next state are

    r = Y v - (Y k+) S        o = scale (q+ S + A diag(beta) r)        S' = exp(G_C) S + (diag(beta) k-)^T r

and backwards, with e_t = G_t^T k_t (the cotangent of a written value, divided by beta_t):

    e = scale X^T A^T do + (X^T k-) dS     dS_before = exp(G_C) dS + scale q+^T do - (diag(beta) k+)^T e
    dv = beta e        dbeta = r . e       dA = scale do (beta r)^T      dM = -(beta e) (beta r)^T
    dq+ = scale do S^T                     dk+ = -(beta e) S^T           dk- = (beta r) dS^T

(`kda_spec.adjoint`: r and e are its residual and its G^T k.) What remains is the adjoint of the decays.

Pairs of tokens are decayed level by level: at level l tokens stand in blocks of 2^l, and a pair (i, j) belongs to the
one level where the block of j is even and that of i is the next. Both decay to the border between the two blocks:

    Gamma_ij = exp(sum of g from that border to i) exp(sum of g behind j up to the border)

so exponents are sums of log decays only, never differences of running sums: nothing overflows, nothing is lost behind a
gate of -1000, and one exponential per token and level serves every pair. The gradient of a decay is summed over the
tokens that its exponent spans, from terms that already hold that decay: no large numbers are subtracted to leave a
small one, and where a decay underflows its gradient is zero.
"""

import triton
import triton.language as tl

from implementations._triton_chunk import SMALLEST, cut

LOG2E = tl.constexpr(1.4426950408889634)
# exp(-692) is 0 in float32, sums of a chunk of such gates are still ordinary numbers, and bfloat16 holds -692 exactly.
LEAST = tl.constexpr(-692.0)


@triton.jit
def rounded(x, MODE: tl.constexpr):
    """X as scratch memory and products hold it: bfloat16, or float32.

    Triton's interpreter multiplies bfloat16 operands wrongly, and casts numbers below 2^-126 to arbitrary ones, so
    there float32 numbers carry what bfloat16 would hold.
    """
    if MODE == "bfloat16":
        return x.to(tl.bfloat16)
    elif MODE == "interpreted bfloat16":
        x = x.to(tl.float32)
        return tl.where(tl.abs(x) < SMALLEST, x, x.to(tl.bfloat16).to(tl.float32))
    else:
        return x.to(tl.float32)


@triton.jit
def dot(a, b, MODE: tl.constexpr):
    """A matrix product summed in float32."""
    if MODE == "float32":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    elif MODE == "float16":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="tf32x3")
    else:
        return tl.dot(rounded(a, MODE), rounded(b, MODE))


@triton.jit
def halves(x, MODE: tl.constexpr):
    """Float32 numbers as sums of two that bfloat16 holds: 16 of their bits; cut off on a GPU, rounded elsewhere."""
    if MODE == "bfloat16":
        return cut(x)
    else:
        high = rounded(x, MODE)
        return rounded(high, MODE), rounded(x - high, MODE)


@triton.jit
def fine_dot(a, b, MODE: tl.constexpr):
    """A product of float32 numbers that keeps 16 bits of them where `dot` keeps 8: for M, its inverse, and with it.

    With correlated keys and beta near 2 the inverse has large entries of alternating sign: rounding it to bfloat16
    costs twenty budget units, rounding the factors of M two.
    """
    if (MODE == "bfloat16") or (MODE == "interpreted bfloat16"):
        a_high, a_low = halves(a, MODE)
        b_high, b_low = halves(b, MODE)
        return tl.dot(a_high, b_high, tl.dot(a_high, b_low, tl.dot(a_low, b_high)))
    else:
        return dot(a, b, MODE)


@triton.jit
def sums(chosen, x, MODE: tl.constexpr):
    """Log2 decays: sums of the chosen rows of gates x, [C, C] of zeros and ones times [C, D]; bfloat16 ones exactly."""
    if x.dtype == tl.bfloat16:
        return dot(chosen, x, MODE) * LOG2E
    elif (MODE == "bfloat16") or (MODE == "interpreted bfloat16"):
        high, low = halves(x, MODE)
        return tl.dot(rounded(chosen, MODE), high, tl.dot(rounded(chosen, MODE), low)) * LOG2E
    else:
        return dot(chosen, x, MODE) * LOG2E


@triton.jit
def whole_decay(gate):
    """The decay of all tokens together, by channel."""
    return tl.exp2(tl.sum(gate.to(tl.float32), axis=0) * LOG2E)


@triton.jit
def level_kernel(spans, C: tl.constexpr, LEVELS: tl.constexpr):
    """One program: one matrix of zeros and ones of `spans`, [2 LEVELS + 2, C, C], which other kernels load.

    The first LEVELS: whether the decay of a token (row) to the border of its block holds the gate of another (column).
    Then two for the decay from the chunk's start to the token, and from the token to the chunk's end. The last LEVELS:
    whether two tokens stand in neighbouring blocks of that level, which no other level has them do.
    """
    number = tl.program_id(0)
    i = tl.arange(0, C)
    token, gate = i[:, None], i[None, :]
    level = number % (LEVELS + 2)
    behind = ((token >> level) & 1) == 1
    if number < LEVELS:
        chosen = ((token ^ gate) >> level == 0) & ((behind & (gate <= token)) | ((behind == 0) & (gate > token)))
    elif number < LEVELS + 2:
        chosen = (gate <= token) == (number == LEVELS)
    else:
        chosen = (token ^ gate) >> level == 1
    place = (number * C + i[:, None]) * C + i[None, :]
    tl.store(spans + place, chosen.to(tl.float32).to(spans.dtype.element_ty))


@triton.jit
def table_of(spans, number, C: tl.constexpr):
    """One matrix that `level_kernel` wrote."""
    i = tl.arange(0, C)
    return tl.load(spans + (number * C + i[:, None]) * C + i[None, :])


@triton.jit
def place_of(number, table, T, C: tl.constexpr, PACKED: tl.constexpr):
    """First row of a chunk, and the row behind the last of its sequence (not above the first: an idle chunk)."""
    if PACKED:
        return tl.load(table + 2 * number), tl.load(table + 2 * number + 1)
    else:
        per = tl.cdiv(T, C)
        return number // per * T + number % per * C, (number // per + 1) * T


@triton.jit
def gates(g, at, mask, MODE: tl.constexpr):
    """Log decays; 0 outside the sequence and in padding channels. What is bfloat16 stays it."""
    gate = tl.load(g + at, mask=mask, other=0.0)
    if (MODE != "bfloat16") or (gate.dtype != tl.bfloat16):
        gate = gate.to(tl.float32)
    return tl.where(gate > LEAST, gate, tl.full((1, 1), LEAST, gate.dtype))


@triton.jit(do_not_specialize=["T", "H", "HV", "K"])
def pair_kernel(
    q, k, g, beta, spans, table, X, Y, A, T,
    H, HV, K, BK: tl.constexpr,
    C: tl.constexpr, LEVELS: tl.constexpr, PACKED: tl.constexpr, MODE: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """One program: the pairs of one chunk of one value head. Writes X, Y (float32) and A, each [rows, HV, C]."""
    K = K * UNIT
    program = tl.program_id(0).to(tl.int64)
    head, number = program % HV, program // HV
    first, stop = place_of(number, table, T, C, PACKED)
    i = tl.arange(0, C)
    row, column = i[:, None], i[None, :]
    rows = first + i
    inside, at_row = rows < stop, rows * HV + head
    reads, M = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    for block in range(tl.cdiv(K, BK)):
        channels = block * BK + tl.arange(0, BK)
        both = inside[:, None] & (channels < K)[None, :]
        at_key = (rows * H + head // (HV // H))[:, None] * K + channels[None, :]
        query = tl.load(q + at_key, mask=both, other=0.0).to(tl.float32)
        key = tl.load(k + at_key, mask=both, other=0.0).to(tl.float32)
        gate = gates(g, at_row[:, None] * K + channels[None, :], both, MODE)
        reads += tl.where(row == column, tl.sum(query * key, axis=1)[:, None], 0.0)
        for level in range(LEVELS):
            decay = tl.exp2(sums(table_of(spans, level, C), gate, MODE))
            here = key * decay
            now = ((row ^ column) >> level == 1) & (row > column)
            reads += tl.where(now, dot(query * decay, tl.trans(here), MODE), 0.0)
            M += tl.where(now, fine_dot(here, tl.trans(here), MODE), 0.0)
    # beta twice: as a column and, loaded in the layout of a row, as a row.
    down = tl.load(beta + at_row, mask=inside, other=0.0).to(tl.float32)[:, None]
    across = tl.load(beta + (first + i) * HV + head, mask=first + i < stop, other=0.0).to(tl.float32)[None, :]
    if MODE == "float32":
        inverse, other = _substituted(down * M, row, column, C), _substituted(M * across, row, column, C)
    else:
        inverse = _merged(down * M, row, column, LEVELS, MODE)
        other = tl.where(row == column, 1.0, 0.0) - fine_dot(M, inverse * across, MODE)
    at = at_row[:, None] * C + column
    tl.store(X + at, inverse, mask=inside[:, None])
    tl.store(Y + at, other, mask=inside[:, None])
    tl.store(A + at, rounded(reads, MODE), mask=inside[:, None])


@triton.jit
def _merged(L, row, column, LEVELS: tl.constexpr, MODE: tl.constexpr):
    """(I + L)^-1 of a strictly lower triangular [C, C], block by block: blocks of one token, of two, of four and on."""
    X = tl.where(row == column, 1.0, 0.0) - tl.where(row ^ column == 1, L, 0.0)
    for level in range(1, LEVELS):
        X -= fine_dot(X, fine_dot(tl.where((row ^ column) >> level == 1, L, 0.0), X, MODE), MODE)
    return X


@triton.jit
def _substituted(L, row, column, C: tl.constexpr):
    """The same by forward substitution: slower, and with identical keys and beta = 2 forty times more exact."""
    X = tl.where(row == column, 1.0, 0.0)
    for j in range(C - 1):
        of_column = tl.sum(tl.where(column == j, L, 0.0), axis=1)
        of_row = tl.sum(tl.where(row == j, X, 0.0), axis=0)
        X -= of_column[:, None] * of_row[None, :]
    return X


@triton.jit(do_not_specialize=["T", "H", "HV", "K", "V"])
def ahead_kernel(
    k, v, g, beta, spans, table, Y, w, u, kb, last, T,
    H, HV, K, V,
    BK: tl.constexpr, BV: tl.constexpr, BLOCKS: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr,
    PACKED: tl.constexpr, MODE: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """One program: one block of channels and of columns of a chunk and head. Writes Y k+, Y v, beta k-, exp(G_C)."""
    K, V = K * UNIT, V * UNIT
    program = tl.program_id(0).to(tl.int64)
    block, head, number = program % BLOCKS, (program // BLOCKS) % HV, program // (BLOCKS * HV)
    first, stop = place_of(number, table, T, C, PACKED)
    i = tl.arange(0, C)
    rows = first + i
    inside, at_row = rows < stop, rows * HV + head
    strength = tl.load(beta + at_row, mask=inside, other=0.0).to(tl.float32)
    solved = tl.load(Y + at_row[:, None] * C + i[None, :], mask=inside[:, None], other=0.0)
    channels, columns = block * BK + tl.arange(0, BK), block * BV + tl.arange(0, BV)
    both, fits = inside[:, None] & (channels < K)[None, :], inside[:, None] & (columns < V)[None, :]
    at_key = (rows * H + head // (HV // H))[:, None] * K + channels[None, :]
    at_gate, at_value = at_row[:, None] * K + channels[None, :], at_row[:, None] * V + columns[None, :]
    key = tl.load(k + at_key, mask=both, other=0.0).to(tl.float32)
    gate = gates(g, at_gate, both, MODE)
    into = tl.exp2(sums(table_of(spans, LEVELS, C), gate, MODE))
    out_of = tl.exp2(sums(table_of(spans, LEVELS + 1, C), gate, MODE))
    tl.store(w + at_gate, rounded(fine_dot(solved, key * into, MODE), MODE), mask=both)
    tl.store(kb + at_gate, rounded(strength[:, None] * key * out_of, MODE), mask=both)
    tl.store(last + (number * HV + head) * K + channels, whole_decay(gate), mask=channels < K)
    value = tl.load(v + at_value, mask=fits, other=0.0)
    tl.store(u + at_value, rounded(fine_dot(solved, value.to(tl.float32), MODE), MODE), mask=fits)


@triton.jit(do_not_specialize=["T", "H", "HV", "K", "V"])
def behind_kernel(
    q, k, do, g, beta, spans, table, X, A, y, e0, qs, kb, scale, T,
    H, HV, K, V,
    BK: tl.constexpr, BV: tl.constexpr, BLOCKS: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr,
    PACKED: tl.constexpr, MODE: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """As `ahead_kernel`, for the walk backwards. Writes X^T k-, scale X^T A^T do, scale q+, beta k+."""
    K, V = K * UNIT, V * UNIT
    program = tl.program_id(0).to(tl.int64)
    block, head, number = program % BLOCKS, (program // BLOCKS) % HV, program // (BLOCKS * HV)
    first, stop = place_of(number, table, T, C, PACKED)
    i = tl.arange(0, C)
    rows = first + i
    inside, at_row = rows < stop, rows * HV + head
    strength = tl.load(beta + at_row, mask=inside, other=0.0).to(tl.float32)
    transposed = at_row[None, :] * C + i[:, None]
    solved = tl.load(X + transposed, mask=inside[None, :], other=0.0)
    reads = tl.load(A + transposed, mask=inside[None, :], other=0.0)
    channels, columns = block * BK + tl.arange(0, BK), block * BV + tl.arange(0, BV)
    both, fits = inside[:, None] & (channels < K)[None, :], inside[:, None] & (columns < V)[None, :]
    at_key = (rows * H + head // (HV // H))[:, None] * K + channels[None, :]
    at_gate, at_value = at_row[:, None] * K + channels[None, :], at_row[:, None] * V + columns[None, :]
    query = tl.load(q + at_key, mask=both, other=0.0).to(tl.float32)
    key = tl.load(k + at_key, mask=both, other=0.0).to(tl.float32)
    gate = gates(g, at_gate, both, MODE)
    into = tl.exp2(sums(table_of(spans, LEVELS, C), gate, MODE))
    out_of = tl.exp2(sums(table_of(spans, LEVELS + 1, C), gate, MODE))
    tl.store(y + at_gate, rounded(fine_dot(solved, key * out_of, MODE), MODE), mask=both)
    tl.store(qs + at_gate, rounded(scale * query * into, MODE), mask=both)
    tl.store(kb + at_gate, rounded(strength[:, None] * key * into, MODE), mask=both)
    cotangent = tl.load(do + at_value, mask=fits, other=0.0)
    # X^T (A^T do), not (A X)^T do: the latter loses ten times as much with identical keys and beta = 2.
    written = scale * dot(reads, cotangent, MODE)
    tl.store(e0 + at_value, rounded(fine_dot(solved, written, MODE), MODE), mask=fits)
