"""What is known of every faulty kernel, and the decorator that says it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FAMILIES = {
    "A": "exponent range",
    "B": "conditioning and cancellation",
    "C": "semantics and units",
    "D": "boundaries, tails, padding",
    "E": "packed addressing",
    "F": "empty sequences and launch limits",
    "G": "narrow offsets",
    "H": "heads, layouts, strides",
    "I": "flags and configurations",
    "J": "gradients",
    "K": "tuning, compiler, races",
    "L": "state life-cycle in serving",
    "M": "memory",
    "R": "refuse or be right",
    "X": "cheats",
}


@dataclass(frozen=True)
class Fault:
    """One planted fault.

    Args:
        id: family letter and number; a small letter behind it tells variants of one bug apart.
        summary: what the kernel does wrong, in one sentence.
        trigger: when it shows.
        source: where it was seen: repository and issue, pull request or commit.
        array: array library, "numpy", "torch" or "triton" (torch tensors).
        target: module and function.
    """

    id: str
    summary: str
    trigger: str
    source: str
    array: str
    target: str

    @property
    def family(self) -> str:
        """The family's letter."""
        return self.id[0]

    @property
    def name(self) -> str:
        """The kernel's name in tables."""
        return self.target.split(".")[-1].replace(":", ".")


FAULTS: dict[str, Fault] = {}


def fault(id: str, summary: str, *, trigger: str, source: str, array: str = "torch") -> Callable[[Any], Any]:
    """Register a faulty kernel: a function, or a class whose instance is the kernel.

    A class is a base with a hook overridden; it brings its own `array` and may bring HINTS. See `Fault`.
    """

    def register(made: Any) -> Any:
        kernel = made() if isinstance(made, type) else made
        library = getattr(kernel, "array", array)
        kernel.__doc__ = summary
        kernel.HINTS = {"array": "numpy" if library == "numpy" else "torch", **getattr(kernel, "HINTS", {})}
        target = f"{made.__module__}:{made.__name__}"
        found = Fault(id, summary, trigger, source, library, target)
        if found.family not in FAMILIES or any(other.id == id for other in FAULTS.values()):
            raise ValueError(f"fault id: expected a new one of a known family; got {id!r} for {target}")
        FAULTS[found.name] = found
        return kernel

    return register
