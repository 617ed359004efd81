"""Family E: addresses of packed sequences."""

import itertools

import torch

from implementations._contract import bounds
from implementations.faulty._base import Chunked, altered, honest
from implementations.faulty._registry import fault


@fault(
    "E1",
    "The offset of the second block of 64 channels in dg uses the length of the own sequence, not of the buffer.",
    trigger="packed and K > 64, backward",
    source="fla 0dfd7f5f",
)
def dg_plane_by_local_length(q, k, v, g, beta, *, cu_seqlens=None, **keywords):
    if cu_seqlens is not None and g.shape[3] > 64:
        first = int(cu_seqlens[1]) if len(cu_seqlens) > 1 else 0

        def moved(d):
            d = d.clone()
            d[..., 64:] = d[..., 64:].roll(first, dims=1)
            return d

        g = altered(g, moved)
    return honest(q, k, v, g, beta, cu_seqlens=cu_seqlens, **keywords)


@fault(
    "E3",
    "A partial tail is stored as a whole tile over the first rows of the next sequence.",
    trigger="packed and a length that is no multiple of 16, followed by another sequence",
    source="fla e4a870a3",
)
class tile_over_the_next_sequence(Chunked):
    def result(self, o, call):
        o = o.clone()
        for _, start, stop in call.cuts[:-1] if call.packed else ():
            if stop > start and (stop - start) % 16 and stop - start > 16:
                o[0, stop : stop + 16 - (stop - start) % 16] = 0
        return o


@fault(
    "E4",
    "cu_seqlens with several batch rows are taken, and only the first row is computed.",
    trigger="cu_seqlens and B > 1",
    source="fla #955, #844",
)
def batch_dropped_when_packed(q, k, v, g, beta, *, cu_seqlens=None, **keywords):
    if cu_seqlens is None or q.shape[0] == 1:
        return honest(q, k, v, g, beta, cu_seqlens=cu_seqlens, **keywords)
    first = (x[:1] for x in (q, k, v, g, beta))
    o, state = honest(*first, cu_seqlens=cu_seqlens, **keywords)
    return torch.cat([o, torch.zeros_like(v[1:])]), state


@fault(
    "E6",
    "The tokens of one long sequence are shared out by total // 2 and the odd one is dropped.",
    trigger="dense, T odd and T > 64",
    source="fla #1093, f36947a5",
)
class odd_token_dropped(Chunked):
    def result(self, o, call):
        T = call.shape.T
        return o if call.packed or T < 65 or T % 2 == 0 else torch.cat([o[:, :-1], torch.zeros_like(o[:, -1:])], 1)


@fault(
    "E7",
    "Packed boundaries are rounded down to even numbers.",
    trigger="packed and an odd boundary inside",
    source="ISEEKYAN/Megatron-LM #111",
)
class boundaries_made_even(Chunked):
    def sequences(self, shape, cu_seqlens):
        cuts = bounds(shape, cu_seqlens)
        if cu_seqlens is None:
            return cuts
        ends = [0, *(stop // 2 * 2 for _, _, stop in cuts[:-1]), shape.T]
        return [(0, start, stop) for start, stop in itertools.pairwise(ends)]


@fault(
    "E9",
    "From the third packed sequence on, the initial state of the first is used.",
    trigger="three packed sequences or more and states given",
    source="lore of packed kernels: a stride of the state of 0",
)
class third_state_is_the_first(Chunked):
    def initial(self, initial_state, n, call):
        return super().initial(initial_state, 0 if call.packed and n > 1 else n, call)


@fault(
    "E10",
    "The state of the sequence before leaks in where a boundary lies on the grid of 16 and no states are given.",
    trigger="packed and no states and a boundary that is a multiple of 16",
    source="lore of packed kernels: the reset hangs on the tail's code path",
)
class state_leaks_on_the_grid(Chunked):
    left = None

    def initial(self, initial_state, n, call):
        if not call.packed or call.stated or n == 0 or call.cuts[n][1] % 16 or call.cuts[n][1] == 0:
            return super().initial(initial_state, n, call)
        return self.left.clone()

    def final(self, S, n, call):
        self.left = S.detach()
        return S


@fault(
    "E12",
    "An empty sequence in between shifts the states of the later ones: the search for the sequence finds its twin.",
    trigger="packed and an empty sequence before another and states given",
    source="vllm: searchsorted side in packed metadata",
)
class empty_sequence_shifts_states(Chunked):
    def initial(self, initial_state, n, call):
        cuts = call.cuts
        twin = n - 1 if call.packed and n and cuts[n - 1][1] == cuts[n - 1][2] and cuts[n][2] > cuts[n][1] else n
        return super().initial(initial_state, twin, call)


@fault(
    "E13",
    "Boundaries that decrease are sorted instead of refused.",
    trigger="malformed cu_seqlens",
    source="fla #1088, f7c2c191",
)
class boundaries_sorted(Chunked):
    def __call__(self, q, k, v, g, beta, *, cu_seqlens=None, **keywords):
        if cu_seqlens is not None and cu_seqlens.ndim == 1:
            cu_seqlens = cu_seqlens.sort().values
        return super().__call__(q, k, v, g, beta, cu_seqlens=cu_seqlens, **keywords)


@fault(
    "E14",
    "With grouped heads and packed sequences, beta of the second sequence on is read one token late.",
    trigger="packed and HV > H and a second sequence",
    source="fla #781, the same missing offset in a varlen branch",
)
class beta_one_token_late(Chunked):
    def cut(self, rows, call, n, index, first, left, tokens):
        c = super().cut(rows, call, n, index, first, left, tokens)
        if call.packed and n and call.shape.HV > call.shape.H:
            c.beta = self.pad(rows[4], first - 1, c.length).transpose(0, 1) if first else c.beta
        return c
