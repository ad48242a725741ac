"""Read the tensors of a file that ``torch.save`` has written, without PyTorch and without running code.

PyTorch writes a pickle and beside it the numbers (storages), in one of two layouts::

    since PyTorch 1.6   a zip archive: NAME/data.pkl, NAME/byteorder, and NAME/data/KEY for each storage
    before              pickles one after the other: a magic number, the protocol 1001, facts about the
                        machine, the object, the list of keys; then for each key its length and its bytes

The pickle names a storage by its key and length, and a tensor by its storage, offset, shape and strides. Both
are checked against the file before memory is allocated. :mod:`medvlad._util.plain_pickle` reads the pickle.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medvlad._util.plain_pickle import RefusedPickle, read_plain_pickle
from medvlad._util.validate import InputError, one_line

__all__ = ["read_tensors"]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
#: Longest name of a class or function in bytes.
_LONGEST_LINE = 65536
#: Bytes of a number in each type of storage. bfloat16 has no type in NumPy.
_DTYPES = {
    "torch.DoubleStorage": "f8",
    "torch.FloatStorage": "f4",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "bf16",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "bool",
    "torch.ComplexFloatStorage": "c8",
    "torch.ComplexDoubleStorage": "c16",
}


def read_tensors(path: str | os.PathLike[str], opened: BinaryIO | None = None) -> Any:
    """Read a file of ``torch.save``.

    Parameters
    ----------
    path : str or path
        File that holds tensors, numbers, strings, None, and lists, tuples and dicts of them.
    opened : binary file or None, default=None
        Its content, if it is no file of this machine. None: `path` is opened.

    Returns
    -------
    object
        The same object with an ndarray for each tensor and a dict for an OrderedDict. bfloat16 becomes
        float32. Arrays are read-only, and those of one storage share its memory.

    Raises
    ------
    InputError
        If the file is not of ``torch.save``, is damaged, or holds anything else, such as a whole module or a
        call of a function. Nothing that the file names is imported or called.
    OSError
        If the file cannot be read.
    """
    try:
        with Path(path).open("rb") if opened is None else nullcontext(opened) as file:
            start = file.read(4)
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            return _read_zip(file, size) if start == b"PK\x03\x04" else _read_legacy(file, size)
    except RefusedPickle as error:
        raise InputError(
            f"{path} is not a plain file of tensors: {error}. Nothing in it was run. Save tensors only, "
            "for example with torch.save(model.state_dict(), FILE)"
        ) from error
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(f"{path} is damaged ({one_line(error)}): copy or save the file again") from error


class _Storages:
    """The storages that a pickle names. Arrays exist at once; their numbers are read afterwards.

    Parameters
    ----------
    size : int
        Length of the file in bytes. All storages together cannot be longer.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.total = 0
        self.known: dict[str, tuple[str, NDArray[Any]]] = {}
        self.names: dict[str, Callable[..., Any]] = {
            "collections.OrderedDict": _ordered_dict,
            "torch.Size": tuple,
            "torch._utils._rebuild_tensor": _tensor,
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch._utils._rebuild_parameter": _parameter,
            **{name: _StorageType(dtype) for name, dtype in _DTYPES.items()},
        }

    def __call__(self, description: Any) -> NDArray[Any]:
        """Return the array of a storage: ("storage", type, key, device, length[, view])."""
        if type(description) is not tuple or len(description) not in (5, 6) or description[0] != "storage":
            raise RefusedPickle("it refers to data that is not a storage")
        kind, key, length = getattr(description[1], "rebuild", None), description[2], description[4]
        if not isinstance(kind, _StorageType) or not isinstance(key, str) or not _is_count(length):
            raise RefusedPickle("the description of a storage is damaged")
        if len(description) == 6 and description[5] is not None:
            raise RefusedPickle("a storage is a part of another one")
        if key not in self.known:
            self.total += length * _width(kind.dtype)
            if self.total > self.size:
                raise RefusedPickle("its storages are longer than the file")
            dtype = "f4" if kind.dtype == "bf16" else kind.dtype
            self.known[key] = (kind.dtype, np.empty(length, dtype))
        dtype, values = self.known[key]
        if (dtype, len(values)) != (kind.dtype, length):
            raise RefusedPickle(f"storage {key[:40]!r} has two types or lengths")
        return values

    def fill(self, key: str, file: Any, order: str) -> None:
        """Read the numbers of a storage from a file, whose numbers begin at the file's position."""
        dtype, values = self.known[key]
        plain = dtype not in ("bf16", "bool")
        raw = values if plain else np.empty(len(values), {"bf16": "u2", "bool": "u1"}[dtype])
        if file.readinto(raw.view(np.uint8).data) != raw.nbytes:
            raise RefusedPickle("the file is cut off")
        if order == ">" and raw.itemsize > 1:
            parts = raw.view(raw.real.dtype)  # a complex number is two numbers
            parts.byteswap(inplace=True)
        if dtype == "bf16":
            np.left_shift(raw, 16, out=values.view(np.uint32), dtype=np.uint32)
        elif dtype == "bool":
            np.not_equal(raw, 0, out=values)


class _StorageType:
    """A type of storages. A pickle may name it, but not call it."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def __call__(self, *_: Any) -> Any:
        raise RefusedPickle("it holds a storage that belongs to no tensor")


def _width(dtype: str) -> int:
    return 2 if dtype == "bf16" else np.dtype(dtype).itemsize


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    if any(type(pair) not in (list, tuple) or len(pair) != 2 or isinstance(pair[0], tuple) for pair in pairs):
        raise RefusedPickle("an OrderedDict is damaged")
    return dict(pairs)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> NDArray[Any]:
    """Return a read-only view of a storage: no tensor can need more memory than the file has."""
    numbers = (*shape, *strides, offset)
    if not isinstance(storage, np.ndarray) or len(shape) != len(strides) or not all(map(_is_count, numbers)):
        raise RefusedPickle("the description of a tensor is damaged")
    if len(shape) > 32:
        raise RefusedPickle("a tensor has more than 32 axes")
    count = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if count and (last >= len(storage) or count > len(storage)):
        raise RefusedPickle("a tensor is larger than its storage")
    if not count:
        return np.empty(shape, storage.dtype) if max(shape) <= 2**31 else _too_large()
    steps = [step * storage.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def _too_large() -> NDArray[Any]:
    raise RefusedPickle("a tensor without numbers has an axis that is too long")


def _read_legacy(file: BinaryIO, size: int) -> Any:
    if _plain(file, size) != _MAGIC or _plain(file, size) != _PROTOCOL:
        raise RefusedPickle("it has no header of torch.save")
    machine = _plain(file, size)
    order = "<" if isinstance(machine, dict) and machine.get("little_endian", True) else ">"
    storages = _Storages(size)
    result = read_plain_pickle(_Bounded(file, size), size, storages.names, storages)
    keys = _plain(file, size)
    sound = type(keys) is list and all(type(key) is str for key in keys)
    if not sound or sorted(keys) != sorted(storages.known):
        raise RefusedPickle("its list of storages is damaged")
    for key in keys:
        length = int.from_bytes(file.read(8), "little" if order == "<" else "big")
        if length != len(storages.known[key][1]):
            raise RefusedPickle(f"the file is cut off, or storage {key[:40]!r} has another length")
        storages.fill(key, file, order)
    return result


def _plain(file: BinaryIO, size: int) -> Any:
    return read_plain_pickle(_Bounded(file, size), size)


class _Bounded:
    """A file that never reads past its end: a length in a damaged pickle must not allocate memory."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size - file.tell()

    def read(self, n: int) -> bytes:
        data = self._file.read(min(n, self._left))
        self._left -= len(data)
        return data

    def readline(self) -> bytes:
        data = self._file.readline(_LONGEST_LINE)
        self._left -= len(data)
        return data


def _read_zip(file: BinaryIO, size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise RefusedPickle("it is a zip archive without the data.pkl of torch.save")
        folder = pickles[0].removesuffix("data.pkl")
        for member in members.values():  # a compressed member can unfold to any length
            if member.compress_type != zipfile.ZIP_STORED:
                raise RefusedPickle(
                    f"{member.filename[:100]!r} in it is compressed, which torch.save never does"
                )
        order = ">" if _text(archive, members.get(f"{folder}byteorder")) == b"big" else "<"
        storages = _Storages(size)
        result = read_plain_pickle(io.BytesIO(archive.read(pickles[0])), size, storages.names, storages)
        for key, (dtype, values) in storages.known.items():
            data = members.get(f"{folder}data/{key}")
            if data is None or data.file_size != len(values) * _width(dtype):
                raise RefusedPickle(f"storage {key[:40]!r} is missing or has another length")
            with archive.open(data) as stream:
                storages.fill(key, stream, order)
                if stream.read(1):  # reading to the end also compares the checksum
                    raise RefusedPickle(f"storage {key[:40]!r} has another length")
    return result


def _text(archive: zipfile.ZipFile, member: zipfile.ZipInfo | None) -> bytes:
    return b"" if member is None else archive.read(member)[:10]
