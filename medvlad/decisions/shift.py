"""Detect if the scores of a batch of images differ from those of the training images.

The decision values of the batch are compared with the held-out decision values of the training images by the
two-sample test of Kolmogorov and Smirnov, for each class. With several classes the p-value is multiplied by
their number. A shift is reported if p is below 0.001 and the largest difference of the distributions is at
least 0.2, because in large batches small differences are significant as well. At least 30 images are needed.

A shift has two possible reasons: the images look different, or the classes have other shares. Decision values
alone do not distinguish them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from medvlad.decisions.calibrated_svc import CalibratedSVC

__all__ = ["MIN_IMAGES", "Shift", "ShiftWatch", "find_shift"]

#: Minimum number of images of a batch.
MIN_IMAGES = 30

_MAX_IMAGES = 10_000  # that are kept of a batch
_P = 0.001
_LEAST_DIFFERENCE = 0.2

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Shift:
    """A difference between a batch and the training images.

    Attributes
    ----------
    n_images : int
        Number of images of the batch that were compared.
    difference : float
        Largest difference of the distributions of decision values, from 0 to 1.
    p_value : float
    two_classes : bool
    """

    n_images: int
    difference: float
    p_value: float
    two_classes: bool

    def __str__(self) -> str:
        advice = "check the images"
        if self.two_classes:
            advice += ", or let adapt_threshold=True find a threshold in them"
        return (
            f"the scores of these {self.n_images} images have shifted from those of training images (the "
            f"distributions differ by {self.difference:.2f}, p = {self.p_value:.1g}), so labels, "
            f"probabilities and prediction sets may be wrong: {advice}"
        )


def find_shift(classifier: CalibratedSVC, decision: Matrix) -> Shift | None:
    """Compare a batch with the held-out training images.

    Parameters
    ----------
    classifier : CalibratedSVC
    decision : ndarray of float, shape (n, n_classes)
        Decision values of the batch.

    Returns
    -------
    Shift or None
        None if no shift was found, or there are fewer than 30 images.
    """
    if len(decision) < MIN_IMAGES:
        return None
    known = classifier.held_out_decision_
    columns = [1] if known.shape[1] == 2 else range(known.shape[1])
    tests = [ks_2samp(decision[:, k], known[:, k], method="asymp") for k in columns]
    least = min(tests, key=lambda one: float(one.pvalue))
    p_value = min(1.0, float(least.pvalue) * len(tests))
    difference = float(least.statistic)
    if p_value >= _P or difference < _LEAST_DIFFERENCE:
        return None
    return Shift(len(decision), difference, p_value, known.shape[1] == 2)


class ShiftWatch:
    """Collect the decision values of a stream of images, in bounded memory.

    At most 10,000 images are kept, chosen at random with a fixed seed.
    """

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._kept: Matrix | None = None
        self._keys = np.empty(0)

    def add(self, decision: Matrix) -> None:
        """Take the decision values (n, n_classes) of some images."""
        rows = np.array(decision, np.float64)
        self._kept = rows if self._kept is None else np.concatenate([self._kept, rows])
        self._keys = np.concatenate([self._keys, self._rng.random(len(rows))])
        if len(self._keys) > 2 * _MAX_IMAGES:
            self._cut()

    def _cut(self) -> None:
        if self._kept is not None and len(self._keys) > _MAX_IMAGES:
            lowest = np.sort(np.argpartition(self._keys, _MAX_IMAGES)[:_MAX_IMAGES])
            self._kept, self._keys = self._kept[lowest], self._keys[lowest]

    def find(self, classifier: CalibratedSVC) -> Shift | None:
        """Compare the images so far with the training images, see :func:`find_shift`."""
        self._cut()
        return None if self._kept is None else find_shift(classifier, self._kept)
