"""Several images in one file: how they are named, counted and limited.

``FILE#N`` is image N of a file, counted from 0: a frame of DICOM, a page of TIFF or a slice of NIfTI. The
header of a file can claim any number of images, so the number is limited.
"""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from medvlad._util.validate import InputError, check_local

__all__ = ["check_frame", "choose_page", "count_pages", "max_frames", "split_frame", "too_many_frames"]

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
    source : path
        ``FILE`` or ``FILE#N``.

    Returns
    -------
    file : Path
    frame : int or None
        None if `source` has no number, or if a file exists whose own name ends in ``#N``.
    """
    path = check_local(source, "the image")
    name, mark, number = path.name.rpartition("#")
    if mark and name and number.isascii() and number.isdecimal() and not path.exists():
        return path.with_name(name), int(number)
    return path, None


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
    if frame is not None and frame >= n_frames:
        raise InputError(
            f"{name} does not exist: the file holds {n_frames} images, and the last is #{n_frames - 1}"
        )


def choose_page(image: Image.Image, frame: int | None, name: str) -> None:
    """Turn an open image to the page that is asked for.

    Parameters
    ----------
    image : PIL.Image.Image
    frame : int or None
        Number of the page, from 0. None: the only page.
    name : str
        How errors name the image.

    Raises
    ------
    InputError
        If the page does not exist, if a TIFF has several pages and `frame` is None, or if the image is an
        animation.
    """
    if image.format == "TIFF":
        if frame is None or frame >= max_frames():
            check_frame(frame, count_pages(image, name), name)
        try:
            image.seek(frame or 0)
        except EOFError:
            check_frame(frame, count_pages(image, name), name)
        return
    check_frame(frame, 1, name)
    # is_animated stops at the second frame; n_frames would read a GIF to its end. The further pictures of an
    # MPO are previews, not frames.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise InputError(
            f"{name} holds several frames of an animation: save the frame that you need as a file of its own"
        )


def count_pages(image: Image.Image, name: str) -> int:
    """Return the number of pages of an open TIFF.

    Raises
    ------
    InputError
        If it exceeds `max_frames`. Counting stops there, because Pillow's time grows with the square of the
        number of pages.
    """
    for page in range(1, max_frames() + 1):
        try:
            image.seek(page)  # one by one: Pillow miscounts the pages after a longer step
        except EOFError:
            return page
    raise too_many_frames(name)
