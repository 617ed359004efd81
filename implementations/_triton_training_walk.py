"""The Triton code of the chunked backward in bfloat16: the walks over chunks, forwards and backwards.

With the tiles of `_triton_chunk`, Z of `_triton_training_solve` in the place of T, and D = diag(beta), a chunk does

    u = v - kd S                        r = u - Z D u         S <- last S + kg^T D r
    z = A^T do + kg dS                  e = z - Z^T D z       dS <- last dS + qd^T do - kd^T D e

Cotangents are divided by `scale` all the way: what comes from do would have it as a factor, and the walk is linear.
Z comes as the sum of two bfloat16 matrices, of which the walk backwards takes the first alone: three stages of its
tiles leave no room for the second, and two wait for memory. D u and D z are multiplied with 16 bits.

As in `_triton_walk`, states are held transposed, [BV, BK], so that every product has on its left what the last one left
in registers. What they hand to the gradients is transposed as well, padded and zero behind the sequence: states and
cotangents [chunk, HV, VP, BK], r and e [chunk, HV, VP, C].
"""

import triton
import triton.language as tl

from implementations._triton_backward import dot, halves, rounded
from implementations._triton_chunk import C, solve_part
from implementations._triton_walk import rows_of, whole_of


@triton.jit
def _reads(pairs, tile, BK: tl.constexpr, SIZE: tl.constexpr):
    """A of a tile, [C, C]."""
    return pairs.load([(tile * (SIZE // C)).to(tl.int32) + 3 * BK, 0])


@triton.jit
def _core(pairs, tile, rest: tl.constexpr, BK: tl.constexpr, SIZE: tl.constexpr, WIDE: tl.constexpr):
    """Z of a tile, [C, C], or what its rounding left."""
    return pairs.load([(tile * (SIZE // C)).to(tl.int32) + solve_part(0, BK, WIDE) // C + rest * C, 0])


@triton.jit
def _strengths(strengths, tile, left):
    """The beta of a chunk's tokens, [C], also asked for a chunk ahead."""
    i = tl.arange(0, C)
    return tl.load(strengths + tile * C + i, mask=i * 0 < left, other=0.0)


@triton.jit
def _sequence(segments, HV, BLOCKS: tl.constexpr):
    """A program's block of columns and value head; its sequence's first chunk, chunks, number, first token and end."""
    program = tl.program_id(0).to(tl.int64)
    line = segments + 7 * (program // (BLOCKS * HV))
    first, count, n = tl.load(line), tl.load(line + 1), tl.load(line + 2)
    return program % BLOCKS, (program // BLOCKS) % HV, first, count, n, tl.load(line + 3), tl.load(line + 4)


@triton.jit
def _more(a, b, total, MODE: tl.constexpr):
    """Total + a b, with operands rounded as in `dot`."""
    return tl.dot(rounded(a, MODE), rounded(b, MODE), total)


@triton.jit(do_not_specialize=["HV", "K", "V"])
def state_walk_kernel(
    v, strengths, rows, pairs, exact, segments, initial_state, states, r, HV, K, V,
    BK: tl.constexpr, VP: tl.constexpr, SIZE: tl.constexpr, WIDE: tl.constexpr, BV: tl.constexpr,
    HAS_STATE: tl.constexpr, MODE: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """One program: one sequence of one value head, BV columns. Writes the state before every chunk, and r.

    `segments`: as in `_triton_walk.walk_kernel`, one for each sequence.
    """
    K, V = K * UNIT, V * UNIT
    block, head, first, count, n, start, stop = _sequence(segments, HV, VP // BV)
    channels, columns = tl.arange(0, BK), block * BV + tl.arange(0, BV)
    fits = columns < V
    S = tl.zeros((BV, BK), tl.float32)
    if HAS_STATE:
        at_state = ((n * HV + head) * K + channels)[None, :] * V + columns[:, None]
        inner = (channels < K)[None, :] & fits[:, None]
        S += tl.load(initial_state + at_state, mask=inner, other=0.0).to(tl.float32)
    tile = first * HV + head
    whole, strength = whole_of(exact, tile, count, BK, SIZE, WIDE), _strengths(strengths, tile, count)
    # v^T comes out of a product, for otherwise it would take a fifth of the instructions of a step.
    minus = tl.where(tl.arange(0, C)[:, None] == tl.arange(0, C)[None, :], -1.0, 0.0)
    for c in range(count):
        tile, tokens = (first + c) * HV + head, start + c * C + tl.arange(0, C)
        later = whole_of(exact, tile + HV, count - c - 1, BK, SIZE, WIDE)
        stronger = _strengths(strengths, tile + HV, count - c - 1)
        place = (tile * VP + block * BV).to(tl.int32)
        states.store([place, 0], rounded(S, MODE))
        at, real = ((tokens * HV + head) * V)[:, None] + columns[None, :], (tokens < stop)[:, None] & fits[None, :]
        held = dot(tl.trans(tl.load(v + at, mask=real, other=0.0)), minus, MODE)  # -u, and then -r
        held = _more(S, tl.trans(rows_of(rows, tile, 0, BK, SIZE)), held, MODE)
        high, low = halves(-strength[None, :] * held, MODE)
        held = _more(high, tl.trans(_core(pairs, tile, 1, BK, SIZE, WIDE)), held, MODE)
        Z = rounded(tl.trans(_core(pairs, tile, 0, BK, SIZE, WIDE)), MODE)
        held = tl.dot(high, Z, tl.dot(low, Z, held))
        r.store([place, 0], rounded(-held, MODE))
        S = _more(-strength[None, :] * held, rows_of(rows, tile, 2, BK, SIZE), S * whole[None, :], MODE)
        whole, strength = later, stronger


@triton.jit
def _halves_stored(to, row, x, BV: tl.constexpr, BK: tl.constexpr):
    """Stores rows of BK numbers, one half after the other: at once they take more shared memory than is left."""
    left, right = tl.split(tl.permute(tl.reshape(x, (BV, 2, BK // 2)), (0, 2, 1)))
    at = to + (row + tl.arange(0, BV))[:, None] * BK + tl.arange(0, BK // 2)[None, :]
    tl.store(at, left)
    tl.store(at + BK // 2, right)


@triton.jit(do_not_specialize=["HV", "K", "V", "scale"])
def cotangent_walk_kernel(
    do, strengths, rows, pairs, exact, segments, dfinal, cotangents, e, dinitial, scale, HV, K, V,
    BK: tl.constexpr, VP: tl.constexpr, SIZE: tl.constexpr, WIDE: tl.constexpr, BV: tl.constexpr,
    HAS_FINAL: tl.constexpr, HAS_STATE: tl.constexpr, MODE: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """The same from the last chunk to the first. Writes the cotangents behind chunks, e and dS_0."""
    K, V = K * UNIT, V * UNIT
    block, head, first, count, n, start, stop = _sequence(segments, HV, VP // BV)
    channels, columns = tl.arange(0, BK), block * BV + tl.arange(0, BV)
    fits = columns < V
    at_state = ((n * HV + head) * K + channels)[None, :] * V + columns[:, None]
    inner = (channels < K)[None, :] & fits[:, None]
    dS = tl.zeros((BV, BK), tl.float32)
    if HAS_FINAL:
        dS += tl.load(dfinal + at_state, mask=inner, other=0.0).to(tl.float32) / scale
    tile = (first + count - 1) * HV + head
    whole, strength = whole_of(exact, tile, count, BK, SIZE, WIDE), _strengths(strengths, tile, count)
    within = tl.arange(0, BV)[:, None] * C + tl.arange(0, C)[None, :]
    for done in range(count):
        c = count - 1 - done
        tile, tokens = (first + c) * HV + head, start + c * C + tl.arange(0, C)
        earlier = whole_of(exact, tile - HV, c, BK, SIZE, WIDE)
        stronger = _strengths(strengths, tile - HV, c)
        _halves_stored(cotangents, tile * VP + block * BV, rounded(dS, MODE), BV, BK)
        at, real = ((tokens * HV + head) * V)[:, None] + columns[None, :], (tokens < stop)[:, None] & fits[None, :]
        cotangent = tl.trans(tl.load(do + at, mask=real, other=0.0))
        along = dot(cotangent, _reads(pairs, tile, BK, SIZE), MODE)
        along = _more(dS, tl.trans(rows_of(rows, tile, 2, BK, SIZE)), along, MODE)
        high, low = halves(-strength[None, :] * along, MODE)
        Z = rounded(_core(pairs, tile, 0, BK, SIZE, WIDE), MODE)
        along = tl.dot(high, Z, tl.dot(low, Z, along))
        tl.store(e + (tile * VP + block * BV) * C + within, rounded(along, MODE))
        dS = _more(cotangent, rows_of(rows, tile, 1, BK, SIZE), dS * whole[None, :], MODE)
        dS = _more(-strength[None, :] * along, rows_of(rows, tile, 0, BK, SIZE), dS, MODE)
        whole, strength = earlier, stronger
    if HAS_STATE:
        tl.store(dinitial + at_state, scale * dS, mask=inner)
