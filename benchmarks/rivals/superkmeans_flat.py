"""superkmeans: k-means on all rows, without hierarchy and without stopping early; and its assignment."""

from __future__ import annotations

import numpy as np
import superkmeans


def describe():
    from importlib.metadata import version

    return {"superkmeans": version("superkmeans")}


def _model(k, d, seed, n_iter, n_threads, **settings):
    return superkmeans.SuperKMeans(
        k, d, iters=n_iter, seed=seed, n_threads=n_threads, tol=0.0, early_termination=False, **settings
    )


def prepare_assign(x, centers, n_threads):
    model = _model(*centers.shape, 0, 1, n_threads)
    return lambda: model.assign(x, centers).astype(np.int32)


def kmeans(x, k, seed, n_iter, n_threads, start=None):
    """Run its flat k-means on all rows. It cannot begin from given centres."""
    import time

    model = _model(
        k,
        x.shape[1],
        seed,
        n_iter,
        n_threads,
        hierarchical=False,
        sampling_fraction=1.0,
        max_points_per_cluster=len(x),
    )
    begin = time.perf_counter()
    centers = model.train(x)
    return {"total": time.perf_counter() - begin}, np.ascontiguousarray(centers, np.float32), None
