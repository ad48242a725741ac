r"""Decision threshold for a given sensitivity or specificity, with two classes.

The threshold is found in the held-out decision values of the training images. For a rate :math:`r` of a class
with :math:`n` held-out images, :math:`\lceil r (n + 1) \rceil` of them must be classified correctly. With
:math:`+ 1`, the rate is reached on average for a new image that is exchangeable with them (the quantile of
conformal prediction); :math:`r n` would be slightly too few. The threshold is halfway between the last of
these decision values and the next lower value of any image.

This holds if each patient has one image. If images of a patient are alike, the number of patients counts:
with few patients the rate is lower on average, and varies more between models.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError

__all__ = ["RATES", "Target", "operating_threshold", "read_target"]

#: Rates that a target can name.
RATES = ("sensitivity", "specificity")

_ROUNDING = 1e-9  # of a product with a decimal fraction


@dataclass(frozen=True)
class Target:
    """Sensitivity or specificity that the threshold must reach.

    Attributes
    ----------
    rate : {"sensitivity", "specificity"}
    value : float
        Above 0 and below 1.
    """

    rate: str
    value: float

    def __str__(self) -> str:
        return f"{self.rate}={self.value:g}"


def read_target(text: Any) -> Target:
    """Read a target such as "sensitivity=0.95".

    Raises
    ------
    InputError
        If `text` is no such target.
    """
    found = re.fullmatch(r"\s*(\w+)\s*=\s*([0-9.eE+-]+)\s*", text) if isinstance(text, str) else None
    try:
        rate, value = ("", 0.0) if found is None else (found[1].lower(), float(found[2]))
    except ValueError:
        rate, value = "", 0.0
    if rate not in RATES or not 0 < value < 1:
        raise InputError(
            f"a threshold is sensitivity=NUMBER or specificity=NUMBER with a number above 0 and below 1, got "
            f"{text!r}: use for example sensitivity=0.95"
        )
    return Target(rate, value)


def operating_threshold(
    target: Target, decision: NDArray[np.float64], labels: NDArray[np.int64], *, positive: int = 1
) -> float:
    """Return the threshold of the decision value of the second class.

    Parameters
    ----------
    target : Target
    decision : ndarray of float, shape (n, 2)
        Held-out decision values.
    labels : ndarray of int, shape (n,)
        0 or 1.
    positive : {0, 1}, default=1
        The class whose detection rate is the sensitivity.

    Returns
    -------
    float
        Values above it mean the second class.

    Raises
    ------
    InputError
        If there are not two classes, or the class has too few images for the target.
    """
    if decision.shape[1] != 2:
        raise InputError(
            f"threshold='{target}' needs two classes, there are {decision.shape[1]}: leave the threshold out"
        )
    wanted = positive if target.rate == "sensitivity" else 1 - positive
    # The decision value of the wanted class: that of the second class, or its negative.
    values = np.asarray(decision[:, wanted], np.float64)
    own = np.sort(values[labels == wanted])[::-1]
    needed = math.ceil(target.value * (len(own) + 1) - _ROUNDING)
    if needed > len(own):
        least = math.ceil(target.value / (1 - target.value) - _ROUNDING)
        raise InputError(
            f"threshold='{target}' needs at least {least} training images of the class, there are "
            f"{len(own)}: use a lower rate, or add images"
        )
    last = own[needed - 1]
    lower = values[values < last]
    cut = (last + lower.max()) / 2 if len(lower) else np.nextafter(last, -np.inf)
    if not cut < last:  # neighbouring numbers
        cut = np.nextafter(last, -np.inf)
    return float(cut if wanted == 1 else -cut)
