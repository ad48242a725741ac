"""Fisher vectors: first and second moments of an image's descriptors about a Gaussian mixture.

A mixture of K Gaussians in R^D has priors p_k, means mu_k and standard deviations sigma_k (diagonal). A
descriptor x_i of an image of n belongs to component k with the posterior::

    q_ik = p_k N(x_i; mu_k, sigma_k) / sum_j p_j N(x_i; mu_j, sigma_j),

and, with z_ik = (x_i - mu_k) / sigma_k feature by feature, the Fisher vector (Perronnin, Sanchez, Mensink,
ECCV 2010; constants and order are those of VLFeat) is (u_1, ..., u_K, v_1, ..., v_K) with::

    u_k = 1 / (n sqrt(p_k))   sum_i q_ik z_ik
    v_k = 1 / (n sqrt(2 p_k)) sum_i q_ik (z_ik^2 - 1)

then ``v <- sign(v) |v|^power`` and unit length ("improved" with power 0.5). A descriptor's weight multiplies
its q_ik, and n is then the sum of the weights. scikit-learn fits the mixture by expectation maximisation,
from the centres of k-means. The sums are q^T x and q^T x^2, products of matrices in float64, left to BLAS; x
is taken about the mean of the means, where less is lost.

scikit-image's Fisher vector is (w_1, ..., w_K, u_1, ..., u_K, -v_1, ..., -v_K): it has the K derivatives by
the priors in front, and the other sign for v.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn import config_context
from sklearn.mixture import GaussianMixture

from medvlad._util.validate import InputError, check_interval, check_positive_float, check_positive_int
from medvlad.backends.reference import unit
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.base import Encoder, drawn_rows, in_host_memory, validated
from medvlad.encoders.kmeans import KMeansCodebook

__all__ = ["FisherVector"]


class FisherVector(Encoder):
    """Moments of an image's descriptors about a mixture of Gaussians.

    Parameters
    ----------
    n_components : int, default=64
        Number K of Gaussians.
    power : float in (0, 1], default=0.5
        Exponent of the signed power normalisation; 1 leaves it out.
    l2_norm : bool, default=True
        Scale the whole vector to unit length.
    reg_covar : float, default=1e-4
        Least variance, as a share of the mean variance of the descriptors' features.
    max_iter : int, default=100
        Most steps of expectation maximisation.
    tol : float, default=1e-3
        It stops where the mean log-likelihood gains less than this in a step.
    max_samples : int or None, default=100_000
        Most descriptors that the mixture is fitted on, as float64; of more, so many are drawn. None: all.
    random_state : int, RandomState or None, default=None
        Seed of drawing and of k-means, where the mixture starts.

    Attributes
    ----------
    weights_ : ndarray of float64, shape (K,)
        Priors.
    means_, variances_ : ndarray of float64, shape (K, D)
    n_iter_ : int
        Steps it took.
    n_features_in_ : int
        Width D of a descriptor.

    Notes
    -----
    Vectors are (B, 2 * K * D), in host memory: means first, then variances, component after component.

    References
    ----------
    Perronnin, Sanchez, Mensink: Improving the Fisher kernel for large-scale image classification. ECCV 2010.

    Examples
    --------
    >>> import numpy as np
    >>> images = [np.random.default_rng(i).random((9 + i, 8)) for i in range(4)]
    >>> FisherVector(2, random_state=0).fit_transform(images).shape
    (4, 32)
    """

    _learnt = "means_"

    def __init__(
        self,
        n_components: int = 64,
        *,
        power: float = 0.5,
        l2_norm: bool = True,
        reg_covar: float = 1e-4,
        max_iter: int = 100,
        tol: float = 1e-3,
        max_samples: int | None = 100_000,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.power = power
        self.l2_norm = l2_norm
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.tol = tol
        self.max_samples = max_samples
        self.random_state = random_state

    def fit(self, X: Any, y: object = None) -> Self:
        """Fit the mixture.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or array (B, D)
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        InputError
            If there are fewer descriptors than Gaussians, or they are all the same.
        """
        check_interval(self.power, "power", 0.0, 1.0)
        check_positive_float(self.reg_covar, "reg_covar")
        rows = drawn_rows(validated(self, X, reset=True), self.max_samples, self.random_state)
        n_components = check_positive_int(self.n_components, "n_components")
        if n_components > len(rows):
            raise InputError(
                f"n_components={n_components} is more than there are descriptors, n_samples={len(rows)}: "
                "choose fewer"
            )
        x = rows.astype(np.float64)
        origin, spread = x.mean(axis=0), float(x.var(axis=0).mean())
        if not spread > 0:
            raise InputError(
                f"all descriptors (n_samples={len(rows)}) are the same and have no Gaussians: give others"
            )
        x -= origin
        x /= np.sqrt(spread)  # so that reg_covar and tol mean the same whatever the unit
        codebook = KMeansCodebook(n_components, max_samples=None, random_state=self.random_state)
        codebook.fit(x.astype(np.float32))
        mixture = GaussianMixture(
            n_components,
            covariance_type="diag",
            reg_covar=self.reg_covar,
            max_iter=self.max_iter,
            tol=self.tol,
            means_init=codebook.cluster_centers_,
            weights_init=np.maximum(codebook.counts_, 1) / np.maximum(codebook.counts_, 1).sum(),
            precisions_init=1.0 / np.maximum(_variances(x, codebook), self.reg_covar),
        )
        with config_context(array_api_dispatch=False):  # which knows no mixture that begins somewhere
            mixture.fit(x)
        self.n_iter_ = mixture.n_iter_
        self.weights_ = mixture.weights_
        self.means_ = mixture.means_ * np.sqrt(spread) + origin
        self.variances_ = mixture.covariances_ * spread
        return self

    def _encode_images(self, given: Descriptors) -> NDArray[np.float32]:
        check_interval(self.power, "power", 0.0, 1.0)
        descriptors = in_host_memory(given)
        origin = self.means_.mean(axis=0)
        encoded = np.zeros((len(descriptors), self._n_features_out), np.float32)
        descriptors = descriptors.counted()
        weights = np.ones(len(descriptors.values)) if descriptors.weights is None else descriptors.weights
        for i, image in enumerate(descriptors):
            if len(image):
                own = weights[descriptors.offsets[i] : descriptors.offsets[i + 1]]
                encoded[i] = self._encode(image - origin, self.means_ - origin, own)
        return encoded

    def _encode(
        self, x: NDArray[np.float64], means: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the vector of one image, (2 * K * D,)."""
        posterior, squares = self._posterior(x, means) * weights[:, None], x * x
        mass = posterior.sum(axis=0)[:, None]
        first, second = posterior.T @ x, posterior.T @ squares
        sigma, prior = np.sqrt(self.variances_), self.weights_[:, None]
        n = weights.sum()
        u = (first - mass * means) / sigma / (n * np.sqrt(prior))
        v = (second - 2 * means * first + mass * means**2) / self.variances_ - mass
        v /= n * np.sqrt(2 * prior)
        vector: NDArray[np.float64] = np.concatenate([u.ravel(), v.ravel()])
        if self.power != 1:
            vector = np.sign(vector) * np.abs(vector) ** self.power
        if self.l2_norm:
            vector = unit(vector)
        return vector

    def _posterior(self, x: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (n, K)."""
        precision = 1.0 / self.variances_
        logs = x @ (means * precision).T - 0.5 * (x * x) @ precision.T
        logs += np.log(self.weights_) - 0.5 * (means**2 * precision + np.log(self.variances_)).sum(axis=1)
        posterior: NDArray[np.float64] = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
        return posterior

    @property
    def _n_features_out(self) -> int:
        return 2 * int(self.means_.size)


def _variances(x: NDArray[np.float64], codebook: KMeansCodebook) -> NDArray[np.float64]:
    """Variances (K, D) within the cells, about their own means; those of all rows where a cell has few."""
    overall = x.var(axis=0)
    found = np.tile(overall, (len(codebook.cluster_centers_), 1))
    for k in np.flatnonzero(codebook.counts_ > 1):
        found[k] = x[codebook.labels_ == k].var(axis=0)
    return found
