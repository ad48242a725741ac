"""Read and resize images in threads, ahead of the network that uses them.

Decoding and resizing release the interpreter lock, so threads can do both while the network computes. The
number of images read ahead is limited by the pixels of their squares. Memory therefore does not depend on the
number of images or on the scale. Objects are fetched by more threads, which mostly wait for the network.

Only two large files are decoded at a time, see :mod:`medvlad.images.large_files`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.object_path import ObjectPath
from medvlad._util.object_storage import StorageFailure
from medvlad._util.read_ahead import read_ahead
from medvlad._util.urls import is_url
from medvlad._util.validate import InputError
from medvlad.images.given import array_of, is_content
from medvlad.images.hashed_file import image_key
from medvlad.images.large_files import LargeFiles
from medvlad.images.read import load_image, read_image
from medvlad.images.resize import resize_square

__all__ = ["as_sequence", "load_squares", "n_readers"]

Squares = list[NDArray[np.uint8]]

_PIXELS_AHEAD = 16 * 1024 * 1024  # 48 MB of RGB
_FETCHING = 16  # threads that read objects


def load_squares(
    images: Any,
    wanted: Iterable[int],
    sides: Sequence[int],
    method: str,
    *,
    n_threads: int,
    keys: dict[int, str] | None = None,
    damage: dict[int, str] | None = None,
    colour_profile: str = "ignore",
    decode: str = "full",
) -> Generator[tuple[int, Squares | InputError], None, None]:
    """Yield images, in the order asked for, as squares of each size.

    Parameters
    ----------
    images : sequence of paths and arrays
        Input of :func:`medvlad.images.read.load_image`.
    wanted : iterable of int
        Indices of the images to read.
    sides : sequence of int
        Widths and heights of the squares in pixels.
    method : str
        One of :data:`medvlad.images.resize.RESIZE_FILTERS`.
    n_threads : int
        Number of threads that read and resize. At least 16 are used if the images are URLs.
    keys : dict of int to str, optional
        Filled with the :func:`~medvlad.images.hashed_file.image_key` of the bytes or pixels that were
        decoded, by index. They differ from earlier keys if a file has changed. None: keys are not computed.
    damage : dict of int to str, optional
        Filled with a sentence for each image whose data is damaged although it can be decoded, by index.
    colour_profile : {"ignore", "srgb"}, default="ignore"
        As in :func:`medvlad.images.read.load_image`.
    decode : {"full", "fast"}, default="full"
        How JPEG files are decoded, see :mod:`medvlad.images.picture`.

    Yields
    ------
    index : int
    squares : list of ndarray of shape (side, side, 3), uint8, or InputError
        One array for each size, or the reason why the image cannot be read.

    Raises
    ------
    StorageFailure
        If the object storage of an image fails.
    """
    reduced = tuple(sides) if decode == "fast" else ()
    large = LargeFiles()

    def load(index: int) -> Squares | InputError:
        image = images[index]
        try:
            with large.turn(image):
                if isinstance(image, str | os.PathLike) or is_content(image):
                    read = read_image(
                        image, hashed=keys is not None, colour_profile=colour_profile, sides=reduced
                    )
                    squares, key = read.squares(sides, method), read.key
                    if damage is not None and read.damage:
                        damage[index] = read.damage
                else:
                    pixels, key = load_image(image), "" if keys is None else image_key(image)
                    squares = [resize_square(pixels, side, method) for side in sides]
                if keys is not None:
                    keys[index] = key
        except StorageFailure:
            raise
        except InputError as error:
            return error
        return squares

    n_threads = n_readers(images, n_threads)
    ahead = max(2 * n_threads, _PIXELS_AHEAD // sum(side * side for side in sides))
    yield from read_ahead(load, wanted, n_threads=n_threads, n_ahead=ahead, name="medvlad-load")


def n_readers(images: Any, n_threads: int) -> int:
    """Return how many threads read images: `n_threads`, and at least 16 if the first one is a URL."""
    has_first = isinstance(images, Sequence | np.ndarray) and len(images) > 0
    return max(n_threads, _FETCHING) if has_first and _is_object(images[0]) else n_threads


def _is_object(image: Any) -> bool:
    return isinstance(image, ObjectPath) or (isinstance(image, str) and is_url(image))


def as_sequence(images: Any) -> Any:
    """Return `images` as a sequence: ``images[i]`` is the i-th image.

    Raises
    ------
    InputError
        If `images` is a single image, or a collection without an order.
    """
    got = None
    if isinstance(images, str | os.PathLike):
        got = repr(images)
    elif is_content(images) or isinstance(images, Mapping | Set) or not hasattr(images, "__len__"):
        got = type(images).__name__
    elif hasattr(images, "shape") and hasattr(images, "dtype") and not hasattr(images, "iloc"):
        shape = tuple(images.shape)
        if len(shape) == 0 or (len(shape) == 3 and shape[2] in (1, 3)):
            got = f"one array of shape {shape}"
        elif not isinstance(images, np.ndarray) and len(shape) > 1:
            return array_of(images)  # a tensor of images
    if got is not None:
        raise InputError(f"images must be a list of paths or arrays, got {got}: put it into a list")
    # A column of a data frame looks images[i] up by label. After a shuffled split that is not the i-th image.
    return images if isinstance(images, np.ndarray | Sequence) else list(images)
