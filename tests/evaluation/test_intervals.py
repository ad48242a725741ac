"""Intervals by patient, against published formulas, SciPy and arithmetic by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, t
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from support.clustered import decisions, patients_of, right_images, two_class_scores

from medvlad import InputError
from medvlad.evaluation.intervals import (
    auc_estimate,
    correlation,
    mean_estimate,
    metric_estimates,
    patient_numbers,
    proportion_estimate,
    wilson_interval,
)


def problem(seed, n=60, n_classes=3):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    return labels, np.round(rng.normal(size=(n, n_classes)) + np.eye(n_classes)[labels], 1)


# ------------------------------------------------------------------------------------- proportions


@pytest.mark.parametrize(("correct", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (17, 23), (496, 624)])
def test_wilsons_interval_is_scipys(correct, n):
    expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.integers(1, 40), st.integers(0, 2**31 - 1))
def test_one_image_a_patient_gives_wilsons_interval(n, seed):
    right = np.random.default_rng(seed).random(n) < 0.8
    found = proportion_estimate(right, np.arange(n))
    assert found.ends == pytest.approx(wilson_interval(right.sum(), n))


def test_images_of_patients_widen_the_interval_by_their_variance():
    """Of 40 patients 30 have all four images right and 10 none: as many facts as patients."""
    right = np.repeat(np.arange(40) < 30, 4)
    low, high = proportion_estimate(right, np.repeat(np.arange(40), 4)).ends
    m = 39  # 0.75 * 0.25 / V with V = 40 / 39 * (0.75 * 0.25) / 40
    assert (low, high) == pytest.approx(wilson_interval(0.75 * m, m, t.ppf(0.975, 39)), abs=1e-3)


def test_copies_of_an_image_do_not_narrow_the_interval_by_patient():
    right = np.arange(100) % 10 > 1
    alone = proportion_estimate(right, np.arange(100)).ends
    copied = np.repeat(right, 10)
    together = proportion_estimate(copied, np.repeat(np.arange(100), 10)).ends
    apart = proportion_estimate(copied, np.arange(1000)).ends
    assert together == pytest.approx(alone, abs=0.01)
    assert apart[1] - apart[0] < 0.45 * (alone[1] - alone[0])


def test_all_right_is_an_interval_of_the_patients():
    found = proportion_estimate(np.ones(200, bool), np.repeat(np.arange(10), 20))
    assert found.ends == pytest.approx(wilson_interval(10, 10))


def test_the_same_share_of_every_patient_is_an_interval_of_the_patients():
    found = proportion_estimate(np.arange(40) % 2 == 0, np.repeat(np.arange(20), 2))
    assert found.ends == pytest.approx(wilson_interval(10, 20))


def test_images_of_one_patient_have_no_interval_but_a_reason():
    found = proportion_estimate(np.arange(10) > 0, np.zeros(10, int))
    assert (found.value, found.ends) == (0.9, None)
    assert found.reason == "all 10 images are of one patient"


def test_no_image_has_neither_value_nor_interval():
    found = proportion_estimate(np.ones(4, bool), np.arange(4), np.zeros(4, bool))
    assert (found.value, found.ends) == (None, None)
    assert found.reason == "there is no such image"


@given(st.integers(2, 30), st.integers(1, 6), st.floats(0, 1), st.integers(0, 2**31 - 1))
def test_an_interval_of_patients_holds_its_value_and_has_a_width(n_patients, images, share, seed):
    rng = np.random.default_rng(seed)
    patients = patients_of(n_patients, images, rng, unequal=True)
    found = proportion_estimate(right_images(patients, share, 0.0, rng), patients)
    assert 0 <= found.ends[0] <= found.value <= found.ends[1] <= 1
    assert found.ends[1] - found.ends[0] > 0.001


# --------------------------------------------------------------------------------------------- AUC


def obuchowski_variance(labels, scores, patients):
    """Obuchowski (1997), equations for clustered data, written with loops over pairs of images."""
    pairs = (scores[labels == 1][:, None] > scores[labels == 0]) + 0.5 * (
        scores[labels == 1][:, None] == scores[labels == 0]
    )
    m, n = pairs.shape
    area = pairs.mean()
    x, y = pairs.mean(axis=1), pairs.mean(axis=0)
    who_x, who_y = patients[labels == 1], patients[labels == 0]
    everyone = np.unique(patients)
    sum_x = np.array([(x[who_x == g] - area).sum() for g in everyone])
    sum_y = np.array([(y[who_y == g] - area).sum() for g in everyone])
    with_x, with_y = len(np.unique(who_x)), len(np.unique(who_y))
    s10 = with_x / ((with_x - 1) * m) * (sum_x**2).sum()
    s01 = with_y / ((with_y - 1) * n) * (sum_y**2).sum()
    s11 = len(everyone) / (len(everyone) - 1) * (sum_x * sum_y).sum()
    return area, s10 / m + s01 / n + 2 * s11 / (m * n)


@pytest.mark.parametrize("n_patients", [300, 20_000])
def test_the_interval_of_many_patients_has_obuchowskis_variance(rng, n_patients):
    """With many patients, all details but the variance vanish from the width."""
    patients = patients_of(n_patients // 10, 5, rng)
    labels, scores = two_class_scores(patients, 0, 0.8, 0.4, rng)
    labels = (rng.random(len(patients)) < 0.5).astype(int)  # patients with images of both classes
    scores = np.round(scores + labels, 1)
    area, variance = obuchowski_variance(labels, scores, patients)
    found = auc_estimate(labels == 1, scores, patients)
    assert found.value == pytest.approx(area)
    width = 2 * t.ppf(0.975, n_patients / 10 - 1) * np.sqrt(variance)
    assert found.ends[1] - found.ends[0] == pytest.approx(width, rel=0.15 if n_patients == 300 else 0.01)


def test_the_influence_of_patients_is_delongs():
    """Without patients, the sum of squares is DeLong's variance but for factors n / (n - 1)."""
    labels, decision = problem(3, 200, 2)
    _, variance = obuchowski_variance(labels, decision[:, 1], np.arange(200))
    found = auc_estimate(labels == 1, decision[:, 1], np.arange(200))
    assert (found.influence**2).sum() == pytest.approx(variance, rel=0.02)


def test_a_perfect_auc_has_an_interval_of_the_patients():
    """4 * 10 * 10 / 22 trials, all of them successes."""
    labels = np.repeat([0, 1], 50)
    found = auc_estimate(labels == 1, labels.astype(float), np.repeat(np.arange(20), 5))
    assert found.ends == pytest.approx(wilson_interval(400 / 22, 400 / 22))


def test_a_class_of_one_patient_has_no_interval_of_the_auc():
    labels = np.array([0, 0, 0, 1, 1])
    found = auc_estimate(labels == 1, np.arange(5.0), np.array([0, 1, 2, 3, 3]))
    assert (found.value, found.ends) == (1.0, None)
    assert "two patients of each class" in found.reason


def test_a_class_of_all_images_has_no_auc():
    found = auc_estimate(np.ones(4, bool), np.arange(4.0), np.arange(4))
    assert (found.value, found.ends) == (None, None)


@given(st.integers(0, 2**31 - 1), st.floats(0.5, 0.999))
def test_an_interval_of_the_auc_holds_it_and_has_a_width(seed, auc):
    rng = np.random.default_rng(seed)
    patients = patients_of(8, 3, rng, unequal=True)
    labels, scores = two_class_scores(patients, 3, auc, 0.5, rng)
    found = auc_estimate(labels == 1, scores, patients)
    assert 0 <= found.ends[0] <= found.value <= found.ends[1] <= 1
    assert found.ends[1] - found.ends[0] > 0.01


# ------------------------------------------------------------------------------------------- means


def test_metrics_are_scikit_learns():
    labels, decision = problem(1)
    found = metric_estimates(labels, decision)
    predicted = decision.argmax(axis=1)
    assert found["accuracy"].value == pytest.approx((predicted == labels).mean())
    assert found["balanced_accuracy"].value == pytest.approx(balanced_accuracy_score(labels, predicted))
    areas = [roc_auc_score(labels == k, decision[:, k]) for k in range(3)]
    assert found["auc"].value == pytest.approx(np.mean(areas))


def test_the_mean_of_separate_classes_combines_their_distances():
    """No patient has images of both classes: half of the root of the sum of squares."""
    right = np.arange(60) % 5 > 0
    patients, own = np.arange(60), np.arange(60) < 20
    one, other = proportion_estimate(right, patients, own), proportion_estimate(right, patients, ~own)
    low = np.hypot(one.value - one.ends[0], other.value - other.ends[0]) / 2
    found = mean_estimate([one, other])
    assert found.value == pytest.approx((one.value + other.value) / 2)
    assert found.value - found.ends[0] == pytest.approx(low)


def test_the_mean_of_equal_metrics_has_their_interval():
    one = proportion_estimate(np.arange(50) % 5 > 0, np.arange(50))
    assert mean_estimate([one, one]).ends == pytest.approx(one.ends)


@pytest.mark.parametrize("wrong", [[], [1], [0, 1]])
def test_classes_that_are_all_right_or_all_wrong_have_an_interval_with_a_width(wrong):
    """Three classes of 20 images: each recall is 0 or 1."""
    labels = np.repeat([0, 1, 2], 20)
    predicted = np.where(np.isin(labels, wrong), (labels + 1) % 3, labels)
    found = metric_estimates(labels, np.eye(3)[predicted])["balanced_accuracy"]
    assert found.value == pytest.approx(1 - len(wrong) / 3)
    alone = 1 - wilson_interval(20, 20)[0]
    distance = alone * np.sqrt([3 - len(wrong), len(wrong)]) / 3
    assert (found.value - found.ends[0], found.ends[1] - found.value) == pytest.approx(distance)


def test_a_perfect_auc_of_several_classes_has_an_interval_with_a_width():
    labels = np.repeat([0, 1, 2], 20)
    found = metric_estimates(labels, np.eye(3)[labels])["auc"]
    assert found.value == found.ends[1] == 1
    assert 0.8 < found.ends[0] < 0.98


def test_two_classes_have_one_auc():
    labels, decision = problem(4, n_classes=2)
    decision = np.column_stack([-decision[:, 1], decision[:, 1]])
    found = metric_estimates(labels, decision, groups=np.arange(60) // 3)["auc"]
    assert found.ends == pytest.approx(auc_estimate(labels == 1, decision[:, 1], np.arange(60) // 3).ends)


def test_a_mean_without_an_interval_of_every_class_has_the_reason():
    labels = np.array([0, 0, 0, 1, 1])
    found = metric_estimates(labels, decisions(labels, labels == 0), groups=np.array([0, 1, 2, 3, 3]))
    assert found["balanced_accuracy"].ends is None
    assert found["balanced_accuracy"].reason == "all 2 images are of one patient"


def test_a_constant_influence_has_no_correlation():
    assert correlation(np.zeros(3), np.arange(3.0)) == 0


def test_the_correlation_of_an_estimate_with_itself_is_1():
    assert correlation(np.arange(3.0), np.arange(3.0)) == pytest.approx(1)


# ------------------------------------------------------------------------------------------- input


def test_numbers_of_patients_follow_equal_names():
    assert patient_numbers(np.array(["b", "a", "b"], object), 3).tolist() == [1, 0, 1]


def test_a_wrong_number_of_groups_is_refused():
    labels, decision = problem(0)
    with pytest.raises(InputError, match="groups has 2 entries for 60 images"):
        metric_estimates(labels, decision, groups=np.array(["a", "b"]))


@pytest.mark.parametrize("n", [0, 59])
def test_labels_and_decisions_that_do_not_match_are_refused(n):
    labels, decision = problem(0)
    with pytest.raises(InputError, match="do not match"):
        metric_estimates(labels[:n], decision if n else decision[:0])
