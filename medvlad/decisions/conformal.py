r"""Prediction sets: the classes that an image may well have.

Class-conditional (Mondrian) conformal prediction (Vovk, Gammerman & Shafer, Algorithmic Learning in a Random
World, 2005). The margin of class :math:`k` is its decision value minus the largest of the other classes,
:math:`m_k = s_k - \max_{j \ne k} s_j`. With the margins :math:`m^{(1)}, \dots, m^{(n_k)}` of held-out
training images of class :math:`k` for their own class,

.. math::

   p_k = \frac{1 + |\{i : m^{(i)} \le m_k\}|}{n_k + 1} .

The set of coverage :math:`1 - \alpha` holds the classes with :math:`p_k > \alpha`. If a new image of class
:math:`k` is exchangeable with the held-out ones, its class is in the set with a probability of at least
:math:`1 - \alpha`, for each class, whatever the classifier is. This holds if each patient has one image. If
images of a patient are alike, the number of patients counts, and with few patients the coverage is lower
(docs/howto/acting.md has a simulation). Ranks are whole numbers. So without ties, the probability is

.. math::

   1 - \frac{\lfloor \alpha (n_k + 1) \rfloor}{n_k + 1} < 1 - \alpha + \frac{1}{n_k + 1} .

Two things make coverage higher than :math:`1 - \alpha`:

- *Whole ranks*, as above. Smoothed p-values (the same book) multiply the new image's own rank by a random
  number. They are exact, but an image near the border is decided by chance. A number derived from the image
  would repeat, but decision values differ in their last bits between processors, and so would the sets.
  Interpolation between ranks is exact for large :math:`n_k` only, and may cover less. Neither is used.
- *Fewer images.* The held-out margins come from folds inside the training images (cross-conformal prediction,
  Vovk, Annals of Mathematics and Artificial Intelligence 2015). These classifiers had fewer images than the
  final one, so new images fit a little better than held-out ones. More folds reduce this: 20 instead of 5
  folds reduced the measured coverage by at most 0.008, and take four times as long.

Because of the second one, new and held-out margins are exchangeable only approximately, and no theorem bounds
the coverage of the final classifier. CV+ (Barber, Candès, Ramdas & Tibshirani, Annals of Statistics 2021)
compares a new image with each held-out one by the classifier of its fold. It has a bound, about
:math:`1 - 2 \alpha`, but a model would have to hold the codebook and the classifier of each fold.

A class with fewer than :math:`1 / \alpha - 1` held-out images is in every set, because nothing can speak
against it.
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
        raise InputError("coverage must be below 1, got 1: only all classes together are always right")
    return coverage


def class_margins(decision: Matrix) -> Matrix:
    """Return how far each class is ahead of the best of the others.

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
        Wanted probability that the true class is in the set. Above 0 and below 1.

    Returns
    -------
    ndarray of bool, shape (n, n_classes)

    Raises
    ------
    InputError
        If `coverage` is out of range.
    """
    return np.asarray(p_values > 1 - check_coverage(coverage) + _ROUNDING)
