"""Family G: offsets in integers that are too narrow, as models with offsets of 12 bits in place of 31."""

import numpy as np

from implementations.faulty._base_numpy import Loop
from implementations.faulty._registry import fault

LIMIT = 1 << 12


@fault(
    "G1",
    "The offset of the gate is widened after the product has wrapped.",
    trigger="T HV K beyond the offset's range (here 2^12)",
    source="fla c541794f, #692",
)
class product_wraps_before_the_cast(Loop):
    def gather(self, q, k, v, g, beta, call):
        shape = call.shape
        token = np.arange(shape.T)[:, None] * (shape.HV * shape.K)
        offset = (token + np.arange(shape.HV)[None] * shape.K) % LIMIT
        flat = g.reshape(shape.B, -1)
        if shape.T * shape.HV * shape.K > LIMIT:
            at = np.minimum(offset[..., None] + np.arange(shape.K), flat.shape[1] - 1)
            g = flat[:, at.reshape(-1)].reshape(g.shape)
        return super().gather(q, k, v, g, beta, call)


@fault(
    "G2",
    "The offset of a batch row wraps: rows beyond the range read the first row's values.",
    trigger="B T HV V beyond the offset's range (here 2^12) and B > 1",
    source="fla #911, abfa403d",
)
class batch_offset_wraps(Loop):
    def gather(self, q, k, v, g, beta, call):
        shape = call.shape
        size = shape.T * shape.HV * shape.V
        if shape.B * size > LIMIT:
            v = v[[b if (b + 1) * size <= LIMIT else 0 for b in range(shape.B)]]
        return super().gather(q, k, v, g, beta, call)


@fault(
    "G5",
    "The slot of a state wraps: beyond the range the final state is written to the first sequence's place.",
    trigger="N HV K V beyond the offset's range (here 2^12) and N > 1",
    source="sgl-project/sglang #31934, vllm #55924",
)
class state_slot_wraps(Loop):
    def final(self, S, n, call):
        shape = call.shape
        return S if (n + 1) * shape.HV * shape.K * shape.V <= LIMIT or n == 0 else np.zeros_like(S)
