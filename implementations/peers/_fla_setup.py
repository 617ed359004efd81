"""fla's Triton kernels without their tuning, and under Triton's interpreter."""

import builtins
import sys
from typing import Any

from triton import language as tl
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import KernelInterface


def _modules() -> list[Any]:
    return [module for name, module in sys.modules.items() if name.startswith("fla.ops")]


def pin() -> None:
    """Leave every tuner of an imported fla kernel its first configuration.

    Any configuration that fla may choose has to be right; trying them all takes a minute or two for each number of
    heads, and the shapes of a verification are many. Not for timing.

    Raises:
        ImportError: no tuner is there; fla is organised in another way than in 0.6.0.
    """
    tuners = {}
    for value in [value for module in _modules() for value in vars(module).values()]:
        while isinstance(value, KernelInterface):  # tuners, heuristics and the kernel, one around the other
            if isinstance(value, Autotuner):
                tuners[id(value)] = value
            value = getattr(value, "fn", None)
    if not tuners:
        raise ImportError("no tuner was found in fla.ops; fla is organised in another way than in 0.6.0")
    for tuner in tuners.values():
        tuner.configs = tuner.configs[:1]


class _Index(int):
    """An index of a loop that can be cast, as in compiled Triton."""

    def to(self, dtype: Any, *_: Any, **__: Any) -> Any:
        return tl.full((), int(self), dtype)


def interpret() -> None:
    """Give fla's kernels what the interpreter lacks, to be run on the CPU in float32.

    Indices of loops are tensors there, `gather` is found where the interpreter replaced it, and products that ask for
    three bfloat16 parts, which it does not know, are exact, as fla has them on other platforms.
    """
    for module in _modules():
        names = vars(module)
        names["range"] = lambda *ends: map(_Index, builtins.range(*(int(end) for end in ends)))
        if names.get("gather") is tl.gather:
            names["gather"] = lambda *args, **keywords: tl.gather(*args, **keywords)
        for name in [name for name, value in names.items() if isinstance(value, tl.constexpr)]:
            if names[name].value == "bf16x3":
                names[name] = tl.constexpr("ieee")
