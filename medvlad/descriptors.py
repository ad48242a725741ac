"""Descriptors: a ragged batch of local descriptors, the only currency between extraction and encoding.

Image ``i`` of ``B`` owns the rows ``values[offsets[i]:offsets[i + 1]]`` of one float32 matrix::

    values  (N, D)   | image 0 | image 1      | (image 2 is empty) | image 3 |
    offsets (B + 1,) 0         o1             o2 = o3              o3        N
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from medvlad._validate import InputError, as_matrix, check_finite, check_offsets, check_width

__all__ = ["Descriptors", "as_descriptors", "is_ragged_list", "validate_input"]


class Descriptors(Sequence[NDArray[np.float32]]):
    """A ragged batch of local descriptors.

    Parameters
    ----------
    values : array-like of shape (N, D)
        All descriptors, image after image; kept without a copy if float32 and C-contiguous.
    offsets : array-like of int, shape (B + 1,)
        Where each image begins: ``offsets[0] == 0``, non-decreasing, ``offsets[-1] == N``.

    Raises
    ------
    InputError
        If shapes, dtypes or offsets do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> d = Descriptors.from_list([np.zeros((3, 2)), np.ones((1, 2))])
    >>> len(d), d.n_features, d[1].tolist()
    (2, 2, [[1.0, 1.0]])
    """

    __slots__ = ("offsets", "values")

    values: NDArray[np.float32]
    offsets: NDArray[np.int64]

    def __init__(self, values: Any, offsets: Any) -> None:
        self.values = as_matrix(values, "descriptors")
        self.offsets = check_offsets(offsets, self.values.shape[0])

    @classmethod
    def from_list(cls, arrays: Sequence[Any]) -> Descriptors:
        """Join one (n_i, D) array an image; ``n_i = 0`` is legal.

        Raises
        ------
        InputError
            If the list is empty, or the widths differ (the image is named).
        """
        if isinstance(arrays, str) or not hasattr(arrays, "__len__"):
            raise InputError(f"from_list needs a list of arrays, got {type(arrays).__name__}")
        if len(arrays) == 0:
            raise InputError("an empty list of images has no number of features: give at least one array")
        matrices = [as_matrix(a, f"descriptors of image {i}") for i, a in enumerate(arrays)]
        width = matrices[0].shape[1]
        for i, matrix in enumerate(matrices):
            check_width(matrix.shape[1], width, f"descriptors of image {i}", "those of image 0")
        return cls(np.concatenate(matrices), np.cumsum([0, *(len(m) for m in matrices)], dtype=np.int64))

    @classmethod
    def from_array(cls, x: Any) -> Descriptors:
        """Read a (B, n, D) array: n descriptors for each of B images, without a copy where possible."""
        array = np.asarray(x)
        if array.ndim != 3:
            raise InputError(f"from_array needs shape (n_images, n, n_features), got {array.shape}")
        n_images, n, width = array.shape
        return cls(array.reshape(n_images * n, width), np.arange(n_images + 1, dtype=np.int64) * n)

    @property
    def n_features(self) -> int:
        """Width D of a descriptor."""
        return int(self.values.shape[1])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for i in range(len(self)):
            yield self.values[self.offsets[i] : self.offsets[i + 1]]

    @overload
    def __getitem__(self, index: int) -> NDArray[np.float32]: ...
    @overload
    def __getitem__(self, index: slice) -> Descriptors: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.float32] | Descriptors:
        """Image `index` as an (n_i, D) view, or a contiguous run of images as Descriptors without a copy."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return self.take(range(start, stop, step))
            stop = max(start, stop)
            first, last = self.offsets[start], self.offsets[stop]
            return Descriptors(self.values[first:last], self.offsets[start : stop + 1] - first)
        i = range(len(self))[index]
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    def take(self, indices: Sequence[int] | NDArray[np.integer]) -> Descriptors:
        """Return the images at `indices`, in that order (a copy).

        Parameters
        ----------
        indices : sequence of int, shape (n,)

        Returns
        -------
        Descriptors
        """
        index = np.asarray(indices, dtype=np.int64)
        lengths = np.diff(self.offsets)[index]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        values = np.empty((int(offsets[-1]), self.n_features), np.float32)
        for target, i in enumerate(index):
            values[offsets[target] : offsets[target + 1]] = self[int(i)]
        return Descriptors(values, offsets)

    def __repr__(self) -> str:
        return f"Descriptors({len(self)} images, {self.values.shape[0]} descriptors of {self.n_features})"


def as_descriptors(x: Any) -> Descriptors:
    """Read what the transformers accept as Descriptors.

    Parameters
    ----------
    x : Descriptors, sequence of (n_i, D) arrays, array (B, n, D), or array (B, D)
        A 2-D array is read as one descriptor an image.

    Raises
    ------
    InputError
        If it is none of these.
    """
    if isinstance(x, Descriptors):
        return x
    if is_ragged_list(x):
        return Descriptors.from_list(x)
    array = np.asarray(x)
    if array.ndim == 3:
        return Descriptors.from_array(array)
    matrix = as_matrix(array, "descriptors")
    return Descriptors(matrix, np.arange(len(matrix) + 1, dtype=np.int64))


def is_ragged_list(x: Any) -> bool:
    """Whether `x` is a list or tuple of 2-D arrays (and not a nested list of numbers).

    One such array is enough: Descriptors.from_list names the others.
    """
    return isinstance(x, list | tuple) and any(isinstance(a, np.ndarray) and a.ndim == 2 for a in x)


def validate_input(estimator: Any, x: Any, *, reset: bool) -> Descriptors:
    """Read an estimator's input, with scikit-learn's own checks where it is a 2-D array.

    Sets (``reset=True``) or checks (``reset=False``) ``estimator.n_features_in_``.

    Raises
    ------
    ValueError
        InputError, or scikit-learn's own message, if `x` is not finite numbers of the fitted width.
    """
    if not (isinstance(x, Descriptors) or is_ragged_list(x) or getattr(x, "ndim", None) == 3):
        from sklearn.utils.validation import validate_data

        return as_descriptors(validate_data(estimator, x, reset=reset, dtype=np.float32, order="C"))
    descriptors = as_descriptors(x)
    check_finite(descriptors.values, descriptors.offsets)
    if reset:
        estimator.n_features_in_ = descriptors.n_features
    else:
        check_width(
            descriptors.n_features,
            estimator.n_features_in_,
            "descriptors",
            f"those that {type(estimator).__name__} was fitted on",
        )
    return descriptors
