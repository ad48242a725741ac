"""Export a fitted pipeline as one ONNX graph, for machines without this package.

::

    image_224 (B, 224, 224, 3) uint8, RGB    one input per scale, already resized
        --> BGR, minus the mean --> 3x3 convolutions, ReLU, max pooling --> (B, h * w, D) --+
    descriptors (B, n, D) float32            the only input if from_features=True         --+
        --> L2, PCA --> VLAD, pooling, ... --> PCA, L2 --> scores (B, C), label (B,)

The class names are in the model's metadata, "classes", as JSON. The metadata "task" says what is predicted.
With the task "labels", label is (B, C) of 1 and 0, and there may be a further output probability (B, C). With
the task "regression" the only output is values (B, C).

The network is exported for VGG16, VGG19 and networks of ONNX files. For other networks the graph begins at
the descriptors. Convert a network of timm or PyTorch with ``torch.onnx.export``, and use the file as the
network.

The graph computes in float32. A descriptor that lies between two centres may be assigned to the other one,
and scores differ from those of this package in the sixth digit.
"""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from medvlad._util.atomic_file import write_file
from medvlad._util.validate import InputError, import_extra
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.engines.winograd import Pooling, layers_of
from medvlad.models.heads import names_of_head, task_of_head
from medvlad.models.model_file import network_and_steps
from medvlad.models.onnx_graph import Graph
from medvlad.models.onnx_part import add_onnx_network
from medvlad.models.onnx_steps import add_head, add_step, n_descriptors

__all__ = ["export_onnx"]

_MEAN_BGR = (103.939, 116.779, 123.68)  # of ImageNet, which VGG's preprocessing subtracts

Inputs = dict[str, tuple[Any, ...]]


def is_exported(path: Path) -> bool:
    """Return whether a file is an ONNX model that `export_onnx` wrote."""
    onnx = import_extra("onnx", "onnx", "ONNX export")
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception:  # the parser raises exceptions of its own
        return False
    return bool(model.producer_name == "medvlad")


def export_onnx(pipeline: Pipeline, path: str | os.PathLike[str], *, from_features: bool = False) -> Inputs:
    """Write a fitted pipeline as an ONNX model.

    Parameters
    ----------
    pipeline : sklearn.pipeline.Pipeline
        Fitted pipeline, from :meth:`medvlad.experiment.Experiment.train` or :func:`medvlad.load_model`.
    path : path-like
        File to write. An existing file is replaced.
    from_features : bool, default=False
        Whether the graph begins at the descriptors. Use it for networks other than those named above. A
        pipeline without CNNDescriptors always begins at the descriptors.

    Returns
    -------
    dict of str to tuple
        Name and shape of each input.

    Raises
    ------
    InputError
        If a step cannot be exported, or the file cannot be written.
    MissingExtraError
        If onnx is not installed.
    """
    onnx = import_extra("onnx", "onnx", "the ONNX export")
    features, steps = network_and_steps(pipeline)
    for _, step in steps:
        check_is_fitted(step)
    graph = Graph(onnx)
    if from_features or features is None:
        width = int(steps[0][1].n_features_in_)
        inputs: Inputs = {"descriptors": ("batch", n_descriptors(steps), width)}
        graph.input("descriptors", onnx.TensorProto.FLOAT, inputs["descriptors"])
        x = "descriptors"
    else:
        x, inputs = _add_network(graph, features)
    for _, step in steps[:-1]:
        x = add_step(graph, step, x)
    classifier = steps[-1][1]
    outputs = add_head(graph, classifier, x)
    names = [str(name) for name in names_of_head(classifier)]
    metadata = {
        "classes": json.dumps(names),
        "task": task_of_head(classifier),
        "medvlad": version("medvlad"),
        **_source(features),
    }
    write_file(path, graph.model(metadata, outputs).SerializeToString(), "ONNX model")
    return inputs


def _source(features: CNNDescriptors | None) -> dict[str, str]:
    """Return metadata on the network that makes the descriptors. Empty if there is none."""
    if features is None:
        return {}
    network = features.build().network_
    return {
        "network": f"{network.store_name} {network.layer}",
        "weights_fingerprint": features.weights_fingerprint_,
        "resize": features.resize,
    }


def _add_network(graph: Graph, features: CNNDescriptors) -> tuple[str, Inputs]:
    """Add the network. Return the name of the descriptors (B, n, D) of all views, and the inputs."""
    if features.build().network_.kind == "onnx":
        return add_onnx_network(graph, features)
    layers = layers_of(features.network_.cut) if features.network_.store_name in ("vgg16", "vgg19") else None
    if layers is None:
        raise InputError(
            "the ONNX export supports ONNX files and the convolutions of VGG16 and VGG19, not "
            f"{features.network_.model} cut at {features.network_.layer}: use from_features=True, so that "
            "the graph begins at its descriptors"
        )
    kernels = [None if isinstance(layer, Pooling) else _add_kernel(graph, layer) for layer in layers]
    inputs: Inputs = {}
    parts = []
    grids = iter(features.grids_)
    for side in features.input_sides_:
        name = f"image_{side}"
        inputs[name] = ("batch", side, side, 3)
        graph.input(name, graph.onnx.TensorProto.UINT8, inputs[name])
        pixels = _add_preprocessing(graph, name)
        for mirrored in sorted(set(features.mirrored_)):
            x = _add_convolutions(graph, _add_mirror(graph, pixels) if mirrored else pixels, kernels)
            h, w = next(grids)
            parts.append(graph("Reshape", x, graph.ints(0, h * w, features.n_features_out_)))
    return graph("Concat", *parts, axis=1) if len(parts) > 1 else parts[0], inputs


def _add_kernel(graph: Graph, layer: Any) -> tuple[str, str, bool]:
    """Add a convolution's weights. Return the names of kernel and bias, and whether ReLU follows."""
    kernel = graph.constant(layer.kernel.transpose(3, 2, 0, 1))
    return kernel, graph.constant(layer.bias), layer.relu


def _add_preprocessing(graph: Graph, image: str) -> str:
    """Convert images (B, side, side, 3), RGB, to (B, 3, side, side), BGR, minus the mean of ImageNet."""
    pixels = graph("Cast", image, to=graph.onnx.TensorProto.FLOAT)
    pixels = graph("Transpose", pixels, perm=[0, 3, 1, 2])
    pixels = graph("Gather", pixels, graph.ints(2, 1, 0), axis=1)
    return graph("Sub", pixels, graph.constant(np.reshape(_MEAN_BGR, (1, 3, 1, 1))))


def _add_mirror(graph: Graph, pixels: str) -> str:
    """Mirror (B, 3, h, w) left to right."""
    first, last = graph.ints(-1), graph.ints(-(2**62))
    return graph("Slice", pixels, first, last, graph.ints(3), graph.ints(-1))


def _add_convolutions(graph: Graph, x: str, kernels: list[tuple[str, str, bool] | None]) -> str:
    """Add the layers, of which None is a 2x2 max pooling. The result is (B, h, w, D)."""
    for kernel in kernels:
        if kernel is None:
            x = graph("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
            continue
        weights, bias, has_relu = kernel
        x = graph("Conv", x, weights, bias, pads=[1, 1, 1, 1])
        x = graph("Relu", x) if has_relu else x
    return graph("Transpose", x, perm=[0, 2, 3, 1])
