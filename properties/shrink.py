"""Making a counterexample small and saying which of its fields do not matter."""

import time
from collections.abc import Callable, Iterator
from dataclasses import fields

from properties.case import Case

Still = Callable[[Case], bool]
DEFAULT = Case()
# What a field is changed to when the question is whether it matters.
OTHERS = {
    "H": 2,
    "group": 2,
    "K": 5,
    "V": 5,
    "B": 2,
    "dtype": "bfloat16",
    "gate": "typical",
    "key": "basis",
    "beta": "random",
    "state": "random",
    "scale": 0.3,
    "layout": "strided",
    "v_log2": 3,
    "seed": 12345,
    "final_state": False,
}


def simplify(case: Case, still: Still, deadline: float) -> Case:
    """Greedily bring fields back to their defaults, then numbers down, until nothing more keeps failing."""
    again = True
    while again and time.monotonic() < deadline:
        again = False
        for simpler in _simpler(case):
            if time.monotonic() > deadline:
                break
            if _holds(still, simpler):
                case, again = simpler, True
                break
    return case


def _simpler(case: Case) -> Iterator[Case]:
    if case.packed:
        yield case.but(packed=(), T=max(max(case.packed), 1))
        for n in range(len(case.packed)):
            rest = case.packed[:n] + case.packed[n + 1 :]
            if rest:
                yield case.but(packed=rest)
            if case.packed[n] > 1:
                yield case.but(packed=(*case.packed[:n], 1, *case.packed[n + 1 :]))
    for n in range(len(case.edits)):
        yield case.but(edits=case.edits[:n] + case.edits[n + 1 :])
    for name in case.changed:
        if name not in ("packed", "edits"):
            yield case.but(**{name: getattr(DEFAULT, name)})
    for name in ("T", "K", "V", "H", "group", "B", "at"):
        value, least = getattr(case, name), getattr(DEFAULT, name)
        for smaller in ((value + least) // 2, value - 1):
            if least < smaller < value:
                yield case.but(**{name: smaller})


def indifferent(case: Case, still: Still, deadline: float) -> list[str]:
    """Fields whose change to another value leaves the case failing."""
    names = []
    for field in fields(Case):
        other = OTHERS.get(field.name)
        if other is None or (getattr(case, field.name) != getattr(DEFAULT, field.name) and field.name != "seed"):
            continue
        if time.monotonic() > deadline:
            break
        if (field.name != "B" or not case.packed) and _holds(still, case.but(**{field.name: other})):
            names.append(field.name)
    return names


def _holds(still: Still, case: Case) -> bool:
    try:
        return still(case)
    except (ValueError, AssertionError):
        return False  # outside the domain: no problem can be built from it
