"""Put the network of an ONNX file into the graph that is exported.

::

    image_224 (B, 224, 224, 3) uint8, RGB --> factor, mean, std --> network --> (B, h * w, D)

Weights are stored once, also if several scales or mirror images use the network. A network that takes a fixed
number of images keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from medvlad._util.validate import InputError, import_extra, one_line
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.models.onnx_graph import Graph

__all__ = ["add_onnx_network"]

_LEAST_OPSET = 18  # of the other steps
_SHARED = "network/"


def add_onnx_network(graph: Graph, features: CNNDescriptors) -> tuple[str, dict[str, tuple[Any, ...]]]:
    """Add the network of an ONNX file.

    Parameters
    ----------
    graph : Graph
    features : CNNDescriptors
        Built, with a network of an ONNX file.

    Returns
    -------
    descriptors : str
        Name of the descriptors (B, n, D) of all views.
    inputs : dict of str to tuple
        Name and shape of each input.

    Raises
    ------
    InputError
        If the network uses old operators that cannot be converted.
    """
    cut = features.network_.cut
    model = _converted(graph.onnx, cut.graph, cut.tensor, cut.name)
    graph.require(model)
    stored = {one.name for one in model.graph.initializer}
    graph.share(model.graph.initializer, _SHARED)
    inputs: dict[str, tuple[Any, ...]] = {}
    parts: list[str] = []
    grids = iter(features.grids_)
    for side in features.input_sides_:
        name = f"image_{side}"
        inputs[name] = (cut.given.batch or "batch", side, side, 3)
        graph.input(name, graph.onnx.TensorProto.UINT8, inputs[name])
        pixels = _add_preprocessing(graph, name, features.network_.preprocess)
        for mirrored in sorted(set(features.mirrored_)):
            x = _add_mirror(graph, pixels) if mirrored else pixels
            x = graph("Transpose", x, perm=[0, 3, 1, 2]) if cut.given.channels_first else x
            rename = _renamed(stored, {cut.given.name: x}, f"view{len(parts)}/")
            graph.embed(model.graph.node, rename)
            h, w = next(grids)
            parts.append(_add_rows(graph, rename(cut.tensor), cut.form, h * w, features.n_features_out_))
    return graph("Concat", *parts, axis=1) if len(parts) > 1 else parts[0], inputs


def _converted(onnx: Any, model: Any, tensor: str, name: str) -> Any:
    """Return a model whose operators are at least those of the other steps."""
    opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=1)
    if opset >= _LEAST_OPSET:
        return model
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    del typed.graph.output[:]
    typed.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    try:
        return import_extra("onnx.version_converter", "onnx", "medvlad export").convert_version(
            typed, _LEAST_OPSET
        )
    except Exception as error:  # the converter is written in C++ and raises RuntimeError
        raise InputError(
            f"{name} has opset {opset}, which cannot become {_LEAST_OPSET} ({one_line(error)[:80]}): "
            "export it again with a newer opset, or use from_features=True"
        ) from error


def _renamed(stored: set[str], given: dict[str, str], prefix: str) -> Callable[[str], str]:
    return lambda name: given.get(name) or (_SHARED if name in stored else prefix) + name


def _add_preprocessing(graph: Graph, image: str, preprocess: Any) -> str:
    """Convert images (B, side, side, 3) in uint8, RGB, to the numbers that the network takes."""
    pixels = graph("Cast", image, to=graph.onnx.TensorProto.FLOAT)
    if preprocess.order == "bgr":
        pixels = graph("Gather", pixels, graph.ints(2, 1, 0), axis=3)
    pixels = graph("Mul", pixels, graph.constant(np.float32(preprocess.factor)))
    pixels = graph("Sub", pixels, graph.constant(preprocess.mean))
    return graph("Div", pixels, graph.constant(preprocess.std))


def _add_mirror(graph: Graph, pixels: str) -> str:
    """Mirror (B, h, w, 3) left to right."""
    first, last = graph.ints(-1), graph.ints(-(2**62))
    return graph("Slice", pixels, first, last, graph.ints(2), graph.ints(-1))


def _add_rows(graph: Graph, x: str, form: Any, n: int, width: int) -> str:
    """Convert the output of the network to descriptors (B, n, D)."""
    if form.kind == "channels first":
        x = graph("Transpose", x, perm=[0, 2, 3, 1])
    elif form.kind == "tokens" and form.n_prefix:
        x = graph("Slice", x, graph.ints(form.n_prefix), graph.ints(2**62), graph.ints(1))
    return graph("Reshape", x, graph.ints(0, n, width))
