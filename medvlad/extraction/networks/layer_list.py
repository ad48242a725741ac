"""The layers at which a network can be cut, with the shape of their output."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from medvlad.extraction.networks.output_form import is_spatial

__all__ = ["Layer", "spatial_first"]


@dataclass(frozen=True)
class Layer:
    """A layer of a network.

    Parameters
    ----------
    name : str
        Name for the parameter `layer`.
    shape : tuple of int, or None
        Shape of its output for one image of 224 x 224 pixels, or of the only side that the network takes. The
        first number is the number of images. None: unknown.
    """

    name: str
    shape: tuple[int, ...] | None

    @property
    def is_spatial(self) -> bool:
        """Whether the output has several places: maps or patch tokens."""
        return is_spatial(self.shape)


def spatial_first(layers: Iterable[Layer]) -> list[Layer]:
    """Return layers with known shapes, in reverse order, those with several places first."""
    known = [layer for layer in layers if layer.shape is not None and len(layer.shape) in (2, 3, 4)]
    known.reverse()
    return sorted(known, key=lambda layer: not layer.is_spatial)
