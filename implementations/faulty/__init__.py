"""Known bugs and cheats re-created: one file per family, one fault per kernel, on a base that is honest without it.

`load()` returns all of them by name; CONTRIBUTING.md says how to add one.
"""

import importlib

from implementations.faulty._registry import FAULTS, Fault

MODULES = (
    "exponents",
    "conditioning",
    "gates",
    "tails",
    "packing",
    "empties",
    "offsets",
    "heads",
    "config",
    "gradients",
    "state",
    "serving",
    "raw",
    "memory",
    "contract",
    "cheats",
    "blind",
    "blind_again",
    "blind_fourth",
    "triton_kernels",
)
# Without a fault plugged in the bases are kernels like any other, and must pass.
HONEST = {
    "base_torch": "implementations.faulty._base:honest",
    "base_plain": "implementations.faulty._base_plain:honest_plain",
    "base_numpy": "implementations.faulty._base_numpy:honest",
    "base_triton": "implementations.faulty._base_triton:honest",
    "base_triton_tokens": "implementations.faulty._base_triton:honest_tokens",
    "base_pool": "implementations.faulty.serving:honest_slots",
    "base_raw": "implementations.faulty.raw:honest_raw",
}

__all__ = ["FAULTS", "HONEST", "MODULES", "Fault", "load"]


def load() -> dict[str, Fault]:
    """Import every family and return its faulty kernels by name (`family.kernel`).

    Raises:
        ImportError: where torch or Triton is not installed.
    """
    for name in MODULES:
        importlib.import_module(f"implementations.faulty.{name}")
    return FAULTS
