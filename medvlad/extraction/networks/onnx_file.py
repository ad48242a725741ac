"""Read an ONNX file, find its input, and cut its graph at an intermediate tensor.

An ONNX file is data: a graph of known operations. No code of the file runs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlad._util.validate import InputError, check_local, import_extra, one_line

__all__ = [
    "OnnxInput",
    "check_file",
    "cut_graph",
    "file_fingerprint",
    "find_input",
    "read_model",
    "tensors_of",
]

PREFIX = "onnx:"

#: Operations whose 4-D input and output have their channels first.
CHANNELS_FIRST = {
    "Conv",
    "ConvTranspose",
    "MaxPool",
    "AveragePool",
    "BatchNormalization",
    "GlobalAveragePool",
}


@dataclass(frozen=True)
class OnnxInput:
    """The only input of a graph.

    Parameters
    ----------
    name : str
    channels_first : bool
        True: (B, 3, s, s). False: (B, s, s, 3).
    batch : int or None
        Number of images that the graph takes at once. None: any.
    side : int or None
        Side of the images. None: any.
    """

    name: str
    channels_first: bool
    batch: int | None
    side: int | None

    def shape(self, side: int, batch: int = 1) -> tuple[int, ...]:
        """Return the shape of the array that the graph takes."""
        n = self.batch or batch
        return (n, 3, side, side) if self.channels_first else (n, side, side, 3)


def check_file(model: str) -> Path:
    """Return the path of "onnx:FILE".

    Raises
    ------
    InputError
        If there is no such file.
    """
    path = check_local(model.removeprefix(PREFIX), "the ONNX file")
    if str(path) in ("", "."):
        raise InputError("model='onnx:' names no file: use 'onnx:FILE'")
    if path.is_dir():
        raise InputError(f"{path} is a folder: give an ONNX file as model='onnx:FILE'")
    if not path.is_file():
        raise InputError(f"there is no ONNX file {path}: check the path in model='onnx:FILE'")
    return path


def read_model(path: Path) -> Any:
    """Read an ONNX file with its external data.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    InputError
        If the file is not ONNX, is damaged, or external data is missing.
    MissingExtraError
        If onnx is not installed.
    """
    onnx = import_extra("onnx", "onnx", "model='onnx:FILE'")
    import_extra("onnx.inliner", "onnx", "model='onnx:FILE'")
    try:
        model = onnx.load_model(os.fspath(path), load_external_data=False)
    except MemoryError:
        raise
    except Exception as error:  # protobuf raises many types of errors
        raise InputError(
            f"{path} cannot be read as ONNX ({one_line(error)[:120]}): export it again"
        ) from error
    if not model.graph.node or not model.graph.output:
        raise InputError(f"{path} holds no ONNX graph: export it again")
    missing = [file for file in _external_files(onnx, model, path) if not file.is_file()]
    if missing:
        raise InputError(
            f"{path} keeps its weights in {missing[0].name}, which is not in the same folder: copy both "
            "files together"
        )
    try:
        onnx.load_external_data_for_model(model, os.fspath(path.parent))
    except MemoryError:
        raise
    except Exception as error:  # onnx raises its own errors if offsets lie outside the file
        raise InputError(
            f"the external weights of {path} cannot be read ({one_line(error)[:160]}): copy its files again"
        ) from error
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _tensors(model: Any) -> Iterator[Any]:
    """Yield all stored tensors of a model, also those inside attributes and branches."""
    graphs = [model.graph, *model.functions]
    while graphs:
        graph = graphs.pop()
        yield from getattr(graph, "initializer", ())
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                graphs += [attribute.g] if attribute.HasField("g") else []
                graphs += attribute.graphs


def _external_files(onnx: Any, model: Any, path: Path) -> list[Path]:
    names: dict[str, None] = {}
    for tensor in _tensors(model):
        if onnx.external_data_helper.uses_external_data(tensor):
            names |= {entry.value: None for entry in tensor.external_data if entry.key == "location"}
    return [path.parent / name for name in names]


def file_fingerprint(path: Path) -> str:
    """Return the SHA-256 of an ONNX file and of the files with its external data."""
    onnx = import_extra("onnx", "onnx", "model='onnx:FILE'")
    model = onnx.load_model(os.fspath(path), load_external_data=False)
    digest = hashlib.sha256()
    for file in [path, *_external_files(onnx, model, path)]:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def find_input(model: Any, path: Path) -> OnnxInput:
    """Return the input of a graph.

    Raises
    ------
    InputError
        If the graph does not take one square RGB image of float32, or its layout is ambiguous.
    """
    onnx = import_extra("onnx", "onnx", "model='onnx:FILE'")
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in stored]
    if len(inputs) != 1:
        names = ", ".join(one.name for one in inputs) or "none"
        raise InputError(
            f"{path} has {len(inputs)} inputs ({names}): use a network whose only input is an image"
        )
    given = inputs[0].type.tensor_type
    if given.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(given.elem_type).lower()
        raise InputError(f"{path} takes {kind} as input {inputs[0].name!r}: export it with a float32 input")
    sizes = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in given.shape.dim]
    shown = f"({', '.join(str(size or '?') for size in sizes)})"
    if len(sizes) != 4:
        raise InputError(f"the input {inputs[0].name!r} of {path} has shape {shown}: an image has four axes")
    first = _channels_first(model, inputs[0].name, sizes)
    if first is None:
        raise InputError(
            f"the input {inputs[0].name!r} of {path} has shape {shown}, which is not certainly (B, 3, s, s) "
            "or (B, s, s, 3): export it with 3 channels of fixed size"
        )
    height, width = sizes[2:] if first else sizes[1:3]
    if height is not None and width is not None and height != width:
        raise InputError(
            f"{path} takes {height} x {width} pixels, and medvlad gives squares: export it for squares"
        )
    return OnnxInput(inputs[0].name, first, sizes[0], height or width)


def _channels_first(model: Any, name: str, sizes: list[int | None]) -> bool | None:
    """Return whether an input has its channels first. None: unknown."""
    first, last = sizes[1] == 3, sizes[3] == 3
    if first != last:
        return first
    if sizes[1] is not None and sizes[3] is not None and not first:
        return None
    for node in model.graph.node:
        if name in node.input:
            if node.op_type in CHANNELS_FIRST:
                return True
            if node.op_type == "Transpose":
                orders = [list(a.ints) for a in node.attribute if a.name == "perm"]
                return False if orders == [[0, 3, 1, 2]] else None
    return None


def tensors_of(model: Any) -> dict[str, Any]:
    """Return the node that computes each tensor, by the name of the tensor, in order."""
    return {name: node for node in model.graph.node for name in node.output if name}


def cut_graph(model: Any, tensors: list[str]) -> Any:
    """Return a copy of a model whose outputs are the named tensors, without the nodes that they do not need.

    Parameters
    ----------
    model : onnx.ModelProto
    tensors : list of str
        Names of tensors that nodes compute.

    Returns
    -------
    onnx.ModelProto
    """
    onnx = import_extra("onnx", "onnx", "model='onnx:FILE'")
    needed, nodes = set(tensors), []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(_names_used(node))
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    del cut.graph.node[:], cut.graph.output[:], cut.graph.value_info[:], cut.graph.initializer[:]
    cut.graph.node.extend(reversed(nodes))
    cut.graph.initializer.extend(one for one in model.graph.initializer if one.name in needed)
    stored = {one.name for one in model.graph.initializer}
    kept = [one for one in model.graph.input if one.name not in stored or one.name in needed]
    del cut.graph.input[:]
    cut.graph.input.extend(kept)
    # onnxruntime finds type and shape by itself.
    cut.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    return cut


def _names_used(node: Any) -> set[str]:
    """Return the tensors that a node reads, also inside its branches."""
    used = {name for name in node.input if name}
    for attribute in node.attribute:
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            for inner in graph.node:
                used |= _names_used(inner)
            used |= {one.name for one in graph.output}
    return used
