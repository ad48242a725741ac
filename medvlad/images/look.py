"""How an image was taken: sharpness and dark borders, in three numbers.

========  =====================================================================================
sharp     Logarithm of the standard deviation of the fine structure, which a Gaussian filter of 1 pixel
          removes. The grey levels are divided by their standard deviation first.
dark      Share of dark pixels (below 20 of 255) in a ring of 6 pixels at the border.
columns   Share of dark columns at the left and the right: 90 % of their pixels are below 30.
========  =====================================================================================

They are measured on a square of 224 pixels. They say little about the subject, but may go with the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medvlad._util.choices import ColourProfile
from medvlad._util.read_ahead import read_ahead
from medvlad._util.validate import check_n_threads
from medvlad.images.large_files import LargeFiles
from medvlad.images.read import load_image
from medvlad.images.resize import resize_square

__all__ = ["look_of", "looks_of"]

_SIDE, _RING = 224, 6
_DARK, _DARK_COLUMN, _COLUMN_SHARE = 20, 30, 0.9


def look_of(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return sharp, dark and columns of an image (H, W, 3), shape (3,)."""
    grey = resize_square(pixels, _SIDE).mean(axis=2, dtype=np.float32)
    scaled = (grey - grey.mean()) / (grey.std() + 1)
    fine = (scaled - gaussian_filter(scaled, 1.0)).std()
    ring = np.ones(grey.shape, bool)
    ring[_RING:-_RING, _RING:-_RING] = False
    dark = (grey < _DARK_COLUMN).mean(axis=0) > _COLUMN_SHARE
    runs = sum(_first_run(side) for side in (dark, dark[::-1]))
    return np.array([np.log(fine + 1e-6), (grey[ring] < _DARK).mean(), runs / _SIDE])


def _first_run(dark: NDArray[np.bool_]) -> int:
    quarter = dark[: len(dark) // 4]
    return len(quarter) if quarter.all() else int((~quarter).argmax())


def looks_of(
    images: Sequence[Any], *, n_threads: int | None = None, colour_profile: ColourProfile = "ignore"
) -> NDArray[np.float64]:
    """Return the look of each image. Only two large files are decoded at a time.

    Parameters
    ----------
    images : sequence of paths and arrays, n
        Input of :func:`medvlad.images.read.load_image`.
    n_threads : int or None, default=None
        Number of threads that read. None: the processors that this process may use.
    colour_profile : {"ignore", "srgb"}, default="ignore"
        As in :func:`medvlad.images.read.load_image`. Damage of images is ignored.

    Returns
    -------
    ndarray of float64, shape (n, 3)

    Raises
    ------
    InputError
        If an image cannot be read.
    """
    n, large = check_n_threads(n_threads), LargeFiles()

    def look(index: int) -> NDArray[np.float64]:
        image = images[index]
        with large.turn(image):
            return look_of(load_image(image, on_damage="ignore", colour_profile=colour_profile))

    reading = read_ahead(look, range(len(images)), n_threads=n, n_ahead=4 * n, name="medvlad-look")
    with closing(reading):
        return np.array([one for _, one in reading]).reshape(-1, 3)
