"""Figures of an evaluation as PNG: confusion matrix, ROC, precision and recall, calibration, decision values.

matplotlib (extra report) draws them without its global state. Colours are those of Okabe & Ito, which most
people with a colour deficiency can tell apart.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from medvlad._util.validate import import_extra

__all__ = ["confusion", "decision_values", "precision_recall", "reliability", "roc"]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666", "#000000")
_SIDE = 4.2  # inches
_DPI = 130
_MOST_CURVES = 16


def confusion(table: Sequence[Sequence[int]], class_names: Sequence[str]) -> bytes:
    """Draw a confusion matrix; rows are the truth, colour is the share of a row.

    Parameters
    ----------
    table : (n_classes, n_classes) of int
    class_names : sequence of str

    Returns
    -------
    bytes
        PNG.
    """
    counts = np.asarray(table)
    n = len(class_names)
    side = max(_SIDE, 1.6 + 0.55 * n)
    figure, axes = _axes(side, side)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(n, n):
        axes.text(
            j, i, str(counts[i, j]), ha="center", va="center", color="white" if share[i, j] > 0.5 else "black"
        )
    names = [_text(name) for name in class_names]
    axes.set_xticks(range(n), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), names)
    axes.set_xlabel("decided")
    axes.set_ylabel("truth")
    return _png(figure)


def roc(labels: NDArray[np.int64], decision: NDArray[np.float64], class_names: Sequence[str]) -> bytes:
    """Draw receiver operating characteristics: of two classes that of the second, else each against the rest.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
    decision : ndarray of float, shape (n, n_classes)
    class_names : sequence of str

    Returns
    -------
    bytes
        PNG.
    """
    figure, axes = _axes(_SIDE, _SIDE)
    for k, colour in _curves(labels, class_names):
        false, true, _ = roc_curve(labels == k, decision[:, k])
        axes.plot(false, true, color=colour, label=_text(class_names[k]))
        if len(class_names) == 2:
            decided = decision.argmax(axis=1) == k
            axes.plot(
                (decided & (labels != k)).sum() / (labels != k).sum(),
                (decided & (labels == k)).sum() / (labels == k).sum(),
                "o",
                color=colour,
                label="as decided",
            )
    axes.plot([0, 1], [0, 1], color="0.75", linewidth=1, zorder=0)
    _unit_axes(axes, "1 - specificity", "sensitivity")
    return _png(figure)


def precision_recall(
    labels: NDArray[np.int64], decision: NDArray[np.float64], class_names: Sequence[str]
) -> bytes:
    """Draw precision over recall; parameters and return as :func:`roc`."""
    figure, axes = _axes(_SIDE, _SIDE)
    for k, colour in _curves(labels, class_names):
        precision, recall, _ = precision_recall_curve(labels == k, decision[:, k])
        axes.plot(recall, precision, color=colour, label=_text(class_names[k]), drawstyle="steps-post")
    _unit_axes(axes, "recall (sensitivity)", "precision")
    return _png(figure)


def reliability(bins: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw how often decisions are right over how sure they are.

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
    axes.plot([0, 1], [0, 1], color="0.75", linewidth=1, zorder=0, label="perfect")
    axes.plot(confidence, right, "o-", color=_COLOURS[0], label="bins of as many images")
    _unit_axes(axes, "confidence", "share that is right")
    lowest = min(*confidence, *right)
    axes.set(xlim=(max(0, lowest - 0.05), 1.01), ylim=(max(0, lowest - 0.05), 1.01))
    return _png(figure)


def decision_values(
    labels: NDArray[np.int64],
    values: NDArray[np.float64],
    class_names: Sequence[str],
    thresholds: Mapping[str, float],
) -> bytes:
    """Draw histograms of a two-class decision value by true class, with thresholds.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
    values : ndarray of float, shape (n,)
        Above a threshold means the second class.
    class_names : sequence of str
    thresholds : dict of str to float
        By their names.

    Returns
    -------
    bytes
        PNG.
    """
    figure, axes = _axes(_SIDE, _SIDE)
    edges = np.histogram_bin_edges(values, bins=30)
    for k, name in enumerate(class_names):
        axes.hist(values[labels == k], edges, color=_COLOURS[k], alpha=0.6, label=_text(name))
    for (name, at), style in zip(thresholds.items(), ("-", "--", ":"), strict=False):
        axes.axvline(at, color="black", linestyle=style, linewidth=1.2, label=f"{name} {at:.2f}")
    axes.set_xlabel(f"decision value of {_text(class_names[1])}")
    axes.set_ylabel("images")
    axes.legend(frameon=False, fontsize=8)
    return _png(figure)


def _curves(labels: NDArray[np.int64], class_names: Sequence[str]) -> list[tuple[int, str]]:
    """Classes that have a curve, with a colour each: few enough to be told apart."""
    classes = [1] if len(class_names) == 2 else range(len(class_names))
    there = [k for k in classes if 0 < (labels == k).sum() < len(labels)]
    return [(k, _COLOURS[i % len(_COLOURS)]) for i, k in enumerate(there[:_MOST_CURVES])]


def _axes(width: float, height: float) -> tuple[Any, Any]:
    figure = import_extra("matplotlib.figure", "report", "figures").Figure(
        (width, height), layout="constrained"
    )
    return figure, figure.add_subplot()


def _unit_axes(axes: Any, x: str, y: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, loc="best")
    axes.grid(color="0.92")


def _text(name: str) -> str:
    """Return a name that matplotlib takes neither for mathematics nor for one to be left out of a legend."""
    return name.replace("$", r"\$") if not name.startswith("_") else f" {name}".replace("$", r"\$")


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
