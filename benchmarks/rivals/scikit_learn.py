"""scikit-learn's assignment, then SciPy's sparse sums.

KMeans.predict multiplies in float32 block by block and is the faster of its two ways;
pairwise_distances_argmin computes float32 data in float64.
"""

from __future__ import annotations

import numpy as np
import scipy
import sklearn
from sklearn.cluster import KMeans, kmeans_plusplus

from rivals.scipy_csr import sums_of_cells
from rivals.shared import finish, image_of_rows, new_output


def describe():
    return {"scikit-learn": sklearn.__version__, "numpy": np.__version__, "scipy": scipy.__version__}


def _assigner(centers):
    sklearn.set_config(assume_finite=True)
    # Fitting to the centres does not move them. They are set again to be exact.
    assigner = KMeans(len(centers), init=centers, n_init=1, max_iter=1).fit(centers)
    assigner.cluster_centers_ = np.ascontiguousarray(centers)
    return assigner


def prepare_assign(x, centers, n_threads):
    assigner = _assigner(centers)
    return lambda: assigner.predict(x)


def prepare(x, offsets, centers, n_threads):
    assigner = _assigner(centers)

    def encode(out):
        out = new_output(offsets, centers) if out is None else out
        labels = assigner.predict(x)
        cells = image_of_rows(offsets) * len(centers) + labels
        sums, used, counts = sums_of_cells(x, cells)
        return finish(sums, used, counts, centers, out), labels

    return encode


def kmeans(x, k, seed, n_iter, n_threads, start=None):
    """Run the two steps of KMeans.fit with init="k-means++" separately, so that each can be timed."""
    import time
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    sklearn.set_config(assume_finite=True)
    seconds = {}
    begin = time.perf_counter()
    if start is None:
        start, _ = kmeans_plusplus(x, k, random_state=seed)
        seconds["seeding"] = time.perf_counter() - begin
    middle = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = KMeans(k, init=start, n_init=1, max_iter=n_iter, tol=0.0, algorithm="lloyd").fit(x)
    seconds["lloyd"] = time.perf_counter() - middle
    seconds["total"] = seconds["lloyd"] + seconds.get("seeding", 0.0)
    return seconds, fitted.cluster_centers_, start
