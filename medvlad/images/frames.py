"""Several images in one file: how they are named, counted and limited.

``FILE#N`` is image N of a file, counted from 0: a frame of DICOM, a page of TIFF or a slice of NIfTI. The
header of a file can claim any number of images, so the number is limited.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from medvlad._util.object_path import ObjectPath, check_reached, location
from medvlad._util.validate import InputError

__all__ = ["check_frame", "frame_name", "max_frames", "split_frame", "too_many_frames", "warn_of_namesake"]

_log = logging.getLogger(__name__)

_MAX_FRAMES = 10_000


def max_frames() -> int:
    """Return the maximum number of images in a file.

    It is the environment variable MEDVLAD_MAX_FRAMES, or 10000 if that is not set.

    Raises
    ------
    InputError
        If MEDVLAD_MAX_FRAMES is not a positive integer.
    """
    value = os.environ.get("MEDVLAD_MAX_FRAMES", "")
    if not value:
        return _MAX_FRAMES
    if not (value.isascii() and value.isdecimal()) or int(value) < 1:
        raise InputError(
            f"MEDVLAD_MAX_FRAMES must be an integer of at least 1, got {value!r}: correct the environment "
            "variable or unset it"
        )
    return int(value)


def too_many_frames(name: str) -> InputError:
    """Return the error for a file that holds more images than `max_frames` allows."""
    return InputError(
        f"{name} holds more than {max_frames()} images: split it, or set the environment variable "
        "MEDVLAD_MAX_FRAMES if you trust it"
    )


def split_frame(source: str | os.PathLike[str]) -> tuple[Path, int | None]:
    """Split the name of an image into its file and its number in that file.

    Parameters
    ----------
    source : path or URL
        ``FILE`` or ``FILE#N``.

    Returns
    -------
    file : Path
    frame : int or None
        None if `source` has no number, or if only a file exists whose own name ends in ``#N``. If ``FILE``
        exists too, ``FILE#N`` is an image of it, and the other file is called ``FILE#N#0``.
    """
    path = location(source, "the image")
    name, mark, number = path.name.rpartition("#")
    if mark and name and number.isascii() and number.isdecimal():
        file = path.with_name(name)
        try:
            is_image_of = file.is_file() or not path.exists()
        except OSError as error:
            check_reached(path, error)
            raise
        if is_image_of:
            return file, int(number)
    return path, None


def frame_name(file: Path, frame: int) -> Path:
    """Return the name of an image in a file, ``FILE#N``."""
    return file.with_name(f"{file.name}#{frame}")


def warn_of_namesake(file: Path, frame: int) -> None:
    """Log a warning if a file exists that is literally called ``FILE#N``, like image N of a file.

    Objects are not looked for, because that would be a request for each image.
    """
    if isinstance(file, ObjectPath):
        return
    namesake = frame_name(file, frame)
    if namesake.exists():
        _log.warning(
            "%s means image %d of %s, but a file of that name exists too: to read that file, use %s#0",
            *(namesake, frame, file.name, namesake),
        )


def check_frame(frame: int | None, n_frames: int, name: str) -> None:
    """Check that `frame` chooses one of the images of a file.

    Parameters
    ----------
    frame : int or None
        Number of the image, from 0. None: the only image of the file.
    n_frames : int
        Number of images in the file.
    name : str
        How errors name the image.

    Raises
    ------
    InputError
        If the file holds more images than `max_frames` allows, if it holds several and `frame` is None, or
        if `frame` is too large.
    """
    if n_frames > max_frames():
        raise too_many_frames(name)
    if frame is None and n_frames > 1:
        raise InputError(
            f"{name} holds {n_frames} images: name one of them, such as FILE#0, or list all with "
            "medvlad.images.list_frames"
        )
    if frame is not None and frame >= max(n_frames, 1):
        images = "1 image" if n_frames == 1 else f"{n_frames} images"
        raise InputError(f"{name} does not exist: the file holds {images}, and the last is #{n_frames - 1}")
