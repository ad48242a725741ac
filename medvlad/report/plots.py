"""Figures of an evaluation as PNG: confusion matrix, ROC, precision and recall, calibration, decision values.

matplotlib (extra ``report``) draws them without its global state. The colours are those of Okabe & Ito, which
most people with a colour vision deficiency can tell apart. Legends are below the axes, so they hide no data.

Figures stay readable with many classes: names are shortened, a confusion matrix grows with the number of
classes, and curves of more than eight classes are drawn in grey except for the eight worst classes.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from medvlad._util.validate import import_extra

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

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666", "#000000")
_GREY = "0.8"
_SIDE = 4.2  # inches
_DPI = 130
_CELL = 0.36  # inches; a cell of a confusion matrix
_SMALL_CELL = 0.26  # with many classes
_CHARACTER = 0.08  # inches; width of a character of a label
_NAME_LENGTH = 20  # characters of a class name in a figure
_LEGEND_FONT = 10
_LEGEND_LINE = 0.205  # inches
_WIDE_NAME = 13  # characters; a legend with longer names has one column

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


def confusion(table: Sequence[Sequence[int]], class_names: Sequence[str]) -> bytes:
    """Draw a confusion matrix.

    Rows are the truth. The colour is the share of a row. With more than eight classes, zeros are left out.

    Parameters
    ----------
    table : (n_classes, n_classes) of int
    class_names : sequence of str

    Returns
    -------
    bytes
        PNG.
    """
    return _png(confusion_figure(table, class_names))


def confusion_figure(table: Sequence[Sequence[int]], class_names: Sequence[str]) -> Any:
    """Return the matplotlib figure of :func:`confusion`, of which the only axes hold the matrix."""
    counts = np.asarray(table)
    n = len(class_names)
    many = n > MANY_CLASSES
    names = [_text(name) for name in short_names(class_names)]
    if many:
        label = _CHARACTER * max(map(len, names))
        figure, axes = _axes(0.5 + label + _SMALL_CELL * n, 0.5 + 2 * label + _SMALL_CELL * n)
    else:
        side = max(_SIDE, 1.7 + _CELL * n)
        figure, axes = _axes(side, side)
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
) -> bytes:
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
    bytes
        PNG.
    """
    figure, axes = _axes(_SIDE, _SIDE)

    def curve(own: NDArray[np.bool_], values: NDArray[np.float64]) -> Curve:
        false, true, _ = roc_curve(own, values)
        return false, true

    classes = _drawn_classes(class_names, positive)
    _curves(axes, labels, decision, class_names, classes, curve, roc_auc_score)
    if len(classes) == 1 and 0 < (own := labels == classes[0]).sum() < len(labels):
        decided = decision.argmax(axis=1) == classes[0]
        false, true = decided[~own].mean(), decided[own].mean()
        axes.plot(false, true, "o", color=_COLOURS[0], label="as decided")
    axes.plot([0, 1], [0, 1], color="0.75", linewidth=1, zorder=0)
    _unit_axes(axes, "1 - specificity", "sensitivity")
    return _png(_with_legend(figure, axes))


def precision_recall(
    labels: NDArray[np.int64],
    decision: NDArray[np.float64],
    class_names: Sequence[str],
    positive: int | None = None,
) -> bytes:
    """Draw precision over recall.

    Parameters, curves and return value are those of :func:`roc`. With more than eight classes, the eight with
    the lowest average precision have a colour.
    """
    figure, axes = _axes(_SIDE, _SIDE)

    def curve(own: NDArray[np.bool_], values: NDArray[np.float64]) -> Curve:
        precision, recall, _ = precision_recall_curve(own, values)
        return recall, precision

    classes = _drawn_classes(class_names, positive)
    _curves(
        axes, labels, decision, class_names, classes, curve, average_precision_score, drawstyle="steps-post"
    )
    _unit_axes(axes, "recall (sensitivity)", "precision")
    return _png(_with_legend(figure, axes))


def reliability(bins: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw the share of right decisions over their confidence.

    Parameters
    ----------
    bins : sequence of dict
        confidence, right, n; see :func:`medvlad.evaluation.calibration.calibration_metrics`.

    Returns
    -------
    bytes
        PNG.
    """
    figure, axes = _axes(_SIDE, _SIDE)
    confidence, right = [b["confidence"] for b in bins], [b["right"] for b in bins]
    axes.plot([0, 1], [0, 1], color="0.75", linewidth=1, zorder=0, label="perfect calibration")
    axes.plot(confidence, right, "o-", color=_COLOURS[0], label="bins of equal size")
    _unit_axes(axes, "confidence", "share of right decisions")
    lowest = min(*confidence, *right)
    axes.set(xlim=(max(0, lowest - 0.05), 1.01), ylim=(max(0, lowest - 0.05), 1.01))
    return _png(_with_legend(figure, axes))


def decision_values(
    labels: NDArray[np.int64],
    values: NDArray[np.float64],
    class_names: Sequence[str],
    thresholds: Mapping[str, float],
    positive: int = 1,
) -> bytes:
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
    bytes
        PNG.
    """
    figure, axes = _axes(_SIDE, _SIDE)
    edges = np.histogram_bin_edges(values, bins=30)
    names = short_names(class_names)
    for k, name in enumerate(names):
        axes.hist(values[labels == k], edges, color=_COLOURS[k], alpha=0.6, label=_text(name))
    for (name, at), style in zip(thresholds.items(), ("-", "--", ":"), strict=False):
        axes.axvline(at, color="black", linestyle=style, linewidth=1.2, label=f"{name} {at:.2f}")
    axes.set_xlabel(f"decision value of {_text(names[positive])}")
    axes.set_ylabel("images")
    return _png(_with_legend(figure, axes))


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
) -> None:
    """Draw one curve for each class that has images and is not the only one. Grey marks the better ones."""
    drawn = [k for k in classes if 0 < (labels == k).sum() < len(labels)]
    coloured = drawn
    if len(drawn) > MANY_CLASSES:
        coloured = sorted(drawn, key=lambda k: score(labels == k, decision[:, k]))[:MANY_CLASSES]
    names = short_names(class_names)
    others = [k for k in drawn if k not in coloured]
    for k in others:
        axes.plot(
            *curve(labels == k, decision[:, k]),
            color=_GREY,
            linewidth=0.8,
            zorder=1,
            label=f"{len(others)} other classes" if k == others[0] else None,
            **style,
        )
    for k, colour in zip(coloured, _COLOURS, strict=False):
        axes.plot(*curve(labels == k, decision[:, k]), color=colour, label=_text(names[k]), **style)


def _axes(width: float, height: float) -> tuple[Any, Any]:
    figure = import_extra("matplotlib.figure", "report", "figures").Figure(
        (width, height), layout="constrained"
    )
    return figure, figure.add_subplot()


def _unit_axes(axes: Any, x: str, y: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)
    axes.grid(color="0.92")


def _with_legend(figure: Any, axes: Any) -> Any:
    """Put a legend below the axes. The figure grows by its height, so the axes keep their size."""
    handles, names = axes.get_legend_handles_labels()
    if not handles:
        return figure
    columns = 1 if max(map(len, names)) > _WIDE_NAME else 2
    columns = min(columns, len(names))
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + _LEGEND_LINE * -(-len(names) // columns))
    figure.legend(
        handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=_LEGEND_FONT
    )
    return figure


def _text(name: str) -> str:
    """Return a name that matplotlib shows as it is: no mathematics, and not left out of a legend."""
    return name.replace("$", r"\$") if not name.startswith("_") else f" {name}".replace("$", r"\$")


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
