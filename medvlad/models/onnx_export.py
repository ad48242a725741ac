"""A fitted pipeline as one ONNX graph: pixels, or descriptors, to scores, for machines without this package.

::

    image_224 (B, 224, 224, 3) uint8, RGB    one input a scale, resized beforehand
        --> BGR, less the mean --> 3x3 convolutions, ReLU, maxima --> (B, h * w, D) --+
    descriptors (B, n, D) float32            instead of these, `from_features=True` --+
        --> L2, PCA --> VLAD, pooling, ... --> PCA, L2 --> scores (B, C), label (B,)

Names of classes stand in the model's metadata, "classes", as JSON. The network's part is written for networks
of 3x3 convolutions with ReLU and 2x2 maxima, VGG16 and VGG19; of any other network the graph begins at its
descriptors. Everything is float32, so a descriptor between two centres may go to the other one, and scores
differ in the sixth digit from those of this package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.validation import check_is_fitted

from medvlad._util.atomic_file import write_file
from medvlad._util.validate import InputError, import_extra
from medvlad.backends.reference import NORM_FLOOR
from medvlad.encoders.bag_of_words import BagOfWords
from medvlad.encoders.fisher import FisherVector
from medvlad.encoders.pooling import GlobalPool
from medvlad.encoders.projection import DescriptorProjection
from medvlad.encoders.second_order import SecondOrderPool
from medvlad.encoders.spatial_tiles import SpatialTiles
from medvlad.encoders.vlad import VLAD
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.engines.winograd import Pooling, layers_of
from medvlad.models.model_file import network_and_steps
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = ["export_onnx"]

_OPSET = 18
_IR_VERSION = 9  # what runtimes of the last years read
_MEAN_BGR = (103.939, 116.779, 123.68)  # of ImageNet, as VGG's authors subtract it
_GEM_FLOOR = 1e-6


def export_onnx(
    pipeline: Pipeline, path: str | os.PathLike[str], *, from_features: bool = False
) -> dict[str, tuple[Any, ...]]:
    """Write a fitted pipeline as an ONNX model.

    Parameters
    ----------
    pipeline : sklearn.pipeline.Pipeline
        From :meth:`medvlad.experiment.Experiment.train` or :func:`medvlad.load_model`.
    path : path
        Replaced if it is there.
    from_features : bool, default=False
        Begin at the descriptors: for networks other than VGG, or maps that are there already; so does a
        pipeline without a CNNDescriptors.

    Returns
    -------
    dict of str to tuple
        Name and shape of each input.

    Raises
    ------
    InputError
        If a step has no form in ONNX, or the file cannot be written.
    MissingExtraError
        If onnx is not installed.
    """
    onnx = import_extra("onnx", "onnx", "the ONNX export")
    features, steps = network_and_steps(pipeline)
    for _, step in steps:
        check_is_fitted(step)
    graph = _Graph(onnx)
    if from_features or features is None:
        width = int(steps[0][1].n_features_in_)
        inputs: dict[str, tuple[Any, ...]] = {"descriptors": ("batch", _descriptors_of(steps), width)}
        graph.input("descriptors", onnx.TensorProto.FLOAT, inputs["descriptors"])
        x = "descriptors"
    else:
        x, inputs = _network(graph, features)
    for _, step in steps[:-1]:
        x = _step(graph, step, x)
    classifier = steps[-1][1]
    _classify(graph, classifier, x)
    names = [str(name) for name in classifier.classes_]
    model = graph.model(
        {
            "classes": json.dumps(names),
            "medvlad": version("medvlad"),
            **_source(features),
        },
        len(names),
    )
    write_file(path, model.SerializeToString(), "ONNX model")
    return inputs


def _source(features: CNNDescriptors | None) -> dict[str, str]:
    """Say what the descriptors must come from, where that is known."""
    if features is None:
        return {}
    features.build()
    return {
        "network": f"{features.model} {features.layer}",
        "weights_fingerprint": features.weights_fingerprint_,
        "resize": features.resize,
    }


def _descriptors_of(steps: Sequence[tuple[str, Any]]) -> int | str:
    """Return how many descriptors an image has, where tiles say so."""
    encoders = [step for _, step in steps]
    encoders += [
        part for step in encoders if isinstance(step, FeatureUnion) for _, part in step.transformer_list
    ]
    grids = [step.grids for step in encoders if isinstance(step, SpatialTiles)]
    return sum(h * w for h, w in grids[0]) if grids else "n"


class _Graph:
    """Nodes and constants, named as they come."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs: list[Any] = []

    def input(self, name: str, kind: int, shape: Sequence[Any]) -> None:
        self._inputs.append(self.onnx.helper.make_tensor_value_info(name, kind, shape))

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        name = f"constant{len(self._constants)}"
        array = np.ascontiguousarray(values, dtype)
        self._constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def __call__(self, operation: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        output = name or f"{operation.lower()}{len(self._nodes)}"
        self._nodes.append(self.onnx.helper.make_node(operation, list(inputs), [output], **attributes))
        return output

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def sum(self, x: str, axis: int, *, keepdims: int = 0) -> str:
        return self("ReduceSum", x, self.ints(axis), keepdims=keepdims)

    def over(self, x: str, divisor: str, floor: float) -> str:
        """Return x / divisor, zeros where the divisor is below the floor."""
        least = self.constant(floor)
        quotient = self("Div", x, self("Max", divisor, least))
        return self("Where", self("Less", divisor, least), self.constant(0.0), quotient)

    def unit(self, x: str, axis: int = -1) -> str:
        """Scale to unit length along an axis."""
        norms = self("ReduceL2", x, self.ints(axis), keepdims=1)
        return self.over(x, norms, NORM_FLOOR)

    def power(self, x: str, exponent: float) -> str:
        if exponent == 1:
            return x
        return self("Mul", self("Sign", x), self("Pow", self("Abs", x), self.constant(exponent)))

    def flat(self, x: str) -> str:
        return self("Flatten", x, axis=1)

    def model(self, metadata: dict[str, str], n_classes: int) -> Any:
        helper, kinds = self.onnx.helper, self.onnx.TensorProto
        outputs = [
            helper.make_tensor_value_info("scores", kinds.FLOAT, ("batch", n_classes)),
            helper.make_tensor_value_info("label", kinds.INT64, ("batch",)),
        ]
        graph = helper.make_graph(self._nodes, "medvlad", self._inputs, outputs, self._constants)
        opset = helper.make_opsetid("", _OPSET)
        model = helper.make_model(graph, producer_name="medvlad", opset_imports=[opset])
        model.ir_version = _IR_VERSION
        helper.set_model_props(model, metadata)
        self.onnx.checker.check_model(model)
        return model


def _network(graph: _Graph, features: CNNDescriptors) -> tuple[str, dict[str, tuple[Any, ...]]]:
    """Descriptors (B, n, D) of all scales and views, and the inputs."""
    features.build()
    layers = (
        layers_of(features.network_.keras_model) if features.model.lower() in ("vgg16", "vgg19") else None
    )
    if layers is None:
        raise InputError(
            f"the ONNX export writes the convolutions of VGG16 and VGG19, not {features.model} cut at "
            f"{features.layer}: begin at its descriptors (--from-features, from_features=True)"
        )
    kernels = [
        None
        if isinstance(layer, Pooling)
        else (
            graph.constant(layer.kernel.transpose(3, 2, 0, 1)),
            graph.constant(layer.bias),
            layer.relu,
        )
        for layer in layers
    ]
    inputs: dict[str, tuple[Any, ...]] = {}
    parts = []
    grids = iter(features.grids_)
    for side in features.input_sides_:
        name = f"image_{side}"
        inputs[name] = ("batch", side, side, 3)
        graph.input(name, graph.onnx.TensorProto.UINT8, inputs[name])
        pixels = graph("Cast", name, to=graph.onnx.TensorProto.FLOAT)
        pixels = graph("Transpose", pixels, perm=[0, 3, 1, 2])
        pixels = graph("Gather", pixels, graph.ints(2, 1, 0), axis=1)
        pixels = graph("Sub", pixels, graph.constant(np.reshape(_MEAN_BGR, (1, 3, 1, 1))))
        for mirrored in sorted(set(features.mirrored_)):
            x = pixels
            if mirrored:
                first, last = graph.ints(-1), graph.ints(-(2**62))
                x = graph("Slice", x, first, last, graph.ints(3), graph.ints(-1))
            for kernel in kernels:
                if kernel is None:
                    x = graph("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
                    continue
                x = graph("Conv", x, kernel[0], kernel[1], pads=[1, 1, 1, 1])
                x = graph("Relu", x) if kernel[2] else x
            x = graph("Transpose", x, perm=[0, 2, 3, 1])
            h, w = next(grids)
            parts.append(graph("Reshape", x, graph.ints(0, h * w, features.n_features_out_)))
    return graph("Concat", *parts, axis=1) if len(parts) > 1 else parts[0], inputs


def _step(graph: _Graph, step: Any, x: str) -> str:
    if isinstance(step, DescriptorProjection):
        x = graph.unit(x) if step.l2_norm else x
        if step.n_components is None:
            return x
        scale = np.sqrt(step.explained_variance_) if step.whiten else 1.0
        return _project(graph, x, step.mean_, step.components_, scale)
    if isinstance(step, PCA):
        scale = np.sqrt(step.explained_variance_)
        scale = np.maximum(scale, np.finfo(scale.dtype).eps) if step.whiten else 1.0  # as scikit-learn has it
        return _project(graph, x, step.mean_, step.components_, scale)
    if isinstance(step, Normalizer) and step.norm == "l2":
        return graph.unit(x)
    if isinstance(step, FeatureUnion) and not step.transformer_weights:
        return graph("Concat", *(_step(graph, part, x) for _, part in step.transformer_list), axis=1)
    for kind, encode in _ENCODERS.items():
        if isinstance(step, kind):
            return str(encode(graph, step, x))
    raise InputError(f"{type(step).__name__} has no form in ONNX: train with another encoding")


def _project(graph: _Graph, x: str, mean: NDArray[Any], components: NDArray[Any], scale: Any) -> str:
    matrix = (components / np.reshape(scale, (-1, 1))).T
    return graph("MatMul", graph("Sub", x, graph.constant(mean)), graph.constant(matrix))


def _pool(graph: _Graph, step: GlobalPool, x: str) -> str:
    if step.mode == "gem":
        floored = graph("Max", x, graph.constant(_GEM_FLOOR))
        largest = graph("ReduceMax", floored, graph.ints(1), keepdims=1)
        powers = graph("Pow", graph("Div", floored, largest), graph.constant(step.p))
        mean = graph("ReduceMean", powers, graph.ints(1), keepdims=0)
        root = graph("Pow", mean, graph.constant(1 / step.p))
        pooled = graph("Mul", graph("Squeeze", largest, graph.ints(1)), root)
    else:
        operation = {"avg": "ReduceMean", "sum": "ReduceSum", "max": "ReduceMax"}[step.mode]
        pooled = graph(operation, x, graph.ints(1), keepdims=0)
    return graph.unit(pooled) if step.l2_norm else pooled


def _memberships(
    graph: _Graph, centers: NDArray[Any], x: str, *, soft: tuple[float, int] | None = None
) -> str:
    """Weights (B, n, K) of each descriptor in each cell."""
    half = 0.5 * np.einsum("kd,kd->k", centers.astype(np.float64), centers.astype(np.float64))
    scores = graph("Sub", graph("MatMul", x, graph.constant(centers.T)), graph.constant(half))
    if soft is None:
        labels = graph("ArgMax", scores, axis=2, keepdims=1)
        own = graph("Equal", labels, graph.constant(np.arange(len(centers)), np.int64))
        return graph("Cast", own, to=graph.onnx.TensorProto.FLOAT)
    alpha, n_nearest = soft
    scores = graph("Mul", scores, graph.constant(2 * alpha))
    if n_nearest < len(centers):
        values = f"{scores}_best"
        graph._nodes.append(
            graph.onnx.helper.make_node(
                "TopK", [scores, graph.ints(n_nearest)], [values, f"{values}_at"], axis=2
            )
        )
        least = graph("ReduceMin", values, graph.ints(2), keepdims=1)
        near = graph("GreaterOrEqual", scores, least)
        scores = graph("Where", near, scores, graph.constant(-np.inf))
    return graph("Softmax", scores, axis=2)


def _vlad(graph: _Graph, step: VLAD, x: str) -> str:
    centers, origins = step.cluster_centers_, step.residual_origins
    is_soft = step.assignment == "soft"
    weights = _memberships(
        graph, centers, x, soft=(step.alpha_, step.n_nearest or len(centers)) if is_soft else None
    )
    across = graph("Transpose", weights, perm=[0, 2, 1])
    masses = graph("Unsqueeze", graph.sum(weights, 1), graph.ints(2))
    if step.residual_norm:
        if is_soft:
            raise InputError("soft assignment with normalised residuals has no form in ONNX here: use one")
        own = graph("MatMul", weights, graph.constant(origins))
        v = graph("MatMul", across, graph.unit(graph("Sub", x, own)))
    else:
        v = graph("Sub", graph("MatMul", across, x), graph("Mul", masses, graph.constant(origins)))
    if step.mass_norm:
        v = graph.over(v, masses, NORM_FLOOR)
    if step.local_axes:
        row = graph("Unsqueeze", v, graph.ints(2))
        turned = graph("MatMul", row, graph.constant(step.rotations_.swapaxes(1, 2)))
        v = graph("Squeeze", turned, graph.ints(2))
    v = graph.power(v, step.power)
    v = graph.unit(v) if step.intra_norm else v
    flat = graph.flat(v)
    return graph.unit(flat) if step.l2_norm else flat


def _tiles(graph: _Graph, step: SpatialTiles, x: str) -> str:
    """Tiles are cut where the graph is made: grids are known."""
    tiles = list(step.rows_of_tiles())
    if any(len(rows) == 0 for rows in tiles):
        raise InputError(
            f"tiles {step.tiles!r} of grids {step.grids!r} leave one without a descriptor, which has no form "
            "in ONNX: train with fewer tiles"
        )
    flat = [_step(graph, step.encoder_, graph("Gather", x, graph.ints(*rows), axis=1)) for rows in tiles]
    vectors = graph("Concat", *flat, axis=1)
    return graph.unit(vectors) if step.l2_norm else vectors


def _second_order(graph: _Graph, step: SecondOrderPool, x: str) -> str:
    if step.mode is not None:
        raise InputError(
            f"second-order pooling by {step.mode!r} has no form in ONNX, which lacks eigenvalues: use None"
        )
    n = graph("Cast", graph("Gather", graph("Shape", x), graph.ints(1)), to=graph.onnx.TensorProto.FLOAT)
    moments = graph("Div", graph("MatMul", graph("Transpose", x, perm=[0, 2, 1]), x), n)
    width = step.n_features_in_
    upper = np.triu_indices(width)
    flat = graph("Gather", graph.flat(moments), graph.ints(*(upper[0] * width + upper[1])), axis=1)
    flat = graph("Mul", flat, graph.constant(np.where(upper[0] == upper[1], 1.0, np.sqrt(2.0))))
    flat = graph.power(flat, step.power)
    return graph.unit(flat) if step.l2_norm else flat


def _words(graph: _Graph, step: BagOfWords, x: str) -> str:
    frequency = graph("ReduceMean", _memberships(graph, step.cluster_centers_, x), graph.ints(1), keepdims=0)
    weighted = graph("Mul", frequency, graph.constant(step.idf_))
    return graph.unit(weighted) if step.l2_norm else weighted


def _fisher(graph: _Graph, step: FisherVector, x: str) -> str:
    origin = step.means_.mean(axis=0)  # less is lost to rounding about it
    means, precision = step.means_ - origin, 1.0 / step.variances_
    x = graph("Sub", x, graph.constant(origin))
    squares = graph("Mul", x, x)
    constant = np.log(step.weights_) - 0.5 * (means**2 * precision + np.log(step.variances_)).sum(axis=1)
    logs = graph("MatMul", x, graph.constant((means * precision).T))
    logs = graph("Sub", logs, graph("MatMul", squares, graph.constant(0.5 * precision.T)))
    posterior = graph("Softmax", graph("Add", logs, graph.constant(constant)), axis=2)
    across = graph("Transpose", posterior, perm=[0, 2, 1])
    n = graph("ReduceSum", posterior, graph.ints(1, 2), keepdims=1)  # those of a descriptor add up to 1
    mass = graph("Div", graph("Unsqueeze", graph.sum(posterior, 1), graph.ints(2)), n)
    first, second = (graph("Div", graph("MatMul", across, part), n) for part in (x, squares))
    root = np.sqrt(step.weights_)[:, None]
    u = graph("Sub", first, graph("Mul", mass, graph.constant(means)))
    u = graph("Mul", u, graph.constant(np.sqrt(precision) / root))
    v = graph("Sub", second, graph("Mul", first, graph.constant(2 * means)))
    v = graph("Add", v, graph("Mul", mass, graph.constant(means**2)))
    v = graph("Sub", graph("Mul", v, graph.constant(precision)), mass)
    v = graph("Mul", v, graph.constant(1 / (np.sqrt(2) * root)))
    flat = graph("Concat", graph.flat(u), graph.flat(v), axis=1)
    flat = graph.power(flat, step.power)
    return graph.unit(flat) if step.l2_norm else flat


_ENCODERS: dict[type[Any], Any] = {
    VLAD: _vlad,
    GlobalPool: _pool,
    BagOfWords: _words,
    FisherVector: _fisher,
    SecondOrderPool: _second_order,
    SpatialTiles: _tiles,
}


def _classify(graph: _Graph, classifier: WideLinearSVC, x: str) -> None:
    """Add the outputs: scores as `medvlad predict` prints them, and the index of the largest."""
    coef, intercept = np.atleast_2d(classifier.coef_), np.atleast_1d(classifier.intercept_)
    if len(classifier.classes_) == 2:
        coef, intercept = np.concatenate([-coef, coef]), np.concatenate([-intercept, intercept])
    scores = graph("MatMul", x, graph.constant(coef.T))
    graph("Add", scores, graph.constant(intercept), name="scores")
    graph("ArgMax", "scores", axis=1, keepdims=0, name="label")
