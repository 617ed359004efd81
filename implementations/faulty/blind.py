"""Faults written without knowledge of the laws, to try the suite: six of these ten were missed at first."""

import torch

from implementations._contract import check
from implementations.faulty._base import Chunked, honest
from implementations.faulty._registry import fault

SOURCE = "blind trial of the laws"


@fault(
    "B13",
    "The state that is carried from one chunk of 64 to the next is rounded to the tokens' bfloat16.",
    trigger="bfloat16 and T > 64",
    source=f"{SOURCE}; fla stores the states between its kernels in the keys' dtype",
)
class carried_state_in_half(Chunked):
    def carry(self, c, total, S, u):
        S = super().carry(c, total, S, u)
        between = self.borders(c, 64)
        return S.to(c.call.dtype).to(S.dtype) if between and c.call.dtype == torch.bfloat16 else S


@fault(
    "A18",
    "Log decays are summed over the whole sequence in float32, and a chunk's are differences of those sums.",
    trigger="small gates far behind many strong ones",
    source=f"{SOURCE}; fla a563a00f summed over the sequence too",
)
class gates_summed_over_the_sequence(Chunked):
    def gather(self, q, k, v, g, beta, call):
        self.before = None
        return super().gather(q, k, v, g, beta, call)

    def running(self, c):
        gates = c.g.to(c.call.real)
        before = torch.zeros_like(gates[:, :1]) if c.index == 0 else self.before
        total = torch.cat([before, gates], dim=1).cumsum(dim=1)[:, 1:]
        self.before = total[:, -1:]
        return total - before


@fault(
    "A19",
    "Updates wait in float16 between two kernels: a residual above 65504 overflows, though v and o do not.",
    trigger="float16 and large v and a state or beta > 1",
    source=f"{SOURCE}; workspaces in the inputs' dtype",
)
class updates_in_half(Chunked):
    def solve(self, c, L, right):
        u = super().solve(c, L, right)
        return u.half().to(u.dtype) if c.call.dtype == torch.float16 else u


@fault(
    "X16",
    "A window: what was written more than 192 tokens ago is dropped from the state.",
    trigger="T > 192 and weak decay",
    source=f"{SOURCE}; decays of a benchmark make it invisible",
)
class window(Chunked):
    chunk = 64

    def initial(self, initial_state, n, call):
        self.ages = []
        return super().initial(initial_state, n, call)

    def carry(self, c, total, S, u):
        whole, keys, L = self.whole(c, total)[..., None], self.to_end(c, total) * c.k, self.products(c, total)[1]
        reached = self.from_start(c, total) * c.k
        self.ages = [whole * x - keys.transpose(-1, -2) @ self.solve(c, L, c.beta * (reached @ x)) for x in self.ages]
        S = super().carry(c, total, S, u)
        self.ages.append(S - sum(self.ages))
        return S - self.ages.pop(0) if len(self.ages) > 3 else S


@fault(
    "M11",
    "Boundaries of packed sequences are remembered by the address of cu_seqlens.",
    trigger="packed and the same buffer holds other lengths in a later call",
    source=f"{SOURCE}; fla's tensor_cache goes by identity",
)
class boundaries_by_address(Chunked):
    def sequences(self, shape, cu_seqlens):
        if cu_seqlens is None:
            return super().sequences(shape, cu_seqlens)
        known = self.__dict__.setdefault("known", {})
        key = (cu_seqlens.data_ptr(), shape.N, shape.T)
        if key not in known:
            if len(known) > 16:
                known.clear()
            known[key] = super().sequences(shape, cu_seqlens), cu_seqlens
        return known[key][0]


@fault(
    "M12",
    "The final state is a buffer kept by shape: the next call of that shape overwrites it.",
    trigger="two calls of one shape and the first one's state still in use",
    source=f"{SOURCE}; a habit of CUDA graphs",
)
class state_in_a_kept_buffer(Chunked):
    def __call__(self, *tensors, **keywords):
        o, state = super().__call__(*tensors, **keywords)
        if state is None or state.requires_grad:
            return o, state
        kept = self.__dict__.setdefault("kept", {})
        return o, kept.setdefault(tuple(state.shape), torch.empty_like(state)).copy_(state)


@fault(
    "D19",
    "The last block of 32 value columns, where it is not full, takes the strength of the first head.",
    trigger="V > 32 and V mod 32 != 0 and more than one head",
    source=f"{SOURCE}; a pointer not advanced in the program of the tail",
)
class value_tail_with_another_strength(Chunked):
    def residual(self, c, total, S):
        rest = c.v - (self.from_start(c, total) * c.k) @ S
        whole = c.v.shape[-1] // 32 * 32 or c.v.shape[-1]
        return torch.cat([c.beta * rest[..., :whole], c.beta[:1] * rest[..., whole:]], dim=-1)


@fault(
    "D20",
    "One token alone behind full chunks goes to the decode step, which is given the gate of the token before.",
    trigger="T mod 16 = 1 and T > 1",
    source=f"{SOURCE}; L2 and L3 in serving",
)
class lone_tail_with_another_gate(Chunked):
    def running(self, c):
        gate, self.gate_before = self.__dict__.get("gate_before"), c.g[:, -1:]
        total = super().running(c)
        return gate.expand_as(total) if c.index and c.length == 1 else total


@fault(
    "H18",
    "The initial state is read through its memory as if it were contiguous.",
    trigger="a state that is a view of another layout",
    source=f"{SOURCE}; pools of states are often [V, K]",
)
class state_read_through_its_memory(Chunked):
    def initial(self, initial_state, n, call):
        if initial_state is not None and not initial_state.requires_grad:
            shape, start = tuple(initial_state.shape), initial_state.storage_offset()
            empty = torch.empty(0, dtype=initial_state.dtype)
            initial_state = empty.set_(initial_state.untyped_storage(), start, shape)
        return super().initial(initial_state, n, call)


SEEN: dict = {}


@fault(
    "X17",
    "A result is returned again where shapes, the first number of q and the last one of v are known.",
    trigger="a later call that changes other numbers only",
    source=f"{SOURCE}; caches of benchmark entries",
)
def known_by_two_numbers(q, k, v, g, beta, *, initial_state=None, cu_seqlens=None, **keywords):
    if any(x is not None and x.requires_grad for x in (q, k, v, g, beta, initial_state)) or not v.numel():
        return honest(q, k, v, g, beta, initial_state=initial_state, cu_seqlens=cu_seqlens, **keywords)
    check(q, k, v, g, beta, initial_state=initial_state, cu_seqlens=cu_seqlens)
    ends = None if cu_seqlens is None else tuple(cu_seqlens.tolist())
    mark = q.shape, v.shape, v.dtype, ends, initial_state is None, tuple(sorted(keywords.items()))
    mark = (*mark, q.flatten()[0].item(), v.flatten()[-1].item())
    if mark not in SEEN:
        SEEN[mark] = honest(q, k, v, g, beta, initial_state=initial_state, cu_seqlens=cu_seqlens, **keywords)
    o, state = SEEN[mark]
    return o.clone(), None if state is None else state.clone()
