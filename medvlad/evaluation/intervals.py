r"""95 % intervals of metrics, by patient.

Images of one patient are alike, so patients and not images are the independent observations. If the patients
are unknown, or every patient has one image, every image is a patient of its own.

**Proportions** (accuracy, sensitivity, specificity, precision). Patient :math:`g` has :math:`n_g` of the
:math:`n` images, of which :math:`k_g` are right; :math:`p = \sum_g k_g / n`. With :math:`G` patients the
variance of this ratio is (Cochran, Sampling Techniques 1977, section 6.6)

.. math::

   V = \frac{G}{G - 1} \sum_g \left( \frac{k_g - p \, n_g}{n} \right)^2 .

The interval is Wilson's score interval (Wilson, JASA 1927) of :math:`m` independent images

.. math::

   \frac{p + \frac{z^2}{2m} \pm z \sqrt{\frac{p (1 - p)}{m} + \frac{z^2}{4 m^2}}}{1 + \frac{z^2}{m}} ,

where :math:`m` is the effective number of images (Korn & Graubard, Survey Methodology 1998; Dean & Pagano,
Survey Methodology 2015). :math:`m_V = p (1 - p) / V`, at most :math:`n`, is a poor estimate if few patients
have an error. Let :math:`d` be the number of patients with a wrong image or of those with a right one,
whichever is smaller. Then

.. math::

   \frac{1}{m} = \frac{1}{d + 1} \left( \frac{d}{m_V} + \frac{1}{\min(m_V, G)} \right) .

This is :math:`m_V` if many patients have errors. Without any error it is the number of patients, as if all
images of a patient were copies. So the interval never has the width 0. :math:`z` is the 97.5th percentile of
Student's distribution with :math:`G - 1` degrees of freedom. If :math:`d = 0` or every patient has one image,
it is 1.96. If every patient has one image, :math:`m = n`: the interval is Wilson's own.

**AUC.** The same interval, with the variance of DeLong, DeLong & Clarke-Pearson (Biometrics 1988) for
patients with several images (Obuchowski, Biometrics 1997). The placement of an image is the share of images
of the other class that it stands on the right side of, ties counted half. Let :math:`h_i` be the placement
minus the AUC, divided by the number of images of the class, and :math:`h_{gs}` the sum over the images of
class :math:`s` of patient :math:`g`. With :math:`G_s` patients of class :math:`s`

.. math::

   V = \sum_s V_s + \frac{G}{G - 1} \sum_g 2 \, h_{g0} h_{g1} , \qquad
   V_s = \frac{G_s}{G_s - 1} \sum_g h_{gs}^2 .

The largest possible :math:`m` and the one without errors follow from the variance of Hanley & McNeil
(Radiology 1982) near 1, with the changes of Newcombe (Statistics in Medicine 2006): for :math:`a` and
:math:`b` images, or patients, of the two classes it is :math:`4 a b / (a + b + 2)`. The degrees of freedom
are Satterthwaite's (Biometrics Bulletin 1946), :math:`(\sum_s V_s)^2 / \sum_s V_s^2 / (G_s - 1)`.

**Means over classes** (balanced accuracy, AUC of several classes). From the intervals :math:`[l_k, u_k]` of
the values :math:`v_k` of :math:`K` classes follows, by the method of variance estimates recovery (Zou &
Donner, Statistics in Medicine 2008),

.. math::

   L = \bar v - \frac{1}{K} \sqrt{\sum_{k, l} r_{kl} \, (v_k - l_k) (v_l - l_l)}

and :math:`U` likewise with :math:`u_k - v_k`. The correlation :math:`r_{kl}` of two values is the correlation
of the sums of :math:`h_i` of each patient.

There is no interval if all images, or all images of a class, are of one patient: nothing is known about other
patients. docs/reliability.md has the coverage that was measured, beside that of a bootstrap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from scipy.stats import norm, rankdata

from medvlad._util.validate import InputError

__all__ = [
    "Estimate",
    "auc_estimate",
    "correlation",
    "mean_estimate",
    "metric_estimates",
    "patient_numbers",
    "proportion_estimate",
    "wilson_interval",
    "with_intervals",
]

METRICS = ("accuracy", "balanced_accuracy", "auc")

_QUANTILE = 0.975
_Z = float(norm.ppf(_QUANTILE))
# A variance below this is rounding: placements are multiples of 1 / n.
_NO_VARIANCE = 1e-20

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % interval.

    Attributes
    ----------
    value : float or None
        None if the metric is undefined.
    ends : (float, float) or None
        Ends of the interval. None if there is no interval.
    reason : str or None
        Why there is no interval. None if there is one.
    influence : ndarray of float, shape (n_patients,)
        How much each patient moves the value. All zeros if the value is undefined.
    """

    value: float | None
    ends: tuple[float, float] | None
    reason: str | None
    influence: Floats


def with_intervals(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    """Return the values, the intervals, and the reasons for those that are missing, for results.json."""
    result: dict[str, Any] = {}
    for metric, one in estimates.items():
        result[metric] = one.value
        result[f"{metric}_ci95"] = None if one.ends is None else list(one.ends)
    result["ci95_missing"] = {
        f"{metric}_ci95": one.reason for metric, one in estimates.items() if one.reason is not None
    }
    return result


def patient_numbers(groups: NDArray[Any] | None, n: int) -> NDArray[np.intp]:
    """Return the number of the patient of each image.

    Parameters
    ----------
    groups : ndarray of shape (n,), or None
        Patient of each image. None: each image is a patient of its own.
    n : int
        Number of images.

    Returns
    -------
    ndarray of int, shape (n,)
        From 0 to the number of patients - 1.

    Raises
    ------
    InputError
        If `groups` has another length.
    """
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise InputError(f"groups has {len(groups)} entries for {n} images: give one for each image, or None")
    return np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]


def wilson_interval(n_correct: float, n: float, z: float = _Z) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion.

    It is computed here because SciPy's takes whole numbers only, and effective numbers are fractions.

    Parameters
    ----------
    n_correct : float
        Number of successes.
    n : float
        Number of independent trials, above 0.
    z : float, default=1.96
        Quantile of the normal distribution; the default gives 95 %.

    Returns
    -------
    low, high : float
        Ends of the interval, within [0, 1].
    """
    share = n_correct / n
    centre = share + z**2 / (2 * n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = ((centre + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    return float(min(max(low, 0.0), share)), float(max(min(high, 1.0), share))


def proportion_estimate(right: Bools, patients: NDArray[np.intp], used: Bools | None = None) -> Estimate:
    """Return the share of right images with its interval.

    Parameters
    ----------
    right : ndarray of bool, shape (n,)
    patients : ndarray of int, shape (n,)
        See :func:`patient_numbers`.
    used : ndarray of bool, shape (n,), or None, default=None
        Which images count. None: all.

    Returns
    -------
    Estimate
        The value is None if no image counts.
    """
    n_patients = int(patients.max()) + 1
    used = np.ones(len(right), bool) if used is None else used
    n = int(used.sum())
    if n == 0:
        return Estimate(None, None, "there is no such image", np.zeros(n_patients))
    share = float(right[used].mean())
    images = np.bincount(patients[used], minlength=n_patients)
    hits = np.bincount(patients[used], right[used], minlength=n_patients)
    influence = (hits - share * images) / n
    present = int((images > 0).sum())
    if present == n:
        return Estimate(share, wilson_interval(share * n, n), None, influence)
    if present == 1:
        return Estimate(share, None, f"all {n} images are of one patient", influence)
    telling = min(int((hits > 0).sum()), int((hits < images).sum()))
    variance = present / (present - 1) * float((influence**2).sum())
    ends = _score_interval(share, variance, telling, n, present, present - 1)
    return Estimate(share, ends, None, influence)


def auc_estimate(own: Bools, scores: Floats, patients: NDArray[np.intp]) -> Estimate:
    """Return the area under the ROC curve of a class against the others, with its interval.

    Parameters
    ----------
    own : ndarray of bool, shape (n,)
        Which images belong to the class.
    scores : ndarray of float, shape (n,)
        Larger values mean that the class is more likely.
    patients : ndarray of int, shape (n,)
        See :func:`patient_numbers`.

    Returns
    -------
    Estimate
        The value is None if all images belong to the class, or none does.
    """
    n_patients = int(patients.max()) + 1
    if own.all() or not own.any():
        return Estimate(None, None, "it needs images of two classes", np.zeros(n_patients))
    placements = _placements(own, scores)
    area = float(placements[own].mean())
    sums = np.empty((2, n_patients))  # over the images of a class of each patient
    images = np.empty((2, n_patients), np.intp)
    telling = len(own)
    for row, members in enumerate((own, ~own)):
        its = patients[members]
        images[row] = np.bincount(its, minlength=n_patients)
        sums[row] = np.bincount(its, placements[members] - area, minlength=n_patients) / members.sum()
        for moved in (placements[members] < 1, placements[members] > 0):
            telling = min(telling, len(np.unique(its[moved])))
    influence = sums.sum(axis=0)
    present = (images > 0).sum(axis=1)
    if (present < 2).any():
        reason = "it needs two patients of each class, and one class has only one"
        return Estimate(area, None, reason, influence)
    variances = present / (present - 1) * (sums**2).sum(axis=1)
    together = int((images.sum(axis=0) > 0).sum())
    cross = together / (together - 1) * 2 * float((sums[0] * sums[1]).sum())
    freedom = variances.sum() ** 2 / max(float((variances**2 / (present - 1)).sum()), _NO_VARIANCE**2)
    ends = _score_interval(
        area,
        max(float(variances.sum()) + cross, 0.0),
        telling,
        _trials(*images.sum(axis=1)),
        _trials(*present),
        min(float(freedom), together - 1),
    )
    return Estimate(area, ends, None, influence)


def mean_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of metrics of several classes, with its interval.

    Parameters
    ----------
    estimates : sequence of Estimate

    Returns
    -------
    Estimate
        The value is None if one of the values is, and there is no interval if one of the metrics has none.
    """
    influence = np.mean([one.influence for one in estimates], axis=0)
    values = [one.value for one in estimates if one.value is not None]
    reason = next((one.reason for one in estimates if one.reason is not None), None)
    if len(values) < len(estimates):
        return Estimate(None, None, reason, influence)
    mean = float(np.mean(values))
    if len(estimates) == 1 or reason is not None:
        return Estimate(mean, estimates[0].ends if reason is None else None, reason, influence)
    off = np.array([one.ends for one in estimates]) - np.array(values)[:, None]
    related = np.array([[correlation(a.influence, b.influence) for b in estimates] for a in estimates])
    np.fill_diagonal(related, 1.0)  # also of a constant, which has an interval all the same
    low, high = (float(np.sqrt(max(side @ related @ side, 0.0))) / len(values) for side in off.T)
    return Estimate(mean, (max(mean - low, 0.0), min(mean + high, 1.0)), None, influence)


def metric_estimates(
    labels: NDArray[np.int64], decision: Floats, *, groups: NDArray[Any] | None = None
) -> dict[str, Estimate]:
    """Return accuracy, balanced accuracy and AUC with their intervals.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
        True classes, from 0 to n_classes - 1.
    decision : ndarray of float, shape (n, n_classes)
        The largest value of a row is the decided class.
    groups : ndarray of shape (n,), or None
        Patient of each image. None: each image is a patient of its own.

    Returns
    -------
    dict of str to Estimate
        accuracy, balanced_accuracy (over the classes that have images) and auc (mean over classes, each
        against the others).

    Raises
    ------
    InputError
        If there is no image, or the shapes do not match.
    """
    labels, decision = np.asarray(labels), np.asarray(decision)
    if decision.ndim != 2 or len(labels) != len(decision) or len(labels) == 0:
        raise InputError(
            f"labels of shape {labels.shape} and decision values of shape {decision.shape} do not match: "
            "give shapes (n,) and (n, n_classes) with n of at least 1"
        )
    patients = patient_numbers(groups, len(labels))
    right = decision.argmax(axis=1) == labels
    recalls = [proportion_estimate(right, patients, labels == k) for k in np.unique(labels)]
    aucs = [auc_estimate(labels == k, decision[:, k], patients) for k in range(decision.shape[1])]
    return {
        "accuracy": proportion_estimate(right, patients),
        "balanced_accuracy": mean_estimate(recalls),
        "auc": mean_estimate(aucs),
    }


def correlation(first: Floats, second: Floats) -> float:
    """Return the correlation of two estimates from the influences of the patients, 0 if one is constant."""
    size = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float(np.clip((first * second).sum() / size, -1.0, 1.0)) if size > _NO_VARIANCE else 0.0


def _placements(own: Bools, scores: Floats) -> Floats:
    """Return the share of the other class that each image stands on the right side of."""
    found = np.empty(len(own))
    ranks = rankdata(scores)
    n_own = int(own.sum())
    found[own] = (ranks[own] - rankdata(scores[own])) / (len(own) - n_own)
    found[~own] = 1 - (ranks[~own] - rankdata(scores[~own])) / n_own
    return found


def _trials(first: int, second: int) -> float:
    """Return the number of trials whose proportion varies as much as an AUC near 1."""
    return 4.0 * first * second / (first + second + 2)


def _score_interval(
    value: float, variance: float, telling: int, most: float, patients: float, freedom: float
) -> tuple[float, float]:
    """Return the interval of a metric between 0 and 1; the module docstring has the formulas.

    `telling` is :math:`d`, `most` the largest effective number of images, `patients` that without errors.
    """
    if telling == 0 or variance < _NO_VARIANCE:
        # Nothing varies: no errors, or the same share of every patient.
        return wilson_interval(value * patients, patients)
    estimated = min(value * (1 - value) / variance, most)
    inverse = (telling / estimated + 1 / min(patients, estimated)) / (telling + 1)
    return wilson_interval(value / inverse, 1 / inverse, float(stdtrit(freedom, _QUANTILE)))
