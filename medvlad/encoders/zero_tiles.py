r"""Products with a block of vectors that skip the parts that are zero.

An image of 49 descriptors reaches some 20 to 30 of 64 centres, and the cells of the others are zero. So a
block of rows is cut into tiles of columns. In a tile, the rows that are zero take no part in a product.

Rows are meant as differences :math:`X - 1 s^T` from a shift. A *dense* tile holds these differences. If a
quarter of its rows are zero or more, a tile is *sparse*: it holds :math:`X` itself, whose zeros are skipped,
and the shift is taken into account with one more row. No digits are lost by that, because the zeros lie as
far from the mean as the mean is large.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Share", "ZeroTiles"]

_TILE_ROWS = 256
_TILE_FEATURES = 512
_MOST_KEPT = 0.75

#: Calls a function for each number of a range, in threads.
Share = Callable[[Callable[[int], None], range], None]


class ZeroTiles:
    """A block of rows that is used as differences from a shift.

    Parameters
    ----------
    rows : ndarray of float32 or float64, shape (b, p)
        Overwritten in dense tiles.
    shift : ndarray of the same dtype, shape (p,)
    share : callable
        Threads. Their number changes no bit.
    """

    def __init__(self, rows: NDArray[Any], shift: NDArray[Any], share: Share) -> None:
        self.rows, self.shift, self._share = rows, shift, share
        self._starts = range(0, rows.shape[1], _TILE_FEATURES)
        self._kept: dict[int, NDArray[np.int64] | None] = {}

        def look(start: int) -> None:
            part = self._part(start)
            kept = np.flatnonzero(rows[:, part].any(axis=1))
            if len(kept) > _MOST_KEPT * len(rows):
                self._kept[start] = None
                with np.errstate(over="ignore", invalid="ignore"):
                    rows[:, part] -= shift[part]
            else:
                self._kept[start] = kept

        share(look, self._starts)

    def squares(self) -> float:
        """Return the sum of the squared differences."""
        sizes = np.zeros(len(self._starts))

        def add(start: int) -> None:
            kept, part = self._kept[start], self._part(start)
            x = self.rows[:, part] if kept is None else self.rows[kept, part] - self.shift[part]
            with np.errstate(over="ignore", invalid="ignore"):
                size = float(np.einsum("ij,ij->i", x, x).sum(dtype=np.float64))
            if kept is not None:
                own = self.shift[part].astype(np.float64)
                size += (len(self.rows) - len(kept)) * float(own @ own)
            sizes[start // _TILE_FEATURES] = size

        self._share(add, self._starts)
        return float(sizes.sum())

    def sums(self) -> NDArray[np.float64]:
        """Return the sums (p,) of the differences over the rows."""
        sums = np.empty(self.rows.shape[1])

        def add(start: int) -> None:
            kept, part = self._kept[start], self._part(start)
            x = self.rows[:, part] if kept is None else self.rows[kept, part]
            sums[part] = x.sum(axis=0, dtype=np.float64)
            if kept is not None:
                sums[part] -= len(self.rows) * self.shift[part].astype(np.float64)

        self._share(add, self._starts)
        return sums

    def times(self, q: NDArray[Any]) -> NDArray[Any]:
        """Return the product (b, l) of the differences with `q` (p, l)."""
        product = np.zeros((len(self.rows), q.shape[1]), self.rows.dtype)

        def multiply(first: int) -> None:
            last, constant = first + _TILE_ROWS, np.zeros(q.shape[1], product.dtype)
            for start in self._starts:
                kept, part = self._kept[start], self._part(start)
                if kept is None:
                    product[first:last] += self.rows[first:last, part] @ q[part]
                    continue
                own = kept[np.searchsorted(kept, first) : np.searchsorted(kept, last)]
                found = self._with_row(self.rows[own, part], self.shift[part]) @ q[part]
                product[own] += found[:-1]
                constant -= found[-1]
            product[first:last] += constant

        self._share(multiply, range(0, len(self.rows), _TILE_ROWS))
        return product

    def add_transposed_times(self, y: NDArray[Any], out: NDArray[np.float64]) -> None:
        """Add the transposed differences times `y` (b, l) to `out` (p, l)."""
        total = y.sum(axis=0)

        def add(start: int) -> None:
            kept, part = self._kept[start], self._part(start)
            if kept is None:
                out[part] += self.rows[:, part].T @ y
            else:
                x = self._with_row(self.rows[kept, part], -self.shift[part])
                out[part] += x.T @ self._with_row(y[kept], total)

        self._share(add, self._starts)

    @staticmethod
    def _with_row(x: NDArray[Any], row: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([x, row[np.newaxis]])

    def _part(self, start: int) -> slice:
        return slice(start, min(start + _TILE_FEATURES, self.rows.shape[1]))
