r"""Calibration slope and intercept of the probabilities of one class, with intervals by patient.

With the probability :math:`p_i` and the truth :math:`y_i` (1: the image is of the class), two logistic
regressions are fitted (Cox, Biometrika 1958):

.. math::

   \operatorname{logit} P(y_i = 1) = \alpha + \beta \operatorname{logit} p_i , \qquad
   \operatorname{logit} P(y_i = 1) = \gamma + \operatorname{logit} p_i .

:math:`\beta` is the calibration slope. It is 1 for perfect probabilities, below 1 if they are too extreme and
above 1 if they are too cautious. :math:`\gamma` is the calibration intercept, also called calibration in the
large: 0 if the probabilities are right on average, below 0 if they are too high (Van Calster et al., BMC
Medicine 2019).

The variance is the sandwich estimate by patient (Liang & Zeger, Biometrika 1986): with the information
:math:`H` and the score :math:`u_g` of the images of patient :math:`g`, of :math:`G` patients,

.. math::

   V = \frac{G}{G - 1} \, H^{-1} \Big( \sum_g u_g u_g^T \Big) H^{-1} .

The interval uses Student's distribution with :math:`G - 1` degrees of freedom. Probabilities of 0 and 1 have
no logit, so all are moved into :math:`[10^{-6}, 1 - 10^{-6}]` first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit, stdtrit

from medvlad.evaluation.intervals import patient_numbers, proportion_estimate

__all__ = ["observed_bins", "recalibration"]

_LEAST = 1e-6
_QUANTILE = 0.975
_FLAT = 1e-9  # spread of logits below which no slope can be found
_BINS = 10
_SAME = 1e-12  # probabilities that differ by less are equal, apart from rounding

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def recalibration(own: Bools, probability: Floats, *, groups: NDArray[Any] | None = None) -> dict[str, Any]:
    """Return calibration slope and intercept; the module docstring has the formulas.

    Parameters
    ----------
    own : ndarray of bool, shape (n,)
        Which images are of the class.
    probability : ndarray of float, shape (n,)
        Probability of the class.
    groups : ndarray of shape (n,), or None
        Patient of each image. None: each image is a patient of its own.

    Returns
    -------
    dict
        slope, intercept, and their intervals slope_ci95 and intercept_ci95: [low, high]. observed is the
        share of the class, expected the mean probability. bins: see `observed_bins`. A value that does
        not exist is None, and missing has the reasons by name.
    """
    patients = patient_numbers(groups, len(own))
    x = logit(np.clip(probability, _LEAST, 1 - _LEAST))
    found: dict[str, Any] = {"observed": float(own.mean()), "expected": float(probability.mean())}
    missing: dict[str, str] = {}
    ones = np.ones((len(own), 1))
    for name, design, offset, at in (
        ("slope", np.column_stack([ones[:, 0], x]), np.zeros(len(x)), 1),
        ("intercept", ones, x, 0),
    ):
        reason = _why_none(own, x, slope=name == "slope")
        value, ends = None, None
        if reason is None:
            value, ends = _fit(design, offset, own, patients, at)
            reason = None if ends is not None else "all images are of one patient"
        found[name], found[f"{name}_ci95"] = value, ends
        if reason is not None:
            missing[name] = reason
    return found | {"missing": missing, "bins": observed_bins(own, probability, patients)}


def observed_bins(own: Bools, probability: Floats, patients: NDArray[np.intp]) -> list[dict[str, Any]]:
    """Return the observed share of a class by its probability.

    Parameters
    ----------
    own, probability
        See :func:`recalibration`.
    patients : ndarray of int, shape (n,)
        See :func:`medvlad.evaluation.intervals.patient_numbers`.

    Returns
    -------
    list of dict
        At most ten bins of about equal size, by increasing probability: probability (mean), observed,
        observed_ci95 ([low, high] or None) and n. Equal probabilities are in one bin.
    """
    order = np.argsort(probability, kind="stable")
    changes = np.flatnonzero(np.diff(probability[order]) > _SAME) + 1
    cuts = np.empty(0, np.intp)
    if len(changes):
        wanted = np.arange(1, _BINS) * len(own) / _BINS
        cuts = np.unique(changes[np.abs(changes[:, None] - wanted).argmin(axis=0)])
    bins = []
    for rows in np.split(order, cuts):
        one = proportion_estimate(own[rows], np.unique(patients[rows], return_inverse=True)[1])
        bins.append(
            {
                "probability": float(probability[rows].mean()),
                "observed": one.value,
                "observed_ci95": None if one.ends is None else list(one.ends),
                "n": len(rows),
            }
        )
    return bins


def _why_none(own: Bools, x: Floats, *, slope: bool) -> str | None:
    """Return why there is no such value. None: there is one."""
    if own.all() or not own.any():
        return "it needs images of the class and others"
    if not slope:
        return None
    if np.ptp(x) < _FLAT:
        return "all probabilities are equal"
    if x[own].min() >= x[~own].max() or x[own].max() <= x[~own].min():
        return "the probabilities separate the classes completely"
    return None


def _fit(
    design: Floats, offset: Floats, own: Bools, patients: NDArray[np.intp], at: int
) -> tuple[float, list[float] | None]:
    """Fit a logistic regression. Return coefficient `at`, and its interval (None: only one patient)."""
    sign = np.where(own, 1.0, -1.0)

    def loss(beta: Floats) -> float:
        return float(np.logaddexp(0, -sign * (offset + design @ beta)).sum())

    def gradient(beta: Floats) -> Floats:
        slopes: Floats = design.T @ (expit(offset + design @ beta) - own)
        return slopes

    def information(beta: Floats) -> Floats:
        p = expit(offset + design @ beta)
        curvature: Floats = (design * (p * (1 - p))[:, None]).T @ design
        return curvature

    solved = minimize(
        loss,
        np.zeros(design.shape[1]),
        jac=gradient,
        hess=information,
        method="trust-exact",
        options={"gtol": 1e-8 * len(own)},
    )
    beta: Floats = solved.x
    value = float(beta[at])
    n_patients = len(np.unique(patients))
    if n_patients < 2:
        return value, None
    scores = design * (own - expit(offset + design @ beta))[:, None]
    sums = np.array([np.bincount(patients, column) for column in scores.T])
    inverse = np.linalg.inv(information(beta))
    variance = n_patients / (n_patients - 1) * (inverse @ (sums @ sums.T) @ inverse)[at, at]
    half = float(stdtrit(n_patients - 1, _QUANTILE)) * float(np.sqrt(variance))
    return value, [value - half, value + half]
