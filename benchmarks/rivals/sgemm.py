"""Assignment's matrix product and nothing else, by NumPy's BLAS: an encoder on top of it costs more."""

from __future__ import annotations

import numpy as np


def describe():
    return {"numpy": np.__version__}


def prepare(x, offsets, centers, n_threads):
    scores = np.empty((len(x), len(centers)), np.float32)

    def encode(out):
        np.matmul(x, centers.T, out=scores)
        return None, None

    return encode
