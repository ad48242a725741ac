r"""Paired comparison of two classifiers on the same images, by patient.

Intervals of single metrics, effective numbers and correlations are those of
:mod:`medvlad.evaluation.intervals`.

**Difference of accuracies.** Of :math:`n` images only the first classifier decides :math:`b` correctly, and
only the second :math:`c`. The interval of :math:`\Delta = (c - b) / n` is the score interval of Tango
(Statistics in Medicine 1998): all :math:`\Delta` with

.. math::

   \frac{|c - b - n \Delta|}{\sqrt{n \left( 2 q + \Delta (1 - \Delta) \right)}} \le z , \qquad
   q = \frac{\sqrt{B^2 - 8 n C} - B}{4 n} , \quad
   B = -b - c + (2 n + b - c) \Delta , \quad C = -b \, \Delta (1 - \Delta) ,

where :math:`q` is the most likely share of images that only the first decides correctly. If patients have
several images, :math:`b`, :math:`c` and :math:`n` are divided by a design effect. It is estimated by the
variance of :math:`\Delta` between patients, divided by the variance for independent images, and moved towards
:math:`n / G` as effective numbers are. Here :math:`d` is the number of patients with an image that only one
classifier decides correctly.

**Difference of balanced accuracies.** Mean over classes of Tango's intervals, by variance estimates recovery.

**Difference of AUCs.** From the intervals of both and their correlation :math:`r` (Newcombe, Statistics in
Medicine 1998, method 10, for any two estimates by Zou & Donner 2008), with
:math:`A_1, [l_1, u_1]` and :math:`A_2, [l_2, u_2]`

.. math::

   L = A_2 - A_1 - \sqrt{(A_2 - l_2)^2 + (u_1 - A_1)^2 - 2 r (A_2 - l_2) (u_1 - A_1)} .

Two classifiers that rank all images alike have no interval. The macro AUCs of several labels are compared in
the same way (:func:`medvlad.evaluation.several_labels.compare_labels`).

**McNemar's test.** If neither classifier is better, each patient's :math:`c_g - b_g` is as likely to have the
other sign. The p-value is the probability that the sum over patients with random signs is as far from 0 as
:math:`c - b`. It is computed exactly, by adding the patients one by one to the distribution of the sum. If
every patient has one image, this is McNemar's exact test (McNemar, Psychometrika 1947): the sum has
:math:`b + c` terms of 1, so :math:`b` is binomial with :math:`p = 1/2`. docs/reliability.md has the measured
share of false positives, beside that of other tests for clustered data (Obuchowski, Statistics in Medicine
1998; Durkalski et al., Statistics in Medicine 2003).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import stdtrit
from scipy.stats import binom, norm

from medvlad.evaluation.intervals import (
    METRICS,
    Estimate,
    correlation,
    mean_estimate,
    metric_estimates,
    patient_numbers,
)

__all__ = ["auc_difference", "compare"]

_QUANTILE = 0.975
_EDGE = 1e-9

Floats = NDArray[np.float64]


def compare(
    labels: NDArray[np.int64], first: Floats, second: Floats, *, groups: NDArray[Any] | None = None
) -> dict[str, Any]:
    """Compare two classifiers on the same images.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
        True classes, from 0 to n_classes - 1.
    first, second : ndarray of float, shape (n, n_classes)
        Decision values of the two classifiers.
    groups : ndarray of shape (n,), or None
        Patient of each image. None: each image is a patient of its own.

    Returns
    -------
    dict
        only_first and only_second: numbers of images that only one of the two decides correctly. mcnemar_p:
        two-sided p-value of McNemar's exact test, by patient. difference: second minus first for accuracy,
        balanced_accuracy and auc, None if the metric is undefined. difference_ci95: their 95 % intervals,
        None if there is none. difference_ci95_missing: the reason for each missing interval.

    Raises
    ------
    InputError
        If there is no image, or the shapes do not match.
    """
    labels = np.asarray(labels)
    one, other = (metric_estimates(labels, decision, groups=groups) for decision in (first, second))
    patients = patient_numbers(groups, len(labels))
    right = [np.asarray(decision).argmax(axis=1) == labels for decision in (first, second)]
    gain = right[1].astype(np.int64) - right[0]
    recalls = [_accuracy_difference(gain, patients, labels == k) for k in np.unique(labels)]
    found = {
        "accuracy": _accuracy_difference(gain, patients, np.ones(len(labels), bool)),
        "balanced_accuracy": _mean_difference(recalls),
        "auc": auc_difference(one["auc"], other["auc"]),
    }
    return {
        "only_first": int((gain < 0).sum()),
        "only_second": int((gain > 0).sum()),
        "mcnemar_p": _signs_test(np.bincount(patients, gain).astype(np.int64)),
        "difference": {name: found[name].value for name in METRICS},
        "difference_ci95": {
            name: None if (ends := found[name].ends) is None else list(ends) for name in METRICS
        },
        "difference_ci95_missing": {
            name: reason for name in METRICS if (reason := found[name].reason) is not None
        },
    }


def _signs_test(gains: NDArray[np.int64]) -> float:
    """Return the probability of a sum as far from 0, if the sign of every patient's gain is random."""
    sizes = np.abs(gains[gains != 0])
    total, seen = int(sizes.sum()), abs(int(gains.sum()))
    if total == 0:
        return 1.0
    # chance[i]: probability that the patients so far with the sign + have i images.
    chance = np.zeros(total + 1)
    single = int((sizes == 1).sum())
    chance[: single + 1] = binom.pmf(np.arange(single + 1), single, 0.5)
    for size in sizes[sizes > 1].tolist():
        chance[size:] = (chance[size:] + chance[:-size]) / 2
        chance[:size] /= 2
    sums = 2 * np.arange(total + 1) - total
    return min(float(chance[np.abs(sums) >= seen].sum()), 1.0)


def _accuracy_difference(
    gain: NDArray[np.int64], patients: NDArray[np.intp], used: NDArray[np.bool_]
) -> Estimate:
    """Return the difference of the shares of right images, of the images that count."""
    n_patients = int(patients.max()) + 1
    n = int(used.sum())
    its, gain = patients[used], gain[used]
    value = float(gain.mean())
    images = np.bincount(its, minlength=n_patients)
    influence = (np.bincount(its, gain, minlength=n_patients) - value * images) / n
    present = int((images > 0).sum())
    if present == 1 and n > 1:
        return Estimate(value, None, f"all {n} images are of one patient", influence)
    effect, z = 1.0, float(norm.ppf(_QUANTILE))
    if present < n:
        differing = len(np.unique(its[gain != 0]))
        independent = float(((gain - value) ** 2).mean()) / n
        between = present / (present - 1) * float((influence**2).sum())
        effect = max(between / independent, 1.0) if independent > 0 else 1.0
        effect = (differing * effect + max(n / present, effect)) / (differing + 1)
        z = float(stdtrit(present - 1, _QUANTILE)) if differing else z
    ends = _tango(float((gain < 0).sum()) / effect, float((gain > 0).sum()) / effect, n / effect, z)
    return Estimate(value, ends, None, influence)


def _tango(b: float, c: float, n: float, z: float) -> tuple[float, float]:
    """Return Tango's score interval of (c - b) / n."""

    def excess(delta: float) -> float:
        """Return the square of the statistic minus that of `z`, times the variance."""
        linear = -b - c + (2 * n + b - c) * delta
        constant = -b * delta * (1 - delta)
        share = (np.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
        return float((c - b - n * delta) ** 2 - z**2 * n * max(2 * share + delta * (1 - delta), 0.0))

    if b == c == 0:  # the statistic is 0 / 0 at 0
        return -(z**2) / (n + z**2), z**2 / (n + z**2)
    value = (c - b) / n
    inside = min(max(value, _EDGE - 1), 1 - _EDGE)  # at -1 and 1 the variance is 0
    low = brentq(excess, -1.0, inside) if excess(-1.0) > 0 else -1.0
    high = brentq(excess, inside, 1.0) if excess(1.0) > 0 else 1.0
    return min(float(low), value), max(float(high), value)


def _mean_difference(differences: list[Estimate]) -> Estimate:
    """Return the mean over classes: differences become numbers between 0 and 1 and back."""
    halved = mean_estimate(
        [
            Estimate(
                None if one.value is None else (one.value + 1) / 2,
                None if one.ends is None else ((one.ends[0] + 1) / 2, (one.ends[1] + 1) / 2),
                one.reason,
                one.influence,
            )
            for one in differences
        ]
    )
    return Estimate(
        None if halved.value is None else 2 * halved.value - 1,
        None if halved.ends is None else (2 * halved.ends[0] - 1, 2 * halved.ends[1] - 1),
        halved.reason,
        halved.influence,
    )


def auc_difference(first: Estimate, second: Estimate) -> Estimate:
    """Return the difference of two AUCs on the same images, with its interval.

    Parameters
    ----------
    first, second : Estimate
        AUCs, or means of AUCs, with the influences of the same patients.

    Returns
    -------
    Estimate
        Second minus first. `ends` is None if one of the two has no interval, or if both rank all images
        alike.
    """
    influence = second.influence - first.influence
    if first.value is None or second.value is None:
        return Estimate(None, None, first.reason or second.reason, influence)
    value = second.value - first.value
    if first.ends is None or second.ends is None:
        return Estimate(value, None, first.reason or second.reason, influence)
    if value == 0 and not influence.any() and first.influence.any():
        return Estimate(value, None, "both rank all images alike", influence)
    related = correlation(first.influence, second.influence)

    def distance(a: float, b: float) -> float:
        return float(np.sqrt(max(a**2 + b**2 - 2 * related * a * b, 0.0)))

    low = value - distance(second.value - second.ends[0], first.ends[1] - first.value)
    high = value + distance(second.ends[1] - second.value, first.value - first.ends[0])
    return Estimate(value, (max(low, -1.0), min(high, 1.0)), None, influence)
