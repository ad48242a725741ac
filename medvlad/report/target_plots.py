"""Figures of several labels and of numbers as PNG. See :mod:`medvlad.report.plots` for their style."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from medvlad._util.validate import import_extra
from medvlad.report.plots import MANY_CLASSES, short_names

__all__ = [
    "aucs_of_labels",
    "calibration_of_labels",
    "errors_over_truth",
    "predicted_over_truth",
    "roc_of_labels",
]

Matrix = NDArray[np.float64]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666", "#000000")
_GREY = "0.8"
_SIDE = 4.2  # inches
_ROW = 0.26  # inches; a label of the figure of AUCs
_LEGEND_LINE = 0.205  # inches
_DPI = 130
_MANY_POINTS = 3000  # with more images, points are drawn with less ink


def aucs_of_labels(labels: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw the AUC of each label with its interval, the first label on top.

    Parameters
    ----------
    labels : sequence of dict
        label, auc and auc_ci95, see :func:`medvlad.evaluation.label_metrics.label_scores`.

    Returns
    -------
    bytes
        PNG.
    """
    defined = [one for one in labels if one["auc"] is not None]
    names = short_names([str(one["label"]) for one in defined])
    figure, axes = _axes(_SIDE, max(_SIDE, 1.0 + _ROW * len(defined)))
    lowest = 0.5
    for row, one in enumerate(defined):
        if one["auc_ci95"] is not None:
            axes.plot(one["auc_ci95"], [row, row], color=_COLOURS[0], linewidth=1.5)
            lowest = min(lowest, one["auc_ci95"][0])
        axes.plot(one["auc"], row, "o", color=_COLOURS[0])
        lowest = min(lowest, one["auc"])
    axes.axvline(0.5, color="0.75", linewidth=1, zorder=0)
    axes.set_yticks(range(len(names)), [_text(name) for name in names])
    axes.set(xlim=(lowest - 0.01, 1.01), ylim=(len(names) - 0.5, -0.5), xlabel="AUC")
    axes.grid(color="0.92", axis="x")
    return _png(figure)


def roc_of_labels(truth: Matrix, decision: Matrix, names: Sequence[str]) -> bytes:
    """Draw a receiver operating characteristic of each label.

    Parameters
    ----------
    truth : ndarray of float, shape (n, n_labels)
        1, 0, or NaN (not known).
    decision : ndarray of float, shape (n, n_labels)
    names : sequence of str
        The first eight labels have a colour.

    Returns
    -------
    bytes
        PNG.
    """
    figure, axes = _axes(_SIDE, _SIDE)
    shown = short_names(names)
    others = 0
    for k in range(len(names)):
        known = ~np.isnan(truth[:, k])
        own = truth[known, k] == 1
        if own.all() or not own.any():
            continue
        false, true, _ = roc_curve(own, decision[known, k])
        if k < MANY_CLASSES:
            axes.plot(false, true, color=_COLOURS[k], label=_text(shown[k]))
        else:
            label = f"{len(names) - MANY_CLASSES} other labels" if others == 0 else None
            axes.plot(false, true, color=_GREY, linewidth=0.8, zorder=1, label=label)
            others += 1
    axes.plot([0, 1], [0, 1], color="0.75", linewidth=1, zorder=0)
    _unit_axes(axes, "1 - specificity", "sensitivity")
    return _png(_with_legend(figure, axes))


def calibration_of_labels(labels: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw the observed share of each label over its mean probability.

    Parameters
    ----------
    labels : sequence of dict
        label and calibration, see :func:`medvlad.evaluation.label_metrics.label_calibration`. The first eight
        labels have a colour.

    Returns
    -------
    bytes
        PNG.
    """
    figure, axes = _axes(_SIDE, _SIDE)
    shown = short_names([str(one["label"]) for one in labels])
    axes.plot([0, 1], [0, 1], color="0.75", linewidth=1, zorder=0)
    for k, one in enumerate(labels):
        if "calibration" not in one:
            continue
        bins = one["calibration"]["bins"]
        points = [b["probability"] for b in bins], [b["observed"] for b in bins]
        if k < MANY_CLASSES:
            axes.plot(*points, "o-", color=_COLOURS[k], markersize=3, linewidth=1, label=_text(shown[k]))
        else:
            label = f"{len(labels) - MANY_CLASSES} other labels" if k == MANY_CLASSES else None
            axes.plot(*points, color=_GREY, linewidth=0.8, zorder=1, label=label)
    _unit_axes(axes, "probability", "share of images with the label")
    return _png(_with_legend(figure, axes))


def predicted_over_truth(truth: Matrix, predicted: Matrix, name: str) -> bytes:
    """Draw predicted numbers over true ones, both (n,). Return PNG."""
    figure, axes = _axes(_SIDE, _SIDE)
    low, high = float(min(truth.min(), predicted.min())), float(max(truth.max(), predicted.max()))
    margin = 0.03 * (high - low or 1.0)
    axes.plot([low, high], [low, high], color="0.6", linewidth=1, zorder=0, label="perfect prediction")
    _points(axes, truth, predicted)
    axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin))
    axes.set(xlabel=f"true {_text(name)}", ylabel=f"predicted {_text(name)}")
    axes.grid(color="0.92")
    return _png(_with_legend(figure, axes))


def errors_over_truth(truth: Matrix, predicted: Matrix, name: str) -> bytes:
    """Draw predicted minus true over the true number, both (n,), with the mean error. Return PNG."""
    figure, axes = _axes(_SIDE, _SIDE)
    error = predicted - truth
    axes.axhline(0.0, color="0.6", linewidth=1, zorder=0)
    axes.axhline(float(error.mean()), color=_COLOURS[1], label=f"mean error {error.mean():+.3g}")
    _points(axes, truth, error)
    axes.set(xlabel=f"true {_text(name)}", ylabel="predicted minus true")
    axes.grid(color="0.92")
    return _png(_with_legend(figure, axes))


def _points(axes: Any, x: Matrix, y: Matrix) -> None:
    many = len(x) > _MANY_POINTS
    axes.scatter(
        x, y, s=4 if many else 12, alpha=0.15 if many else 0.5, color=_COLOURS[0], linewidth=0, zorder=2
    )


def _axes(width: float, height: float) -> tuple[Any, Any]:
    figures = import_extra("matplotlib.figure", "report", "figures")
    figure = figures.Figure((width, height), layout="constrained")
    return figure, figure.add_subplot()


def _unit_axes(axes: Any, x: str, y: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)
    axes.grid(color="0.92")


def _with_legend(figure: Any, axes: Any) -> Any:
    """Put a legend below the axes, which keep their size."""
    handles, names = axes.get_legend_handles_labels()
    if handles:
        columns = min(2, len(names))
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + _LEGEND_LINE * -(-len(names) // columns))
        figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=10)
    return figure


def _text(name: str) -> str:
    """Return a name that matplotlib shows as it is."""
    shown = name.replace("$", r"\$")
    return f" {shown}" if name.startswith("_") else shown


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
