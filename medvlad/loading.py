"""Images read, resized and waiting before the network asks for them: threads ahead of it, in order.

Decoding and resizing release the interpreter lock, so threads do it while the network computes. How far they
run ahead is bounded in pixels, so memory does not depend on the number of images or the scale.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._validate import InputError
from medvlad.images import load_image, resize_square

__all__ = ["load_squares"]

Squares = list[NDArray[np.uint8]]

_PIXELS_AHEAD = 16 * 1024 * 1024  # 48 MB


def load_squares(
    images: Any, wanted: Iterable[int], sides: Sequence[int], method: str, *, n_threads: int
) -> Generator[tuple[int, Squares | InputError], None, None]:
    """Yield images in order as squares of each size.

    Parameters
    ----------
    images : sequence of paths and arrays
        What :func:`medvlad.images.load_image` takes.
    wanted : iterable of int
        Which of them.
    sides : sequence of int
        Sizes in pixels.
    method : str
        One of :data:`medvlad.images.RESIZE_FILTERS`.
    n_threads : int
        Threads that read and resize.

    Yields
    ------
    index : int
    squares : list of ndarray (side, side, 3), uint8, or InputError
        One a size, or why the image cannot be read.
    """

    def load(index: int) -> Squares | InputError:
        try:
            pixels = load_image(images[index])
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
