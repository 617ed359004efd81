"""What the results of a broken law look like: plain calls of its cases beside specifications with one stage altered."""

import contextlib
from collections.abc import Iterator

import numpy as np

from kda_spec import Problem
from properties.before import Run
from properties.blame import explain, explain_after
from properties.blame_gradients import Upstream, explain_gradients
from properties.calls import Broke, NotRun, Output, Refused, problem_of
from properties.case import Case, cotangents
from properties.trial import Trial

LONGEST = 500  # tokens; the altered specifications go token by token


def looks_like(trial: Trial, cases: list[Case]) -> str | None:
    """Which altered specification gives the kernel's result on these cases, the first above all, in words."""
    try:
        results = [(p, out, case.dtype) for case, p, out in _called(trial, cases)]
        shaped = [(p, out, dtype) for p, out, dtype in results if out.o.shape == (p.B, p.T, p.HV, p.V)]
        words = explain(shaped) if shaped and shaped[0][0] is problem_of(cases[0]) else None
        return words or (_gradients(trial, cases) if trial.law.family in ("gradient", "scale") else None)
    except (Broke, NotRun, ValueError):
        return None


def _gradients(trial: Trial, cases: list[Case]) -> str | None:
    """The same for gradients, of output and state together and then of either alone."""
    for grad in ("both", "o", "state"):
        results = []
        for case, problem, output in _called(trial, cases, grad=grad):
            fits = all(x.shape == np.shape(getattr(problem, name)) for name, x in output.gradients.items())
            if output.has_gradients and fits:
                do, dstate = cotangents(case, problem)
                up = Upstream(problem, do * (grad != "state"), dstate * (grad != "o"))
                results.append((up, output.gradients, case.dtype))
        if results and results[0][0].problem is problem_of(cases[0]) and (words := explain_gradients(results)):
            return words
    return None


def _called(trial: Trial, cases: list[Case], **how: str) -> Iterator[tuple[Case, Problem, Output]]:
    """Cases that can be looked at, each once, with the kernel's plain result."""
    for case in dict.fromkeys(cases):
        if case.steps or sum(case.lengths) > LONGEST:
            continue
        with contextlib.suppress(Refused):
            yield case, problem_of(case), trial.kernel(case, checked=False, **how)


def looks_like_before(trial: Trial, before: Run, case: Case) -> str | None:
    """What of the call before the kernel still uses, by plain calls of the cases."""
    if not before or case.steps or sum(case.lengths) > LONGEST:
        return None
    try:
        trial.kernel.worker.renew()
        outputs = [trial.kernel(one, checked=False) for one in (*before, case)]
    except (Refused, Broke, NotRun, ValueError):
        return None
    return explain_after(problem_of(before[-1]), problem_of(case), outputs[-1], case.dtype)
