r"""The codebook: k-means over descriptors.

A cell, or cluster, holds the descriptors whose nearest centre is the same. k-means looks for centres
:math:`c_1, \ldots, c_K` that minimise the inertia, the sum over all descriptors of
:math:`\|x - c_{\text{label}(x)}\|^2`.

**Start.** Greedy k-means++ (Arthur and Vassilvitskii, SODA 2007). The first centre is drawn uniformly. Each
later centre is drawn with a probability proportional to the squared distance to the nearest centre so far.
Several candidates are drawn each time, and the one that lowers the inertia most is kept. Two choices save
time. The centres are chosen from a uniform subsample of the descriptors. More candidates than usual are tried
for each centre, which keeps the inertia low:

=====================  =====================================================
descriptors sampled    256 K at most, without replacement
candidates a centre    2 (2 + floor(ln K)), rounded up to a multiple of eight
=====================  =====================================================

**Lloyd's step.** The new centre of cell k is the mean of its descriptors. With the summed residual
:math:`V_k` and the number of descriptors :math:`n_k`, this is

.. math::

    c_k \leftarrow c_k + V_k / n_k.

:math:`V_k` is the un-normalised VLAD of the whole set taken as one image. A step is therefore one call of
``backend.aggregate``.

**Weights.** With weights of the descriptors (`sample_weight`), the inertia, the means and the draws of the
start are weighted: :math:`V_k` becomes the weighted sum of residuals, and :math:`n_k` the sum of weights.

**Empty clusters** move to the descriptors that are farthest from their centres.

**Stop.** k-means stops if :math:`\sum_k \|V_k / n_k\|^2 \le \text{tol} \cdot \text{(mean variance of a
feature)}`, if no float32 centre changes, or after `max_iter` steps.

**Mini-batches.** `partial_fit` moves :math:`c_k` by :math:`V_k / N_k`. Here :math:`N_k` is the number of
descriptors that cell k has received so far, this batch included (Sculley, WWW 2010). Each centre stays the
mean of all descriptors that it has received.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from medvlad._util.caller_warning import warn_caller
from medvlad._util.choices import BackendName
from medvlad._util.memory import memory_for
from medvlad._util.passes import run_here
from medvlad._util.validate import (
    InputError,
    check_choice,
    check_n_threads,
    check_non_negative_float,
    check_positive_int,
)
from medvlad.backends import Backend, get_backend
from medvlad.descriptors.array_api import like_input, on_host_from_anywhere
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.checks import check_finite, check_n_clusters, check_vocabulary, check_weights
from medvlad.descriptors.gpu_array import GpuArray
from medvlad.descriptors.ragged import Descriptors, draw_rows, rows_of, validate_input
from medvlad.encoders.kmeans_passes import LloydJobs, best_run_by_passes, resolved_backend
from medvlad.encoders.kmeans_steps import (
    SEED_ROWS,
    best_run,
    distances_to_centers,
    fill_empty,
    labels_and_inertia,
    mean_variance,
    move_centers,
    seed_centers,
)

__all__ = ["KMeansCodebook", "find_centers"]

logger = logging.getLogger(__name__)


class KMeansCodebook(ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin, BaseEstimator):
    """Learn centres from descriptors by k-means.

    Parameters
    ----------
    n_clusters : int, default=64
        Number K of centres.
    init : "k-means++" or array-like of shape (K, D), default="k-means++"
        Initial centres. "k-means++": chosen from the descriptors. Array: used as the initial centres.
    n_init : int, default=1
        Number of runs from different starts, if `init` is no array. The one with the lowest inertia is kept.
    max_iter : int, default=100
        Maximum number of Lloyd steps in `fit`.
    tol : float, default=1e-4
        Tolerance of the stopping rule, 0 or more. `fit` stops if the squared movement of the centres is at
        most `tol` times the mean variance of a feature.
    backend : str, default="auto"
        Name of a backend, see :func:`medvlad.available_backends`. "auto": the fastest one.
    n_threads : int or None, default=None
        Number of threads. None: all processors that this process may use. Results do not depend on it.
    random_state : int, RandomState or None, default=None
        Seed of the subsample and of the initial centres. None: results differ between fits.
    max_samples : int or None, default=500_000
        Maximum number of descriptors used by `fit`. Larger inputs are subsampled uniformly. None: all. Those
        in a store or in feature files are then read in each step, see :mod:`medvlad.encoders.kmeans_passes`.

    Attributes
    ----------
    cluster_centers_ : ndarray of float32, shape (K, D)
        Cluster centres.
    labels_ : ndarray of int32, shape (N,)
        Cell of each of the N descriptors of the last `fit` in memory, or of the last batch.
    inertia_ : float
        Sum of the squared distances of the same descriptors to their centres, times their `sample_weight`.
    inertia_path_ : ndarray of float64, shape (n_steps + 1,)
        Inertia before each step and at the end of the last `fit` by passes.
    n_iter_ : int
        Number of Lloyd steps of `fit`. Each batch of `partial_fit` adds 1.
    counts_ : ndarray of int64, shape (K,)
        Number of descriptors in each cell. Each batch of `partial_fit` is added.
    n_features_in_ : int
        Width D of a descriptor.
    """

    cluster_centers_: NDArray[np.float32]

    def __init__(
        self,
        n_clusters: int = 64,
        *,
        init: Any = "k-means++",
        n_init: int = 1,
        max_iter: int = 100,
        tol: float = 1e-4,
        backend: BackendName = "auto",
        n_threads: int | None = None,
        random_state: Any = None,
        max_samples: int | None = 500_000,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.backend = backend
        self.n_threads = n_threads
        self.random_state = random_state
        self.max_samples = max_samples

    def fit(self, X: Any, y: object = None, sample_weight: Any = None) -> Self:
        """Find the centres of descriptors.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or array (N, D)
            In host memory, in a store or on a GPU. Those of weight 0 are ignored.
        y : ignored
        sample_weight : array-like of shape (N,), default=None
            Weight of each descriptor, 0 or more. None: all 1. A store takes none.

        Returns
        -------
        self

        Raises
        ------
        InputError
            If there are fewer descriptors than clusters, or a descriptor is not finite.

        Warns
        -----
        ConvergenceWarning
            If clusters are empty, because there are fewer distinct descriptors than clusters, or if
            `max_iter` steps are too few.
        """
        if not find_centers(self, X, sample_weight):
            warn_caller(
                f"k-means has not come to rest after max_iter={self.max_iter} steps: raise max_iter or tol",
                ConvergenceWarning,
            )
        return self

    def partial_fit(self, X: Any, y: object = None) -> Self:
        """Update the centres with one batch. The first batch also chooses the initial centres.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or array (N, D)
            One batch. The first must hold at least `n_clusters` descriptors. Descriptors in a store are one
            batch per block of :meth:`medvlad.descriptors.blocks.DescriptorBlocks.blocks`.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        InputError
            If the batch has another width, is not finite, or is the first and has too few descriptors.
        """
        if isinstance(X, DescriptorBlocks):
            for _, block in X.blocks():
                if len(block.values):
                    self.partial_fit(block)
            return self
        first = not hasattr(self, "cluster_centers_")
        given = validate_input(self, X, reset=first)
        left = given.counted()
        if left is not given:  # descriptors from a GPU have not been checked before
            check_finite(left.values)
        x = left.values
        _, n_threads = self._check_parameters(len(x) if first else None)
        backend = get_backend(self.backend, x)
        x = backend.place(x)
        if first:
            rng = check_random_state(self.random_state)
            centers = self._start(x, rng, backend, n_threads)
            self.counts_ = np.zeros(self.n_clusters, np.int64)
            self.n_iter_ = 0
        else:
            centers = self.cluster_centers_.copy()
            empty = np.flatnonzero(self.counts_ == 0)
            if len(empty):
                fill_empty(x, self.cluster_centers_, centers, empty, backend, n_threads)
        residuals, counts = backend.aggregate(x, np.array([0, len(x)]), centers, n_threads=n_threads)
        self.counts_ = self.counts_ + counts[0]
        moves = residuals[0].astype(np.float64) / np.maximum(self.counts_, 1)[:, None]
        self.cluster_centers_ = move_centers(centers, moves)
        self.n_iter_ += 1
        self.labels_, self.inertia_ = labels_and_inertia(x, self.cluster_centers_, backend, n_threads)
        return self

    def fit_predict(self, X: Any, y: object = None, sample_weight: Any = None) -> Any:
        """Fit, then return what `predict` returns: the cells of all descriptors, subsampled or not.

        Raises
        ------
        InputError
            If X is in a store, or for the reasons given in :meth:`fit`.
        """
        if isinstance(X, DescriptorBlocks):
            raise InputError("fit_predict takes no store: call fit, then predict for each of its blocks")
        return self.fit(X, y, sample_weight).predict(X)

    def predict(self, X: Any) -> Any:
        """Return the index of the nearest centre of each descriptor.

        Parameters
        ----------
        X : Descriptors, list of (n_i, D), array (B, n, D) or array (N, D)
            Descriptors in host memory or on a GPU, not in a store.

        Returns
        -------
        ndarray of int32, shape (N,)
            If X is on a GPU, an array of the same library on that GPU.
        """
        check_is_fitted(self)
        given = validate_input(self, X, reset=False, finite=False)  # the backend checks
        x = given.values
        labels = get_backend(self.backend, x).assign(
            x, self.cluster_centers_, offsets=given.offsets, n_threads=check_n_threads(self.n_threads)
        )
        return x.give_back(labels) if isinstance(x, GpuArray) else like_input(labels, X)

    def transform(self, X: Any) -> Any:
        """Return the Euclidean distance of each descriptor to each centre.

        Parameters
        ----------
        X : Descriptors, list of (n_i, D), array (B, n, D) or array (N, D)
            Descriptors in host memory or on a GPU, not in a store.

        Returns
        -------
        ndarray of float32, shape (N, K)
        """
        check_is_fitted(self)
        given = validate_input(self, X, reset=False, finite=False).to_host()
        distances = distances_to_centers(given.values, self.cluster_centers_)
        if not np.isfinite(distances[:, 0]).all():
            check_finite(given.values, given.offsets)
        return like_input(distances, X)

    def score(self, X: Any, y: object = None, sample_weight: Any = None) -> float:
        """Return minus the sum of the squared distances of descriptors to their centres, weighted if wished.

        X is the input of `predict`. Descriptors of weight 0 are ignored.
        """
        check_is_fitted(self)
        x, weights = _rows_and_weights(self, X, sample_weight, reset=False)
        backend = get_backend(self.backend, x)
        x = backend.place(x)
        n_threads = check_n_threads(self.n_threads)
        return -labels_and_inertia(x, self.cluster_centers_, backend, n_threads, weights)[1]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)

    def _check_parameters(self, n_samples: int | None) -> tuple[int, int]:
        check_positive_int(self.max_iter, "max_iter")
        check_non_negative_float(self.tol, "tol")
        if isinstance(self.init, str):
            check_choice(self.init, "init", ("k-means++",))
        n_clusters = check_positive_int(self.n_clusters, "n_clusters")
        if n_samples is not None:
            check_n_clusters(n_clusters, n_samples)
        return n_clusters, check_n_threads(self.n_threads)

    def _start(
        self,
        x: Any,
        rng: np.random.RandomState,
        backend: Backend,
        n_threads: int,
        weights: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float32]:
        """Return the centres to start from."""
        if isinstance(self.init, str):
            return seed_centers(x, self.n_clusters, rng, backend, n_threads, weights)
        return check_vocabulary(on_host_from_anywhere(self.init, "init"), self.n_clusters, x.shape[1], "init")


@memory_for("k-means", "lower max_samples or n_clusters, or give fewer images")
def find_centers(codebook: KMeansCodebook, X: Any, sample_weight: Any = None) -> bool:
    """Fit a codebook. Return whether its centres came to rest; `KMeansCodebook.fit` warns if not.

    Encoders call this. A few steps more or fewer change their vectors little, so they only write to the log.
    """
    rng = check_random_state(codebook.random_state)
    most: float = math.inf
    if codebook.max_samples is not None:
        most = check_positive_int(codebook.max_samples, "max_samples")
    if isinstance(X, DescriptorBlocks):
        if sample_weight is not None:
            raise InputError("sample_weight is for descriptors in memory, not for a store: leave it out")
        if codebook.max_samples is None:
            return _find_centers_by_passes(codebook, X, rng)
        drawn = X.sample(int(min(most, max(1, X.offsets[-1]))), rng)
        X = Descriptors(drawn, [0, len(drawn)])
    x, weights = _rows_and_weights(codebook, X, sample_weight, reset=True)
    n_clusters, n_threads = codebook._check_parameters(int(min(len(x), most)))
    n_init = check_positive_int(codebook.n_init, "n_init") if isinstance(codebook.init, str) else 1
    backend = get_backend(codebook.backend, x)
    if len(x) > most:
        rows = draw_rows(len(x), int(most), rng)
        x = rows_of(x, rows)
        weights = None if weights is None else weights[rows]
    x = backend.place(x)
    threshold = codebook.tol * mean_variance(x, backend, n_threads, weights)
    starts = (codebook._start(x, rng, backend, n_threads, weights) for _ in range(n_init))
    run = best_run(x, starts, threshold, codebook.max_iter, backend, n_threads, weights)
    codebook.cluster_centers_, codebook.n_iter_ = run.centers, run.n_iter
    codebook.labels_, codebook.inertia_ = run.labels, run.inertia
    codebook.counts_ = np.bincount(codebook.labels_, minlength=n_clusters).astype(np.int64)
    codebook.__dict__.pop("inertia_path_", None)
    _report(codebook, at_rest=run.at_rest)
    return run.at_rest


def _find_centers_by_passes(
    codebook: KMeansCodebook, X: DescriptorBlocks, rng: np.random.RandomState
) -> bool:
    """Fit a codebook on all descriptors outside memory. Return whether its centres came to rest."""
    codebook.n_features_in_ = X.n_features
    n_clusters, n_threads = codebook._check_parameters(int(X.offsets[-1]))
    name = resolved_backend(codebook.backend)
    backend = get_backend(name)

    def start() -> NDArray[np.float32]:
        if not isinstance(codebook.init, str):
            return codebook._start(np.empty((0, X.n_features), np.float32), rng, backend, n_threads)
        drawn = X.sample(SEED_ROWS * n_clusters, rng)
        check_finite(drawn)
        return codebook._start(backend.place(drawn), rng, backend, n_threads)

    n_init = check_positive_int(codebook.n_init, "n_init") if isinstance(codebook.init, str) else 1
    jobs = LloydJobs(X, name, codebook.n_threads)
    starts = (start() for _ in range(n_init))
    runner = X.runner or run_here
    run = best_run_by_passes(X, jobs, starts, codebook.tol, codebook.max_iter, runner)
    codebook.cluster_centers_, codebook.n_iter_ = run.centers, run.n_iter
    codebook.inertia_path_, codebook.inertia_ = run.inertia_path, float(run.inertia_path[-1])
    codebook.counts_ = run.counts
    codebook.__dict__.pop("labels_", None)
    _report(codebook, at_rest=run.at_rest)
    return run.at_rest


def _report(codebook: KMeansCodebook, *, at_rest: bool) -> None:
    """Log that the centres did not come to rest, and warn of empty clusters."""
    if not at_rest:
        logger.info(
            "k-means stopped after max_iter=%d steps, before its centres came to rest", codebook.max_iter
        )
    n_empty = int((codebook.counts_ == 0).sum())
    if n_empty:
        warn_caller(
            f"{n_empty} of n_clusters={codebook.n_clusters} clusters are empty: "
            "there are fewer distinct descriptors than clusters",
            ConvergenceWarning,
        )


def _rows_and_weights(
    codebook: KMeansCodebook, X: Any, sample_weight: Any, *, reset: bool
) -> tuple[Any, NDArray[np.float64] | None]:
    """Return the descriptors that count, in the memory that they are in, and their weights."""
    given = validate_input(codebook, X, reset=reset)
    if sample_weight is None:
        return given.counted().values, None
    weights = check_weights(sample_weight, len(given.values))
    if given.weights is not None:
        weights = weights * (given.weights > 0)
    if len(weights) and not weights.any():
        raise InputError("all sample_weight are zero: give a weight above 0 to some descriptors")
    check_finite(given.values)  # descriptors from a GPU have not been checked before
    return rows_of(given.values, weights > 0), weights[weights > 0]
