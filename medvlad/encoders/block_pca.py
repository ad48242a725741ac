r"""Principal components of a matrix that is read in a few passes: a randomised decomposition with bounds.

Let :math:`X_c` (n, p) be the rows minus their mean, and :math:`C = X_c^T X_c`. Each pass computes
:math:`Z = C Q` for a matrix :math:`Q` (p, l), :math:`l = k` + oversampling, as the sum of
:math:`B^T (B Q)` over blocks of rows :math:`B`. The first :math:`Q` is Gaussian. The next one is an
orthonormal basis of :math:`Z - \alpha Q`, where :math:`\alpha` is half of the smallest eigenvalue of
:math:`Q^T C Q`, at first 0. This is subspace iteration (Halko, Martinsson and Tropp, SIAM Review 53, 2011,
algorithm 4.4) in the space of features, with dynamic shifts (Feng, Yu, Xie and Tang, arXiv 2404.09276, 2024).
A shift keeps the wanted eigenvalues ahead of the others, and saves passes if they fall slowly.

From the second pass on, :math:`Q^T C Q = W \Lambda W^T` gives components :math:`V = Q W`, the first :math:`k`
columns, and eigenvalues :math:`\lambda_i`. The iteration ends when a pass adds less than `tol` of the total
variance. At least two passes are made, and at most `max_passes`. The mean and the total variance come from
the first one.

**Bounds after the fact.** None of them needs another pass:

- *Lost variance*, exactly: :math:`\|X_c - X_c V V^T\|_F^2 = \mathrm{tr}\, C - \sum_i \lambda_i`.
- *Residuals*: within :math:`\|C v_i - \lambda_i v_i\|` of :math:`\lambda_i` lies an eigenvalue of :math:`C`
  (Krylov and Weinstein). :math:`C v_i` is known from :math:`Z`.
- *Nothing large was missed*: let :math:`R = X_c - X_c V V^T`. Ten Gaussian :math:`\omega_j`, independent of
  :math:`Q`, and the products :math:`C \omega_j` of the first pass give :math:`R^T R \omega_j`. Then

  .. math::

     \|R\|_2^2 = \|R^T R\|_2 \le 10 \sqrt{2 / \pi} \, \max_j \|R^T R \omega_j\|_2

  except with probability :math:`10^{-10}` (lemma 4.1 there). The square root of the lost variance is a bound
  as well, and the smaller of the two is reported. If many equal directions are left out, it is some ten times
  too large.

These hold up to the rounding of the products, which are float32 if the vectors are: about
:math:`10^{-6} \lambda_1`. Sums over blocks are in float64. Zero parts of the vectors are skipped,
see :mod:`medvlad.encoders.zero_tiles`.

**Memory** is that of six matrices (p, l) in float64 and two blocks of 128 MiB. **Threads** share fixed
tiles, each of which is one product of one-threaded BLAS, so their number changes no bit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, qr
from sklearn.utils import check_random_state

from medvlad._util.blas_threads import single_threaded_blas
from medvlad._util.memory import memory_for
from medvlad._util.validate import InputError, check_positive_int
from medvlad.encoders.row_blocks import RowBlocks, block_rows, equal_blocks
from medvlad.encoders.zero_tiles import Share, ZeroTiles

__all__ = ["BlockComponents", "components_of_blocks", "memory_of_components", "sharing_threads"]

_log = logging.getLogger(__name__)

_PROBES = 10
_BOUND = 10 * np.sqrt(2 / np.pi)

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class BlockComponents:
    """Principal components, and how good they are.

    Attributes
    ----------
    mean : ndarray of float64, shape (p,)
    components : ndarray of float64, shape (k, p)
        Orthonormal rows, the largest variance first. The largest entry of each is positive.
    eigenvalues : ndarray of float64, shape (k,)
        Of the matrix C of the module docstring: n - 1 times the variances.
    total : float
        Trace of C.
    residuals : ndarray of float64, shape (k,)
        Each eigenvalue is at most so far from a true one.
    error_bound : float
        Bound on the largest singular value of what the components leave out. It fails with probability 1e-10.
    gains : tuple of float
        Share of the total variance that the components keep, after each pass from the second on.
    """

    mean: Matrix
    components: Matrix
    eigenvalues: Matrix
    total: float
    residuals: Matrix
    error_bound: float
    gains: tuple[float, ...]


@memory_for("the components", "reduce to fewer components")
def components_of_blocks(
    source: RowBlocks,
    n_components: int,
    *,
    random_state: Any = None,
    tol: float = 1e-3,
    max_passes: int = 8,
    n_threads: int = 1,
) -> BlockComponents:
    """Find the principal components of a matrix, reading it a few times.

    Parameters
    ----------
    source : RowBlocks, shape (n, p)
    n_components : int
        k, at most min(n, p).
    random_state : int, RandomState or None, default=None
        Seed.
    tol : float, default=1e-3
        Stop when a pass adds less than this share of the total variance.
    max_passes : int, default=8
        Maximum number of passes, at least 2.
    n_threads : int, default=1
        Number of threads. It changes no bit.

    Raises
    ------
    InputError
        If a vector is not finite, or a parameter is out of range.
    OutOfMemory
        If there is too little memory.
    """
    n, p = source.shape
    if check_positive_int(max_passes, "max_passes") < 2:
        raise InputError("max_passes=1 is too few: the first pass finds no components, so give 2 or more")
    if not 0 <= tol < 1:
        raise InputError(f"tol={tol} must be a share of the variance: at least 0, and below 1")
    width = _sketch_width(n, p, n_components)
    random = check_random_state(random_state)
    omega: Matrix = random.standard_normal((p, _PROBES)).astype(source.dtype).astype(np.float64)
    q: Matrix = np.hstack([random.standard_normal((p, width)), omega])
    gains: list[float] = []
    with sharing_threads(n_threads) as share:
        first = _Pass(source, q, None, share)
        mean, total, sketch = first.mean, first.total, first.z[:, width:].copy()
        z: Any = first.z[:, :width]
        del first
        q, shift = q[:, :width], 0.0
        while True:
            q *= shift
            z -= q
            basis = qr(z, mode="economic", overwrite_a=True, check_finite=False)[0]
            q = basis.astype(source.dtype).astype(np.float64)  # as the products see it
            del basis, z
            z = _Pass(source, q, mean, share).z
            values, w = eigh(*_symmetric(q, z), check_finite=False)
            shift = max(shift, 0.5 * float(values[0]))
            values, w = np.maximum(values[::-1][:n_components], 0), w[:, ::-1][:, :n_components]
            gains.append(float(values.sum() / total) if total else 1.0)
            _log.info("pass %d: the components keep %.4f of the variance", len(gains) + 1, gains[-1])
            gain = gains[-1] - (gains[-2] if len(gains) > 1 else 0.0)
            if gain <= tol or len(gains) + 1 >= max_passes:
                break
        v = q @ w
        image = z @ w  # C V
        residuals = np.linalg.norm(image - v * values, axis=0)
        left = sketch - image @ (v.T @ omega)  # C (I - V V^T) omega
        left -= v @ (v.T @ left)
        lost = max(0.0, total - float(values.sum()))
        bound = min(lost, float(_BOUND * np.linalg.norm(left, axis=0).max())) ** 0.5
        signs = np.sign(v[np.abs(v).argmax(axis=0), np.arange(v.shape[1])])
    return BlockComponents(mean, (v * signs).T, values, total, residuals, bound, tuple(gains))


def memory_of_components(n: int, p: int, n_components: int) -> int:
    """Return about how many bytes :func:`components_of_blocks` needs for a matrix (n, p)."""
    width = _sketch_width(n, p, n_components) + _PROBES
    return 6 * 8 * p * width + 2 * 4 * block_rows(p) * p


def _sketch_width(n: int, p: int, n_components: int) -> int:
    """Return the number of columns of Q, without the probes."""
    return min(p, n, n_components + max(16, n_components // 8))


def _symmetric(q: Matrix, z: Matrix) -> tuple[Matrix, Matrix]:
    """Return Q^T C Q, and Q^T Q, which is not quite the identity once Q is rounded."""
    product = q.T @ z
    return (product + product.T) / 2, q.T @ q


class _Pass:
    """One pass: Z = C Q, and in the first pass the mean and the total.

    Parameters
    ----------
    source : RowBlocks
    q : ndarray of float64, shape (p, l)
    mean : ndarray of float64, shape (p,), or None
        None: the first pass, which finds it.
    share : callable
        Calls a function for each number of a range, in threads.
    """

    def __init__(self, source: RowBlocks, q: Matrix, mean: Matrix | None, share: Share) -> None:
        n, p = source.shape
        dtype = source.dtype
        cast = np.ascontiguousarray(q, dtype)
        self.z: Matrix = np.zeros(q.shape)
        sums, self.total = np.zeros(p), 0.0
        shift = None if mean is None else mean.astype(dtype)
        n_read = 0
        for _, rows in equal_blocks(source):
            if shift is None:
                with np.errstate(over="ignore", invalid="ignore"):
                    shift = rows.mean(axis=0, dtype=np.float64).astype(dtype)
            tiles = ZeroTiles(rows, shift, share)
            size = tiles.squares()
            if not np.isfinite(size):
                raise InputError(
                    "a vector holds NaN, infinity or a number beyond 1e18: check the descriptors"
                )
            self.total += size
            n_read += len(rows)
            if mean is None:
                sums += tiles.sums()
            tiles.add_transposed_times(tiles.times(cast), self.z)
        assert shift is not None
        if n_read != n:
            raise InputError(f"{n_read} vectors were read, expected {n}: the data changed meanwhile")
        self.mean = shift + sums / n if mean is None else mean
        away = self.mean - shift  # of the shift from the mean
        self.z -= n * np.outer(away, away @ cast.astype(np.float64))
        self.total = max(0.0, self.total - n * float(away @ away))


@contextmanager
def sharing_threads(n_threads: int) -> Iterator[Share]:
    """Return a function that shares work among threads. BLAS starts none of its own meanwhile."""
    with single_threaded_blas(), ThreadPoolExecutor(n_threads, "medvlad-pca") as pool:

        def share(function: Callable[[int], None], numbers: range) -> None:
            for _ in pool.map(function, numbers):
                pass

        yield share
