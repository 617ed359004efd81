"""Cases: stable numbers, exact rounding, a repr that can be pasted, problems inside the domain."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from properties.case import Case, build, cotangents, parse
from properties.edits import TOKENS
from properties.numbers import draw_normal, draw_uniform, round_to
from properties.profiles import PROFILES
from properties.strategies import cases

quick = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)


@quick
@given(cases(PROFILES["dev"]))
def test_the_repr_of_a_case_is_the_case(case):
    assert parse(repr(case)) == case


@quick
@given(cases(PROFILES["dev"]))
def test_every_case_lies_inside_the_domain(case):
    problem = build(case)
    square = np.repeat((problem.k**2).sum(-1), case.group, axis=-1)
    assert np.all(problem.beta * square <= 2.0)
    for name in TOKENS:
        dtype = case.dtype if name in "qkv" or case.gate_dtype == "same" else case.gate_dtype
        x = getattr(problem, name)
        np.testing.assert_array_equal(round_to(x, dtype), x)


def test_numbers_do_not_depend_on_how_many_are_drawn():
    large = draw_normal(7, "v", 3, 9, 4, 5)
    np.testing.assert_array_equal(draw_normal(7, "v", 1, 4, 2, 3), large[:1, :4, :2, :3])
    assert not np.any(draw_normal(8, "v", 3, 9, 4, 5) == large)


def test_uniform_and_normal_numbers_have_their_moments():
    u, x = draw_uniform(0, "a", 100_000), draw_normal(0, "a", 100_000)
    assert abs(u.mean() - 0.5) < 0.005 and abs(u.var() - 1 / 12) < 0.002
    assert abs(x.mean()) < 0.015 and abs(x.var() - 1) < 0.02 and abs((x**4).mean() - 3) < 0.15


def test_shrinking_the_length_keeps_the_other_tokens():
    long, short = build(Case(T=20, gate="typical", K=8)), build(Case(T=5, gate="typical", K=8))
    for name in TOKENS:
        np.testing.assert_array_equal(getattr(long, name)[:, :5], getattr(short, name))


def test_packed_and_dense_share_their_numbers():
    dense, packed = build(Case(T=4, B=2)), build(Case(packed=(4, 4)))
    np.testing.assert_array_equal(dense.v.reshape(packed.v.shape), packed.v)


def test_rounding_to_bfloat16_is_to_nearest_even():
    torch = pytest.importorskip("torch")
    x = np.float32(draw_normal(3, "x", 10_000))
    expected = torch.from_numpy(x).to(torch.bfloat16).double().numpy()
    np.testing.assert_array_equal(round_to(x, "bfloat16"), expected)


def test_cotangents_have_the_shapes_of_the_results():
    case = Case(packed=(3, 0, 2), group=2, V=3)
    do, dstate = cotangents(case, build(case))
    assert do.shape == (1, 5, 2, 3) and dstate.shape == (3, 2, 2, 3)


@pytest.mark.parametrize("text", ["Case(", "Case(3)", "__import__('os')", "Case(T=abs(3))", "Case(T=0, B=0)"])
def test_a_text_that_is_no_case_is_refused(text):
    with pytest.raises(ValueError, match="CASE: expected one line"):
        parse(text)
