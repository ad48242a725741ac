r"""Fisher vectors: first and second moments of an image's descriptors about a Gaussian mixture.

A mixture of K Gaussians in D dimensions has priors :math:`p_k`, means :math:`\mu_k` and standard deviations
:math:`\sigma_k`, one for each feature. A descriptor :math:`x_i` belongs to component k with the posterior

.. math::

    q_{ik} = \frac{p_k \, N(x_i; \mu_k, \sigma_k)}{\sum_j p_j \, N(x_i; \mu_j, \sigma_j)}.

Let :math:`z_{ik} = (x_i - \mu_k) / \sigma_k`, feature by feature. The Fisher vector of an image with n
descriptors is :math:`(u_1, \ldots, u_K, v_1, \ldots, v_K)` with

.. math::

    u_k = \frac{1}{n \sqrt{p_k}} \sum_i q_{ik} \, z_{ik}, \qquad
    v_k = \frac{1}{n \sqrt{2 p_k}} \sum_i q_{ik} \, (z_{ik}^2 - 1)

(Perronnin, Sanchez, Mensink, ECCV 2010; constants and order are those of VLFeat). The signed power and
scaling to unit length follow. With power 0.5 this is the "improved" Fisher vector. The weight of a descriptor
multiplies its :math:`q_{ik}`, and n is then the sum of the weights.

scikit-learn fits the mixture by expectation maximisation, starting from the centres of k-means. The sums are
matrix products :math:`q^T x` and :math:`q^T x^2` in float64. The mean of the means is subtracted from x
first, because smaller numbers lose less to rounding.

scikit-image's Fisher vector is :math:`(w_1, \ldots, w_K, u_1, \ldots, u_K, -v_1, \ldots, -v_K)`. It starts
with the K derivatives by the priors, and v has the other sign.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn import config_context

from medvlad._util.validate import InputError, check_positive_float, check_positive_int
from medvlad.backends.normalise import Normalisation
from medvlad.descriptors.checks import check_finite
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.base import Encoder, counted_in_host_memory, drawn_rows, validated
from medvlad.encoders.kmeans import KMeansCodebook, find_centers

__all__ = ["FisherVector"]


class FisherVector(Encoder):
    """Encode an image as the moments of its descriptors about a mixture of Gaussians.

    Parameters
    ----------
    n_components : int, default=64
        Number K of Gaussians.
    power : float in (0, 1], default=0.5
        Exponent of the signed power. 1: no power.
    l2_norm : bool, default=True
        Scale the whole vector to unit length.
    reg_covar : float, default=1e-4
        Smallest variance of a Gaussian, as a fraction of the mean variance of the features.
    max_iter : int, default=100
        Maximum number of steps of expectation maximisation.
    tol : float, default=1e-3
        Stop if a step raises the mean log-likelihood by less than this.
    max_samples : int or None, default=100_000
        Maximum number of descriptors used by `fit`, which holds them in float64. Larger inputs are
        subsampled. None: all.
    random_state : int, RandomState or None, default=None
        Seed of the subsample and of the k-means from which the mixture starts.

    Attributes
    ----------
    weights_ : ndarray of float64, shape (K,)
        Priors.
    means_, variances_ : ndarray of float64, shape (K, D)
        Means and variances of the Gaussians.
    n_iter_ : int
        Number of steps of expectation maximisation.
    n_features_in_ : int
        Width D of a descriptor.

    Notes
    -----
    `transform` returns vectors (B, 2 * K * D) in host memory: u of all components, then v of all components.

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
            Descriptors of the training images.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        InputError
            If there are fewer descriptors than Gaussians, or all descriptors are equal.
        """
        _ = self._normalisation
        check_positive_float(self.reg_covar, "reg_covar")
        rows = drawn_rows(validated(self, X, reset=True), self.max_samples, self.random_state)
        n_components = check_positive_int(self.n_components, "n_components")
        if n_components > len(rows):
            raise InputError(
                f"n_components={n_components} is more than the number of descriptors, n_samples={len(rows)}: "
                "choose fewer"
            )
        x = rows.astype(np.float64)
        origin, spread = x.mean(axis=0), float(x.var(axis=0).mean())
        if not spread > 0:
            raise InputError(
                f"all descriptors (n_samples={len(rows)}) are the same and have no Gaussians: give others"
            )
        x -= origin
        x /= np.sqrt(spread)  # so that reg_covar and tol do not depend on the unit of the descriptors
        codebook = KMeansCodebook(n_components, max_samples=None, random_state=self.random_state)
        find_centers(codebook, x.astype(np.float32))
        from sklearn.mixture import GaussianMixture  # takes long, and only fit needs it

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
        with config_context(array_api_dispatch=False):  # it does not support means_init
            mixture.fit(x)
        self.n_iter_ = mixture.n_iter_
        self.weights_ = mixture.weights_
        self.means_ = mixture.means_ * np.sqrt(spread) + origin
        self.variances_ = mixture.covariances_ * spread
        return self

    @property
    def _finds_not_finite(self) -> bool:
        return True

    def _encode_images(self, given: Descriptors) -> NDArray[np.float32]:
        how = self._normalisation
        descriptors = counted_in_host_memory(given)
        origin = self.means_.mean(axis=0)
        encoded = np.zeros((len(descriptors), self._n_features_out), np.float32)
        weights = np.ones(len(descriptors.values)) if descriptors.weights is None else descriptors.weights
        for i, image in enumerate(descriptors):
            if len(image):
                own = weights[descriptors.offsets[i] : descriptors.offsets[i + 1]]
                with np.errstate(invalid="ignore"):
                    vector = self._encode(image - origin, self.means_ - origin, own)
                # NaN or infinity in a row makes its posteriors NaN, and so every number of the vector.
                if not np.isfinite(vector[-1]):
                    check_finite(given.to_host().values, given.offsets)
                encoded[i] = how.apply(vector[None])[0]
        return encoded

    def _encode(
        self, x: NDArray[np.float64], means: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the vector (2 * K * D,) of one image before normalisation."""
        posterior, squares = self._posterior(x, means) * weights[:, None], x * x
        mass = posterior.sum(axis=0)[:, None]
        first, second = posterior.T @ x, posterior.T @ squares
        sigma, prior = np.sqrt(self.variances_), self.weights_[:, None]
        n = weights.sum()
        u = (first - mass * means) / sigma / (n * np.sqrt(prior))
        v = (second - 2 * means * first + mass * means**2) / self.variances_ - mass
        v /= n * np.sqrt(2 * prior)
        vector: NDArray[np.float64] = np.concatenate([u.ravel(), v.ravel()])
        return vector

    def _posterior(self, x: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the posteriors (n, K) of the descriptors of an image."""
        precision = 1.0 / self.variances_
        logs = x @ (means * precision).T - 0.5 * (x * x) @ precision.T
        logs += np.log(self.weights_) - 0.5 * (means**2 * precision + np.log(self.variances_)).sum(axis=1)
        posterior: NDArray[np.float64] = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
        return posterior

    @property
    def _normalisation(self) -> Normalisation:
        return Normalisation(power=self.power, l2_norm=self.l2_norm)

    @property
    def _n_features_out(self) -> int:
        return 2 * int(self.means_.size)


def _variances(x: NDArray[np.float64], codebook: KMeansCodebook) -> NDArray[np.float64]:
    """Return the variances (K, D) within the cells; a cell of fewer than two rows gets those of all rows."""
    overall = x.var(axis=0)
    found = np.tile(overall, (len(codebook.cluster_centers_), 1))
    for k in np.flatnonzero(codebook.counts_ > 1):
        found[k] = x[codebook.labels_ == k].var(axis=0)
    return found
