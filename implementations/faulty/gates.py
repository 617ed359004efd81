"""Family C: what the gate, beta and scale mean, and in which unit."""

import numpy as np

from implementations.faulty._base_numpy import Loop
from implementations.faulty._registry import fault
from implementations.numpy_loop import numpy_loop


@fault(
    "C1",
    "The carry from chunk to chunk reads the natural-log gate with exp2.",
    trigger="T > 16 and a gate that is not 0",
    source="sgl-project/sglang #31904",
)
class exp2_at_the_chunk(Loop):
    def decay(self, x, S):
        return (np.exp2 if x.t and x.t % 16 == 0 else np.exp)(x.g)[..., None] * S


@fault(
    "C2",
    "Gates are clamped at the lower bound -5.",
    trigger="a gate under -5",
    source="lightseekorg/tokenspeed #847",
)
class gate_clamped(Loop):
    def decay(self, x, S):
        return np.exp(np.maximum(x.g, -5.0))[..., None] * S


@fault(
    "C3",
    "Unknown keywords are swallowed.",
    trigger="a keyword of a newer version",
    source="fla #1119",
    array="numpy",
)
def keywords_swallowed(
    q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None, **_
):
    return numpy_loop(
        q,
        k,
        v,
        g,
        beta,
        scale=scale,
        initial_state=initial_state,
        output_final_state=output_final_state,
        cu_seqlens=cu_seqlens,
    )


@fault(
    "C4",
    "A gate in another dtype than q is taken for a log2 decay.",
    trigger="g in float32 and q in half precision, gate not 0",
    source="flashinfer #3680, vllm #32846",
)
class unit_by_dtype(Loop):
    def decay(self, x, S):
        return (np.exp if x.call.gate_dtype == x.call.dtype else np.exp2)(x.g)[..., None] * S


@fault(
    "C5",
    "With grouped value heads the erase uses the query in place of the key.",
    trigger="HV > H and a state to erase",
    source="fla #623",
)
class erase_with_the_query(Loop):
    def held(self, x, S):
        key = x.q if x.call.shape.HV > x.call.shape.H else x.k
        return (key[..., None] * S).sum(axis=1)


@fault(
    "C6",
    "Packed prompts shorter than a chunk come out as NaN.",
    trigger="packed and 0 < T < 16 and a state given",
    source="ROCm/ATOM #1750",
)
class short_prompts_are_nan(Loop):
    def read(self, x, S):
        short = x.call.packed and x.call.stated and x.tokens < 16
        return super().read(x, S) * (np.float32(np.nan) if short else np.float32(1))


@fault(
    "C7",
    "Beta is clamped to 1.",
    trigger="beta > 1",
    source="fla: allow_neg_eigval honoured by one path only",
)
class strength_clamped(Loop):
    def update(self, x, S):
        x.beta = np.minimum(x.beta, 1.0)
        return super().update(x, S)


@fault(
    "C8",
    "The default scale comes from K padded to a power of two.",
    trigger="K not a power of two and scale not given",
    source="fla: padded block width used for the default scale",
)
class scale_of_the_padded_width(Loop):
    def scale(self, scale, shape):
        return float(1 << (shape.K - 1).bit_length()) ** -0.5 if scale is None else scale


@fault(
    "C8b",
    "A scale that is given is ignored for packed sequences.",
    trigger="packed and scale given",
    source="tests/suite: keyword lost on one path",
)
class scale_lost_when_packed(Loop):
    def gather(self, q, k, v, g, beta, call):
        if call.packed:
            call.scale = call.shape.K**-0.5
        return super().gather(q, k, v, g, beta, call)


@fault(
    "C9",
    "A decode step from a state erases before it decays.",
    trigger="T = 1 and a state given and a gate that differs between channels",
    source="fla: order of decay and erase in a decode kernel",
)
class decode_erases_first(Loop):
    def update(self, x, S):
        if x.tokens > 1 or not x.call.stated:
            return super().update(x, S)
        S = S - x.beta * x.k[..., None] * self.held(x, S)[:, None, :]
        return self.decay(x, S) + x.beta * x.k[..., None] * x.v[:, None, :]


@fault(
    "C10",
    "Above 64 channels one decay per head is used, as in the gated delta rule.",
    trigger="K > 64 and decays that differ between channels",
    source="fla: a GDN kernel dispatched for KDA",
)
class one_decay_per_head(Loop):
    def decay(self, x, S):
        g = x.g.mean(axis=-1, keepdims=True) if x.call.shape.K > 64 else x.g
        return np.exp(g)[..., None] * S


@fault(
    "C11",
    "Gates at or under -1000 count as masked and keep the state.",
    trigger="a gate of -1000 and a state to forget",
    source="lore of attention kernels: -1000 as mask value",
)
class forget_taken_for_a_mask(Loop):
    def decay(self, x, S):
        return np.exp(np.where(x.g <= -1000, np.float32(0), x.g))[..., None] * S


@fault(
    "C12",
    "At the first token of each chunk of 64 but the first the decay comes after the write.",
    trigger="T > 64 and a gate that is not 0",
    source="sgl-project/sglang #31904, a variant",
)
class decay_after_the_write(Loop):
    def update(self, x, S):
        if x.t == 0 or x.t % 64:
            return super().update(x, S)
        S = S + x.beta * x.k[..., None] * (x.v - self.held(x, S))[:, None, :]
        return self.decay(x, S)
