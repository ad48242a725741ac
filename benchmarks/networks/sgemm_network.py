"""One large product by NumPy's BLAS: the highest rate of multiply-adds that a library reaches here."""

from __future__ import annotations

import numpy as np

#: Rows, columns and depth.
SIZE = 4096


def describe():
    return {"numpy": np.__version__}


class _Product:
    def __init__(self):
        rng = np.random.default_rng(0)
        self._a, self._b, self._c = (rng.standard_normal((SIZE, SIZE), np.float32) for _ in range(3))

    def __call__(self, pixels):
        np.matmul(self._a, self._b, out=self._c)

    def difference(self):
        self._c[:] = 0
        self(None)
        expected = self._a[:8].astype(np.float64) @ self._b
        return float(np.linalg.norm(self._c[:8] - expected) / np.linalg.norm(expected))


def prepare(layers, side, n_threads):
    return _Product()
