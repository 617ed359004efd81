"""Triton's interpreter without work that it repeats: its names are put in place once for a launch.

At a launch the interpreter replaces the functions of `triton.language` by its own, and at every call of one jitted
function by another it looks through the whole language again and finds nothing left to replace. That is a quarter to
a third of a small kernel's time (`triton_chunked`, 17 tokens: 62 ms, and 45 ms without).
"""

import importlib
import sys
from typing import Any


class _Nothing:
    def restore(self) -> None:
        """Nothing was replaced, so nothing is put back."""


def hasten() -> None:
    """Have a call inside a launch look at nothing twice; leave a Triton alone that is built otherwise."""
    if "triton" not in sys.modules:
        return
    try:
        interpreter: Any = importlib.import_module("triton.runtime.interpreter")
        language: Any = importlib.import_module("triton.language")
        place, core, modules = interpreter._patch_lang, language.core, (language, language.core)
        _ = core.is_builtin(core.load), core.tensor
    except (ImportError, AttributeError):
        return
    if getattr(place, "once", False):
        return

    def once(function: Any) -> Any:
        inside = "__index__" in vars(core.tensor)  # the interpreter's own, which it takes back after the launch
        seen = [x for x in function.__globals__.values() if any(x is module for module in modules)]
        if inside and seen and not any(core.is_builtin(module.load) for module in seen):
            return _Nothing()
        return place(function)

    once.once = True  # type: ignore[attr-defined]
    interpreter._patch_lang = once
