r"""Run a plain network as a graph of OpenVINO, in float32, bfloat16 or int8.

In int8, an activation x behind ReLU becomes a whole number q from 0 to 255, and a weight w becomes a whole
number p from -127 to 127:

.. math::

    x \approx \frac{r}{255}\, q, \qquad w \approx \frac{\max |w|}{127}\, p

The maximum runs over the weights of one output channel. r is the largest magnitude of the activations in an
image, as a mean over the calibration images. Larger activations are clipped to r. The network's input has
both signs, so its q runs from -128 to 127 with a step of r / 127. Products of whole numbers are summed
exactly in 32 bits. The graph contains the rounding as FakeQuantize nodes, and OpenVINO replaces them by
integer arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, import_extra
from medvlad.extraction.engines.winograd import Convolution, layers_of

__all__ = ["calibrate", "make"]

_INPUT = "input"
_PRECISION = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


def make(
    network: Any, *, dtype: str, n_threads: int, ranges: Mapping[str, float] | None = None, **_: Any
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Make the engine. See :func:`medvlad.extraction.engines.make_engine`."""
    ov = import_extra("openvino", "openvino", "engine='openvino'")
    if dtype == "int8" and ranges is None:
        raise InputError(
            "dtype='int8' needs the ranges of activations on training images: call fit with such images"
        )
    model = _graph(network, ranges if dtype == "int8" else None)
    core = ov.Core()
    requests: dict[int, Any] = {}

    def compute(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        side = pixels.shape[1]
        if side not in requests:
            requests[side] = _compile(core, model, side, dtype, n_threads).create_infer_request()
        # One image at a time is as fast as several, and one graph then serves all batches of this side.
        maps = [requests[side].infer([pixels[i : i + 1]])[0].copy() for i in range(len(pixels))]
        return np.concatenate(maps)

    return compute


def calibrate(network: Any, batches: Iterable[NDArray[np.float32]], *, n_threads: int) -> dict[str, float]:
    """Measure ranges. See :func:`medvlad.extraction.engines.calibrate`."""
    ov = import_extra("openvino", "openvino", "dtype='int8'")
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
    names = [_INPUT, *(layer.name for layer in layers_of(network) or () if isinstance(layer, Convolution))]
    # As float32, so that the decimal text in a model file is read back as the same number.
    means = np.mean(largest, axis=0).astype(np.float32).tolist()
    return dict(zip(names, means, strict=True))


def _compile(core: Any, model: Any, side: int, dtype: str, n_threads: int) -> Any:
    model = model.clone()
    model.reshape([1, side, side, 3])
    settings = {
        "INFERENCE_PRECISION_HINT": _PRECISION[dtype],
        "INFERENCE_NUM_THREADS": n_threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    return core.compile_model(model, "CPU", settings)


def _graph(network: Any, ranges: Mapping[str, float] | None, *, every_layer: bool = False) -> Any:
    """Return the graph from (1, s, s, 3) to (1, h, w, D), or to the output of each convolution."""
    ov = import_extra("openvino", "openvino", "engine='openvino'")
    op = ov.opset13
    layers = layers_of(network)
    assert layers is not None
    pixels = op.parameter([1, -1, -1, 3], np.float32)
    x = op.transpose(pixels, [0, 3, 1, 2])
    if ranges is not None:
        x = _rounded(op, x, -ranges[_INPUT] * 128 / 127, ranges[_INPUT], 256)
    outputs = []
    for layer in layers:
        if isinstance(layer, Convolution):
            kernel: Any = op.constant(np.ascontiguousarray(layer.kernel.transpose(3, 2, 0, 1)))
            if ranges is not None:
                limit = np.abs(layer.kernel).max(axis=(0, 1, 2)).reshape(-1, 1, 1, 1)
                kernel = _rounded(op, kernel, -limit, limit, 255)
            x = op.convolution(x, kernel, [1, 1], [1, 1], [1, 1], [1, 1])
            x = op.add(x, op.constant(layer.bias.reshape(1, -1, 1, 1)))
            x = op.relu(x) if layer.relu else x
            outputs.append(x)
            if ranges is not None and layer is not layers[-1]:
                limit = ranges[layer.name]
                x = _rounded(op, x, 0.0 if layer.relu else -limit * 128 / 127, limit, 256)
        else:
            x = op.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
    if not every_layer:
        outputs = [op.transpose(x, [0, 2, 3, 1])]
    return ov.Model(outputs, [pixels])


def _rounded(op: Any, x: Any, low: Any, high: Any, levels: int) -> Any:
    """Round to `levels` steps from `low` to `high`. A channel of zeros stays zero."""
    high = np.maximum(np.asarray(high, np.float32), np.float32(1e-30))
    low = np.minimum(np.asarray(low, np.float32), np.float32(0))
    ends = [op.constant(low), op.constant(high)]
    return op.fake_quantize(x, *ends, *ends, levels)
