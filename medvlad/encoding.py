"""From local descriptors to one vector an image: VLAD and global pooling.

The mathematics of VLAD stands in :mod:`medvlad.backends.reference`. Pooling, over the n descriptors x_i of an
image, feature by feature:

    avg   (1/n) sum x_i                         the paper's baseline
    max   max x_i
    gem   ((1/n) sum max(x_i, 1e-6)^p)^(1/p)    generalised mean (Radenovic, Tolias, Chum, PAMI 2019)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from medvlad._validate import (
    InputError,
    check_centers,
    check_choice,
    check_finite,
    check_interval,
    check_n_threads,
    check_output,
    check_width,
)
from medvlad.backends import get_backend
from medvlad.backends.reference import NORM_FLOOR
from medvlad.codebook import KMeansCodebook
from medvlad.descriptors import Descriptors, as_descriptors, read_matrix, validate_input
from medvlad.gpu_array import GpuArray, import_cupy, on_gpu
from medvlad.stored import StoredDescriptors
from medvlad.vector_file import new_vector_file

__all__ = ["VLAD", "GlobalPool", "assign", "make_encoder", "vlad_encode"]

_GEM_FLOOR = 1e-6
_BLOCK_BYTES = 16 << 20  # of encoded images at a time
_POOL_IMAGES = 256  # images pooled at a time, which bounds the float64 copy


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


class _Encoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What all encoders have in common: any input, float32 out, and images that are in a store."""

    def transform_blocks(self, X: Any) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Encode images block by block, in memory for a block; see :meth:`StoredDescriptors.blocks`.

        Parameters
        ----------
        X : StoredDescriptors, or what `transform` takes, in host memory

        Yields
        ------
        indices : ndarray of int64, shape (b,)
            Which images these are.
        vectors : ndarray of float32, shape (b, n_features_out)
            Rows `indices` of what `transform` returns, to the bit.
        """
        check_is_fitted(self)
        step = max(1, _BLOCK_BYTES // (4 * self._n_features_out))
        for indices, block in _blocks(X):
            for start in range(0, len(block), step):
                yield indices[start : start + step], self.transform(block[start : start + step])

    def transform_to_file(self, X: Any, path: str | os.PathLike[str]) -> NDArray[np.float32]:
        """Encode images into a ``.npy`` file, in memory for a block, however many there are.

        Parameters
        ----------
        X : StoredDescriptors, or what `transform` takes, in host memory
        path : path
            Replaced once the new file is whole.

        Returns
        -------
        memmap of float32, shape (B, n_features_out)
            The file, for reading; later, ``numpy.load(path, mmap_mode="r")``.

        Raises
        ------
        InputError
            If the file cannot be written, the disk is too small for it, or an image in the store is damaged.
        """
        check_is_fitted(self)
        images = X if isinstance(X, StoredDescriptors) else as_descriptors(X)
        with new_vector_file(path, len(images), self._n_features_out) as write:
            for indices, vectors in self.transform_blocks(images):
                write(indices, vectors)
        mapped: NDArray[np.float32] = np.load(Path(path), mmap_mode="r")
        return mapped

    def _transform_stored(self, X: StoredDescriptors) -> NDArray[np.float32]:
        encoded = np.empty((len(X), self._n_features_out), np.float32)
        for indices, vectors in self.transform_blocks(X):
            encoded[indices] = vectors
        return encoded

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _blocks(X: Any) -> Iterator[tuple[NDArray[np.int64], Descriptors]]:
    """Blocks of images in a store; images in memory are one block."""
    if isinstance(X, StoredDescriptors):
        yield from X.blocks()
    else:
        descriptors = as_descriptors(X).to_host()
        yield np.arange(len(descriptors)), descriptors


def _validated(encoder: Any, X: Any, *, reset: bool) -> Descriptors | StoredDescriptors:
    """Like `validate_input`; of images in a store only the width is looked at, numbers when they are read."""
    if not isinstance(X, StoredDescriptors):
        return validate_input(encoder, X, reset=reset)
    if reset:
        encoder.n_features_in_ = X.n_features
    check_width(
        X.n_features,
        encoder.n_features_in_,
        "descriptors",
        f"those that {type(encoder).__name__} was fitted on",
    )
    return X


class VLAD(_Encoder):
    """Vector of locally aggregated descriptors: summed residuals to k-means centres.

    Parameters
    ----------
    n_clusters : int, default=64
        Number K of centres; the paper tries 64 and 256.
    power : float in (0, 1], default=1.0
        Exponent of the signed power normalisation; 1 leaves it out.
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
        self.codebook_ = self._codebook().fit(_validated(self, X, reset=True))
        self.cluster_centers_ = self.codebook_.cluster_centers_
        self.n_iter_ = self.codebook_.n_iter_
        return self

    def partial_fit(self, X: Any, y: object = None) -> Self:
        """Move the cluster centres by one batch of images; see :meth:`KMeansCodebook.partial_fit`."""
        check_interval(self.power, "power", 0.0, 1.0)
        first = not hasattr(self, "cluster_centers_")
        if not first and not hasattr(self, "codebook_"):
            raise InputError("a VLAD from a model file has no counts to go on from: fit a new one instead")
        descriptors = _validated(self, X, reset=first)
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
            On the GPU, of the library that `X` came from, where `X` is there.
        """
        check_is_fitted(self, "cluster_centers_")
        descriptors = _validated(self, X, reset=False)
        if isinstance(descriptors, StoredDescriptors):
            return self._transform_stored(descriptors)
        return _encode(
            descriptors,
            self.cluster_centers_,
            self.power,
            self.intra_norm,
            self.l2_norm,
            self.backend,
            self.n_threads,
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


class GlobalPool(_Encoder):
    """One pooled descriptor an image; average pooling is the paper's baseline.

    Parameters
    ----------
    mode : {"avg", "max", "gem"}, default="avg"
    l2_norm : bool, default=True
        Scale the pooled vector to unit length (a norm below 1e-12 gives zeros).
    p : float in (0, 100], default=3.0
        Exponent of "gem".

    Attributes
    ----------
    n_features_in_ : int
        Width D of a descriptor, and of the result.
    """

    def __init__(self, mode: str = "avg", *, l2_norm: bool = True, p: float = 3.0) -> None:
        self.mode = mode
        self.l2_norm = l2_norm
        self.p = p

    def fit(self, X: Any, y: object = None) -> Self:
        """Check the parameters and remember the width of a descriptor.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or array (B, D)
        y : ignored

        Returns
        -------
        self
        """
        check_choice(self.mode, "mode", tuple(_POOL))
        check_interval(self.p, "p", 0.0, 100.0)
        _validated(self, X, reset=True)
        return self

    def transform(self, X: Any) -> Any:
        """Pool each image.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or array (B, D)

        Returns
        -------
        ndarray of float32, shape (B, D)
            An image without descriptors gives zeros. Descriptors on a GPU are pooled by the host, and the
            result goes back.
        """
        check_is_fitted(self, "n_features_in_")
        check_choice(self.mode, "mode", tuple(_POOL))
        given = _validated(self, X, reset=False)
        if isinstance(given, StoredDescriptors):
            return self._transform_stored(given)
        descriptors = given.to_host()
        if isinstance(given.values, GpuArray):
            check_finite(descriptors.values, descriptors.offsets)
        pooled = np.zeros((len(descriptors), descriptors.n_features), np.float32)
        for start in range(0, len(descriptors), _POOL_IMAGES):
            part = descriptors[start : start + _POOL_IMAGES]
            counts = np.diff(part.offsets)
            filled = counts > 0
            if not filled.any():
                continue
            values = _POOL[self.mode](
                part.values, part.offsets[:-1][filled], counts[filled, None], float(self.p)
            )
            if self.l2_norm:
                norms = np.linalg.norm(values, axis=1, keepdims=True)
                values = np.divide(values, norms, out=np.zeros_like(values), where=norms >= NORM_FLOOR)
            pooled[start : start + len(part)][filled] = values
        if isinstance(given.values, GpuArray):
            with given.values.stream():
                on_gpu_again = import_cupy().asarray(pooled)
            return given.values.give_back(on_gpu_again)
        return pooled

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    @property
    def _n_features_out(self) -> int:
        return int(self.n_features_in_)


def _average(
    x: NDArray[np.float32], first: NDArray[np.int64], counts: NDArray[np.int64], p: float
) -> NDArray[np.float64]:
    return np.asarray(np.add.reduceat(x, first, axis=0, dtype=np.float64) / counts)


def _maximum(
    x: NDArray[np.float32], first: NDArray[np.int64], counts: NDArray[np.int64], p: float
) -> NDArray[np.float64]:
    return np.maximum.reduceat(x, first, axis=0).astype(np.float64)


def _generalised_mean(
    x: NDArray[np.float32], first: NDArray[np.int64], counts: NDArray[np.int64], p: float
) -> NDArray[np.float64]:
    # Relative to the image's own largest value, so that no power overflows.
    floored = np.maximum(x.astype(np.float64), _GEM_FLOOR)
    largest = np.maximum.reduceat(floored, first, axis=0)
    powers = np.add.reduceat((floored / np.repeat(largest, counts[:, 0], axis=0)) ** p, first, axis=0)
    return np.asarray(largest * (powers / counts) ** (1 / p))


#: mode -> pooling of rows x (N, D) of images that begin at `first` (B,), `counts` (B, 1) rows each.
_POOL = {"avg": _average, "max": _maximum, "gem": _generalised_mean}


def make_encoder(
    name: str,
    *,
    power: float = 1.0,
    intra_norm: bool = False,
    backend: str = "auto",
    n_threads: int | None = None,
    random_state: Any = None,
) -> VLAD | GlobalPool:
    """Return the encoder that a short name stands for.

    Parameters
    ----------
    name : str
        "avg", "max" or "gem" for GlobalPool; "vlad64", "vlad256", ... for VLAD with that many centres.
    power, intra_norm, backend, n_threads, random_state
        Passed to VLAD; pooling takes none of them.

    Raises
    ------
    InputError
        If the name is none of these.
    """
    if name in _POOL:
        return GlobalPool(name)
    vlad = re.fullmatch(r"vlad([1-9][0-9]*)", name)
    if vlad is None:
        raise InputError(
            f"unknown encoding {name!r}: use {', '.join(_POOL)}, or vlad and a number of clusters: vlad64"
        )
    return VLAD(
        int(vlad[1]),
        power=power,
        intra_norm=intra_norm,
        backend=backend,
        n_threads=n_threads,
        random_state=random_state,
    )
