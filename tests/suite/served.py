"""A kernel with a pool call, configurations and the raw form, honest; `served_broken.py` breaks all three."""

import torch

from implementations.torch_recurrent import torch_recurrent

HINTS = {"configurations": ({"block": 1}, {"block": 2}), "pool": "pool_step", "raw": True}


def mapped(q, k, g, beta, flags):
    """What a layer does to its projections, by fla's flags."""
    if flags.pop("use_qk_l2norm_in_kernel", False):
        q, k = (x.float() / (x.float().square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
    doubled = flags.pop("allow_neg_eigval", False)
    if flags.pop("use_beta_sigmoid_in_kernel", False):
        beta = beta.float().sigmoid() * (2 if doubled else 1)
    A_log, dt_bias, bound = (flags.pop(name, None) for name in ("A_log", "dt_bias", "lower_bound"))
    flags.pop("safe_gate", None)
    if flags.pop("use_gate_in_kernel", False):
        raw, rate = g.float() + dt_bias, A_log.exp()[:, None]
        g = bound * (rate * raw).sigmoid() if bound else -rate * torch.nn.functional.softplus(raw)
    return q, k, g, beta


def served(q, k, v, g, beta, *, block=1, **keywords):
    """Column blocks of a width, one after the other."""
    dtype = v.dtype
    q, k, g, beta = mapped(q, k, g, beta, keywords)
    v = v.to(q.dtype)
    width = -(-v.shape[-1] // block)
    state = keywords.pop("initial_state", None)
    parts = [
        torch_recurrent(
            q, k, v[..., at : at + width], g, beta,
            initial_state=None if state is None else state[..., at : at + width], **keywords,
        )
        for at in range(0, v.shape[-1], width)
    ]  # fmt: skip
    o, states = zip(*parts, strict=True)
    return torch.cat(o, dim=-1).to(dtype), None if states[0] is None else torch.cat(states, dim=-1)


def pool_step(q, k, v, g, beta, *, pool, slots, cu_seqlens=None, scale=None):
    """Advance the named rows of the pool in place; slot -1 computes on zeros, is dropped and gives zeros."""
    rows = slots.clamp(min=0)
    initial = torch.where((slots >= 0)[:, None, None, None], pool[rows], 0.0)
    o, state = torch_recurrent(
        q, k, v, g, beta, initial_state=initial, output_final_state=True, cu_seqlens=cu_seqlens, scale=scale
    )
    pool[slots[slots >= 0]] = state[slots >= 0]
    named = slots[:, None] if cu_seqlens is None else slots.repeat_interleave(cu_seqlens.diff())[None]
    return torch.where((named >= 0)[..., None, None], o, 0.0)
