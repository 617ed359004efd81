"""A law: one sentence, one equation, one function from a kernel and a Case to a Judgement."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kda_spec import Problem
from properties.budgets import ROUNDING, Errors
from properties.calls import Broke, Kernel, Output
from properties.case import Case

CHUNK = 64  # the chunk most kernels use; only for telling where in it an error sits


@dataclass
class Judgement:
    """What a law says of one case: above one unit it is broken."""

    units: float
    informative: bool
    message: str = ""
    where: dict[str, int] = field(default_factory=dict)
    by_token: list[float] | None = None

    @property
    def broken(self) -> bool:
        """Whether the law is broken."""
        return not self.units <= 1.0


Check = Callable[[Kernel, Case], Judgement]


@dataclass(frozen=True)
class Law:
    """A law of a kernel.

    Args:
        name: a sentence with underscores.
        family: oracle, finite, structure, bitwise, gradient, memory, refuse, serving, raw, scale or quality.
        sentence: what is promised.
        equation: the same in symbols.
        check: judges one case.
        adjust: maps any drawn case to one the law speaks of.
        quality: whether breaking it is reported as a quality and not as a verdict.
        share: share of a profile's examples that it gets; laws that make many calls get fewer.
        serves: whether its cases are serving runs.
        large: whether it needs a GPU and the profile nightly.
    """

    name: str
    family: str
    sentence: str
    equation: str
    check: Check
    adjust: Callable[[Case], Case] = lambda case: case
    quality: bool = False
    share: float = 1.0
    serves: bool = False
    large: bool = False


LAWS: dict[str, Law] = {}


def law(
    family: str,
    sentence: str,
    equation: str,
    *,
    adjust: Callable[[Case], Case] = lambda case: case,
    **more: Any,
) -> Callable[[Check], Check]:
    """Register a function as a law; see `Law` for the arguments."""

    def register(check: Check) -> Check:
        name = check.__name__  # type: ignore[attr-defined]
        LAWS[name] = Law(name, family, sentence, equation, check, adjust, **more)
        return check

    return register


def place(problem: Problem, index: tuple[int, ...]) -> dict[str, int]:
    """Where an element of o is: sequence, token in it, value head, column, chunk and offset in the chunk."""
    if len(index) != 4:
        return {}
    row, t, head, column = index
    for n, (b, start, stop) in enumerate(problem.bounds()):
        if b == row and start <= t < stop:
            token = t - start
            return {
                "sequence": n,
                "token": token,
                "head": head,
                "column": column,
                "chunk": token // CHUNK,
                "offset": token % CHUNK,
            }
    return {"token": t, "head": head, "column": column}


def _first_wrong(problem: Problem, errors: Errors) -> int:
    """The first token above its budget in the sequence that holds the worst one."""
    assert errors.by_token is not None
    row, t = errors.index[:2]
    start = next((a for b, a, z in problem.bounds() if b == row and a <= t < z), 0)
    return int(np.argmax(errors.by_token[start : t + 1] > 1.0))


def judge(name: str, errors: Errors, problem: Problem, informative: bool, relation: str, amount: str = "") -> Judgement:
    """A judgement from errors in budget units; `relation` says what the number was compared with, `amount` how far."""
    if errors.units <= 1.0:
        return Judgement(errors.units, informative)
    where = (
        place(problem, errors.index)
        if name == "o"
        else dict(zip(("sequence", "head", "row", "column"), errors.index, strict=False))
    )
    if name not in ("o", "final_state"):
        where = dict(zip(("batch", "token", "head", "channel"), errors.index, strict=False))
    amount = amount or f"{errors.units:.3g} times the budget"
    amount = "not a finite number" if not np.isfinite(errors.got) else amount
    message = f"{name} is {errors.got:.6g} where {relation} is {errors.expected:.6g}: {amount}"
    by_token = None if errors.by_token is None else [float(min(x, 1e9)) for x in errors.by_token]
    if name == "o" and errors.by_token is not None:
        where["first wrong token"] = _first_wrong(problem, errors)
    return Judgement(errors.units, True, message, where, by_token)


def worst_of(judgements: list[Judgement]) -> Judgement:
    """The worst of several judgements of one case; informative if any is."""
    worst = max(judgements, key=lambda judgement: judgement.units if judgement.units == judgement.units else np.inf)
    worst.informative = any(judgement.informative for judgement in judgements)
    return worst


def same_bits(
    got: dict[str, np.ndarray], expected: dict[str, np.ndarray], problem: Problem, case: Case, relation: str
) -> Judgement:
    """Bit equality (0 equals -0; what lies under the smallest normal numbers is let pass: scaling is not exact there).

    Units of a broken law: the difference in units of the last place of the largest number.
    """
    informative = any(np.any(x != 0) for x in expected.values())
    for name, want in expected.items():
        have, floor = got[name], 2.0**-18 if case.dtype == "float16" else 2.0**-100
        with np.errstate(invalid="ignore"):
            different = ~((have == want) | (np.abs(have - want) <= floor) | (np.isnan(have) & np.isnan(want)))
        if np.any(different):
            largest = max(float(np.max(np.abs(want[np.isfinite(want)]), initial=0.0)), 1e-300)
            size = np.where(different, np.nan_to_num(np.abs(have - want), nan=np.inf), 0.0)
            index = tuple(int(i) for i in np.unravel_index(int(np.argmax(size)), size.shape))
            places = float(size[index]) / (ROUNDING[case.dtype] * largest)
            errors = Errors(max(2.0, places), index, None, float(have[index]), float(want[index]))
            amount = f"{places:.3g} roundings of the largest number apart, where the same bits are promised"
            return (
                judge(name, errors, problem, True, relation, amount)
                if np.isfinite(have[index])
                else Judgement(
                    np.inf,
                    True,
                    f"{name} is {have[index]} where {relation} is {want[index]:.6g}",
                    place(problem, index),
                )
            )
    return Judgement(0.0, informative)


def need_state(output: Output) -> np.ndarray:
    """The final state, which the case asked for; it may be handed to the next call, so it must be finite."""
    if output.final_state is None:
        raise Broke("falsified", "the kernel returned no final state where one was asked for")
    if not np.all(np.isfinite(output.final_state)):
        raise Broke("non-finite", "the final state that is to be handed on has values that are not finite")
    return output.final_state


def with_fields(**fields: Any) -> Callable[[Case], Case]:
    """An `adjust` that sets some fields of every case."""
    return lambda case: case.but(**fields)
