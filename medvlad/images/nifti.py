"""Read one slice of a NIfTI volume as grey levels (extra medical).

Slices are axial: they are cut across the array axis nearest to the axis of the body, and numbered from the
feet up. As in radiology, the patient's right is on the left and the front at the top. The display range in
the header (cal_min, cal_max) is mapped to 0..255. If it is missing or invalid, the slice's own range is. The
same happens, with a warning, if the display range belongs to other data: if it would give the whole volume
nearly one grey level, or a slice that varies exactly one.
"""

from __future__ import annotations

import gzip
import math
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, import_extra, one_line
from medvlad.images.frames import check_frame, max_frames, too_many_frames
from medvlad.images.grey_levels import own_range, rounded, stretch

__all__ = ["NIFTI_SUFFIXES", "count_nifti", "read_nifti"]

NIFTI_SUFFIXES = (".nii", ".nii.gz")

# Bytes of a .nii.gz after decompression, if a slice is not stored in one piece: the whole volume is unpacked.
_MAX_VOLUME = 4 << 30
_MAX_NIFTI_HEADER = 64 << 20  # bytes, extensions included
_GZIP = b"\x1f\x8b"  # how a compressed file begins, whatever its name
_SNIFFED = 540  # bytes of the longer header, that of NIfTI-2
_FEW_LEVELS = 16  # a volume that has fewer in its display range is practically black, white or grey


def count_nifti(path: Path) -> int:
    """Return the number of slices of a NIfTI file.

    Raises
    ------
    InputError
        If it exceeds :func:`medvlad.images.frames.max_frames`.
    """
    with path.open("rb") as file:
        image = _load_nifti(file, is_packed=_is_packed(file))
    axis = _axes(image.affine)[0][2]
    if image.shape[axis] > max_frames():
        raise too_many_frames(str(path))
    return int(image.shape[axis])


def _is_packed(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(len(_GZIP)) == _GZIP


def _load_nifti(file: BinaryIO, *, is_packed: bool) -> Any:
    """Open a volume with nibabel, after a check of the extensions that nibabel would read unchecked."""
    nibabel = import_extra("nibabel", "medical", "NIfTI")
    file.seek(0)
    stream: Any = file
    if is_packed:
        stream = gzip.GzipFile(fileobj=file)
        _check_extensions(nibabel, stream)
        stream.seek(0)
    head = stream.read(_SNIFFED)
    stream.seek(0)
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        if kind.header_class.may_contain_header(head):
            return kind.from_file_map({"image": nibabel.FileHolder(fileobj=stream)})
    raise ValueError("its beginning is not a NIfTI header")


def _check_extensions(nibabel: ModuleType, file: gzip.GzipFile) -> None:
    """Refuse header extensions of impossible or huge size. nibabel reports all other faults.

    Raises
    ------
    ValueError
    """
    head = file.read(_SNIFFED)
    kinds = (nibabel.Nifti1Header, nibabel.Nifti2Header)
    found = [kind for kind in kinds if kind.may_contain_header(head)]
    if not found or len(head) < found[0].sizeof_hdr:
        return
    header = found[0](head[: found[0].sizeof_hdr], check=False)
    file.seek(found[0].sizeof_hdr)
    if file.read(4)[:1] in (b"", b"\0"):
        return
    left = int(header["vox_offset"]) - file.tell()
    order = {"<": "little", ">": "big"}.get(header.endianness, sys.byteorder)
    n_bytes = 0
    while left >= 16 or left < 0:
        length = file.read(8)
        if len(length) < 8:
            return
        size = int.from_bytes(length[:4], order, signed=True)  # type: ignore[arg-type]
        n_bytes += size
        if size < 8 or n_bytes > _MAX_NIFTI_HEADER:
            raise ValueError(
                f"an extension of {size} bytes; extensions may have {_MAX_NIFTI_HEADER} bytes in all"
            )
        file.seek(size - 8, os.SEEK_CUR)
        left -= size


def _axes(affine: NDArray[Any]) -> tuple[list[int], list[bool]]:
    """Return the array axes nearest to right, front and head, and for each whether it runs backwards."""
    nibabel = import_extra("nibabel", "medical", "NIfTI")
    orientation = nibabel.io_orientation(affine)
    if np.isnan(orientation).any():
        raise ValueError("an axis has no direction: its sform or qform must be corrected")
    axes = [int(np.flatnonzero(orientation[:, 0] == body)[0]) for body in range(3)]
    return axes, [bool(orientation[axis, 1] < 0) for axis in axes]


def read_nifti(file: BinaryIO, frame: int | None, name: str, *, max_pixels: int | None) -> NDArray[np.uint8]:
    """Read one slice of a NIfTI file.

    Parameters
    ----------
    file : binary file
        The open file.
    frame : int or None
        Number of the slice, from 0 at the feet. None: the only slice.
    name : str
        How errors name the image.
    max_pixels : int or None
        Larger slices are refused before anything is decoded. None: no limit.

    Returns
    -------
    ndarray of shape (H, W), uint8

    Raises
    ------
    InputError
        If the file is damaged or too large, is not a volume of real numbers, does not hold the slice, or
        holds several slices and `frame` is None.
    MissingExtraError
        If nibabel is not installed.
    """
    import_extra("nibabel", "medical", "NIfTI")
    try:
        is_packed = _is_packed(file)
        image = _load_nifti(file, is_packed=is_packed)
        shape, dtype = image.shape, image.get_data_dtype()
        axes, flipped = _axes(image.affine) if len(shape) >= 3 else ([], [])
    except Exception as error:
        raise _damaged_nifti(name, error) from error
    _check_volume(shape, dtype, name)
    right, front, head = axes
    if max_pixels is not None and shape[right] * shape[front] > max_pixels:
        raise InputError(f"{name} has more pixels than are safe to decode ({shape}): reduce it")
    check_frame(frame, shape[head], name)
    if is_packed and head != 2 and math.prod(shape) * dtype.itemsize > _MAX_VOLUME:
        raise InputError(f"{name} is larger than {_MAX_VOLUME} bytes once it is unpacked: unpack it first")
    at = frame or 0
    place: list[Any] = [slice(None)] * 3 + [0] * (len(shape) - 3)
    place[head] = shape[head] - 1 - at if flipped[2] else at
    try:
        values = np.asarray(image.dataobj[tuple(place)])
    except Exception as error:
        raise _damaged_nifti(name, error) from error
    if not np.isfinite(values).all():
        raise InputError(f"{name} holds NaN or infinite voxels: repair them")
    if right > front:
        values = values.T
    # Axes are (right, front) now. Turn them into rows from front to back and columns from right to left.
    values = values[:: 1 if flipped[0] else -1, :: 1 if flipped[1] else -1].T
    return _to_grey(image, values, name)


def _check_volume(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
    """Refuse everything except a volume of three axes that holds one real number for each voxel."""
    if (
        len(shape) < 3
        or 0 in shape
        or any(n != 1 for n in shape[3:])
        or dtype.names is not None
        or dtype.kind == "c"
    ):
        what = "colour" if dtype.names is not None else f"{dtype} of shape {shape}"
        raise InputError(f"{name} is {what}: give a NIfTI volume of three axes and one real number a voxel")


def _to_grey(image: Any, values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Map the display range of the header, or else the range of the slice, to 0..255."""
    low, high = float(image.header["cal_min"]), float(image.header["cal_max"])
    scale = 255 / (high - low) if low < high else math.nan
    if not (math.isfinite(scale) and scale > 0):
        return stretch(values, name)
    levels = rounded((values.astype(np.float64) - low) * scale)
    span = levels.max() - levels.min()
    if span >= _FEW_LEVELS or values.min() == values.max() or (span > 0 and _fits(image, low, high, name)):
        return levels
    return own_range(values, name, f"the display range {low:g} to {high:g}")


def _fits(image: Any, low: float, high: float, name: str) -> bool:
    """Return whether a volume has more than a few grey levels in a display range. A slice may have fewer."""
    ends = [math.inf, -math.inf]
    n_parts = image.shape[2]
    try:
        # The middle is not empty in most volumes, so the others are rarely read.
        for part in (n_parts // 2, *range(n_parts)):
            values = np.asarray(image.dataobj[(slice(None), slice(None), part)], np.float64).clip(low, high)
            ends = [
                np.fmin(ends[0], np.fmin.reduce(values, None)),
                np.fmax(ends[1], np.fmax.reduce(values, None)),
            ]
            if (ends[1] - ends[0]) * 255 >= _FEW_LEVELS * (high - low):
                return True
    except Exception as error:
        raise _damaged_nifti(name, error) from error
    return False


def _damaged_nifti(name: str, error: BaseException) -> InputError:
    reason = one_line(error) or type(error).__name__
    return InputError(f"{name} is damaged, or not NIfTI ({reason[:200]}): copy it again or remove it")
