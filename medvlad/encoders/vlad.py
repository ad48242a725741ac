"""From local descriptors to one vector an image: VLAD.

The mathematics of VLAD stands in :mod:`medvlad.backends.reference`, soft assignment in
:mod:`medvlad.encoders.memberships`, pooling in :mod:`medvlad.encoders.pooling`.

What is learnt besides the centres, for ``local_axes``::

    V_k <- R_k V_k,   the rows of R_k the principal axes of the residuals x - c_k of cell k, largest first,

before any normalisation but that of mass: the local coordinate system of Delhumeau, Gosselin, Jegou and Perez
(ACM Multimedia 2013), which gives signed powers axes that mean something.

For images unlike those that the centres are of, cells may stay while residuals are taken to their own means
there::

    V_k = sum (x - c'_k),   c'_k the mean of the new images' descriptors in cell k,

the vocabulary adaptation of Arandjelovic and Zisserman (CVPR 2013, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from sklearn.utils.validation import check_is_fitted

from medvlad._util.validate import InputError, check_interval, check_n_threads
from medvlad.backends import get_backend
from medvlad.backends.reference import normalised, unit
from medvlad.descriptors.array_api import on_host, on_host_from_anywhere
from medvlad.descriptors.checks import check_centers, check_finite, check_output, check_vocabulary
from medvlad.descriptors.gpu_array import GpuArray
from medvlad.descriptors.ragged import Descriptors, as_descriptors, read_matrix
from medvlad.encoders.base import Encoder, blocks, drawn_rows, validated
from medvlad.encoders.kmeans import KMeansCodebook
from medvlad.encoders.memberships import check_assignment, memberships, softness
from medvlad.store.stored_descriptors import StoredDescriptors

__all__ = ["VLAD", "assign", "vlad_encode"]

_WEIGHTED_ROWS = 8192  # rows whose weights in all cells are in memory at a time
_RAW: dict[str, Any] = {"power": 1.0, "mass_norm": False, "intra_norm": False, "l2_norm": False}


def assign(x: Any, centers: Any, *, backend: str = "auto", n_threads: int | None = None) -> Any:
    """Index of the nearest centre of each descriptor.

    Parameters
    ----------
    x : array-like of shape (N, D)
        In host memory, or on a GPU: anything with ``__dlpack__``.
    centers : array-like of shape (K, D)
    backend : str, default="auto"
        See :func:`medvlad.available_backends`.
    n_threads : int or None, default=None
        None: the processors this process may use.

    Returns
    -------
    ndarray of int32, shape (N,)
        The exact nearest centre of the float32 numbers; the lowest index on a tie. An array on a GPU gives
        an array of the same library there.

    Raises
    ------
    InputError
        If shapes, dtypes or widths do not fit, or a number is not finite.
    """
    x = read_matrix(on_host(x, "descriptors"), "descriptors")
    c = check_centers(on_host_from_anywhere(centers, "centers"), x.shape[1])
    if not isinstance(x, GpuArray):  # the cuda backend looks while it reads
        check_finite(x)
    labels = get_backend(backend, x).assign(x, c, n_threads=check_n_threads(n_threads))
    return x.give_back(labels) if isinstance(x, GpuArray) else labels


def vlad_encode(
    descriptors: Any,
    centers: Any,
    *,
    power: float = 1.0,
    intra_norm: bool = False,
    l2_norm: bool = True,
    backend: str = "auto",
    n_threads: int | None = None,
    out: Any = None,
    labels_out: Any = None,
    counts_out: Any = None,
) -> Any:
    """VLAD of each image for given centres.

    Parameters
    ----------
    descriptors : Descriptors, list of (n_i, D), array (B, n, D), feature maps (B, H, W, D) or array (B, D)
        A 2-D array is read as one descriptor an image. In host memory, or on a GPU: anything with
        ``__dlpack__``, of float32, float16 or bfloat16.
    centers : array-like of shape (K, D)
    power : float in (0, 1], default=1.0
        Exponent of the signed power; 1 leaves it out, 0.5 is usual.
    intra_norm : bool, default=False
        Scale each cell's residual to unit length.
    l2_norm : bool, default=True
        Scale the whole vector to unit length.
    backend : str, default="auto"
    n_threads : int or None, default=None
    out : ndarray of float32, shape (B, K * D), optional
        C-contiguous array to write into, on the GPU where the descriptors are. New memory costs more than the
        encoding itself, so one array for batch after batch is the fast way.
    labels_out : ndarray of int32, shape (N,), optional
        Filled with the nearest centre of each descriptor.
    counts_out : ndarray of int64, shape (B, K), optional
        Filled with the number of descriptors of each cell.

    Returns
    -------
    ndarray of float32, shape (B, K * D)
        Cell after cell; `out`, where it was given. An image without descriptors gives zeros. Descriptors on
        a GPU give an array of the same library there.

    Raises
    ------
    InputError
        If shapes, dtypes or widths do not fit, or a number is not finite (image and row are named).

    References
    ----------
    Jegou, Douze, Schmid, Perez: Aggregating local descriptors into a compact image representation. CVPR 2010.
    """
    batch = as_descriptors(on_host(descriptors, "descriptors"))
    c = check_centers(on_host_from_anywhere(centers, "centers"), batch.n_features)
    wanted = {
        "out": (out, (len(batch), c.size), np.float32),
        "labels_out": (labels_out, (len(batch.values),), np.int32),
        "counts_out": (counts_out, (len(batch), len(c)), np.int64),
    }
    outputs: dict[str, Any] = {}
    if isinstance(batch.values, GpuArray):
        for name, (given, shape, dtype) in wanted.items():
            if given is not None:
                outputs[name] = batch.values.output(given, name, shape, dtype, list(outputs.values()))
    else:
        check_finite(batch.values, batch.offsets)
        used: tuple[NDArray[Any], ...] = (batch.values, batch.offsets, c)
        for name, (given, shape, dtype) in wanted.items():
            if given is not None:
                outputs[name] = check_output(given, name, shape, dtype, *used)
                used = (*used, given)
    encoded = _encode(batch, c, power, intra_norm, l2_norm, backend, n_threads, **outputs)
    return encoded if out is None else out


def _encode(
    batch: Descriptors,
    centers: NDArray[np.float32],
    power: float,
    intra_norm: bool,
    l2_norm: bool,
    backend: str,
    n_threads: int | None,
    **outputs: Any,
) -> Any:
    encoded = get_backend(backend, batch.values).encode(
        batch.values,
        batch.offsets,
        centers,
        power=check_interval(power, "power", 0.0, 1.0),
        intra_norm=bool(intra_norm),
        l2_norm=bool(l2_norm),
        n_threads=check_n_threads(n_threads),
        **outputs,
    )
    on_device = isinstance(batch.values, GpuArray)
    if not l2_norm and not intra_norm:  # normalised numbers are at most 1
        check_finite(
            GpuArray(encoded) if on_device else encoded, name="encoded images, too large for float32,"
        )
    return batch.values.give_back(encoded) if on_device else encoded


def _runs(descriptors: Descriptors, n_rows: int) -> Iterator[tuple[int, Descriptors]]:
    """Yield runs of images of at most `n_rows` descriptors, or of one image, and where each begins."""
    start = 0
    while start < len(descriptors):
        most = descriptors.offsets[start] + n_rows
        stop = max(start + 1, int(np.searchsorted(descriptors.offsets, most, side="right")) - 1)
        yield start, descriptors[start:stop]
        start = stop


class VLAD(Encoder):
    """Vector of locally aggregated descriptors: summed residuals to k-means centres.

    Parameters
    ----------
    n_clusters : int, default=64
        Number K of centres; the paper tries 64 and 256.
    assignment : {"hard", "soft"}, default="hard"
        Whether a descriptor counts in the cell of its nearest centre only, or in several; see
        :mod:`medvlad.encoders.memberships`.
    n_nearest : int or None, default=None
        For "soft": in how many, the nearest. None: in all, as NetVLAD has it.
    alpha : float or None, default=None
        For "soft": how fast weights fall with squared distance. None: from the training descriptors.
    power : float in (0, 1], default=1.0
        Exponent of the signed power normalisation; 1 leaves it out.
    residual_norm : bool, default=False
        Scale each descriptor's residual to unit length.
    mass_norm : bool, default=False
        Divide each cell's residual by the descriptors in it (their weights), which leaves their mean.
    local_axes : bool, default=False
        Turn each cell's residual into the principal axes of that cell; K * D * D more numbers are learnt.
    intra_norm : bool, default=False
        Scale each cell's residual to unit length.
    l2_norm : bool, default=True
        Scale the whole vector to unit length.
    backend : str, default="auto"
        See :func:`medvlad.available_backends`.
    n_threads : int or None, default=None
        None: the processors this process may use. Results do not depend on it.
    random_state : int, RandomState or None, default=None
        Seed of k-means.
    centers : array-like of shape (K, D) or None, default=None
        A vocabulary that is there already, from elsewhere or for several data sets; k-means is left out then.
    n_init : int, default=1
        See :class:`KMeansCodebook`.
    max_iter : int, default=100
        Most Lloyd steps.
    tol : float, default=1e-4
        Stopping rule of :class:`KMeansCodebook`.
    max_samples : int or None, default=500_000
        Most descriptors that k-means uses; of more, so many are drawn. None: all.

    Attributes
    ----------
    cluster_centers_ : ndarray of float32, shape (K, D)
    alpha_ : float
        Of soft assignment.
    rotations_ : ndarray of float32, shape (K, D, D)
        Of `local_axes`: the axes of each cell, row by row.
    residual_centers_ : ndarray of float32, shape (K, D)
        What residuals are taken to, after `adapt`.
    codebook_ : KMeansCodebook
        The fitted k-means; absent where `centers` were given.
    n_iter_ : int
        Steps it took.
    n_features_in_ : int
        Width D of a descriptor.

    References
    ----------
    Jegou, Douze, Schmid, Perez: Aggregating local descriptors into a compact image representation. CVPR 2010.
    Arandjelovic, Zisserman: All about VLAD. CVPR 2013.
    Delhumeau, Gosselin, Jegou, Perez: Revisiting the VLAD image representation. ACM Multimedia 2013.
    Arandjelovic, Gronat, Torii, Pajdla, Sivic: NetVLAD. CVPR 2016.

    Notes
    -----
    Vectors are (B, K * D), cell after cell; on the GPU, of the library that the descriptors came from, where
    those are there. Soft assignment, normalisation of residuals and mass, local axes, weights of descriptors
    and adaptation are computed, and left, in host memory.

    Examples
    --------
    >>> import numpy as np
    >>> images = [np.random.default_rng(i).random((5 + i, 8)) for i in range(4)]
    >>> VLAD(n_clusters=2, random_state=0).fit_transform(images).shape
    (4, 16)
    """

    _learnt = "cluster_centers_"

    def __init__(
        self,
        n_clusters: int = 64,
        *,
        assignment: str = "hard",
        n_nearest: int | None = None,
        alpha: float | None = None,
        power: float = 1.0,
        residual_norm: bool = False,
        mass_norm: bool = False,
        local_axes: bool = False,
        intra_norm: bool = False,
        l2_norm: bool = True,
        backend: str = "auto",
        n_threads: int | None = None,
        random_state: Any = None,
        centers: Any = None,
        n_init: int = 1,
        max_iter: int = 100,
        tol: float = 1e-4,
        max_samples: int | None = 500_000,
    ) -> None:
        self.n_clusters = n_clusters
        self.assignment = assignment
        self.n_nearest = n_nearest
        self.alpha = alpha
        self.power = power
        self.residual_norm = residual_norm
        self.mass_norm = mass_norm
        self.local_axes = local_axes
        self.intra_norm = intra_norm
        self.l2_norm = l2_norm
        self.backend = backend
        self.n_threads = n_threads
        self.random_state = random_state
        self.centers = centers
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.max_samples = max_samples

    def fit(self, X: Any, y: object = None) -> Self:
        """Find the cluster centres by k-means, and what else is to be learnt.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or array (B, D)
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there are fewer descriptors than clusters, or they are not finite numbers.
        """
        self._check_parameters()
        descriptors = validated(self, X, reset=True)
        if self.centers is not None:
            self.cluster_centers_ = check_vocabulary(
                on_host_from_anywhere(self.centers, "centers"),
                self.n_clusters,
                self.n_features_in_,
                "centers",
            )
            self.n_iter_ = 0
            self.__dict__.pop("codebook_", None)
            return self._learn_more(descriptors)
        self.codebook_ = self._codebook().fit(descriptors)
        self.cluster_centers_ = self.codebook_.cluster_centers_
        self.n_iter_ = self.codebook_.n_iter_
        return self._learn_more(descriptors)

    def adapt(self, X: Any) -> Self:
        """Take residuals to the means of the descriptors of `X` in each cell; the cells stay.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or array (B, D)
            Of images unlike those fitted on. A cell that has none of them keeps its centre.

        Returns
        -------
        self
        """
        check_is_fitted(self)
        self.__dict__.pop("residual_centers_", None)
        centers = self.cluster_centers_
        total, mass = np.zeros(centers.shape), np.zeros(len(centers))
        for _, part in blocks(validated(self, X, reset=False)):
            check_finite(part.values, part.offsets)  # not looked at before where it comes from a GPU
            for start in range(0, len(part.values), _WEIGHTED_ROWS):
                x = part.values[start : start + _WEIGHTED_ROWS]
                cells, weights = self._memberships(x, residual_norm=False)
                if part.weights is not None:
                    weights *= part.weights[start : start + _WEIGHTED_ROWS, None]
                masses = np.empty((1, len(centers)))
                offsets = np.array([0, len(x)], np.int64)
                total += self._sums(x, offsets, cells, weights, masses).reshape(centers.shape)
                mass += masses[0]
        moved = total / np.where(mass > 0, mass, 1.0)[:, None]
        with np.errstate(over="ignore"):
            adapted = (centers + moved).astype(np.float32)
        check_finite(adapted, name="adapted centres, too large for float32,")
        self.residual_centers_ = adapted
        return self

    def partial_fit(self, X: Any, y: object = None) -> Self:
        """Move the cluster centres by one batch of images; see :meth:`KMeansCodebook.partial_fit`."""
        self._check_parameters()
        if self.local_axes:
            raise InputError("local axes are learnt from all descriptors at once: use fit instead")
        if self.centers is not None:
            raise InputError("centers are given, so there are none to move: use fit instead")
        first = not hasattr(self, "cluster_centers_")
        if not first and not hasattr(self, "codebook_"):
            raise InputError(
                "a VLAD from a model file, or of given centers, has no counts to go on from: fit a new "
                "one instead"
            )
        descriptors = validated(self, X, reset=first)
        codebook = self._codebook() if first else self.codebook_
        self.codebook_ = codebook.partial_fit(descriptors)
        self.cluster_centers_ = self.codebook_.cluster_centers_
        self.n_iter_ = self.codebook_.n_iter_
        # Later batches move the centres; alpha stays that of the first, however the rest is cut.
        self.__dict__.pop("residual_centers_", None)
        return self._learn_more(descriptors) if first else self

    def _encode_images(self, descriptors: Descriptors) -> Any:
        if descriptors.weights is not None or not self._is_plain():
            return self._encode_weighted(descriptors.to_host())
        return _encode(
            descriptors,
            self.cluster_centers_,
            self.power,
            self.intra_norm,
            self.l2_norm,
            self.backend,
            self.n_threads,
        )

    def memberships(self, x: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Cells of each descriptor and its weight in each, normalisation of residuals included.

        Parameters
        ----------
        x : ndarray of float32, shape (N, D)
            In host memory.

        Returns
        -------
        cells : ndarray of int32, shape (N, r)
        weights : ndarray of float64, shape (N, r)
        """
        check_is_fitted(self)
        return self._memberships(x, residual_norm=self.residual_norm)

    @property
    def residual_origins(self) -> NDArray[np.float32]:
        """What residuals are taken to (K, D): the centres, unless adapted."""
        origins: NDArray[np.float32] = getattr(self, "residual_centers_", self.cluster_centers_)
        return origins

    def _memberships(
        self, x: NDArray[np.float32], *, residual_norm: bool
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        return memberships(
            x,
            self.cluster_centers_,
            n_nearest=self._check_parameters(),
            alpha=self.alpha_ if self.assignment == "soft" else None,
            origins=self.residual_origins if residual_norm else None,
            backend=get_backend(self.backend, x),
            n_threads=check_n_threads(self.n_threads),
        )

    def _sums(
        self,
        x: NDArray[np.float32],
        offsets: NDArray[np.int64],
        cells: NDArray[np.int32],
        weights: NDArray[np.float64],
        masses_out: NDArray[np.float64] | None = None,
        **how: Any,
    ) -> NDArray[Any]:
        """Weighted residuals of each image, (B, K * D); as they are unless `how` says otherwise."""
        return get_backend(self.backend, x).encode_weighted(
            x,
            offsets,
            self.residual_origins,
            cells,
            weights,
            n_threads=check_n_threads(self.n_threads),
            masses_out=masses_out,
            **(_RAW | how),
        )

    def _is_plain(self) -> bool:
        """Whether the backends' `encode` knows all that is wanted."""
        weighted = self.assignment != "hard" or self.residual_norm or self.mass_norm or self.local_axes
        return not weighted and not hasattr(self, "residual_centers_")

    def _check_parameters(self) -> int:
        check_interval(self.power, "power", 0.0, 1.0)
        return check_assignment(self.assignment, self.n_nearest, self.alpha, self.n_clusters)

    def _learn_more(self, descriptors: Descriptors | StoredDescriptors) -> Self:
        """Learn what goes with the centres."""
        self.__dict__.pop("residual_centers_", None)
        if self.assignment == "soft" and self.alpha is not None:
            self.alpha_ = float(self.alpha)
        if not (self.local_axes or (self.assignment == "soft" and self.alpha is None)):
            return self
        x = drawn_rows(descriptors, self.max_samples, self.random_state)
        if len(x) == 0:
            raise InputError(
                "there are no descriptors (n_samples = 0) to learn alpha or axes from: give images"
            )
        if self.assignment == "soft" and self.alpha is None:
            self.alpha_ = softness(x, self.cluster_centers_)
        if self.local_axes:
            self.rotations_ = self._axes(x)
        return self

    def _axes(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Principal axes (K, D, D) of the residuals of each cell, largest first, each row of a fixed sign."""
        centers = self.cluster_centers_
        n_clusters, width = centers.shape
        labels = get_backend(self.backend, x).assign(x, centers, n_threads=check_n_threads(self.n_threads))
        axes = np.empty((n_clusters, width, width), np.float32)
        for k in range(n_clusters):
            rows = x[labels == k].astype(np.float64) - centers[k]
            if self.residual_norm:
                rows = unit(rows)
            _, vectors = eigh(rows.T @ rows)
            largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(width)]
            axes[k] = (vectors * np.where(largest < 0, -1.0, 1.0)).T[::-1]
        return axes

    def _encode_weighted(self, descriptors: Descriptors) -> NDArray[np.float32]:
        x, centers = descriptors.values, self.cluster_centers_
        check_finite(x, descriptors.offsets)
        how: dict[str, Any] = {
            "power": float(self.power),
            "intra_norm": bool(self.intra_norm),
            "l2_norm": bool(self.l2_norm),
        }
        encoded = np.empty((len(descriptors), centers.size), np.float32)
        for start, part in _runs(descriptors, _WEIGHTED_ROWS):
            cells, weights = self.memberships(part.values)
            if part.weights is not None:
                weights *= part.weights[:, None]
            normalisation = {} if self.local_axes else how
            vectors = self._sums(
                part.values, part.offsets, cells, weights, mass_norm=bool(self.mass_norm), **normalisation
            )
            if self.local_axes:
                residuals = vectors.reshape(len(part), *centers.shape).swapaxes(0, 1)
                turned = np.matmul(residuals, self.rotations_.swapaxes(1, 2)).swapaxes(0, 1)
                vectors = normalised(turned.astype(np.float64), **how).reshape(len(part), -1)
            encoded[start : start + len(part)] = vectors
        if not self.l2_norm and not self.intra_norm:  # normalised numbers are at most 1
            check_finite(encoded, name="encoded images, too large for float32,")
        return encoded

    def _codebook(self) -> KMeansCodebook:
        return KMeansCodebook(
            self.n_clusters,
            n_init=self.n_init,
            max_iter=self.max_iter,
            tol=self.tol,
            backend=self.backend,
            n_threads=self.n_threads,
            random_state=self.random_state,
            max_samples=self.max_samples,
        )

    @property
    def _n_features_out(self) -> int:
        return int(self.cluster_centers_.size)
