"""What a TARGET on the command line means: a shipped name, `file.py[:function]` or `package.module:function`."""

import ast
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
        if not colon and text.endswith(".py"):
            where, function = text, ""
        elif not colon or not function.isidentifier():
            raise ValueError(
                f"TARGET: expected a shipped name ({', '.join(SHIPPED)}), path/to/file.py, path/to/file.py:function or "
                f"package.module:function; got {text!r}"
            )
        if not where.endswith(".py"):
            return Target(text.split(".")[-1].replace(":", "."), where, function)
        if not Path(where).is_file():
            raise ValueError(f"TARGET: the file {where} does not exist (from {text!r})")
        function = function or _only_kernel(Path(where))
        return Target(Path(where).stem if function == "kernel" else function, where, function)


def _only_kernel(path: Path) -> str:
    """The function of a file that takes the contract's tensors: the only one, or the one named as the file or `kernel`.

    Raises:
        ValueError: there is none, or it cannot be told which is meant.
    """
    try:
        functions = [x for x in ast.parse(path.read_text()).body if isinstance(x, ast.FunctionDef) and x.name[0] != "_"]
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ValueError(f"TARGET: {path} is not a Python file: {error}") from None
    named = [
        x.name
        for x in functions
        if [y.arg for y in (x.args.posonlyargs + x.args.args)[:5]] == ["q", "k", "v", "g", "beta"]
    ]
    kernels = [name for name in named if name in (path.stem, "kernel")] or named
    if len(kernels) != 1:
        found = f"it has {', '.join(named)}: name one with {path}:function" if named else "it has none"
        raise ValueError(f"TARGET: {path}: expected one function (q, k, v, g, beta, *, ..) to check; {found}")
    return kernels[0]


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
