"""Comparing two results of a kernel for the same problem: within both their budgets, or bit for bit."""

from dataclasses import dataclass

import numpy as np

from kda_spec import Problem, Trace, trace
from properties.budgets import informative, output_errors, state_errors
from properties.calls import Output
from properties.case import Case
from properties.law import Judgement, judge, same_bits, worst_of

# Two answers may each be a budget away from the truth, in opposite directions.
BOTH = 2.0


@dataclass
class Pair:
    """Two results that should be one; `problem` gives the truth of their budgets, `relation` names `expected`."""

    got: Output
    expected: Output
    problem: Problem
    relation: str


def result(o: np.ndarray, final_state: np.ndarray | None = None) -> Output:
    """An Output put together by a law."""
    return Output(o, final_state, {}, {})


def parts(output: Output, o: float = 1.0, state: float = 1.0) -> dict[str, np.ndarray]:
    """Output and final state by name, each times a factor."""
    named = {"o": output.o * o}
    return named if output.final_state is None else named | {"final_state": output.final_state * state}


def against_truth(
    output: Output, problem: Problem, case: Case, relation: str = "the recurrence", room: float = 1.0
) -> Judgement:
    """Output and, where there is one, final state within `room` budgets of the recurrence."""
    truth = trace(problem)
    errors = output_errors(output.o, problem, truth, case.dtype, room=room)
    judgements = [judge("o", errors, problem, informative(problem, truth, case.dtype), relation)]
    if output.final_state is not None:
        errors = state_errors(output.final_state, problem, truth, case.dtype, room=room)
        judgements.append(judge("final_state", errors, problem, bool(np.any(truth.final_state != 0)), relation))
    return worst_of(judgements)


def agree(pair: Pair, case: Case) -> Judgement:
    """Two results for the same problem differ by no more than two budgets."""
    truth = trace(pair.problem)
    judgements = [agree_o(pair.got.o, pair.expected.o, pair.problem, truth, case, pair.relation)]
    states = pair.got.final_state, pair.expected.final_state
    if states[0] is not None and states[1] is not None:
        judgements.append(agree_state(states[0], states[1], pair.problem, truth, case, pair.relation))
    return worst_of(judgements)


def agree_o(
    got: np.ndarray, expected: np.ndarray, problem: Problem, truth: Trace, case: Case, relation: str
) -> Judgement:
    """The same for o alone."""
    errors = output_errors(got, problem, truth, case.dtype, expected, BOTH)
    return judge("o", errors, problem, informative(problem, truth, case.dtype), relation)


def agree_state(
    got: np.ndarray, expected: np.ndarray, problem: Problem, truth: Trace, case: Case, relation: str
) -> Judgement:
    """The same for the final state alone."""
    errors = state_errors(got, problem, truth, case.dtype, expected, BOTH)
    return judge("final_state", errors, problem, bool(np.any(truth.final_state != 0)), relation)


def bits(pair: Pair, case: Case) -> Judgement:
    """The two results are equal bit for bit."""
    expected = parts(pair.expected)
    got = {name: x for name, x in parts(pair.got).items() if name in expected}
    return same_bits(got, {name: expected[name] for name in got}, pair.problem, case, pair.relation)
