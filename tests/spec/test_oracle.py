"""The oracle on trial: against 50-digit arithmetic, exact rationals and finite differences."""

import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from kda_spec import Problem, adjoint, recurrence, solve, trace


def problem(
    seed: int, T: int = 9, gate: float = 1.0, packed: tuple[int, ...] = (), H: int = 2, group: int = 2
) -> Problem:
    rng = np.random.default_rng(seed)
    B, T = (1, sum(packed)) if packed else (2, T)
    q, k = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in rng.normal(size=(2, B, T, H, 3)))
    N, HV = len(packed) or B, H * group
    return Problem(
        q, k, rng.normal(size=(B, T, HV, 2)), -gate * rng.uniform(size=(B, T, HV, 3)), rng.uniform(0, 2, (B, T, HV)),
        initial_state=rng.normal(size=(N, HV, 3, 2)),
        cu_seqlens=np.cumsum([0, *packed]) if packed else None,
    )  # fmt: skip


@pytest.mark.parametrize("gate", [0.0, 0.3, 5.0, 1000.0])
def test_the_float64_solution_agrees_with_fifty_digits(gate):
    x = problem(3, gate=gate, H=1, group=1)
    with mpmath.workdps(50):
        exact = np.vectorize(mpmath.mpf, otypes=[object])
        alpha = np.vectorize(lambda g: mpmath.exp(mpmath.mpf(g)), otypes=[object])(x.g)
        o, state = recurrence(exact(x.q), exact(x.k), exact(x.v), None, exact(x.beta), alpha=alpha,
                              initial_state=exact(x.initial_state), scale=mpmath.mpf(x.scale_value))  # fmt: skip
    got = solve(x)
    np.testing.assert_allclose(got.o, o.astype(float), rtol=0, atol=2e-15 * 9)
    np.testing.assert_allclose(got.final_state, state.astype(float), rtol=0, atol=2e-15 * 9)


def test_the_float64_solution_agrees_with_rationals():
    x = problem(4, T=5, gate=0.0, H=1, group=1)
    exact = np.vectorize(Fraction, otypes=[object])
    o, state = recurrence(exact(x.q), exact(x.k), exact(x.v), None, exact(x.beta), alpha=exact(np.exp(x.g)),
                          initial_state=exact(x.initial_state), scale=Fraction(x.scale_value))  # fmt: skip
    got = solve(x)
    np.testing.assert_allclose(got.o, o.astype(float), rtol=0, atol=1e-14)
    np.testing.assert_allclose(got.final_state, state.astype(float), rtol=0, atol=1e-14)


@pytest.mark.parametrize("packed", [(), (4, 0, 1, 6)])
def test_the_vectorised_solution_agrees_with_the_plain_recurrence(packed):
    x = problem(5, packed=packed)
    o, state = recurrence(x.q, x.k, x.v, x.g, x.beta, initial_state=x.initial_state, cu_seqlens=x.cu_seqlens)
    got = solve(x)
    np.testing.assert_allclose(got.o, o, rtol=0, atol=1e-14)
    np.testing.assert_allclose(got.final_state, state, rtol=0, atol=1e-14)


def test_the_written_mass_is_at_least_the_state():
    x = trace(problem(6, T=40))
    assert np.all(x.mass_norm >= 0.3 * x.read_norm)
    assert np.all(np.isfinite(x.mass_norm))


@pytest.mark.parametrize("packed", [(), (4, 0, 1, 6)])
@pytest.mark.parametrize("name", ["q", "k", "v", "g", "beta", "initial_state"])
def test_the_adjoint_agrees_with_finite_differences(name, packed):
    x = problem(7, packed=packed, gate=0.7)
    x = replace(x, g=x.g - 0.01, beta=x.beta * 0.9 + 0.05)
    rng = np.random.default_rng(8)
    do, dstate = rng.normal(size=x.v.shape), rng.normal(size=x.initial_state.shape)
    direction, step = rng.normal(size=getattr(x, name).shape), 1e-5

    def value(sign):
        got = solve(replace(x, **{name: getattr(x, name) + sign * step * direction}))
        return np.sum(got.o * do) + np.sum(got.final_state * dstate)

    numeric = (value(1) - value(-1)) / (2 * step)
    assert np.sum(adjoint(x, do, dstate)[name] * direction) == pytest.approx(numeric, rel=1e-7, abs=1e-7)


def test_gradients_are_finite_where_the_gate_forgets_everything():
    x = problem(9, gate=1000.0)
    gradients = adjoint(x, np.ones_like(x.v), np.ones_like(x.initial_state))
    assert all(np.all(np.isfinite(g)) for g in gradients.values())
    assert np.any(gradients["v"] != 0)


def test_a_sequence_without_tokens_passes_state_and_gradient_through():
    x = problem(10, packed=(3, 0, 2))
    np.testing.assert_array_equal(solve(x).final_state[1], x.initial_state[1])
    dstate = np.random.default_rng(0).normal(size=x.initial_state.shape)
    np.testing.assert_array_equal(adjoint(x, np.zeros_like(x.v), dstate)["initial_state"][1], dstate[1])


def test_longdouble_stays_longdouble():
    x = problem(11, H=1, group=1)
    wide = [np.asarray(a, np.longdouble) for a in (x.q, x.k, x.v, x.g, x.beta)]
    o, _ = recurrence(*wide)
    assert o.dtype == np.longdouble


def test_the_specification_imports_numpy_alone_and_quickly():
    code = (
        "import sys, time, numpy; t = time.perf_counter(); import kda_spec; t = time.perf_counter() - t;"
        "bad = {'torch', 'triton', 'hypothesis', 'scipy', 'pandas'} & set(sys.modules);"
        "assert not bad, bad; assert t < 0.3, t"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
