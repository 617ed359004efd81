"""A kernel with a pool call and configurations, honest; `served_broken.py` breaks both."""

import torch

from implementations.torch_recurrent import torch_recurrent

HINTS = {"configurations": ({"block": 1}, {"block": 2}), "pool": "pool_step"}


def served(q, k, v, g, beta, *, block=1, **keywords):
    """Column blocks of a width, one after the other."""
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
    return torch.cat(o, dim=-1), None if states[0] is None else torch.cat(states, dim=-1)


def pool_step(q, k, v, g, beta, *, pool, slots, cu_seqlens=None, scale=None):
    """Advance the named rows of the pool in place; rows of slot -1 compute on zeros and are dropped."""
    rows = slots.clamp(min=0)
    initial = torch.where((slots >= 0)[:, None, None, None], pool[rows], 0.0)
    o, state = torch_recurrent(
        q, k, v, g, beta, initial_state=initial, output_final_state=True, cu_seqlens=cu_seqlens, scale=scale
    )
    pool[slots[slots >= 0]] = state[slots >= 0]
    return o
