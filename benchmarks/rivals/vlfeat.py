"""VLFeat's C library: its k-means quantiser, then vl_vlad_encode for each image, through ctypes."""

from __future__ import annotations

import ctypes
import ctypes.util
from ctypes import c_int, c_size_t, c_uint32, c_void_p
from itertools import pairwise

import numpy as np

from rivals.shared import new_output

_FLOAT, _L2_DISTANCE, _PLAIN = 1, 1, 0


def _library():
    name = ctypes.util.find_library("vl")
    if name is None:
        raise ImportError("the C library vl (VLFeat) is not installed")
    library = ctypes.CDLL(name)
    library.vl_get_version_string.restype = ctypes.c_char_p
    library.vl_kmeans_new.argtypes = [c_uint32, c_int]
    library.vl_kmeans_new.restype = c_void_p
    library.vl_kmeans_set_centers.argtypes = [c_void_p, c_void_p, c_size_t, c_size_t]
    library.vl_kmeans_quantize.argtypes = [c_void_p, c_void_p, c_void_p, c_void_p, c_size_t]
    library.vl_vlad_encode.argtypes = [
        c_void_p, c_uint32, c_void_p, c_size_t, c_size_t, c_void_p, c_size_t, c_void_p, c_int,
    ]  # fmt: skip
    library.vl_set_num_threads.argtypes = [c_size_t]
    return library


def describe():
    return {"vlfeat": _library().vl_get_version_string().decode()}


def prepare(x, offsets, centers, n_threads):
    library = _library()
    library.vl_set_num_threads(n_threads)
    k, d = centers.shape
    quantiser = library.vl_kmeans_new(_FLOAT, _L2_DISTANCE)
    library.vl_kmeans_set_centers(quantiser, centers.ctypes.data, d, k)
    labels = np.empty(len(x), np.uint32)
    distances = np.empty(len(x), np.float32)
    # vl_vlad_encode takes soft assignments: one weight for each row and centre.
    weights = np.zeros((len(x), k), np.float32)
    rows = np.arange(len(x))

    def encode(out):
        out = new_output(offsets, centers) if out is None else out
        library.vl_kmeans_quantize(
            quantiser, labels.ctypes.data, distances.ctypes.data, x.ctypes.data, len(x)
        )
        weights.fill(0)
        weights[rows, labels] = 1
        # Plain addresses, because creating an array object costs more than encoding a small image.
        at, row_bytes = x.ctypes.data, x.strides[0]
        at_weights, weight_bytes = weights.ctypes.data, weights.strides[0]
        at_out, out_bytes, at_centers = out.ctypes.data, out.strides[0], centers.ctypes.data
        bounds = offsets.tolist()
        for image, (first, last) in enumerate(pairwise(bounds)):
            library.vl_vlad_encode(
                at_out + image * out_bytes, _FLOAT, at_centers, d, k,
                at + first * row_bytes, last - first, at_weights + first * weight_bytes, _PLAIN,
            )  # fmt: skip
        return out, labels.astype(np.int64)

    return encode
