"""What a TARGET on the command line means: a shipped name, `file.py:function` or `package.module:function`."""

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from implementations import SHIPPED


@dataclass(frozen=True)
class Target:
    """A kernel that can be named: `name` for tables, `where` and `function` for loading."""

    name: str
    where: str
    function: str

    def __str__(self) -> str:
        return self.name if self.name in SHIPPED else f"{self.where}:{self.function}"

    @staticmethod
    def parse(text: str) -> "Target":
        """Read a TARGET; says what was expected where it is none. Nothing is imported."""
        if text in SHIPPED:
            where, function = SHIPPED[text].target.split(":")
            return Target(text, where, function)
        where, colon, function = text.rpartition(":")
        if not colon or not function.isidentifier():
            raise ValueError(
                f"TARGET: expected a shipped name ({', '.join(SHIPPED)}), path/to/file.py:function or "
                f"package.module:function; got {text!r}"
            )
        if where.endswith(".py") and not Path(where).is_file():
            raise ValueError(f"TARGET: the file {where} does not exist (from {text!r})")
        return Target(function if where.endswith(".py") else text.split(".")[-1].replace(":", "."), where, function)


def load(target: Target) -> tuple[Any, dict[str, Any]]:
    """The kernel and its HINTS, the module's and over them its own (likewise what it takes); in a worker only."""
    if target.where.endswith(".py"):
        module = _load_file(Path(target.where))
    else:
        sys.path.insert(0, "")
        module = importlib.import_module(target.where)
    kernel = getattr(module, target.function, None)
    if kernel is None:
        raise AttributeError(f"{target.where} has no function {target.function!r}")
    if not callable(kernel):
        raise TypeError(f"{target.function!r} in {target.where} is not callable")
    file, own = dict(getattr(module, "HINTS", {})), dict(getattr(kernel, "HINTS", {}))
    takes = {**(file.get("takes") or {}), **(own.get("takes") or {})}
    return kernel, {**file, **own, **({"takes": takes} if takes else {})}


def _load_file(path: Path) -> ModuleType:
    sys.path.insert(0, str(path.resolve().parent))
    name = f"kda_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and Triton look their module up by name
    spec.loader.exec_module(module)
    return module
