"""Figures of an evaluation: confusion matrix, ROC, precision and recall, confidence, decision values.

Figures stay readable with many classes: names are shortened, a confusion matrix grows with the number of
classes, and curves of more than eight classes are drawn in grey except for the eight worst classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from medvlad.report.drawing import COLOURS, SIDE, Drawing, finished, new_axes, plain, unit_axes, with_legend

__all__ = [
    "MANY_CLASSES",
    "confusion",
    "confusion_figure",
    "decision_values",
    "precision_recall",
    "reliability",
    "roc",
    "short_names",
]

MANY_CLASSES = 8
"""With more classes a confusion matrix needs the whole width, and some curves are grey."""

_GREY = "0.8"
_CELL = 0.36  # inches; a cell of a confusion matrix
_SMALL_CELL = 0.26  # with many classes
_CHARACTER = 0.08  # inches; width of a character of a label
_NAME_LENGTH = 20  # characters of a class name in a figure

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def short_names(names: Sequence[str], length: int = _NAME_LENGTH) -> list[str]:
    """Shorten class names for a figure.

    Parameters
    ----------
    names : sequence of str
    length : int, default=20
        Maximum number of characters. The middle of a longer name is replaced by an ellipsis.

    Returns
    -------
    list of str
        Names that are equal after shortening get a number, so they stay different.
    """
    tail = (length - 1) // 3
    short = [name if len(name) <= length else f"{name[: length - 1 - tail]}…{name[-tail:]}" for name in names]
    counts = Counter(short)
    used: Counter[str] = Counter()
    for i, name in enumerate(short):
        if counts[name] > 1:
            used[name] += 1
            short[i] = f"{name} ({used[name]})"
    return short


def confusion(table: Sequence[Sequence[int]], class_names: Sequence[str]) -> Drawing:
    """Draw a confusion matrix.

    Rows are the truth. The colour is the share of a row. With more than eight classes, zeros are left out.

    Parameters
    ----------
    table : (n_classes, n_classes) of int
    class_names : sequence of str

    Returns
    -------
    Drawing
    """
    rows = [[name, *row] for name, row in zip(class_names, np.asarray(table).tolist(), strict=True)]
    return finished(confusion_figure(table, class_names), ["truth", *class_names], rows)


def confusion_figure(table: Sequence[Sequence[int]], class_names: Sequence[str]) -> Any:
    """Return the matplotlib figure of :func:`confusion`, of which the only axes hold the matrix."""
    counts = np.asarray(table)
    n = len(class_names)
    many = n > MANY_CLASSES
    names = [plain(name) for name in short_names(class_names)]
    if many:
        label = _CHARACTER * max(map(len, names))
        figure, axes = new_axes(0.5 + label + _SMALL_CELL * n, 0.5 + 2 * label + _SMALL_CELL * n)
    else:
        side = max(SIDE, 1.7 + _CELL * n)
        figure, axes = new_axes(side, side)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    digits = len(str(counts.max())) if counts.size else 1
    size = {"fontsize": min(8.0, 26.0 / digits)} if many else {}
    for i, j in np.ndindex(n, n):
        if many and counts[i, j] == 0:
            continue
        colour = "white" if share[i, j] > 0.5 else "black"
        axes.text(j, i, str(counts[i, j]), ha="center", va="center", color=colour, **size)
    if many:  # slanted labels of narrow columns overlap
        axes.set_xticks(range(n), names, rotation=90, fontsize=9)
        axes.tick_params(axis="x", labeltop=True, top=True)
        axes.set_yticks(range(n), names, fontsize=9)
        axes.set_xticks(np.arange(n - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(n - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="0.9", linewidth=0.5)
        axes.tick_params(which="minor", length=0)
    else:
        axes.set_xticks(range(n), names, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(n), names)
    axes.set_xlabel("decided")
    axes.set_ylabel("truth")
    return figure


def roc(
    labels: NDArray[np.int64],
    decision: NDArray[np.float64],
    class_names: Sequence[str],
    positive: int | None = None,
) -> Drawing:
    """Draw receiver operating characteristics.

    Two classes have one curve, that of the positive class. More classes have one curve each, of the class
    against all others. With more than eight classes, only the eight with the lowest AUC have a colour.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
    decision : ndarray of float, shape (n, n_classes)
    class_names : sequence of str
    positive : int or None, default=None
        Index of the positive class of two. None: the second.

    Returns
    -------
    Drawing
    """
    figure, axes = new_axes(SIDE, SIDE)

    def curve(own: NDArray[np.bool_], values: NDArray[np.float64]) -> Curve:
        false, true, _ = roc_curve(own, values)
        return false, true

    classes = _drawn_classes(class_names, positive)
    rows = _curves(axes, labels, decision, class_names, classes, curve, roc_auc_score)
    if len(classes) == 1 and 0 < (own := labels == classes[0]).sum() < len(labels):
        decided = decision.argmax(axis=1) == classes[0]
        false, true = decided[~own].mean(), decided[own].mean()
        axes.plot(false, true, "o", color=COLOURS[0], label="as decided")
    axes.plot([0, 1], [0, 1], color="0.75", linewidth=1, zorder=0)
    unit_axes(axes, "1 - specificity", "sensitivity")
    return finished(with_legend(figure, axes), ["class", "1 - specificity", "sensitivity"], rows)


def precision_recall(
    labels: NDArray[np.int64],
    decision: NDArray[np.float64],
    class_names: Sequence[str],
    positive: int | None = None,
) -> Drawing:
    """Draw precision over recall.

    Parameters, curves and return value are those of :func:`roc`. With more than eight classes, the eight with
    the lowest average precision have a colour.
    """
    figure, axes = new_axes(SIDE, SIDE)

    def curve(own: NDArray[np.bool_], values: NDArray[np.float64]) -> Curve:
        precision, recall, _ = precision_recall_curve(own, values)
        return recall, precision

    classes = _drawn_classes(class_names, positive)
    rows = _curves(
        axes, labels, decision, class_names, classes, curve, average_precision_score, drawstyle="steps-post"
    )
    unit_axes(axes, "recall (sensitivity)", "precision")
    return finished(with_legend(figure, axes), ["class", "recall", "precision"], rows)


def reliability(bins: Sequence[Mapping[str, Any]]) -> Drawing:
    """Draw the share of right decisions over their confidence.

    Parameters
    ----------
    bins : sequence of dict
        confidence, right, n; see :func:`medvlad.evaluation.calibration.calibration_metrics`.

    Returns
    -------
    Drawing
    """
    figure, axes = new_axes(SIDE, SIDE)
    confidence, right = [b["confidence"] for b in bins], [b["right"] for b in bins]
    axes.plot([0, 1], [0, 1], color="0.75", linewidth=1, zorder=0, label="perfect calibration")
    axes.plot(confidence, right, "o-", color=COLOURS[0], label="bins of equal size")
    unit_axes(axes, "confidence", "share of right decisions")
    lowest = min(*confidence, *right)
    axes.set(xlim=(max(0, lowest - 0.05), 1.01), ylim=(max(0, lowest - 0.05), 1.01))
    rows = [[b["confidence"], b["right"], b["n"]] for b in bins]
    return finished(with_legend(figure, axes), ["confidence", "share of right decisions", "images"], rows)


def decision_values(
    labels: NDArray[np.int64],
    values: NDArray[np.float64],
    class_names: Sequence[str],
    thresholds: Mapping[str, float],
    positive: int = 1,
) -> Drawing:
    """Draw histograms of a two-class decision value by true class, with thresholds.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
    values : ndarray of float, shape (n,)
        A value above the threshold means the positive class.
    class_names : sequence of str
    thresholds : dict of str to float
        By name. The first three are drawn.
    positive : int, default=1
        Index of the positive class.

    Returns
    -------
    Drawing
    """
    figure, axes = new_axes(SIDE, SIDE)
    edges = np.histogram_bin_edges(values, bins=30)
    names = short_names(class_names)
    rows: list[list[Any]] = []
    for k, name in enumerate(names):
        counts, *_ = axes.hist(values[labels == k], edges, color=COLOURS[k], alpha=0.6, label=plain(name))
        rows += [[class_names[k], *bar] for bar in zip(edges[:-1], edges[1:], map(int, counts), strict=True)]
    for (name, at), style in zip(thresholds.items(), ("-", "--", ":"), strict=False):
        axes.axvline(at, color="black", linestyle=style, linewidth=1.2, label=f"{name} {at:.2f}")
    axes.set_xlabel(f"decision value of {plain(names[positive])}")
    axes.set_ylabel("images")
    rows += [[f"threshold: {name}", at, at, None] for name, at in thresholds.items()]
    return finished(with_legend(figure, axes), ["class", "from", "to", "images"], rows)


def _drawn_classes(class_names: Sequence[str], positive: int | None) -> Sequence[int]:
    """Return the classes that have a curve: of two only the positive one."""
    if len(class_names) != 2:
        return range(len(class_names))
    return [1 if positive is None else positive]


def _curves(
    axes: Any,
    labels: NDArray[np.int64],
    decision: NDArray[np.float64],
    class_names: Sequence[str],
    classes: Sequence[int],
    curve: Callable[[NDArray[np.bool_], NDArray[np.float64]], Curve],
    score: Callable[[NDArray[np.bool_], NDArray[np.float64]], float],
    **style: Any,
) -> list[list[Any]]:
    """Draw one curve for each class that has images and is not the only one. Grey marks the better ones.

    Return the points of all curves: class, x and y.
    """
    drawn = [k for k in classes if 0 < (labels == k).sum() < len(labels)]
    coloured = drawn
    if len(drawn) > MANY_CLASSES:
        coloured = sorted(drawn, key=lambda k: score(labels == k, decision[:, k]))[:MANY_CLASSES]
    names = short_names(class_names)
    others = [k for k in drawn if k not in coloured]
    points = {k: curve(labels == k, decision[:, k]) for k in drawn}
    for k in others:
        axes.plot(
            *points[k],
            color=_GREY,
            linewidth=0.8,
            zorder=1,
            label=f"{len(others)} other classes" if k == others[0] else None,
            **style,
        )
    for k, colour in zip(coloured, COLOURS, strict=False):
        axes.plot(*points[k], color=colour, label=plain(names[k]), **style)
    return [[class_names[k], x, y] for k in drawn for x, y in zip(*points[k], strict=True)]
