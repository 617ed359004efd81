"""flash-linear-attention's kernels without their tuning, for verification: one launch configuration of each.

Every width and number of heads is compiled anew, so few of them are asked. Not for timing.
"""

from typing import Any

from implementations.peers._fla_setup import pin
from implementations.peers.fla import chunk_kda, chunk_kda_safe_gate, fused_recurrent_kda

__all__ = ["chunk_kda", "chunk_kda_safe_gate", "fused_recurrent_kda"]

HINTS: dict[str, Any] = {
    "array": "torch",
    "takes": {"K": (64, 128), "V": (64, 128), "H": (2,), "group": (1, 2), "dtype": ("bfloat16", "float32")},
}
pin()
