"""Blame of gradients: every altered adjoint is recognised by its own result, the adjoint is blamed for nothing."""

import numpy as np
import pytest

from properties.blame_gradients import ALTERED, Upstream, explain_gradients
from properties.case import Case, build, cotangents

CASES = (
    Case(packed=(5, 0, 35), K=4, V=3, gate="spike", beta="sparse", state="random", scale=0.3, group=2, H=3, seed=3),
    Case(T=530, K=3, V=5, gate="zero", key="cone", beta="tiny", state="random", scale=0.7, group=2, seed=5),
    Case(T=20, B=2, H=3, K=3, V=3, gate="typical", beta="random", state="random", seed=8),
)


def upstream(case):
    problem = build(case)
    return Upstream(problem, *cotangents(case, problem))


@pytest.mark.parametrize("altered", ALTERED, ids=lambda altered: altered.words)
def test_an_altered_stage_is_named(altered):
    said = []
    for up in map(upstream, CASES if "chunks" in altered.words else CASES[::2]):  # the long one takes its time
        got = {name: np.float64(np.float32(x)) for name, x in altered.compute(up).items()}
        said.append(str(explain_gradients([(up, got, "float32")])))
    assert any(altered.words in words for words in said), said


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_the_adjoint_and_noise_are_blamed_on_nothing(case):
    up, noise = upstream(case), np.random.default_rng(0)
    got = up.gradients
    rounded = {name: np.float64(np.float32(x)) for name, x in got.items()}
    assert explain_gradients([(up, rounded, "float32")]) is None
    noisy = {name: x + noise.normal(size=x.shape) for name, x in got.items()}
    assert explain_gradients([(up, noisy, "float32"), (up, noisy, "float32")]) is None
