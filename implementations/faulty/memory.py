"""Family M: memory that is not the kernel's to read or write."""

import threading

import numpy as np
import torch

from implementations.faulty._base import Chunked, honest
from implementations.faulty._registry import fault
from implementations.numpy_loop import numpy_loop


@fault(
    "M1",
    "beta is multiplied into v in the caller's tensor where float32 makes a copy unnecessary.",
    trigger="v in float32",
    source="lore of ports: .float() copies only sometimes",
)
def value_scaled_in_place(q, k, v, g, beta, **keywords):
    result = honest(q, k, v, g, beta, **keywords)
    with torch.no_grad():
        v.detach().float().mul_(beta.detach()[..., None].float() + 1)
    return result


@fault(
    "M2",
    "The initial state is advanced in place, though a final state is returned too.",
    trigger="a state given and T > 0",
    source="fla ca89d201, as an interface",
)
def state_advanced_in_place(q, k, v, g, beta, *, initial_state=None, output_final_state=False, **keywords):
    o, state = honest(q, k, v, g, beta, initial_state=initial_state, output_final_state=output_final_state, **keywords)
    if initial_state is not None and state is not None:
        initial_state.detach().copy_(state.detach())
    return o, state


@fault(
    "M3",
    "The final state shares memory with the initial state where no token changed it.",
    trigger="T = 0 or an empty batch, a state given, final state asked for",
    source="lore of ports: a shortcut that returns its argument",
)
class state_aliases_the_input(Chunked):
    def __call__(self, q, k, v, g, beta, *, initial_state=None, output_final_state=False, **keywords):
        o, state = super().__call__(
            q, k, v, g, beta, initial_state=initial_state, output_final_state=output_final_state, **keywords
        )
        same = state is not None and initial_state is not None and torch.equal(state, initial_state)
        return o, initial_state if same else state


@fault(
    "M4",
    "o is a view of the memory of v where nothing had to be copied.",
    trigger="beta = 1 at a single token of float32",
    source="lore of ports: out= and in-place chains",
)
def output_aliases_v(q, k, v, g, beta, **keywords):
    o, state = honest(q, k, v, g, beta, **keywords)
    if v.shape[1] == 1 and v.is_contiguous() and v.dtype == torch.float32 and not v.requires_grad:
        wide = torch.empty(0).set_(v.untyped_storage())
        if wide.numel() > 2 * v.numel():
            return o, state
        return v.copy_(o), state
    return o, state


@fault(
    "M5",
    "Vector loads of four channels read beyond the last row where K is no multiple of four.",
    trigger="K mod 4 != 0, what lies behind k is NaN",
    source="fla #1135, on the side of the key",
)
def reads_behind_the_keys(q, k, v, g, beta, **keywords):
    o, state = honest(q, k, v, g, beta, **keywords)
    behind = k.storage_offset() + k.numel()
    if k.shape[3] % 4 and k.is_contiguous() and k.untyped_storage().nbytes() > behind * k.element_size():
        stray = torch.as_strided(k.detach(), (1,), (1,), behind)
        o = o + (0 * stray.float()).to(o.dtype)
    return o, state


@fault(
    "M6",
    "A whole tile is stored where T mod 16 = 15, one element behind the end of beta.",
    trigger="T mod 16 = 15",
    source="intel/llm-scaler #464, vllm-xpu-kernels #438",
)
def writes_behind_beta(q, k, v, g, beta, **keywords):
    behind = beta.storage_offset() + beta.numel()
    room = beta.untyped_storage().nbytes() // beta.element_size() > behind
    if beta.shape[1] % 16 == 15 and beta.is_contiguous() and room:
        torch.as_strided(beta.detach(), (1,), (1,), behind).fill_(0.5)
    return honest(q, k, v, g, beta, **keywords)


@fault(
    "M7",
    "The gaps of a strided v are read: rows are taken with the stride of a contiguous tensor.",
    trigger="a strided v and V > 1",
    source="xLLM #2311",
    array="numpy",
)
def gaps_are_read(q, k, v, g, beta, **keywords):
    if v.strides[-1] != v.itemsize and v.shape[-1] > 1 and 0 not in v.shape:
        v = np.lib.stride_tricks.as_strided(v, v.shape, (*v.strides[:-1], v.itemsize))
    return numpy_loop(q, k, v, g, beta, **keywords)


@fault(
    "M8",
    "The final state of head 0 is left as the allocator gave it where it stays zero anyway.",
    trigger="beta of all tokens 0 in float32, or no tokens",
    source="fla 80e69a56, on the side of the state",
)
class zero_state_never_written(Chunked):
    def final(self, S, n, call):
        return torch.empty_like(S) if not torch.any(S.detach()) else S


@fault(
    "M9",
    "One element too many is stored behind the output, where the allocator has room for it.",
    trigger="an output whose memory goes on behind it",
    source="vllm-xpu-kernels #438, on memory of its own",
)
class writes_behind_its_output(Chunked):
    def result(self, o, call):
        own = torch.empty_like(o).copy_(o)
        behind = own.storage_offset() + own.numel()
        if own.untyped_storage().nbytes() > behind * own.element_size():
            own.as_strided((1,), (1,), behind).zero_()
        return own


@fault(
    "M10",
    "The state of a sequence without tokens is left as it was allocated.",
    trigger="packed and an empty sequence and final state asked for",
    source="FlashKDA #24, part 2",
)
class empty_state_never_written(Chunked):
    def final(self, S, n, call):
        _, start, stop = call.cuts[n]
        return torch.empty_like(S) if call.packed and start == stop else S


@fault(
    "M13",
    "What a launch needs is set up by the thread that loads the kernel; another thread has none of it.",
    trigger="a call from a thread that has called nothing before",
    source="pytorch #124565, tensor descriptors of Triton 3.6: invalid device context",
)
class set_up_for_one_thread(Chunked):
    def __init__(self):
        self.set_up = threading.local()
        self.set_up.done = True

    def __call__(self, q, k, v, g, beta, **keywords):
        if not hasattr(self.set_up, "done"):
            raise RuntimeError("invalid device context")
        return super().__call__(q, k, v, g, beta, **keywords)
