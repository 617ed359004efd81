"""Triton's interpreter without work that it repeats: less than half of a small kernel's time, and the same bits.

Every operation builds the types and shapes of its operands anew, and a table of all dtypes for each look into it. Every
sum of 32-bit integers is formed a second time, in 64 bits, to see whether it overflows, which no GPU does. Every call
of one jitted function by another looks through the whole language for functions to replace, which the launch has
replaced before it. (17 tokens of `triton_chunked`: 192 ms, and 80 without all that; of `triton_training`, gradients
included, 500 and 210.)
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any


class _Nothing:
    def restore(self) -> None:
        """Nothing was replaced, so nothing is put back."""


def hasten() -> list[str]:
    """Spare the interpreter repeated work; a Triton that compiles, or is built otherwise, is left alone there.

    Returns the names of what was done, nothing the second time.
    """
    if "triton" not in sys.modules or os.environ.get("TRITON_INTERPRET") != "1":
        return []
    try:
        interpreter: Any = importlib.import_module("triton.runtime.interpreter")
        core: Any = importlib.import_module("triton.language").core
    except (ImportError, AttributeError):
        return []
    if getattr(interpreter, "hastened", False):
        return []
    interpreter.hastened, done = True, []
    for change in (_names, _overflow, _dtypes, _block_types, _tensors, _broadcasts):
        with contextlib.suppress(AttributeError):
            change(interpreter, core)
            done.append(change.__name__)
    return done


def _names(interpreter: Any, core: Any) -> None:
    """The interpreter's own functions are put in place at a launch, and not again at each call inside it."""
    place, modules = interpreter._patch_lang, (importlib.import_module("triton.language"), core)
    _ = core.is_builtin(core.load), core.tensor
    seen: dict[Any, list[Any]] = {}

    def once(function: Any) -> Any:
        if "__index__" in vars(core.tensor):  # the interpreter's own, which it takes back after the launch
            if function not in seen:
                seen[function] = [x for x in function.__globals__.values() if any(x is module for module in modules)]
            if seen[function] and not any(core.is_builtin(module.load) for module in seen[function]):
                return _Nothing()
        return place(function)

    interpreter._patch_lang = once


def _overflow(interpreter: Any, core: Any) -> None:
    """32-bit integers wrap, as they do in a compiled kernel."""
    builder = interpreter.interpreter_builder
    if builder.options.sanitize_overflow:
        builder.options = replace(builder.options, sanitize_overflow=False)


def _dtypes(interpreter: Any, core: Any) -> None:
    """NumPy's dtype of a type, by the type's name."""
    interpreter._get_np_dtype = _remember(interpreter._get_np_dtype)


def _remember(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    known: dict[str, Any] = {}

    def look(kind: Any) -> Any:
        if kind.name not in known:
            known[kind.name] = function(kind)
        return known[kind.name]

    return look


def _block_types(interpreter: Any, core: Any) -> None:
    """What a block's type knows of itself, by its shape and the name of its elements' type."""
    build, known, constexpr = core.block_type.__init__, dict[tuple[Any, ...], dict[str, Any]](), core.constexpr

    def init(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = shape.values if type(shape) is core.tuple else shape
        key = (element_ty.name, *(size.value if type(size) is constexpr else size for size in sizes))
        if key not in known:
            build(self, element_ty, shape)
            known[key] = dict(vars(self))
        vars(self).update(known[key], element_ty=element_ty)

    core.block_type.__init__ = init


def _tensors(interpreter: Any, core: Any) -> None:
    """A tensor's shape and number of elements, by the name of its type."""
    build, known = core.tensor.__init__, dict[str, dict[str, Any]]()

    def init(self: Any, handle: Any, type: Any) -> None:
        if type.name not in known:
            build(self, handle, type)
            known[type.name] = {"shape": self.shape, "numel": self.numel}
        vars(self).update(known[type.name], handle=handle, type=type, dtype=type.scalar)

    core.tensor.__init__ = init


def _broadcasts(interpreter: Any, core: Any) -> None:
    """Operands of one shape need no broadcast."""
    semantic = type(interpreter.interpreter_semantic)
    broadcast = semantic.broadcast_impl_value

    def same(self: Any, lhs: Any, rhs: Any) -> Any:
        if lhs.type.is_block() and rhs.type.is_block() and list(lhs.type.shape) == list(rhs.type.shape):
            return lhs, rhs
        return broadcast(self, lhs, rhs)

    semantic.broadcast_impl_value = same
