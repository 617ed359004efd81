"""flash-linear-attention's KDA kernels (package fla-core, written against 0.6.0), called by the contract.

fla takes whatever gate it is given; with `safe_gate` it promises the result only for gates of at least -5, and here the
promise is checked before the call. Its Triton kernels need a GPU, or Triton's interpreter (TRITON_INTERPRET=1), which
is asked about float32 and small widths.
"""

import os
from typing import Any

from fla.ops.kda import chunk_kda as _chunk
from fla.ops.kda import fused_recurrent_kda as _recurrent

from implementations._contract import check
from implementations.peers._fla_setup import interpret, pin

HINTS: dict[str, Any] = {"array": "torch"}
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
LOWER_BOUND = -5.0

if INTERPRETED:
    pin()
    interpret()
    HINTS["takes"] = {"dtype": ("float32",)}


def chunk_kda(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    """`fla.ops.kda.chunk_kda` with precomputed gates of any size; differentiable.

    Shapes and ranges are the contract's (`implementations/_contract.py`).

    Raises:
        NotImplementedError: on a CPU, and for float64.
    """
    return _call(_chunk, q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens)


def chunk_kda_safe_gate(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    """`fla.ops.kda.chunk_kda` with `safe_gate`: faster, for gates of at least -5. Looking at g waits for the GPU.

    Raises:
        ValueError: for a gate below -5.
        NotImplementedError: on a CPU, and for float64.
    """
    if g.numel() and float(g.detach().amin()) < LOWER_BOUND:
        raise ValueError(f"g: safe_gate expects at least {LOWER_BOUND:g}; got {float(g.detach().amin()):g}")
    return chunk_kda_bounded(
        q,
        k,
        v,
        g,
        beta,
        scale=scale,
        initial_state=initial_state,
        output_final_state=output_final_state,
        cu_seqlens=cu_seqlens,
    )


# Regimes of gates that stay within the bound; what asks for more is given gates at the bound.
chunk_kda_safe_gate.HINTS = {
    "takes": {"gate": ("pinned", "production", "typical", "medium", "steady", "slow", "tiny", "zero")}
}


def chunk_kda_bounded(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    """The same for timing: the caller promises gates of at least -5, and nothing looks.

    Raises:
        NotImplementedError: on a CPU, and for float64.
    """
    return _call(_chunk, q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens, safe_gate=True)


def fused_recurrent_kda(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    """`fla.ops.kda.fused_recurrent_kda`: token by token in one kernel, forward only.

    Raises:
        NotImplementedError: on a CPU, and for float64.
    """
    return _call(_recurrent, q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens)


def _call(kernel, q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens, **flags):
    check(q, k, v, g, beta, initial_state=initial_state, cu_seqlens=cu_seqlens)
    if not (q.is_cuda or INTERPRETED):
        raise NotImplementedError("fla's kernels run on a GPU")
    if str(v.dtype) == "torch.float64":
        raise NotImplementedError("float64")
    return kernel(
        q,
        k,
        v,
        g,
        beta,
        scale=scale,
        initial_state=initial_state,
        output_final_state=output_final_state,
        cu_seqlens=cu_seqlens,
        **flags,
    )
