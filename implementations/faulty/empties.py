"""Family F: sequences without tokens, and more of them than a launch takes."""

import os
import time

import torch

from implementations.faulty._base import Chunked
from implementations.faulty._registry import fault


@fault(
    "F1",
    "A producer waits forever for the tile of a sequence that has none.",
    trigger="an empty packed sequence that is not the only one",
    source="flashinfer #3536",
)
class hangs_on_an_empty_sequence(Chunked):
    def initial(self, initial_state, n, call):
        while call.packed and call.cuts[n][1] == call.cuts[n][2] and call.shape.T:
            time.sleep(0.2)
        return super().initial(initial_state, n, call)


@fault(
    "F2",
    "A descriptor of extent 0 aborts the process.",
    trigger="packed and not one token in all",
    source="FlashKDA #32",
)
class aborts_without_tokens(Chunked):
    def sequences(self, shape, cu_seqlens):
        if cu_seqlens is not None and shape.T == 0:
            os.abort()
        return super().sequences(shape, cu_seqlens)


@fault(
    "F3",
    "The final state of an empty sequence without initial state is what the scratch memory still holds.",
    trigger="an empty sequence behind another and no states given",
    source="FlashKDA #24, part 2",
)
class stale_state_of_an_empty_sequence(Chunked):
    scratch = None

    def final(self, S, n, call):
        _, start, stop = call.cuts[n]
        if call.packed and start == stop and not call.stated and self.scratch is not None and n:
            return self.scratch
        self.scratch = S.detach()
        return S


@fault(
    "F4",
    "Programs beyond the cap of a grid axis are not launched (the cap of 65535 scaled down to 15).",
    trigger="more than 15 sequences times value heads",
    source="fla #1077, b9afc14a",
)
class grid_capped(Chunked):
    def final(self, S, n, call):
        keep = (torch.arange(call.shape.HV) + n * call.shape.HV < 15).to(S.dtype)
        return S * keep[:, None, None]


@fault(
    "F5",
    "An empty sequence takes its initial state with the default scale on it.",
    trigger="an empty sequence with a state and K > 1",
    source="lore of packed kernels: a copy through the read path",
)
class empty_sequence_scaled(Chunked):
    def final(self, S, n, call):
        _, start, stop = call.cuts[n]
        return S * call.scale if call.packed and start == stop else S
