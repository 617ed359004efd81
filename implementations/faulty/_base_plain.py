"""An honest kernel as it is often written: views are multiplied as they come, results are written slice by slice.

It checks shapes and leaves what devices it is given to torch.
"""

import itertools

import torch

CHUNK = 16


def _sequences(q, k, v, g, beta, initial_state, cu_seqlens):
    """(batch row, first token, token behind the last) of every sequence."""
    (B, T, H, K), (HV, V) = q.shape, v.shape[2:]
    assert all(x.is_floating_point() for x in (q, k, v, g, beta)), "q, k, v, g and beta must be floating"
    assert k.shape == q.shape and g.shape == (B, T, HV, K) and beta.shape == (B, T, HV) == v.shape[:3], "shapes"
    assert HV % H == 0, "v must have a multiple of the heads of q"
    cuts = [(b, 0, T) for b in range(B)]
    if cu_seqlens is not None:
        ends = cu_seqlens.tolist()
        assert B == 1 and ends[0] == 0 and ends[-1] == T and sorted(ends) == ends, "cu_seqlens"
        cuts = [(0, start, stop) for start, stop in itertools.pairwise(ends)]
    assert initial_state is None or initial_state.shape == (len(cuts), HV, K, V), "initial_state"
    return cuts


def honest_plain(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    """The contract's call; the formulas are those of `implementations/torch_chunked.py`."""
    cuts = _sequences(q, k, v, g, beta, initial_state, cu_seqlens)
    (HV, V), K, scale = v.shape[2:], q.shape[3], q.shape[3] ** -0.5 if scale is None else scale
    o, final = torch.zeros_like(v), q.new_zeros(len(cuts), HV, K, V, dtype=torch.float32)
    for n, (b, start, stop) in enumerate(cuts):
        S = q.new_zeros(HV, K, V, dtype=torch.float32) if initial_state is None else initial_state[n].float()
        for first in range(start, stop, CHUNK):
            rows = slice(first, min(first + CHUNK, stop))
            Q, Y, X = (x[b, rows].float().transpose(0, 1) for x in (q, k, v))
            if HV > len(Q):
                Q, Y = (x.repeat_interleave(HV // len(x), dim=0) for x in (Q, Y))
            G, strength = g[b, rows].double().cumsum(0).transpose(0, 1), beta[b, rows].float().t()[..., None]
            causal = torch.ones(len(X[0]), len(X[0]), dtype=torch.bool, device=q.device).tril()[..., None]
            pairs = (G[:, :, None] - G[:, None]).masked_fill(~causal, -torch.inf).exp().float() * Y[:, None]
            L = strength * (pairs * Y[:, :, None]).sum(-1).tril(-1)
            seen = G.exp().float()
            right = strength * (X - seen * Y @ S)
            u = torch.linalg.solve_triangular(L, right, upper=False, unitriangular=True)
            read = (seen * Q) @ S + (pairs * Q[:, :, None]).sum(-1) @ u
            o[b, rows] = (scale * read).transpose(0, 1).to(o.dtype)
            S = seen[:, -1, :, None] * S + ((G[:, -1:] - G).exp().float() * Y).transpose(1, 2) @ u
        final[n] += S
    return o, final if output_final_state else None


honest_plain.HINTS = {"array": "torch"}
