r"""Two groups of numbers: a mixture of two normal or two skew normal distributions.

The density of a skew normal distribution (Azzalini, Scandinavian Journal of Statistics 1985) with position
:math:`\xi`, scale :math:`\omega` and shape :math:`\alpha` is

.. math::

   f(s) = \frac{2}{\omega} \, \varphi(z) \, \Phi(\alpha z) , \qquad z = \frac{s - \xi}{\omega} .

With :math:`\alpha = 0` it is normal. With a large :math:`\alpha` it is skewed like a gamma distribution.
Three mixtures are fitted: normal with equal variances, normal (both by expectation maximisation), and skew
normal (by maximum likelihood, from the normal one with every pair of signs of :math:`\alpha`). The one with
the smallest Bayesian information criterion is used.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_expit
from scipy.stats import skewnorm
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from medvlad.evaluation.single_population import skew_normal_log_density

__all__ = ["TwoPopulations", "fit_two_populations"]

_START_SHAPE = 1.5
_BOUNDS = [(-6.0, 6.0), (-4.0, 2.0), (-20.0, 20.0)]  # position, logarithm of the scale, shape

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TwoPopulations:
    """A mixture of two distributions, the one with the smaller mean first.

    Attributes
    ----------
    weights, positions, scales, shapes : ndarray of float, shape (2,)
        Shares of the two, and parameters of the skew normal distributions.
    bic : float
        Bayesian information criterion.
    """

    weights: Floats
    positions: Floats
    scales: Floats
    shapes: Floats
    bic: float

    @property
    def means(self) -> Floats:
        """Mean of each distribution."""
        return np.asarray(skewnorm.mean(self.shapes, self.positions, self.scales), np.float64)

    @property
    def variances(self) -> Floats:
        """Variance of each distribution."""
        return np.asarray(skewnorm.var(self.shapes, self.positions, self.scales), np.float64)

    def excess(self, value: float) -> float:
        """Return the logarithm of how many times more likely the second distribution is at a value."""
        log_weights = np.log(self.weights)
        low, high = (
            log_weights[k] + skewnorm.logpdf(value, self.shapes[k], self.positions[k], self.scales[k])
            for k in (0, 1)
        )
        return float(high - low)


def fit_two_populations(values: Floats, *, random_state: int = 0) -> TwoPopulations:
    """Fit the mixtures, and return the best.

    Parameters
    ----------
    values : ndarray of float, shape (n,)
        With mean 0 and standard deviation 1.
    random_state : int, default=0
        Seed of the starts of expectation maximisation.

    Returns
    -------
    TwoPopulations
    """
    tied, full = (_normal(values, kind, random_state) for kind in ("tied", "full"))
    normal = min(tied, full, key=lambda one: one.bic)
    return min(normal, _skew_normal(values, normal), key=lambda one: one.bic)


def _normal(values: Floats, kind: str, random_state: int) -> TwoPopulations:
    mixture = GaussianMixture(
        2, covariance_type=kind, n_init=3, random_state=random_state, tol=1e-6, max_iter=1000
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(values[:, None])
    order = np.argsort(mixture.means_[:, 0])
    deviations = np.sqrt(np.broadcast_to(mixture.covariances_.reshape(-1), (2,)))
    return TwoPopulations(
        mixture.weights_[order],
        mixture.means_[order, 0],
        deviations[order],
        np.zeros(2),
        float(mixture.bic(values[:, None])),
    )


def _skew_normal(values: Floats, normal: TwoPopulations) -> TwoPopulations:
    def cost(parameters: Floats) -> float:
        terms = [
            log_expit(sign * parameters[0]) + skew_normal_log_density(values, *one)
            for sign, one in zip((1, -1), parameters[1:].reshape(2, 3), strict=True)
        ]
        return -float(np.logaddexp(*terms).sum())

    odds = float(np.log(normal.weights[0] / normal.weights[1]))
    # A skew normal distribution with this shape has mean 0 and standard deviation 1 after these changes.
    mean, deviation = float(skewnorm.mean(_START_SHAPE)), float(skewnorm.std(_START_SHAPE))
    fits = []
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        start = [odds]
        for sign, centre, scale in zip(signs, normal.positions, normal.scales, strict=True):
            start += [
                centre - sign * mean / deviation * scale,
                np.log(scale / deviation),
                sign * _START_SHAPE,
            ]
        fits.append(minimize(cost, start, method="L-BFGS-B", bounds=[(-4.0, 4.0), *_BOUNDS, *_BOUNDS]))
    best = min(fits, key=lambda one: float(one.fun))
    share = float(np.exp(log_expit(best.x[0])))
    positions, log_scales, shapes = best.x[1:].reshape(2, 3).T
    order = np.argsort(skewnorm.mean(shapes, positions, np.exp(log_scales)))
    return TwoPopulations(
        np.array([share, 1 - share])[order],
        positions[order],
        np.exp(log_scales)[order],
        shapes[order],
        2 * float(best.fun) + len(best.x) * float(np.log(len(values))),
    )
