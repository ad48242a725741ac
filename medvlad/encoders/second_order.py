r"""Second-order pooling: products of pairs of features, averaged over an image's descriptors.

The n descriptors :math:`x_i` of an image have the matrix of second moments

.. math::

    M = \frac{1}{n} \sum_i x_i x_i^T.

Three functions of M can be chosen:

- "sqrt": :math:`M^{1/2}` (Li, Xie, Wang, Zuo, ICCV 2017);
- "log": :math:`\log(M + \epsilon \, (\operatorname{tr} M / D) \, I)` (Carreira, Caseiro, Batista,
  Sminchisescu, ECCV 2012);
- None: M itself, which is bilinear pooling (Lin, RoyChowdhury, Maji, ICCV 2015).

The vector is the upper triangle of the result. Entries beside the diagonal are multiplied by :math:`\sqrt 2`,
so that scalar products of vectors equal those of matrices. The signed power and scaling to unit length
follow. If descriptors have weights :math:`w_i`, then :math:`M = \sum_i w_i x_i x_i^T / \sum_i w_i`. All of
this is computed in float64.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medvlad._util.choices import MatrixMode, words_of
from medvlad._util.validate import check_choice, check_positive_float
from medvlad.backends.normalise import Normalisation
from medvlad.descriptors.checks import check_finite
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.base import Encoder, counted_in_host_memory, validated

__all__ = ["SecondOrderPool"]


class SecondOrderPool(Encoder):
    """Pool an image's descriptors into their second moments: D (D + 1) / 2 numbers.

    Parameters
    ----------
    mode : {"sqrt", "log"} or None, default="sqrt"
        Function of the matrix of second moments.
    power : float in (0, 1], default=1.0
        Exponent of the signed power. 1: no power.
    l2_norm : bool, default=True
        Scale the whole vector to unit length.
    epsilon : float, default=1e-3
        Addition to the diagonal for "log", as a fraction of the mean of the diagonal.

    Attributes
    ----------
    n_features_in_ : int
        Width D of a descriptor.

    Examples
    --------
    >>> import numpy as np
    >>> images = [np.random.default_rng(i).random((9 + i, 4)) for i in range(3)]
    >>> SecondOrderPool().fit_transform(images).shape
    (3, 10)
    """

    def __init__(
        self,
        mode: MatrixMode | None = "sqrt",
        *,
        power: float = 1.0,
        l2_norm: bool = True,
        epsilon: float = 1e-3,
    ) -> None:
        self.mode = mode
        self.power = power
        self.l2_norm = l2_norm
        self.epsilon = epsilon

    def fit(self, X: Any, y: object = None) -> Self:
        """Check the parameters and remember the width of a descriptor.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or array (B, D)
            Only its width is used.
        y : ignored

        Returns
        -------
        self
        """
        self._check_parameters()
        validated(self, X, reset=True)
        return self

    @property
    def _finds_not_finite(self) -> bool:
        return True

    def _encode_images(self, given: Descriptors) -> NDArray[np.float32]:
        how = self._check_parameters()
        descriptors = counted_in_host_memory(given)
        width = self.n_features_in_
        upper = np.triu_indices(width)
        weights = np.where(upper[0] == upper[1], 1.0, np.sqrt(2.0))
        pooled = np.zeros((len(descriptors), len(weights)), np.float32)
        for i, image in enumerate(descriptors):
            if not image.any():
                continue
            x = image.astype(np.float64)
            if descriptors.weights is not None:
                shares = descriptors.weights[descriptors.offsets[i] : descriptors.offsets[i + 1]]
                x *= np.sqrt(shares / shares.mean())[:, None]
            with np.errstate(invalid="ignore"):
                moments = x.T @ x / len(x)
            if not np.isfinite(np.trace(moments)):  # the mean of the squared lengths
                check_finite(given.to_host().values, given.offsets)
            vector = self._mapped(moments)[upper] * weights
            pooled[i] = how.apply(vector[None])[0]
        if not how.has_norm:
            check_finite(pooled, name="pooled images, too large for float32,")
        return pooled

    def _mapped(self, moments: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.mode is None:
            return moments
        values, vectors = np.linalg.eigh(moments)
        values = np.maximum(values, 0.0)
        mapped = np.sqrt(values) if self.mode == "sqrt" else np.log(values + self.epsilon * values.mean())
        return np.asarray((vectors * mapped) @ vectors.T)

    def _check_parameters(self) -> Normalisation:
        """Check the settings. Return how vectors are normalised."""
        if self.mode is not None:
            check_choice(self.mode, "mode", words_of(MatrixMode))
        how = Normalisation(power=self.power, l2_norm=self.l2_norm)
        check_positive_float(self.epsilon, "epsilon")
        return how

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    @property
    def _n_features_out(self) -> int:
        width = int(self.n_features_in_)
        return width * (width + 1) // 2
