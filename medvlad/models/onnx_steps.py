"""Write the encoders and the classifier of a pipeline as ONNX nodes.

The formulas are those of the encoders' own modules, in float32. Descriptors are (B, n, D), encoded images are
(B, width). K is the number of centres.

Descriptors with a large offset would lose most digits of a float32 score. Encoders with centres therefore
subtract the mean of the centres first, and PCA its own mean. The constants are the exact differences from the
float32 number that the graph subtracts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import FeatureUnion
from sklearn.preprocessing import Normalizer

from medvlad._util.loaded_class import is_instance_of
from medvlad._util.validate import InputError
from medvlad.backends.normalise import CENTER_ROUNDING, NORM_FLOOR
from medvlad.decisions.calibrated_svc import linear_part
from medvlad.encoders.bag_of_words import BagOfWords
from medvlad.encoders.fisher import FisherVector
from medvlad.encoders.pooling import GlobalPool
from medvlad.encoders.projection import DescriptorProjection
from medvlad.encoders.second_order import SecondOrderPool
from medvlad.encoders.spatial_tiles import SpatialTiles
from medvlad.encoders.vlad import VLAD
from medvlad.models.heads import task_of_head
from medvlad.models.onnx_graph import Graph

__all__ = ["add_head", "add_step", "n_descriptors"]

_GEM_FLOOR = 1e-6
_SUM_ROUNDING = 4 * CENTER_ROUNDING  # of a sum of residuals in float32


def n_descriptors(steps: Sequence[tuple[str, Any]]) -> int | str:
    """Return the number of descriptors of an image if tiles fix it, otherwise the variable size "n"."""
    encoders = [step for _, step in steps]
    encoders += [
        part for step in encoders if isinstance(step, FeatureUnion) for _, part in step.transformer_list
    ]
    grids = [step.grids for step in encoders if isinstance(step, SpatialTiles)]
    return sum(h * w for h, w in grids[0]) if grids else "n"


def add_step(graph: Graph, step: Any, x: str) -> str:
    """Add a fitted step of a pipeline.

    Parameters
    ----------
    graph : Graph
    step : estimator
        Encoder, DescriptorProjection, PCA, Normalizer or FeatureUnion.
    x : str
        Name of the step's input.

    Returns
    -------
    str
        Name of its output.

    Raises
    ------
    InputError
        If the step cannot be written as ONNX.
    """
    if isinstance(step, DescriptorProjection):
        x = graph.unit(x) if step.l2_norm else x
        if step.n_components is None:
            return x
        scale = np.sqrt(step.explained_variance_) if step.whiten else 1.0
        return _project(graph, x, step.mean_, step.components_, scale)
    if is_instance_of(step, "sklearn.decomposition", "PCA"):
        scale = np.sqrt(step.explained_variance_)
        scale = np.maximum(scale, np.finfo(scale.dtype).eps) if step.whiten else 1.0  # as in scikit-learn
        return _project(graph, x, step.mean_, step.components_, scale)
    if isinstance(step, Normalizer) and step.norm == "l2":
        return graph.unit(x)
    if isinstance(step, FeatureUnion) and not step.transformer_weights:
        return graph("Concat", *(add_step(graph, part, x) for _, part in step.transformer_list), axis=1)
    for kind, encode in _ENCODERS.items():
        if isinstance(step, kind):
            return str(encode(graph, step, x))
    raise InputError(f"{type(step).__name__} cannot be exported to ONNX: train with another encoding")


def _project(graph: Graph, x: str, mean: NDArray[Any], components: NDArray[Any], scale: Any) -> str:
    matrix = (components / np.reshape(scale, (-1, 1))).astype(np.float64).T
    x, origin = _shifted(graph, x, mean)
    projected = graph("MatMul", x, graph.constant(matrix))
    return graph("Add", projected, graph.constant((origin - mean) @ matrix))


def _shifted(graph: Graph, x: str, origin: NDArray[Any]) -> tuple[str, NDArray[np.float64]]:
    """Subtract a vector from each descriptor. Return the result, and the float32 numbers subtracted."""
    rounded = origin.astype(np.float32)
    return graph("Sub", x, graph.constant(rounded)), rounded.astype(np.float64)


def _pool(graph: Graph, step: GlobalPool, x: str) -> str:
    if step.mode == "gem":
        # Divide by the largest value first, so that powers do not overflow.
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
    graph: Graph, centers: NDArray[Any], x: str, *, soft: tuple[float, int] | None = None
) -> str:
    """Return the memberships (B, n, K) of each descriptor in each cell. Centres are near the origin.

    `soft` is (alpha, number of nearest centres). None: 1 for the nearest centre, 0 for the others.
    """
    half = 0.5 * np.einsum("kd,kd->k", centers, centers)
    scores = graph("Sub", graph("MatMul", x, graph.constant(centers.T)), graph.constant(half))
    if soft is None:
        labels = graph("ArgMax", scores, axis=2, keepdims=1)
        own = graph("Equal", labels, graph.constant(np.arange(len(centers)), np.int64))
        return graph("Cast", own, to=graph.onnx.TensorProto.FLOAT)
    alpha, n_nearest = soft
    scores = graph("Mul", scores, graph.constant(2 * alpha))
    if n_nearest < len(centers):
        least = graph.nth_largest(scores, n_nearest, 2)
        near = graph("GreaterOrEqual", scores, least)
        scores = graph("Where", near, scores, graph.constant(-np.inf))
    return graph("Softmax", scores, axis=2)


def _vlad(graph: Graph, step: VLAD, x: str) -> str:
    centers = step.cluster_centers_
    lengths = np.linalg.norm(step.residual_origins.astype(np.float64), axis=1)[:, None]
    x, origin = _shifted(graph, x, centers.mean(axis=0, dtype=np.float64))
    soft = (step.alpha_, step.n_nearest or len(centers)) if step.assignment == "soft" else None
    weights = _memberships(graph, centers - origin, x, soft=soft)
    masses = graph("Unsqueeze", graph.sum(weights, 1), graph.ints(2))
    origins, factors = step.residual_origins - origin, weights
    if step.residual_norm and soft is None:
        v, factors = _unit_residuals(graph, x, weights, origins, lengths)
    elif step.residual_norm:
        v, factors = _all_unit_residuals(graph, x, weights, origins, lengths)
    else:
        across = graph("Transpose", weights, perm=[0, 2, 1])
        v = graph("Sub", graph("MatMul", across, x), graph("Mul", masses, graph.constant(origins)))
    if step.intra_norm:
        reach = graph("Unsqueeze", graph.sum(factors, 1), graph.ints(2))
        v = graph.cleared(v, graph("Mul", reach, graph.constant(_SUM_ROUNDING * lengths)))
    if step.mass_norm:
        v = graph.divide_above(v, masses, NORM_FLOOR)
    if step.local_axes:
        row = graph("Unsqueeze", v, graph.ints(2))
        turned = graph("MatMul", row, graph.constant(step.rotations_.swapaxes(1, 2)))
        v = graph("Squeeze", turned, graph.ints(2))
    v = graph.power(v, step.power)
    v = graph.unit(v) if step.intra_norm else v
    flat = graph.flat(v)
    return graph.unit(flat) if step.l2_norm else flat


def _unit_residuals(
    graph: Graph, x: str, weights: str, origins: NDArray[Any], lengths: NDArray[Any]
) -> tuple[str, str]:
    """Return the sums of unit residuals (B, K, D) of hard assignment, and their factors (B, n, K).

    `lengths` (K, 1) are the lengths of the centres before the shift.
    """
    residuals = graph("Sub", x, graph("MatMul", weights, graph.constant(origins)))
    least = graph("MatMul", weights, graph.constant(np.maximum(CENTER_ROUNDING * lengths, NORM_FLOOR)))
    norms = graph("ReduceL2", residuals, graph.ints(-1), keepdims=1)
    across = graph("Transpose", weights, perm=[0, 2, 1])
    v = graph("MatMul", across, graph.divide_above(residuals, norms, least))
    return v, graph.divide_above(weights, norms, least)


def _all_unit_residuals(
    graph: Graph, x: str, weights: str, origins: NDArray[Any], lengths: NDArray[Any]
) -> tuple[str, str]:
    """Return the same for soft assignment. Every residual is formed: an array (B, n, K, D)."""
    residuals = graph("Sub", graph("Unsqueeze", x, graph.ints(2)), graph.constant(origins))
    norms = graph("ReduceL2", residuals, graph.ints(-1), keepdims=0)
    least = graph.constant(np.maximum(CENTER_ROUNDING * lengths[:, 0], NORM_FLOOR))
    factors = graph.divide_above(weights, norms, least)
    return graph.sum(graph("Mul", residuals, graph("Unsqueeze", factors, graph.ints(3))), 1), factors


def _tiles(graph: Graph, step: SpatialTiles, x: str) -> str:
    """Add an encoder of tiles. The grids are known, so the rows of each tile are constants."""
    tiles = list(step.rows_of_tiles())
    if any(len(rows) == 0 for rows in tiles):
        raise InputError(
            f"tiles={step.tiles!r} on grids={step.grids!r} leave a tile without a descriptor, which "
            "cannot be exported to ONNX: train with fewer tiles"
        )
    flat = [add_step(graph, step.encoder_, graph("Gather", x, graph.ints(*rows), axis=1)) for rows in tiles]
    vectors = graph("Concat", *flat, axis=1)
    return graph.unit(vectors) if step.l2_norm else vectors


def _second_order(graph: Graph, step: SecondOrderPool, x: str) -> str:
    if step.mode is not None:
        raise InputError(
            f"SecondOrderPool with mode={step.mode!r} needs eigenvalues, which ONNX does not have: "
            "train with mode=None"
        )
    n = graph("Cast", graph("Gather", graph("Shape", x), graph.ints(1)), to=graph.onnx.TensorProto.FLOAT)
    moments = graph("Div", graph("MatMul", graph("Transpose", x, perm=[0, 2, 1]), x), n)
    width = step.n_features_in_
    upper = np.triu_indices(width)
    flat = graph("Gather", graph.flat(moments), graph.ints(*(upper[0] * width + upper[1])), axis=1)
    flat = graph("Mul", flat, graph.constant(np.where(upper[0] == upper[1], 1.0, np.sqrt(2.0))))
    flat = graph.power(flat, step.power)
    return graph.unit(flat) if step.l2_norm else flat


def _words(graph: Graph, step: BagOfWords, x: str) -> str:
    x, origin = _shifted(graph, x, step.cluster_centers_.mean(axis=0, dtype=np.float64))
    memberships = _memberships(graph, step.cluster_centers_ - origin, x)
    frequency = graph("ReduceMean", memberships, graph.ints(1), keepdims=0)
    weighted = graph("Mul", frequency, graph.constant(step.idf_))
    return graph.unit(weighted) if step.l2_norm else weighted


def _fisher(graph: Graph, step: FisherVector, x: str) -> str:
    x, origin = _shifted(graph, x, step.means_.mean(axis=0))
    means, precision = step.means_ - origin, 1.0 / step.variances_
    squares = graph("Mul", x, x)
    constant = np.log(step.weights_) - 0.5 * (means**2 * precision + np.log(step.variances_)).sum(axis=1)
    logs = graph("MatMul", x, graph.constant((means * precision).T))
    logs = graph("Sub", logs, graph("MatMul", squares, graph.constant(0.5 * precision.T)))
    posterior = graph("Softmax", graph("Add", logs, graph.constant(constant)), axis=2)
    across = graph("Transpose", posterior, perm=[0, 2, 1])
    n = graph("ReduceSum", posterior, graph.ints(1, 2), keepdims=1)  # each descriptor's posteriors sum to 1
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


def add_head(graph: Graph, head: Any, x: str) -> dict[str, tuple[int, tuple[str | int, ...]]]:
    """Add the outputs of the last step. Return the type and the shape of each.

    Classes: the scores that `medvlad predict` prints, and the index of its label. Labels: scores, 1 or 0 for
    each label, and the probabilities if there are some. Numbers: their values.

    Raises
    ------
    InputError
        If the last step is not linear.
    """
    task = task_of_head(head)
    linear = linear_part(head) if task == "classes" else head
    if linear is None:
        raise InputError(
            f"{type(head).__name__} cannot be exported to ONNX: use WideLinearSVC, CalibratedSVC, "
            "LogisticRegression, MultiLabelSVC or WideRidge"
        )
    coef, intercept = np.atleast_2d(linear.coef_), np.atleast_1d(linear.intercept_)
    if task == "classes" and len(linear.classes_) == 2:
        coef, intercept = np.concatenate([-coef, coef]), np.concatenate([-intercept, intercept])
    kinds, table = graph.onnx.TensorProto, ("batch", len(coef))
    scores = graph("MatMul", x, graph.constant(coef.T))
    name = "values" if task == "regression" else "scores"
    decided = graph("Add", scores, graph.constant(intercept), name=name)
    outputs: dict[str, tuple[int, tuple[str | int, ...]]] = {name: (kinds.FLOAT, table)}
    if task == "classes":
        threshold = getattr(head, "threshold_", 0.0)
        if threshold:
            decided = graph("Sub", decided, graph.constant([-threshold, threshold]))
        graph("ArgMax", decided, axis=1, keepdims=0, name="label")
        outputs["label"] = (kinds.INT64, ("batch",))
    elif task == "labels":
        above = graph("Greater", decided, graph.constant(head.thresholds_))
        graph("Cast", above, to=kinds.INT64, name="label")
        outputs["label"] = (kinds.INT64, table)
        if hasattr(head, "platt_"):
            slope, constant = -head.platt_.T
            logits = graph("Mul", decided, graph.constant(slope))
            graph("Sigmoid", graph("Add", logits, graph.constant(constant)), name="probability")
            outputs["probability"] = (kinds.FLOAT, table)
    return outputs
