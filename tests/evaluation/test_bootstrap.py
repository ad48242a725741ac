"""Intervals by patients and comparisons, against scikit-learn, SciPy and arithmetic by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from medvlad import InputError
from medvlad.evaluation.bootstrap import _weighted_metrics, bootstrap_intervals, compare


def problem(seed, n=60, n_classes=3, ties=True):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    decision = rng.normal(size=(n, n_classes)) + np.eye(n_classes)[labels]
    return labels, np.round(decision, 1) if ties else decision


@given(st.integers(0, 2**31 - 1), st.sampled_from([2, 3]), st.booleans())
def test_figures_of_weights_are_scikit_learns_of_copies(seed, n_classes, ties):
    """A weight is so many copies of an image."""
    labels, decision = problem(seed, 30, n_classes, ties)
    weights = np.random.default_rng(seed).integers(0, 4, (3, len(labels)))
    weights[:, :n_classes] = 1
    found = _weighted_metrics(labels, decision)(weights.astype(float))
    for row, got in zip(weights, found.T, strict=True):
        y, d = np.repeat(labels, row), np.repeat(decision, row, axis=0)
        aucs = [roc_auc_score(y == k, d[:, k]) for k in range(n_classes)]
        expected = [accuracy_score(y, d.argmax(1)), balanced_accuracy_score(y, d.argmax(1)), np.mean(aucs)]
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_interval_of_an_accuracy_is_the_binomials():
    n, p = 400, 0.8
    labels = np.arange(n) % 2
    right = np.arange(n) < p * n
    decision = np.eye(2)[np.where(right, labels, 1 - labels)]
    low, high = bootstrap_intervals(labels, decision, n_resamples=20_000)["accuracy"]
    assert low == pytest.approx(binom.ppf(0.025, n, p) / n, abs=0.004)
    assert high == pytest.approx(binom.ppf(0.975, n, p) / n, abs=0.004)


def test_copies_of_patients_make_nothing_surer():
    """Ten copies of each image under one patient: the same interval; as images of their own: a third."""
    labels, decision = problem(1, 100)
    alone = bootstrap_intervals(labels, decision)["accuracy"]
    labels, decision = np.repeat(labels, 10), np.repeat(decision, 10, axis=0)
    patients = np.repeat([f"p{i:03d}" for i in range(100)], 10)
    together = bootstrap_intervals(labels, decision, groups=patients)["accuracy"]
    np.testing.assert_allclose(together, alone, atol=1e-12)
    apart = bootstrap_intervals(labels, decision)["accuracy"]
    assert (apart[1] - apart[0]) < 0.45 * (alone[1] - alone[0])


def test_same_seed_same_interval(monkeypatch):
    labels, decision = problem(2)
    first = bootstrap_intervals(labels, decision, random_state=3)
    assert first == bootstrap_intervals(labels, decision, random_state=3)
    assert first != bootstrap_intervals(labels, decision, random_state=4)
    monkeypatch.setattr("medvlad.evaluation.bootstrap._WEIGHTS_AT_A_TIME", 1000)  # memory changes nothing
    assert first == bootstrap_intervals(labels, decision, random_state=3)


def test_a_class_that_nobody_has():
    labels = np.zeros(20, int)
    found = bootstrap_intervals(labels, np.eye(2)[labels])
    assert found["accuracy"] == [1, 1]
    assert found["balanced_accuracy"] == [1, 1]
    assert found["auc"] is None


def test_mcnemar_by_hand():
    """Of 10 images that only one gets right, 1 and 9: twice the binomial tail, 2 (1 + 10) / 1024."""
    labels = np.zeros(30, int)
    first, second = np.tile([1.0, 0.0], (30, 1)), np.tile([1.0, 0.0], (30, 1))
    second[0] = 0, 1
    first[1:10] = 0, 1
    first[29] = second[29] = 0, 1
    found = compare(labels, first, second)
    assert (found["only_first"], found["only_second"]) == (1, 9)
    assert found["mcnemar_p"] == pytest.approx(22 / 1024)
    low, high = found["difference_ci95"]["accuracy"]
    assert low <= found["difference"]["accuracy"] <= high
    assert 0 < low < 8 / 30 < high


def test_a_classifier_is_as_good_as_itself():
    labels, decision = problem(5)
    found = compare(labels, decision, decision)
    assert found["mcnemar_p"] == 1
    assert set(map(tuple, found["difference_ci95"].values())) == {(0, 0)}


def test_pairing_sees_what_single_intervals_do_not():
    """One of two that agree nearly always is better on a few images: their own intervals overlap by far."""
    labels = np.arange(300) % 2
    wrong = np.arange(300) < 90
    second = np.eye(2)[np.where(wrong, 1 - labels, labels)]
    first = second.copy()
    first[290:] = np.eye(2)[1 - labels[290:]]
    assert compare(labels, first, second)["difference_ci95"]["accuracy"][0] > 0
    one = bootstrap_intervals(labels, first)["accuracy"]
    assert one[1] > bootstrap_intervals(labels, second)["accuracy"][0]


def test_what_does_not_fit_is_refused():
    labels, decision = problem(0)
    with pytest.raises(InputError, match="do not match"):
        bootstrap_intervals(labels[:-1], decision)
    with pytest.raises(InputError, match="do not match"):
        bootstrap_intervals(labels[:0], decision[:0])
    with pytest.raises(InputError, match="groups has 2 entries for 60 images"):
        bootstrap_intervals(labels, decision, groups=np.array(["a", "b"]))
