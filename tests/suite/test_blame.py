"""Blame: every altered specification is recognised by its own result, and the specification is blamed for nothing."""

import numpy as np
import pytest

from kda_spec import trace
from properties.blame import ALTERED, explain, run
from properties.calls import Output
from properties.case import Case, build

CASES = (
    Case(packed=(5, 3, 35), K=4, V=3, gate="typical", beta="to-two", state="random", scale=0.3, group=2, H=3, seed=3),
    Case(T=150, K=3, V=5, gate="tiny", beta="random", state="random", key="cone", scale=0.7, seed=5),
    Case(T=20, B=2, K=3, V=3, gate="production", beta="random", key="tiny", state="asymmetric", v_log2=2, seed=8),
    Case(T=20, B=2, K=5, V=6, gate="strong", beta="random", state="random", seed=9, edits=(("g", 4, 1, -0.1),)),
)


def results(compute):
    problems = [build(case) for case in CASES]
    with np.errstate(over="ignore", invalid="ignore"):
        found = [(p, Output(*(np.asarray(x, np.float32) for x in compute(p)), {}, {}), "float32") for p in problems]
    return [one for one in found if np.all(np.isfinite(one[1].o)) and np.all(np.isfinite(one[1].final_state))]


@pytest.mark.parametrize("altered", ALTERED, ids=lambda altered: altered.words)
def test_an_altered_stage_is_named(altered):
    outputs = results(altered.compute)
    outputs.sort(key=lambda one: np.abs(one[1].o - trace(one[0]).o).max() < 1e-3)  # a case that shows it comes first
    assert altered.words in str(explain(outputs))


def test_the_specification_is_blamed_for_nothing():
    assert explain(results(run)) is None


def test_noise_is_blamed_on_nothing():
    def noisy(problem):
        o, S = run(problem)
        return o + np.random.default_rng(0).normal(size=o.shape), S

    assert explain(results(noisy)) is None
