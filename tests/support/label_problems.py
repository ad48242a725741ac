"""Problems with several labels or numbers, some of which are missing."""

import numpy as np


def draw_labels(shape, n_labels, *, missing=0.0, seed=0):
    """Return rows with a length near 1, and labels (n, n_labels) of 0, 1 and NaN that depend on the rows."""
    rng = np.random.default_rng(seed)
    n, d = shape
    Z = rng.normal(size=(n, n_labels))
    X = (Z @ rng.normal(size=(n_labels, d)) + rng.normal(size=shape)) / np.sqrt(d * (n_labels + 1)) + 0.05
    prevalence = np.linspace(0.15, 0.6, n_labels)
    noisy = Z + 0.7 * rng.normal(size=Z.shape)
    y = (noisy > np.quantile(noisy, 1 - prevalence, axis=0).diagonal()).astype(float)
    y[rng.random(y.shape) < missing] = np.nan
    return X, y


def draw_numbers(shape, n_targets, *, missing=0.0, seed=0):
    """Return rows, and numbers (n, n_targets) that depend on the rows."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=shape) / np.sqrt(shape[1]) + 0.5
    y = X @ rng.normal(size=(shape[1], n_targets)) + 0.5 * rng.normal(size=(shape[0], n_targets)) + 3.0
    y[rng.random(y.shape) < missing] = np.nan
    return X, y
