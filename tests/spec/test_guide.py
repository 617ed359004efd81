"""Every number of the guide to the equation (docs/equation.md), as a test of the specification."""

import numpy as np

from kda_spec import decay, erase, read, recurrence, step, write

EMPTY = np.zeros((4, 4))


def row(index: int, size: int = 4) -> np.ndarray:
    return np.eye(size)[index]


def test_the_outer_product_of_cats_writes_two_columns_of_the_first_row():
    expected = np.zeros((4, 4))
    expected[0, :2] = 1
    np.testing.assert_array_equal(write(EMPTY, row(0), np.array([1, 1, 0, 0]), 1.0), expected)


def test_the_memory_says_that_the_subject_is_plural_and_animate():
    S = write(EMPTY, row(0), np.array([1, 1, 0, 0]), 0.9)
    assert S[0, 0] == 0.9 and S[0, 1] == 0.9
    assert np.count_nonzero(S) == 2


def test_a_dense_key_touches_every_row_with_its_own_strength():
    key = np.array([0.2, 0.9, -0.1, 0.4])
    S = write(EMPTY, key, np.ones(4), 1.0)
    np.testing.assert_array_equal(S[:, 0], key)
    assert np.all(np.any(S != 0, axis=1))


def test_decay_fades_run_to_half_and_keeps_the_subject():
    S = np.diag([3.0, 2.0, 5.0, 7.0])
    faded = decay(S, np.array([1.0, 0.5, 1.0, 1.0]))
    np.testing.assert_array_equal(faded[1], S[1] / 2)
    np.testing.assert_array_equal(np.delete(faded, 1, axis=0), np.delete(S, 1, axis=0))


def test_the_eraser_matrix_wipes_the_second_row_only():
    eraser = erase(np.eye(4), row(1), 1.0)
    np.testing.assert_array_equal(eraser, np.diag([1, 0, 1, 1]))
    S = np.arange(16.0).reshape(4, 4)
    expected = S.copy()
    expected[1] = 0
    np.testing.assert_array_equal(eraser @ S, expected)
    np.testing.assert_array_equal(erase(S, row(1), 1.0), expected)


def test_the_variables_of_the_cat_sat_take_one_step():
    S = np.array([[0.8, 0.2], [0.0, 0.0]])
    after = step(S, np.array([0.0, 1.0]), np.array([0.5, -0.5]), np.array([1.0, 0.1]), 0.9)
    np.testing.assert_allclose(after, [[0.8, 0.2], [0.45, -0.45]], rtol=1e-15)


def test_the_walkthrough_stage_by_stage():
    S, k, v = np.array([[10.0, 10.0], [2.0, 2.0]]), np.array([0.0, 1.0]), np.array([5.0, 5.0])
    decayed = decay(S, np.array([1.0, 0.5]))
    np.testing.assert_array_equal(decayed, [[10, 10], [1, 1]])
    np.testing.assert_array_equal(erase(np.eye(2), k, 1.0), [[1, 0], [0, 0]])
    erased = erase(decayed, k, 1.0)
    np.testing.assert_array_equal(erased, [[10, 10], [0, 0]])
    np.testing.assert_array_equal(write(np.zeros((2, 2)), k, v, 1.0), [[0, 0], [5, 5]])
    written = write(erased, k, v, 1.0)
    np.testing.assert_array_equal(written, [[10, 10], [5, 5]])
    np.testing.assert_array_equal(step(S, k, v, np.array([1.0, 0.5]), 1.0), written)
    np.testing.assert_array_equal(read(written, k), [5, 5])


def test_writing_without_erasing_leaves_run_plus_sat():
    S = write(np.zeros((2, 2)), np.array([0.0, 1.0]), np.array([1.0, 1.0]), 1.0)
    mess = write(S, np.array([0.0, 1.0]), np.array([5.0, 5.0]), 1.0)
    np.testing.assert_array_equal(mess[1], [6, 6])


def test_rows_are_features_the_second_subject_overwrites_the_first():
    cat, dog = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    S = step(np.zeros((2, 2)), row(0, 2), cat, np.ones(2), 1.0)
    S = step(S, row(0, 2), dog, np.ones(2), 1.0)
    np.testing.assert_array_equal(S, [[3, 4], [0, 0]])


def test_the_state_keeps_its_size_over_any_length():
    rng = np.random.default_rng(0)
    for T in (1, 10, 300):
        x = rng.normal(size=(1, T, 1, 4)) / 4
        _, state = recurrence(x, x, x, -np.abs(x), np.ones((1, T, 1)))
        assert state.shape == (1, 1, 4, 4)
