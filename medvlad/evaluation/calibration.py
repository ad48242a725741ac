r"""The quality of probabilities.

The quality of probabilities :math:`p_{ik}` of :math:`n` images is measured as follows, with
:math:`y_{ik} = 1` for the true class and 0 for the others.

.. math::

   \text{Brier score} &= \frac{1}{n} \sum_i \sum_k (p_{ik} - y_{ik})^2

   \text{log loss} &= -\frac{1}{n} \sum_i \sum_k y_{ik} \log p_{ik}

   \text{expected calibration error} &= \sum_b \frac{n_b}{n} \, |\text{accuracy}_b - \text{confidence}_b|

With two classes, the Brier score counts one of them (Brier 1950). The confidence of an image is its largest
:math:`p_{ik}`. The calibration error sorts the images by confidence into at most ten bins :math:`b` of about
equal size :math:`n_b` (Naeini, Cooper & Hauskrecht, AAAI 2015, with bins of equal width). Images with the
same confidence are in the same bin, so the order of the images does not matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from medvlad.decisions.calibration import METHODS, calibrator

__all__ = ["METHODS", "calibration_metrics", "calibrator"]

_BINS = 10
_SAME = 1e-12  # confidences that differ by less are equal, apart from rounding

Matrix = NDArray[np.float64]


def calibration_metrics(labels: NDArray[np.int64], probability: Matrix) -> dict[str, Any]:
    """Return the quality of probabilities; the module docstring has the formulas.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
        From 0 to n_classes - 1.
    probability : ndarray of float, shape (n, n_classes)

    Returns
    -------
    dict
        brier, log_loss, expected_calibration_error, and bins: a list of dicts with confidence (mean), right
        (share of correct decisions) and n.
    """
    n_classes = probability.shape[1]
    truth = np.eye(n_classes)[labels]
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == labels
    bins = [
        {"confidence": float(confidence[rows].mean()), "right": float(right[rows].mean()), "n": len(rows)}
        for rows in _bins(confidence)
    ]
    return {
        "brier": float(((probability - truth) ** 2)[:, 1 if n_classes == 2 else 0 :].sum(axis=1).mean()),
        "log_loss": float(log_loss(labels, probability, labels=np.arange(n_classes))),
        "expected_calibration_error": sum(one["n"] * abs(one["right"] - one["confidence"]) for one in bins)
        / len(labels),
        "bins": bins,
    }


def _bins(confidence: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Return the images of each bin: about equally many, cut between different confidences only."""
    order = np.argsort(confidence, kind="stable")
    n = len(order)
    changes = np.flatnonzero(np.diff(confidence[order]) > _SAME) + 1
    if len(changes) == 0:
        return [order]
    wanted = np.arange(1, _BINS) * n / _BINS
    nearest = np.abs(changes[:, None] - wanted).argmin(axis=0)
    return [rows for rows in np.split(order, np.unique(changes[nearest])) if len(rows)]
