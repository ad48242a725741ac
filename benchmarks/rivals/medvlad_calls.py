"""medvlad as its users call it: with all checks of the input, and with a new array where none is given."""

from __future__ import annotations

import medvlad
from medvlad.backends import native


def describe():
    return {"medvlad": medvlad.__version__, "level": native.level()}


def prepare(x, offsets, centers, n_threads):
    images = medvlad.Descriptors(x, offsets)
    vlad = medvlad.VLAD(len(centers), centers=centers, n_threads=n_threads).fit(images[:1])

    def encode(out):
        if out is None:
            return vlad.transform(images), None
        return medvlad.vlad_encode(images, centers, n_threads=n_threads, out=out), None

    return encode


def prepare_assign(x, centers, n_threads):
    return lambda: medvlad.assign(x, centers, n_threads=n_threads)


def assign(x, centers, n_threads):
    """Return the labels, which are compared with the specification."""
    return medvlad.assign(x, centers, n_threads=n_threads)


def kmeans(x, k, seed, n_iter, n_threads, start=None):
    """Fit from given seeds, or choose seeds and return their seconds separately."""
    import time
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    from medvlad.encoders import kmeans as codebook

    seconds = {}
    seed_centers = codebook.seed_centers

    def timed_seed(*args, **settings):
        begin = time.perf_counter()
        seeds = seed_centers(*args, **settings)
        seconds["seeding"] = time.perf_counter() - begin
        timed_seed.centers = seeds
        return seeds

    codebook.seed_centers = timed_seed
    try:
        begin = time.perf_counter()
        own = {} if start is None else {"init": start}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = medvlad.KMeansCodebook(
                k, max_iter=n_iter, tol=0.0, n_threads=n_threads, random_state=seed, **own
            ).fit(x)
        seconds["total"] = time.perf_counter() - begin
    finally:
        codebook.seed_centers = seed_centers
    if start is not None:
        return seconds, fitted.cluster_centers_, None
    seconds["lloyd"] = seconds["total"] - seconds["seeding"]  # a KeyError if the fit chose no seeds
    return seconds, fitted.cluster_centers_, timed_seed.centers
