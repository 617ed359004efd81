"""Token by token in torch, all heads side by side; differentiable, on any device.

Computes in float32, or in float64 where the inputs are float64. Sums are elementwise products summed, so that no result
depends on what else is in the batch.
"""

import torch

from implementations._contract import bounds, check

HINTS = {"array": "torch"}


def torch_recurrent(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    """S_t = (I - beta_t k_t k_t^T) Diag(exp g_t) S_(t-1) + beta_t k_t v_t^T,  o_t = scale S_t^T q_t.

    Shapes and ranges are the contract's (`implementations/_contract.py`).
    """
    shape = check(q, k, v, g, beta, initial_state=initial_state, cu_seqlens=cu_seqlens)
    real = torch.float64 if v.dtype == torch.float64 else torch.float32
    scale = shape.K**-0.5 if scale is None else scale
    queries, keys = (x.to(real).repeat_interleave(shape.HV // shape.H, dim=2) for x in (q, k))
    values, alpha, strength = v.to(real), g.to(real).exp(), beta.to(real)
    outputs, states = [], []
    for n, (b, start, stop) in enumerate(bounds(shape, cu_seqlens)):
        if initial_state is None:
            S = torch.zeros(shape.HV, shape.K, shape.V, dtype=real, device=v.device)
        else:
            S = initial_state[n].to(real).clone()
        rows = []
        for t in range(start, stop):
            S = alpha[b, t, :, :, None] * S
            key = keys[b, t, :, :, None]
            held = (key * S).sum(dim=1)
            S = S + strength[b, t, :, None, None] * key * (values[b, t] - held)[:, None, :]
            rows.append(scale * (queries[b, t, :, :, None] * S).sum(dim=1))
        outputs.append(torch.stack(rows) if rows else values.new_zeros(0, shape.HV, shape.V))
        states.append(S)
    if not states:
        states.append(values.new_zeros(0, shape.HV, shape.K, shape.V))
        o = values.new_zeros(v.shape)
        return o.to(v.dtype), states[0] if output_final_state else None
    o = torch.cat(outputs).reshape(v.shape).to(v.dtype)
    return o, torch.stack(states) if output_final_state else None
