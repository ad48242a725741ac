"""OpenVINO, with the whole batch in one call."""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as op


def describe():
    return {"openvino": ov.__version__.split("-")[0]}


def prepare(layers, side, n_threads, precision):
    pixels = op.parameter([-1, side, side, 3], np.float32)
    x = op.transpose(pixels, [0, 3, 1, 2])
    for layer in layers:
        if layer[0] == "conv":
            kernel = op.constant(np.ascontiguousarray(layer[1].transpose(3, 2, 0, 1)))
            x = op.convolution(x, kernel, [1, 1], [1, 1], [1, 1], [1, 1])
            x = op.relu(op.add(x, op.constant(layer[2].reshape(1, -1, 1, 1))))
        else:
            x = op.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
    model = ov.Model([op.transpose(x, [0, 2, 3, 1])], [pixels])
    core, requests = ov.Core(), {}

    def run(batch):
        if len(batch) not in requests:
            fixed = model.clone()
            fixed.reshape([len(batch), side, side, 3])
            settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": n_threads}
            requests[len(batch)] = core.compile_model(fixed, "CPU", settings).create_infer_request()
        return requests[len(batch)].infer([batch])[0]

    return run
