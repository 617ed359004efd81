"""A server's work on a pool of states, step by step, and the truth about it: the recurrence over each slot's tokens.

Steps of a run (`Case.steps`), all of them legal at any time:

    ("prefill", slot, n)          n tokens for one slot, in one call
    ("decode", slot, slot, ..)    one token for each slot, in one call; -1 is a padding slot
    ("all", n)                    one token for each of the first n slots, in one call
    ("batch", slot, n, slot, m)   n tokens for one slot and m for another, packed in one call
    ("fork", slot, other)         the other slot goes on from a copy of this slot's state
    ("rollback", slot, k)         the slot's last k tokens are taken back
    ("evict", slot)               the slot is free: its memory holds NaN until it is used again

A slot that is used while it is free begins at zero. Rolled back, forked and reused slots go on with other tokens, so
that a state kept too long shows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from kda_spec import Problem, trace
from properties.budgets import informative, output_errors, state_errors
from properties.calls import problem_of
from properties.case import Case
from properties.compare import BOTH
from properties.edits import TOKENS, with_
from properties.law import Judgement, worst_of

SLOTS = 4  # what a step may name; "all" goes on to MOST
MOST = 40
Place = tuple[int, int]  # (stream, position): where a token's numbers stand in the source
# A call: the tokens [1, sum n, ...] of some slots, n of each, from states -> o and the states after it.
Advance = Callable[["Server", list[int], list[list[Place]]], tuple[np.ndarray, np.ndarray]]


@dataclass
class Slot:
    """What one slot has seen, and the states it had: `states[n]` is the one after its first n tokens."""

    stream: int
    history: list[Place] = field(default_factory=list)
    states: dict[int, np.ndarray] = field(default_factory=dict)


@dataclass
class Heard:
    """What a call gave for one slot: rows of o for its last tokens, and the state."""

    step: int
    slot: int
    history: tuple[Place, ...]
    o: np.ndarray
    state: np.ndarray


def slots_of(case: Case) -> int:
    """How many slots the steps of a case may name."""
    return max([SLOTS, *(min(int(step[1]), MOST) for step in case.steps if step[0] == "all")])


class Server:
    """Runs the steps of a case with `advance` and remembers what the kernel gave."""

    def __init__(self, case: Case, advance: Advance) -> None:
        self.case, self.advance = case, advance
        tokens = sum(sum(x for x in step[2::2] if isinstance(x, int)) + 1 for step in case.steps) + 1
        streams = slots_of(case) + len(case.steps) * 2
        self.source = problem_of(case.but(steps=(), packed=(), T=tokens, B=streams, state="none", final_state=True))
        self.slots: dict[int, Slot] = {}
        self.streams = 0
        self.heard: list[Heard] = []

    def run(self) -> Judgement:
        """All steps, then the verdict on everything heard."""
        for number, step in enumerate(self.case.steps):
            for slots, counts in self._calls(step):
                if slots:
                    self._advance(number, slots, counts)
        return worst_of([self._judge(heard) for heard in self.heard] or [Judgement(0.0, False)])

    def tokens(self, places: list[Place]) -> dict[str, np.ndarray]:
        """The five token tensors of some places, [1, count, ...]."""
        rows, columns = (np.array([place[i] for place in places], int) for i in (0, 1))
        return {name: getattr(self.source, name)[rows, columns][None] for name in TOKENS}

    def state(self, slot: int) -> np.ndarray | None:
        """The slot's state now; None where it has seen nothing."""
        one = self.slots[slot]
        return one.states.get(len(one.history))

    def _calls(self, step: tuple[str | int, ...]) -> Iterator[tuple[list[int], list[int]]]:
        """The calls of a step: slots and how many tokens each gets. Other steps act on the slots themselves."""
        name, numbers = step[0], [int(x) for x in step[1:]]
        if name == "prefill":
            yield [numbers[0] % SLOTS], [numbers[1]]
        elif name == "decode":
            slots = [n if n < 0 else n % SLOTS for n in numbers]
            slots = [n for i, n in enumerate(slots) if n not in slots[:i]]
            yield slots, [1] * len(slots)
        elif name == "all":
            count = max(1, min(numbers[0], MOST))
            yield list(range(count)), [1] * count
        elif name == "batch":
            slots, counts = [n % SLOTS for n in numbers[0::2]], numbers[1::2]
            yield (slots, counts) if len(set(slots)) == len(counts) else (slots[:1], counts[:1])
        elif name == "fork" and numbers[0] % SLOTS in self.slots and numbers[0] % SLOTS != numbers[1] % SLOTS:
            old = self.slots[numbers[0] % SLOTS]
            self.slots[numbers[1] % SLOTS] = Slot(self._stream(), list(old.history), dict(old.states))
        elif name == "evict":
            self.slots.pop(numbers[0] % SLOTS, None)
        elif name == "rollback" and numbers[0] % SLOTS in self.slots:
            yield from self._roll_back(numbers[0] % SLOTS, numbers[1])

    def _roll_back(self, slot: int, count: int) -> Iterator[tuple[list[int], list[int]]]:
        """Back to the last state kept at or before the place, and on from there with the tokens in between."""
        one = self.slots[slot]
        target = max(0, len(one.history) - count)
        kept = max((n for n in one.states if n <= target), default=0)
        again = one.history[kept:target]
        one.history, one.states = one.history[:kept], {n: S for n, S in one.states.items() if n <= kept}
        if again:
            yield [slot], [-len(again)]  # the next tokens are the old ones
        one.stream = self._stream()

    def _advance(self, number: int, slots: list[int], counts: list[int]) -> None:
        places: list[list[Place]] = []
        for slot, count in zip(slots, counts, strict=True):
            if slot >= 0 and slot not in self.slots:
                self.slots[slot] = Slot(self._stream())
            one = self.slots.get(slot)
            start = len(one.history) if one else 0
            stream = one.stream if one else self.source.B - 1
            places.append([(stream, start + i) for i in range(abs(count))])
        o, states = self.advance(self, slots, places)
        at = 0
        for n, (slot, some) in enumerate(zip(slots, places, strict=True)):
            if slot >= 0:
                one = self.slots[slot]
                one.history.extend(some)
                one.states[len(one.history)] = states[n]
                self.heard.append(Heard(number, slot, tuple(one.history), o[0, at : at + len(some)], states[n]))
            at += len(some)

    def _stream(self) -> int:
        self.streams += 1
        return self.streams - 1

    def _judge(self, heard: Heard) -> Judgement:
        problem = self._problem(heard.history)
        truth, case = trace(problem), self.case
        first, o = problem.T - len(heard.o), truth.o.copy()
        o[0, first:] = heard.o
        # The state a slot starts from may itself be a budget off.
        errors = output_errors(o, problem, truth, case.dtype, room=BOTH)
        states = state_errors(heard.state[None], problem, truth, case.dtype, room=BOTH)
        what = "o" if errors.units >= states.units else "the state"
        worse = max(errors, states, key=lambda one: one.units)
        if worse.units <= 1.0:
            return Judgement(worse.units, informative(problem, truth, case.dtype))
        where = {"step": heard.step, "slot": heard.slot}
        if what == "o":
            where |= {"token": worse.index[1], "head": worse.index[2], "column": worse.index[3]}
        step = self.case.steps[heard.step]
        message = (
            f"after step {heard.step} {step!r}, {what} of slot {heard.slot} is {worse.got:.6g} where the recurrence "
            f"over its {problem.T} tokens gives {worse.expected:.6g}: {worse.units:.3g} times the budget"
        )
        return Judgement(worse.units, True, message, where)

    def _problem(self, history: tuple[Place, ...]) -> Problem:
        return with_(self.source, **self.tokens(list(history)), initial_state=None, cu_seqlens=None)
