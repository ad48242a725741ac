"""superkmeans with its own settings, which cluster in a hierarchy if there are more than 100,000 rows."""

from __future__ import annotations

import numpy as np
import superkmeans

from rivals.superkmeans_flat import describe

__all__ = ["describe", "kmeans"]


def kmeans(x, k, seed, n_iter, n_threads, start=None):
    import time

    model = superkmeans.SuperKMeans(k, x.shape[1], seed=seed, n_threads=n_threads, verbose=False)
    begin = time.perf_counter()
    centers = model.train(x)
    return {"total": time.perf_counter() - begin}, np.ascontiguousarray(centers, np.float32), None
