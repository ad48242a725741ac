"""Write feature files in every format."""

import json
import struct

import numpy as np
from support.torch_files import legacy_file, tensor, zip_file

FORMATS = (".h5", ".npy", ".npz", ".pt", ".safetensors")


def write_features(path, values, *, coords=None, name="features", attributes=None, **options):
    """Write descriptors, and coordinates if given. The ending chooses the format. Return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(values)}
    if coords is not None:
        arrays["coords"] = np.asarray(coords)
    WRITERS[path.suffix](path, arrays, attributes or {}, **options)
    return path


def _hdf5(path, arrays, attributes, **options):
    import pytest

    h5py = pytest.importorskip("h5py", reason="HDF5 needs h5py")
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, **options)
        if "coords" in arrays:
            file["coords"].attrs.update(attributes)


def _npy(path, arrays, attributes):
    np.save(path, next(iter(arrays.values())))


def _npz(path, arrays, attributes, compressed=False):
    (np.savez_compressed if compressed else np.savez)(path, **arrays)


def _torch(path, arrays, attributes, legacy=False, bare=False):
    tensors = {name: tensor(values, str(key)) for key, (name, values) in enumerate(arrays.items())}
    content = next(iter(tensors.values())) if bare else tensors | attributes
    path.write_bytes((legacy_file if legacy else zip_file)(content))


def _safetensors(path, arrays, attributes, bfloat16=False):
    if not bfloat16:
        from safetensors.numpy import save_file

        save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, path)
        return
    header, parts, start = {}, [], 0
    for name, values in arrays.items():
        data = (np.asarray(values, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
        header[name] = {
            "dtype": "BF16",
            "shape": list(values.shape),
            "data_offsets": [start, start + len(data)],
        }
        start += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


WRITERS = {".h5": _hdf5, ".npy": _npy, ".npz": _npz, ".pt": _torch, ".safetensors": _safetensors}
