"""FAISS: exact search in a flat index for the nearest centre, then sums by SciPy's sparse matrices."""

from __future__ import annotations

import faiss
import numpy as np
import scipy

from rivals.scipy_csr import sums_of_cells
from rivals.shared import finish, image_of_rows, new_output


def describe():
    return {"faiss": faiss.__version__, "numpy": np.__version__, "scipy": scipy.__version__}


def prepare(x, offsets, centers, n_threads):
    faiss.omp_set_num_threads(n_threads)
    index = faiss.IndexFlatL2(centers.shape[1])
    index.add(centers)
    distances = np.empty((len(x), 1), np.float32)
    nearest = np.empty((len(x), 1), np.int64)

    def encode(out):
        out = new_output(offsets, centers) if out is None else out
        index.search(x, 1, D=distances, I=nearest)
        labels = nearest[:, 0]
        cells = image_of_rows(offsets) * len(centers) + labels
        sums, used, counts = sums_of_cells(x, cells)
        return finish(sums, used, counts, centers, out), labels

    return encode


def prepare_assign(x, centers, n_threads):
    faiss.omp_set_num_threads(n_threads)
    index = faiss.IndexFlatL2(centers.shape[1])
    index.add(centers)
    distances, nearest = np.empty((len(x), 1), np.float32), np.empty((len(x), 1), np.int64)

    def assign():
        index.search(x, 1, D=distances, I=nearest)
        return nearest[:, 0]

    return assign


def kmeans(x, k, seed, n_iter, n_threads, start=None):
    """Run FAISS' Kmeans on all rows. Without given seeds it starts from random rows."""
    import time

    faiss.omp_set_num_threads(n_threads)
    model = faiss.Kmeans(
        x.shape[1], k, niter=n_iter, nredo=1, seed=seed, max_points_per_centroid=len(x), verbose=False
    )
    begin = time.perf_counter()
    model.train(x, init_centroids=start)
    seconds = {"total": time.perf_counter() - begin}
    if start is not None:
        seconds["lloyd"] = seconds["total"]
    return seconds, model.centroids, None
