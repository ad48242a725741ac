"""Metrics of subgroups: by site, and by each covariate of the data set.

Subgroups differ by chance as well. A table of many small groups shows large differences even if a classifier
is equally good in all of them. So every metric has its interval by patient, and small groups have a warning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad.datasets.folders import ImageFolder
from medvlad.evaluation.class_counts import FEW_PATIENTS, units_per_class
from medvlad.evaluation.covariate_bands import UNKNOWN_VALUE, grouped_covariate, why_left_out
from medvlad.evaluation.metrics import scores

__all__ = ["SITE", "anonymise_subgroups", "hide_rare_groups", "subgroup_metrics"]

#: Name of the table of sites.
SITE = "site"

_METRICS = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auc")
_RARE = 5  # patients; fewer could be recognised


def subgroup_metrics(
    dataset: ImageFolder,
    tested: NDArray[np.intp],
    decision: NDArray[np.float64],
    *,
    positive: str | None = None,
) -> dict[str, Any] | None:
    """Return the metrics of each subgroup of the test images.

    Parameters
    ----------
    dataset : ImageFolder
    tested : ndarray of int, shape (n,)
        Indices of the test images.
    decision : ndarray of float, shape (n, n_classes)
        Their decision values. The largest of a row is the decided class.
    positive : str or None
        See :func:`medvlad.evaluation.metrics.scores`.

    Returns
    -------
    dict or None
        tables: by name of the covariate ("site" for the sites) a list of dicts with value, n, n_patients
        (None: unknown), the metrics accuracy, balanced_accuracy, sensitivity, specificity and auc with
        intervals such as accuracy_ci95, and warning (a sentence about a small group, or None). left_out: by
        name the reason why a covariate has no table. None: there are neither sites nor covariates.
    """
    columns = {} if dataset.sites is None else {SITE: dataset.sites}
    columns |= {name: values for name, values in dataset.covariates.items() if name not in columns}
    if not columns:
        return None
    labels = dataset.labels[tested]
    groups = dataset.groups_of(tested)
    tables: dict[str, list[dict[str, Any]]] = {}
    left_out: dict[str, str] = {}
    for name, values in columns.items():
        own = np.asarray(values[tested], dtype=str)
        reason = None if name == SITE and (own != "").any() else why_left_out(name, own, groups)
        if reason is not None:
            left_out[name] = reason
            continue
        # Sites may be numbers. They are names all the same.
        if name == SITE:
            named = np.where(own == "", UNKNOWN_VALUE, own)
            order = sorted(set(named.tolist()))
        else:
            named, order = grouped_covariate(name, own)
        rows = [(value, np.flatnonzero(named == value)) for value in order]
        tables[name] = [
            {"value": value}
            | _row(
                labels[chosen],
                decision[chosen],
                None if groups is None else groups[chosen],
                dataset.class_names,
                positive,
            )
            for value, chosen in rows
        ]
    return {"tables": tables, "left_out": left_out}


def anonymise_subgroups(results: dict[str, Any]) -> None:
    """Change the subgroups of all results in place, see `hide_rare_groups`.

    Parameters
    ----------
    results : dict
        ``results`` of :class:`medvlad.experiment.Evaluation`.
    """
    for one in results["results"]:
        if "subgroups" in one:
            hide_rare_groups(one["subgroups"])


def hide_rare_groups(found: dict[str, Any]) -> None:
    """Change subgroups in place, so that they identify neither sites nor rare patients.

    Sites are numbered. Groups of fewer than five patients are removed, and `left_out` says how many.

    Parameters
    ----------
    found : dict
        What :func:`subgroup_metrics` returned.
    """
    for name, rows in found["tables"].items():
        if name == SITE:
            for number, row in enumerate(rows, 1):
                if row["value"] != UNKNOWN_VALUE:
                    row["value"] = f"site {number}"
        kept = [
            row for row in rows if (row["n"] if row["n_patients"] is None else row["n_patients"]) >= _RARE
        ]
        if len(kept) < len(rows):
            found["left_out"][name] = (
                f"{len(rows) - len(kept)} of its groups have fewer than {_RARE} patients"
            )
        found["tables"][name] = kept
    found["tables"] = {name: rows for name, rows in found["tables"].items() if rows}
    for name, reason in found["left_out"].items():
        if reason.startswith("all images have the value"):  # which may be a name
            found["left_out"][name] = "all images have the same value"


def _row(
    labels: NDArray[np.int64],
    decision: NDArray[np.float64],
    groups: NDArray[Any] | None,
    class_names: list[str],
    positive: str | None,
) -> dict[str, Any]:
    found = scores(labels, decision.argmax(axis=1), decision, class_names, positive=positive, groups=groups)
    row: dict[str, Any] = {
        "n": len(labels),
        "n_patients": None if groups is None else len(np.unique(groups)),
        "n_by_class": {name: found["per_class"][name]["n"] for name in class_names},
    }
    for metric in _METRICS:
        row[metric], row[f"{metric}_ci95"] = found[metric], found[f"{metric}_ci95"]
    counts = units_per_class(labels, groups, len(class_names))
    smallest, what = int(counts.min()), "images" if groups is None else "patients"
    row["warning"] = None
    if smallest < FEW_PATIENTS:
        name = class_names[int(counts.argmin())]
        number = f"only {smallest} {what}" if smallest else f"no {what}"
        row["warning"] = f"{number} of {name}; below {FEW_PATIENTS} the metrics are uncertain"
    return row
