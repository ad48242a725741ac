r"""Estimate the share of each class among new images, without their labels.

Let :math:`\pi_k` be the share of class :math:`k` among the training images, and :math:`p_{ik}` the calibrated
probability of image :math:`i`. If only the shares :math:`q_k` have changed, and not the images of each class,
expectation maximisation finds the shares (Saerens, Latinne & Decaestecker, Neural Computation 2002):

.. math::

   p'_{ik} \propto \frac{q_k}{\pi_k} \, p_{ik} , \qquad q_k \leftarrow \frac{1}{n} \sum_i p'_{ik} .

The likelihood has one maximum, so the start does not matter. The interval is a percentile bootstrap over
patients.

**Assumption.** The images of each class are like the training images of that class. If they are not (other
equipment, other patients), the estimate is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.evaluation.intervals import patient_numbers

__all__ = ["estimate_shares", "prior_shift"]

_ROUNDS = 1000
_CHANGE = 1e-8
_BOOTSTRAPS = 200

Floats = NDArray[np.float64]


def estimate_shares(probability: Floats, priors: Floats, weights: Floats | None = None) -> Floats:
    """Return the estimated share of each class; the module docstring has the method.

    Parameters
    ----------
    probability : ndarray of float, shape (n, n_classes)
        Calibrated for images in which the classes have the shares `priors`.
    priors : ndarray of float, shape (n_classes,)
        Shares among the training images, all above 0.
    weights : ndarray of float, shape (n,), or None
        How often each image counts. None: once.

    Returns
    -------
    ndarray of float, shape (n_classes,)
        They add up to 1.
    """
    weights = np.ones(len(probability)) if weights is None else weights
    shares: Floats = priors / priors.sum()
    ratio = np.maximum(probability, 1e-12) / shares
    for _ in range(_ROUNDS):
        posterior = ratio * shares
        posterior /= posterior.sum(axis=1, keepdims=True)
        found = weights @ posterior / weights.sum()
        if np.abs(found - shares).max() < _CHANGE:
            return np.asarray(found)
        shares = found
    return shares


def prior_shift(
    probability: Floats,
    training_counts: Mapping[str, int],
    *,
    groups: NDArray[Any] | None = None,
    random_state: int = 0,
) -> dict[str, dict[str, Any]]:
    """Estimate the share of each class among unlabelled images, with intervals.

    Parameters
    ----------
    probability : ndarray of float, shape (n, n_classes)
        Calibrated probabilities, in the order of `training_counts`.
    training_counts : mapping of str to int
        Number of training images by class.
    groups : ndarray of shape (n,), or None
        Patient of each image. None: each image is a patient of its own.
    random_state : int, default=0
        Seed of the bootstrap.

    Returns
    -------
    dict of str to dict
        By class: training (its share among the training images), estimated, and estimated_ci95: [low, high],
        or None if all images are of one patient.

    Raises
    ------
    InputError
        If a class has no training image.
    """
    counts = np.array(list(training_counts.values()), np.float64)
    if (counts <= 0).any():
        raise InputError("a class has no training images, so its share cannot be estimated: train again")
    priors = counts / counts.sum()
    estimated = estimate_shares(probability, priors)
    patients = patient_numbers(groups, len(probability))
    n_patients = int(patients.max()) + 1
    # All resamples of one patient are equal, and their interval would have no width.
    ends = None if n_patients < 2 else _bootstrap_ends(probability, priors, patients, random_state)
    return {
        name: {
            "training": float(priors[k]),
            "estimated": float(estimated[k]),
            "estimated_ci95": None if ends is None else [float(ends[0, k]), float(ends[1, k])],
        }
        for k, name in enumerate(training_counts)
    }


def _bootstrap_ends(
    probability: Floats, priors: Floats, patients: NDArray[np.intp], random_state: int
) -> Floats:
    """Return the ends (2, n_classes) of the intervals of the estimated shares."""
    n_patients = int(patients.max()) + 1
    rng = np.random.default_rng(random_state)
    drawn = []
    for _ in range(_BOOTSTRAPS):
        counts = np.bincount(rng.integers(0, n_patients, n_patients), minlength=n_patients)
        drawn.append(estimate_shares(probability, priors, counts[patients].astype(np.float64)))
    return np.asarray(np.percentile(np.array(drawn), [2.5, 97.5], axis=0))
