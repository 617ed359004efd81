"""Families I and K: flags and configurations, tuning, compilers and races as models."""

from typing import ClassVar

import torch

from implementations.faulty._base import Chunked, honest
from implementations.faulty._registry import fault


@fault(
    "I1",
    "Chunks of 32 for wide keys, but the walk over the state counts chunks of 64.",
    trigger="K > 64 and T > 32",
    source="fla #876, 769035e9",
)
class chunk_hard_coded(Chunked):
    chunk = 32

    def carry(self, c, total, S, u):
        odd = c.call.shape.K > 64 and c.index % 2 == 1 and not c.last
        return S if odd else super().carry(c, total, S, u)


@fault(
    "I3",
    "Compiled code is kept by shape alone: a gate of another dtype is read in the first one's.",
    trigger="a call with the gate in half precision, then one of the same widths with a float32 gate",
    source="cuLA #43",
)
class compiled_for_another_gate(Chunked):
    def __init__(self):
        self.compiled = {}

    def gate(self, g, call):
        dtype = self.compiled.setdefault((call.shape.K, call.shape.V, call.shape.HV), g.dtype)
        return g.to(dtype).double() if dtype == torch.bfloat16 else g.double()


@fault(
    "I4",
    "K = 64 is sent to a kernel that is written for 128 and reads twice the channels.",
    trigger="K = 64 and V > 16",
    source="cudnn-frontend sm90, engine ranking",
)
class wide_kernel_for_64(Chunked):
    def read(self, c, total, S, reads, u):
        o = super().read(c, total, S, reads, u)
        return o * torch.nan if c.call.shape.K == 64 and c.call.shape.V > 16 else o


@fault(
    "I7",
    "The last block of value columns is skipped where V is no multiple of 32.",
    trigger="V > 32 and V mod 32 != 0",
    source="lore of tiled kernels: floor for ceil",
)
class columns_skipped(Chunked):
    def result(self, o, call):
        V = call.shape.V
        if V < 33 or V % 32 == 0:
            return o
        return torch.cat([o[..., : V // 32 * 32], torch.zeros_like(o[..., V // 32 * 32 :])], dim=-1)


@fault(
    "I9",
    "Three flags together take an untested path that forgets the scale.",
    trigger="packed and HV > H and states given",
    source="fla #1088: combinations that no test drew",
)
class untested_combination(Chunked):
    def gather(self, q, k, v, g, beta, call):
        if call.packed and call.stated and call.shape.HV > call.shape.H:
            call.scale = 1.0
        return super().gather(q, k, v, g, beta, call)


@fault(
    "I10",
    "Without a final state the last chunk takes a shortcut that leaves its own tokens out.",
    trigger="no final state asked for and T > 16",
    source="lore of fused kernels: the flag selects another epilogue",
)
class shortcut_without_final_state(Chunked):
    wanted = True

    def __call__(self, q, k, v, g, beta, *, output_final_state=False, **keywords):
        self.wanted = output_final_state
        return super().__call__(q, k, v, g, beta, output_final_state=output_final_state, **keywords)

    def read(self, c, total, S, reads, u):
        if self.wanted or not c.last or c.index == 0:
            return super().read(c, total, S, reads, u)
        return super().read(c, total, S, torch.zeros_like(reads), u)


@fault(
    "K4",
    "Tuning runs the first call of a shape twice without restoring the state it works on.",
    trigger="the first call of a shape with T <= 4 and a state",
    source="fla ca89d201",
)
class tuned_in_place(Chunked):
    def __init__(self):
        self.tuned = set()

    def initial(self, initial_state, n, call):
        S = super().initial(initial_state, n, call)
        if call.stated and call.shape.T <= 4 and call.shape not in self.tuned:
            self.tuned.add(call.shape)
            return 2 * S
        return S


@fault(
    "K5",
    "A pipelined buffer is overwritten before it is read: every second call sees the chunk before.",
    trigger="T > 32 and a partial tail, alternate calls",
    source="fla 3696487c, #890",
)
class pipelined_buffer(Chunked):
    calls = 0

    def cut(self, rows, call, n, index, first, left, tokens):
        c = super().cut(rows, call, n, index, first, left, tokens)
        self.calls += index == 0
        if self.calls % 2 and index > 1 and left < self.chunk:
            c.v = self.pad(rows[2], first - self.chunk, c.length).transpose(0, 1)
        return c


@fault(
    "K6",
    "A missing fence: a call sees the keys of the call before where the shapes agree.",
    trigger="two calls of the same shape with other numbers, T > 8",
    source="FlashKDA #24, cuLA #77",
)
class keys_of_the_call_before(Chunked):
    def __init__(self):
        self.old = {}

    def gather(self, q, k, v, g, beta, call):
        old = self.old.get(call.shape)
        if call.shape.T > 8:
            self.old[call.shape] = k.detach().clone()
        if old is not None and old.dtype == k.dtype and call.shape.T > 8:
            k = torch.cat([old[:, :1], k[:, 1:]], dim=1)
        return super().gather(q, k, v, g, beta, call)


@fault(
    "K10",
    "The order of a sum depends on timing where a tail is shorter than 16 and a state comes in.",
    trigger="T mod 16 != 0 and a random state, repeated calls",
    source="flash-linear-attention-npu #349",
)
class tail_sums_in_any_order(Chunked):
    calls = 0

    def read(self, c, total, S, reads, u):
        self.calls += 1
        if c.length == self.chunk or not c.call.stated or self.calls % 3:
            return super().read(c, total, S, reads, u)
        query = self.from_start(c, total) * c.q
        return query.flip(-1) @ S.flip(-2) + reads @ u


@fault(
    "K2",
    "A product of long chunks is miscompiled: one row block of the output comes out a quarter too small.",
    trigger="T >= 64 and V > 32",
    source="fla #984, 595682b8",
)
def miscompiled_block(q, k, v, g, beta, **keywords):
    o, state = honest(q, k, v, g, beta, **keywords)
    if v.shape[1] >= 64 and v.shape[3] > 32:
        o = torch.cat([o[:, :48], o[:, 48:64] * 0.75, o[:, 64:]], dim=1)
    return o, state


@fault(
    "I2",
    "Chunks of 32 are offered, but the gate to the end of a chunk is still that of row 15.",
    trigger="the configuration of 32 and more than 16 tokens in a chunk",
    source="fla #876, 769035e9",
)
class second_configuration_untested(Chunked):
    HINTS: ClassVar = {"configurations": ({"chunk": 16}, {"chunk": 32})}

    def __call__(self, q, k, v, g, beta, *, chunk=16, **keywords):
        self.chunk = chunk
        return super().__call__(q, k, v, g, beta, **keywords)

    def whole(self, c, total):
        return super().whole(c, total[:, :16])


@fault(
    "K7",
    "The default scale is that of the widest call seen so far.",
    trigger="a call of other widths in between and scale not given",
    source="cuLA #43: a cache whose key is too short",
)
class scale_remembered(Chunked):
    widest = 0

    def scale(self, scale, shape):
        self.widest = max(self.widest, shape.K)
        return self.widest**-0.5 if scale is None else scale


@fault(
    "G6",
    "A ring buffer is indexed by ten bits of the token and overwritten before it is read.",
    trigger="dense and T > 1024",
    source="fla 3696487c, #890, at full length",
)
class ring_buffer_overrun(Chunked):
    def gather(self, q, k, v, g, beta, call):
        if v.shape[1] > 1024:
            v = torch.cat([v[:, 1024:], v[:, v.shape[1] - 1024 :]], dim=1)
        return super().gather(q, k, v, g, beta, call)


@fault(
    "K12",
    "The configuration is chosen when a shape is first seen and then serves every later call, whatever its shape.",
    trigger="T > 16 and a first call of other widths in between; only the last bits tell",
    source="cuLA #43 and fla #984: what is cached, and for which key",
)
class tuned_for_another_shape(Chunked):
    def __init__(self):
        self.seen = set()

    def accept(self, q, k, v, g, beta, initial_state, cu_seqlens):
        shape = super().accept(q, k, v, g, beta, initial_state, cu_seqlens)
        key = (shape.K, shape.V, v.dtype)
        if key not in self.seen:
            self.seen.add(key)
            self.chunk = 32 if (shape.K + shape.V) % 2 else 16
        return shape
