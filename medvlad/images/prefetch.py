"""Images read, resized and waiting before the network asks for them: threads ahead of it, in order.

Decoding and resizing release the interpreter lock, so threads do it while the network computes. How far they
run ahead is bounded in pixels of the squares, so memory does not depend on the number of images or the scale.
While it is decoded an image is in memory as a whole, a radiograph in floating point: of large files only two
at a time.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from threading import BoundedSemaphore
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.images.frames import split_frame
from medvlad.images.hashed_file import image_key
from medvlad.images.read import load_image, load_image_and_key, resize_square

__all__ = ["as_sequence", "load_squares"]

Squares = list[NDArray[np.uint8]]

_PIXELS_AHEAD = 16 * 1024 * 1024  # 48 MB
_LARGE_FILE = 4 * 1024 * 1024
_LARGE_AT_A_TIME = 2


def load_squares(
    images: Any,
    wanted: Iterable[int],
    sides: Sequence[int],
    method: str,
    *,
    n_threads: int,
    keys: dict[int, str] | None = None,
) -> Generator[tuple[int, Squares | InputError], None, None]:
    """Yield images in order as squares of each size.

    Parameters
    ----------
    images : sequence of paths and arrays
        What :func:`medvlad.images.read.load_image` takes.
    wanted : iterable of int
        Which of them.
    sides : sequence of int
        Sizes in pixels.
    method : str
        One of :data:`medvlad.images.read.RESIZE_FILTERS`.
    n_threads : int
        Threads that read and resize.
    keys : dict of int to str, optional
        Filled with the :func:`~medvlad.images.hashed_file.image_key` of the very bytes or pixels that were
        decoded, by index. They may differ from those that the image had before.

    Yields
    ------
    index : int
    squares : list of ndarray (side, side, 3), uint8, or InputError
        One a size, or why the image cannot be read.
    """
    few = BoundedSemaphore(_LARGE_AT_A_TIME)

    def load(index: int) -> Squares | InputError:
        image = images[index]
        turn: AbstractContextManager[Any] = few if _is_large(image) else nullcontext()
        try:
            with turn:
                if keys is None:
                    pixels = load_image(image)
                elif isinstance(image, str | os.PathLike):
                    pixels, keys[index] = load_image_and_key(image)
                else:
                    pixels = load_image(image)
                    keys[index] = image_key(image)
        except InputError as error:
            return error
        return [resize_square(pixels, side, method) for side in sides]

    ahead = max(2 * n_threads, _PIXELS_AHEAD // sum(side * side for side in sides))
    waiting: deque[tuple[int, Future[Squares | InputError]]] = deque()
    threads = ThreadPoolExecutor(n_threads, "medvlad-load")
    try:
        for index in wanted:
            waiting.append((index, threads.submit(load, index)))
            if len(waiting) > ahead:
                first, squares = waiting.popleft()
                yield first, squares.result()
        while waiting:
            first, squares = waiting.popleft()
            yield first, squares.result()
    finally:  # also when the caller has had enough, or Ctrl-C
        threads.shutdown(wait=True, cancel_futures=True)


def _is_large(image: Any) -> bool:
    if not isinstance(image, str | os.PathLike):
        return False
    try:
        return split_frame(image)[0].stat().st_size > _LARGE_FILE
    except (OSError, ValueError):  # reading it will tell
        return False


def as_sequence(images: Any) -> Any:
    """Return `images` so that ``images[i]`` is the i-th; refuse a single image, and what has no order."""
    got = None
    if isinstance(images, str | os.PathLike):
        got = repr(images)
    elif isinstance(images, bytes | Mapping | Set) or not hasattr(images, "__len__"):
        got = type(images).__name__
    elif isinstance(images, np.ndarray) and (
        images.ndim == 0 or (images.ndim == 3 and images.shape[2] in (1, 3))
    ):
        got = f"one array of shape {images.shape}"
    if got is not None:
        raise InputError(f"images must be a list of paths or arrays, got {got}: put it into a list")
    # A column of a data frame finds images[i] by its label, which is not the i-th after a shuffled split.
    return images if isinstance(images, np.ndarray | Sequence) else list(images)
