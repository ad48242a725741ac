"""Small ONNX files of every form that a network can have, with seeded weights."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 6


def _conv(rng, name, out, given, size):
    return numpy_helper.from_array(rng.normal(size=(out, given, size, size)).astype(np.float32) / 8, name)


def convolutions(path, *, batch="b", side="s", layout="nchw", opset=17, metadata=None):
    """Write two convolutions with stride 4, ReLU, and a pooled vector. Layers: first, maps, vector."""
    rng = np.random.default_rng(7)
    first = layout == "nchw"
    nodes = [] if first else [helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2])]
    nodes += [
        helper.make_node("Conv", ["image" if first else "turned", "w1"], ["first"], "conv1", strides=[4, 4]),
        helper.make_node("Relu", ["first"], ["relu"], "relu1"),
        helper.make_node("Conv", ["relu", "w2"], ["second"], "conv2", strides=[4, 4]),
        helper.make_node("Relu", ["second"], ["maps"], "relu2"),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["vector"], axis=1),
    ]
    shape = [batch, 3, side, side] if first else [batch, side, side, 3]
    return _write(
        path,
        nodes,
        [_conv(rng, "w1", 5, 3, 4), _conv(rng, "w2", WIDTH, 5, 4)],
        shape,
        "vector",
        opset=opset,
        metadata=metadata,
    )


def tokens(path, *, n_prefix=1, batch="b", side=64, patch=16, opset=17):
    """Write a patch embedding with prefix tokens in front, and its first token. Layers: tokens, head."""
    rng = np.random.default_rng(8)
    prefix = rng.normal(size=(1, n_prefix, WIDTH)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["patches"], strides=[patch, patch]),
        helper.make_node("Reshape", ["patches", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("Concat", ["prefix", "rows"], ["tokens"], axis=1),
        helper.make_node("Gather", ["tokens", "zero"], ["head"], axis=1),
    ]
    stored = [
        _conv(rng, "w", WIDTH, 3, patch),
        numpy_helper.from_array(prefix, "prefix"),
        numpy_helper.from_array(np.array([1, WIDTH, -1]), "shape"),
        numpy_helper.from_array(np.array(0), "zero"),
    ]
    return _write(path, nodes, stored, [batch, 3, side, side], "head", opset=opset)


def _write(path, nodes, stored, shape, output, *, opset, metadata=None, ir_version=8):
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    out = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [image], [out], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = ir_version
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return f"onnx:{path}"
