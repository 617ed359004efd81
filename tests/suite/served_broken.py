"""Padding slots written into the last row of the pool, a configuration that loses a column, a bias left out."""

import served as honest
import torch
from served import mapped  # the folder of a kernel file is on its path

from implementations.torch_recurrent import torch_recurrent

HINTS = {"configurations": ({"block": 2},), "pool": "pool_step", "raw": True}


def served(q, k, v, g, beta, *, block=1, **keywords):
    """The last column comes out wrong with two blocks; the raw gate has no bias."""
    keywords["dt_bias"] = 0 * keywords["dt_bias"] if "dt_bias" in keywords else None
    q, k, g, beta = mapped(q, k, g, beta, keywords)
    v = v.to(q.dtype)
    o, state = torch_recurrent(q, k, v, g, beta, **keywords)
    return (o if block == 1 else torch.cat([o[..., :-1], 0 * o[..., -1:]], dim=-1)), state


def pool_step(q, k, v, g, beta, *, pool, slots, cu_seqlens=None, scale=None):
    """Slot -1 is row -1 here."""
    o, state = torch_recurrent(
        q, k, v, g, beta, initial_state=pool[slots], output_final_state=True, cu_seqlens=cu_seqlens, scale=scale
    )
    pool[slots] = state
    return o


def padded(q, k, v, g, beta, **keywords):
    """Right but for its pool call."""
    return honest.served(q, k, v, g, beta, **keywords)


padded.HINTS = {"pool": "padding_is_one"}


def padding_is_one(q, k, v, g, beta, *, pool, slots, cu_seqlens=None, scale=None):
    """Right, but the rows of padding slots are ones."""
    o = honest.pool_step(q, k, v, g, beta, pool=pool, slots=slots, cu_seqlens=cu_seqlens, scale=scale)
    named = slots[:, None] if cu_seqlens is None else slots.repeat_interleave(cu_seqlens.diff())[None]
    return torch.where((named >= 0)[..., None, None], o, 1.0)
