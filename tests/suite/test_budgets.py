"""Budgets: the condition predicts what rounding does, honest algorithms stay inside, lost precision does not."""

import numpy as np
import pytest

from kda_spec import Problem, trace
from properties import fit
from properties.budgets import OUTPUT, ROUNDING, STATE, output_errors
from properties.case import Case, build
from properties.condition import condition
from properties.edits import with_
from properties.gradient_budgets import GRADIENT, gradient_truth

# Where chunk kernels lose most: a key that stays the same is reflected at every token.
CORNER = Case(T=130, K=8, V=4, key="nearly-same", beta="two")
# Tokens that erase each other in one channel: an inverse is multiplied with what they leave nothing of.
ERASED = Case(
    T=63, K=1, V=8, gate="steady", key="nearly-same", beta="near-one", state="huge", v_log2=-1, seed=47065
)  # fmt: skip
# Keys near the smallest normal float16, and writes a thousand times larger than what they leave in the state.
SMALL_KEYS = Case(T=130, group=2, K=4, V=1, gate="pinned", key="tiny", beta="two", v_log2=2, seed=28930)


def with_noisy_states(problem: Problem, u: float, rng: np.random.Generator) -> np.ndarray:
    """The recurrence with an error of relative size u in every residual and state, as `condition` models them."""
    S, o = np.zeros((problem.HV, problem.K, problem.V)), np.zeros_like(problem.v)
    mass = np.zeros_like(S)
    for t in range(problem.T):
        k, alpha, beta = problem.k[0, t], np.exp(problem.g[0, t])[..., None], problem.beta[0, t, :, None, None]
        S, mass = alpha * S, alpha**2 * mass
        r = problem.v[0, t] - (k[:, None] @ S)[:, 0]
        size = np.sqrt(problem.v[0, t] ** 2 + np.sum(k * k, -1, keepdims=True) * mass.sum(-2).max(-1, keepdims=True))
        put = beta * k[..., None] * r[:, None]
        S = S + put + beta * k[..., None] * (u * size * rng.standard_normal(r.shape))[:, None]
        S, mass = S + u * S * rng.standard_normal(S.shape), mass + put**2
        o[0, t] = problem.scale_value * (problem.q[0, t][:, None] @ S)[:, 0]
    return o


@pytest.mark.parametrize("case", [CORNER, Case(T=60, K=4, V=4, gate="typical"), Case(T=40, K=3, V=3, key="same")])
def test_the_condition_is_what_errors_grow_to(case):
    problem, u, rng = build(case), 2.0**-30, np.random.default_rng(0)
    errors = [(with_noisy_states(problem, u, rng) - trace(problem).o).max(-1) / u for _ in range(30)]
    grown, spread = condition(problem, 2.0**-24).read, np.sqrt(np.mean(np.square(errors), axis=0))
    ratio = spread[:, 5:] / grown[:, 5:]
    assert ratio.max() < 1.5, "errors grow beyond the condition"
    assert np.median(ratio) > 0.05, "the condition is so large that it says nothing"


def test_the_condition_does_not_depend_on_the_kernel_and_scales_with_the_values():
    problem = build(CORNER)
    double = condition(with_(problem, v=2 * problem.v), 2.0**-24).read
    np.testing.assert_allclose(double, 2 * condition(problem, 2.0**-24).read, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_honest_algorithms_stay_inside_and_tf32_is_no_float32(dtype):
    pytest.importorskip("torch")
    rng = np.random.default_rng(7)
    # As fit.draw has it: a huge state leaves float16's range in an honest kernel too.
    erased = ERASED.but(dtype=dtype, state="random" if dtype == "float16" else "huge")
    corners = [case.but(dtype=dtype) for case in (CORNER, SMALL_KEYS)]
    cases = [*corners, erased, *(fit.draw(rng, dtype, 130) for _ in range(6))]
    rows = fit.fit(fit.honest_runs(dtype).items(), dtype, cases, 1e9)
    constants = {"o": OUTPUT[dtype], "final_state": STATE[dtype]}
    lost = {row["kernel"] for row in rows if row["condition"] > constants.get(row["quantity"], GRADIENT[dtype])}
    assert lost == {row["kernel"] for row in rows if row["kernel"].endswith(fit.NOT_HELD[dtype] or ("nothing",))}


def test_a_wrong_token_is_found_where_the_problem_is_ill_conditioned():
    problem = build(CORNER)
    truth = trace(problem)
    wrong = truth.o.copy()
    wrong[0, 100] *= 1.01
    errors = output_errors(wrong, problem, truth, "float32")
    assert errors.units > 1 and errors.index[1] == 100
    assert ROUNDING["float32"] * OUTPUT["float32"] < 1e-5


def test_a_silent_token_may_hold_what_an_inverse_leaves_in_its_row_and_no_more():
    problem = build(Case(T=30, beta="to-two", edits=(("beta", 25, 1, 0.0),), seed=1260))
    truth, budget = gradient_truth(problem, np.ones_like(problem.v), None, "float32")["k"]
    assert np.all(truth[0, 25] == 0)
    largest = np.abs(truth).max()
    assert 1e-8 * largest < budget[0, 25].min() < 1e-4 * largest


def test_a_row_that_was_erased_may_hold_the_roundings_of_its_decay():
    problem = build(Case(T=3, K=2, V=2, gate="strong", key="basis", state="random"))
    problem = with_(problem, v=np.zeros_like(problem.v))
    truth = trace(problem)
    silent = np.argwhere(np.all(truth.o == 0, axis=-1))
    assert len(silent)
    for index in map(tuple, silent):
        summed = 20 * (index[1] + 1)  # of the gates until then
        lost = summed * ROUNDING["float32"] * np.exp(-summed) * np.abs(problem.initial_state).max()
        for errors, holds in ((1, True), (1000, False)):
            o = truth.o.copy()
            o[index] = errors * lost
            assert (output_errors(o, problem, truth, "float32").units < 1) == holds
