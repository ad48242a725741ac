r"""Decision curve: net benefit of decisions by probability, compared with acting on all images or on none.

At the probability threshold :math:`t`, one true positive is worth :math:`(1 - t) / t` false positives. The
net benefit of acting on every image with :math:`p_i \ge t` (Vickers & Elkin, Medical Decision Making 2006) is

.. math::

   \text{NB}(t) = \frac{1}{n} \sum_i [p_i \ge t] \left( y_i - (1 - y_i) \frac{t}{1 - t} \right) ,

in true positives per image. Acting on all images has the same formula with every :math:`p_i \ge t`. Acting on
none has net benefit 0. The probabilities must be calibrated.

The interval is that of a mean over :math:`G` patients: with :math:`b_i` the term of an image and :math:`n_g`
the number of images of patient :math:`g`, the variance is
:math:`G / (G - 1) \sum_g (\sum_{i \in g} b_i - n_g \text{NB})^2 / n^2`. It holds for one threshold at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from medvlad.evaluation.intervals import patient_numbers

__all__ = ["THRESHOLDS", "decision_curve"]

#: Thresholds of a curve.
THRESHOLDS = np.arange(1, 100) / 100

_QUANTILE = 0.975


def decision_curve(
    own: NDArray[np.bool_], probability: NDArray[np.float64], *, groups: NDArray[Any] | None = None
) -> dict[str, list[float]]:
    """Return the net benefit at each threshold; the module docstring has the formula.

    Parameters
    ----------
    own : ndarray of bool, shape (n,)
        Which images are of the class to act on.
    probability : ndarray of float, shape (n,)
        Probability of that class.
    groups : ndarray of shape (n,), or None
        Patient of each image. None: each image is a patient of its own.

    Returns
    -------
    dict
        threshold (0.01 to 0.99), net_benefit, low and high (ends of its 95 % interval; equal to net_benefit
        if there is one patient only), and all (net benefit of acting on every image): lists of equal length.
    """
    patients = patient_numbers(groups, len(own))
    weight = THRESHOLDS / (1 - THRESHOLDS)
    gain = np.where(own[:, None], 1.0, -weight)
    term = np.where(probability[:, None] >= THRESHOLDS, gain, 0.0)
    benefit = term.mean(axis=0)
    n_patients = len(np.unique(patients))
    half = np.zeros(len(THRESHOLDS))
    if n_patients > 1:
        sums = np.zeros((int(patients.max()) + 1, len(THRESHOLDS)))
        np.add.at(sums, patients, term - benefit)
        variance = n_patients / (n_patients - 1) * (sums**2).sum(axis=0) / len(own) ** 2
        half = float(stdtrit(n_patients - 1, _QUANTILE)) * np.sqrt(variance)
    return {
        "threshold": THRESHOLDS.tolist(),
        "net_benefit": benefit.tolist(),
        "low": (benefit - half).tolist(),
        "high": (benefit + half).tolist(),
        "all": gain.mean(axis=0).tolist(),
    }
