r"""Run a network of convolutions, sums and pooling as a graph of OpenVINO, in float32, bfloat16 or int8.

:mod:`medvlad.extraction.engines.keras_graph` reads the network.

In int8, an activation x behind ReLU becomes a whole number q from 0 to 255, and a weight w becomes a whole
number p from -127 to 127:

.. math::

    x \approx \frac{r}{255}\, q, \qquad w \approx \frac{\max |w|}{127}\, p

The maximum runs over the weights of one output channel. r is the largest magnitude of the activations in an
image, as a mean over the calibration images. Larger activations are clipped to r. The network's input, and
convolutions without ReLU, have both signs, so their q runs from -128 to 127 with a step of r / 127. What only
a sum reads is not rounded; the sum is. Products of whole numbers are summed
exactly in 32 bits. The graph contains the rounding as FakeQuantize nodes, and OpenVINO replaces them by
integer arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.extraction.engines.keras_graph import INPUT, Step, read_steps
from medvlad.extraction.engines.openvino_import import import_openvino

__all__ = ["calibrate", "make"]

_INPUT = "input"
_PRECISION = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


def make(
    network: Any, *, dtype: str, n_threads: int, ranges: Mapping[str, float] | None = None, **_: Any
) -> Callable[[NDArray[np.float32]], Any]:
    """Make the engine. See :func:`medvlad.extraction.engines.make_engine`.

    A network with several outputs gives a list of maps.
    """
    ov = import_openvino("engine='openvino'")
    if dtype == "int8" and ranges is None:
        raise InputError(
            "dtype='int8' needs the ranges of activations on training images: call fit with such images"
        )
    model = _graph(network, ranges if dtype == "int8" else None)
    core = ov.Core()
    ready: dict[tuple[int, int], SimpleQueue[Any]] = {}

    def requests_of(side: int, streams: int) -> SimpleQueue[Any]:
        if (side, streams) not in ready:
            compiled = _compile(core, model, side, dtype, n_threads, streams)
            free: SimpleQueue[Any] = SimpleQueue()
            for _ in range(streams):
                free.put(compiled.create_infer_request())
            ready[side, streams] = free
        return ready[side, streams]

    def compute(pixels: NDArray[np.float32]) -> Any:
        # Each thread computes an image of its own. Threads that share an image wait for each other at every
        # layer, which small networks and busy machines make slow. A single image is shared nevertheless.
        streams = max(1, min(n_threads, len(pixels)))
        free = requests_of(pixels.shape[1], streams)

        def maps_of(i: int) -> list[Any]:
            request = free.get()
            try:
                found = request.infer([pixels[i : i + 1]])
                return [found[k].copy() for k in range(len(found))]
            finally:
                free.put(request)

        # AsyncInferQueue is not used: deleting one can wait for a callback that waits for the GIL.
        with ThreadPoolExecutor(streams) as pool:
            images = list(pool.map(maps_of, range(len(pixels))))
        joined = [np.concatenate(maps) for maps in zip(*images, strict=True)]
        return joined[0] if len(joined) == 1 else joined

    return compute


def calibrate(network: Any, batches: Iterable[NDArray[np.float32]], *, n_threads: int) -> dict[str, float]:
    """Measure ranges. See :func:`medvlad.extraction.engines.calibrate`."""
    ov = import_openvino("dtype='int8'")
    model = _graph(network, None, every_layer=True)
    core = ov.Core()
    requests: dict[int, Any] = {}
    largest: list[list[float]] = []
    for batch in batches:
        side = batch.shape[1]
        if side not in requests:
            requests[side] = _compile(core, model, side, "float32", n_threads).create_infer_request()
        for image in batch:
            maps = requests[side].infer([image[None]])
            found = [image, *(maps[i] for i in range(len(maps)))]
            largest.append([float(np.abs(values).max()) for values in found])
    if not largest:
        raise InputError("dtype='int8' needs at least one readable training image: call fit with some")
    steps, _ = read_steps(network)
    names = [_INPUT, *(steps[i].name for i in sorted(_measured(steps)))]
    # As float32, so that the decimal text in a model file is read back as the same number.
    means = np.mean(largest, axis=0).astype(np.float32).tolist()
    return dict(zip(names, means, strict=True))


def _compile(core: Any, model: Any, side: int, dtype: str, n_threads: int, streams: int = 1) -> Any:
    model = model.clone()
    model.reshape([1, side, side, 3])
    settings = {
        "INFERENCE_PRECISION_HINT": _PRECISION[dtype],
        "INFERENCE_NUM_THREADS": n_threads,
        "NUM_STREAMS": streams,
    }
    return core.compile_model(model, "CPU", settings)


def _graph(network: Any, ranges: Mapping[str, float] | None, *, every_layer: bool = False) -> Any:
    """Return the graph from (1, s, s, 3) to (1, h, w, D), or to the results of all convolutions and sums."""
    op = import_openvino("engine='openvino'").opset13
    steps, ends = read_steps(network)
    pixels = op.parameter([1, -1, -1, 3], np.float32)
    maps: dict[int, Any] = {INPUT: op.transpose(pixels, [0, 3, 1, 2])}
    if ranges is not None:
        maps[INPUT] = _rounded(op, maps[INPUT], -ranges[_INPUT] * 128 / 127, ranges[_INPUT], 256)
    measured = _measured(steps)
    rounded = _rounded_steps(steps, ends) if ranges is not None else set()
    outputs = []
    for i, step in enumerate(steps):
        x = _computed(op, step, [maps[j] for j in step.inputs], int8=ranges is not None)
        if i in measured:
            outputs.append(x)
        if ranges is not None and i in rounded:
            limit = ranges[step.name]
            x = _rounded(op, x, -limit * 128 / 127 if _has_both_signs(steps, i) else 0.0, limit, 256)
        maps[i] = x
    if not every_layer:
        outputs = [
            maps[i] if steps[i].kind == "global_average" else op.transpose(maps[i], [0, 2, 3, 1])
            for i in ends
        ]
    return import_openvino("engine='openvino'").Model(outputs, [pixels])


def _computed(op: Any, step: Step, inputs: list[Any], *, int8: bool) -> Any:
    """Return the result of a step, with channels before rows and columns."""
    x = inputs[0]
    border = {"auto_pad": "same_upper" if step.same else "explicit"}
    zeros = [0, 0]
    if step.kernel is not None and step.kind != "scale":
        grouped = step.kind == "depthwise"
        # (out, in, height, width), or (groups, 1, 1, height, width)
        kernel = (
            step.kernel.transpose(2, 3, 0, 1)[:, :, None] if grouped else step.kernel.transpose(3, 2, 0, 1)
        )
        weights: Any = op.constant(np.ascontiguousarray(kernel))
        if int8:
            limit = np.abs(kernel).max(axis=tuple(range(1, kernel.ndim)), keepdims=True)
            weights = _rounded(op, weights, -limit, limit, 255)
        convolve = op.group_convolution if grouped else op.convolution
        x = convolve(x, weights, list(step.strides), zeros, zeros, list(step.dilations), **border)
    elif step.kind == "scale":
        x = op.multiply(x, op.constant(np.reshape(np.asarray(step.kernel), (1, -1, 1, 1))))
    elif step.kind == "add":
        for other in inputs[1:]:
            x = op.add(x, other)
    elif step.kind == "concatenate":
        x = op.concat(inputs, 1)
    elif step.kind == "max_pool":
        x = op.max_pool(x, list(step.strides), [1, 1], zeros, zeros, list(step.size), **border).output(0)
    elif step.kind == "average_pool":
        x = op.avg_pool(x, list(step.strides), zeros, zeros, list(step.size), True, **border)
    elif step.kind == "global_average":
        x = op.reduce_mean(x, op.constant(np.array([2, 3])), False)
    elif step.kind == "pad":
        (top, bottom), (left, right) = step.padding
        x = op.pad(x, [0, 0, top, left], [0, 0, bottom, right], "constant", np.float32(0))
    if step.bias is not None:
        x = op.add(x, op.constant(step.bias.reshape(1, -1, 1, 1)))
    if step.activation == "relu":
        x = op.relu(x)
    elif step.activation == "relu6":
        x = op.clamp(x, 0.0, 6.0)
    return x


def _measured(steps: list[Step]) -> set[int]:
    """Return the steps whose results have a range in int8: convolutions and sums."""
    return {i for i, step in enumerate(steps) if step.kind in ("convolution", "depthwise", "add")}


def _rounded_steps(steps: list[Step], ends: list[int]) -> set[int]:
    """Return the steps whose results are rounded in int8. What only a sum reads stays exact."""
    readers: dict[int, set[str]] = {}
    for step in steps:
        for i in step.inputs:
            readers.setdefault(i, set()).add(step.kind)
    return {i for i in _measured(steps) - set(ends) if readers.get(i, set()) - {"add"}}


def _has_both_signs(steps: list[Step], i: int) -> bool:
    """Return whether the result of a step can be below zero."""
    step = steps[i]
    if step.activation != "linear":
        return False
    if step.kind in ("add", "concatenate", "max_pool", "average_pool", "pad"):
        return any(j == INPUT or _has_both_signs(steps, j) for j in step.inputs)
    return True


def _rounded(op: Any, x: Any, low: Any, high: Any, levels: int) -> Any:
    """Round to `levels` steps from `low` to `high`. A channel of zeros stays zero."""
    high = np.maximum(np.asarray(high, np.float32), np.float32(1e-30))
    low = np.minimum(np.asarray(low, np.float32), np.float32(0))
    ends = [op.constant(low), op.constant(high)]
    return op.fake_quantize(x, *ends, *ends, levels)
