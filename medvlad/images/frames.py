"""Images in a file: how many there may be, and which one is meant.

One of several images of a file is FILE#N. A header may claim any number of them, so there is a limit.
"""

from __future__ import annotations

import os
from pathlib import Path

from medvlad._util.validate import InputError

__all__ = ["check_frame", "max_frames", "split_frame", "too_many_frames"]

_MAX_FRAMES = 10_000


def max_frames() -> int:
    """How many images a file may hold: the environment variable MEDVLAD_MAX_FRAMES, or 10000."""
    value = os.environ.get("MEDVLAD_MAX_FRAMES", "")
    if not value:
        return _MAX_FRAMES
    if not (value.isascii() and value.isdecimal()) or int(value) < 1:
        raise InputError(f"MEDVLAD_MAX_FRAMES must be an integer of at least 1, got {value!r}: set it anew")
    return int(value)


def too_many_frames(name: str) -> InputError:
    """Return the refusal of a file that holds more."""
    return InputError(
        f"{name} holds more than {max_frames()} images: split it, or set the environment variable "
        "MEDVLAD_MAX_FRAMES if you trust it"
    )


def check_frame(frame: int | None, n_frames: int, name: str) -> None:
    """Refuse a file of several images of which none is named, and one that is not there."""
    if n_frames > max_frames():
        raise too_many_frames(name)
    if frame is None and n_frames > 1:
        raise InputError(
            f"{name} holds {n_frames} images: name one of them, such as FILE#0, or all by "
            "medvlad.images.read.list_frames"
        )
    if frame is not None and frame >= n_frames:
        raise InputError(
            f"{name} is not there: the file holds {n_frames} images, the last is #{n_frames - 1}"
        )


def split_frame(source: str | os.PathLike[str]) -> tuple[Path, int | None]:
    """File and number of an image: ``FILE#N`` where there is no file of this very name, else (FILE, None)."""
    path = Path(source)
    name, mark, number = path.name.rpartition("#")
    if mark and name and number.isascii() and number.isdecimal() and not path.exists():
        return path.with_name(name), int(number)
    return path, None
