"""scikit-learn-intelex: scikit-learn's KMeans on Intel's oneDAL."""

from __future__ import annotations

import sklearnex
from sklearnex.cluster import KMeans


def describe():
    from importlib.metadata import version

    return {"scikit-learn-intelex": version("scikit-learn-intelex"), "sklearnex": sklearnex.__version__}


def kmeans(x, k, seed, n_iter, n_threads, start=None):
    """Fit with k-means++. Seeding and Lloyd's steps are one call."""
    import time
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = KMeans(
            k, init="k-means++", n_init=1, max_iter=n_iter, tol=0.0, random_state=seed, algorithm="lloyd"
        )
        begin = time.perf_counter()
        fitted = model.fit(x)
        seconds = time.perf_counter() - begin
    return {"total": seconds}, fitted.cluster_centers_, None
