r"""A decision threshold for new images, found without their labels.

A linear SVM decides at 0. This is right if the new images are like the training images. If one class has
shifted (other equipment, other patients), the order of the decision values often remains useful, but 0 is the
wrong threshold. The unlabelled decision values :math:`s` of two classes form two humps, fitted by expectation
maximisation as a mixture of two normal distributions:

.. math::

   p(s) = \pi_0 \, N(s; \mu_0, \sigma_0^2) + \pi_1 \, N(s; \mu_1, \sigma_1^2), \qquad \mu_0 < \mu_1 .

The threshold lies between :math:`\mu_0` and :math:`\mu_1`, at the value where both terms are equal. It also
follows a change in how frequent the classes are. The Bayesian information criterion decides whether
:math:`\sigma_0 = \sigma_1` is assumed, and whether there are two humps. With one hump there is no threshold.

The method needs a batch of images from the new source, with both classes among them.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from medvlad._util.validate import InputError

__all__ = ["mixture_threshold"]

_MIN_IMAGES = 20  # the mixture has five parameters


def mixture_threshold(values: ArrayLike, *, random_state: int = 0) -> float | None:
    """Return the threshold between the two humps of decision values.

    Parameters
    ----------
    values : array-like of shape (n,)
        Decision values of a two-class classifier on unlabelled images.
    random_state : int, default=0
        Seed of the starts of expectation maximisation.

    Returns
    -------
    float or None
        Values above it belong to the second class. None if there are fewer than 20 values, if there is only
        one hump, or if the two terms are not equal anywhere between the means.

    Raises
    ------
    InputError
        If `values` is not a 1-D array of finite numbers.
    """
    s = np.asarray(values, np.float64)
    if s.ndim != 1 or not np.isfinite(s).all():
        raise InputError(
            "decision values must be finite and of shape (n,), got "
            + (f"shape {s.shape}" if s.ndim != 1 else f"{s[~np.isfinite(s)][0]}")
        )
    spread = s.std() if len(s) else 0.0
    if len(s) < _MIN_IMAGES or spread == 0:
        return None
    column = ((s - s.mean()) / spread)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        one, *pairs = (
            GaussianMixture(
                k, covariance_type=kind, n_init=3, random_state=random_state, tol=1e-6, max_iter=1000
            ).fit(column)
            for k, kind in ((1, "full"), (2, "tied"), (2, "full"))
        )
    two = min(pairs, key=lambda mixture: mixture.bic(column))
    if one.bic(column) <= two.bic(column):
        return None
    low, high = np.argsort(two.means_[:, 0])

    def excess(value: float) -> float:
        """Return how much more probable the upper hump is at a standardised value."""
        share = two.predict_proba([[value]])[0]
        return float(share[high] - share[low])

    ends = float(two.means_[low, 0]), float(two.means_[high, 0])
    if not excess(ends[0]) < 0 < excess(ends[1]):
        return None
    return float(brentq(excess, *ends) * spread + s.mean())
