"""flash-linear-attention's kernels without their tuning, for verification: one launch configuration of each.

Any configuration that fla may choose has to be right; trying them all takes a minute or two for each number of heads,
and shapes are many here. Not for timing. Every width and number of heads is compiled anew, so few of them are asked.
"""

import sys
from typing import Any

from triton.runtime.autotuner import Autotuner

from implementations.peers.fla import chunk_kda, chunk_kda_safe_gate, fused_recurrent_kda

__all__ = ["chunk_kda", "chunk_kda_safe_gate", "fused_recurrent_kda"]

HINTS: dict[str, Any] = {
    "array": "torch",
    "takes": {"K": (64,), "V": (64,), "H": (2,), "group": (1,), "dtype": ("bfloat16",)},
}


def _pin() -> int:
    """Leave every tuner of a fla kernel its first configuration; returns how many there were."""
    modules = [module for name, module in sys.modules.items() if name.startswith("fla.ops")]
    tuners = {}
    for value in (value for module in modules for value in list(vars(module).values())):
        while value is not None and type(value).__module__.startswith("triton.runtime"):
            if isinstance(value, Autotuner):
                tuners[id(value)] = value
            value = getattr(value, "fn", None)
    for tuner in tuners.values():
        tuner.configs = tuner.configs[:1]
    return len(tuners)


if not _pin():
    raise ImportError("no tuner was found in fla.ops; fla is organised in another way than in 0.6.0")
