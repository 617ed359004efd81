"""What a Problem refuses, and how it says so."""

import numpy as np
import pytest

from kda_spec import Problem, bounded_gate, l2norm, sigmoid_beta, softplus_gate


def tensors(**changes):
    shapes = {"q": (1, 4, 2, 3), "k": (1, 4, 2, 3), "v": (1, 4, 4, 5), "g": (1, 4, 4, 3), "beta": (1, 4, 4)}
    return {name: np.zeros(shape) for name, shape in shapes.items()} | changes


def test_a_well_formed_problem_tells_its_extents():
    x = Problem(**tensors(), cu_seqlens=np.array([0, 1, 1, 4]))
    assert (x.B, x.T, x.H, x.HV, x.K, x.V, x.N) == (1, 4, 2, 4, 3, 5, 3)
    assert x.lengths == (1, 0, 3)
    assert x.scale_value == 3**-0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"q": np.zeros((4, 2, 3))}, r"q: expected \[B, T, H, K\]; got shape \[4, 2, 3\]"),
        ({"k": np.zeros((1, 4, 2, 2))}, r"k: expected shape \[1, 4, 2, 3\]; got \[1, 4, 2, 2\]"),
        ({"v": np.zeros((1, 4, 3, 5))}, "v: expected a head count that is a multiple of H = 2; got HV = 3"),
        ({"v": np.zeros((1, 3, 4, 5))}, "v: expected"),
        ({"g": np.full((1, 4, 4, 3), 0.5)}, "g: expected natural-log decay, at most 0; got 0.5"),
        ({"g": np.full((1, 4, 4, 3), np.nan)}, "g: expected finite numbers; got nan"),
        ({"beta": np.full((1, 4, 4), 2.5)}, r"beta: expected numbers in \[0, 2\]"),
        ({"beta": np.zeros((1, 4, 2))}, "beta: expected shape"),
        ({"initial_state": np.zeros((1, 4, 5, 3))}, r"initial_state: expected shape \[N, HV, K, V\] = \[1, 4, 3, 5\]"),
        ({"cu_seqlens": np.array([0, 3, 2, 4])}, "cu_seqlens: expected to rise from 0 to T = 4"),
        ({"cu_seqlens": np.array([1, 4])}, "cu_seqlens: expected to rise"),
        ({"cu_seqlens": np.array([0, 3])}, "cu_seqlens: expected to rise"),
        ({"cu_seqlens": np.array([0.0, 4.0])}, "cu_seqlens: expected a list of integers"),
    ],
)
def test_a_malformed_problem_is_refused_in_a_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        Problem(**tensors(**changes))


def test_packed_sequences_need_one_row():
    two = {name: np.concatenate([x, x]) for name, x in tensors().items()}
    with pytest.raises(ValueError, match="cu_seqlens: expected B = 1"):
        Problem(**two, cu_seqlens=np.array([0, 4]))


def test_the_maps_of_the_raw_form_by_hand():
    x = np.array([-2.0, 0.0, 3.0])
    np.testing.assert_allclose(sigmoid_beta(x), 1 / (1 + np.exp(-x)), rtol=1e-15)
    np.testing.assert_allclose(sigmoid_beta(x, True), 2 / (1 + np.exp(-x)), rtol=1e-15)
    A_log, bias, raw = np.array([0.7]), np.array([[0.1, 0.2, 0.3]]), np.array([[[-1.0, 0.5, 2.0]]])
    soft = -np.exp(0.7) * np.log1p(np.exp(raw + bias))
    np.testing.assert_allclose(softplus_gate(raw, A_log, bias), soft, rtol=1e-14)
    bounded = -5 / (1 + np.exp(-np.exp(0.7) * (raw + bias)))
    np.testing.assert_allclose(bounded_gate(raw, A_log, bias, -5.0), bounded, rtol=1e-14)
    assert bounded_gate(np.array([[[-1e4, 1e4, 0]]]), A_log, bias, -5.0).min() >= -5
    np.testing.assert_array_equal(l2norm(np.zeros((2, 3))), 0)
    with pytest.raises(ValueError, match="lower_bound"):
        bounded_gate(raw, A_log, bias, 0.0)
