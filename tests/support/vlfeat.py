"""VLFeat through ctypes: an independent implementation of VLAD and of the Fisher vector.

Debian has it as libvlfeat-dev. `python tests/support/vlfeat.py` computes both for the small problem below and
writes the numbers to vlfeat.json beside this file. Tests without VLFeat compare with this file.
"""

import ctypes
import ctypes.util
import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_name("vlfeat.json")
_FLOAT = 1  # VL_TYPE_FLOAT
# 1: components to unit length, 2: square roots, 4: not the whole to unit length, 8: mean residuals.
_VLAD_FLAGS = {"raw": 4, "mass": 12, "l2": 0, "power": 2, "intra": 1, "mass, intra": 9}
# 1: square roots, 2: unit length.
_FISHER_FLAGS = {"raw": 0, "l2": 2, "improved": 3}


def library():
    """Return the shared library, or None."""
    name = ctypes.util.find_library("vl")
    return None if name is None else ctypes.CDLL(name)


def problem():
    """Return descriptors, centres, variances, priors and labels. Float32 holds the numbers exactly."""
    rng = np.random.default_rng(0)
    x = rng.integers(-64, 65, (30, 5)).astype(np.float32) / 32
    centers = rng.integers(-64, 65, (4, 5)).astype(np.float32) / 32
    variances = rng.integers(8, 65, (4, 5)).astype(np.float32) / 32
    priors = np.array([0.125, 0.25, 0.5, 0.125], np.float32)
    labels = ((x[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
    return x, centers, variances, priors, labels


def _pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def vlad(x, centers, labels, flags):
    """Return VLFeat's VLAD (K * D,) of one image."""
    assignments = np.zeros((len(x), len(centers)), np.float32)
    assignments[np.arange(len(x)), labels] = 1
    encoded = np.zeros(centers.size, np.float32)
    size = ctypes.c_size_t
    library().vl_vlad_encode(
        _pointer(encoded), ctypes.c_uint(_FLOAT), _pointer(centers), size(x.shape[1]), size(len(centers)),
        _pointer(x), size(len(x)), _pointer(assignments), ctypes.c_int(flags),
    )  # fmt: skip
    return encoded


def fisher(x, means, variances, priors, flags):
    """Return VLFeat's Fisher vector (2 * K * D,) of one image."""
    encoded = np.zeros(2 * means.size, np.float32)
    size = ctypes.c_size_t
    encode = library().vl_fisher_encode
    encode.restype = size
    encode(
        _pointer(encoded), ctypes.c_uint(_FLOAT), _pointer(means), size(x.shape[1]), size(len(means)),
        _pointer(variances), _pointer(priors), _pointer(x), size(len(x)), ctypes.c_int(flags),
    )  # fmt: skip
    return encoded


def encodings():
    """Return all encodings by name."""
    x, centers, variances, priors, labels = problem()
    found = {f"vlad {name}": vlad(x, centers, labels, flags) for name, flags in _VLAD_FLAGS.items()}
    found |= {
        f"fisher {name}": fisher(x, centers, variances, priors, flags)
        for name, flags in _FISHER_FLAGS.items()
    }
    return {name: vector.tolist() for name, vector in found.items()}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(encodings()) + "\n", encoding="utf-8")
