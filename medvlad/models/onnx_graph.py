"""Build an ONNX graph node by node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from medvlad.backends.normalise import NORM_FLOOR

__all__ = ["Graph"]

_OPSET = 18
_IR_VERSION = 9  # runtimes since 2023 read it


class Graph:
    """An ONNX graph under construction.

    Calling the graph adds a node. Every method that adds nodes takes the names of tensors and returns the
    name of the result.

    Parameters
    ----------
    onnx : module
        The onnx package.
    """

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs: list[Any] = []
        self._opsets = {"": _OPSET}
        self._ir_version = _IR_VERSION

    def __call__(self, operation: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node with one output. `name` is the name of the output; None: a new name."""
        output = name or f"{operation.lower()}{len(self._nodes)}"
        self._add(operation, inputs, [output], attributes)
        return output

    def _add(
        self, operation: str, inputs: Sequence[str], outputs: Sequence[str], attributes: dict[str, Any]
    ) -> None:
        self._nodes.append(self.onnx.helper.make_node(operation, list(inputs), list(outputs), **attributes))

    def input(self, name: str, kind: int, shape: Sequence[Any]) -> None:
        """Declare an input of the model. `kind` is an ONNX data type; text in `shape` is a variable size."""
        self._inputs.append(self.onnx.helper.make_tensor_value_info(name, kind, shape))

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """Add a constant array."""
        name = f"constant{len(self._constants)}"
        array = np.ascontiguousarray(values, dtype)
        self._constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def require(self, model: Any) -> None:
        """Raise the versions of operators and of the format to those of another model."""
        for one in model.opset_import:
            domain = "" if one.domain == "ai.onnx" else one.domain
            self._opsets[domain] = max(self._opsets.get(domain, 0), one.version)
        self._ir_version = max(self._ir_version, model.ir_version)

    def share(self, tensors: Iterable[Any], prefix: str) -> None:
        """Add stored tensors of another graph, under their names with a prefix."""
        for tensor in tensors:
            copy = self.onnx.TensorProto()
            copy.CopyFrom(tensor)
            copy.name = prefix + tensor.name
            self._constants.append(copy)

    def embed(self, nodes: Iterable[Any], rename: Callable[[str], str]) -> None:
        """Add nodes of another graph, with all names of tensors replaced."""
        for node in nodes:
            copy = self.onnx.NodeProto()
            copy.CopyFrom(node)
            _rename(copy, rename)
            self._nodes.append(copy)

    def ints(self, *values: int) -> str:
        """Add a constant vector of int64, such as a shape or axes."""
        return self.constant(values, np.int64)

    def sum(self, x: str, axis: int, *, keepdims: int = 0) -> str:
        """Sum along an axis."""
        return self("ReduceSum", x, self.ints(axis), keepdims=keepdims)

    def divide_above(self, x: str, divisor: str, floor: float | str) -> str:
        """Divide x by the divisor. The result is 0 if the divisor is below `floor`, a number or a tensor."""
        least = floor if isinstance(floor, str) else self.constant(floor)
        quotient = self("Div", x, self("Max", divisor, least))
        return self("Where", self("Less", divisor, least), self.constant(0.0), quotient)

    def unit(self, x: str, axis: int = -1) -> str:
        """Scale to L2 norm 1 along an axis. Vectors with a norm below NORM_FLOOR become zeros."""
        norms = self("ReduceL2", x, self.ints(axis), keepdims=1)
        return self.divide_above(x, norms, NORM_FLOOR)

    def cleared(self, x: str, most: str) -> str:
        """Replace the vectors along the last axis whose norm is not above `most` by zeros."""
        norms = self("ReduceL2", x, self.ints(-1), keepdims=1)
        return self("Where", self("LessOrEqual", norms, most), self.constant(0.0), x)

    def power(self, x: str, exponent: float) -> str:
        """Apply the signed power sign(x) |x|^exponent."""
        if exponent == 1:
            return x
        return self("Mul", self("Sign", x), self("Pow", self("Abs", x), self.constant(exponent)))

    def flat(self, x: str) -> str:
        """Flatten all axes after the first."""
        return self("Flatten", x, axis=1)

    def nth_largest(self, x: str, n: int, axis: int) -> str:
        """Return the n-th largest value along an axis. The axis stays, with size 1."""
        values = f"{x}_best"
        self._add("TopK", [x, self.ints(n)], [values, f"{values}_at"], {"axis": axis})
        return self("ReduceMin", values, self.ints(axis), keepdims=1)

    def model(self, metadata: dict[str, str], named: dict[str, tuple[int, tuple[str | int, ...]]]) -> Any:
        """Return the ONNX model, checked. `named` has the type and the shape of each output."""
        helper = self.onnx.helper
        outputs = [helper.make_tensor_value_info(name, *kind) for name, kind in named.items()]
        graph = helper.make_graph(self._nodes, "medvlad", self._inputs, outputs, self._constants)
        opsets = [helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        model = helper.make_model(graph, producer_name="medvlad", opset_imports=opsets)
        model.ir_version = self._ir_version
        helper.set_model_props(model, metadata)
        self.onnx.checker.check_model(model)
        return model


def _rename(node: Any, rename: Callable[[str], str]) -> None:
    """Replace the name of a node and of all tensors that it names, also inside its branches."""
    node.name = ""  # optional, and names must differ
    for names in (node.input, node.output):
        names[:] = [rename(name) if name else "" for name in names]
    for attribute in node.attribute:
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            for one in [*graph.input, *graph.output, *graph.initializer, *graph.value_info]:
                one.name = rename(one.name)
            for inner in graph.node:
                _rename(inner, rename)
