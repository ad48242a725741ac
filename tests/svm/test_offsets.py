"""Rows that share a large offset: the solution is the exact one, in rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest

from medvlad import InputError, WideLinearSVC


def exact_scores(x, y, active, C, scale):
    """Return the scores of the minimiser whose active set is `active`, as fractions.

    They solve (G_AA + 1 / 2C) a = y_A with the Gram matrix G of the rows and their constant.
    """
    rows = [[Fraction(float(value)) for value in row] + [Fraction(scale)] for row in x]
    gram = [[sum(a * b for a, b in zip(r, s, strict=True)) for s in rows] for r in rows]
    system = [
        [gram[i][j] + (Fraction(1, 2) / Fraction(C) if i == j else 0) for j in active] + [Fraction(int(y[i]))]
        for i in active
    ]
    n = len(active)
    for i in range(n):  # the matrix is positive definite, so no pivot is 0
        for j in range(i + 1, n):
            factor = system[j][i] / system[i][i]
            system[j] = [b - factor * a for a, b in zip(system[i], system[j], strict=True)]
    solved = [Fraction(0)] * n
    for i in reversed(range(n)):
        known = sum(system[i][j] * solved[j] for j in range(i + 1, n))
        solved[i] = (system[i][n] - known) / system[i][i]
    return [sum(gram[i][j] * a for j, a in zip(active, solved, strict=True)) for i in range(len(rows))]


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0, 1e5, 1e6, 1e7])
def test_an_offset_costs_no_digits(rng, offset, dtype, intercept):
    z = np.round(rng.normal(scale=4, size=(12, 30)))
    directions = np.round(rng.uniform(0.5, 1, 30) * 16) / 16
    x = (z + offset * directions).astype(dtype)
    y = np.tile([-1, 1], 6)
    svm = WideLinearSVC(C=0.01, fit_intercept=intercept).fit(x, y)
    found = svm.decision_function(x)
    active = np.flatnonzero(y * found < 1).tolist()
    exact = exact_scores(x, y, active, 0.01, int(intercept))
    inside = {i for i, f in enumerate(exact) if int(y[i]) * f < 1}
    assert inside == set(active)  # so this is the minimiser
    np.testing.assert_allclose(found, np.array(exact, float), rtol=0, atol=1e-6)


def test_a_second_C_from_the_first_one_is_exact_too(rng):
    x = np.round(rng.normal(scale=4, size=(12, 30))) + 1e6
    y = np.tile([-1, 1], 6)
    path = WideLinearSVC().fit_path(x, y, [1e-4, 1e-2])
    for svm in path:
        alone = WideLinearSVC(C=svm.C).fit(x, y)
        np.testing.assert_allclose(svm.decision_function(x), alone.decision_function(x), atol=1e-7)


@pytest.mark.parametrize("order", ["C", "F"])
def test_fortran_order_and_float32_give_the_same_solution(rng, order):
    x = (np.round(rng.normal(scale=4, size=(40, 90))) + 1e5).astype(np.float32)
    y = np.tile(["a", "b", "c", "d"], 10)
    expected = WideLinearSVC(C=1e-3).fit(x.astype(np.float64), y)
    found = WideLinearSVC(C=1e-3).fit(np.asarray(x, order=order), y)
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-9)
    np.testing.assert_allclose(found.intercept_, expected.intercept_, atol=1e-9)


def test_rows_that_are_equal_and_beyond_float64_are_refused():
    with pytest.raises(InputError, match="divide X by its largest absolute value"):
        WideLinearSVC().fit(np.full((2, 4), 1e200), [0, 1])
