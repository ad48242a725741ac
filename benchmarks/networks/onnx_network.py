"""ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def describe():
    return {"onnxruntime": onnxruntime.__version__}


def prepare(layers, side, n_threads):
    nodes, weights, x = [helper.make_node("Transpose", ["pixels"], ["x"], perm=[0, 3, 1, 2])], [], "x"
    for i, layer in enumerate(layers):
        if layer[0] == "conv":
            kernel = np.ascontiguousarray(layer[1].transpose(3, 2, 0, 1))
            weights += [numpy_helper.from_array(kernel, f"k{i}"), numpy_helper.from_array(layer[2], f"b{i}")]
            nodes.append(helper.make_node("Conv", [x, f"k{i}", f"b{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
            nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
            x = f"r{i}"
        else:
            nodes.append(helper.make_node("MaxPool", [x], [f"p{i}"], kernel_shape=[2, 2], strides=[2, 2]))
            x = f"p{i}"
    nodes.append(helper.make_node("Transpose", [x], ["maps"], perm=[0, 2, 3, 1]))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [None, side, side, 3])],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, [None, None, None, None])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda pixels: session.run(None, {"pixels": pixels})[0]
