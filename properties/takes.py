"""What a kernel takes: cases mapped to the widths, heads, dtypes and regimes that its HINTS name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from properties.case import CHOICES, Case

FIELDS = ("K", "V", "H", "group", "dtype", "gate_dtype", "gate", "key", "beta", "state")


def fitting(takes: Mapping[str, Sequence[Any]] | None) -> Callable[[Case], Case]:
    """A map from any case to one the kernel takes; fields that `takes` does not name stay as they are.

    A number becomes the next larger one that is taken (the largest where there is none), a dtype or a regime the
    first. So a kernel written for K = V = 128, or for gates of at least -5, is asked for nothing else, and says so
    once in its HINTS rather than by refusing each time.

    Args:
        takes: values by field: K, V, H (key heads), group (value heads of a key head), dtype, gate_dtype, and names of
            regimes (`properties/regimes.py`): gate, key, beta, state.

    Raises:
        ValueError: for an unknown field, one without values, or a value that no case has.
    """
    taken = dict(takes or {})
    for name, values in taken.items():
        if name not in FIELDS or not values:
            raise ValueError(f'HINTS["takes"]: expected values for some of {", ".join(FIELDS)}; got {name}: {values!r}')
        if strange := [value for value in values if value not in CHOICES.get(name, values)]:
            raise ValueError(f'HINTS["takes"]: {name}: expected some of {", ".join(CHOICES[name])}; got {strange[0]!r}')
    return lambda case: case.but(**{name: _nearest(getattr(case, name), taken[name]) for name in taken})


def _nearest(value: Any, taken: Sequence[Any]) -> Any:
    if value in taken:
        return value
    if isinstance(value, str):
        return taken[0]
    return min((x for x in taken if x > value), default=max(taken))


def outside(takes: Mapping[str, Sequence[Any]], case: Case) -> str:
    """What a law asks for that the kernel does not take, in words; "" where it takes the case."""
    for name, values in takes.items():
        if getattr(case, name) not in values:
            return f'the law needs {name}={getattr(case, name)!r}; HINTS["takes"] names {", ".join(map(repr, values))}'
    return ""
