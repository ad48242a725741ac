"""Hold the local descriptors of a batch of images, each with its own number of descriptors.

Extraction returns and encoders accept `Descriptors`. Image ``i`` of ``B`` owns the rows
``values[offsets[i]:offsets[i + 1]]`` of one float32 matrix::

    values  (N, D)   | image 0 | image 1      | (image 2 is empty) | image 3 |
    offsets (B + 1,) 0         o1             o2 = o3              o3        N

The matrix can be on a GPU, from any library. Then it is a GpuArray, and the offsets stay in host memory.

A descriptor can have a weight. Encoders multiply its contribution by the weight and ignore it if the weight
is 0.
Fitting (centres, components, mixtures) ignores descriptors of weight 0 and treats all others equally.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, check_indices, check_positive_int
from medvlad.descriptors.checks import (
    as_array,
    as_matrix,
    check_finite,
    check_offsets,
    check_weights,
    check_width,
)
from medvlad.descriptors.gpu_array import GpuArray, import_cupy, on_gpu

__all__ = [
    "Descriptors",
    "as_descriptors",
    "draw_rows",
    "ragged_list",
    "read_matrix",
    "rows_of",
    "validate_input",
]

_FEWEST_CHANNELS = 64
_LARGEST_MAP = 64  # rows of a feature map of a network


class Descriptors(Sequence[NDArray[np.float32]]):
    """A ragged batch of local descriptors.

    Parameters
    ----------
    values : array-like of shape (N, D)
        All descriptors, image after image. Not copied if float32 and C-contiguous. On a GPU: an array with
        ``__dlpack__`` of float32, float16 or bfloat16.
    offsets : array-like of int, shape (B + 1,)
        First row of each image: ``offsets[0] == 0``, non-decreasing, ``offsets[-1] == N``.
    weights : array-like of float, shape (N,), optional
        Weight of each descriptor, from 0 to 3.4e38, in host memory. None: all weights are 1.

    Raises
    ------
    InputError
        If a shape or dtype is wrong, or the offsets do not match `values`.

    Examples
    --------
    >>> import numpy as np
    >>> d = Descriptors.from_list([np.zeros((3, 2)), np.ones((1, 2))])
    >>> len(d), d.n_features, d[1].tolist()
    (2, 2, [[1.0, 1.0]])
    """

    __slots__ = ("offsets", "values", "weights")

    values: Any  # NDArray[np.float32] or GpuArray
    offsets: NDArray[np.int64]
    weights: NDArray[np.float64] | None

    def __init__(self, values: Any, offsets: Any, weights: Any = None) -> None:
        self.values = read_matrix(values, "descriptors")
        self.offsets = check_offsets(offsets, self.values.shape[0])
        self.weights = None if weights is None else check_weights(weights, self.values.shape[0])

    @classmethod
    def from_list(cls, arrays: Sequence[Any]) -> Descriptors:
        """Join a list of arrays, one per image.

        Parameters
        ----------
        arrays : sequence of arrays (n_i, D) or feature maps (H_i, W_i, D)
            ``n_i = 0`` is allowed.

        Raises
        ------
        InputError
            If the list is empty, or the widths differ. The message names the image.
        """
        if isinstance(arrays, str) or not hasattr(arrays, "__len__"):
            raise InputError(f"from_list needs a list of arrays, one per image, got {type(arrays).__name__}")
        if len(arrays) == 0:
            raise InputError("an empty list of images has no number of features: give at least one array")
        matrices = [
            read_matrix(_by_rows(a, name), name)
            for a, name in ((a, f"descriptors of image {i}") for i, a in enumerate(arrays))
        ]
        width = matrices[0].shape[1]
        for i, matrix in enumerate(matrices):
            check_width(matrix.shape[1], width, f"descriptors of image {i}", "those of image 0")
        return cls(_joined(matrices), np.cumsum([0, *(len(m) for m in matrices)], dtype=np.int64))

    @classmethod
    def from_array(cls, x: Any) -> Descriptors:
        """Read an array (B, n, D) or feature maps (B, H, W, D), without a copy if possible.

        Warns
        -----
        UserWarning
            If the shape is probably (B, D, H, W), as PyTorch orders its maps. It is read as (B, H, W, D) all
            the same.
        """
        array = _read(x)
        if array.ndim not in (3, 4):
            raise InputError(
                f"from_array needs shape (n_images, n, n_features) or (n_images, height, width, n_features), "
                f"got {array.shape}"
            )
        n_images, *inner, width = array.shape
        if array.ndim == 4:
            _warn_of_channels_first(array.shape)
        n = math.prod(inner)
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
        """Return an image as an (n_i, D) view, or a slice of images as Descriptors.

        A slice with a step of 1 is not copied.
        """
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return self.take(range(start, stop, step))
            stop = max(start, stop)
            first, last = self.offsets[start], self.offsets[stop]
            weights = None if self.weights is None else self.weights[first:last]
            return Descriptors(self.values[first:last], self.offsets[start : stop + 1] - first, weights)
        i = range(len(self))[index]
        image: NDArray[np.float32] = self.values[self.offsets[i] : self.offsets[i + 1]]
        return image

    def take(self, indices: Sequence[int] | NDArray[np.integer | np.bool_]) -> Descriptors:
        """Return a copy of some images, in the given order.

        Parameters
        ----------
        indices : sequence of int, or of bool with shape (n_images,)
            Image numbers, counted from the end if negative, or a mask.

        Returns
        -------
        Descriptors

        Raises
        ------
        InputError
            If `indices` is neither, or a number is out of range.
        """
        index = check_indices(indices, len(self))
        lengths = np.diff(self.offsets)[index]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        weights = None
        if self.weights is not None:
            parts = [self.weights[self.offsets[i] : self.offsets[i + 1]] for i in index.tolist()]
            weights = np.concatenate([self.weights[:0], *parts])
        if isinstance(self.values, GpuArray):
            return Descriptors(_joined([self.values[:0], *(self[int(i)] for i in index)]), offsets, weights)
        values = np.empty((int(offsets[-1]), self.n_features), np.float32)
        for target, i in enumerate(index):
            values[offsets[target] : offsets[target + 1]] = self[int(i)]
        return Descriptors(values, offsets, weights)

    def weighted(self, weights: Any) -> Descriptors:
        """Return the same descriptors with other weights, shape (N,). The weight 0 masks a descriptor."""
        return Descriptors(self.values, self.offsets, weights)

    def counted(self) -> Descriptors:
        """Return the descriptors whose weight is not 0, in the memory that they are in."""
        if self.weights is None or self.weights.all():
            return self
        kept = self.weights > 0
        ends = np.concatenate([[0], np.cumsum(kept)])[self.offsets]
        return Descriptors(rows_of(self.values, kept), ends, self.weights[kept])

    def to_host(self) -> Descriptors:
        """Return the descriptors in host memory as float32. If they are there already, return `self`."""
        if isinstance(self.values, GpuArray):
            return Descriptors(self.values.to_host(), self.offsets, self.weights)
        return self

    def __repr__(self) -> str:
        return f"Descriptors({len(self)} images, {self.values.shape[0]} descriptors of {self.n_features})"


def rows_of(values: Any, rows: NDArray[np.integer | np.bool_]) -> Any:
    """Return a copy of rows of a matrix, an ndarray or a GpuArray, in the same memory."""
    if not isinstance(values, GpuArray):
        return values[rows]
    with values.stream():
        return values[import_cupy().asarray(rows)]


def read_matrix(x: Any, name: str) -> Any:
    """Convert `x` (N, D) to a float32 matrix in host memory, or to a GpuArray if it is on a GPU.

    Raises
    ------
    InputError
        As :func:`medvlad.descriptors.checks.as_matrix`.
    """
    if not on_gpu(x):
        return as_matrix(x, name)
    array = GpuArray.read(x, name)
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(f"{name} must have shape (n, n_features) with n_features >= 1, got {array.shape}")
    return array


def _by_rows(x: Any, name: str) -> Any:
    """Reshape a feature map (H, W, D) to (H * W, D). Other shapes are returned unchanged.

    Rows that are objects, as tables hold them, become an array.
    """
    if _holds_objects(x):
        x = x.tolist()
    if getattr(x, "ndim", None) != 3:
        return x
    maps = GpuArray.read(x, name) if on_gpu(x) else as_array(x, name)
    return maps.reshape(maps.shape[0] * maps.shape[1], maps.shape[2])


def _read(x: Any) -> Any:
    return GpuArray.read(x, "descriptors") if on_gpu(x) else as_array(x, "descriptors")


def _joined(matrices: Sequence[Any]) -> Any:
    """Concatenate matrices of one width. The result is on the GPU if the first matrix is."""
    first = matrices[0]
    if not isinstance(first, GpuArray):
        return np.concatenate([m.to_host() if isinstance(m, GpuArray) else m for m in matrices])
    if any(not isinstance(m, GpuArray) or m.element != first.element for m in matrices):
        raise InputError(
            "the descriptors of a batch must all be on the GPU and have one dtype: convert them first"
        )
    with first.stream():
        joined = import_cupy().concatenate([m.values for m in matrices])
    return GpuArray(joined, first.element, first.origin)


def draw_rows(n_rows: int, n: int, random_state: Any) -> NDArray[np.int64]:
    """Draw row numbers uniformly without replacement. The memory needed grows with `n`, not with `n_rows`.

    Parameters
    ----------
    n_rows : int
        Number of rows.
    n : int
        Number of rows to draw. If it is not below `n_rows`, all rows are returned and `random_state` is not
        used.
    random_state : int, RandomState or None
        Source of random numbers.

    Returns
    -------
    ndarray of int64, shape (min(n, n_rows),)
        Row numbers, ascending.
    """
    n = check_positive_int(n, "the number of rows to draw")
    if n >= n_rows:
        return np.arange(n_rows, dtype=np.int64)
    from sklearn.utils import check_random_state

    rng = check_random_state(random_state)
    if n_rows <= 2 * n:
        return np.sort(rng.permutation(n_rows)[:n])
    # Keep the first n distinct numbers of uniform draws. A permutation would need memory for all rows.
    drawn = np.empty(0, np.int64)
    while len(drawn) < n:
        drawn = np.concatenate([drawn, rng.randint(n_rows, size=n, dtype=np.int64)])
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])][:n]
    return np.sort(drawn)


def as_descriptors(x: Any) -> Descriptors:
    """Convert any input that encoders accept to Descriptors.

    Parameters
    ----------
    x : Descriptors, sequence of (n_i, D) arrays, array (B, n, D) or (B, H, W, D), or array (B, D)
        A 2-D array is read as one descriptor per image. A sequence is a list, a tuple, an object array, or a
        column of pandas or polars; its elements can be nested lists.

    Raises
    ------
    InputError
        If `x` is none of these.
    """
    if isinstance(x, Descriptors):
        return x
    images = ragged_list(x)
    if images is not None:
        return Descriptors.from_list(images)
    array = _read(x)
    if array.ndim in (3, 4):
        return Descriptors.from_array(array)
    matrix = read_matrix(array, "descriptors")
    return Descriptors(matrix, np.arange(len(matrix) + 1, dtype=np.int64))


def ragged_list(x: Any) -> list[Any] | None:
    """Return the images of a sequence of arrays or feature maps, or None if `x` is none.

    A sequence is a list, a tuple, an object array, or a column of pandas or polars. An image is an array, or
    a list of rows. One image in it is enough. `Descriptors.from_list` then reports the elements that are
    none.
    """
    columns = getattr(x, "columns", None)
    if columns is not None and len(columns) == 1 and hasattr(x, "__getitem__"):
        x = x[columns[0]]
    if _holds_objects(x) and x.ndim in (1, 2, 3):
        elements = list(x.ravel() if x.shape[1:] == (1,) else x)
    elif isinstance(x, list | tuple):
        elements = list(x)
    elif getattr(x, "ndim", 1) == 1 and hasattr(x, "to_list"):
        elements = x.to_list()
    else:
        return None
    return elements if any(_is_image(a) for a in elements) else None


def _holds_objects(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "O"


def _is_image(x: Any) -> bool:
    """Return whether `x` is an array (n, D), a feature map, or a sequence of rows."""
    if getattr(x, "ndim", 1) != 1:
        return getattr(x, "ndim", None) in (2, 3)
    is_sequence = isinstance(x, list | tuple) or _holds_objects(x)
    return is_sequence and len(x) > 0 and (isinstance(x[0], list | tuple) or getattr(x[0], "ndim", 0) == 1)


def validate_input(estimator: Any, x: Any, *, reset: bool, finite: bool = True) -> Descriptors:
    """Convert an estimator's input to Descriptors and check it.

    scikit-learn's own checks are used for a 2-D array, so that its estimator checks pass.

    Parameters
    ----------
    estimator : estimator
        Its attribute ``n_features_in_`` is set or checked.
    x : object
        See :func:`as_descriptors`.
    reset : bool
        Whether ``n_features_in_`` is set (in `fit`) instead of checked.
    finite : bool
        Whether to check that all numbers are finite, which takes a pass over them. False: the caller finds
        the others while it reads them.

    Raises
    ------
    ValueError
        InputError or scikit-learn's error, if `x` does not hold finite numbers of the fitted width.
    """
    from medvlad.descriptors.array_api import on_host

    x = on_host(x, "descriptors")
    images = None if isinstance(x, Descriptors) or on_gpu(x) else ragged_list(x)
    x = x if images is None else images
    own = isinstance(x, Descriptors) or images is not None or getattr(x, "ndim", 0) in (3, 4) or on_gpu(x)
    if not own:
        from sklearn.utils.validation import validate_data

        checked = validate_data(
            estimator, x, reset=reset, dtype=np.float32, order="C", ensure_all_finite=finite
        )
        return as_descriptors(checked)
    descriptors = as_descriptors(x)
    if finite and (reset or not isinstance(descriptors.values, GpuArray)):  # cuda checks while it reads
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


def _warn_of_channels_first(shape: tuple[int, ...]) -> None:
    """Warn if the shape of maps is probably (B, D, H, W): a number of channels before a small square.

    Maps (B, H, W, D) of such a shape are possible, so this is no error. They would have as few features as
    columns, and many more rows.
    """
    _, channels, height, width = shape
    square = height == width <= _LARGEST_MAP
    if square and channels >= _FEWEST_CHANNELS and channels % 8 == 0 and channels >= 2 * height:
        from medvlad._util.caller_warning import warn_caller  # imports scikit-learn

        warn_caller(
            f"maps of shape {shape} are read as (images, height, width, features), so each descriptor has "
            f"{width} numbers; if they are (images, channels, height, width), as in PyTorch, give "
            "maps.permute(0, 2, 3, 1)",
            UserWarning,
        )
