"""NIfTI: one slice of a volume as 8-bit pixels (extra medical).

Slices go across the axis nearest to the body's, from the feet up, the patient's right on the left and the
front at the top, as radiologists look at them. The header's display range (cal_min, cal_max) is mapped to
0..255, or else the slice's own range.
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
from medvlad.images.grey_levels import rounded, stretch

__all__ = ["NIFTI_SUFFIXES", "count_nifti", "read_nifti"]

NIFTI_SUFFIXES = (".nii", ".nii.gz")

_MAX_VOLUME = 4 << 30  # a .nii.gz whose slices do not follow on each other is unpacked as a whole
_MAX_NIFTI_HEADER = 64 << 20
_SNIFFED = 540  # bytes of the header of NIfTI-2, the longer one


def count_nifti(path: Path) -> int:
    """How many slices a NIfTI file holds."""
    with path.open("rb") as file:
        image = _load_nifti(file, path)
    axis = _axes(image.affine)[0][2]
    if image.shape[axis] > max_frames():
        raise too_many_frames(str(path))
    return int(image.shape[axis])


def _load_nifti(file: BinaryIO, path: Path) -> Any:
    """Open a volume with nibabel, which believes what a header says of its extensions, and reads them."""
    nibabel = import_extra("nibabel", "medical", "NIfTI")
    file.seek(0)
    stream: Any = file
    if path.name.lower().endswith(".gz"):
        stream = gzip.GzipFile(fileobj=file)
        _check_extensions(nibabel, stream)
        stream.seek(0)
    head = stream.read(_SNIFFED)
    stream.seek(0)
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        if kind.header_class.may_contain_header(head):
            return kind.from_file_map({"image": nibabel.FileHolder(fileobj=stream)})
    raise ValueError("its beginning is not a header of NIfTI")


def _check_extensions(nibabel: ModuleType, file: gzip.GzipFile) -> None:
    """Refuse extensions that are longer than headers are, or of no length; all else is for nibabel to say."""
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
            raise ValueError(f"an extension of {size} bytes, of {_MAX_NIFTI_HEADER} in all")
        file.seek(size - 8, os.SEEK_CUR)
        left -= size


def _axes(affine: NDArray[Any]) -> tuple[list[int], list[bool]]:
    """Which array axis runs nearest to right, front and head, and whether it runs the other way."""
    nibabel = import_extra("nibabel", "medical", "NIfTI")
    orientation = nibabel.io_orientation(affine)
    axes = [int(np.flatnonzero(orientation[:, 0] == body)[0]) for body in range(3)]
    return axes, [bool(orientation[axis, 1] < 0) for axis in axes]


def read_nifti(
    file: BinaryIO, path: Path, frame: int | None, name: str, *, max_pixels: int | None
) -> NDArray[np.uint8]:
    """Read one slice of a NIfTI file; parameters and errors as :func:`read_dicom`.

    Returns
    -------
    ndarray of shape (H, W), uint8
    """
    import_extra("nibabel", "medical", "NIfTI")
    try:
        image = _load_nifti(file, path)
        shape, dtype = image.shape, image.get_data_dtype()
        axes, flipped = _axes(image.affine) if len(shape) >= 3 else ([], [])
    except Exception as error:
        raise _damaged_nifti(name, error) from error
    if (
        len(shape) < 3
        or 0 in shape
        or any(n != 1 for n in shape[3:])
        or dtype.names is not None
        or dtype.kind == "c"
    ):
        what = "colour" if dtype.names is not None else f"{dtype} of shape {shape}"
        raise InputError(f"{name} is {what}: give a NIfTI volume of three axes and one real number a voxel")
    right, front, head = axes
    if max_pixels is not None and shape[right] * shape[front] > max_pixels:
        raise InputError(f"{name} has more pixels than are safe to decode ({shape}): reduce it")
    check_frame(frame, shape[head], name)
    is_packed = path.name.lower().endswith(".gz")
    if is_packed and head != 2 and math.prod(shape) * dtype.itemsize > _MAX_VOLUME:
        raise InputError(f"{name} is larger than {_MAX_VOLUME} bytes once it is unpacked: unpack it first")
    at = frame or 0
    place: list[Any] = [slice(None)] * 3 + [0] * (len(shape) - 3)
    place[head] = shape[head] - 1 - at if flipped[2] else at
    try:
        values = np.asarray(image.dataobj[tuple(place)])
    except Exception as error:
        raise _damaged_nifti(name, error) from error
    if right > front:  # to (right, front)
        values = values.T
    # Rows from the front to the back, columns from the patient's right to the left.
    values = values[:: 1 if flipped[0] else -1, :: 1 if flipped[1] else -1].T
    if not np.isfinite(values).all():
        raise InputError(f"{name} holds NaN or infinite voxels: repair them")
    low, high = float(image.header["cal_min"]), float(image.header["cal_max"])
    if np.isfinite([low, high]).all() and low < high:
        levels = (values.astype(np.float64) - low) * (255 / (high - low))
        return rounded(levels)
    return stretch(values, name)


def _damaged_nifti(name: str, error: BaseException) -> InputError:
    reason = one_line(error) or type(error).__name__
    return InputError(f"{name} is damaged, or no NIfTI ({reason[:200]}): copy it again or remove it")
