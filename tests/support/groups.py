"""Groups of descriptors for tests of k-means and the encoders."""

import numpy as np

from medvlad import Descriptors


def ragged_groups(rng):
    """Return four tight groups of descriptors in 8 dimensions, in images of several lengths, one empty."""
    groups = rng.normal(scale=10, size=(4, 8))
    lengths = [12, 0, 30, 7, 51]
    return Descriptors.from_list(
        [(groups[rng.integers(0, 4, n)] + rng.normal(size=(n, 8))).astype(np.float32) for n in lengths]
    )
