"""Making a counterexample small and saying which of its fields do not matter.

Evaluations are counted, so that a slow machine comes to the same case as a fast one; the clock only ends what hangs.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields

from properties.case import CHOICES, Case

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


class Spent(Exception):
    """Raised where no evaluation is left."""


@dataclass
class Attempts:
    """Asks whether a case, brought to what the law speaks of, still fails; every new case costs one evaluation.

    Args:
        fails: whether the law is broken by a case.
        adjust: the law's map from any case to one it speaks of.
        left: evaluations that may still be made.
        deadline: the time (`time.monotonic`) after which no evaluation is begun.
    """

    fails: Callable[[Case], bool]
    adjust: Callable[[Case], Case]
    left: int
    deadline: float
    known: dict[Case, bool] = field(default_factory=dict)

    def __call__(self, case: Case) -> Case | None:
        """The adjusted case where it fails, else None. Raises Spent where nothing is left to decide it with."""
        try:
            case = self.adjust(case)
            if case not in self.known:
                if self.left <= 0 or time.monotonic() > self.deadline:
                    raise Spent
                self.left -= 1
                self.known[case] = self.fails(case)
        except (ValueError, AssertionError):
            return None  # outside the domain: no problem can be built from it
        return case if self.known[case] else None


def simplify(case: Case, ask: Attempts) -> Case:
    """Bring sets of fields back to their defaults, then single values down, until nothing smaller fails."""
    smallest = case
    try:
        while True:
            before = smallest
            for candidate in _fewer_fields(smallest, ask):
                smallest = candidate
            for candidate in _smaller_values(smallest, ask):
                smallest = candidate
            if smallest == before:
                return smallest
    except Spent:
        return smallest


def _fewer_fields(case: Case, ask: Attempts) -> Iterator[Case]:
    """Cases that keep ever fewer changed fields: none, one, else delta debugging (Zeller, Hildebrandt 2002)."""
    base = ask.adjust(DEFAULT)
    changed = [name for name in case.changed if getattr(case, name) != getattr(base, name)]

    def keep(names: list[str]) -> Case | None:
        kept = ask(DEFAULT.but(**{name: getattr(case, name) for name in names}))
        return kept if kept is not None and kept != case else None

    for names in [[], *([name] for name in changed)] if len(changed) > 1 else [[]]:
        if smaller := keep(names):
            yield smaller
            return
    parts = 2
    while len(changed) >= 2:
        pieces = [changed[i * len(changed) // parts : (i + 1) * len(changed) // parts] for i in range(parts)]
        rests = [[name for name in changed if name not in piece] for piece in pieces]
        tried = ((names, smaller) for names in (pieces + rests if parts > 2 else pieces) if (smaller := keep(names)))
        names, smaller = next(tried, (None, None))
        if names is not None and smaller is not None:
            yield smaller
            parts = 2 if names in pieces else max(parts - 1, 2)
            changed = names
        elif parts >= len(changed):
            return
        else:
            parts = min(len(changed), 2 * parts)


def _smaller_values(case: Case, ask: Attempts) -> Iterator[Case]:
    again = True
    while again:
        again = False
        for candidate in _simpler(case):
            smaller = ask(candidate)
            if smaller is not None and _size(smaller) < _size(case):
                case, again = smaller, True
                yield case
                break


def _size(case: Case) -> tuple[object, ...]:
    """Order of simplicity: fewer sequences and tokens, fewer changed fields, smaller numbers, earlier names."""
    numbers = sum(abs(getattr(case, name)) for name in ("K", "V", "H", "group", "B", "at", "power", "v_log2"))
    names = sum(choices.index(getattr(case, name)) for name, choices in CHOICES.items())
    total = sum(case.lengths) * case.H * case.group * case.K * case.V
    steps = sum(abs(x) for step in case.steps for x in step[1:] if isinstance(x, int))
    length = len(case.packed), len(case.edits), len(case.steps), sum(map(len, case.steps)), steps
    return len(case.changed), *length, total, sum(case.lengths), numbers, names, case.seed


def _simpler(case: Case) -> Iterator[Case]:
    if case.packed:
        yield case.but(packed=(), T=max(max(case.packed), 1))
        for n in range(len(case.packed)):
            rest = case.packed[:n] + case.packed[n + 1 :]
            if rest:
                yield case.but(packed=rest)
        for n, length in enumerate(case.packed):
            for smaller in sorted({1, length // 2, length - 1}):
                if 0 < smaller < length:
                    yield case.but(packed=(*case.packed[:n], smaller, *case.packed[n + 1 :]))
    for n in range(len(case.edits)):
        yield case.but(edits=case.edits[:n] + case.edits[n + 1 :])
    for n, step in enumerate(case.steps):
        for fewer in _simpler_step(step):
            yield case.but(steps=case.steps[:n] + fewer + case.steps[n + 1 :])
    for name in case.changed:
        if name not in ("packed", "edits", "steps"):
            yield case.but(**{name: getattr(DEFAULT, name)})
    for name in ("T", "K", "V", "H", "group", "B", "at", "power", "v_log2"):
        value, least = getattr(case, name), getattr(DEFAULT, name)
        step = 1 if value > least else -1
        for smaller in ((value + least) // 2, value - step):
            if min(least, value) < smaller < max(least, value):
                yield case.but(**{name: smaller})
    for name in ("gate", "key", "beta", "state"):
        earlier = itertools.takewhile(lambda choice, name=name: choice != getattr(case, name), CHOICES[name])
        for choice in itertools.islice(earlier, 1, None):
            yield case.but(**{name: choice})


def _simpler_step(step: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], ...]]:
    """The step left out, made shorter, or with smaller numbers."""
    yield ()
    if step[0] == "decode" and len(step) > 2:
        yield from ((step[:i] + step[i + 1 :],) for i in range(1, len(step)))
    if step[0] == "batch":
        yield (("prefill", step[1], step[2]),)
    for i, value in enumerate(step[1:], start=1):
        if isinstance(value, int) and value > 1:
            yield from (((*step[:i], smaller, *step[i + 1 :]),) for smaller in sorted({1, value // 2, value - 1}))


def indifferent(case: Case, ask: Attempts) -> list[str]:
    """Fields whose change to another value leaves the case failing."""
    names = []
    for name in (one.name for one in fields(Case)):
        other = OTHERS.get(name)
        if other is None or (getattr(case, name) != getattr(DEFAULT, name) and name != "seed"):
            continue
        changed = case.but(**{name: other})
        try:
            if (name != "B" or not case.packed) and ask(changed) == changed:
                names.append(name)
        except Spent:
            break
    return names


def set_by_law(adjust: Callable[[Case], Case]) -> list[str]:
    """Fields that a law itself moves away from their defaults in every case."""
    return adjust(DEFAULT).changed
