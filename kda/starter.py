"""`kda new`: a starter kernel file that already passes."""

import keyword
from pathlib import Path

TEMPLATE = '''"""{name}: a Kimi Delta Attention kernel, to be made fast. Check it with: kda check {file}:{name}"""

import torch


def {name}(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    """S <- (I - beta k k^T) Diag(exp g) S + beta k v^T, then o = scale S^T q.

    q, k [B, T, H, K]; v [B, T, HV, V]; g [B, T, HV, K]; beta [B, T, HV]; initial_state [N, HV, K, V] float32.
    Value head hv reads query and key head hv // (HV // H). Refuse what you do not support with NotImplementedError.
    """
    B, T, H, K = q.shape
    HV, V = v.shape[2:]
    if HV % H or k.shape != q.shape or g.shape != (B, T, HV, K) or beta.shape != (B, T, HV) or v.shape[:2] != (B, T):
        raise ValueError("the shapes of q, k, v, g and beta do not belong together")
    tensors = [x for x in (q, k, v, g, beta, initial_state) if x is not None]
    if not all(x.is_floating_point() for x in tensors) or not q.dtype == k.dtype == v.dtype:
        raise TypeError("floating tensors are expected, and one dtype for q, k and v")
    if any(x.device != q.device for x in tensors):
        raise ValueError("all tensors must be on one device")
    cuts = [(b, 0, T) for b in range(B)]
    if cu_seqlens is not None:
        ends = cu_seqlens.tolist()
        if B != 1 or ends[0] != 0 or ends[-1] != T or any(a > b for a, b in zip(ends, ends[1:])):
            raise ValueError("cu_seqlens must rise from 0 to T, with B = 1")
        cuts = [(0, a, b) for a, b in zip(ends, ends[1:])]
    if initial_state is not None and initial_state.shape != (len(cuts), HV, K, V):
        raise ValueError("initial_state must be [N, HV, K, V]")
    scale = K**-0.5 if scale is None else scale
    q, k = (x.float().repeat_interleave(HV // H, dim=2) for x in (q, k))
    alpha, values, strength = g.float().exp(), v.float(), beta.float()
    outputs, states = [], []
    for n, (b, start, stop) in enumerate(cuts):
        S = torch.zeros(HV, K, V, device=v.device) if initial_state is None else initial_state[n].float().clone()
        rows = []
        for t in range(start, stop):
            S = alpha[b, t, :, :, None] * S  # decay
            read = (k[b, t, :, :, None] * S).sum(1)
            S = S + strength[b, t, :, None, None] * k[b, t, :, :, None] * (values[b, t] - read)[:, None]  # erase, write
            rows.append(scale * (q[b, t, :, :, None] * S).sum(1))
        outputs.append(torch.stack(rows) if rows else values.new_zeros(0, HV, V))
        states.append(S)
    o = torch.cat(outputs).reshape(B, T, HV, V).to(v.dtype)
    return o, torch.stack(states) if output_final_state else None
'''


def write(name: str, folder: Path) -> Path:
    """Write NAME.py into the folder; never over an existing file."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"NAME: expected a Python identifier such as my_kernel; got {name!r}")
    path = folder / f"{name}.py"
    if path.exists():
        raise ValueError(f"NAME: {path} exists already and is left as it is")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(TEMPLATE.format(name=name, file=path))
    return path
