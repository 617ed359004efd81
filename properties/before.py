"""The calls before: the fewest after which a case that holds alone breaks its law.

A kernel that keeps something between its calls (a result by address, a workspace that is not cleared, a plan for the
first shape) breaks at a late case. Cases near that one, and those that were asked before it, are tried as calls made
first in a new process; what makes it break is made small together with it.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from properties.case import Case
from properties.shrink import OTHERS, Attempts, Spent, simplify
from properties.trial import Trial, breaks

SECONDS = 15.0  # for the search and for making small what it finds, together
Run = tuple[Case, ...]


@dataclass
class Asking:
    """Asks new processes about runs of cases: a call of each, and then the law about the last.

    Args:
        trial: whose law and kernel; from now on each of its judgements is made in a new process.
        adjust: a case as the law speaks of it and no larger than what is allowed.
        evaluations: runs that may be tried for the search, and again for each case that is made small.
        seconds: wall time in which runs are begun.
    """

    trial: Trial
    adjust: Callable[[Case], Case]
    evaluations: int
    seconds: float = SECONDS

    def __post_init__(self) -> None:
        self.start, self.left, self.slowest = time.monotonic(), self.evaluations, 0.0
        self.found = Run()  # the shortest run known to do it

    def broken(self, before: Run, case: Case) -> bool:
        """Whether `case` breaks its law after calls with the cases before, and not alone."""
        after = self.trial.verdict(case, tuple(map(self.adjust, before)))
        return breaks(after[0]) and not breaks(self.trial.verdict(case)[0])

    def search(self, before: Run, case: Case) -> bool:
        """The same; raises Spent where the budget is, or where a run of this length would outlast it."""
        now, limit = time.monotonic(), self.start + self.seconds
        if self.left <= 0 or now + self.slowest * len(before) > limit:
            raise Spent
        self.left -= 1
        try:
            broken = self.broken(before, case)
        except (ValueError, AssertionError):
            return False  # outside the domain: no problem can be built from it
        self.slowest = max(self.slowest, (time.monotonic() - now) / (len(before) + 1))
        if broken and (not self.found or len(before) < len(self.found)):
            self.found = before
        return broken

    def attempts(self, fails: Callable[[Case], bool]) -> Attempts:
        """What `simplify` asks; all of them share one deadline."""
        return Attempts(fails, self.adjust, self.evaluations, self.start + self.seconds)


def find(case: Case, asked: Sequence[Case], asking: Asking) -> Run:
    """The fewest cases found after which `case`, which holds alone, breaks its law; none where no run of them does it.

    First single ones: the case itself, with other numbers, the last one asked before it, and the case with one field
    changed, which a cache whose key is too short takes for it. Then runs of those asked before it, the last ones first.
    """
    rest, kept = list(asked), Run()
    near = [case.but(**{name: other}) for name, other in OTHERS.items() if name != "seed"]
    with contextlib.suppress(Spent):
        if _single([case, case.but(seed=case.seed + 1), *rest[-1:], *near], case, asking):
            return asking.found
        while not kept or not asking.search(kept, case):
            fails = lambda n, kept=kept: asking.search((*kept, *rest[len(rest) - n :]), case)  # noqa: B023, E731
            first = len(rest) - _suffix(fails, len(rest))
            if first == len(rest):
                break
            kept, rest = (*kept, rest[first]), rest[first + 1 :]
        if not asking.found:  # a later call may mend what an earlier one did
            _single(reversed(asked), case, asking)
    return asking.found


def _single(cases: Iterable[Case], case: Case, asking: Asking) -> bool:
    return any(asking.search((one,), case) for one in dict.fromkeys(cases))


def _suffix(fails: Callable[[int], bool], most: int) -> int:
    """The least n found for which the last n do it; 0 where none does."""
    low, high = 0, min(1, most)
    while high < most and not fails(high):
        low, high = high, min(2 * high, most)
    if high == most and not (most and fails(most)):
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(middle) else (middle, high)
    return high


def make_small(before: Run, case: Case, asking: Asking) -> tuple[Run, Case, Attempts]:
    """Fields that both share become simple in both, then each case before alone; and what asks about both."""
    together = asking.attempts(lambda other: asking.broken(_mates(before, case, other), other))
    small = simplify(case, together)
    run = _mates(before, case, small)
    for n in range(len(run)):
        rest = run[:n], run[n + 1 :]
        alone = asking.attempts(lambda other, rest=rest: asking.broken((*rest[0], other, *rest[1]), small))
        run = (*rest[0], simplify(asking.adjust(run[n]), alone), *rest[1])
    return run, small, asking.attempts(lambda other: asking.broken(_mates(run, small, other), other))


def _mates(before: Run, case: Case, other: Case) -> Run:
    """The cases before, with `other`'s values of the fields in which they are as `case` is."""

    def mate(one: Case) -> Case:
        names = [name for name in one.__dataclass_fields__ if getattr(one, name) == getattr(case, name)]
        return one.but(**{name: getattr(other, name) for name in names})

    return tuple(map(mate, before))
