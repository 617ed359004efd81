"""Kernels broken on purpose, one fault each, in an otherwise honest token recurrence."""

import ctypes
import os
import time

import torch

from implementations.torch_recurrent import torch_recurrent


def order_swapped(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    """Erases before it decays."""
    if cu_seqlens is not None:
        raise NotImplementedError("packed sequences")
    group = v.shape[2] // q.shape[2]
    q, k = (x.float().repeat_interleave(group, 2) for x in (q, k))
    values, scale = v.float(), q.shape[-1] ** -0.5 if scale is None else scale
    B, T, HV, K = q.shape
    S = torch.zeros(B, HV, K, v.shape[3]) if initial_state is None else initial_state.clone()
    rows = []
    for t in range(T):
        key, strength = k[:, t, :, :, None], beta[:, t, :, None, None].float()
        S = S - strength * key * (key * S).sum(2, keepdim=True)
        S = g[:, t].float().exp()[..., None] * S + strength * key * values[:, t, :, None]
        rows.append(scale * (q[:, t, :, :, None] * S).sum(2))
    return torch.stack(rows, 1).to(v.dtype), S if output_final_state else None


def state_ignored_when_short(q, k, v, g, beta, *, initial_state=None, **keywords):
    """Ignores the initial state below 16 tokens."""
    if q.shape[1] < 16 and initial_state is not None:
        initial_state = torch.zeros_like(initial_state)
    return torch_recurrent(q, k, v, g, beta, initial_state=initial_state, **keywords)


def keyword_swallowed(q, k, v, g, beta, *, initial_state=None, output_final_state=False, cu_seqlens=None, **_):
    """Takes any keyword, and loses scale among them."""
    return torch_recurrent(q, k, v, g, beta, initial_state=initial_state, output_final_state=output_final_state,
                           cu_seqlens=cu_seqlens)  # fmt: skip


def nan_when_forgetting(q, k, v, g, beta, **keywords):
    """NaN where a gate is -1000: zero times infinity."""
    o, state = torch_recurrent(q, k, v, g, beta, **keywords)
    overflow = torch.exp(-g.float()).amax(-1, keepdim=True)
    return (o + (0 * overflow).to(o.dtype)), state


def value_changed_in_place(q, k, v, g, beta, **keywords):
    """Scales v by beta inside the caller's tensor."""
    result = torch_recurrent(q, k, v, g, beta, **keywords)
    with torch.no_grad():
        v.mul_(beta[..., None] + 1)
    return result


def last_token_off(q, k, v, g, beta, **keywords):
    """The last token comes out 10 % too large."""
    o, state = torch_recurrent(q, k, v, g, beta, **keywords)
    return torch.cat([o[:, :-1], 1.1 * o[:, -1:]], dim=1), state


def hangs(q, k, v, g, beta, **keywords):
    """Never returns for two tokens or more."""
    while q.shape[1] > 1:
        time.sleep(1)
    return torch_recurrent(q, k, v, g, beta, **keywords)


def segfaults(q, k, v, g, beta, **keywords):
    """Reads address zero where there are three channels or more."""
    if q.shape[3] > 2:
        ctypes.string_at(0)
    return torch_recurrent(q, k, v, g, beta, **keywords)


def exits(q, k, v, g, beta, **keywords):
    """Ends its process for packed sequences."""
    if keywords.get("cu_seqlens") is not None:
        os._exit(0)
    return torch_recurrent(q, k, v, g, beta, **keywords)


def raises_system_exit(q, k, v, g, beta, **keywords):
    """sys.exit in the middle of a call."""
    if q.shape[1] > 1:
        raise SystemExit(0)
    return torch_recurrent(q, k, v, g, beta, **keywords)


def refuses_everything(q, k, v, g, beta, **keywords):
    """Supports nothing."""
    raise NotImplementedError("this device")


def zeros(q, k, v, g, beta, *, output_final_state=False, **_):
    """The kernel that published acceptance rules let pass."""
    state = torch.zeros(q.shape[0], v.shape[2], q.shape[3], v.shape[3])
    return torch.zeros_like(v), state if output_final_state else None


def wrong_signature(q, k):
    """No kernel at all."""
    return q, k


NOT_A_FUNCTION = 3
