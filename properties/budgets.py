"""Error budgets: how far from the oracle an honest kernel may be, from oracle quantities only.

For every token t, with W the written mass (`kda_spec.trace`; the size the state would have if nothing ever cancelled)
and C the size that rounding errors grow to (`properties/condition.py`):

    |o - o_true|_inf  <=  c u (max(scale |q_t|_2 max_v |W_t[:, v]|_2, C_t) + max_v |o_t[v]|) + floor

and for a final state, per head:  |S - S_true|_inf <= c u max(max_v |W_T[:, v]|_2, C_T) + floor.  The error in *units*
is the left side over the right one: above 1 falsifies. C costs more than the oracle and is seldom larger than W, so it
is computed where W alone would falsify. `docs/budgets.md` tells where the constants come from.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kda_spec import Problem, Trace
from properties.condition import Condition, condition

ROUNDING = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
# Multiples of the unit roundoff; see docs/budgets.md.
OUTPUT = {"float32": 16.0, "bfloat16": 3.0, "float16": 3.0}
STATE = {"float32": 16.0, "bfloat16": 3.0, "float16": 3.0}
# Half the spacing of the numbers next to zero, where rounding is absolute.
SMALLEST = {"float32": 2.0**-126, "bfloat16": 2.0**-126, "float16": 2.0**-24}


@dataclass
class Errors:
    """Errors of one result in budget units, and where the worst of them is."""

    units: float
    index: tuple[int, ...]
    by_token: np.ndarray | None = None
    got: float = 0.0
    expected: float = 0.0


@lru_cache(maxsize=32)
def _condition(problem: Problem, dtype: str) -> Condition:
    return condition(problem, ROUNDING[dtype])


def output_budget(problem: Problem, truth: Trace, dtype: str, conditioned: bool = False) -> np.ndarray:
    """The budget of every token and value head, [B, T, HV]; with the condition where it is asked for."""
    read = abs(problem.scale_value) * truth.q_norm * truth.mass_norm
    grown = np.maximum(read, _condition(problem, dtype).read) if conditioned else read
    size = grown + np.max(np.abs(truth.o), axis=-1, initial=0.0)
    floor = SMALLEST[dtype] * (1 + abs(problem.scale_value) * truth.q_norm * largest_size(problem, truth))
    return OUTPUT[dtype] * ROUNDING[dtype] * size + floor


def state_budget(problem: Problem, truth: Trace, dtype: str, conditioned: bool = False) -> np.ndarray:
    """The budget of every final state, [N, HV, 1, 1], or of every element where the condition is asked for."""
    size = np.max(np.sqrt(np.sum(truth.final_mass**2, axis=-2)), axis=-1, initial=0.0)[..., None, None]
    if conditioned:
        size = np.maximum(size, _condition(problem, dtype).state)
    return STATE[dtype] * ROUNDING[dtype] * size + SMALLEST[dtype] * (1 + largest_size(problem, truth))


def largest_size(problem: Problem, truth: Trace) -> float:
    """The largest size of any state, the first among them, or of any write: what a denormal was multiplied with."""
    first = 0.0 if problem.initial_state is None else np.sqrt(np.sum(problem.initial_state**2, axis=-2))
    written = problem.beta[..., None] * np.abs(problem.v)
    return float(max(np.max(truth.mass_norm, initial=1.0), np.max(first, initial=0.0), np.max(written, initial=0.0)))


def output_errors(
    o: np.ndarray, problem: Problem, truth: Trace, dtype: str, expected: np.ndarray | None = None, room: float = 1.0
) -> Errors:
    """Errors of o in units of `room` budgets, token by token; `expected` in place of the oracle's output."""
    expected = truth.o if expected is None else expected
    errors = worst(o, expected, room * output_budget(problem, truth, dtype)[..., None])
    if 1.0 < errors.units < np.inf:
        errors = worst(o, expected, room * output_budget(problem, truth, dtype, conditioned=True)[..., None])
    return errors


def state_errors(
    state: np.ndarray, problem: Problem, truth: Trace, dtype: str, expected: np.ndarray | None = None, room: float = 1.0
) -> Errors:
    """The same for final states."""
    expected = truth.final_state if expected is None else expected
    errors = worst(state, expected, room * state_budget(problem, truth, dtype))
    if 1.0 < errors.units < np.inf:
        errors = worst(state, expected, room * state_budget(problem, truth, dtype, conditioned=True))
    return errors


def worst(got: np.ndarray, expected: np.ndarray, budget: np.ndarray) -> Errors:
    """The largest |got - expected| / budget; what is not finite counts as infinitely wrong."""
    if got.size == 0:
        return Errors(0.0, ())
    with np.errstate(invalid="ignore", over="ignore"):
        units = np.abs(got.astype(np.float64) - expected) / budget
    units = np.where(np.isfinite(got), units, np.inf)
    index = np.unravel_index(int(np.argmax(units)), units.shape)
    by_token = units.max(axis=(0, 2, 3)) if units.ndim == 4 and got.shape[1] else None
    return Errors(
        float(units[index]), tuple(int(i) for i in index), by_token, float(got[index]), float(expected[index])
    )


def informative(problem: Problem, truth: Trace, dtype: str) -> bool:
    """Whether the true output exceeds its budget eightfold somewhere: zeros would then be falsified."""
    size = np.max(np.abs(truth.o), axis=-1, initial=0.0)
    return bool(np.any(size > 8 * output_budget(problem, truth, dtype)))
