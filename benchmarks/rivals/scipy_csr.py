"""SciPy: one product, then sums of cells as a sparse matrix of ones times the descriptors."""

from __future__ import annotations

import numpy as np
import scipy
from scipy.sparse import csr_array

from rivals.shared import Assigner, finish, image_of_rows, new_output


def describe():
    return {"numpy": np.__version__, "scipy": scipy.__version__}


def sums_of_cells(x, cells):
    """Return the sums of the rows of each used cell (U, D), the used cells (U,) and their counts (U,)."""
    used, first, counts = np.unique(cells[order := np.argsort(cells, kind="stable")], True, False, True)
    indptr = np.append(first, len(cells)).astype(np.int32)
    ones = np.ones(len(cells), np.float32)
    gather = csr_array((ones, order.astype(np.int32), indptr), shape=(len(used), len(cells)))
    return gather @ x, used, counts.astype(np.float32)


def prepare(x, offsets, centers, n_threads):
    assign = Assigner(x, centers)

    def encode(out):
        out = new_output(offsets, centers) if out is None else out
        labels = assign(x)
        sums, used, counts = sums_of_cells(x, image_of_rows(offsets) * len(centers) + labels)
        return finish(sums, used, counts, centers, out), labels

    return encode
