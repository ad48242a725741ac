"""Add shifted copies of training images to their descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.ragged import Descriptors
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.images.look import looks_of
from medvlad.images.shifted_copies import ShiftedCopies
from medvlad.svm.invariance import Nuisance

__all__ = ["add_copies"]


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
