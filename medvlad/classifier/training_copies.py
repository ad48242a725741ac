"""Shifted copies of training images: whether they fit the data, and their descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.recipe import Recipe
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.images.look import looks_of
from medvlad.images.shifted_copies import ShiftedCopies
from medvlad.svm.invariance import Nuisance

__all__ = ["add_copies", "check_copies"]


def check_copies(
    augment: str, memory: Any, recipe: Recipe, *, targets: str | None = None, bags: str | None = None
) -> None:
    """Raise InputError if shifted copies do not fit the images or the settings.

    Parameters
    ----------
    augment : {"none", "shift"}
        "none": nothing is refused.
    memory : object or None
        The memory limit. None: no limit.
    recipe : Recipe
    targets : str or None, default=None
        Words for what the images have, such as "y holds labels". None: one class each.
    bags : str or None, default=None
        Words for what takes the place of images, such as "this data set holds feature files". None: images.
    """
    if augment == "none":
        return
    wrong = None
    if targets is not None:
        wrong = f"one class an image, and {targets}: leave it out"
    elif bags is not None:
        wrong = f"images, and {bags}: leave it out"
    elif memory is not None or recipe.codebook_samples is None:
        wrong = "data sets in main memory: leave out the memory limit and codebook_samples=None"
    if wrong is not None:
        raise InputError(f"augment={augment!r} is for {wrong}")


def add_copies(
    network: CNNDescriptors,
    images: Sequence[Any],
    descriptors: Descriptors | DescriptorBlocks,
    training: NDArray[np.intp],
    *,
    random_state: int = 0,
) -> tuple[Descriptors, Nuisance]:
    """Extract a shifted copy of each training image.

    Parameters
    ----------
    network : CNNDescriptors
        The network that made `descriptors`.
    images : sequence of paths and arrays, n
        Images that can be read.
    descriptors : Descriptors or DescriptorBlocks, n
    training : ndarray of int, shape (m,)
        Indices of the training images. The others have no copy.
    random_state : int, default=0
        Seed of the copies.

    Returns
    -------
    descriptors : Descriptors, n + m
        Those of the images, then those of the copies, in memory.
    nuisance : Nuisance, n + m

    Raises
    ------
    InputError
        If a copy cannot be extracted, such as for lack of GPU memory, or descriptors are on a GPU.
    """
    chosen = [images[i] for i in training]
    profile = network.colour_profile
    copies = network.transform(ShiftedCopies(chosen, random_state, colour_profile=profile))
    both = [_in_memory(one) for one in (descriptors, copies)]
    n, m = len(images), len(training)
    looks = np.zeros((n + m, 3))
    looks[training] = looks_of(chosen, n_threads=network.n_threads, colour_profile=profile)
    nuisance = Nuisance(np.concatenate([np.arange(n), training]), np.arange(n + m) >= n, looks)
    return _joined(*both), nuisance


def _in_memory(descriptors: Any) -> Descriptors:
    loaded = descriptors.load() if isinstance(descriptors, DescriptorBlocks) else descriptors
    if not isinstance(loaded.values, np.ndarray):
        raise InputError("shifted copies need descriptors in main memory: use output='host' or 'store'")
    return loaded


def _joined(first: Descriptors, second: Descriptors) -> Descriptors:
    values = np.concatenate([first.values, second.values])
    return Descriptors(values, np.concatenate([first.offsets, first.offsets[-1] + second.offsets[1:]]))
