"""Lay an exported ONNX graph out as a model of NVIDIA's Triton Inference Server.

::

    REPOSITORY/NAME/config.pbtxt      inputs, outputs and batches, written by `triton_config`
    REPOSITORY/NAME/1/model.onnx      version 1, written by :func:`medvlad.models.onnx_export.export_onnx`

KServe runs the same layout with its Triton runtime. The server joins requests that wait to one batch.
"""

from __future__ import annotations

import json
import os
from typing import Any

from medvlad._util.validate import InputError, check_positive_int, import_extra

__all__ = ["triton_config"]


#: Types whose name in Triton differs from that in ONNX.
_OTHER_NAMES = {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64", "BFLOAT16": "BF16"}


def triton_config(path: str | os.PathLike[str], name: str, *, max_batch_size: int = 32) -> str:
    """Return config.pbtxt for an ONNX model of :func:`medvlad.models.onnx_export.export_onnx`.

    Parameters
    ----------
    path : path-like
        The ONNX file.
    name : str
        Name of the model, which is the name of its folder in the repository.
    max_batch_size : int, default=32
        Maximum number of images in a batch of the server.

    Returns
    -------
    str
        Text of a ModelConfig in the text format of protobuf. A size that differs from request to request
        is -1.

    Raises
    ------
    InputError
        If the first axis of an input or output is not the batch.
    MissingExtraError
        If onnx is not installed.
    """
    check_positive_int(max_batch_size, "max_batch_size")
    onnx = import_extra("onnx", "onnx", "Triton's configuration")
    graph = onnx.load_model(str(path), load_external_data=False).graph
    lines = [
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {max_batch_size}",
        *(_tensor("input", one, onnx) for one in graph.input),
        *(_tensor("output", one, onnx) for one in graph.output),
        "dynamic_batching { }",
    ]
    return "\n".join(lines) + "\n"


def _tensor(kind: str, value: Any, onnx: Any) -> str:
    """Return the entry of an input or output. The axis of the batch is not named there."""
    tensor = value.type.tensor_type
    batch, *sizes = tensor.shape.dim
    if batch.dim_value:
        raise InputError(f"the first axis of {value.name} has the size {batch.dim_value}, expected a batch")
    numbers = [str(one.dim_value or -1) for one in sizes]
    name = onnx.TensorProto.DataType.Name(tensor.elem_type)
    dtype = _OTHER_NAMES.get(name, name)
    # Triton has no empty dims. A number for each image is a vector of one number that is reshaped.
    dims = f"dims: [ {', '.join(numbers)} ]" if numbers else "dims: [ 1 ] reshape { shape: [ ] }"
    return f"{kind} [ {{ name: {json.dumps(value.name)} data_type: TYPE_{dtype} {dims} }} ]"
