"""Where chunks, segments and sequences are: tables made by the host from a shape, or on the device from cu_seqlens.

What cu_seqlens holds is known late where it lies on a GPU. So grids and tables of packed calls have the size of the
worst case, which the shapes tell (each sequence has one ragged chunk and one ragged segment at most), and rows that are
left over describe idle work, in zeros: kernels touch nothing for them. Whatever cu_seqlens holds, the tables stay
within the T tokens, so everything can be launched before the host has read it (`judgement`).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from implementations._contract import Shape, rising
from implementations._triton import cdiv, launch

CHUNK = 64
ROWS = 32  # of each table, for a program
FEW, MANY = 16, 64  # sequences that a program looks at side by side


class Plan(NamedTuple):
    """Where chunks, segments and sequences are, as int64 tables on the device; see the kernels for their columns.

    `even`: what sequences of the same length need no table for: the first token, their distance and their length.
    """

    chunks: Tensor
    segments: Tensor
    sequences: Tensor
    divided: bool
    even: tuple[int, int, int] | None = None


def plans(
    shape: Shape, cu_seqlens: Tensor | None, segment: int, apart: int, share: float, device: torch.device
) -> list[Plan]:
    """The plans of the pieces that a call is cut into, one after the other; packed calls have one piece.

    Args:
        shape: the call's.
        cu_seqlens: boundaries, on `device`, or None.
        segment: chunks of a segment; 0: a sequence is one segment.
        apart: from so many chunks on a single sequence is cut in two; 0: never.
        share: how much of it the first piece has.
        device: where the tables are needed.
    """
    if cu_seqlens is not None:
        return [_packed(cu_seqlens, shape.N, shape.T, segment)]
    cuts = tuple((n * shape.T, (n + 1) * shape.T) for n in range(shape.N))
    return [_dense(piece, segment, device) for piece in _pieces(cuts, apart, share)]


def _pieces(cuts, apart, share):
    """A sequence of at least `apart` chunks in two; anything else in one piece."""
    start, stop = cuts[0] if len(cuts) == 1 else (0, 0)
    count = cdiv(stop - start, CHUNK)
    if not apart or count < apart:
        return [cuts]
    middle = start + CHUNK * max(int(share * count), 1)
    return [((start, middle),), ((middle, stop),)]


@lru_cache(maxsize=64)
def _dense(cuts, segment, device):
    """The tables of sequences whose ends the shape tells; remembered, because they depend on lengths alone."""
    chunks, segments, sequences = [], [], []
    for n, (start, stop) in enumerate(cuts):
        first, count = len(chunks), cdiv(stop - start, CHUNK)
        chunks += [(start + c * CHUNK, stop) for c in range(count)]
        step = min(segment, count) or max(count, 1)
        sequences.append((len(segments), max(cdiv(count, step), 1)))
        for c in range(0, max(count, 1), step):
            here = min(step, count - c)
            last = int(c + here >= count)
            segments.append((first + c, here, n, start + c * CHUNK, stop, last, len(segments)))
    tables = [
        torch.tensor(x, dtype=torch.int64).reshape(-1, width).to(device)
        for x, width in ((chunks, 2), (segments, 7), (sequences, 2))
    ]
    return Plan(*tables, divided=len(segments) > len(cuts), even=_even(cuts))


def _even(cuts):
    """First token, distance and length of sequences that are alike; None where they are not."""
    if len({stop - start for start, stop in cuts}) != 1:
        return None
    (start, stop), (later, _) = cuts[0], cuts[min(1, len(cuts) - 1)]
    return start, later - start, stop - start


def _packed(cu: Tensor, N: int, T: int, segment: int) -> Plan:
    """The tables of packed sequences, sized by the worst case; divided if one sequence of T tokens would be."""
    step, new = segment or T // CHUNK + 1, {"dtype": torch.int64, "device": cu.device}
    count, rows = T // CHUNK + min(N, T), T // (CHUNK * step) + N  # of no tokens: no chunk, but a segment
    chunks, segments, sequences = (torch.empty(size, **new) for size in ((count, 2), (rows, 7), (N, 2)))
    _launch(cu, chunks, segments, sequences, None, None, N, T, step, count, rows, CHUNK)
    return Plan(chunks, segments, sequences, divided=T > CHUNK * step)


def packed_chunks(cu: Tensor, N: int, T: int, C: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of packed sequences the chunks of C tokens [.., 2], the boundaries [N + 1], and each one's first chunk [N].

    All in int64 and within T tokens, whatever cu [N + 1] holds.
    """
    count, new = T // C + min(N, T), {"dtype": torch.int64, "device": cu.device}
    chunks, bounds, starts = torch.empty((count, 2), **new), torch.empty(N + 1, **new), torch.empty(N, **new)
    _launch(cu, chunks, None, None, bounds, starts, N, T, 1, count, 0, C)
    return chunks, bounds, starts


def _launch(cu, chunks, segments, sequences, bounds, starts, N, T, segment, count, rows, C):
    programs = (max(count, rows, 1) + ROWS - 1) // ROWS
    launch(
        plan_kernel, (programs,), cu.contiguous(), chunks, segments, sequences, bounds, starts, N, T, segment, count,
        rows, C=C, BN=FEW if N <= FEW else MANY, BR=ROWS, num_warps=4 if N <= FEW else 8,
    )  # fmt: skip


@triton.jit
def _boundaries(cu, n, N, T, behind):
    """First tokens and those behind the last, of sequences n [BN]: from 0 to T and never falling, whatever cu holds.

    `behind`: the end of those before.
    """
    here = tl.minimum(tl.maximum(tl.load(cu + n, mask=n < N, other=0).to(tl.int64), 0), T).to(tl.int32)
    ahead = tl.minimum(tl.maximum(tl.load(cu + n + 1, mask=n < N, other=0).to(tl.int64), 0), T).to(tl.int32)
    start = tl.maximum(tl.max(tl.where(n[:, None] <= n[None, :], here[:, None], 0), axis=0), behind)
    return start, tl.maximum(start, ahead)


@triton.jit
def _of(own, x):
    """For every row [BR] what its sequence has in x [BN], by own [BR, BN], where at most one of each row is true."""
    return tl.sum(tl.where(own, x[None, :], 0), axis=1)


@triton.jit
def _write_chunks(chunks, row, mine, start, stop, first, count, C: tl.constexpr):
    """The rows of chunks that are `mine`: those of sequences that have their first chunk at `first` and `count`."""
    own = (row[:, None] >= first[None, :]) & (row[:, None] < (first + count)[None, :])
    tl.store(chunks + 2 * row, _of(own, start - first * C) + row * C, mask=mine)
    tl.store(chunks + 2 * row + 1, _of(own, stop), mask=mine)


@triton.jit
def _write_segments(segments, row, mine, n, start, stop, first, count, place, pieces, natural, segment,
                    C: tl.constexpr):  # fmt: skip
    """The rows of segments that are `mine`: those of sequences that have `pieces` rows from `place` on."""
    own = (row[:, None] >= place[None, :]) & (row[:, None] < (place + pieces)[None, :])
    piece = row - _of(own, place)
    before = piece * segment
    left = _of(own, count) - before
    at = segments + 7 * row
    tl.store(at, _of(own, first) + before, mask=mine)
    tl.store(at + 1, tl.minimum(left, segment), mask=mine)
    tl.store(at + 2, _of(own, n), mask=mine)
    tl.store(at + 3, _of(own, start) + before * C, mask=mine)
    tl.store(at + 4, _of(own, stop), mask=mine)
    tl.store(at + 5, (left <= segment).to(tl.int32), mask=mine)
    tl.store(at + 6, _of(own, natural) + piece, mask=mine)


@triton.jit
def _clear(table, row, idle, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Zeros in the rows of a table that are idle."""
    column = tl.arange(0, PADDED)[None, :]
    at = WIDTH * row[:, None] + column
    tl.store(table + at, at * 0, mask=idle[:, None] & (column < WIDTH))


@triton.jit(do_not_specialize=["N", "T", "segment", "chunk_rows", "segment_rows"])
def plan_kernel(
    cu,
    chunks,
    segments,
    sequences,
    bounds,
    starts,
    N,
    T,
    segment,
    chunk_rows,
    segment_rows,
    C: tl.constexpr,
    BN: tl.constexpr,
    BR: tl.constexpr,
):
    """One program: BR rows of `chunks` [chunk_rows, 2] and of `segments` [segment_rows, 7]; the first all of the rest.

    Every program looks at all N sequences, BN at a time, for those that its rows belong to: no program waits for
    another. `segments` with `sequences` [N, 2], and `bounds` [N + 1] with `starts` [N], may be None. Among BN sequences
    the segments of longer ones come first, so that the longest walk does not begin last; each row has its number in the
    order of sequences. A segment has `segment` chunks of C tokens.
    """
    # 32 bits are enough: the tiles of 2^31 tokens would need 2 TB.
    row, lanes, program = tl.program_id(0) * BR + tl.arange(0, BR), tl.arange(0, BN), tl.program_id(0)
    behind, chunk, number = 0, 0, 0
    for block in range(0, N, BN):
        n = block + lanes
        start, stop = _boundaries(cu, n, N, T, behind)
        behind = tl.max(stop, axis=0)
        count = tl.cdiv(stop - start, C)
        first = chunk + tl.cumsum(count, axis=0) - count
        later = chunk + tl.sum(count, axis=0)
        _write_chunks(chunks, row, (row >= chunk) & (row < later), start, stop, first, count, C)
        chunk = later
        once = (n < N) & (lanes * 0 + program == 0)
        if segments is not None:
            pieces = tl.where(n < N, tl.maximum(tl.cdiv(count, segment), 1), 0)
            natural = number + tl.cumsum(pieces, axis=0) - pieces
            same = (count[:, None] == count[None, :]) & (lanes[:, None] < lanes[None, :])
            longer = (count[:, None] > count[None, :]) | same
            place = number + tl.sum(tl.where(longer, pieces[:, None], 0), axis=0)
            later = number + tl.sum(pieces, axis=0)
            mine = (row >= number) & (row < later)
            _write_segments(segments, row, mine, n, start, stop, first, count, place, pieces, natural, segment, C)
            number = later
            tl.store(sequences + 2 * n, natural, mask=once)
            tl.store(sequences + 2 * n + 1, pieces, mask=once)
        if bounds is not None:
            tl.store(bounds + n, start, mask=once)
            tl.store(bounds + n + 1, stop, mask=once)
            tl.store(starts + n, first, mask=once)
    _clear(chunks, row, (row >= chunk) & (row < chunk_rows), 2, 2)
    if segments is not None:
        _clear(segments, row, (row >= number) & (row < segment_rows), 7, 8)


def placed(cu_seqlens: Tensor | None, device: torch.device) -> Tensor | None:
    """cu_seqlens on a device, without waiting for it: pageable memory has been read when the copy's call returns."""
    if cu_seqlens is None or cu_seqlens.device == device:
        return cu_seqlens
    return cu_seqlens.to(device, non_blocking=cu_seqlens.device.type == "cpu" and not cu_seqlens.is_pinned())


def judgement(cu_seqlens: Tensor | None, T: int) -> Callable[[], None]:
    """Begins to read cu_seqlens; what it returns, called behind the launches, waits for the values and judges them.

    A CUDA graph that is being captured cannot be waited for: then they are not judged.

    Raises:
        ValueError: what the contract says of bad values; at once if nothing has to be waited for.
    """
    if cu_seqlens is None:
        return _nothing
    if cu_seqlens.device.type != "cuda":
        rising(cu_seqlens.tolist(), T)
        return _nothing
    if torch.cuda.is_current_stream_capturing():
        return _nothing
    # Pinned memory: torch keeps some for such copies, and lends none again while a copy to it is still to come.
    copy, done = cu_seqlens.to("cpu", non_blocking=True), torch.cuda.Event()
    done.record(torch.cuda.current_stream(cu_seqlens.device))

    def judge() -> None:
        done.synchronize()
        rising(copy.tolist(), T)

    return judge


def _nothing() -> None:
    pass
