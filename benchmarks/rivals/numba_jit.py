"""numba: one task for each image; scores by BLAS and sums by a loop, while the data are in cache."""

from __future__ import annotations

import numba
import numpy as np
import scipy

from rivals.shared import new_output


def describe():
    return {"numba": numba.__version__, "scipy": scipy.__version__}


@numba.njit(parallel=True, fastmath=True)
def _encode(x, offsets, centers, centers_t, half_norms, scores, labels, out):
    k, d = centers.shape
    for image in numba.prange(len(offsets) - 1):
        first, last = offsets[image], offsets[image + 1]
        own_scores = scores[first:last]
        np.dot(x[first:last], centers_t, own_scores)
        vlad = out[image]
        vlad[:] = 0
        for row in range(last - first):
            best, label = own_scores[row, 0] - half_norms[0], 0
            for j in range(1, k):
                score = own_scores[row, j] - half_norms[j]
                if score > best:
                    best, label = score, j
            labels[first + row] = label
            cell = vlad[label * d : (label + 1) * d]
            for i in range(d):
                cell[i] += x[first + row, i] - centers[label, i]
        squares = np.float32(0)
        for i in range(k * d):
            squares += vlad[i] * vlad[i]
        norm = np.sqrt(squares)
        scale = np.float32(1) / norm if norm >= 1e-12 else np.float32(0)
        for i in range(k * d):
            vlad[i] *= scale


def prepare(x, offsets, centers, n_threads):
    numba.set_num_threads(n_threads)
    centers_t = np.ascontiguousarray(centers.T)
    half_norms = 0.5 * np.einsum("kd,kd->k", centers, centers)
    scores = np.empty((len(x), len(centers)), np.float32)
    labels = np.empty(len(x), np.intp)

    def encode(out):
        out = new_output(offsets, centers) if out is None else out
        _encode(x, offsets, centers, centers_t, half_norms, scores, labels, out)
        return out, labels

    return encode
