"""Bootstrap intervals by patient and comparisons, against scikit-learn, SciPy and arithmetic by hand."""

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
def test_metrics_with_weights_are_scikit_learns_with_copies(seed, n_classes, ties):
    """A weight of 3 is the same as three copies of the image."""
    labels, decision = problem(seed, 30, n_classes, ties)
    weights = np.random.default_rng(seed).integers(0, 4, (3, len(labels)))
    weights[:, :n_classes] = 1
    found = _weighted_metrics(labels, decision)(weights.astype(float))
    for row, got in zip(weights, found.T, strict=True):
        y, d = np.repeat(labels, row), np.repeat(decision, row, axis=0)
        aucs = [roc_auc_score(y == k, d[:, k]) for k in range(n_classes)]
        expected = [accuracy_score(y, d.argmax(1)), balanced_accuracy_score(y, d.argmax(1)), np.mean(aucs)]
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_the_interval_of_an_accuracy_is_binomial():
    n, p = 400, 0.8
    labels = np.arange(n) % 2
    right = np.arange(n) < p * n
    decision = np.eye(2)[np.where(right, labels, 1 - labels)]
    low, high = bootstrap_intervals(labels, decision, n_resamples=20_000)["accuracy"]
    assert low == pytest.approx(binom.ppf(0.025, n, p) / n, abs=0.004)
    assert high == pytest.approx(binom.ppf(0.975, n, p) / n, abs=0.004)


def test_copies_of_an_image_do_not_narrow_the_interval_of_patients():
    """Ten copies of each image: the same interval for one patient, a third of it for separate images."""
    labels, decision = problem(1, 100)
    alone = bootstrap_intervals(labels, decision)["accuracy"]
    labels, decision = np.repeat(labels, 10), np.repeat(decision, 10, axis=0)
    patients = np.repeat([f"p{i:03d}" for i in range(100)], 10)
    together = bootstrap_intervals(labels, decision, groups=patients)["accuracy"]
    np.testing.assert_allclose(together, alone, atol=1e-12)
    apart = bootstrap_intervals(labels, decision)["accuracy"]
    assert (apart[1] - apart[0]) < 0.45 * (alone[1] - alone[0])


def test_the_seed_decides_the_interval():
    labels, decision = problem(2)
    first = bootstrap_intervals(labels, decision, random_state=3)
    assert first == bootstrap_intervals(labels, decision, random_state=3)
    assert first != bootstrap_intervals(labels, decision, random_state=4)


def test_the_size_of_blocks_does_not_change_the_interval(monkeypatch):
    labels, decision = problem(2)
    first = bootstrap_intervals(labels, decision, random_state=3)
    monkeypatch.setattr("medvlad.evaluation.bootstrap._WEIGHTS_AT_A_TIME", 1000)
    assert first == bootstrap_intervals(labels, decision, random_state=3)


def test_without_images_of_a_class_there_is_no_auc():
    labels = np.zeros(20, int)
    found = bootstrap_intervals(labels, np.eye(2)[labels])
    assert found["accuracy"] == [1, 1]
    assert found["balanced_accuracy"] == [1, 1]
    assert found["auc"] is None


@pytest.fixture
def nine_against_one():
    """Comparison of 30 images, of which the first classifier alone has 1 right, the second alone 9."""
    labels = np.zeros(30, int)
    first, second = np.tile([1.0, 0.0], (30, 1)), np.tile([1.0, 0.0], (30, 1))
    second[0] = 0, 1
    first[1:10] = 0, 1
    first[29] = second[29] = 0, 1
    return compare(labels, first, second)


def test_mcnemars_test_is_twice_the_binomial_tail(nine_against_one):
    assert (nine_against_one["only_first"], nine_against_one["only_second"]) == (1, 9)
    assert nine_against_one["mcnemar_p"] == pytest.approx(2 * (1 + 10) / 1024)


def test_the_interval_of_a_difference_holds_the_difference(nine_against_one):
    low, high = nine_against_one["difference_ci95"]["accuracy"]
    assert low <= nine_against_one["difference"]["accuracy"] <= high
    assert 0 < low < 8 / 30 < high


def test_a_classifier_does_not_differ_from_itself():
    labels, decision = problem(5)
    found = compare(labels, decision, decision)
    assert found["mcnemar_p"] == 1
    assert set(map(tuple, found["difference_ci95"].values())) == {(0, 0)}


def test_a_paired_comparison_is_sharper_than_two_intervals():
    """Two classifiers nearly always agree and one is better on a few images: their own intervals overlap."""
    labels = np.arange(300) % 2
    wrong = np.arange(300) < 90
    second = np.eye(2)[np.where(wrong, 1 - labels, labels)]
    first = second.copy()
    first[290:] = np.eye(2)[1 - labels[290:]]
    assert compare(labels, first, second)["difference_ci95"]["accuracy"][0] > 0
    one = bootstrap_intervals(labels, first)["accuracy"]
    assert one[1] > bootstrap_intervals(labels, second)["accuracy"][0]


def test_labels_and_decisions_of_different_lengths_are_refused():
    labels, decision = problem(0)
    with pytest.raises(InputError, match="do not match"):
        bootstrap_intervals(labels[:-1], decision)


def test_no_image_is_refused():
    labels, decision = problem(0)
    with pytest.raises(InputError, match="do not match"):
        bootstrap_intervals(labels[:0], decision[:0])


def test_a_wrong_number_of_groups_is_refused():
    labels, decision = problem(0)
    with pytest.raises(InputError, match="groups has 2 entries for 60 images"):
        bootstrap_intervals(labels, decision, groups=np.array(["a", "b"]))
