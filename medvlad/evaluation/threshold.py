r"""A decision threshold for new images, found without their labels.

A linear SVM decides at 0. This is right if the new images are like the training images. If one class has
shifted (other equipment, other patients), the order of the decision values often remains useful, but 0 is the
wrong threshold. The unlabelled decision values :math:`s` of two classes form two humps, fitted as a mixture

.. math::

   p(s) = \pi_0 \, f_0(s) + \pi_1 \, f_1(s) , \qquad \mu_0 < \mu_1 ,

of two distributions with means :math:`\mu_k` and variances :math:`\sigma_k^2`. They are normal, with equal
variances or not, or skew normal (:mod:`medvlad.evaluation.two_populations`). The Bayesian information
criterion (BIC) decides. The threshold lies between :math:`\mu_0` and :math:`\mu_1`, where both terms are
equal. It also follows a change in how frequent the classes are.

**Assumption.** Both classes are among the images, neither of them rare, and each class is one hump. The
method cannot prove this. It refuses a threshold unless

- the two humps explain the values better than the best single population, skewed ones included, by at least 2
  in BIC (positive evidence by Kass & Raftery, JASA 1995; :mod:`medvlad.evaluation.single_population`);
- they are separate: :math:`(\mu_1 - \mu_0) / \sqrt{(\sigma_0^2 + \sigma_1^2) / 2} > 2` (Ashman, Bird & Zepf,
  Astronomical Journal 1994);
- each holds at least 10 % of the images, by its weight :math:`\pi` and by the threshold. If one class is
  rarer, the threshold would follow the tail of the other class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from medvlad._util.blas_threads import single_threaded_blas
from medvlad._util.validate import InputError
from medvlad.evaluation.single_population import single_population_bic
from medvlad.evaluation.two_populations import fit_two_populations

__all__ = ["ASSUMPTION", "Threshold", "find_threshold", "mixture_threshold"]

#: What must be true of the images for the threshold to be right.
ASSUMPTION = "both classes are among the test images, neither is rare, and each is one group of scores"

_MIN_IMAGES = 20  # a mixture has up to seven parameters
_LEAST_EVIDENCE = 2.0
_LEAST_SEPARATION = 2.0
_LEAST_SHARE = 0.1


@dataclass(frozen=True)
class Threshold:
    """Result of :func:`find_threshold`.

    Attributes
    ----------
    value : float or None
        Values above it belong to the second class. None if no threshold was found.
    reason : str or None
        Why no threshold was found. None if one was.
    """

    value: float | None
    reason: str | None = None


def mixture_threshold(values: ArrayLike, *, random_state: int = 0) -> float | None:
    """Return the threshold between the two humps of decision values, None if none was found.

    Parameters, errors and method are those of :func:`find_threshold`, which also has the reason.
    """
    return find_threshold(values, random_state=random_state).value


def find_threshold(values: ArrayLike, *, random_state: int = 0) -> Threshold:
    """Find the threshold between the two humps of decision values.

    Parameters
    ----------
    values : array-like of shape (n,)
        Decision values of a two-class classifier on unlabelled images.
    random_state : int, default=0
        Seed of the starts of expectation maximisation.

    Returns
    -------
    Threshold
        Without a value if there are fewer than 20 values, or the conditions of the module docstring do not
        hold.

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
    if len(s) < _MIN_IMAGES:
        return Threshold(None, f"{len(s)} images are too few, {_MIN_IMAGES} are needed")
    spread = s.std()
    if spread == 0:
        return Threshold(None, "all scores are equal")
    standard = (s - s.mean()) / spread
    with single_threaded_blas():  # several threads would only wait for each other
        two = fit_two_populations(standard, random_state=random_state)
        evidence = single_population_bic(standard) - two.bic
    if evidence < _LEAST_EVIDENCE:
        return Threshold(None, "the scores look like one group, which may be skewed")
    low, high = two.means.tolist()
    separation = (high - low) / float(np.sqrt(two.variances.mean()))
    if separation <= _LEAST_SEPARATION or not two.excess(low) < 0 < two.excess(high):
        return Threshold(None, "the two groups of scores overlap too much")
    cut = float(brentq(two.excess, low, high))
    above = float((standard > cut).mean())
    if min(above, 1 - above, *two.weights) < _LEAST_SHARE:
        return Threshold(
            None, f"the smaller group of scores holds less than {_LEAST_SHARE:.0%} of the images"
        )
    return Threshold(float(cut * spread + s.mean()))
