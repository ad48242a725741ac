"""Form of the output of a layer: feature maps, tokens or one vector.

::

    (B, D, h, w)   maps, channels first (torch, most ONNX files)
    (B, h, w, D)   maps, channels last
    (B, T, D)      tokens: class and register tokens first, then h * w patch tokens with h = w, row by row
    (B, D)         one vector

All forms become maps (B, h, w, D), or vectors (B, D). Class and register tokens (prefix tokens) are left out,
because they have no position in the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError

__all__ = ["OutputForm", "form_of", "is_spatial"]

#: Numbers of prefix tokens of known networks: none; a class token; class and distillation token (DeiT);
#: register tokens only; class and 4 register tokens (DINOv2).
_USUAL_PREFIXES = (0, 1, 2, 4, 5)


@dataclass(frozen=True)
class OutputForm:
    """The form of a layer's output.

    Parameters
    ----------
    kind : {"channels first", "channels last", "tokens", "vector"}
        See the module docstring.
    n_prefix : int, default=0
        Number of tokens before the patch tokens.
    """

    kind: str
    n_prefix: int = 0

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return (h, w, D) or (D,) for the shape of an output.

        Raises
        ------
        InputError
            If the patch tokens are no square.
        """
        if self.kind == "channels first":
            return (shape[2], shape[3], shape[1])
        if self.kind == "tokens":
            n = shape[1] - self.n_prefix
            side = math.isqrt(max(n, 0))
            if n < 1 or side * side != n:
                raise InputError(
                    f"the layer has {shape[1]} tokens, and without {self.n_prefix} class and register tokens "
                    f"the other {n} form no square: set prefix_tokens, or use another side or layer"
                )
            return (side, side, shape[2])
        return tuple(shape[1:])

    def maps(self, output: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return an output as contiguous maps (B, h, w, D) or vectors (B, D)."""
        if self.kind == "channels first":
            output = output.transpose(0, 2, 3, 1)
        elif self.kind == "tokens":
            h, w, width = self.shape(output.shape)
            output = output[:, self.n_prefix :].reshape(len(output), h, w, width)
        return np.ascontiguousarray(output, np.float32)


def is_spatial(shape: Sequence[int] | None) -> bool:
    """Return whether a shape can be maps or tokens of more than one place.

    Parameters
    ----------
    shape : sequence of int, or None
        Shape of an output for one square image. None: unknown.
    """
    if shape is None or min(shape, default=0) < 1:
        return False
    if len(shape) == 4:
        return shape[2] == shape[3] > 1 or shape[1] == shape[2] > 1
    return len(shape) == 3 and shape[2] > 1 and bool(_prefixes(shape[1]))


def form_of(
    shape: Sequence[int],
    what: str,
    *,
    n_prefix: int | None = None,
    smaller: Sequence[int] | None = None,
    channels_first: bool | None = None,
) -> OutputForm:
    """Find the form of an output.

    Parameters
    ----------
    shape : sequence of int
        Shape of the output for one square image.
    what : str
        What messages call the layer.
    n_prefix : int or None
        Number of prefix tokens. None: found from the number of tokens.
    smaller : sequence of int, or None
        Shape of the output for an image of another side. It tells places from channels.
    channels_first : bool or None
        Whether maps have their channels first. None: found from the shapes.

    Returns
    -------
    OutputForm

    Raises
    ------
    InputError
        If the shape has another meaning, or more than one.
    """
    if len(shape) == 2:
        return OutputForm("vector")
    if len(shape) == 3:
        return OutputForm("tokens", _prefix(shape[1], what, n_prefix))
    if len(shape) != 4:
        raise InputError(
            f"{what} has shape {_shown(shape)}: choose a layer of maps (D, h, w) or (h, w, D), of tokens "
            "(T, D) or of a vector (D,)"
        )
    first = channels_first
    if first is None and smaller is not None and len(smaller) == 4:
        changed = [a != b for a, b in zip(shape, smaller, strict=True)]
        first = True if changed[2:] == [True, True] and not changed[1] else None
        first = False if changed[1:] == [True, True, False] else first
    if first is None:
        can_be_first, can_be_last = shape[2] == shape[3], shape[1] == shape[2]
        if can_be_first == can_be_last:
            reason = "may have its channels first or last" if can_be_first else "is not square"
            raise InputError(f"{what} has shape {_shown(shape)}, which {reason}: choose another layer")
        first = can_be_first
    return OutputForm("channels first" if first else "channels last")


def _prefixes(n_tokens: int) -> list[int]:
    """Return the usual numbers of prefix tokens that leave a square of at least 2 x 2."""
    return [n for n in _USUAL_PREFIXES if n_tokens - n >= 4 and math.isqrt(n_tokens - n) ** 2 == n_tokens - n]


def _prefix(n_tokens: int, what: str, n_prefix: int | None) -> int:
    if n_prefix is not None:
        return n_prefix
    found = _prefixes(n_tokens)
    if len(found) != 1:
        several = " or ".join(map(str, found))
        reason = f"of which {several} may be" if found else "and no usual number of them is"
        raise InputError(
            f"{what} has {n_tokens} tokens, {reason} class and register tokens in front of a square of patch "
            "tokens: set prefix_tokens to their number, or choose another layer"
        )
    return found[0]


def _shown(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape[1:]))})"
