"""What altering an image changes in its mean descriptors, measured on altered copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import further_seed
from medvlad.audit.descriptor_pairs import window_means
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.images.altered_copies import altered_copy
from medvlad.images.shifted_copies import ShiftedCopies

__all__ = ["changes_of_copies"]

_LEAST, _MOST = 300, 1200  # copies
_MOST_EACH = 10  # copies of an image


def changes_of_copies(
    network: CNNDescriptors, images: Sequence[Any], means: Sequence[NDArray[np.float32]], random_state: int
) -> list[NDArray[np.float32]]:
    """Extract altered copies of some images, and return their mean descriptors minus those of the images.

    Parameters
    ----------
    network : CNNDescriptors
        Fitted. If it has a store, the copies are kept there.
    images : sequence of paths and arrays, n
    means : sequence of ndarray of shape (n, D), float32
        Result of :func:`medvlad.audit.descriptor_pairs.window_means` for the images.
    random_state : int
        Seed of the choice and of the copies.

    Returns
    -------
    list of ndarray of shape (m, D), float32
        One for each of `means`. With 1,200 images or more, m is 1,200. With fewer, each image has one copy,
        or up to ten so that m is at least 300.
    """
    n = len(images)
    chosen = np.sort(np.random.default_rng(random_state).permutation(n)[:_MOST])
    found: list[list[NDArray[np.float32]]] = [[] for _ in means]
    for repeat in range(min(_MOST_EACH, -(-_LEAST // n))):
        copies = ShiftedCopies(
            [images[i] for i in chosen],
            further_seed(random_state, repeat),
            altered_copy,
            colour_profile=network.colour_profile,
        )
        of_copies = window_means(network.transform(copies), network.grids_)
        for kept, mean, of_copy in zip(found, means, of_copies, strict=True):
            kept.append(of_copy - mean[chosen])
    return [np.concatenate(one) for one in found]
