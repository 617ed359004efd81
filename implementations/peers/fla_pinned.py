"""flash-linear-attention's kernels without their tuning, for verification: one launch configuration of each.

Every width and number of heads is compiled anew, so few of them are asked. The chunked kernels multiply float32 in TF32
(docs/findings.md), which every law that knows numbers finds; they are asked about bfloat16. Not for timing.
"""

from typing import Any

from implementations.peers import fla
from implementations.peers._fla_setup import pin

HINTS: dict[str, Any] = {"array": "torch", "takes": {"K": (64, 128), "V": (64, 128), "H": (2,), "group": (1, 2)}}
pin()


def chunk_kda(*tensors, **keywords):
    """`fla.chunk_kda`."""
    return fla.chunk_kda(*tensors, **keywords)


def chunk_kda_safe_gate(*tensors, **keywords):
    """`fla.chunk_kda_safe_gate`."""
    return fla.chunk_kda_safe_gate(*tensors, **keywords)


def fused_recurrent_kda(*tensors, **keywords):
    """`fla.fused_recurrent_kda`."""
    return fla.fused_recurrent_kda(*tensors, **keywords)


chunk_kda.HINTS = {"takes": {"dtype": ("bfloat16",)}}
chunk_kda_safe_gate.HINTS = {"takes": fla.chunk_kda_safe_gate.HINTS["takes"] | {"dtype": ("bfloat16",)}}
fused_recurrent_kda.HINTS = {"takes": {"dtype": ("bfloat16", "float32")}}
