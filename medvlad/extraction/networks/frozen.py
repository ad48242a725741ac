"""FrozenNetwork: the interface of all networks, whatever library defines them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["FrozenNetwork"]


@dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """A network from pixels to the feature maps of one layer. Its weights do not change.

    Parameters
    ----------
    model : str
        Name of the network, as the user wrote it. For a torch.nn.Module "torch:" and the name of its class.
    layer : str
        Name of the layer at which the network is cut.
    source : str
        Source of the weights: "imagenet", "bundled", "random", "given" or a file.
    cut : object
        Network from preprocessed pixels (B, s, s, 3) to feature maps (B, h, w, D) or vectors (B, D): a
        keras.Model, a `OnnxCut` or a
        `TorchCut`. All have the attributes `name`,
        `input_shape` and `output_shape` and the method `compute_output_shape` of a keras.Model.
    preprocess : callable
        Function from RGB pixels (B, s, s, 3), float32 in 0..255, to the input of `cut`. It may change its
        argument in place.
    fingerprint : str
        SHA-256 of the weights. See :func:`medvlad.extraction.weights.fingerprint`.
    kind : {"keras", "onnx", "timm", "module"}, default="keras"
        Library that defines the network.
    """

    model: str
    layer: str
    source: str
    cut: Any
    preprocess: Callable[..., Any]
    fingerprint: str
    kind: str = "keras"

    @property
    def n_features(self) -> int:
        """Width D of a descriptor."""
        return int(self.cut.output_shape[-1])

    @property
    def only_side(self) -> int | None:
        """Side in pixels of the only square input that the network takes. None: it takes any side."""
        side = self.cut.input_shape[1]
        return None if side is None else int(side)

    def grid(self, side: int) -> tuple[int, int]:
        """Return height and width of the feature map of a square input.

        Parameters
        ----------
        side : int
            Side of the input in pixels.

        Returns
        -------
        (int, int)
            (1, 1) for a layer of shape (D,).
        """
        shape = self.cut.compute_output_shape((1, side, side, 3))
        return (int(shape[1]), int(shape[2])) if len(shape) == 4 else (1, 1)

    @property
    def store_name(self) -> str:
        """Name of the network in the store. For an ONNX file it depends on the content, not on the path."""
        return "onnx" if self.kind == "onnx" else self.model.lower()

    def input_settings(self) -> dict[str, Any]:
        """Return what decides descriptors besides model, layer and weights. Empty for a Keras network.

        Keras defines the preprocessing of its networks. The others have it written down here, and the number
        of class and register tokens that are left out.

        Returns
        -------
        dict
            Empty, or "preprocess" (a dict of numbers) and "prefix_tokens".
        """
        if self.kind == "keras":
            return {}
        preprocess: Any = self.preprocess
        return {"preprocess": preprocess.settings(), "prefix_tokens": int(self.cut.form.n_prefix)}
