"""Altered copies of images: what a copy in a data set looks like that is not the same file any more.

A copy is mirrored or not, turned and cut, changed as a shifted copy (:mod:`medvlad.images.shifted_copies`:
frame or crop, sharpness, gamma, contrast, compression), and gets noise or not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvlad.images.shifted_copies import random_of, shifted_copy

__all__ = ["altered_copy"]

Pixels = NDArray[np.uint8]

_MIRROR, _TURN, _NOISE = 0.5, 0.7, 0.5  # probabilities
_LARGEST_ANGLE = 6.0  # degrees
_LARGEST_CUT = 0.08  # of each side
_LARGEST_NOISE = 8.0  # standard deviation, grey levels
_STREAM = 1  # the random numbers are not those of the shifted copy


def altered_copy(pixels: Pixels, random_state: int = 0) -> Pixels:
    """Return an altered copy of an image.

    Parameters
    ----------
    pixels : ndarray of shape (H, W, 3), uint8
    random_state : int, default=0
        Seed. The copy depends on it and on the pixels.

    Returns
    -------
    ndarray of shape (h, w, 3), uint8
        A cut image is smaller. The longer side has at most 544 pixels.
    """
    rng = random_of(pixels, random_state, _STREAM)
    image = Image.fromarray(pixels)
    if rng.random() < _MIRROR:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < _TURN:
        image = _turned(image, rng)
    changed = shifted_copy(np.asarray(image), random_state)
    if rng.random() < _NOISE:
        noisy = changed + rng.normal(0, rng.uniform(0, _LARGEST_NOISE), changed.shape)
        changed = np.clip(noisy, 0, 255).astype(np.uint8)
    return changed


def _turned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turn an image, and cut off its corners and up to a twelfth of each side."""
    angle = rng.uniform(-_LARGEST_ANGLE, _LARGEST_ANGLE)
    (width, height), slope = image.size, abs(np.sin(np.deg2rad(angle))) / 2
    left, right = slope * height + rng.uniform(0, _LARGEST_CUT, 2) * width
    top, bottom = slope * width + rng.uniform(0, _LARGEST_CUT, 2) * height
    box = (round(left), round(top), round(width - right), round(height - bottom))
    if box[2] <= box[0] or box[3] <= box[1]:  # a narrow image has only corners
        return image
    return image.rotate(angle, Image.Resampling.BICUBIC).crop(box)
