"""What networks that Keras does not define have in common: the form of an output, and running up to it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import check_n_threads
from medvlad.extraction.networks.output_form import OutputForm, form_of

__all__ = ["USUAL_SIDE", "NetworkCut"]

USUAL_SIDE = 224
_OTHER_SIDES = (256, 448)


class NetworkCut(ABC):
    """A network from preprocessed pixels to the maps of one layer, which runs itself.

    Attributes
    ----------
    name : str
        Name of the network or its file.
    own_engine : {"onnxruntime", "torch"}
        Name of the only engine.
    form : OutputForm
        Form of the layer's output.
    input_shape, output_shape : tuple
        As of a keras.Model: (None, s, s, 3), with None for a side that may vary, and (None, h, w, D) or
        (None, D).
    """

    name: str
    own_engine: str

    def _find_form(
        self,
        what: str,
        side: int | None,
        n_prefix: int | None,
        channels_first: bool | None,
        usual_side: int = USUAL_SIDE,
    ) -> None:
        """Run the network to find the form of its output. Parameters are those of the subclasses."""
        self._shapes: dict[int, tuple[int, ...]] = {}
        self.input_shape = (None, side, side, 3)
        shape, smaller = self.shape_at(side or usual_side), None
        if channels_first is None and side is None and len(shape) == 4 and len(set(shape[1:])) == 1:
            smaller = self.shape_at(next(one for one in _OTHER_SIDES if one != usual_side))
        self.form: OutputForm = form_of(
            shape, what, n_prefix=n_prefix, smaller=smaller, channels_first=channels_first
        )
        maps = self.form.shape(shape)
        places = (None, None) if len(maps) == 3 and side is None else maps[:-1]
        self.output_shape = (None, *places, maps[-1])

    @abstractmethod
    def _raw(self, pixels: NDArray[np.float32], n_threads: int) -> NDArray[np.float32]:
        """Return the output of the layer as the network gives it."""

    def shape_at(self, side: int) -> tuple[int, ...]:
        """Return the shape of the output for one image of this side. The network runs once for each side."""
        if side not in self._shapes:
            zeros = np.zeros((1, side, side, 3), np.float32)
            self._shapes[side] = self._raw(zeros, check_n_threads(None)).shape
        return self._shapes[side]

    def compute_output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output for an input (B, s, s, 3)."""
        return (shape[0], *self.form.shape(self.shape_at(int(shape[1]))))

    def run(self, pixels: NDArray[np.float32], n_threads: int) -> NDArray[np.float32]:
        """Return the maps (B, h, w, D) or vectors (B, D) of preprocessed pixels (B, s, s, 3).

        Raises
        ------
        InputError
            If the network does not take images of this side, or its output is no tensor of float32.
        """
        return self.form.maps(self._raw(pixels, n_threads))
