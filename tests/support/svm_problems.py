"""Classification problems for tests of the linear SVM."""

import numpy as np

SHAPES = {"wide": (60, 200), "tall": (300, 20), "square": (50, 50), "one wider": (40, 41)}


def draw(shape, n_classes, seed=0):
    """Return overlapping classes of rows with a length near 1, and their labels."""
    rng = np.random.default_rng(seed)
    n, d = shape
    y = rng.permutation(np.arange(n) % (n_classes + 1) % n_classes)  # class 0 is twice as frequent
    centres = rng.normal(size=(n_classes, d))
    return (0.5 * centres[y] + rng.normal(size=shape)) / np.sqrt(d), y
