r"""Memberships: the cells of a codebook that a descriptor belongs to, and its weight in each.

VLAD sums :math:`w_k (x - c_k)` over the cells k of a descriptor x. There are two ways to assign x to cells.

**Hard assignment** gives weight 1 to the nearest centre (Jegou, Douze, Schmid, Perez, CVPR 2010).

**Soft assignment** gives each centre a weight that falls with the squared distance:

.. math::

    w_k = \frac{\exp(-\alpha \|x - c_k\|^2)}{\sum_j \exp(-\alpha \|x - c_j\|^2)}

The sum is over all K centres (NetVLAD: Arandjelovic, Gronat, Torii, Pajdla, Sivic, CVPR 2016, eq. 3), or over
the r nearest (Philbin, Chum, Isard, Sivic, Zisserman, CVPR 2008). Weights are computed in float64. Float64
distances also decide which centres are the r nearest, and the lower index wins a tie.

If :math:`\alpha` is not given, it is learnt from the training descriptors. Let :math:`d_1` and :math:`d_2` be
the distances of a descriptor to its nearest and second nearest centre. Then

.. math::

    \alpha = \frac{\ln 100}{\operatorname{mean}(d_2^2 - d_1^2)}.

A descriptor with this mean difference gets a weight in its nearest cell that is 100 times that in the second.
The authors of NetVLAD initialise their layer by the same rule. :math:`\alpha` is fitted once, together with
the centres, and is the same for all images.

Weights of descriptors (masks) multiply :math:`w_k`. Residual normalisation does not change :math:`w_k`. It
scales the residual :math:`x - c_k` to unit length, so each descriptor has a scale in each of its cells as
well: one over that length, or 0 if the residual is rounding only (:mod:`medvlad.backends.reference`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.choices import Assignment, words_of
from medvlad._util.validate import InputError, check_choice, check_positive_float, check_positive_int
from medvlad.backends import Backend
from medvlad.backends.normalise import CENTER_ROUNDING, NORM_FLOOR, ordered_sum
from medvlad.backends.reference import center_distances
from medvlad.descriptors.checks import check_finite
from medvlad.descriptors.gpu_array import GpuArray, array_module

__all__ = ["Memberships", "check_assignment", "softness"]

_CONTRAST = 100.0
_ALPHA_ROWS = 20_000


def check_assignment(assignment: str, n_nearest: int | None, alpha: float | None, n_clusters: int) -> int:
    """Check the settings of the assignment. Return the number of cells of a descriptor.

    Raises
    ------
    InputError
        If a setting has no meaning, or does not fit the others.
    """
    check_choice(assignment, "assignment", words_of(Assignment))
    if assignment == "hard":
        if n_nearest is not None or alpha is not None:
            raise InputError(
                "n_nearest and alpha are for assignment='soft', got assignment='hard': leave them out, or "
                "use 'soft'"
            )
        return 1
    if alpha is not None:
        check_positive_float(alpha, "alpha")
    if n_nearest is None:
        return n_clusters
    if check_positive_int(n_nearest, "n_nearest") > n_clusters:
        raise InputError(f"n_nearest={n_nearest} is more than n_clusters={n_clusters}: choose fewer")
    return n_nearest


@dataclass(frozen=True, eq=False)
class Memberships:
    """Assignment of descriptors to the cells of a codebook.

    Results are where the descriptors are: NumPy arrays, or CuPy arrays for a GpuArray. For a GpuArray, call
    the methods within its stream.

    Attributes
    ----------
    centers : ndarray of float32, shape (K, D)
        Cluster centres.
    n_nearest : int
        Number r of cells of a descriptor: those of the r nearest centres.
    alpha : float or None
        Decay of the soft weights with squared distance. None: hard assignment, with exact labels.
    origins : ndarray of float32, shape (K, D), or None
        Points that residuals start from, for :meth:`scales`. None: no residual normalisation.
    backend : Backend
        Finds hard labels and the lengths of residuals.
    n_threads : int
        Number of threads of the backend.
    """

    centers: NDArray[np.float32]
    n_nearest: int
    alpha: float | None
    origins: NDArray[np.float32] | None
    backend: Backend
    n_threads: int

    def of(self, x: Any) -> tuple[Any, Any]:
        """Return the cells of each descriptor and its weight in each.

        Parameters
        ----------
        x : ndarray of float32 or GpuArray, shape (N, D)

        Returns
        -------
        cells : ndarray of int32, shape (N, r)
        weights : ndarray of float64, shape (N, r)

        Raises
        ------
        InputError
            If a row in host memory is not finite. On a GPU, soft assignment does not look.
        """
        cells, weights = self._hard(x) if self.alpha is None else self._soft(x, self.alpha)
        return array_module(x).ascontiguousarray(cells), weights

    def scales(self, x: Any, cells: Any) -> Any:
        """Return the factors that give residuals unit length, 0 for a residual that is rounding only.

        Parameters
        ----------
        x : ndarray of float32 or GpuArray, shape (N, D)
        cells : ndarray of int32, shape (N, r)

        Returns
        -------
        ndarray of float64, shape (N, r), or None
            None if there is no residual normalisation.
        """
        if self.origins is None:
            return None
        xp = array_module(x)
        origins = self.origins.astype(np.float64)
        least = np.maximum(NORM_FLOOR**2, CENTER_ROUNDING**2 * ordered_sum(origins * origins))
        squared = self.backend.squared_distances(x, self.origins, cells, n_threads=self.n_threads)
        is_long = squared > xp.asarray(least)[cells]
        return xp.where(is_long, 1.0 / xp.sqrt(xp.where(is_long, squared, 1.0)), 0.0)

    def labels(self, x: Any) -> Any:
        """Return the index of the nearest centre of each descriptor, shape (N,)."""
        labels = self.backend.assign(x, self.centers, n_threads=self.n_threads)
        return labels if isinstance(x, GpuArray) else np.asarray(labels)

    def _hard(self, x: Any) -> tuple[Any, Any]:
        return self.labels(x)[:, None], array_module(x).ones((len(x), 1))

    def _soft(self, x: Any, alpha: float) -> tuple[Any, Any]:
        xp = array_module(x)
        squared = self.backend.center_distances(x, self.centers, n_threads=self.n_threads)
        if self.n_nearest < len(self.centers):
            # A stable sort orders by distance, then by index. It costs less than the distances.
            cells = xp.argsort(squared, axis=1, kind="stable")[:, : self.n_nearest].astype(np.int32)
            squared = xp.take_along_axis(squared, cells, axis=1)
        else:
            cells = xp.tile(xp.arange(len(self.centers), dtype=np.int32), (len(x), 1))
        # Subtracting the smallest distance changes no weight and avoids that all of them underflow to 0.
        with np.errstate(invalid="ignore"):
            weights = xp.exp(-alpha * (squared - squared.min(axis=1, keepdims=True)))
            weights /= weights.sum(axis=1, keepdims=True)
        # The distances of a row that is not finite are not finite, and so its weights are NaN.
        if not isinstance(x, GpuArray) and not np.isfinite(weights.sum()):
            check_finite(x)
        return cells, weights


def softness(x: NDArray[np.float32], centers: NDArray[np.float32]) -> float:
    """Learn alpha from descriptors, as the module describes.

    Parameters
    ----------
    x : ndarray of float32, shape (N, D)
        Training descriptors. At most 20,000 of them are used, evenly spaced.
    centers : ndarray of float32, shape (K, D)

    Returns
    -------
    float
        alpha; 1 if there is a single centre, because every weight is 1 then.

    Raises
    ------
    InputError
        If all descriptors are as far from the second nearest centre as from the nearest.
    """
    if len(centers) < 2:
        return 1.0
    rows = x[np.unique(np.linspace(0, len(x) - 1, min(len(x), _ALPHA_ROWS)).astype(np.int64))]
    nearest = np.partition(center_distances(rows, centers), 1, axis=1)[:, :2]
    difference = float((nearest[:, 1] - nearest[:, 0]).mean())
    if not difference > 0:
        raise InputError(
            "every descriptor has two nearest centres, so alpha cannot be learnt: give one, or fewer clusters"
        )
    return math.log(_CONTRAST) / difference
