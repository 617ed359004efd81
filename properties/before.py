"""What a process was asked before: the fewest earlier cases after which a case that holds alone breaks its law.

A kernel that keeps something between its calls (a result by address, a workspace that is not cleared, a plan for the
first shape) breaks at a late case. The history of the worker is searched for what made it, and both are made small.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from properties.case import Case
from properties.shrink import Attempts, Spent, simplify
from properties.trial import Trial, breaks

SECONDS = 15.0  # for the search and for making small what it finds, together
Run = tuple[Case, ...]


@dataclass
class Asking:
    """Asks new processes about runs of cases: those before, and the one that is judged.

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
        """Whether `case` breaks its law after the cases before, and not alone."""
        after = self.trial.verdict(case, tuple(map(self.adjust, before)))
        return breaks(after[0]) and not breaks(self.trial.verdict(case)[0])

    def search(self, before: Run, case: Case) -> bool:
        """The same; raises Spent where the budget is, or where a run of this length would outlast it."""
        now, limit = time.monotonic(), self.start + self.seconds
        if self.left <= 0 or now + self.slowest * len(before) > limit:
            raise Spent
        self.left -= 1
        broken = self.broken(before, case)
        self.slowest = max(self.slowest, (time.monotonic() - now) / (len(before) + 1))
        if broken and (not self.found or len(before) < len(self.found)):
            self.found = before
        return broken

    def attempts(self, fails: Callable[[Case], bool]) -> Attempts:
        """What `simplify` asks; all of them share one deadline."""
        return Attempts(fails, self.adjust, self.evaluations, self.start + self.seconds)


def find(case: Case, asked: Sequence[Case], asking: Asking) -> Run:
    """The fewest cases found after which `case`, which holds alone, breaks its law; none where no run of them does it.

    First the case itself and the same with other numbers, then what was asked before it, the last cases first.
    """
    rest, kept = list(asked), Run()
    with contextlib.suppress(Spent):
        for one in (case, case.but(seed=case.seed + 1)):
            if asking.search((one,), case):
                return (one,)
        while not kept or not asking.search(kept, case):
            fails = lambda n, kept=kept: asking.search((*kept, *rest[len(rest) - n :]), case)  # noqa: B023, E731
            first = len(rest) - _suffix(fails, len(rest))
            if first == len(rest):
                break
            kept, rest = (*kept, rest[first]), rest[first + 1 :]
    return asking.found


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
