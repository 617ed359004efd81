"""Kernels broken on purpose, one fault each, in an otherwise honest token recurrence."""

import ctypes
import itertools
import os
import threading
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


def first_sequence_favoured(q, k, v, g, beta, *, cu_seqlens=None, **keywords):
    """The first packed sequence comes out twice as large."""
    o, state = torch_recurrent(q, k, v, g, beta, cu_seqlens=cu_seqlens, **keywords)
    first = 0 if cu_seqlens is None or len(cu_seqlens) < 2 else int(cu_seqlens[1])
    return torch.cat([2 * o[:, :first], o[:, first:]], dim=1), state


def first_channels_off(q, k, v, g, beta, **keywords):
    """The first column is a tenth too large, the first key channel is not read."""
    q = torch.cat([0 * q[..., :1], q[..., 1:]], dim=-1)
    o, state = torch_recurrent(q, k, v, g, beta, **keywords)
    return torch.cat([1.1 * o[..., :1], o[..., 1:]], dim=-1), state


def default_scale_wrong(q, k, v, g, beta, *, scale=None, **keywords):
    """Takes 1 / K where no scale is given."""
    return torch_recurrent(q, k, v, g, beta, scale=1 / q.shape[-1] if scale is None else scale, **keywords)


def double_state_dropped(q, k, v, g, beta, *, initial_state=None, **keywords):
    """Reads a float64 state as zeros."""
    if initial_state is not None and initial_state.dtype == torch.float64:
        initial_state = torch.zeros_like(initial_state)
    return torch_recurrent(q, k, v, g, beta, initial_state=initial_state, **keywords)


def strength_in_half(q, k, v, g, beta, **keywords):
    """Rounds a float32 beta to the dtype of v, which bfloat16 operands lose as well."""
    return torch_recurrent(q, k, v, g, beta.to(v.dtype).to(beta.dtype), **keywords)


def foreign_device_kills(q, k, v, g, beta, **keywords):
    """Reads memory that is not there where v is elsewhere; torch's words are not about the two devices."""
    if v.device != q.device:
        raise RuntimeError("CUDA error: an illegal memory access was encountered, or a device-side assert")
    return torch_recurrent(q, k, v, g, beta, **keywords)


def integers_accepted(q, k, v, g, beta, **keywords):
    """Computes with integer values and returns integers."""
    o, state = torch_recurrent(q, k, v if v.is_floating_point() else v.to(q.dtype), g, beta, **keywords)
    return o.to(v.dtype), state


def one_gate_broadcast(q, k, v, g, beta, **keywords):
    """Takes a gate of one channel for all channels."""
    g = g.expand(*g.shape[:-1], q.shape[-1]) if g.ndim == 4 and g.shape[-1] == 1 else g
    return torch_recurrent(q, k, v, g, beta, **keywords)


_widest = {}


def scale_remembered(q, k, v, g, beta, *, scale=None, **keywords):
    """Takes the default scale of the widest call that it has seen."""
    _widest[q.dtype] = max(q.shape[-1], _widest.get(q.dtype, 0))
    return torch_recurrent(q, k, v, g, beta, scale=_widest[q.dtype] ** -0.5 if scale is None else scale, **keywords)


_workspace = {}


def workspace_not_cleared(q, k, v, g, beta, **keywords):
    """Adds what the call before of that shape left in its workspace."""
    o, state = torch_recurrent(q, k, v, g, beta, **keywords)
    left = _workspace.get(o.shape, torch.zeros_like(o))
    _workspace[o.shape] = o.detach()
    return (o + left).to(o.dtype), state


_calls = itertools.count()


def worn_out(q, k, v, g, beta, **keywords):
    """Right in the first 67 calls of a process: more than the history of one holds."""
    o, state = torch_recurrent(q, k, v, g, beta, **keywords)
    worn = 1 if next(_calls) < 67 else 2
    return worn * o, None if state is None else worn * state


def crashes_when_wide_came_first(q, k, v, g, beta, **keywords):
    """Its process dies at a narrow call behind a wide one."""
    _widest["ever"] = max(q.shape[-1], _widest.get("ever", 0))
    if q.shape[-1] < 3 <= _widest["ever"]:
        os.abort()
    return torch_recurrent(q, k, v, g, beta, **keywords)


def stride_zero_is_zero(q, k, v, g, beta, **keywords):
    """Takes an expanded gate for no gate."""
    return torch_recurrent(q, k, v, g * 0 if 0 in g.stride() and g.numel() > 1 else g, beta, **keywords)


def reads_gaps(q, k, v, g, beta, **keywords):
    """Loads the element next to each value as well."""
    o, state = torch_recurrent(q, k, v, g, beta, **keywords)
    if v.numel() and v.stride(-1) == 2:
        o = o + 0 * v.as_strided(v.shape, v.stride(), v.storage_offset() + 1)
    return o, state


def writes_behind_its_output(q, k, v, g, beta, **keywords):
    """Stores one element too many where the storage goes on."""
    result, state = torch_recurrent(q, k, v, g, beta, **keywords)
    o = torch.empty_like(result, memory_format=torch.contiguous_format)
    o.copy_(result)
    if o.untyped_storage().nbytes() > (o.storage_offset() + o.numel()) * o.element_size():
        o.as_strided((1,), (1,), o.storage_offset() + o.numel()).zero_()
    return o, state


def empty_states_unwritten(q, k, v, g, beta, *, cu_seqlens=None, **keywords):
    """Leaves the state of a sequence without tokens as it was allocated."""
    o, state = torch_recurrent(q, k, v, g, beta, cu_seqlens=cu_seqlens, **keywords)
    if state is None or cu_seqlens is None:
        return o, state
    written = torch.empty_like(state)
    for n, length in enumerate(cu_seqlens.diff().tolist()):
        if length:
            written[n] = state[n]
    return o, written


def all_or_no_gradients(q, k, v, g, beta, **keywords):
    """Detaches its output unless every input asks for gradients."""
    o, state = torch_recurrent(q, k, v, g, beta, **keywords)
    if not all(x.requires_grad for x in (q, k, v, g, beta)):
        return o.detach(), None if state is None else state.detach()
    return o, state


def state_gradient_lost(q, k, v, g, beta, *, initial_state=None, **keywords):
    """Passes no gradient to the initial state."""
    state = None if initial_state is None else initial_state.detach()
    return torch_recurrent(q, k, v, g, beta, initial_state=state, **keywords)


class _Upstream(torch.autograd.Function):
    """The identity, with a backward pass of our choice."""

    @staticmethod
    def forward(ctx, x, backward):
        ctx.own_backward = backward
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return ctx.own_backward(grad), None


def upstream_taken_for_contiguous(q, k, v, g, beta, **keywords):
    """Reads the upstream gradient's memory as if it were contiguous."""
    o, state = torch_recurrent(q, k, v, g, beta, **keywords)
    flat = lambda grad: grad.as_strided((grad.numel(),), (1,), grad.storage_offset()).reshape(grad.shape)  # noqa: E731
    return _Upstream.apply(o, flat), state


def gradient_spent(q, k, v, g, beta, **keywords):
    """Uses up in its backward pass what it kept for it."""
    o, state = torch_recurrent(q, k, v, g, beta, **keywords)
    kept = torch.ones_like(o)

    def backward(grad):
        own = grad * kept
        kept.zero_()
        return own

    return _Upstream.apply(o, backward), state


def state_gradient_in_half(q, k, v, g, beta, *, initial_state=None, **keywords):
    """Hands the gradient of the initial state back in the tokens' precision."""
    if initial_state is not None:
        initial_state = _Upstream.apply(initial_state, lambda grad: grad.to(q.dtype).float())
    return torch_recurrent(q, k, v, g, beta, initial_state=initial_state, **keywords)


def rows_taken_for_dense(q, k, v, g, beta, **keywords):
    """Reads v from its first number on where its rows are dense."""
    if v.stride(-1) == 1 and v.stride(-2) == v.shape[-1] and not v.requires_grad:
        memory = torch.empty(0, dtype=v.dtype).set_(v.untyped_storage())[v.storage_offset() :]
        v = memory[: v.numel()].reshape(v.shape) if memory.numel() >= v.numel() else v
    return torch_recurrent(q, k, v, g, beta, **keywords)


def upstream_changed_in_place(q, k, v, g, beta, **keywords):
    """Uses the upstream gradient's memory for its own."""
    o, state = torch_recurrent(q, k, v, g, beta, **keywords)

    def backward(grad):
        own = grad.clone()
        grad.zero_()
        return own

    return _Upstream.apply(o, backward), state


def last_of_many_lost(q, k, v, g, beta, *, cu_seqlens=None, **keywords):
    """Drops what comes behind the 200th row or sequence, and large values of more than a thousand tokens."""
    v = v.clamp(-1, 1) if q.shape[1] > 1000 and cu_seqlens is None else v
    o, state = torch_recurrent(q, k, v, g, beta, cu_seqlens=cu_seqlens, **keywords)
    if cu_seqlens is not None:
        return torch.cat([o[:, : int(cu_seqlens[:200][-1])], 0 * o[:, int(cu_seqlens[:200][-1]) :]], dim=1), state
    return torch.cat([o[:200], 0 * o[200:]]), state


def batch_dependent(q, k, v, g, beta, *, cu_seqlens=None, **keywords):
    """Another last bit for another batch, packing, length and place among the heads."""
    o, state = torch_recurrent(q, k, v, g, beta, cu_seqlens=cu_seqlens, **keywords)
    place = q.shape[0] + q.shape[1] + (0 if cu_seqlens is None else 5 + len(cu_seqlens))
    heads = torch.arange(o.shape[2])[:, None] + place
    return (o.float() * (1 + 2**-7 * (heads % 97 + 1) * (2**-14 if o.dtype == torch.float32 else 1))).to(o.dtype), state


_MODES = threading.local()
_MODES.scale = 1.0


def scale_kept_by_thread(q, k, v, g, beta, **keywords):
    """Reads a factor that only the thread that imported this file has set."""
    o, state = torch_recurrent(q, k, v, g, beta, **keywords)
    return o * getattr(_MODES, "scale", 0.0), state
