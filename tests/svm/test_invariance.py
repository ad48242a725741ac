"""An SVM that pays less attention to looks and to what changes in copies."""

import numpy as np
import pytest

from medvlad import WideLinearSVC
from medvlad._util.validate import InputError
from medvlad.svm.invariance import Nuisance, fit_invariant, fit_invariant_path, invariant_map

WIDTH = 6


@pytest.fixture
def problem():
    """Return rows of images and copies, labels and Nuisance.

    The class is in column 0. Columns 1 and 2 follow a look that goes with it. Column 3 differs in copies.
    """
    rng = np.random.default_rng(0)
    n = 80
    labels = np.arange(n) % 2
    x = rng.normal(0, 0.3, (n, WIDTH))
    x[:, 0] += labels
    look = labels + rng.normal(0, 0.5, n)
    x[:, 1] += 2 * look
    x[:, 2] -= look
    copies = x.copy()
    copies[:, 3] += rng.normal(0, 3, n)
    looks = np.column_stack([look, np.full(n, 7.0)])
    nuisance = Nuisance(np.tile(np.arange(n), 2), np.repeat([False, True], n), np.tile(looks, (2, 1)))
    return np.vstack([x, copies]).astype(np.float32), np.tile(labels, 2), nuisance


def sensitivity(svm, direction):
    """Change of the decision along a direction, relative to that along the class."""
    coef = svm.coef_[0] / np.abs(svm.coef_[0, 0])
    return abs(float(coef @ direction))


def test_directions_of_the_look_have_no_influence(problem):
    x, labels, nuisance = problem
    own = ~nuisance.is_copy
    looks = nuisance.looks[own, :1]
    of_class = np.column_stack([labels[own] == 0, labels[own] == 1])
    slope = np.linalg.lstsq(np.column_stack([of_class, looks]), x[own])[0][2]
    plain = WideLinearSVC().fit(x, labels)
    invariant = WideLinearSVC()
    fit_invariant(invariant, x, labels, nuisance)
    assert sensitivity(plain, slope) > 0.2
    assert sensitivity(invariant, slope) < 1e-5


def test_directions_in_which_copies_differ_have_less_influence(problem):
    x, labels, nuisance = problem
    matrix = invariant_map(x, labels, nuisance)
    gains = np.linalg.norm(matrix, axis=1)
    assert gains[3] < 0.4 * gains[[0, 4, 5]].min()


def test_it_is_the_svm_of_the_mapped_rows(problem):
    x, labels, nuisance = problem
    mapped = (x @ invariant_map(x, labels, nuisance)).astype(np.float32)
    expected = WideLinearSVC(3.0).fit(mapped, labels).decision_function(mapped)
    path = fit_invariant_path(WideLinearSVC(), x, labels, [0.1, 3.0], nuisance)
    assert [svm.C for svm in path] == [0.1, 3.0]
    np.testing.assert_allclose(path[1].decision_function(x), expected, atol=1e-5)


def test_without_a_nuisance_it_is_the_plain_svm(problem):
    x, labels, _ = problem
    expected = WideLinearSVC().fit(x, labels)
    one = WideLinearSVC()
    fit_invariant(one, x, labels, None)
    (other,) = fit_invariant_path(WideLinearSVC(), x, labels, [1.0], None)
    np.testing.assert_array_equal(one.coef_, expected.coef_)
    np.testing.assert_allclose(other.coef_, expected.coef_, rtol=1e-6)


def test_equal_copies_and_equal_looks_change_nothing(problem):
    x, labels, nuisance = problem
    half = len(x) // 2
    same = np.vstack([x[:half], x[:half]])
    nothing = Nuisance(nuisance.source, nuisance.is_copy, np.ones_like(nuisance.looks))
    np.testing.assert_allclose(invariant_map(same, labels, nothing), np.eye(WIDTH), atol=1e-12)


def test_rows_in_another_order_give_the_same_map(problem):
    x, labels, nuisance = problem
    order = np.random.default_rng(1).permutation(len(x))
    np.testing.assert_allclose(
        invariant_map(x[order], labels[order], nuisance.take(order)),
        invariant_map(x, labels, nuisance),
        atol=1e-6,
    )


def test_rows_of_images_are_followed_by_their_copies():
    nuisance = Nuisance(
        np.array([0, 1, 2, 2, 0]), np.array([False, False, False, True, True]), np.zeros((5, 1))
    )
    assert nuisance.rows_of(np.array([2, 1])).tolist() == [2, 1, 3]
    copies, images = nuisance.originals()
    assert (copies.tolist(), images.tolist()) == ([3, 4], [2, 0])


@pytest.mark.parametrize("rows", [[1, 2, 4], [0, 1, 3]])
def test_a_copy_without_its_image_is_refused(rows):
    nuisance = Nuisance(
        np.array([0, 1, 2, 2, 0]), np.array([False, False, False, True, True]), np.zeros((5, 1))
    )
    with pytest.raises(InputError, match="a shifted copy stands without its image"):
        nuisance.take(np.array(rows)).originals()


def test_wide_vectors_are_refused(problem):
    _, labels, nuisance = problem
    wide = np.broadcast_to(np.float32(0), (len(labels), 8193))
    with pytest.raises(InputError, match="at most 8,192 numbers, these have 8,193"):
        invariant_map(wide, labels, nuisance)
