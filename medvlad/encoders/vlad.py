r"""VLAD as a scikit-learn transformer: it learns centres by k-means and encodes images.

:mod:`medvlad.backends.reference` explains the mathematics of VLAD, :mod:`medvlad.encoders.memberships` soft
assignment, and :mod:`medvlad.encoders.local_axes` local axes.

**Vocabulary adaptation.** Use `adapt` if the centres were learnt from a different kind of image. It
recomputes the residual origins from the new images. Cell assignments do not change:

.. math::

    V_k = \sum_{x \text{ in cell } k} (x - c'_k), \qquad
    c'_k = \text{mean of the new descriptors in cell } k

(Arandjelovic and Zisserman, All about VLAD, CVPR 2013, section 3.2).
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from medvlad._util.choices import Assignment, BackendName
from medvlad._util.validate import InputError, check_n_threads
from medvlad.backends import get_backend
from medvlad.backends.normalise import Normalisation
from medvlad.descriptors.array_api import on_host_from_anywhere
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.checks import check_vocabulary
from medvlad.descriptors.gpu_array import GpuArray
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.base import Encoder, blocks, drawn_rows, validated
from medvlad.encoders.kmeans import KMeansCodebook, find_centers
from medvlad.encoders.local_axes import principal_axes
from medvlad.encoders.memberships import Memberships, check_assignment, softness
from medvlad.encoders.vlad_functions import encode_batch
from medvlad.encoders.weighted_vlad import WeightedVLAD, adapted_centers

__all__ = ["VLAD", "memberships_of"]

# Number of descriptors outside memory from which alpha and axes are learnt if `max_samples` is None.
_SAMPLED_ROWS = 500_000


class VLAD(Encoder):
    """Encode descriptors as sums of residuals to k-means centres (vector of locally aggregated descriptors).

    Parameters
    ----------
    n_clusters : int, default=64
        Number K of centres. Farhat and Sicre use 64 and 256.
    assignment : {"hard", "soft"}, default="hard"
        "hard": a descriptor belongs to the cell of its nearest centre. "soft": it belongs to several cells,
        see :mod:`medvlad.encoders.memberships`.
    n_nearest : int or None, default=None
        Number of nearest cells of a descriptor, for "soft" only. None: all cells, as in NetVLAD.
    alpha : float or None, default=None
        Decay of the weights with squared distance, for "soft" only. None: learnt by `fit`.
    power : float in (0, 1], default=1.0
        Exponent p of the signed power ``sign(v) |v|^p`` of each number v. 1: no change. 0.5 is usual.
    residual_norm : bool, default=False
        Scale each descriptor's residual to unit length before the sum. A residual that is rounding only
        becomes zeros, see :mod:`medvlad.backends.reference`.
    mass_norm : bool, default=False
        Divide each cell's sum of residuals by the number of its descriptors, or by their summed weights.
        This leaves the mean residual, or with `residual_norm` the mean unit residual.
    local_axes : bool, default=False
        Rotate each cell's sum of residuals into the principal axes of that cell. This learns K * D * D more
        numbers.
    intra_norm : bool, default=False
        Scale each cell's sum of residuals to unit length. A sum that is rounding only becomes zeros.
    l2_norm : bool, default=True
        Scale the whole vector to unit length.
    backend : str, default="auto"
        Name of a backend, see :func:`medvlad.available_backends`. "auto": the fastest one.
    n_threads : int or None, default=None
        Number of threads. None: all processors that this process may use. Results do not depend on it.
    random_state : int, RandomState or None, default=None
        Seed of the subsample and of k-means. None: results differ between fits.
    centers : array-like of shape (K, D) or None, default=None
        Precomputed centres, `n_clusters` of them. If given, k-means is skipped.
    n_init : int, default=1
        Number of k-means runs from different starts. The run with the lowest inertia is kept.
    max_iter : int, default=100
        Maximum number of Lloyd steps.
    tol : float, default=1e-4
        Tolerance of the stopping rule of :class:`KMeansCodebook`.
    max_samples : int or None, default=500_000
        Maximum number of descriptors used by k-means, alpha and `local_axes`. Larger inputs are subsampled.
        None: all. Of descriptors in a store, k-means then reads all in each step, see
        :mod:`medvlad.encoders.kmeans_passes`; alpha and axes are learnt from 500,000.

    Attributes
    ----------
    cluster_centers_ : ndarray of float32, shape (K, D)
        Cluster centres.
    alpha_ : float
        Decay of the weights of soft assignment. Exists for "soft" only.
    rotations_ : ndarray of float32, shape (K, D, D)
        Principal axes of each cell, one per row. Exists with `local_axes` only.
    residual_centers_ : ndarray of float32, shape (K, D)
        Residual origins computed by :meth:`adapt`. Exists after `adapt` only.
    codebook_ : KMeansCodebook
        The fitted k-means. Does not exist if `centers` were given.
    n_iter_ : int
        Number of Lloyd steps of `fit`. Each batch of `partial_fit` adds 1. 0 if `centers` is given.
    n_features_in_ : int
        Width D of a descriptor.

    Notes
    -----
    `fit` and `transform` take the descriptors of B images: Descriptors, StoredDescriptors, a list of arrays
    (n_i, D), or an array (B, n, D) or (B, D). `transform` returns float32 vectors (B, K * D), cell by cell.
    The normalisations are applied in this order: residual, mass, local axes, power, intra, L2.

    Descriptors on a GPU give an array of the same library on that GPU. `local_axes` copies the vectors to the
    host and back.

    References
    ----------
    Farhat, Sicre: CNNs for medical image transfer learning + VLAD aggregation.
    Jegou, Douze, Schmid, Perez: Aggregating local descriptors into a compact image representation. CVPR 2010.
    Arandjelovic, Zisserman: All about VLAD. CVPR 2013.
    Delhumeau, Gosselin, Jegou, Perez: Revisiting the VLAD image representation. ACM Multimedia 2013.
    Arandjelovic, Gronat, Torii, Pajdla, Sivic: NetVLAD. CVPR 2016.

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
        assignment: Assignment = "hard",
        n_nearest: int | None = None,
        alpha: float | None = None,
        power: float = 1.0,
        residual_norm: bool = False,
        mass_norm: bool = False,
        local_axes: bool = False,
        intra_norm: bool = False,
        l2_norm: bool = True,
        backend: BackendName = "auto",
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
        """Find the centres by k-means, then learn alpha and local axes if they are needed.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or array (B, D)
            Descriptors of the training images.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        InputError
            If there are fewer descriptors than clusters, or a descriptor is not finite.
        """
        self._check_parameters()
        descriptors = validated(self, X, reset=True, finite=self.centers is not None)
        if self.centers is None:  # k-means looks for numbers that are not finite
            codebook = _codebook(self)
            find_centers(codebook, descriptors)
            _take_centers(self, codebook)
        else:
            given = on_host_from_anywhere(self.centers, "centers")
            self.cluster_centers_ = check_vocabulary(given, self.n_clusters, self.n_features_in_, "centers")
            self.n_iter_ = 0
            self.__dict__.pop("codebook_", None)
        self.__dict__.pop("residual_centers_", None)
        _learn_alpha_and_axes(self, descriptors)
        return self

    def partial_fit(self, X: Any, y: object = None) -> Self:
        """Update the centres with one batch of images; see :meth:`KMeansCodebook.partial_fit`.

        alpha is learnt from the first batch only. `local_axes` and `centers` are refused with an InputError.
        """
        self._check_parameters()
        _check_partial_fit(self)
        first = not hasattr(self, "cluster_centers_")
        descriptors = validated(self, X, reset=first, finite=False)  # partial_fit of k-means looks
        codebook = _codebook(self) if first else self.codebook_
        _take_centers(self, codebook.partial_fit(descriptors))
        self.__dict__.pop("residual_centers_", None)
        if first:
            _learn_alpha_and_axes(self, descriptors)
        return self

    def adapt(self, X: Any) -> Self:
        """Recompute the residual origins from X. Cell assignments do not change.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or array (B, D)
            Descriptors of images unlike those of `fit`. A cell without descriptors of X keeps its centre.

        Returns
        -------
        self
        """
        check_is_fitted(self)
        self.__dict__.pop("residual_centers_", None)
        self.residual_centers_ = _adapted(self, validated(self, X, reset=False, finite=False))
        return self

    def memberships(self, x: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the cells of each descriptor and its weights in them.

        Parameters
        ----------
        x : ndarray of float32, shape (N, D)
            Descriptors in host memory.

        Returns
        -------
        cells : ndarray of int32, shape (N, r)
            r is 1 for hard assignment, otherwise `n_nearest` or K.
        weights : ndarray of float64, shape (N, r)
            Their sums are the masses of `mass_norm`.
        """
        check_is_fitted(self)
        return memberships_of(self).of(x)

    @property
    def residual_origins(self) -> NDArray[np.float32]:
        """Residual origins, float32 of shape (K, D): the centres, or `residual_centers_` after `adapt`."""
        origins: NDArray[np.float32] = getattr(self, "residual_centers_", self.cluster_centers_)
        return origins

    @property
    def normalisation(self) -> Normalisation:
        """Power and norms of the vectors."""
        return Normalisation(self.power, self.mass_norm, self.intra_norm, self.l2_norm)

    @property
    def _finds_not_finite(self) -> bool:
        return True  # the backend and WeightedVLAD do

    def _encode_images(self, given: Descriptors) -> Any:
        return _encoded(self, given)

    def _encode_into(self, given: Descriptors, out: NDArray[np.float32]) -> None:
        _encoded(self, given, out=out)

    def _check_parameters(self) -> int:
        """Check the settings of assignment and normalisation. Return the number of cells of a descriptor."""
        _ = self.normalisation
        return check_assignment(self.assignment, self.n_nearest, self.alpha, self.n_clusters)

    @property
    def _n_features_out(self) -> int:
        return int(self.cluster_centers_.size)


def _adapted(vlad: VLAD, given: Descriptors | DescriptorBlocks) -> NDArray[np.float32]:
    """Return the centres adapted to new images. Descriptors on a GPU stay there."""
    if isinstance(given, Descriptors) and isinstance(given.values, GpuArray):
        return adapted_centers([given], memberships_of(vlad, given.values))
    return adapted_centers((part for _, part in blocks(given)), memberships_of(vlad))


def _encoded(vlad: VLAD, given: Descriptors, **outputs: Any) -> Any:
    """Return the vectors of images, written into `out` if `outputs` holds it."""
    how = vlad.normalisation
    needs_weights = vlad.assignment != "hard" or vlad.residual_norm or vlad.mass_norm or vlad.local_axes
    is_adapted = hasattr(vlad, "residual_centers_")
    if given.weights is None and not needs_weights and not is_adapted:
        return encode_batch(
            given, vlad.cluster_centers_, how, backend=vlad.backend, n_threads=vlad.n_threads, **outputs
        )
    return WeightedVLAD(
        memberships_of(vlad, given.values),
        vlad.residual_origins,
        how,
        vlad.rotations_ if vlad.local_axes else None,
    ).encode(given, **outputs)


def memberships_of(vlad: VLAD, x: Any = None) -> Memberships:
    """Return the cells, weights and scales of a fitted VLAD, computed where the descriptors `x` are."""
    alpha = vlad.alpha_ if vlad.assignment == "soft" else None
    return _memberships(vlad, vlad._check_parameters(), alpha, x)


def _memberships(vlad: VLAD, n_nearest: int, alpha: float | None, x: Any = None) -> Memberships:
    return Memberships(
        vlad.cluster_centers_,
        n_nearest=n_nearest,
        alpha=alpha,
        origins=vlad.residual_origins if vlad.residual_norm else None,
        backend=get_backend(vlad.backend, x),
        n_threads=check_n_threads(vlad.n_threads),
    )


def _codebook(vlad: VLAD) -> KMeansCodebook:
    """Return an unfitted k-means with the settings of `vlad`."""
    names = ("n_init", "max_iter", "tol", "backend", "n_threads", "random_state", "max_samples")
    return KMeansCodebook(vlad.n_clusters, **{name: getattr(vlad, name) for name in names})


def _take_centers(vlad: VLAD, codebook: KMeansCodebook) -> None:
    """Use the centres of a fitted k-means."""
    vlad.codebook_ = codebook
    vlad.cluster_centers_, vlad.n_iter_ = codebook.cluster_centers_, codebook.n_iter_


def _check_partial_fit(vlad: VLAD) -> None:
    """Raise InputError if `partial_fit` cannot start, or cannot continue."""
    if vlad.local_axes:
        raise InputError("local_axes=True needs all descriptors at once: use fit instead of partial_fit")
    if vlad.centers is not None:
        raise InputError("centers are given, so there are none to move: use fit instead of partial_fit")
    if hasattr(vlad, "cluster_centers_") and not hasattr(vlad, "codebook_"):
        raise InputError(
            "a VLAD from a model file or with given centers has no counts, so partial_fit cannot go on: "
            "fit a new one"
        )


def _learn_alpha_and_axes(vlad: VLAD, descriptors: Descriptors | DescriptorBlocks) -> None:
    """Learn what the settings of `vlad` need besides the centres."""
    learns_alpha = vlad.assignment == "soft" and vlad.alpha is None
    if vlad.assignment == "soft" and vlad.alpha is not None:
        vlad.alpha_ = float(vlad.alpha)
    if not (vlad.local_axes or learns_alpha):
        return
    most = vlad.max_samples
    if most is None and isinstance(descriptors, DescriptorBlocks):  # all would not fit into memory
        most = _SAMPLED_ROWS
    x = drawn_rows(descriptors, most, vlad.random_state)
    if len(x) == 0:
        raise InputError("no descriptors (n_samples=0) to learn alpha or axes from: give other images")
    if learns_alpha:
        vlad.alpha_ = softness(x, vlad.cluster_centers_)
    if vlad.local_axes:
        vlad.rotations_ = principal_axes(x, _memberships(vlad, 1, None))
