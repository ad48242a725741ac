"""Read tensors of .safetensors and .pt files."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from medvlad._util.torch_file import read_tensors
from medvlad.bags.array_file import ArrayFile
from medvlad.bags.numpy_arrays import row_shape

__all__ = ["SafetensorsArrays", "TorchArrays"]

#: NumPy's names of the types of safetensors. bfloat16 is the upper half of a float32.
_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "U16": "<u2", "U32": "<u4"},
}

_LONGEST_HEADER = 100_000_000  # bytes, the limit of safetensors


class SafetensorsArrays(ArrayFile):
    """The tensors of a .safetensors file."""

    def __init__(self, path: Path, opened: BinaryIO | None = None) -> None:
        if opened is None:
            with safe_open(path, framework="numpy"):  # checks the header, and the size of the file
                pass
        self._file: BinaryIO = path.open("rb") if opened is None else opened
        (length,) = struct.unpack("<Q", self._file.read(8))
        if length > _LONGEST_HEADER:
            raise ValueError(f"its header has {length} bytes")
        header = json.loads(self._file.read(length))
        header.pop("__metadata__", None)
        self._tensors, self._begin = header, 8 + length

    def names(self) -> list[str]:
        """Return the names of the tensors."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return tuple(self._tensors[name]["shape"])

    def rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Read some rows of a tensor. bfloat16 becomes float32."""
        described = self._tensors[name]
        dtype = np.dtype(_DTYPES[described["dtype"]])
        inner = row_shape(self.shape(name))
        size = math.prod(inner) * dtype.itemsize
        self._file.seek(self._begin + described["data_offsets"][0] + start * size)
        values = np.frombuffer(self._file.read((stop - start) * size), dtype).reshape(stop - start, *inner)
        if described["dtype"] == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TorchArrays(ArrayFile):
    """The tensor of a .pt file, or the tensors of the dict in it. The file is read as a whole."""

    def __init__(self, path: Path, opened: BinaryIO | None = None) -> None:
        content = read_tensors(path, opened)
        named = content if isinstance(content, dict) else {"": content}
        self._tensors = {str(name): one for name, one in named.items() if isinstance(one, np.ndarray)}
        self._facts = {str(name): one for name, one in named.items() if isinstance(one, int | float | str)}

    def names(self) -> list[str]:
        """Return the names of the tensors."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return tuple(self._tensors[name].shape)

    def rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Return some rows of a tensor."""
        values = self._tensors[name]
        part: NDArray[Any] = values[0] if len(row_shape(values.shape)) < values.ndim - 1 else values
        return part[start:stop]

    def attributes(self, name: str) -> Mapping[str, Any]:
        """Return the numbers and texts of the dict."""
        return self._facts

    def close(self) -> None:
        """Do nothing: the file is closed already."""
