"""How often intervals hold the truth, and how often tests are wrong, over many simulated studies.

docs/reliability.md has the measured table: ``python -m pytest -m slow -s tests/evaluation/test_coverage.py``
prints its rows.
"""

import sys

import numpy as np
import pytest
from scipy.stats import binomtest
from support.clustered import decisions, patients_of, right_images, two_class_scores, two_right

from medvlad.evaluation.comparison import compare
from medvlad.evaluation.intervals import auc_estimate, proportion_estimate, wilson_interval

pytestmark = pytest.mark.slow

STUDIES = 400
LEAST = 0.92  # 0.95 less three standard errors of 400 studies

#: Patients, images of each (on average in every second study), intraclass correlation.
DESIGNS = [(6, 1, 0.0), (6, 5, 0.5), (10, 20, 0.2), (20, 5, 0.0), (20, 5, 0.5), (20, 20, 0.8), (50, 20, 0.5)]


def studies(n_patients, images):
    """A generator and the patient of each image, for each study."""
    for seed in range(STUDIES):
        rng = np.random.default_rng(seed)
        yield rng, patients_of(n_patients, images, rng, unequal=images > 1 and seed % 2 == 1)


def percentile_bootstrap(estimate, patients, rng):
    """Interval from 300 draws of patients, as earlier versions had it."""
    rows = [np.flatnonzero(patients == g) for g in range(patients.max() + 1)]
    drawn = [np.concatenate([rows[g] for g in rng.integers(0, len(rows), len(rows))]) for _ in range(300)]
    values = [value for index in drawn if (value := estimate(index)) is not None]
    return np.percentile(values, [2.5, 97.5])


def share_of(intervals, truth):
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def row(*cells):
    texts = [f"{one:.3f}" if isinstance(one, float) else str(one) for one in cells]
    sys.stdout.write(f"| {' | '.join(texts)} |\n")


@pytest.mark.parametrize("share", [0.8, 0.95])
@pytest.mark.parametrize(("n_patients", "images", "icc"), DESIGNS)
def test_intervals_of_an_accuracy_hold_the_truth(n_patients, images, icc, share):
    found, by_image, drawn = [], [], []
    for rng, patients in studies(n_patients, images):
        right = right_images(patients, share, icc, rng)
        found.append(proportion_estimate(right, patients).ends)
        by_image.append(wilson_interval(right.sum(), len(right)))
        drawn.append(percentile_bootstrap(lambda index, right=right: right[index].mean(), patients, rng))
    shares = [share_of(each, share) for each in (found, by_image, drawn)]
    row(f"accuracy {share}", f"{n_patients} x {images}", icc, *shares)
    assert shares[0] >= LEAST


@pytest.mark.parametrize("auc", [0.8, 0.95])
@pytest.mark.parametrize(("n_patients", "images", "icc"), DESIGNS)
def test_intervals_of_an_auc_hold_the_truth(n_patients, images, icc, auc):
    found, delong = [], []
    for rng, patients in studies(n_patients, images):
        labels, scores = two_class_scores(patients, n_patients // 2, auc, icc, rng)
        found.append(auc_estimate(labels == 1, scores, patients).ends)
        plain = auc_estimate(labels == 1, scores, np.arange(len(labels)))
        half = 1.96 * np.sqrt((plain.influence**2).sum())
        delong.append((plain.value - half, plain.value + half))
    shares = [share_of(each, auc) for each in (found, delong)]
    row(f"AUC {auc}", f"{n_patients} x {images}", icc, *shares)
    assert shares[0] >= LEAST


@pytest.mark.parametrize(("n_patients", "images", "icc"), DESIGNS[1:])
def test_mcnemars_test_by_patient_is_wrong_at_most_as_often_as_it_says(n_patients, images, icc):
    p_values, by_image, held = [], [], []
    for rng, patients in studies(n_patients, images):
        labels = np.arange(len(patients)) % 2
        first, second = two_right(patients, (0.8, 0.8), icc, rng)
        found = compare(labels, decisions(labels, first), decisions(labels, second), groups=patients)
        p_values.append(found["mcnemar_p"])
        held.append(found["difference_ci95"]["accuracy"])
        b, c = found["only_first"], found["only_second"]
        by_image.append(binomtest(b, b + c).pvalue if b + c else 1.0)
    wrong = [float(np.mean(np.array(each) <= 0.05)) for each in (p_values, by_image)]
    row("McNemar", f"{n_patients} x {images}", icc, *wrong, share_of(held, 0.0))
    assert wrong[0] <= 0.08  # 0.05 and three standard errors
    assert share_of(held, 0.0) >= LEAST
