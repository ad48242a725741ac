"""Figures for a paper: calibration of a class, decision curve, learning curve, and metrics of subgroups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medvlad.report.drawing import COLOURS, SIDE, Drawing, finished, new_axes, plain, unit_axes, with_legend

__all__ = ["calibration_plot", "decision_plot", "learning_plot", "subgroup_plot"]

_ROW = 0.26  # inches; a row of a figure of subgroups
_MOST_ROWS = 40
_LONGEST = 28  # characters of a subgroup's name
_LEAST_TOP = 0.05  # of the axis of net benefit


def calibration_plot(found: Mapping[str, Any], name: str) -> Drawing:
    """Draw the observed share of a class over its probability, with intervals.

    Parameters
    ----------
    found : dict
        What :func:`medvlad.evaluation.recalibration.recalibration` returned.
    name : str
        Name of the class.

    Returns
    -------
    Drawing
    """
    figure, axes = new_axes()
    bins = found["bins"]
    x, y = (np.array([one[key] for one in bins]) for key in ("probability", "observed"))
    ends = np.array([one["observed_ci95"] or [one["observed"]] * 2 for one in bins])
    axes.plot([0, 1], [0, 1], color="0.75", linewidth=1, zorder=0, label="perfect calibration")
    reach = np.abs(ends - y[:, None]).T
    axes.errorbar(x, y, reach, fmt="o", color=COLOURS[0], capsize=2, linewidth=1, label="bins, 95 % interval")
    unit_axes(axes, f"probability of {plain(_short(name))}", f"observed share of {plain(_short(name))}")
    header = ["probability", "observed", "observed from", "observed to", "images"]
    rows = [[*point, one["n"]] for point, one in zip(np.column_stack([x, y, ends]), bins, strict=True)]
    return finished(with_legend(figure, axes), header, rows)


def decision_plot(found: Mapping[str, Any]) -> Drawing:
    """Draw the net benefit over the threshold, and that of acting on all images and on none.

    Parameters
    ----------
    found : dict
        What :func:`medvlad.evaluation.decision_curve.decision_curve` returned.

    Returns
    -------
    Drawing
    """
    figure, axes = new_axes()
    threshold = found["threshold"]
    axes.fill_between(threshold, found["low"], found["high"], color=COLOURS[0], alpha=0.2, linewidth=0)
    axes.plot(threshold, found["net_benefit"], color=COLOURS[0], label="act by probability")
    axes.plot(threshold, found["all"], color=COLOURS[1], linestyle="--", label="act on all")
    axes.axhline(0, color="black", linewidth=1, label="act on none")
    top = max(_LEAST_TOP, *found["net_benefit"], found["all"][0])
    # Further down every curve only says that acting is worse than not acting.
    axes.set(xlim=(0, 1), ylim=(-0.25 * top, 1.1 * top), xlabel="threshold of the probability")
    axes.set_ylabel("net benefit")
    axes.grid(color="0.92")
    keys = ("threshold", "net_benefit", "low", "high", "all")
    rows = zip(*(found[key] for key in keys), strict=True)
    header = ["threshold", "net benefit", "from", "to", "net benefit of acting on all"]
    return finished(with_legend(figure, axes), header, rows)


def learning_plot(found: Sequence[Mapping[str, Any]]) -> Drawing:
    """Draw metrics over the number of training images. A line is the mean, a dot is one repetition.

    Parameters
    ----------
    found : sequence of dict
        What :func:`medvlad.evaluation.learning_curve.learning_curve` returned.

    Returns
    -------
    Drawing
    """
    figure, axes = new_axes()
    n_images = np.array([one["n_images"] for one in found])
    # Subsets of the same share have about the same size in all repetitions.
    share = np.array([one["share"] for one in found])
    sizes = [share == one for one in np.unique(share)]
    for (metric, label), colour in zip(
        (("balanced_accuracy", "balanced accuracy"), ("auc", "AUC")), COLOURS, strict=False
    ):
        values = np.array([np.nan if one[metric] is None else one[metric] for one in found], np.float64)
        if np.isnan(values).all():
            continue
        means = [(n_images[own].mean(), values[own].mean()) for own in sizes]
        axes.plot(n_images, values, ".", color=colour, alpha=0.4)
        axes.plot(*zip(*means, strict=True), "o-", color=colour, label=label)
    axes.set_xscale("log", base=2)
    ticks = sorted({round(float(n_images[own].mean())) for own in sizes})
    axes.set_xticks(ticks, [str(one) for one in ticks])
    axes.minorticks_off()
    axes.set(xlabel="training images", ylabel="on the test images")
    axes.grid(color="0.92")
    header = ["repetition", "training images", "training patients", "accuracy", "balanced accuracy", "AUC"]
    keys = ("n_images", "n_patients", "accuracy", "balanced_accuracy", "auc")
    rows = [[one["repeat"] + 1, *(one[key] for key in keys)] for one in found]
    return finished(with_legend(figure, axes), header, rows)


def subgroup_plot(tables: Mapping[str, Sequence[Mapping[str, Any]]], overall: Mapping[str, Any]) -> Drawing:
    """Draw the balanced accuracy of each subgroup with its interval, beside that of all test images.

    Parameters
    ----------
    tables : mapping
        See :func:`medvlad.evaluation.subgroups.subgroup_metrics`. The first forty subgroups are drawn.
    overall : mapping
        Metrics of all test images.

    Returns
    -------
    Drawing
        Its numbers are those of all subgroups and metrics.
    """
    listed = [(name, row) for name, rows in tables.items() for row in rows]
    shown = listed[:_MOST_ROWS]
    figure, axes = new_axes(1.4 * SIDE, 1.1 + _ROW * len(shown))
    for at, (_, row) in enumerate(shown):
        value, ends = row["balanced_accuracy"], row["balanced_accuracy_ci95"]
        faint = {"color": COLOURS[0], "alpha": 0.45 if row["warning"] else 1.0}
        if ends is not None:
            axes.plot(ends, [at, at], linewidth=2, **faint)
        axes.plot([value], [at], "o", **faint)
    axes.axvline(overall["balanced_accuracy"], color="0.6", linestyle="--", label="all test images")
    labels = [f"{_short(name)}: {_short(row['value'])} ({row['n']})" for name, row in shown]
    axes.set_yticks(range(len(shown)), [plain(label) for label in labels])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set(xlim=(-0.01, 1.01), xlabel="balanced accuracy")
    axes.grid(axis="x", color="0.92")
    return finished(with_legend(figure, axes), *subgroup_numbers(listed))


def subgroup_numbers(
    listed: Sequence[tuple[str, Mapping[str, Any]]],
) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of all subgroups as a table."""
    metrics = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auc")
    header = ["covariate", "value", "images", "patients"]
    for metric in metrics:
        name = metric.replace("_", " ")
        header += [name, f"{name} from", f"{name} to"]
    rows = []
    for name, row in listed:
        cells = [name, row["value"], row["n"], row["n_patients"]]
        for metric in metrics:
            cells += [row[metric], *(row[f"{metric}_ci95"] or (None, None))]
        rows.append([*cells, row["warning"]])
    return [*header, "warning"], rows


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
