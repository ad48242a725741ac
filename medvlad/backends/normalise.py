"""Normalisation of summed residuals, in float64: the specification that the C++ and CUDA code follows.

:mod:`medvlad.backends.reference` has the formulas. These are its steps 2 (mass) and 4 to 6 (signed power,
intra, L2).
A mass or a norm below 1e-12 leaves zeros, and so does a residual that is rounding only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import check_interval

__all__ = [
    "CENTER_ROUNDING",
    "NORM_FLOOR",
    "Normalisation",
    "divided_by_mass",
    "ordered_sum",
    "signed_power",
    "unit",
    "without_rounding",
]

#: A mass or a norm below this leaves zeros.
NORM_FLOOR = 1e-12

#: Error of a float32 centre relative to its norm: four times the unit roundoff. k-means rounds a few times.
CENTER_ROUNDING = 2.0**-22


@dataclass(frozen=True)
class Normalisation:
    """How the residuals of an image become its vector.

    Attributes
    ----------
    power : float in (0, 1], default=1.0
        Exponent of the signed power. 1: no power.
    mass_norm : bool, default=False
        Divide each cell's residual by the sum of the weights in that cell.
    intra_norm : bool, default=False
        Scale each cell's residual to unit length.
    l2_norm : bool, default=True
        Scale the whole vector to unit length.

    Raises
    ------
    InputError
        If `power` is not a number in (0, 1].
    """

    power: float = 1.0
    mass_norm: bool = False
    intra_norm: bool = False
    l2_norm: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "power", check_interval(self.power, "power", 0.0, 1.0))
        for name in ("mass_norm", "intra_norm", "l2_norm"):
            object.__setattr__(self, name, bool(getattr(self, name)))

    @property
    def has_norm(self) -> bool:
        """Whether cells or the whole vector get unit length. Then no number is larger than 1."""
        return self.intra_norm or self.l2_norm

    def apply(self, residuals: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return residuals (..., K, D) after power, intra- and L2 normalisation.

        Residuals that are rounding only become zeros, and masses are divided by, beforehand
        (:func:`without_rounding`, :func:`divided_by_mass`), because local axes come in between.
        """
        v = signed_power(residuals, self.power)
        if self.intra_norm:
            v = unit(v)
        if self.l2_norm:
            v = unit(v.reshape(*v.shape[:-2], -1)).reshape(v.shape)
        return v


def signed_power(v: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """Return sign(v) |v|^power, number by number; `v` itself if `power` is 1."""
    if power == 1.0:
        return v
    powered: NDArray[np.float64] = np.sign(v) * np.abs(v) ** power
    return powered


def without_rounding(
    v: NDArray[np.float64], reach: NDArray[np.floating | np.integer], centers: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return residuals (..., K, D) with zeros for the cells in which only rounding is left.

    `reach` (..., K) is the sum of the absolute factors of the residuals in each cell.
    """
    c = centers.astype(np.float64)
    most = CENTER_ROUNDING * reach
    is_rounding = ordered_sum(v * v) <= most * most * ordered_sum(c * c)
    cleared: NDArray[np.float64] = np.where(is_rounding[..., None], 0.0, v)
    return cleared


def ordered_sum(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum along the last axis of `terms` (..., D), in the one order that all backends use.

    The order is: eight running sums, added by halves, then the last D mod 8 terms one by one. Because all
    backends add in this order, their sums agree to the bit.
    """
    width = terms.shape[-1]
    whole = width - width % 8
    lanes = np.zeros((*terms.shape[:-1], 8))
    for j in range(0, whole, 8):
        lanes += terms[..., j : j + 8]
    lanes = lanes[..., :4] + lanes[..., 4:]
    lanes = lanes[..., :2] + lanes[..., 2:]
    total: NDArray[np.float64] = lanes[..., 0] + lanes[..., 1]
    for j in range(whole, width):
        total += terms[..., j]
    return total


def divided_by_mass(v: NDArray[np.float64], masses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return residuals (K, D) divided by the masses (K,) of their cells."""
    large = np.abs(masses) >= NORM_FLOOR
    divided: NDArray[np.float64] = v * np.divide(1.0, masses, out=np.zeros_like(masses), where=large)[:, None]
    return divided


def unit(v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale the vectors along the last axis to unit length. A norm below the floor leaves zeros."""
    norm = np.linalg.norm(v, axis=-1, keepdims=True)
    scaled: NDArray[np.float64] = np.divide(v, norm, out=np.zeros_like(v), where=norm >= NORM_FLOOR)
    return scaled
