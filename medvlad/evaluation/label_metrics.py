r"""Metrics of several labels, any number of which an image may have.

Each label is measured on the images for which it is known. Intervals are by patient, see
:mod:`medvlad.evaluation.intervals`.

- *macro*: the mean over the labels. Rare and frequent labels have the same weight.
- *micro*: all known pairs of an image and a label together. Frequent labels dominate. AUC and average
  precision are those of the probabilities, because decision values of different labels have different scales.

**Calibration** of the probabilities :math:`p_i` of one label, with :math:`y_i` 1 or 0:

.. math::

   \text{Brier score} &= \frac{1}{n} \sum_i (p_i - y_i)^2

   \text{log loss} &= -\frac{1}{n} \sum_i \left( y_i \log p_i + (1 - y_i) \log (1 - p_i) \right)

   \text{expected calibration error} &= \sum_b \frac{n_b}{n} \, |\bar y_b - \bar p_b|

The bins :math:`b` are at most ten of about equal size :math:`n_b`, sorted by :math:`p`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from medvlad._util.text_table import text_table
from medvlad.evaluation.intervals import (
    Estimate,
    auc_estimate,
    mean_estimate,
    patient_numbers,
    proportion_estimate,
    with_intervals,
)

__all__ = ["label_aucs", "label_calibration", "label_scores", "label_table", "macro_auc"]

Matrix = NDArray[np.float64]
Flags = NDArray[np.bool_]

_BINS = 10
_SAME = 1e-12  # probabilities that differ by less are equal, apart from rounding
_MEANS = ("auc", "average_precision", "sensitivity", "specificity")


def label_scores(
    targets: Matrix,
    decision: Matrix,
    probability: Matrix,
    predicted: Flags,
    names: Sequence[str],
    *,
    groups: NDArray[Any] | None = None,
) -> dict[str, Any]:
    """Return the metrics of several labels.

    Parameters
    ----------
    targets : ndarray of float, shape (n, n_labels)
        1 or 0. NaN: not known; such a pair does not count.
    decision, probability : ndarray of float, shape (n, n_labels)
        The probabilities of an image need not add up to 1.
    predicted : ndarray of bool, shape (n, n_labels)
    names : sequence of str
    groups : ndarray of shape (n,), or None
        Patient of each image. None: each image is a patient of its own.

    Returns
    -------
    dict
        labels: a list with one dict for each label, with label, n (images for which it is known), n_positive,
        prevalence, n_patients and n_positive_patients (their patients; images without `groups`), auc,
        average_precision, sensitivity, specificity, precision and calibration.
        macro: n_labels, auc, average_precision, sensitivity and specificity, over the labels for which all of
        these are defined; left_out names the others. micro: n, the same metrics, and calibration.

        Each metric but average precision has its 95 % interval, such as auc_ci95, see
        :func:`medvlad.evaluation.metrics.scores`. ci95_of is "patients", or "images" without `groups`.
    """
    patients = patient_numbers(groups, len(targets))
    n_patients = int(patients.max()) + 1
    listed, estimates = [], []
    for k, name in enumerate(names):
        known = ~np.isnan(targets[:, k])
        found, described = _binary_scores(
            targets[known, k] == 1, decision[known, k], predicted[known, k], patients[known], n_patients
        )
        estimates.append(found)
        listed.append({"label": name} | described)
        if known.any():
            listed[-1]["calibration"] = label_calibration(targets[known, k] == 1, probability[known, k])
    known = ~np.isnan(targets)
    pairs = np.nonzero(known)
    _, micro = _binary_scores(
        targets[known] == 1, probability[known], predicted[known], patients[pairs[0]], n_patients
    )
    if known.any():
        micro["calibration"] = label_calibration(targets[known] == 1, probability[known])
    return {
        "labels": listed,
        "macro": _macro(listed, estimates),
        "micro": micro,
        "ci95_of": "images" if groups is None else "patients",
    }


def _binary_scores(
    truth: Flags, values: Matrix, predicted: Flags, patients: NDArray[np.intp], n_patients: int
) -> tuple[dict[str, Estimate], dict[str, Any]]:
    """Return the estimates of one label, over all patients, and the entry of results.json."""
    if len(truth) == 0:
        nothing = Estimate(None, None, "it is not known for any test image", np.zeros(n_patients))
        estimates = dict.fromkeys(("auc", "sensitivity", "specificity", "precision"), nothing)
    else:
        estimates = {
            "auc": auc_estimate(truth, values, patients),
            "sensitivity": proportion_estimate(predicted, patients, truth),
            "specificity": proportion_estimate(~predicted, patients, ~truth),
            "precision": proportion_estimate(truth, patients, predicted),
        }
    estimates = {name: _of_all(one, n_patients) for name, one in estimates.items()}
    mixed = bool(truth.any() and not truth.all())
    described = {
        "n": len(truth),
        "n_positive": int(truth.sum()),
        "n_patients": len(np.unique(patients)),
        "n_positive_patients": len(np.unique(patients[truth])),
        "prevalence": float(truth.mean()) if len(truth) else None,
    }
    described |= with_intervals(estimates)
    described["average_precision"] = float(average_precision_score(truth, values)) if mixed else None
    return estimates, described


def _of_all(one: Estimate, n_patients: int) -> Estimate:
    """Return an estimate whose influences are over all patients, as the means over labels need it."""
    return replace(one, influence=np.pad(one.influence, (0, n_patients - len(one.influence))))


def _macro(listed: Sequence[Mapping[str, Any]], estimates: Sequence[dict[str, Estimate]]) -> dict[str, Any]:
    defined = [all(one[metric] is not None for metric in _MEANS) for one in listed]
    left_out = [one["label"] for one, whole in zip(listed, defined, strict=True) if not whole]
    used = [found for found, whole in zip(estimates, defined, strict=True) if whole]
    if not used:
        return {"n_labels": 0, "left_out": left_out} | dict.fromkeys(_MEANS)
    means = {
        metric: mean_estimate([one[metric] for one in used])
        for metric in ("auc", "sensitivity", "specificity")
    }
    precisions = [one["average_precision"] for one, whole in zip(listed, defined, strict=True) if whole]
    return (
        {"n_labels": len(used), "left_out": left_out}
        | with_intervals(means)
        | {"average_precision": float(np.mean(precisions))}
    )


def macro_auc(targets: Matrix, decision: Matrix, groups: NDArray[Any] | None = None) -> Estimate:
    """Return the mean AUC over the labels for which it is defined, with its interval and influences.

    Parameters are those of :func:`label_scores`.
    """
    patients = patient_numbers(groups, len(targets))
    n_patients = int(patients.max()) + 1
    found = []
    for k in range(targets.shape[1]):
        known = ~np.isnan(targets[:, k])
        truth = targets[known, k] == 1
        if truth.any() and not truth.all():
            found.append(_of_all(auc_estimate(truth, decision[known, k], patients[known]), n_patients))
    if not found:
        return Estimate(None, None, "no label has both kinds of images", np.zeros(n_patients))
    return mean_estimate(found)


def label_aucs(targets: Matrix, decision: Matrix) -> Matrix:
    """Return the AUC of each label, NaN where it is not defined. Pairs with a NaN do not count."""
    aucs = np.full(targets.shape[1], np.nan)
    for k in range(targets.shape[1]):
        known = ~np.isnan(targets[:, k]) & ~np.isnan(decision[:, k])
        truth = targets[known, k] == 1
        if truth.any() and not truth.all():
            value = auc_estimate(truth, decision[known, k], np.arange(len(truth))).value
            aucs[k] = np.nan if value is None else value
    return aucs


def label_calibration(truth: Flags, probability: Matrix) -> dict[str, Any]:
    """Return the quality of probabilities of one label; the module docstring has the formulas.

    Parameters
    ----------
    truth : ndarray of bool, shape (n,)
    probability : ndarray of float, shape (n,)

    Returns
    -------
    dict
        brier, log_loss, expected_calibration_error, and bins: a list of dicts with probability (mean),
        observed (share of images with the label) and n.
    """
    tiny = np.finfo(np.float64).tiny
    right = np.where(truth, probability, 1.0 - probability)
    bins = [
        {
            "probability": float(probability[rows].mean()),
            "observed": float(truth[rows].mean()),
            "n": len(rows),
        }
        for rows in _bins(probability)
    ]
    return {
        "brier": float(((probability - truth) ** 2).mean()),
        "log_loss": float(-np.log(np.maximum(right, tiny)).mean()),
        "expected_calibration_error": sum(
            one["n"] * abs(one["observed"] - one["probability"]) for one in bins
        )
        / len(truth),
        "bins": bins,
    }


def _bins(probability: Matrix) -> list[NDArray[np.intp]]:
    """Return the images of each bin: about equally many, cut between different probabilities only."""
    order = np.argsort(probability, kind="stable")
    changes = np.flatnonzero(np.diff(probability[order]) > _SAME) + 1
    if len(changes) == 0:
        return [order]
    wanted = np.arange(1, _BINS) * len(order) / _BINS
    nearest = np.abs(changes[:, None] - wanted).argmin(axis=0)
    return [rows for rows in np.split(order, np.unique(changes[nearest])) if len(rows)]


def label_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a plain-text table with one line for each encoding and label, and for macro and micro averages.

    Parameters
    ----------
    results : sequence of dict
        The `results` of :meth:`medvlad.experiment.Experiment.evaluate` for several labels.
    """
    header = [
        "encode",
        "label",
        "images",
        "with it",
        "AUC",
        "95 % interval",
        "AP",
        "sensitivity",
        "specificity",
    ]
    rows = []
    for one in results:
        lines = [(label["label"], label) for label in one["labels"]]
        for name, of in [*lines, ("macro average", one["macro"]), ("micro average", one["micro"])]:
            ends = of.get("auc_ci95")
            share = of.get("prevalence")
            rows.append(
                [
                    one["encode"],
                    name,
                    of.get("n"),
                    None if share is None else f"{share:.1%}",
                    _shown(of["auc"]),
                    None if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}",
                    *(_shown(of[metric]) for metric in ("average_precision", "sensitivity", "specificity")),
                ]
            )
    return text_table(header, rows)


def _shown(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
