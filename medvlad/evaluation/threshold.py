"""Where to cut decision values of images that come from elsewhere, without a label of theirs.

A linear SVM decides at 0, which is right where new images are like those it was trained on. Where one class
has moved (other apparatus, other patients), ranks often survive and the cut does not. Two classes seen in
unlabelled decision values s are two humps::

    p(s) = pi_0 N(s; mu_0, sd_0^2) + pi_1 N(s; mu_1, sd_1^2),  mu_0 < mu_1,  by expectation maximisation

and the cut is where both terms are equal, between mu_0 and mu_1. This also follows a change of how frequent
the classes are. Whether sd_0 = sd_1 is assumed, and whether there are two humps at all, the Bayesian
information criterion decides; one hump gives no cut. It needs a batch of images from where the classifier is
to be used, both classes among them.
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

_FEWEST = 20  # images; five parameters are estimated


def mixture_threshold(values: ArrayLike, *, random_state: int = 0) -> float | None:
    """Cut between the two humps of decision values.

    Parameters
    ----------
    values : array-like of shape (n,)
        Decision values of a two-class classifier on unlabelled images.
    random_state : int, default=0

    Returns
    -------
    float or None
        Values above it belong to the second class. None where there are fewer than 20 values or one hump, or
        the humps do not cross between their means.

    Raises
    ------
    InputError
        If `values` is not one finite number an image.
    """
    s = np.asarray(values, np.float64)
    if s.ndim != 1 or not np.isfinite(s).all():
        raise InputError(f"decision values must be finite and of shape (n,), got shape {s.shape}")
    spread = s.std() if len(s) else 0.0
    if len(s) < _FEWEST or spread == 0:
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

    def more_likely_high(value: float) -> float:
        share = two.predict_proba([[value]])[0]
        return float(share[high] - share[low])

    ends = float(two.means_[low, 0]), float(two.means_[high, 0])
    if not more_likely_high(ends[0]) < 0 < more_likely_high(ends[1]):
        return None
    return float(brentq(more_likely_high, *ends) * spread + s.mean())
