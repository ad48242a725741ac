r"""Probability of a label from its decision value.

With the decision value :math:`s` the probability is :math:`p = 1 / (1 + e^{a s + b})` (Platt, Advances in
Large Margin Classifiers 1999). :math:`a` and :math:`b` minimise the log loss against smoothed targets in
place of 1 and 0: :math:`(n_1 + 1) / (n_1 + 2)` and :math:`1 / (n_0 + 2)` for :math:`n_1` images with the
label and :math:`n_0` without it. So probabilities stay below 1 even if the values separate the label.

The loss is convex. Newton's method finds its minimum; a step is halved until it lowers the loss. Decision
values are standardised first, which does not change the minimum.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log1p

__all__ = ["platt_parameters", "platt_probability"]

Vector = NDArray[np.float64]

_MAX_STEPS = 100
_GRADIENT = 1e-10  # of a mean over the images
_LEAST_CURVATURE = 1e-12


def platt_parameters(decision: Vector, truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Return a and b of the module docstring.

    Parameters
    ----------
    decision : ndarray of float64, shape (n,)
        Decision values of images that the classifier was not trained on.
    truth : ndarray of bool, shape (n,)
        Whether an image has the label. Both values must occur.

    Returns
    -------
    a, b : float
    """
    n_with = int(truth.sum())
    n_without = len(truth) - n_with
    wanted = np.where(truth, (n_with + 1.0) / (n_with + 2.0), 1.0 / (n_without + 2.0))
    centre = float(decision.mean())
    spread = float((decision - centre).std()) or 1.0
    s = (decision - centre) / spread
    rows = np.column_stack([s, np.ones_like(s)])
    found = np.array([0.0, np.log((n_with + 1.0) / (n_without + 1.0))])
    loss = _loss(rows @ found, wanted)
    for _ in range(_MAX_STEPS):
        p = expit(rows @ found)
        gradient = rows.T @ (p - wanted) / len(s)
        if float(np.abs(gradient).max()) < _GRADIENT:
            break
        curved = (rows * (p * (1.0 - p))[:, None]).T @ rows / len(s)
        curved[np.diag_indices(2)] += _LEAST_CURVATURE
        step = np.linalg.solve(curved, gradient)
        size = 1.0
        while size > 1e-10 and _loss(rows @ (found - size * step), wanted) > loss:
            size /= 2.0
        found = found - size * step
        loss = _loss(rows @ found, wanted)
    slope, constant = found
    return float(-slope / spread), float(slope * centre / spread - constant)


def platt_probability(decision: Vector, a: Vector, b: Vector) -> Vector:
    """Return the probabilities of decision values, broadcast over `a` and `b`."""
    probability: Vector = expit(-(decision * a + b))
    return probability


def _loss(logit: Vector, wanted: Vector) -> float:
    """Return the mean log loss of logits. It does not overflow."""
    return float((np.maximum(logit, 0) - logit * wanted + log1p(np.exp(-np.abs(logit)))).mean())
