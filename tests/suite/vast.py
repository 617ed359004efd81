"""Kernels that compute all sequences side by side: on a CPU they show that the laws for a GPU can fail."""

import torch

GRID = 65_535  # rows or sequences that a grid axis has
BITS = 2**17  # tokens that an index of 17 bits can tell apart


def _sequences(v, cu_seqlens):
    """Rows of every sequence's tokens in [B T, ..], [N, L], and where there are any."""
    B, T = v.shape[:2]
    starts = torch.arange(B) * T if cu_seqlens is None else cu_seqlens[:-1]
    lengths = torch.full((B,), T) if cu_seqlens is None else cu_seqlens.diff()
    steps = torch.arange(int(lengths.max()))
    return (starts[:, None] + steps).clamp(max=B * T - 1), steps < lengths[:, None]


def side_by_side(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    """All sequences at once, token by token."""
    rows, real = _sequences(v, cu_seqlens)
    HV = v.shape[2]
    q, k = (x.repeat_interleave(HV // x.shape[2], dim=2) for x in (q, k))
    flat = [x.float().flatten(0, 1)[rows] for x in (q, k, v, g, beta)]
    shape = (len(rows), HV, q.shape[3], v.shape[3])
    S = torch.zeros(shape) if initial_state is None else initial_state.float()
    o = torch.zeros(v.shape).flatten(0, 1)
    for t in range(rows.shape[1]):
        qt, kt, vt, gt, bt = (x[:, t] for x in flat)
        decayed = gt.exp()[..., None] * S
        left = vt - (kt[..., None] * decayed).sum(2)
        now = real[:, t, None, None, None]
        S = torch.where(now, decayed + bt[..., None, None] * kt[..., None] * left[:, :, None], S)
        o[rows[:, t][real[:, t]]] = (qt[..., None] * S).sum(2)[real[:, t]]
    o = (o * (q.shape[3] ** -0.5 if scale is None else scale)).reshape(v.shape).to(v.dtype)
    return o, S if output_final_state else None


def grid_axis_wraps(q, k, v, g, beta, *, cu_seqlens=None, **keywords):
    """Rows and sequences behind the first 65,535 are never computed."""
    o, state = side_by_side(q, k, v, g, beta, cu_seqlens=cu_seqlens, **keywords)
    if cu_seqlens is None:
        o[GRID:] = 0
    elif len(cu_seqlens) > GRID + 1:
        o[:, int(cu_seqlens[GRID]) :] = 0
    return o, state


def first_token_alone(q, k, v, g, beta, *, scale=None, output_final_state=False, **keywords):
    """No kernel at all, but linear in v and blind to the future: the write of a token alone, read by itself."""
    group = v.shape[2] // q.shape[2]
    weight = (q.float() * k.float()).sum(-1).repeat_interleave(group, dim=2) * beta.float()
    state = torch.zeros(v.shape[0], v.shape[2], q.shape[3], v.shape[3])
    return (weight[..., None] * v.float()).to(v.dtype), state if output_final_state else None


def token_index_wraps(q, k, v, g, beta, **keywords):
    """Tokens beyond the index's range are read from the start, and count as magnitudes."""
    o, state = first_token_alone(q, k, v, g, beta, **keywords)
    return torch.cat([o[:, :BITS], o[:, BITS:].abs() + v[:, : max(v.shape[1] - BITS, 0)] ** 2], dim=1), state
