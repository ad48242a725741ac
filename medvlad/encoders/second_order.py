"""Second-order pooling: how an image's descriptors vary together.

For the n descriptors x_i of an image::

    M = (1/n) sum_i x_i x_i^T                                      a symmetric matrix (D, D)

    "sqrt"   M^(1/2)                                 (Li, Xie, Wang, Zuo, ICCV 2017)
    "log"    log(M + epsilon (tr M / D) I)           (Carreira, Caseiro, Batista, Sminchisescu, ECCV 2012)
    None     M itself, bilinear pooling              (Lin, RoyChowdhury, Maji, ICCV 2015)

of which the upper triangle is kept, what is beside the diagonal times sqrt(2), so that scalar products of
vectors are those of matrices. Then ``v <- sign(v) |v|^power``, then unit length. Where descriptors have
weights w_i, M is sum w_i x_i x_i^T / sum w_i. Everything in float64.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import check_choice, check_interval, check_positive_float
from medvlad.backends.reference import unit
from medvlad.descriptors.checks import check_finite
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.base import Encoder, in_host_memory, validated

__all__ = ["SecondOrderPool"]


class SecondOrderPool(Encoder):
    """Second moments of an image's descriptors; D (D + 1) / 2 numbers.

    Parameters
    ----------
    mode : {"sqrt", "log"} or None, default="sqrt"
        What is done to the matrix of moments.
    power : float in (0, 1], default=1.0
        Exponent of the signed power normalisation; 1 leaves it out.
    l2_norm : bool, default=True
        Scale the whole vector to unit length.
    epsilon : float, default=1e-3
        For "log": what is added to the diagonal, as a share of its mean.

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
        mode: str | None = "sqrt",
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
        y : ignored

        Returns
        -------
        self
        """
        self._check_parameters()
        validated(self, X, reset=True)
        return self

    def _encode_images(self, given: Descriptors) -> NDArray[np.float32]:
        self._check_parameters()
        descriptors = in_host_memory(given)
        width = self.n_features_in_
        upper = np.triu_indices(width)
        weights = np.where(upper[0] == upper[1], 1.0, np.sqrt(2.0))
        pooled = np.zeros((len(descriptors), len(weights)), np.float32)
        descriptors = descriptors.counted()
        for i, image in enumerate(descriptors):
            if not image.any():
                continue
            x = image.astype(np.float64)
            if descriptors.weights is not None:
                shares = descriptors.weights[descriptors.offsets[i] : descriptors.offsets[i + 1]]
                x *= np.sqrt(shares / shares.mean())[:, None]
            vector = self._mapped(x)[upper] * weights
            if self.power != 1:
                vector = np.sign(vector) * np.abs(vector) ** self.power
            if self.l2_norm:
                vector = unit(vector)
            pooled[i] = vector
        if not self.l2_norm:
            check_finite(pooled, name="pooled images, too large for float32,")
        return pooled

    def _mapped(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        moments: NDArray[np.float64] = x.T @ x / len(x)
        if self.mode is None:
            return moments
        values, vectors = np.linalg.eigh(moments)
        values = np.maximum(values, 0.0)
        mapped = np.sqrt(values) if self.mode == "sqrt" else np.log(values + self.epsilon * values.mean())
        return np.asarray((vectors * mapped) @ vectors.T)

    def _check_parameters(self) -> None:
        if self.mode is not None:
            check_choice(self.mode, "mode", ("sqrt", "log"))
        check_interval(self.power, "power", 0.0, 1.0)
        check_positive_float(self.epsilon, "epsilon")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    @property
    def _n_features_out(self) -> int:
        width = int(self.n_features_in_)
        return width * (width + 1) // 2
