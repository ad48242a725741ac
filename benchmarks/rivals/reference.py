"""medvlad's float64 specification."""

from __future__ import annotations

import numpy as np

import medvlad
from medvlad.backends import reference

OPTIONS = {"power": 1.0, "intra_norm": False, "l2_norm": True}


def describe():
    return {"medvlad": medvlad.__version__, "numpy": np.__version__}


def prepare(x, offsets, centers, n_threads):
    def encode(out):
        return reference.encode(x, offsets, centers, **OPTIONS), None

    return encode


def prepare_assign(x, centers, n_threads):
    return lambda: reference.assign(x, centers)


def assign(x, centers, n_threads):
    """Return the labels with which all other implementations are compared."""
    return reference.assign(x, centers)


def inertia(x, centers):
    """Return the sum of squared distances to the nearest centres, in float64."""
    centers = np.ascontiguousarray(centers, np.float32)
    labels = reference.assign(x, centers)
    total = 0.0
    for start in range(0, len(x), 8192):
        part = slice(start, start + 8192)
        difference = x[part].astype(np.float64) - centers[labels[part]]
        total += float(np.einsum("nd,nd->", difference, difference))
    return total
