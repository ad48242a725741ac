"""A network in an ONNX file, cut at an intermediate tensor and run by onnxruntime on the CPU.

The layer is the name of a tensor or of a node. Without a layer, the network is cut at its last feature map,
or at its last patch tokens. See :mod:`medvlad.extraction.networks.output_form` for what an output can be.

A graph with a fixed batch size, usually one, gets its images in batches of this size.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, check_n_threads, import_extra, one_line
from medvlad.extraction.networks.cut import USUAL_SIDE, NetworkCut
from medvlad.extraction.networks.frozen import FrozenNetwork
from medvlad.extraction.networks.layer_list import Layer, spatial_first
from medvlad.extraction.networks.onnx_file import (
    CHANNELS_FIRST,
    OnnxInput,
    check_file,
    cut_graph,
    file_fingerprint,
    find_input,
    read_model,
    tensors_of,
)
from medvlad.extraction.networks.output_form import OutputForm, is_spatial
from medvlad.extraction.networks.preprocessing import PREPROCESSING, as_preprocessing, read_configuration

__all__ = ["OnnxCut", "build", "import_onnxruntime", "layers_of_file"]

logger = logging.getLogger(__name__)

#: Operations that keep the axes of their input.
_KEEP_AXES = {"Relu", "LeakyRelu", "Clip", "Sigmoid", "Mul", "Add", "HardSwish", "Dropout", "Identity"}


class OnnxCut(NetworkCut):
    """A graph of ONNX from preprocessed pixels to the maps of one layer.

    Parameters
    ----------
    model : onnx.ModelProto
        Whole graph.
    tensor : str
        Tensor at which it is cut.
    path : Path
        File of the graph, for messages.
    n_prefix : int or None
        Number of class and register tokens. None: found from the number of tokens.

    Attributes
    ----------
    graph : onnx.ModelProto
        The graph from the input to the tensor.
    given : OnnxInput
    name, form, input_shape, output_shape
        See `NetworkCut`.
    """

    own_engine = "onnxruntime"

    def __init__(self, model: Any, tensor: str, path: Path, n_prefix: int | None) -> None:
        self.name, self.tensor, self._path = path.name, tensor, path
        self.given: OnnxInput = find_input(model, path)
        self.graph = cut_graph(model, [tensor])
        self._sessions: dict[int, Any] = {}
        what = f"layer {tensor!r} of {path}"
        self._find_form(what, self.given.side, n_prefix, _known_axes(model, tensor))

    def _raw(self, pixels: NDArray[np.float32], n_threads: int) -> NDArray[np.float32]:
        session, size = self._session(n_threads), self.given.batch or len(pixels)
        outputs = []
        for at in range(0, len(pixels), size):
            part = pixels[at : at + size]
            n = len(part)
            if n < size:
                part = np.concatenate([part, np.zeros((size - n, *part.shape[1:]), np.float32)])
            part = part.transpose(0, 3, 1, 2) if self.given.channels_first else part
            try:
                (found,) = session.run([self.tensor], {self.given.name: np.ascontiguousarray(part)})
            except Exception as error:  # onnxruntime has an exception for each status
                side = pixels.shape[1]
                raise InputError(
                    f"{self._path} cannot take {size} images of {side} x {side} pixels "
                    f"({_reason(error)}): {_HINT}"
                ) from error
            if not isinstance(found, np.ndarray) or found.dtype != np.float32:
                raise InputError(
                    f"layer {self.tensor!r} of {self._path} is not float32 "
                    f"({getattr(found, 'dtype', type(found).__name__)}): choose another layer"
                )
            outputs.append(found[:n])
        return np.concatenate(outputs) if len(outputs) > 1 else outputs[0]

    def _session(self, n_threads: int) -> Any:
        if n_threads not in self._sessions:
            self._sessions[n_threads] = session_of(self.graph, self._path, n_threads)
        return self._sessions[n_threads]


_HINT = "use the side that it was exported for, or export it with a variable batch and size"


def build(
    model: str, layer: str | None, *, preprocess: str | Mapping[str, Any] | None, prefix_tokens: int | None
) -> FrozenNetwork:
    """Build the network of "onnx:FILE". See :func:`medvlad.extraction.networks.build_network`."""
    path = check_file(model)
    proto = read_model(path)
    tensor = _find_layer(proto, layer, path)
    if preprocess is not None:
        chosen, where = as_preprocessing(preprocess), "as given"
    elif (
        found := read_configuration(path, {one.key: one.value for one in proto.metadata_props})
    ) is not None:
        chosen, where = found[0], f"read from {found[1]}"
    else:
        chosen, where = PREPROCESSING["imagenet"], "assumed"
        logger.warning(
            "%s says nothing about its preprocessing: ImageNet's mean and standard deviation are assumed; "
            "preprocess=... chooses another",
            path,
        )
    cut = OnnxCut(proto, tensor, path, prefix_tokens)
    logger.info(
        "%s: layer %s, %s, preprocessing %s (%s)",
        model,
        tensor,
        described(cut.form),
        chosen.settings(),
        where,
    )
    return FrozenNetwork(model, tensor, str(path), cut, chosen, file_fingerprint(path), kind="onnx")


def described(form: OutputForm) -> str:
    """Return the form of an output in words."""
    return f"patch tokens without {form.n_prefix} others" if form.kind == "tokens" else form.kind


def layers_of_file(model: str) -> list[Layer]:
    """List the layers of "onnx:FILE" at which the network can be cut."""
    path = check_file(model)
    proto = read_model(path)
    return spatial_first(Layer(name, shape) for name, shape in _shapes(proto, path).items())


def session_of(graph: Any, path: Path, n_threads: int) -> Any:
    """Return a session of onnxruntime on the CPU.

    Raises
    ------
    InputError
        If onnxruntime cannot read the graph.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised as well
    try:
        content = graph.SerializeToString()
    except ValueError as error:  # protobuf ends at 2 GiB
        raise InputError(f"{path} has more than 2 GiB up to this layer: choose an earlier layer") from error
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = _reason(error)
        advice = "choose another layer, or export it again"
        if re.search(r"\bIR version|opset", reason, re.IGNORECASE):
            opset = max(
                (one.version for one in graph.opset_import if one.domain in ("", "ai.onnx")), default=0
            )
            advice = (
                f"it has IR version {graph.ir_version} and opset {opset}: export it with an older opset, or "
                "update onnxruntime"
            )
        raise InputError(f"onnxruntime {ort.__version__} cannot run {path} ({reason}): {advice}") from error


def import_onnxruntime() -> Any:
    """Import onnxruntime without its telemetry.

    Since version 1.29 it sends telemetry, such as names of models, and writes a record into the user's cache
    folder. The environment variable must be set before the import to prevent this.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    ort = import_extra("onnxruntime", "onnx", "model='onnx:FILE'")
    ort.disable_telemetry_events()  # somebody else may have imported it before
    return ort


def _reason(error: BaseException) -> str:
    """Return what onnxruntime says, without its status codes and places in its code."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", one_line(error))
    text = re.sub(r"/\S+\.(?:cc|h):\d+ .*?\) (?=[A-Z])", "", text)  # a place and a function of its code
    return text[:200].rstrip(" .:")


def _find_layer(model: Any, layer: str | None, path: Path) -> str:
    """Return the tensor that a layer's name means, or the last spatial one."""
    nodes = tensors_of(model)
    if layer is None:
        found = [name for name, shape in _shapes(model, path).items() if is_spatial(shape)]
        maps = [name for name in found if nodes[name].op_type not in ("Softmax", "MatMul")]
        if not found:
            raise InputError(
                f"{path} has no layer of maps or patch tokens: name one ('medvlad layers {path}' lists all)"
            )
        return (maps or found)[-1]
    if layer in nodes:
        return layer
    outputs = [node.output[0] for node in model.graph.node if node.name == layer and node.output]
    if len(outputs) == 1:
        return str(outputs[0])
    close = difflib.get_close_matches(layer, [*nodes, *(node.name for node in model.graph.node)], n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"'medvlad layers {path}' lists them"
    raise InputError(f"{path} has no layer {layer!r}: {hint}")


def _shapes(model: Any, path: Path) -> dict[str, tuple[int, ...] | None]:
    """Return the shape of each tensor of floats for one image, in order. None: unknown.

    onnx computes shapes without running the graph. If it cannot, onnxruntime runs the graph once.
    """
    onnx = import_extra("onnx", "onnx", "model='onnx:FILE'")
    given = find_input(model, path)
    shape = given.shape(given.side or USUAL_SIDE)
    found = _inferred(onnx, model, given, shape)
    names = [name for name in tensors_of(model) if found.get(name, ()) != "not float"]
    unknown = [name for name in names if name not in found]
    if unknown:
        found |= _measured(model, path, given, shape, unknown)
    return {name: None if isinstance(found.get(name), str) else found.get(name) for name in names}


def _inferred(onnx: Any, model: Any, given: OnnxInput, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the shapes that onnx infers, or "not float"."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for one in fixed.graph.input:
        if one.name == given.name:
            for dimension, size in zip(one.type.tensor_type.shape.dim, shape, strict=True):
                dimension.dim_value = size
    del fixed.graph.value_info[:]
    for one in fixed.graph.output:
        one.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    except Exception:  # too large, or operations that onnx does not know
        return {}
    found: dict[str, Any] = {}
    for one in [*inferred.graph.value_info, *inferred.graph.output]:
        tensor = one.type.tensor_type
        if tensor.elem_type not in (onnx.TensorProto.FLOAT, 0):
            found[one.name] = "not float"
        elif tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            found[one.name] = tuple(d.dim_value for d in tensor.shape.dim)
    return found


def _measured(
    model: Any, path: Path, given: OnnxInput, shape: tuple[int, ...], names: list[str]
) -> dict[str, Any]:
    """Return the shapes that tensors have for an image of zeros."""
    session = session_of(cut_graph(model, names), path, check_n_threads(None))
    try:
        outputs = session.run(names, {given.name: np.zeros(shape, np.float32)})
    except Exception as error:
        raise InputError(f"{path} cannot take an image of {shape} ({_reason(error)}): {_HINT}") from error
    return {
        name: tuple(one.shape) if getattr(one, "dtype", None) == np.float32 else "not float"
        for name, one in zip(names, outputs, strict=True)
    }


def _known_axes(model: Any, tensor: str) -> bool | None:
    """Return True if a convolution or pooling computes a tensor, or the numbers that it is made of."""
    nodes = tensors_of(model)
    for _ in range(100):
        node = nodes.get(tensor)
        if node is None:
            return None
        if node.op_type in CHANNELS_FIRST:
            return True
        if node.op_type not in _KEEP_AXES:
            return None
        tensor = next((name for name in node.input if name in nodes), "")
    return None
