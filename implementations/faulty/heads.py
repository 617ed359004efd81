"""Family H: heads, layouts, strides."""

import numpy as np
import torch

from implementations.faulty._base import Chunked, altered, honest
from implementations.faulty._base_numpy import Loop
from implementations.faulty._registry import fault


@fault(
    "H1",
    "The gate is indexed by the key head.",
    trigger="HV > H and gates that differ between heads",
    source="fla a1e135ba",
)
class gate_of_the_key_head(Loop):
    def gather(self, q, k, v, g, beta, call):
        group = call.shape.HV // call.shape.H
        return super().gather(q, k, v, g[:, :, np.arange(call.shape.HV) // group], beta, call)


@fault(
    "H2",
    "The strides of k are those of the value heads.",
    trigger="HV > H > 1",
    source="fla da022352",
)
class key_strides_of_value_heads(Loop):
    def gather(self, q, k, v, g, beta, call):
        shape = call.shape
        if shape.HV > shape.H > 1:
            head = np.arange(shape.HV) % shape.H
            return np.repeat(q, shape.HV // shape.H, axis=2), k[:, :, head], v, g, beta
        return super().gather(q, k, v, g, beta, call)


@fault(
    "H3",
    "q and k are repeated for their value heads, beta is taken from the first head of the group.",
    trigger="HV > H, beta that differs between heads, a batch of more than one row",
    source="fla #624, 59f3f67e",
)
class strength_not_grouped(Loop):
    def gather(self, q, k, v, g, beta, call):
        group = call.shape.HV // call.shape.H
        if call.shape.B > 1:
            beta = beta[:, :, np.arange(call.shape.HV) // group * group]
        return super().gather(q, k, v, g, beta, call)


@fault(
    "H5",
    "The gate is loaded without its batch and head offset, in the backward pass only.",
    trigger="backward and B > 1 and T > 16",
    source="fla #781, d38ed8b5",
)
def dg_without_its_batch_offset(q, k, v, g, beta, **keywords):
    if q.shape[0] > 1 and q.shape[1] > 16:
        g = altered(g, lambda d: d[:1].expand_as(d))
    return honest(q, k, v, g, beta, **keywords)


@fault(
    "H6",
    "From the second chunk on the state is read in the layout [V, K].",
    trigger="K = V and T > 16",
    source="vllm #41292",
)
class state_read_transposed(Chunked):
    def read(self, c, total, S, reads, u):
        turned = S.transpose(-1, -2) if c.index and c.call.shape.K == c.call.shape.V else S
        return super().read(c, total, turned, reads, u)


@fault(
    "H7",
    "A decode step starts from the transposed state.",
    trigger="K = V and T = 1 and a state given",
    source="gittensor sparkinfer #610",
)
class decode_from_the_transposed_state(Chunked):
    def initial(self, initial_state, n, call):
        S = super().initial(initial_state, n, call)
        _, start, stop = call.cuts[n]
        return S.transpose(-1, -2).contiguous() if stop - start == 1 and call.shape.K == call.shape.V else S


@fault(
    "H9",
    "Gradients that arrive in another layout are read as if they were contiguous.",
    trigger="backward and a strided gradient of o",
    source="fla #871, #1139",
)
def upstream_strides_assumed(q, k, v, g, beta, **keywords):
    o, state = honest(q, k, v, g, beta, **keywords)

    def as_if_contiguous(d):
        if d.is_contiguous():
            return d
        strides = torch.empty(d.shape, device="meta").stride()
        return torch.as_strided(d, d.shape, strides, d.storage_offset()).clone()

    return altered(o, as_if_contiguous), state


def _as_if_contiguous(x):
    if x.is_contiguous():
        return x
    return torch.as_strided(x.detach(), x.shape, torch.empty(x.shape, device="meta").stride(), x.storage_offset())


@fault(
    "H10",
    "q is not made contiguous on the path for grouped heads.",
    trigger="a strided q and HV > H",
    source="xLLM #2311",
)
def query_strides_assumed(q, k, v, g, beta, **keywords):
    return honest(_as_if_contiguous(q) if v.shape[2] > q.shape[2] else q, k, v, g, beta, **keywords)


@fault(
    "H12",
    "Value head hv reads key head hv mod H.",
    trigger="HV > H > 1",
    source="llama.cpp #25315: the other convention",
)
class interleaved_heads(Chunked):
    def heads(self, x, call):
        return x.repeat(1, 1, call.shape.HV // call.shape.H, 1)


@fault(
    "H13",
    "The running sum mixes two heads where there are exactly eight.",
    trigger="eight value heads and T > 16",
    source="vllm-ascend #11598",
)
class eight_heads_mixed(Chunked):
    def running(self, c):
        total = super().running(c)
        return total.roll(1, dims=0) if c.index and total.shape[0] == 8 else total


@fault(
    "H14",
    "The final state of grouped heads is returned by key head.",
    trigger="HV > H and final state",
    source="fla da022352, output side",
)
class final_state_by_key_head(Chunked):
    def final(self, S, n, call):
        group = call.shape.HV // call.shape.H
        return S[torch.arange(S.shape[0]) // group * group]


@fault(
    "H15",
    "A gate with a stride of zero, as expand() makes it, is taken for no gate.",
    trigger="an expanded gate that is not 0",
    source="fla #871: expanded tensors",
)
def expanded_gate_is_none(q, k, v, g, beta, **keywords):
    return honest(q, k, v, g * 0 if 0 in g.stride() and g.numel() > 1 else g, beta, **keywords)


@fault(
    "H16",
    "Channels are taken in pairs: the last one of an odd width is not erased.",
    trigger="K odd and K > 1 and a state to erase",
    source="fla #1135: widths that no vector width divides",
)
class odd_channel_not_erased(Loop):
    def held(self, x, S):
        pairs = x.k.shape[-1] // 2 * 2 or 1
        return (x.k[:, :pairs, None] * S[:, :pairs]).sum(axis=1)


@fault(
    "H17",
    "The state is loaded through a swizzle that exchanges neighbouring key channels, and stored without it.",
    trigger="a state given and K a multiple of eight",
    source="vllm #41292, a variant: two kernels that disagree on the layout of the state",
)
class key_channels_swizzled(Chunked):
    def initial(self, initial_state, n, call):
        S = super().initial(initial_state, n, call)
        if not call.stated or call.shape.K % 8:
            return S
        return S[:, torch.arange(call.shape.K) ^ 1]
