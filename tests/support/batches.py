"""Batches of descriptors for tests of backends and encoders."""

import numpy as np


def batch(rng, lengths, k, d, *, integers=False):
    """Return descriptors of images of the given lengths, offsets, and centres."""
    n = sum(lengths)
    if integers:
        x, c = rng.integers(-4, 5, (n, d)), rng.integers(-4, 5, (k, d))
    else:
        x, c = np.maximum(rng.normal(-0.5, 1, (n, d)), 0), np.maximum(rng.normal(-0.2, 1, (k, d)), 0)
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    return x.astype(np.float32), offsets, c.astype(np.float32)


def bits(array):
    """Return the bit patterns of an array, so that 0.0 and -0.0 differ."""
    return array.view(np.int32)
