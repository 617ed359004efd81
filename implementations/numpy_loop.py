"""The equation as plain loops in NumPy: slow, and checked against the paper in a minute.

Computes in float32, or in float64 where the inputs are float64.
"""

import numpy as np

from implementations._contract import bounds, check

HINTS = {"array": "numpy", "takes": {"dtype": ("float32", "float16")}}


def numpy_loop(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    """S_t = (I - beta_t k_t k_t^T) Diag(exp g_t) S_(t-1) + beta_t k_t v_t^T,  o_t = scale S_t^T q_t.

    Shapes and ranges are the contract's (`implementations/_contract.py`).
    """
    shape = check(q, k, v, g, beta, initial_state=initial_state, cu_seqlens=cu_seqlens)
    real = np.float64 if v.dtype == np.float64 else np.float32
    scale = real(shape.K**-0.5 if scale is None else scale)
    group = shape.HV // shape.H
    o = np.empty(v.shape, v.dtype)
    states = np.zeros((shape.N, shape.HV, shape.K, shape.V), real)
    if initial_state is not None:
        states[...] = initial_state
    q, k, v, g, beta = (x.astype(real) for x in (q, k, v, g, beta))
    for n, (b, start, stop) in enumerate(bounds(shape, cu_seqlens)):
        for head in range(shape.HV):
            S = states[n, head]
            for t in range(start, stop):
                key, query = k[b, t, head // group], q[b, t, head // group]
                S = np.exp(g[b, t, head])[:, None] * S
                held = (key[:, None] * S).sum(axis=0)
                S = S + beta[b, t, head] * key[:, None] * (v[b, t, head] - held)
                o[b, t, head] = scale * (query[:, None] * S).sum(axis=0)
            states[n, head] = S
    return o, states if output_final_state else None
