"""Images that are bags: feature files, or descriptors of any number in an array each."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from medvlad._util.validate import InputError
from medvlad.bags import is_bag_file, open_bags
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.ragged import Descriptors

__all__ = ["as_bags", "check_several"]


def check_several(images: Any) -> None:
    """Raise InputError if `images` is a single path."""
    if isinstance(images, str | os.PathLike):
        raise InputError(f"images must be a list, got the single path {str(images)!r}: give a list: [path]")


def as_bags(images: Any) -> Descriptors | DescriptorBlocks | None:
    """Return the descriptors of bags. None: `images` are files of images or pixels.

    Parameters
    ----------
    images : Descriptors, DescriptorBlocks, or sequence
        A sequence of feature files, or of arrays (n_i, D) of floating-point numbers, holds bags.

    Raises
    ------
    InputError
        If `images` is a single path, or some of a sequence are bags and others are images.
    """
    check_several(images)
    if isinstance(images, Descriptors | DescriptorBlocks):
        return images
    are_bags = [_is_bag(image) for image in images]
    if not any(are_bags):
        return None
    if not all(are_bags):
        raise InputError(
            f"image {are_bags.index(False)} is an image and image {are_bags.index(True)} is a bag of "
            "descriptors: give images only, or bags only"
        )
    if isinstance(images[0], np.ndarray):
        return Descriptors.from_list(list(images))
    return open_bags(images)


def _is_bag(image: Any) -> bool:
    if isinstance(image, np.ndarray):
        return image.ndim == 2 and image.dtype.kind == "f"
    if isinstance(image, tuple):  # several files that form one bag
        return bool(image) and all(_is_bag(one) for one in image)
    return isinstance(image, str | os.PathLike) and is_bag_file(image)
