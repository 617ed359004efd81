"""Family D: boundary reads and writes, partial chunks, padding."""

import torch

from implementations.faulty._base import Chunked
from implementations.faulty._registry import fault


@fault(
    "D1",
    "The inverse of a chunk of 64 assumes four sub-chunks; with only two valid ones their coupling is left out.",
    trigger="T mod 64 in 17..32",
    source="fla #673, bb1f9b9c",
)
class two_sub_chunks_uncoupled(Chunked):
    chunk = 64

    def solve(self, c, L, right):
        if 16 < c.length <= 32:
            L = L.clone()
            L[:, 16:32, :16] = 0
        return super().solve(c, L, right)


@fault(
    "D2",
    "Forward substitution in a partial sub-chunk stops one row early.",
    trigger="T mod 16 > 1 in a chunk that is not the first",
    source="fla 370fe304",
)
class substitution_stops_early(Chunked):
    def solve(self, c, L, right):
        if c.index and 1 < c.length < self.chunk:
            L = L.clone()
            L[:, c.length - 1] = 0
        return super().solve(c, L, right)


@fault(
    "D6",
    "The end-of-chunk gate is taken from row C - 1, which a dense ragged tail never filled.",
    trigger="dense and T mod 16 != 0 and final state asked for",
    source="cuLA #38",
)
class end_gate_from_padding(Chunked):
    def carry(self, c, total, S, u):
        if c.length < self.chunk and not c.call.packed:
            total = torch.cat([total[:, : c.length], torch.zeros_like(total[:, c.length :])], dim=1)
        return super().carry(c, total, S, u)

    def to_end(self, c, total):
        return super().to_end(c, total).nan_to_num(posinf=3e38)


@fault(
    "D7",
    "The valid length of a dense tail is hard-coded to the chunk: rows past the end repeat the last token.",
    trigger="dense and T mod 16 != 0 and T > 16",
    source="cuLA #43",
)
class tail_length_hard_coded(Chunked):
    def cut(self, rows, call, n, index, first, left, tokens):
        if call.packed or left >= self.chunk or index == 0:
            return super().cut(rows, call, n, index, first, left, tokens)
        place = torch.arange(first, first + self.chunk).clamp_max(first + left - 1)
        c = super().cut(rows, call, n, index, first, left, tokens)
        c.q, c.k, c.v, c.g, c.beta = (x[place].transpose(0, 1) for x in rows)
        return c


@fault(
    "D9",
    "A tail of exactly one token does not reach the final state.",
    trigger="T mod 16 = 1 and T > 16",
    source="cuLA #38, a variant",
)
class last_token_not_in_the_state(Chunked):
    def carry(self, c, total, S, u):
        return S if c.index and c.length == 1 else super().carry(c, total, S, u)


@fault(
    "D10",
    "A last chunk that is exactly full is not scaled by its whole decay when the sequence has several chunks.",
    trigger="T a multiple of 16, T > 16, a state to decay",
    source="lore of chunk kernels: off by one in the number of chunks",
)
class full_last_chunk_keeps_the_state(Chunked):
    def whole(self, c, total):
        whole = super().whole(c, total)
        return torch.ones_like(whole) if c.last and c.index and c.length == self.chunk else whole


@fault(
    "D11",
    "Rows that no program covers stay as the allocator gave them: the last row where T mod 16 = 1.",
    trigger="T mod 16 = 1 and T > 16",
    source="fla 80e69a56",
)
class row_never_written(Chunked):
    def result(self, o, call):
        fresh = torch.empty_like(o)
        written = call.shape.T if call.packed or call.shape.T % 16 != 1 or call.shape.T < 17 else call.shape.T - 1
        fresh[:, :written] = o[:, :written]
        return fresh


@fault(
    "D12",
    "The gradient buffer of v is never written for the rows of a partial tail.",
    trigger="backward and T mod 16 != 0 and T > 16",
    source="fla #892",
)
class gradient_rows_never_written(Chunked):
    def cut(self, rows, call, n, index, first, left, tokens):
        c = super().cut(rows, call, n, index, first, left, tokens)
        if index and left < self.chunk:
            c.v = c.v.detach()
        return c


@fault(
    "D13",
    "The matrix of reads comes from empty memory and only whole sub-chunks of it are filled.",
    trigger="T mod 16 in 1..3 in a chunk that is not the first",
    source="fla #1070, 0f0f0c97",
)
class reads_from_empty_memory(Chunked):
    def products(self, c, total):
        reads, L = super().products(c, total)
        if c.index == 0 or c.length > 3:
            return reads, L
        return torch.empty_like(reads).copy_(torch.zeros_like(reads)), L


@fault(
    "D14",
    "A head index from a truncated quotient: with three heads, the last one of a batch row lands in the next row.",
    trigger="HV a multiple of three and B > 1",
    source="intel/llm-scaler #464",
)
class head_index_past_the_row(Chunked):
    def result(self, o, call):
        if call.shape.HV % 3 or call.shape.B < 2:
            return o
        o = o.clone()
        o[1:, :, 0] = o[:-1, :, -1]
        return o


@fault(
    "D18",
    "The sequence's first row after a whole chunk is decayed twice when it is also the last.",
    trigger="T mod 16 = 1 and T > 16 and a gate that is not 0",
    source="flash-linear-attention-npu #544, forward",
)
class single_row_decays_twice(Chunked):
    def from_start(self, c, total):
        return super().from_start(c, 2 * total if c.index and c.length == 1 else total)
