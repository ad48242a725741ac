"""Check arrays: descriptors, offsets, centres and weights.

Backends, encoders and the command line all call these functions, so the same mistake gives the same message
everywhere. A checked array is safe for native code: float32, C-contiguous, finite, of matching width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, check_positive_int, one_line

if TYPE_CHECKING:
    from medvlad.descriptors.gpu_array import GpuArray

__all__ = [
    "MAX_WEIGHT",
    "as_array",
    "as_matrix",
    "check_centers",
    "check_encoded",
    "check_finite",
    "check_n_clusters",
    "check_offsets",
    "check_output",
    "check_vocabulary",
    "check_weights",
    "check_width",
]

_FINITE_BLOCK_ROWS = 4096
_CONVERTED_BYTES = 4 << 20  # size of a block that is converted to float32

#: Largest weight of a descriptor. Weighted sums and their squares then stay within float64.
MAX_WEIGHT = float(np.finfo(np.float32).max)


def as_array(x: Any, name: str) -> NDArray[Any]:
    """Convert an array-like in host memory to NumPy. Gradients are dropped, and bfloat16 becomes float32.

    Raises
    ------
    InputError
        If NumPy cannot read `x`. `name` is what the message calls it.
    """
    if type(x) is np.ndarray and x.dtype.kind in "fiub":
        return x
    is_bfloat16 = "bfloat16" in str(getattr(x, "dtype", ""))  # NumPy has no such dtype
    try:
        if hasattr(x, "detach"):  # a torch tensor
            x = x.detach().float() if is_bfloat16 else x.detach()
        array = np.asarray(x)
        return array.astype(np.float32) if is_bfloat16 else array
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} cannot be read as a NumPy array ({one_line(error)}): give an array of numbers"
        ) from error


def as_matrix(x: Any, name: str) -> NDArray[np.float32]:
    """Convert `x` to a C-contiguous float32 matrix. The copy is avoided if possible.

    Parameters
    ----------
    x : array-like of shape (N, D)
        Real numbers of any float or integer dtype.
    name : str
        What error messages call it.

    Returns
    -------
    ndarray of float32, shape (N, D)
        May hold NaN and infinity: see :func:`check_finite`.

    Raises
    ------
    InputError
        If `x` is not a matrix of real numbers, has no columns, or holds finite numbers beyond float32.
    """
    array = as_array(x, name)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} must hold real numbers, got dtype {array.dtype}: convert to float32")
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(f"{name} must have shape (n, n_features) with n_features >= 1, got {array.shape}")
    if array.dtype == np.float32 and array.flags.c_contiguous and array.flags.aligned:
        return array
    # Convert block by block, so that no temporary array is as large as the input.
    converted = np.empty(array.shape, np.float32)
    may_overflow = array.dtype.itemsize > 4 and array.dtype.kind == "f"
    rows = max(1, _CONVERTED_BYTES // (8 * array.shape[1]))
    for start in range(0, len(array), rows):
        block, target = array[start : start + rows], converted[start : start + rows]
        with np.errstate(over="ignore"):
            target[...] = block
        if may_overflow and (overflowed := np.isinf(target) & np.isfinite(block)).any():
            row, column = np.argwhere(overflowed)[0]
            raise InputError(
                f"{name} hold {block[row, column]} at row {start + row}, beyond float32 (3.4e38): "
                "rescale them"
            )
    return converted


def check_width(n_features: int, expected: int, name: str, other: str) -> None:
    """Raise InputError unless `n_features`, of `name`, equals `expected`, of `other`."""
    if n_features != expected:
        raise InputError(
            f"{name} have {n_features} features, {other} have {expected}: they must come from the same layer"
        )


def check_output(out: Any, name: str, shape: tuple[int, ...], dtype: type, *inputs: NDArray[Any]) -> Any:
    """Return `out` if results can be written directly into it.

    Parameters
    ----------
    out : ndarray
        Output array that the caller gave.
    name : str
        What error messages call it.
    shape : tuple of int
        Required shape.
    dtype : type
        Required dtype.
    *inputs : ndarray
        Arrays that it must not overlap.

    Raises
    ------
    InputError
        If `out` is not a writeable C-contiguous array of `shape` and `dtype`, or overlaps an input.
    """
    if not isinstance(out, np.ndarray) or out.dtype != dtype or out.shape != shape:
        found = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise InputError(f"{name} must be a NumPy array of {np.dtype(dtype)} {shape}, got {found}")
    if not (out.flags.c_contiguous and out.flags.writeable and out.flags.aligned):
        raise InputError(f"{name} must be writeable, aligned and C-contiguous: make it with np.empty")
    if any(np.may_share_memory(out, other) for other in inputs):
        raise InputError(f"{name} overlaps an input or another output: give it memory of its own")
    return out


def check_offsets(offsets: Any, n_rows: int) -> NDArray[np.int64]:
    """Convert image offsets to int64, shape (B + 1,).

    Parameters
    ----------
    offsets : array-like of int
        Must begin with 0, not decrease, and end with `n_rows`.
    n_rows : int
        Number of descriptors.

    Raises
    ------
    InputError
        If they do not.
    """
    try:
        array = np.asarray(offsets)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, arrays on a GPU
        raise InputError(f"offsets must be a list of n_images + 1 integers ({one_line(error)})") from error
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise InputError(
            f"offsets must be a list of n_images + 1 integers, got shape {array.shape} of {array.dtype}"
        )
    array = np.ascontiguousarray(array, dtype=np.int64)
    if array[0] != 0 or array[-1] != n_rows:
        raise InputError(
            f"offsets must run from 0 to the number of descriptors ({n_rows}), got {array[0]} to {array[-1]}"
        )
    steps = np.diff(array)
    if (steps < 0).any():
        image = int(np.argmax(steps < 0))
        raise InputError(
            f"offsets must not decrease, got {array[image]} then {array[image + 1]} at image {image}"
        )
    return array


def check_finite(
    x: NDArray[np.float32] | GpuArray,
    offsets: NDArray[np.int64] | None = None,
    name: str = "descriptors",
    *,
    first_image: int = 0,
) -> None:
    """Raise InputError if `x` holds NaN or infinity. The message names image and row of the first one.

    Parameters
    ----------
    x : ndarray of float32 or GpuArray, shape (N, D)
        Array to check.
    offsets : ndarray of int64, optional
        Offsets of the images. None: the message names only the row.
    name : str, default="descriptors"
        What the message calls the array.
    first_image : int, default=0
        Number of the first image.
    """
    if not isinstance(x, np.ndarray):
        found = x.first_not_finite()
        if found is not None:
            _refuse_number(*found, offsets, name, first_image)
        return
    for start in range(0, x.shape[0], _FINITE_BLOCK_ROWS):
        block = x[start : start + _FINITE_BLOCK_ROWS]
        # If the sum is finite, every term is, and no temporary array is needed. A sum of finite terms can
        # overflow, so otherwise every number is checked.
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(block.sum()):
                continue
        bad = ~np.isfinite(block).all(axis=1)
        if bad.any():
            row = start + int(np.argmax(bad))
            _refuse_number(row, float(x[row][~np.isfinite(x[row])][0]), offsets, name, first_image)


def check_encoded(encoded: NDArray[np.float32] | GpuArray) -> None:
    """Raise InputError if a vector without normalisation is too large for float32."""
    check_finite(encoded, name="encoded images, too large for float32,")


def _refuse_number(
    row: int, value: float, offsets: NDArray[np.int64] | None, name: str, first_image: int
) -> NoReturn:
    where = f"row {row}"
    if offsets is not None:
        image = int(np.searchsorted(offsets, row, side="right")) - 1
        where = f"image {first_image + image}, row {row - int(offsets[image])}"
    kind = "NaN" if np.isnan(value) else str(value)
    raise InputError(
        f"{name} hold {kind} at {where}: NaN and inf are not allowed, so remove or repair that image"
    )


def check_weights(weights: Any, n_rows: int) -> NDArray[np.float64]:
    """Convert `weights` to float64. Raise InputError unless they are (N,) numbers from 0 to MAX_WEIGHT."""
    try:
        given = as_array(weights, "weights")
        if given.dtype.kind == "c":
            raise TypeError("they are complex")
        checked = np.ascontiguousarray(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"weights must be one real number per descriptor ({one_line(error)})") from error
    if checked.shape != (n_rows,):
        raise InputError(f"weights must have shape ({n_rows},), one per descriptor, got {checked.shape}")
    wrong = np.flatnonzero(~((checked >= 0) & (checked <= MAX_WEIGHT)))
    if len(wrong):
        raise InputError(
            f"weights must be from 0 to {MAX_WEIGHT:.2g}, got {checked[wrong[0]]} of descriptor {wrong[0]}"
        )
    return checked


def check_centers(centers: Any, n_features: int, name: str = "centers") -> NDArray[np.float32]:
    """Convert centres to float32. Raise InputError unless they are finite, (K, n_features), with K >= 1."""
    array = as_matrix(centers, name)
    if array.shape[0] == 0:
        raise InputError(f"{name} must hold at least one cluster centre, got shape {array.shape}")
    check_width(array.shape[1], n_features, name, "descriptors")
    check_finite(array, name=name)
    return array


def check_vocabulary(centers: Any, n_clusters: Any, n_features: int, name: str) -> NDArray[np.float32]:
    """Return a copy of precomputed centres, checked. Raise InputError unless there are `n_clusters`."""
    checked = check_centers(centers, n_features, name)
    if len(checked) != n_clusters:
        raise InputError(
            f"{name} holds {len(checked)} centres and n_clusters is {n_clusters}: "
            f"use n_clusters={len(checked)}"
        )
    return checked.copy()


def check_n_clusters(n_clusters: Any, n_samples: int) -> int:
    """Return `n_clusters`. Raise InputError unless it is an integer from 1 to `n_samples`."""
    checked = check_positive_int(n_clusters, "n_clusters")
    if checked > n_samples:
        raise InputError(
            f"n_clusters={checked} is more than the number of descriptors (n_samples = {n_samples}): "
            "use more images or fewer clusters"
        )
    return checked
