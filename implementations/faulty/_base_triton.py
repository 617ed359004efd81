"""The honest Triton bases of the faulty kernels, token by token and chunk by chunk; FAULT names the one thing changed.

They are written for the interpreter (everything of a head in one program), where `FAULT == ""` is honest.
"""

import torch
import triton
import triton.language as tl

from implementations._contract import check
from implementations._triton import padded, ready


@triton.jit
def token_kernel(q, k, v, g, beta, initial_state, cu, o, final_state, scale, H: tl.constexpr, HV: tl.constexpr,
                 K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BLOCKS: tl.constexpr,
                 HAS_STATE: tl.constexpr, WANTS_STATE: tl.constexpr, FAULT: tl.constexpr):  # fmt: skip
    """One program: one sequence, one value head, BV columns."""
    program = tl.program_id(0).to(tl.int64)
    block, head, n = program % BLOCKS, (program // BLOCKS) % HV, program // (BLOCKS * HV)
    start, stop = tl.load(cu + n), tl.load(cu + n + 1)
    rows, columns = tl.arange(0, BK), block * BV + tl.arange(0, BV)
    inside, wide = rows < K, columns < V
    both = inside[:, None] & wide[None, :]
    place = (n * HV + head) * K * V + rows[:, None] * V + columns[None, :]
    S = tl.zeros((BK, BV), tl.float32)
    if HAS_STATE:
        S += tl.load(initial_state + place, mask=both, other=0.0)
    for t in range(start, stop):
        key_head = head // (HV // H)
        if FAULT == "interleaved heads":
            key_head = head % H
        key_at = (t * H + key_head) * K + rows
        value_at = t * HV + head
        gate_at = value_at * K + rows
        if FAULT == "gate of the key head":
            gate_at = (t * HV + head // (HV // H)) * K + rows
        if FAULT == "narrow offsets":
            gate_at = (value_at * K) % 512 + rows
        key = tl.load(k + key_at, mask=inside, other=0.0).to(tl.float32)
        if FAULT == "key lanes unmasked":
            key = tl.load(k + tl.minimum(key_at, stop * H * K - 1)).to(tl.float32)
        query = tl.load(q + key_at, mask=inside, other=0.0).to(tl.float32)
        gate = tl.load(g + gate_at, mask=inside, other=0.0)
        if FAULT == "gate lanes unmasked":
            gate = tl.load(g + gate_at)
        if FAULT == "decay in half precision":
            decay = tl.exp(gate.to(tl.float32)).to(g.dtype.element_ty).to(tl.float32)
        else:
            decay = tl.exp(gate.to(tl.float32))
        value = tl.load(v + value_at * V + columns, mask=wide, other=0.0).to(tl.float32)
        strength = tl.load(beta + value_at).to(tl.float32)
        S = S * decay[:, None]
        held = tl.sum(S * key[:, None], axis=0)
        S += (strength * key)[:, None] * (value - held)[None, :]
        read = scale * tl.sum(S * query[:, None], axis=0)
        tl.store(o + value_at * V + columns, read.to(o.dtype.element_ty), mask=wide)
        if FAULT == "state stored by the last token":
            if WANTS_STATE:
                tl.store(final_state + place, S, mask=both)
    if WANTS_STATE:
        if FAULT != "state stored by the last token":
            tl.store(final_state + place, S, mask=both)


@triton.jit
def chunk_kernel(q, k, v, g, beta, initial_state, cu, o, final_state, scale, H: tl.constexpr, HV: tl.constexpr,
                 K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
                 N: tl.constexpr, HAS_STATE: tl.constexpr, WANTS_STATE: tl.constexpr,
                 FAULT: tl.constexpr):  # fmt: skip
    """One program: one sequence, one value head, chunk after chunk of C tokens."""
    program = tl.program_id(0).to(tl.int64)
    head, n = program % HV, program // HV
    if FAULT == "whole tiles stored":
        n = N - 1 - n
    start, stop = tl.load(cu + n), tl.load(cu + n + 1)
    i, channels, columns = tl.arange(0, C), tl.arange(0, BK), tl.arange(0, BV)
    wide, fits = channels < K, columns < V
    at_state = ((n * HV + head) * K + channels)[:, None] * V + columns[None, :]
    S = tl.zeros((BK, BV), tl.float32)
    if HAS_STATE:
        S += tl.load(initial_state + at_state, mask=wide[:, None] & fits[None, :], other=0.0)
    lower, strictly = i[:, None] >= i[None, :], i[:, None] > i[None, :]
    for first in range(start, stop, C):
        rows = first + i
        inside = rows < stop
        keyed, valued = inside[:, None] & wide[None, :], inside[:, None] & fits[None, :]
        at_key = (rows * H + head // (HV // H))[:, None] * K + channels[None, :]
        at_gate = (rows * HV + head)[:, None] * K + channels[None, :]
        at_value = (rows * HV + head)[:, None] * V + columns[None, :]
        query = tl.load(q + at_key, mask=keyed, other=0.0).to(tl.float32)
        key = tl.load(k + at_key, mask=keyed, other=0.0).to(tl.float32)
        value = tl.load(v + at_value, mask=valued, other=0.0).to(tl.float32)
        gate = tl.load(g + at_gate, mask=keyed, other=0.0).to(tl.float32)
        strength = tl.load(beta + rows * HV + head, mask=inside, other=0.0).to(tl.float32)
        total = tl.cumsum(gate, axis=0)
        # Sums of the decays in between, never differences of running sums.
        between = lower[:, :, None] & (i[None, :, None] < i[None, None, :]) & (i[None, None, :] <= i[:, None, None])
        sums = tl.sum(tl.where(between[:, :, :, None], gate[None, None, :, :], 0.0), axis=2)
        pairs = tl.where(lower[:, :, None], tl.exp(sums), 0.0)
        if FAULT == "exp before the mask":
            pairs = tl.exp(total[:, None, :] - total[None, :, :]) * tl.where(lower[:, :, None], 1.0, 0.0)
        if FAULT == "rows behind the end read gate 0":
            ended = tl.where(inside[:, None], total, 0.0)
            pairs = tl.where(lower[:, :, None], tl.exp(ended[:, None, :] - ended[None, :, :]), 0.0)
        if FAULT == "anchor on a later row":
            valid = tl.minimum(stop - first, C)
            anchor = tl.sum(tl.where((i == valid // 2)[:, None], total, 0.0), axis=0)
            near = tl.where(tl.max(tl.abs(total[None, :, :] - anchor[None, None, :]), axis=1) < 60.0, 1.0, 0.0)
            up, down = tl.exp(total - anchor[None, :]), tl.exp(anchor[None, :] - total)
            split = tl.where(lower[:, :, None], up[:, None, :] * down[None, :, :], 0.0)
            pairs = tl.where(near[:, None, :] > 0.5, split, pairs)
        reads = tl.sum(query[:, None, :] * pairs * key[None, :, :], axis=2)
        L = tl.where(strictly, strength[:, None] * tl.sum(key[:, None, :] * pairs * key[None, :, :], axis=2), 0.0)
        from_start = tl.exp(total)
        held = tl.dot(key * from_start, S, input_precision="ieee")
        u = strength[:, None] * (value - held)
        steps = C - 1
        if FAULT == "substitution by whole sub-chunks":
            steps = tl.minimum(C - 1, ((stop - first) // 8) * 8)
        for j in range(steps):
            column = tl.sum(tl.where((i == j)[None, :], L, 0.0), axis=1)
            row = tl.sum(tl.where((i == j)[:, None], u, 0.0), axis=0)
            u -= column[:, None] * row[None, :]
        read = tl.dot(query * from_start, S, input_precision="ieee") + tl.dot(reads, u, input_precision="ieee")
        stored = valued
        if FAULT == "whole tiles stored":
            stored = (rows < tl.load(cu + N))[:, None] & fits[None, :]
        if FAULT == "tail row not stored":
            stored = (inside & ((i > 0) | (rows == start)))[:, None] & fits[None, :]
        tl.store(o + at_value, (scale * read).to(o.dtype.element_ty), mask=stored)
        later = tl.where((i[None, :] > i[:, None])[:, :, None], gate[None, :, :], 0.0)
        to_end = tl.exp(tl.sum(later, axis=1))
        whole = tl.exp(tl.sum(gate, axis=0))
        if FAULT == "end gate of the last row":
            whole = tl.exp(tl.sum(tl.where((i == C - 1)[:, None], total * tl.where(keyed, 1.0, 0.0), 0.0), axis=0))
        S = S * whole[:, None] + tl.dot(tl.trans(key * to_end), u, input_precision="ieee")
    if WANTS_STATE:
        tl.store(final_state + at_state, S, mask=wide[:, None] & fits[None, :])


class Triton:
    """A kernel of the contract on one of the two bases; `fault` names what is changed in it."""

    array = "triton"
    fault = ""
    chunked = False
    chunk = 16

    def __call__(self, q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
        """The contract's call; forward only."""
        shape = check(q, k, v, g, beta, initial_state=initial_state, cu_seqlens=cu_seqlens)
        ready(q, k, v, g, beta, initial_state)
        q, k, v, g, beta = (self.laid_out(x) for x in (q, k, v, g, beta))
        initial_state = None if initial_state is None else initial_state.contiguous()
        ends = torch.arange(shape.B + 1) * shape.T if cu_seqlens is None else cu_seqlens
        cu = ends.to(dtype=torch.int64).contiguous()
        o = torch.empty_like(v)
        size = (shape.N, shape.HV, shape.K, shape.V)
        final_state = torch.empty(size, dtype=torch.float32) if output_final_state else None
        scale = shape.K**-0.5 if scale is None else scale
        BK, BV = max(padded(shape.K), 16), max(padded(shape.V), 16)
        common = {
            "H": shape.H,
            "HV": shape.HV,
            "K": shape.K,
            "V": shape.V,
            "BK": BK,
            "HAS_STATE": initial_state is not None,
            "WANTS_STATE": output_final_state,
            "FAULT": self.fault,
        }
        arguments = (q, k, v, g, beta, initial_state, cu, o, final_state, scale)
        programs = shape.N * shape.HV
        if self.chunked and programs:
            chunk_kernel[(programs,)](*arguments, BV=BV, C=self.chunk, N=shape.N, **common)
        elif programs:
            BV, blocks = self.columns(shape.V)
            token_kernel[(programs * blocks,)](*arguments, BV=BV, BLOCKS=blocks, **common)
        return o, final_state

    def laid_out(self, x: torch.Tensor) -> torch.Tensor:
        """An input as the kernel's addresses expect it."""
        return x.contiguous()

    def columns(self, V: int) -> tuple[int, int]:
        """Width and number of blocks of value columns."""
        BV = min(padded(V), 32)
        return BV, triton.cdiv(V, BV)


class Tokens(Triton):
    """Token by token."""


class Chunks(Triton):
    """Chunk by chunk."""

    chunked = True


honest = Chunks()
honest.HINTS = {"array": "torch"}  # type: ignore[attr-defined]
honest_tokens = Tokens()
honest_tokens.HINTS = {"array": "torch"}  # type: ignore[attr-defined]
