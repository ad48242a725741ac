r"""How well one population, which may be skewed, explains a set of numbers.

Two normal distributions describe a skewed population better than one does, so this comparison cannot tell two
classes from one. Numbers are therefore compared with the best of several shapes of one population. Each shape
has one peak and is fitted by maximum likelihood:

- the skew normal distribution (Azzalini, Scandinavian Journal of Statistics 1985)
- the gamma distribution with a shape of at least 1, and its mirror image
- the lognormal distribution, and its mirror image
- the sinh-arcsinh distribution (Jones & Pewsey, Biometrika 2009), whose skewness and tails are free, from
  nearly uniform to heavy: with :math:`z = (s - \mu) / \sigma` and
  :math:`w = \delta \sinh^{-1} z - \epsilon`

  .. math::

     f(s) = \frac{\delta \cosh w}{\sigma \sqrt{2 \pi (1 + z^2)}} \exp \left( -\tfrac{1}{2} \sinh^2 w \right) .

All of them have a free position and scale. They are compared by the Bayesian information criterion
:math:`-2 \log L + k \log n` of :math:`n` numbers and :math:`k` parameters. The best has the smallest.

SciPy has all but the last. Their densities are written out here, because a fit needs hundreds of them and
SciPy's functions take most of their time to check arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import gammaln, log_ndtr
from scipy.stats import skew

__all__ = ["single_population_bic", "skew_normal_log_density"]

_LARGEST = 300.0  # sinh of more overflows
_HALF_LOG_2_PI = 0.5 * float(np.log(2 * np.pi))
# Limits of parameters. Without them, a value that occurs several times could be given any likelihood.
_ANY = (None, None)
_LOG_SCALE = (-4.0, 4.0)
_LOG_GAP = (-5.0, 8.0)  # from the beginning of a distribution to the smallest value
_WORST = 1e38  # of parameters that are out of range

Floats = NDArray[np.float64]
Start = tuple[float, ...]


def single_population_bic(values: Floats) -> float:
    """Return the information criterion of the best single population.

    Parameters
    ----------
    values : ndarray of float, shape (n,)
        With mean 0 and standard deviation 1.

    Returns
    -------
    float
    """
    side = 1.0 if skew(values) >= 0 else -1.0
    fits = [
        _fit(
            _skew_normal,
            values,
            [(-0.8 * side, 0.25, 3 * side), (0.0, 0.0, 0.1)],
            [_ANY, _LOG_SCALE, _ANY],
        ),
        _fit(
            _sinh_arcsinh,
            values,
            [(0.0,) * 4, (-0.5 * side, -0.3, 0.5 * side, -0.1), (0.0, 0.7, 0.0, 0.5)],
            [_ANY, _LOG_SCALE, _ANY, _ANY],
        ),
    ]
    for mirrored in (values, -values):
        fits += [
            _fit(
                _gamma,
                mirrored,
                [(-1.0, 0.0, -0.5), (-4.0, -3.0, 0.0), (1.0, 2.0, -1.5)],
                [_LOG_GAP, _ANY, _ANY],
            ),
            _fit(
                _lognormal,
                mirrored,
                [(-1.0, 0.0, -0.3), (1.0, 1.0, -1.0), (-4.0, 0.0, 0.0)],
                [_LOG_GAP, _ANY, _ANY],
            ),
        ]
    return min(fits)


def _fit(
    logarithm: Callable[[Floats, Floats], Floats],
    values: Floats,
    starts: Sequence[Start],
    bounds: Sequence[tuple[float | None, float | None]],
) -> float:
    """Return the information criterion of the best parameters found from several starts."""

    def cost(parameters: Floats) -> float:
        with np.errstate(all="ignore"):
            total = float(logarithm(values, parameters).sum())
        return -total if np.isfinite(total) else _WORST

    least = min(float(minimize(cost, start, method="L-BFGS-B", bounds=bounds).fun) for start in starts)
    return 2 * least + len(starts[0]) * float(np.log(len(values)))


def skew_normal_log_density(values: Floats, position: float, log_scale: float, shape: float) -> Floats:
    """Return the logarithm of the density of a skew normal distribution.

    Parameters
    ----------
    values : ndarray of float, shape (n,)
    position, log_scale, shape : float
        Position, logarithm of the scale, and shape. With shape 0 the distribution is normal.

    Returns
    -------
    ndarray of float, shape (n,)
    """
    z = (values - position) * np.exp(-log_scale)
    found: Floats = np.log(2) - _HALF_LOG_2_PI - log_scale - 0.5 * z**2 + log_ndtr(shape * z)
    return found


def _skew_normal(values: Floats, parameters: Floats) -> Floats:
    return skew_normal_log_density(values, *parameters)


def _gamma(values: Floats, parameters: Floats) -> Floats:
    """Gamma distribution that begins below the smallest value."""
    log_gap, log_shape, log_scale = parameters
    above = values - values.min() + np.exp(log_gap)
    shape = 1 + np.exp(log_shape)
    found: Floats = (
        (shape - 1) * np.log(above) - above * np.exp(-log_scale) - gammaln(shape) - shape * log_scale
    )
    return found


def _lognormal(values: Floats, parameters: Floats) -> Floats:
    """Lognormal distribution that begins below the smallest value."""
    log_gap, mean, log_deviation = parameters
    logs = np.log(values - values.min() + np.exp(log_gap))
    found: Floats = (
        -logs - log_deviation - _HALF_LOG_2_PI - 0.5 * ((logs - mean) * np.exp(-log_deviation)) ** 2
    )
    return found


def _sinh_arcsinh(values: Floats, parameters: Floats) -> Floats:
    position, log_scale, skewness, log_tail = parameters
    z = (values - position) * np.exp(-log_scale)
    w = np.clip(np.exp(log_tail) * np.arcsinh(z) - skewness, -_LARGEST, _LARGEST)
    found: Floats = (
        log_tail
        - log_scale
        + np.log(np.cosh(w))
        - _HALF_LOG_2_PI
        - 0.5 * np.log1p(z**2)
        - 0.5 * np.sinh(w) ** 2
    )
    return found
