r"""Prediction sets: sets of classes that contain the true class with a given probability.

Class-conditional (Mondrian) conformal prediction (Vovk, Gammerman & Shafer, Algorithmic Learning in a Random
World, 2005). The margin of class :math:`k` is its decision value minus the largest of the other classes,
:math:`m_k = s_k - \max_{j \ne k} s_j`. With the margins :math:`m^{(1)}, \dots, m^{(n_k)}` of held-out
training images of class :math:`k` for their own class,

.. math::

   p_k = \frac{1 + |\{i : m^{(i)} \le m_k\}|}{n_k + 1} .

The set of coverage :math:`1 - \alpha` holds the classes with :math:`p_k > \alpha`. If a new image of class
:math:`k` is exchangeable with the held-out ones, its class is in the set with a probability of at least
:math:`1 - \alpha`, for each class, whatever the classifier is. The held-out margins come from the folds
inside the training images (cross-conformal prediction, Vovk, Annals of Mathematics and Artificial
Intelligence 2015). Each of these classifiers had fewer images than the final one. So the sets are slightly
larger than necessary, rather than too small.

A class with fewer than :math:`1 / \alpha - 1` held-out images is in every set, because its smallest p-value
is above :math:`\alpha`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, check_interval

__all__ = ["check_coverage", "class_margins", "conformal_p_values", "prediction_sets"]

_ROUNDING = 1e-9  # of 1 - coverage and of a quotient of whole numbers

Matrix = NDArray[np.float64]


def check_coverage(coverage: float) -> float:
    """Return the coverage of prediction sets, or raise InputError if it is not above 0 and below 1."""
    coverage = check_interval(coverage, "coverage", 0.0, 1.0)
    if coverage == 1:
        raise InputError("coverage must be below 1, got 1: use for example 0.95")
    return coverage


def class_margins(decision: Matrix) -> Matrix:
    """Return the margin of each class: its decision value minus the largest one of the other classes.

    Parameters
    ----------
    decision : ndarray of float, shape (n, n_classes)

    Returns
    -------
    ndarray of float64, shape (n, n_classes)
    """
    values = np.asarray(decision, np.float64)
    ordered = np.sort(values, axis=1)
    best_other = np.where(values == ordered[:, -1:], ordered[:, -2:-1], ordered[:, -1:])
    return values - best_other


def conformal_p_values(held_out: Matrix, labels: NDArray[np.int64], decision: Matrix) -> Matrix:
    """Return the p-value of each class; the module docstring has the formula.

    Parameters
    ----------
    held_out : ndarray of float, shape (m, n_classes)
        Decision values of images that the classifier was not trained on.
    labels : ndarray of int, shape (m,)
        Their classes, from 0 to n_classes - 1.
    decision : ndarray of float, shape (n, n_classes)
        Decision values of new images.

    Returns
    -------
    ndarray of float64, shape (n, n_classes)
        Above 0, at most 1. 1 for a class without held-out images.
    """
    known, new = class_margins(held_out), class_margins(decision)
    found = np.ones(new.shape)
    for k in range(new.shape[1]):
        own = np.sort(known[labels == k, k])
        found[:, k] = (1 + np.searchsorted(own, new[:, k], side="right")) / (len(own) + 1)
    return found


def prediction_sets(p_values: Matrix, coverage: float) -> NDArray[np.bool_]:
    """Return which classes are in the prediction set of each image.

    Parameters
    ----------
    p_values : ndarray of float, shape (n, n_classes)
        See :func:`conformal_p_values`.
    coverage : float
        Probability that the true class is in the set. Above 0 and below 1.

    Returns
    -------
    ndarray of bool, shape (n, n_classes)

    Raises
    ------
    InputError
        If `coverage` is out of range.
    """
    return np.asarray(p_values > 1 - check_coverage(coverage) + _ROUNDING)
