r"""95 % intervals by a bootstrap over patients, for metrics of numbers.

A patient is drawn with all images (Efron & Tibshirani, An Introduction to the Bootstrap 1993). A metric is a
function of the number of draws of each patient, so many resamples are computed at once. SciPy's bootstrap is
not used because it calls the metric for one resample after another, which takes minutes for thousands of
images.

The ends are bias-corrected and accelerated (BCa, chapter 14.3 of the book). The acceleration needs one
resample without each patient. With more than 1,000 patients it is close to 0 and is left out.

With few patients the interval is too narrow: resamples vary less than other patients would.
docs/reliability.md has the measured coverage. With fewer than ten patients, or if all resamples have the same
value, there is no interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from medvlad.evaluation.class_counts import LEAST_FOR_BOOTSTRAP

__all__ = ["Metric", "bootstrap_interval", "mean_metric", "r2_metric", "spearman_metric"]

Vector = NDArray[np.float64]
Patients = NDArray[np.intp]

#: From draws (m, n_patients) to values (m,); NaN where the metric is not defined.
Metric = Callable[[Vector], Vector]

_RESAMPLES = 2000
_FEW = 1000
_BLOCK = 1 << 21  # numbers of a block of resamples
_LEAST_DEFINED = 0.95
_ROUNDING = 1e-12  # of values, relative to the largest


def bootstrap_interval(
    metric: Metric, n_patients: int, n_images: int, random_state: int
) -> tuple[list[float] | None, str | None]:
    """Return the ends of the interval, and None; or None, and the reason why there is no interval.

    Parameters
    ----------
    metric : callable
        From draws (m, n_patients) to values (m,).
    n_patients, n_images : int
    random_state : int
        Seed of the draws.
    """
    if n_patients == 1:
        return None, f"all {n_images} images are of one patient"
    if n_patients < LEAST_FOR_BOOTSTRAP:
        return None, f"with fewer than {LEAST_FOR_BOOTSTRAP} patients it would be too narrow"
    rng = np.random.default_rng(random_state)
    step = max(1, _BLOCK // max(n_patients, n_images))
    values = np.concatenate([metric(draws) for draws in _draws(rng, n_patients, step)])
    values = values[np.isfinite(values)]
    point = float(metric(np.ones((1, n_patients)))[0])
    if len(values) < _LEAST_DEFINED * _RESAMPLES or not np.isfinite(point):
        return None, "it is not defined in too many resamples"
    if np.ptp(values) <= _ROUNDING * np.abs(values).max():
        return None, "all resamples have the same value"
    below = (np.count_nonzero(values < point) + 0.5 * np.count_nonzero(values == point)) / len(values)
    bias = float(norm.ppf(np.clip(below, 1 / _RESAMPLES, 1 - 1 / _RESAMPLES)))
    acceleration = _acceleration(metric, n_patients, step) if n_patients <= _FEW else 0.0
    shifted = bias + norm.ppf([0.025, 0.975])
    wanted = norm.cdf(bias + shifted / (1.0 - acceleration * shifted))
    return [float(end) for end in np.quantile(values, wanted)], None


def _draws(rng: np.random.Generator, n_patients: int, step: int) -> Iterator[Vector]:
    share = np.full(n_patients, 1.0 / n_patients)
    for start in range(0, _RESAMPLES, step):
        yield rng.multinomial(n_patients, share, min(step, _RESAMPLES - start)).astype(np.float64)


def _acceleration(metric: Metric, n_patients: int, step: int) -> float:
    parts = []
    for start in range(0, n_patients, step):
        rows = np.arange(start, min(start + step, n_patients))
        draws = np.ones((len(rows), n_patients))
        draws[np.arange(len(rows)), rows] = 0.0
        parts.append(metric(draws))
    left_out = np.concatenate(parts)
    left_out = left_out[np.isfinite(left_out)]
    moved = left_out.mean() - left_out if len(left_out) else np.zeros(1)
    size = float((moved**2).sum())
    return float((moved**3).sum() / (6.0 * size**1.5)) if size > 0 else 0.0


def mean_metric(values: Vector, patients: Patients) -> Metric:
    """Return the mean of `values` (n,) as a metric. `patients` (n,) are numbers from 0."""
    sums, counts = np.bincount(patients, values), np.bincount(patients)
    return lambda draws: _ratio(draws @ sums, draws @ counts)


def r2_metric(truth: Vector, predicted: Vector, patients: Patients) -> Metric:
    """Return R2 as a metric."""
    centred = truth - truth.mean()
    errors, counts = np.bincount(patients, (truth - predicted) ** 2), np.bincount(patients)
    sums, squares = np.bincount(patients, centred), np.bincount(patients, centred**2)

    def metric(draws: Vector) -> Vector:
        spread = draws @ squares - _ratio((draws @ sums) ** 2, draws @ counts)
        # A spread that is rounding means that all numbers are equal.
        spread = np.where(spread > 1e-12 * float(squares.sum()), spread, 0.0)
        return 1.0 - _ratio(draws @ errors, spread)

    return metric


def spearman_metric(truth: Vector, predicted: Vector, patients: Patients) -> Metric:
    """Return Spearman's correlation as a metric: the correlation of mean ranks."""
    sorted_values = [_Ranks(truth), _Ranks(predicted)]

    def metric(draws: Vector) -> Vector:
        weights = draws[:, patients]
        total = weights.sum(axis=1, keepdims=True)
        ranks = [one.ranks(weights) - (total + 1.0) / 2.0 for one in sorted_values]
        both, first, second = (
            (weights * ranks[a] * ranks[b]).sum(axis=1) for a, b in ((0, 1), (0, 0), (1, 1))
        )
        return _ratio(both, np.sqrt(first * second))

    return metric


class _Ranks:
    """Mean ranks of values that are drawn with weights."""

    def __init__(self, values: Vector) -> None:
        distinct, self._which = np.unique(values, return_inverse=True)
        self._order = np.argsort(self._which, kind="stable")
        self._starts = np.searchsorted(self._which[self._order], np.arange(len(distinct)))

    def ranks(self, weights: Vector) -> Vector:
        """Return the mean rank of each value (m, n) for weights (m, n)."""
        masses = np.add.reduceat(weights[:, self._order], self._starts, axis=1)
        mean_rank = np.cumsum(masses, axis=1) - (masses - 1.0) / 2.0
        found: Vector = mean_rank[:, self._which]
        return found


def _ratio(upper: Vector, lower: Vector) -> Vector:
    """Return upper / lower, NaN where lower is 0."""
    found = np.full(len(upper), np.nan)
    np.divide(upper, lower, out=found, where=lower > 0)
    return found
