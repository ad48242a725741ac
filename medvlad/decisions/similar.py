r"""Nearest training images, by exact search among their encoded vectors.

The distance of a query q and a training image x is Euclidean. A fast pass computes in float32, by BLAS,

.. math::

    s(x) = \|x\|^2 - 2\,x^\top q = \|x - q\|^2 - \|q\|^2

and keeps every x whose s may be among the smallest. The error of a float32 product is at most
:math:`\gamma \|x\| \|q\|` with :math:`\gamma = D u / (1 - D u)`, :math:`u = 2^{-24}` (Higham, Accuracy and
Stability of Numerical Algorithms, section 3.1). The distances of those candidates are computed again in
float64, from the differences, so the result is that of a float64 search. Equal distances are in the order of
training.

Vectors are read once for each batch of queries. One query takes the time to read 4 n D bytes from memory.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, check_positive_int

__all__ = ["SimilarCases"]

_BLOCK_BYTES = 32 << 20  # of vectors or scores that are in use at once
_UNIT = 2.0**-24
_CELLS = 3  # cells that are named
_SMALLEST = 2.0**-126  # float32 numbers below this lose bits
_LARGEST = 1e18  # length of a vector; products of longer ones overflow

Matrix = NDArray[np.float32]


class SimilarCases:
    """Exact search for the training images that are nearest to others.

    Attributes
    ----------
    vectors_ : ndarray of float32, shape (n, D)
        Encoded training images. They may lie in a memory-mapped file.
    names_, labels_ : list of str, n
        Names and classes of the training images.
    patients_ : list of (str or None), n
        Patient of each training image. None: not known.
    """

    vectors_: Matrix
    names_: list[str]
    labels_: list[str]
    patients_: list[str | None]

    def fit(self, vectors: Any, names: Any, labels: Any, patients: Any = None) -> Self:
        """Take the training images. The vectors are not copied if they are float32 and C-contiguous.

        Parameters
        ----------
        vectors : array of float, shape (n, D)
            Encoded images, the input of the classifier. Rounded to float32.
        names, labels : sequence of str, n
            Name and class of each image.
        patients : sequence of (str or None), n, or None, default=None
            Patient of each image. None: not known.

        Returns
        -------
        self

        Raises
        ------
        InputError
            If the shapes do not agree, there is no image, or a number is not finite.
        """
        with np.errstate(over="ignore"):
            vectors = np.ascontiguousarray(vectors, np.float32)
        if vectors.ndim != 2 or 0 in vectors.shape:
            raise InputError(f"vectors must have shape (n, D) without zeros, got {vectors.shape}")
        columns = {"names": names, "labels": labels}
        patients = [None] * len(vectors) if patients is None else list(patients)
        for what, values in {**columns, "patients": patients}.items():
            if len(values) != len(vectors):
                raise InputError(
                    f"{what} must have one entry for each of {len(vectors)} vectors, got {len(values)}"
                )
        norms = np.empty(len(vectors))
        for part in self._parts(vectors):
            block = vectors[part]
            if not np.isfinite(block).all():
                raise InputError("vectors hold numbers that are not finite: check the images")
            norms[part] = np.einsum("nd,nd->n", block, block, dtype=np.float64)
        _check_lengths(norms)
        self.vectors_, self._norms = vectors, norms
        self.names_, self.labels_ = list(map(str, names)), list(map(str, labels))
        self.patients_ = patients
        return self

    def kneighbors(self, vectors: Any, top: int = 5) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the nearest training images.

        Parameters
        ----------
        vectors : array of float, shape (m, D)
            Encoded images. Rounded to float32.
        top : int, default=5
            Number of training images for each; at most all of them are returned.

        Returns
        -------
        distances : ndarray of float64, shape (m, top)
            Euclidean distances, the smallest first.
        indices : ndarray of int64, shape (m, top)
            Training images. Of equal distances, the lowest index comes first.

        Raises
        ------
        InputError
            If the vectors have another width, or are not finite.
        """
        top = min(check_positive_int(top, "top"), len(self.vectors_))
        with np.errstate(over="ignore"):
            queries = np.ascontiguousarray(vectors, np.float32)
        width = self.vectors_.shape[1]
        if queries.ndim != 2 or queries.shape[1] != width:
            raise InputError(f"vectors must have shape (m, {width}), got {queries.shape}")
        if not np.isfinite(queries).all():
            raise InputError("vectors hold numbers that are not finite: check the images")
        _check_lengths(np.einsum("nd,nd->n", queries, queries, dtype=np.float64))
        distances = np.empty((len(queries), top))
        indices = np.empty((len(queries), top), np.int64)
        at_once = max(1, _BLOCK_BYTES // (8 * len(self.vectors_)))
        for start in range(0, len(queries), at_once):
            part = queries[start : start + at_once]
            for i, scores in enumerate(self._scores(part), start):
                distances[i], indices[i] = self._nearest(queries[i], scores, top)
        return distances, indices

    def similar(
        self, vectors: Any, top: int = 5, *, n_cells: int | None = None
    ) -> list[list[dict[str, Any]]]:
        """Return the nearest training images as plain values for JSON.

        Parameters
        ----------
        vectors, top
            See :meth:`kneighbors`.
        n_cells : int or None, default=None
            Number of cells of a VLAD, of which a vector is made. None: it is no VLAD.

        Returns
        -------
        list of list of dict
            For each vector, the nearest images: image, label, distance, patient (if known), and cells (only
            with `n_cells`): up to three cells whose blocks have the largest inner products above 0, as a list
            of dicts with cell and product.
        """
        distances, indices = self.kneighbors(vectors, top)
        found = []
        for query, row, near in zip(np.asarray(vectors), distances, indices.tolist(), strict=True):
            cases: list[dict[str, Any]] = []
            for distance, i in zip(row.tolist(), near, strict=True):
                case = {"image": self.names_[i], "label": self.labels_[i], "distance": distance}
                if self.patients_[i] is not None:
                    case["patient"] = self.patients_[i]
                if n_cells is not None:
                    case["cells"] = _matching_cells(query, self.vectors_[i], n_cells)
                cases.append(case)
            found.append(cases)
        return found

    def _scores(self, queries: Matrix) -> NDArray[np.float64]:
        """Return s of each query and training image, shape (m, n)."""
        scores = np.empty((len(queries), len(self.vectors_)))
        for part in self._parts(self.vectors_):
            scores[:, part] = self._norms[part] - 2.0 * (queries @ self.vectors_[part].T)
        return scores

    def _nearest(
        self, query: Matrix, scores: NDArray[np.float64], top: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        gamma = query.size * _UNIT / (1 - query.size * _UNIT)
        length = float(np.sqrt(np.dot(query.astype(np.float64), query)))
        # Twice the product's error. The largest norm serves all, because vectors have about the same.
        largest = float(np.sqrt(self._norms.max()))
        error = 2 * gamma * length * largest + query.size * (1e-15 * largest**2 + 2 * _SMALLEST)
        kth = np.partition(scores, top - 1)[top - 1] if top < len(scores) else np.inf
        candidates = np.flatnonzero(scores <= kth + 2 * error)
        exact = np.empty(len(candidates))
        for part in self._parts(self.vectors_, len(candidates), factor=2):
            difference = self.vectors_[candidates[part]].astype(np.float64) - query
            exact[part] = np.einsum("nd,nd->n", difference, difference)
        order = np.lexsort((candidates, exact))[:top]
        return np.sqrt(exact[order]), candidates[order]

    @staticmethod
    def _parts(vectors: Matrix, n: int | None = None, factor: int = 1) -> list[slice]:
        """Cut `n` rows, or all, into parts of bounded memory."""
        n = len(vectors) if n is None else n
        rows = max(1, _BLOCK_BYTES // (factor * vectors.itemsize * vectors.shape[1]))
        return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


def _check_lengths(squared: NDArray[np.float64]) -> None:
    if squared.max(initial=0) > _LARGEST**2:
        raise InputError(f"vectors are longer than {_LARGEST:g}: scale them to unit length")


def _matching_cells(query: NDArray[Any], case: Matrix, n_cells: int) -> list[dict[str, Any]]:
    """Return the cells whose blocks have the largest inner products."""
    products = np.einsum("kd,kd->k", query.reshape(n_cells, -1), case.reshape(n_cells, -1), dtype=np.float64)
    best = np.argsort(-products, kind="stable")[:_CELLS].tolist()
    return [{"cell": k, "product": float(products[k])} for k in best if products[k] > 0]
