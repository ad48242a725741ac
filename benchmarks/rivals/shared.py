"""Code shared by the rivals that use NumPy: assignment in blocks, and the last steps of VLAD in place."""

from __future__ import annotations

import numpy as np

#: Number of rows whose scores fit into the second-level cache at K = 256.
BLOCK_ROWS = 1024


class Assigner:
    """Labels of the nearest centres, by one float32 product for each block of rows, without new arrays."""

    def __init__(self, x, centers):
        self.centers_t = centers.T
        self.half_norms = 0.5 * np.einsum("kd,kd->k", centers, centers)
        self.scores = np.empty((min(BLOCK_ROWS, len(x)), len(centers)), np.float32)
        self.labels = np.empty(len(x), np.intp)

    def __call__(self, x):
        for start in range(0, len(x), BLOCK_ROWS):
            block = x[start : start + BLOCK_ROWS]
            scores = self.scores[: len(block)]
            np.matmul(block, self.centers_t, out=scores)
            scores -= self.half_norms
            scores.argmax(axis=1, out=self.labels[start : start + len(block)])
        return self.labels


def image_of_rows(offsets):
    """Return the image of each row (N,)."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def finish(sums, used, counts, centers, out):
    """Residuals of the used cells from their sums (U, D), L2-normalised an image, written into `out`.

    Cells without descriptors are zero whatever the norm, so only the used ones are computed with.
    """
    n_images, k = len(out), len(centers)
    own = centers[used % k]
    own *= counts[:, None]
    sums -= own
    squares = np.einsum("ud,ud->u", sums, sums)
    norms = np.sqrt(np.bincount(used // k, weights=squares, minlength=n_images))
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms >= 1e-12).astype(np.float32)
    sums *= inverse[used // k, None]
    out.fill(0)
    out.reshape(n_images * k, -1)[used] = sums
    return out


def new_output(offsets, centers):
    """Return a new output array."""
    return np.empty((len(offsets) - 1, centers.size), np.float32)
