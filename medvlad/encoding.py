"""From local descriptors to one vector an image: VLAD.

The mathematics of VLAD stands in :mod:`medvlad.backends.reference`, pooling in :mod:`medvlad.pooling`.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from medvlad._validate import (
    InputError,
    check_centers,
    check_finite,
    check_interval,
    check_n_threads,
    check_output,
)
from medvlad.backends import get_backend
from medvlad.backends.reference import encode_labelled
from medvlad.codebook import KMeansCodebook
from medvlad.descriptors import Descriptors, as_descriptors, read_matrix
from medvlad.encoder import Encoder, validated
from medvlad.gpu_array import GpuArray, on_gpu
from medvlad.stored import StoredDescriptors

__all__ = ["VLAD", "assign", "vlad_encode"]


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
    x = read_matrix(x, "descriptors")
    c = check_centers(_on_host(centers, "centers"), x.shape[1])
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
    batch = as_descriptors(descriptors)
    c = check_centers(_on_host(centers, "centers"), batch.n_features)
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


def _on_host(x: Any, name: str) -> Any:
    """Return `x`, from the GPU if it is there: centres are few."""
    return GpuArray.read(x, name).to_host() if on_gpu(x) else x


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


class VLAD(Encoder):
    """Vector of locally aggregated descriptors: summed residuals to k-means centres.

    Parameters
    ----------
    n_clusters : int, default=64
        Number K of centres; the paper tries 64 and 256.
    power : float in (0, 1], default=1.0
        Exponent of the signed power normalisation; 1 leaves it out.
    residual_norm : bool, default=False
        Scale each descriptor's residual to unit length. NumPy's sums in float64, whatever the backend, which
        finds the labels; on the host.
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
    max_iter : int, default=100
        Most Lloyd steps.
    tol : float, default=1e-4
        Stopping rule of :class:`KMeansCodebook`.
    max_samples : int or None, default=500_000
        Most descriptors that k-means uses; of more, so many are drawn. None: all.

    Attributes
    ----------
    cluster_centers_ : ndarray of float32, shape (K, D)
    codebook_ : KMeansCodebook
        The fitted k-means.
    n_iter_ : int
        Steps it took.
    n_features_in_ : int
        Width D of a descriptor.

    References
    ----------
    Jegou, Douze, Schmid, Perez: Aggregating local descriptors into a compact image representation. CVPR 2010.
    Arandjelovic, Zisserman: All about VLAD. CVPR 2013.
    Delhumeau, Gosselin, Jegou, Perez: Revisiting the VLAD image representation. ACM Multimedia 2013.

    Examples
    --------
    >>> import numpy as np
    >>> images = [np.random.default_rng(i).random((5 + i, 8)) for i in range(4)]
    >>> VLAD(n_clusters=2, random_state=0).fit_transform(images).shape
    (4, 16)
    """

    def __init__(
        self,
        n_clusters: int = 64,
        *,
        power: float = 1.0,
        residual_norm: bool = False,
        intra_norm: bool = False,
        l2_norm: bool = True,
        backend: str = "auto",
        n_threads: int | None = None,
        random_state: Any = None,
        max_iter: int = 100,
        tol: float = 1e-4,
        max_samples: int | None = 500_000,
    ) -> None:
        self.n_clusters = n_clusters
        self.power = power
        self.residual_norm = residual_norm
        self.intra_norm = intra_norm
        self.l2_norm = l2_norm
        self.backend = backend
        self.n_threads = n_threads
        self.random_state = random_state
        self.max_iter = max_iter
        self.tol = tol
        self.max_samples = max_samples

    def fit(self, X: Any, y: object = None) -> Self:
        """Find the cluster centres by k-means.

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
        check_interval(self.power, "power", 0.0, 1.0)
        self.codebook_ = self._codebook().fit(validated(self, X, reset=True))
        self.cluster_centers_ = self.codebook_.cluster_centers_
        self.n_iter_ = self.codebook_.n_iter_
        return self

    def partial_fit(self, X: Any, y: object = None) -> Self:
        """Move the cluster centres by one batch of images; see :meth:`KMeansCodebook.partial_fit`."""
        check_interval(self.power, "power", 0.0, 1.0)
        first = not hasattr(self, "cluster_centers_")
        if not first and not hasattr(self, "codebook_"):
            raise InputError("a VLAD from a model file has no counts to go on from: fit a new one instead")
        descriptors = validated(self, X, reset=first)
        codebook = self._codebook() if first else self.codebook_
        self.codebook_ = codebook.partial_fit(descriptors)
        self.cluster_centers_ = self.codebook_.cluster_centers_
        self.n_iter_ = self.codebook_.n_iter_
        return self

    def transform(self, X: Any) -> Any:
        """Encode each image.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or (B, H, W, D), or array (B, D)
            In host memory, in a store or on a GPU.

        Returns
        -------
        ndarray of float32, shape (B, K * D)
            On the GPU, of the library that `X` came from, where `X` is there; with `residual_norm` in host
            memory.
        """
        check_is_fitted(self, "cluster_centers_")
        descriptors = validated(self, X, reset=False)
        if isinstance(descriptors, StoredDescriptors):
            return self._transform_stored(descriptors)
        if self.residual_norm:
            return self._residual_normalised(descriptors.to_host())
        return _encode(
            descriptors,
            self.cluster_centers_,
            self.power,
            self.intra_norm,
            self.l2_norm,
            self.backend,
            self.n_threads,
        )

    def _residual_normalised(self, descriptors: Descriptors) -> NDArray[np.float32]:
        x, centers = descriptors.values, self.cluster_centers_
        check_finite(x, descriptors.offsets)
        labels = get_backend(self.backend, x).assign(x, centers, n_threads=check_n_threads(self.n_threads))
        power = check_interval(self.power, "power", 0.0, 1.0)
        return encode_labelled(
            x,
            descriptors.offsets,
            centers,
            labels,
            power=power,
            residual_norm=True,
            intra_norm=self.intra_norm,
            l2_norm=self.l2_norm,
        )

    def _codebook(self) -> KMeansCodebook:
        return KMeansCodebook(
            self.n_clusters,
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
