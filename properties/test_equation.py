"""The laws of the equation, on the specification alone; exact wherever the arithmetic is."""

from fractions import Fraction

import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from kda_spec import chunkwise, decay, erase, read, recurrence, step, write

K, V = 3, 2
rationals = st.fractions(min_value=-2, max_value=2, max_denominator=8)
strengths = st.fractions(min_value=0, max_value=1, max_denominator=8)


def arrays(*shape: int, of=rationals):
    size = int(np.prod(shape))
    return st.lists(of, min_size=size, max_size=size).map(lambda x: np.array(x, dtype=object).reshape(shape))


states, keys, values, alphas = arrays(K, V), arrays(K), arrays(V), arrays(K, of=strengths)
# Pythagorean keys: rational, and exactly of norm 1.
units = st.sampled_from(
    [[1, 0, 0], [0, 1, 0], ["3/5", "4/5", 0], [0, "-5/13", "12/13"], ["2/3", "1/3", "2/3"], ["2/7", "3/7", "6/7"]]
).map(lambda x: np.array([Fraction(i) for i in x], dtype=object))


def equal(a, b):
    np.testing.assert_array_equal(np.asarray(a, object), np.asarray(b, object))


@given(states, keys, values, alphas, strengths, arrays(K))
def test_an_orthogonal_direction_is_only_decayed(S, k, v, alpha, beta, u):
    u = u * np.dot(k, k) - k * np.dot(u, k)
    assert np.dot(u, k) == 0
    equal(u @ step(S, k, v, alpha, beta), u @ decay(S, alpha))


@given(st.integers(0, K - 1), st.integers(0, 10**6))
def test_with_a_basis_key_the_other_rows_are_bit_equal_to_decay_alone(i, seed):
    rng = np.random.default_rng(seed)
    S, alpha = rng.normal(size=(K, V)), rng.uniform(size=K)
    after = step(S, np.eye(K)[i], rng.normal(size=V), alpha, rng.uniform())
    np.testing.assert_array_equal(np.delete(after, i, 0), np.delete(decay(S, alpha), i, 0))


@given(states, units, values, alphas)
def test_strength_one_overwrites_exactly(S, k, v, alpha):
    equal(k @ step(S, k, v, alpha, 1), v)


@given(states, keys, values, alphas)
def test_strength_zero_neither_erases_nor_writes(S, k, v, alpha):
    equal(step(S, k, v, alpha, 0), decay(S, alpha))


@given(states, keys, values, strengths)
def test_alpha_one_keeps_and_alpha_zero_forgets(S, k, v, beta):
    equal(step(S, k, v, np.array([1] * K), beta), write(erase(S, k, beta), k, v, beta))
    equal(step(S, k, v, np.array([0] * K), beta), beta * np.outer(k, v))


@given(units)
def test_the_eraser_is_a_projection_at_one_and_a_reflection_at_two(k):
    identity = np.array([[Fraction(i == j) for j in range(K)] for i in range(K)], dtype=object)
    E, R = erase(identity, k, 1), erase(identity, k, 2)
    equal(E @ E, E)
    equal(R @ R, identity)


@given(states, keys, alphas, st.fractions(0, 2, max_denominator=8))
def test_decay_and_eraser_never_grow_the_state(S, k, alpha, strength):
    square = np.dot(k, k)
    beta = strength if square == 0 else strength / square
    assert np.sum(decay(S, alpha) ** 2) <= np.sum(S**2)
    assert np.sum(erase(S, k, beta) ** 2) <= np.sum(S**2)


@given(states, keys, values, values, strengths)
def test_a_write_has_rank_one_and_is_linear_in_the_value(S, k, v, w, beta):
    added = write(S, k, v, beta) - S
    equal([added[i, 0] * added[j, 1] - added[i, 1] * added[j, 0] for i in range(K) for j in range(K)], [0] * K * K)
    equal(write(S, k, v + w, beta) - S, added + write(S, k, w, beta) - S)


@given(states, states, keys, values, values, alphas, strengths)
def test_steps_superpose(S, S2, k, v, v2, alpha, beta):
    equal(step(S + S2, k, v + v2, alpha, beta), step(S, k, v, alpha, beta) + step(S2, k, v2, alpha, beta))


@given(states, keys, alphas, strengths)
def test_order_matters_unless_alpha_is_constant_on_the_keys_support(S, k, alpha, beta):
    support = np.unique(np.array([a for a, x in zip(alpha, k, strict=True) if x != 0], dtype=object))
    difference = erase(decay(S, alpha), k, beta) - decay(erase(S, k, beta), alpha)
    if len(support) <= 1:
        equal(difference, np.zeros_like(S))
    witness = erase(decay(np.eye(2), np.array([1.0, 0.5])), np.array([0.6, 0.8]), 1.0)
    assert not np.allclose(witness, decay(erase(np.eye(2), np.array([0.6, 0.8]), 1.0), np.array([1.0, 0.5])))


@given(states, units, values, alphas, strengths)
def test_reading_back_blends_old_and_new(S, k, v, alpha, beta):
    equal(read(step(S, k, v, alpha, beta), k, 1), (1 - beta) * (k @ decay(S, alpha)) + beta * v)


def test_orthonormal_keys_are_remembered_and_the_next_overwrites():
    rng = np.random.default_rng(1)
    v = rng.integers(-9, 9, (1, K + 1, 1, V)).astype(float)
    k = np.eye(K)[[0, 1, 2, 1]][None, :, None]
    _, S = recurrence(k, k, v, np.zeros_like(k), np.ones((1, K + 1, 1)))
    np.testing.assert_array_equal(S[0, 0], v[0, [0, 3, 2], 0])


@given(states, units, values, strengths, st.integers(1, 4))
def test_repeating_a_write_brings_the_value_nearer_by_one_minus_beta(S, k, v, beta, times):
    before = k @ S - v
    for _ in range(times):
        S = step(S, k, v, np.array([1] * K), beta)
    equal(k @ S - v, (1 - beta) ** times * before)


@given(states, keys, values, strengths, strengths)
def test_special_cases_are_the_gated_delta_rule_the_delta_rule_and_gated_linear_attention(S, k, v, a, beta):
    identity = np.array([[Fraction(i == j) for j in range(K)] for i in range(K)], dtype=object)
    eraser = identity - beta * np.outer(k, k)
    equal(step(S, k, v, np.array([a] * K), beta), a * (eraser @ S) + beta * np.outer(k, v))
    equal(step(S, k, v, np.array([1] * K), beta), eraser @ S + beta * np.outer(k, v))
    equal(write(decay(S, np.array([a] * K)), k, v, beta), a * S + beta * np.outer(k, v))


@given(states, keys, values, alphas, strengths)
def test_the_step_is_gradient_descent_on_the_recall_error(S, k, v, alpha, beta):
    decayed = decay(S, alpha)
    gradient = np.outer(k, k @ decayed - v)
    equal(step(S, k, v, alpha, beta), decayed - beta * gradient)


def problem(T: int, draw) -> dict:
    return {
        "q": draw((1, T, 1, 2)), "k": draw((1, T, 1, 2)), "v": draw((1, T, 1, 2)), "g": None, "beta": draw((1, T, 1)),
        "alpha": draw((1, T, 1, 2)), "initial_state": draw((1, 1, 2, 2)), "scale": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("T", "chunk"), [(2, 2), (3, 3), (3, 2)])
def test_the_chunk_form_is_the_recurrence_in_symbols(T, chunk):
    names = iter(sympy.symbols("x0:100"))
    x = problem(T, lambda shape: np.array([next(names) for _ in range(int(np.prod(shape)))], object).reshape(shape))
    for a, b in zip(recurrence(**x), chunkwise(**x, chunk=chunk), strict=True):
        assert all(sympy.expand(d) == 0 for d in (a - b).flat)


@given(st.integers(1, 5), st.integers(1, 4), st.randoms(use_true_random=False))
def test_the_chunk_form_is_the_recurrence_in_rationals(T, chunk, random):
    def draw(shape):
        return np.array(
            [Fraction(random.randint(-4, 4), random.randint(1, 4)) for _ in range(int(np.prod(shape)))], object
        ).reshape(shape)

    x = problem(T, draw)
    for a, b in zip(recurrence(**x), chunkwise(**x, chunk=chunk), strict=True):
        equal(a, b)


@given(
    st.integers(0, 70), st.sampled_from([1, 7, 16, 64]), st.sampled_from([0.0, -0.1, -5.0, -1000.0]), st.integers(0, 99)
)
def test_the_chunk_form_is_the_recurrence_in_float64(T, chunk, gate, seed):
    rng = np.random.default_rng(seed)
    q, k = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in rng.normal(size=(2, 2, T, 1, 4)))
    v, beta, g = rng.normal(size=(2, T, 2, 3)), rng.uniform(size=(2, T, 2)), gate * rng.uniform(size=(2, T, 2, 4))
    state = rng.normal(size=(2, 2, 4, 3))
    for a, b in zip(recurrence(q, k, v, g, beta, initial_state=state),
                    chunkwise(q, k, v, g, beta, initial_state=state, chunk=chunk), strict=True):  # fmt: skip
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-13)
