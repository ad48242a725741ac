"""Problems for the linear SVM, its timed implementations, and the duality gap that proves a solution.

The primal and the dual of the squared hinge loss, with rows x_i, an appended 1 for the intercept, and labels
y_i of 1 or -1, are

    P(w) = |w|^2 / 2 + C sum_i max(0, 1 - y_i w.x_i)^2
    D(a) = sum_i a_i - |sum_i a_i y_i x_i|^2 / 2 - sum_i a_i^2 / (4 C),    a_i >= 0

D(a) <= P(w) for all a and w, with equality at the solution, where a_i = 2 C max(0, 1 - y_i w.x_i) and
w = sum_i a_i y_i x_i. So (P - D) / P of a computed w, with these a, bounds how far P is from its minimum. It
is computed here in float64, whatever the implementation computed in.
"""

from __future__ import annotations

import time
import warnings
from typing import Any, NamedTuple

import numpy as np

#: Largest relative duality gap of a solution.
GAP = 1e-8
#: Number of columns that are converted to float64 at a time.
_COLUMNS = 4096


class SvmCase(NamedTuple):
    """Size of a problem."""

    n: int
    d: int
    classes: int = 3

    def __str__(self):
        return f"{self.n}x{self.d}"


SMALL = SvmCase(1000, 32_768)
#: Kvasir with VLAD of 256 centres: 3.4 GB.
LARGE = SvmCase(6400, 131_072, 10)
#: Free memory that the large case needs, in bytes.
LARGE_BYTES = 9 << 30


def make(case, seed=0):
    """Return rows (n, d) float32 of unit length and labels (n,). The classes overlap."""
    rng = np.random.default_rng(seed)
    y = np.arange(case.n) % case.classes
    means = rng.standard_normal((case.classes, case.d), np.float32)
    x = np.empty((case.n, case.d), np.float32)
    for start in range(0, case.n, 256):
        part = slice(start, start + 256)
        x[part] = rng.standard_normal(x[part].shape, np.float32)
        x[part] += 0.02 * means[y[part]]
        x[part] /= np.linalg.norm(x[part], axis=1, keepdims=True)
    return x, y


def relative_gap(x, y, coef, intercept, C=1.0):
    """Return the largest relative duality gap of all problems "class k against the others", in float64."""
    n, d = x.shape
    scores = np.tile(np.asarray(intercept, np.float64), (n, 1))
    for at in range(0, d, _COLUMNS):
        columns = slice(at, at + _COLUMNS)
        scores += x[:, columns].astype(np.float64) @ np.asarray(coef[:, columns], np.float64).T
    signs = np.where(y[:, None] == np.unique(y), 1.0, -1.0)
    losses = np.maximum(0, 1 - signs * scores)
    primal = 0.5 * ((np.asarray(coef, np.float64) ** 2).sum(axis=1) + intercept**2) + C * (losses**2).sum(
        axis=0
    )
    alphas = 2 * C * losses
    weighted = alphas * signs
    squares = weighted.sum(axis=0) ** 2  # of the appended 1
    for at in range(0, d, _COLUMNS):
        squares += ((weighted.T @ x[:, at : at + _COLUMNS].astype(np.float64)) ** 2).sum(axis=1)
    dual = alphas.sum(axis=0) - 0.5 * squares - (alphas**2).sum(axis=0) / (4 * C)
    return float(((primal - dual) / primal).max())


def warm_up():
    """Fit a tiny problem with all implementations, which imports their modules and starts threads."""
    for name in IMPLEMENTATIONS:
        fit(name, *make(SvmCase(30, 100)))


class Fitted(NamedTuple):
    """One fit of one implementation."""

    seconds: float
    gap: float
    told_gap: float | None
    """The attribute `dual_gap_`, if the estimator has it."""


def fit(name, x, y) -> Fitted:
    """Fit one implementation to rows (n, d) float32 and prove its solution."""
    model, rows = IMPLEMENTATIONS[name](), x
    if name.endswith("float64"):
        rows = x.astype(np.float64)  # not timed: the rows of such a user are float64 already
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LIBLINEAR may reach its limit of steps; the gap is in the table
        begin = time.perf_counter()
        model.fit(rows, y)
        seconds = time.perf_counter() - begin
    told: Any = getattr(model, "dual_gap_", None)
    gap = relative_gap(x, y, model.coef_, model.intercept_)
    return Fitted(seconds, gap, None if told is None else float(np.max(told)))


def _medvlad():
    from medvlad import WideLinearSVC

    return WideLinearSVC()


def _scikit_learn():
    from sklearn.svm import LinearSVC

    return LinearSVC(dual=True, random_state=0)


IMPLEMENTATIONS = {
    "medvlad": _medvlad,
    "medvlad, float64": _medvlad,
    "scikit-learn": _scikit_learn,
}
#: What must be as exact as GAP says. LIBLINEAR stops at its own tolerance.
EXACT = ("medvlad", "medvlad, float64")
