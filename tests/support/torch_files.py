"""Write files of ``torch.save`` without PyTorch, sound and hostile ones."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
    "bfloat16": "BFloat16Storage",
}


@dataclass
class Name:
    """A class or function that the pickle names."""

    full: str


@dataclass
class Call:
    """A call in the pickle."""

    name: str
    arguments: tuple


@dataclass
class Storage:
    """A storage: its type, key, length in numbers and the bytes that the file holds for it."""

    kind: str
    key: str
    length: int
    data: bytes


def storage(values, key="0"):
    values = np.ascontiguousarray(values)
    return Storage(f"torch.{STORAGES[values.dtype.name]}", key, values.size, values.tobytes())


def tensor(values, key="0"):
    """Return the call that rebuilds a contiguous tensor."""
    values = np.asarray(values)
    strides = tuple(step // values.itemsize for step in np.empty(values.shape, values.dtype).strides)
    return view(storage(values, key), 0, values.shape, strides)


def view(of, offset, shape, strides):
    arguments = (of, offset, tuple(shape), tuple(strides), False, Call("collections.OrderedDict", ()))
    return Call("torch._utils._rebuild_tensor_v2", arguments)


def encode(value):
    """Return a pickle of protocol 2 for plain values, `Name`, `Call` and `Storage`."""
    return b"\x80\x02" + _encoded(value) + b"."


def _encoded(value):
    if isinstance(value, Name):
        return (
            b"c"
            + value.full.rpartition(".")[0].encode()
            + b"\n"
            + value.full.rpartition(".")[2].encode()
            + b"\n"
        )
    if isinstance(value, Call):
        return _encoded(Name(value.name)) + _encoded(value.arguments) + b"R"
    if isinstance(value, Storage):
        return _encoded(("storage", Name(value.kind), value.key, "cpu", value.length)) + b"Q"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_encoded, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(_encoded, value)) + b"e"
    if isinstance(value, OrderedDict):
        return _encoded(Call("collections.OrderedDict", ())) + _items(value) + b"}b"
    if isinstance(value, dict):
        return b"}" + _items(value)
    return pickle.dumps(value, 2)[2:-1]


def _items(value):
    return b"(" + b"".join(_encoded(key) + _encoded(item) for key, item in value.items()) + b"u"


def storages_in(value):
    """Return the storages in a value by key."""
    if isinstance(value, Storage):
        return {value.key: value}
    if isinstance(value, Call):
        value = value.arguments
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    found = {}
    for item in value if isinstance(value, list | tuple) else ():
        found |= storages_in(item)
    return found


def legacy_file(value, *, order="<", body=None, keys=None):
    """Return the bytes of a file of PyTorch before 1.6."""
    storages = storages_in(value)
    keys = sorted(storages) if keys is None else keys
    parts = [encode(MAGIC), encode(1001), encode({"protocol_version": 1001, "little_endian": order == "<"})]
    parts += [encode(value) if body is None else body, encode(keys)]
    for key in keys:
        parts += [struct.pack(order + "q", storages[key].length), storages[key].data]
    return b"".join(parts)


def zip_file(value, *, order=None, body=None, compression=zipfile.ZIP_STORED, change=None):
    """Return the bytes of a file of PyTorch since 1.6. `change` maps members to other bytes, or to None."""
    members = {"a/data.pkl": encode(value) if body is None else body}
    if order is not None:
        members["a/byteorder"] = {"<": b"little", ">": b"big"}[order]
    members |= {f"a/data/{key}": storage.data for key, storage in storages_in(value).items()}
    members |= change or {}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            if data is not None:
                archive.writestr(name, data)
    return file.getvalue()
