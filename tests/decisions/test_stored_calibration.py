"""The stored calibration gives the numbers of scikit-learn's fitted object."""

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.svm import LinearSVC

from medvlad import InputError
from medvlad.decisions.calibration import fit_calibration, method_for
from medvlad.svm.decision import decision_columns


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize(("method", "theirs"), [("platt", "sigmoid"), ("isotonic", "isotonic")])
def test_probabilities_are_those_of_scikit_learn(rng, method, theirs, n_classes):
    labels = np.arange(240) % n_classes
    x = rng.normal(size=(240, 5))
    x[np.arange(240), labels] += 1.5
    svm = LinearSVC().fit(x, labels)
    expected = CalibratedClassifierCV(FrozenEstimator(svm), method=theirs, cv=2).fit(x, labels)
    decision = decision_columns(svm.decision_function(x))
    found = fit_calibration(method, decision, labels).probabilities(decision)
    # The values are standardised first, which changes where the search for a and b stops.
    np.testing.assert_allclose(found, expected.predict_proba(x), atol=1e-4)


def test_values_beyond_the_learned_ones_have_the_outermost_probabilities(rng):
    decision = decision_columns(rng.normal(size=60))
    labels = (decision[:, 1] + rng.normal(0, 0.5, 60) > 0).astype(np.int64)
    found = fit_calibration("isotonic", decision, labels).probabilities(
        decision_columns(np.array([-99.0, 99]))
    )
    inside = fit_calibration("isotonic", decision, labels).probabilities(decision)
    assert found[0, 1] == inside[:, 1].min()
    assert found[1, 1] == inside[:, 1].max()


def test_isotonic_probabilities_that_are_all_0_become_equal():
    decision = np.array([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1]] * 4)
    learnt = fit_calibration("isotonic", decision, np.arange(12) % 3)
    np.testing.assert_allclose(learnt.probabilities(np.array([[-9.0, -9, -9]])), [[1 / 3] * 3])


@pytest.mark.parametrize(("n", "expected"), [(999, "platt"), (1000, "isotonic")])
def test_auto_is_isotonic_from_1000_images_on(n, expected):
    assert method_for("auto", n) == expected
    assert method_for("platt", n) == "platt"


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match="the calibration must be one of auto, platt, isotonic, got 'beta'"):
        method_for("beta", 10)
