"""Shifted copies of images: the same subject, as another device or another crop would show it.

A copy gets a random mixture of a black frame or a crop, blur or sharpening, gamma, contrast, and JPEG
compression. Lengths are relative to the image. Images with a side of more than 544 pixels are reduced first,
because a copy of a large image takes long. The random numbers come from the pixels and a seed, so an image
has the same copy in every run.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from copy import copy as shallow_copy
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from medvlad._util.choices import ColourProfile
from medvlad._util.validate import check_seed
from medvlad.images.large_files import LargeFiles
from medvlad.images.read import load_image

__all__ = ["ShiftedCopies", "random_of", "shifted_copy"]

Pixels = NDArray[np.uint8]

_LARGEST = 544  # pixels
_SIDE = 224  # pixels; blur and sharpening are given for this side
_FRAME, _CROP = 0.35, 0.45  # probabilities
_WIDEST_FRAME = 0.125  # of a side
_LEAST_CROP = 0.7
_BLUR, _SHARPEN = 0.5, 0.2


def shifted_copy(pixels: Pixels, random_state: int = 0) -> Pixels:
    """Return a shifted copy of an image.

    Parameters
    ----------
    pixels : ndarray of shape (H, W, 3), uint8
    random_state : int, default=0
        Seed. The copy depends on it and on the pixels.

    Returns
    -------
    ndarray of shape (h, w, 3), uint8
        The same size, or a reduced one with a longer side of 544 pixels.
    """
    rng = random_of(pixels, random_state)
    image = Image.fromarray(pixels)
    image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BILINEAR)
    unit = min(image.size) / _SIDE
    image = _focused(_framed(image, rng), rng, unit)
    levels = np.asarray(image, np.float32)
    if rng.random() < 0.6:
        levels = 255 * (levels / 255) ** np.exp(rng.uniform(-0.5, 0.5))
    if rng.random() < 0.5:
        levels = (levels - levels.mean()) * rng.uniform(0.7, 1.3) + levels.mean()
    changed = np.clip(levels, 0, 255).astype(np.uint8)
    return _compressed(changed, int(rng.integers(20, 80))) if rng.random() < 0.5 else changed


def random_of(pixels: Pixels, *seeds: int) -> np.random.Generator:
    """Return random numbers that depend on the pixels and on seeds."""
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=8).digest()
    first, *others = (check_seed(seed) for seed in seeds)
    return np.random.default_rng([first, int.from_bytes(digest, "little"), *others])


def _framed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Add a black frame, or crop."""
    chance, (width, height) = rng.random(), image.size
    if chance < _FRAME:
        left, top, right, bottom = (rng.uniform(0, _WIDEST_FRAME, 4) * (width, height, width, height)).astype(
            int
        )
        smaller = image.resize((width - left - right, height - top - bottom), Image.Resampling.BILINEAR)
        framed = Image.new("RGB", image.size)
        framed.paste(smaller, (left, top))
        return framed
    if chance < _FRAME + _CROP:
        share, (across, down) = rng.uniform(_LEAST_CROP, 1), rng.uniform(0, 1, 2)
        left, top = (1 - share) * width * across, (1 - share) * height * down
        box = (left, top, left + share * width, top + share * height)
        return image.resize(image.size, Image.Resampling.BILINEAR, box=box)
    return image


def _focused(image: Image.Image, rng: np.random.Generator, unit: float) -> Image.Image:
    """Blur or sharpen."""
    chance = rng.random()
    if chance < _BLUR:
        return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 2) * unit))
    if chance < _BLUR + _SHARPEN:
        return image.filter(ImageFilter.UnsharpMask(2 * unit, int(rng.integers(50, 200)), 0))
    return image


def _compressed(pixels: Pixels, quality: int) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


class ShiftedCopies(Sequence[Pixels]):
    """Copies of a list of images. Each one is made when it is asked for.

    Threads may ask at the same time. Only two large files are decoded at a time.

    Parameters
    ----------
    images : sequence of paths and arrays
        Input of :func:`medvlad.images.read.load_image`.
    random_state : int, default=0
        Seed, see :func:`shifted_copy`.
    copy : callable, default=shifted_copy
        Called with pixels and the seed. It returns the pixels of a copy.
    colour_profile : {"ignore", "srgb"}, default="ignore"
        As in :func:`medvlad.images.read.load_image`. Damage of images is ignored.

    Examples
    --------
    >>> pixels = np.full((8, 8, 3), 100, np.uint8)
    >>> ShiftedCopies([pixels])[0].shape
    (8, 8, 3)
    """

    def __init__(
        self,
        images: Sequence[Any],
        random_state: int = 0,
        copy: Callable[[Pixels, int], Pixels] = shifted_copy,
        *,
        colour_profile: ColourProfile = "ignore",
    ) -> None:
        self._images = images
        self._random_state = check_seed(random_state)
        self._copy = copy
        self._colour_profile = colour_profile
        self._large = LargeFiles()

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> Pixels: ...
    @overload
    def __getitem__(self, index: slice) -> ShiftedCopies: ...
    def __getitem__(self, index: int | slice) -> Pixels | ShiftedCopies:
        """Return copies. Raise InputError if an image cannot be read."""
        if isinstance(index, slice):
            part = shallow_copy(self)
            part._images = self._images[index]
            return part
        image = self._images[index]
        with self._large.turn(image):
            pixels = load_image(image, on_damage="ignore", colour_profile=self._colour_profile)
            return self._copy(pixels, self._random_state)
