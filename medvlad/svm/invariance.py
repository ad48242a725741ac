r"""Train a linear SVM that pays less attention to how an image was taken.

The training rows are vectors of images and of their shifted copies
(:class:`medvlad.images.shifted_copies.ShiftedCopies`). Two kinds of directions are made small:

1. Directions that go with the look of an image (:mod:`medvlad.images.look`) inside the classes. The vectors
   :math:`x_i` of the images are regressed on their class and on their look :math:`l_i`,
   :math:`x_i \approx \mu_{y_i} + B\, l_i`, and the columns of :math:`B` are projected out by
   :math:`P = I - Q Q^T`, with :math:`Q` an orthonormal basis of them.
2. Directions in which a copy differs from its image. With the differences :math:`d_i = P (x'_i - x_i)` and
   their covariance :math:`S = \frac1n \sum_i d_i d_i^T`, the rows are multiplied by

   .. math::

      W = c\, (S + \alpha \bar s I)^{-1/2}

   with :math:`\bar s` the mean eigenvalue of :math:`S` and :math:`c^2` the mean eigenvalue of the sum. This
   is within-class covariance normalisation (Hatch, Kajarekar & Stolcke 2006), with an image and its copies
   as the class.

The SVM is fitted on the rows :math:`x^T M` with :math:`M = P W`, and its weights are mapped back,
:math:`w \leftarrow M w`. So the classifier takes the vectors as they are, and nothing else has to be saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh, qr

from medvlad._util.passes import Runner
from medvlad._util.validate import InputError
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = ["Nuisance", "check_width", "fit_invariant", "fit_invariant_path", "invariant_map"]

_ALPHA = 0.3
_MAX_WIDTH = 8192  # a square matrix of this side has 0.5 GB


@dataclass(frozen=True)
class Nuisance:
    """What is known of rows besides their class.

    Attributes
    ----------
    source : ndarray of int, shape (n,)
        Image of each row. An image and its copies have the same number.
    is_copy : ndarray of bool, shape (n,)
        Whether a row is a shifted copy. Each image has one row that is none.
    looks : ndarray of float, shape (n, L)
        Look of each row, see :mod:`medvlad.images.look`. Those of copies are not used.
    """

    source: NDArray[np.intp]
    is_copy: NDArray[np.bool_]
    looks: NDArray[np.float64]

    def take(self, rows: NDArray[np.intp]) -> Nuisance:
        """Return the same of some rows. A copy and its image must stay together."""
        return Nuisance(self.source[rows], self.is_copy[rows], self.looks[rows])

    def rows_of(self, images: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the rows of images, which are first, and of their copies."""
        copies = self.is_copy & np.isin(self.source, images)
        return np.concatenate([images, np.flatnonzero(copies)])

    def originals(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the rows of copies, and the row of the image of each one."""
        own, copies = np.flatnonzero(~self.is_copy), np.flatnonzero(self.is_copy)
        order = own[np.argsort(self.source[own], kind="stable")]
        found = np.searchsorted(self.source[order], self.source[copies])
        if (found == len(order)).any() or (self.source[order][found] != self.source[copies]).any():
            raise InputError("a shifted copy stands without its image: keep both in the same part")
        return copies, order[found]


def check_width(width: int, whose: str = "these") -> None:
    """Raise InputError if vectors are too wide for :func:`invariant_map`.

    Parameters
    ----------
    width : int
        Number of numbers of a vector.
    whose : str, default="these"
        How the error names the vectors.
    """
    if width > _MAX_WIDTH:
        raise InputError(
            f"training against shifts takes vectors of at most {_MAX_WIDTH:,} numbers, {whose} have "
            f"{width:,}: use average pooling (encode='avg'), or reduce the vectors"
        )


def invariant_map(x: NDArray[Any], labels: NDArray[Any], nuisance: Nuisance) -> NDArray[np.float64]:
    """Return the matrix M of the module docstring.

    Parameters
    ----------
    x : ndarray of float, shape (n, D)
        Training rows.
    labels : ndarray of shape (n,)
        Class of each row.
    nuisance : Nuisance

    Returns
    -------
    ndarray of float64, shape (D, D)

    Raises
    ------
    InputError
        If the rows are wider than 8,192, or a copy has no image among the rows.
    """
    width = x.shape[1]
    check_width(width)
    basis = _look_directions(x, labels, nuisance)
    copies, images = nuisance.originals()
    differences = np.asarray(x[copies], np.float64) - x[images]
    differences -= (differences @ basis) @ basis.T
    values, vectors = eigh(differences.T @ differences / max(1, len(copies)))
    values = values.clip(0)
    mean = values.mean()
    scale = np.ones(width)
    if mean > 0:
        values = values + _ALPHA * mean
        scale = np.sqrt(values.mean() / values)
    whitened = (vectors * scale) @ vectors.T
    return np.asarray(whitened - basis @ (basis.T @ whitened), np.float64)


def _look_directions(x: NDArray[Any], labels: NDArray[Any], nuisance: Nuisance) -> NDArray[np.float64]:
    """Return an orthonormal basis (D, at most L) of the directions that go with the look."""
    own = np.flatnonzero(~nuisance.is_copy)
    looks = nuisance.looks[own] - nuisance.looks[own].mean(axis=0)
    spread = looks.std(axis=0)
    looks = looks[:, spread > 1e-9] / spread[spread > 1e-9]
    if looks.shape[1] == 0:
        return np.zeros((x.shape[1], 0))
    of_class = labels[own][:, None] == np.unique(labels)
    slopes = np.linalg.lstsq(np.column_stack([of_class, looks]).astype(float), x[own].astype(float))[0]
    slopes = slopes[of_class.shape[1] :].T
    basis, corner, _ = qr(slopes, mode="economic", pivoting=True)
    sizes = np.abs(np.diag(corner))
    return np.asarray(basis[:, sizes > 1e-9 * max(1e-300, sizes.max(initial=0))], np.float64)


def fit_invariant_path(
    classifier: WideLinearSVC,
    X: ArrayLike,
    y: ArrayLike,
    Cs: Sequence[float],
    nuisance: Nuisance | None,
    *,
    runner: Runner | None = None,
) -> list[WideLinearSVC]:
    """Fit one classifier for each of several C.

    Parameters
    ----------
    classifier : WideLinearSVC
        Not fitted. It is cloned.
    X : array-like of shape (n, D)
    y : array-like of shape (n,)
    Cs : sequence of float
    nuisance : Nuisance or None
        None: as :meth:`medvlad.WideLinearSVC.fit_path`.
    runner : Runner or None, default=None
        What carries out passes over the rows if `nuisance` is None, see :mod:`medvlad._util.passes`.

    Returns
    -------
    list of WideLinearSVC
        They take rows like those of `X`. Their `dual_gap_` is that of the multiplied rows.

    Raises
    ------
    InputError
        See :func:`invariant_map` and :meth:`medvlad.WideLinearSVC.fit_path`.
    """
    if nuisance is None:
        return classifier.fit_path(X, y, Cs, runner=runner)
    x, matrix = _mapped(X, y, nuisance)
    path = classifier.fit_path(x, y, Cs)
    for svm in path:
        svm.coef_ = svm.coef_ @ matrix.T
    return path


def fit_invariant(
    classifier: WideLinearSVC,
    X: ArrayLike,
    y: ArrayLike,
    nuisance: Nuisance | None,
    *,
    runner: Runner | None = None,
) -> None:
    """Fit `classifier` itself, with its own C. See :func:`fit_invariant_path`."""
    if nuisance is None:
        classifier.fit(X, y, runner=runner)
        return
    x, matrix = _mapped(X, y, nuisance)
    classifier.fit(x, y)
    classifier.coef_ = classifier.coef_ @ matrix.T


def _mapped(
    X: ArrayLike, y: ArrayLike, nuisance: Nuisance
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the rows times M, and M."""
    x = np.asarray(X)
    matrix = invariant_map(x, np.asarray(y), nuisance)
    return (x @ matrix).astype(np.float32), matrix
