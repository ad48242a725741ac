r"""Held-out predictions of numbers by ridge regression, and their metrics.

The protocol is that of :mod:`medvlad.evaluation.cross_validation`: everything is fitted on the training
images of a fold, and patients stay together. The penalty of the ridge is chosen inside the training images by
exact leave-one-patient-out cross-validation, see :mod:`medvlad.svm.wide_ridge`. This needs one decomposition.
The codebook is not fitted again for this choice. That may make the penalty worse, but does not bias the
metrics.

With the numbers :math:`y_i` of the test images, their mean :math:`\bar y`, and the predictions
:math:`\hat y_i`

.. math::

   R^2 = 1 - \frac{\sum_i (y_i - \hat y_i)^2}{\sum_i (y_i - \bar y)^2} , \qquad
   \text{MAE} = \frac{1}{n} \sum_i |y_i - \hat y_i| ,

and Spearman's correlation is the correlation of the ranks. A model that always predicts the mean has an
:math:`R^2` of about 0. Images whose number is unknown are ignored.

**Intervals** come from a bootstrap over patients, see :mod:`medvlad.evaluation.patient_bootstrap`. They need
at least ten patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.metrics import r2_score

from medvlad._util.text_table import text_table
from medvlad.datasets.folders import ImageFolder
from medvlad.evaluation.choice import Choice, first_encoding, first_near_best
from medvlad.evaluation.cross_validation import Decided, FittedFold, Images, Stopwatch
from medvlad.evaluation.folds import parts_by_fold
from medvlad.evaluation.intervals import patient_numbers
from medvlad.evaluation.patient_bootstrap import (
    Metric,
    bootstrap_interval,
    mean_metric,
    r2_metric,
    spearman_metric,
)
from medvlad.evaluation.target_folds import balanced_folds, target_parts, targets_of
from medvlad.svm.wide_ridge import WideRidge

__all__ = [
    "HeldOutNumbers",
    "choose_number_encoding",
    "compare_numbers",
    "held_out_number_metrics",
    "held_out_numbers",
    "number_scores",
    "number_table",
]

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class HeldOutNumbers(Decided):
    """Held-out predictions of numbers.

    Attributes
    ----------
    tested, fitted, protocol, seconds
        See `medvlad.evaluation.cross_validation.Decided`.
    predicted : ndarray of float, shape (n, n_targets)
    """

    predicted: Matrix


def held_out_numbers(
    descriptors: Images,
    dataset: ImageFolder,
    encoder: Any,
    model: WideRidge,
    *,
    folds: int = 5,
    random_state: int = 0,
) -> HeldOutNumbers:
    """Return held-out predictions of numbers.

    Parameters are those of :func:`medvlad.evaluation.cross_validation.held_out`; the task of `dataset` is
    "regression", and `model` is cloned before it is fitted.

    Raises
    ------
    InputError
        If there is no test image.
    """
    watch = Stopwatch()
    targets = targets_of(dataset, "regression")
    parts, protocol = target_parts(dataset, folds, random_state)
    predicted = np.full(targets.shape, np.nan)
    fitted = []
    for train, test in parts:
        fold = FittedFold(train, test, clone(encoder), clone(model))
        x_train, x_test = fold.encode(descriptors.take(train), descriptors.take(test), watch)
        with watch.stage("fit_ridge"):
            fold.head.fit(x_train, targets[train], groups=dataset.groups_of(train))
        with watch.stage("predict"):
            predicted[test] = fold.head.predict(x_test)
        fitted.append(fold)
    tested = np.concatenate([test for _, test in parts])
    return HeldOutNumbers(
        tested=tested, predicted=predicted[tested], fitted=fitted, protocol=protocol, seconds=watch.seconds
    )


def held_out_number_metrics(
    dataset: ImageFolder, decided: HeldOutNumbers, *, random_state: int = 0
) -> dict[str, Any]:
    """Return the entry of results.json for one encoding: the metrics of held-out predictions.

    Returns
    -------
    dict
        task ("regression"), the dict of :func:`number_scores`, in which each target also has alpha of each
        fold, n_train (of the first fold), n_test, protocol, and seconds by stage.
    """
    found = number_scores(
        targets_of(dataset, "regression")[decided.tested],
        decided.predicted,
        dataset.class_names,
        groups=dataset.groups_of(decided.tested),
        random_state=random_state,
    )
    for k, one in enumerate(found["targets"]):
        one["alpha"] = [float(fold.head.alpha_[k]) for fold in decided.fitted]
    return {"task": "regression", **found, **decided.facts()}


def number_scores(
    truth: Matrix,
    predicted: Matrix,
    names: Sequence[str],
    *,
    groups: NDArray[Any] | None = None,
    random_state: int = 0,
) -> dict[str, Any]:
    """Return the metrics of predicted numbers.

    Parameters
    ----------
    truth, predicted : ndarray of float, shape (n, n_targets)
        NaN in `truth`: not known; such a number does not count.
    names : sequence of str
    groups : ndarray of shape (n,), or None
        Patient of each image. None: each image is a patient of its own.
    random_state : int, default=0
        Seed of the bootstrap.

    Returns
    -------
    dict
        targets: a list with one dict for each target, with target, n (images), n_patients (images without
        `groups`), r2, mae, spearman and their 95 % intervals, such as r2_ci95, and ci95_missing with the
        reason for each that is None.
        ci95_of is "patients", or "images" without `groups`.
    """
    patients = patient_numbers(groups, len(truth))
    listed = []
    for k, name in enumerate(names):
        known = ~np.isnan(truth[:, k])
        listed.append(
            {"target": name, "n": int(known.sum())}
            | _one_target(truth[known, k], predicted[known, k], patients[known], random_state)
        )
    return {"targets": listed, "ci95_of": "images" if groups is None else "patients"}


def _one_target(
    truth: Matrix, predicted: Matrix, patients: NDArray[np.intp], random_state: int
) -> dict[str, Any]:
    """Return the metrics of one target with their intervals."""
    missing = {}
    patients = np.unique(patients, return_inverse=True)[1]
    n_patients = len(np.unique(patients))
    result: dict[str, Any] = {"n_patients": n_patients}
    metrics: dict[str, Metric] = {}
    if n_patients:
        metrics = {
            "r2": r2_metric(truth, predicted, patients),
            "mae": mean_metric(np.abs(truth - predicted), patients),
            "spearman": spearman_metric(truth, predicted, patients),
        }
    for name in ("r2", "mae", "spearman"):
        value = float(metrics[name](np.ones((1, n_patients)))[0]) if metrics else np.nan
        ends, reason = None, None
        if not np.isfinite(value):
            reason = "it needs images with different numbers"
        else:
            ends, reason = bootstrap_interval(metrics[name], n_patients, len(truth), random_state)
        result[name], result[f"{name}_ci95"] = value if np.isfinite(value) else None, ends
        if reason is not None:
            missing[f"{name}_ci95"] = reason
    return result | {"ci95_missing": missing}


def compare_numbers(dataset: ImageFolder, first: HeldOutNumbers, second: HeldOutNumbers) -> dict[str, Any]:
    """Compare the mean absolute error of two sets of held-out predictions on the same images.

    Returns
    -------
    dict
        difference (second minus first) and difference_ci95, each with a dict by target under the key mae.
        difference_ci95_missing: the same with the reason for each interval that is None. The interval is a
        bootstrap over patients.
    """
    targets = targets_of(dataset, "regression")[first.tested]
    patients = patient_numbers(dataset.groups_of(first.tested), len(targets))
    difference, intervals, missing = {}, {}, {}
    for k, name in enumerate(dataset.class_names):
        known = ~np.isnan(targets[:, k])
        errors = [np.abs(of.predicted[known, k] - targets[known, k]) for of in (first, second)]
        gain, own = errors[1] - errors[0], np.unique(patients[known], return_inverse=True)[1]
        n_patients = len(np.unique(own))
        difference[name] = float(gain.mean()) if len(gain) else None
        ends: list[float] | None = None
        reason: str | None = "it is not known for any test image"
        if n_patients:
            ends, reason = bootstrap_interval(mean_metric(gain, own), n_patients, len(gain), 0)
        intervals[name] = ends
        if reason is not None:
            missing[name] = reason
    return {
        "difference": {"mae": difference},
        "difference_ci95": {"mae": intervals},
        "difference_ci95_missing": {"mae": missing},
    }


def choose_number_encoding(
    descriptors: Images,
    targets: Matrix,
    groups: NDArray[Any] | None,
    encoders: Mapping[str, Any],
    model: WideRidge,
    *,
    folds: int = 5,
    random_state: int = 0,
) -> Choice:
    """Choose one of several encodings by the mean R2 over targets and inner folds.

    See :func:`medvlad.evaluation.choice.choose_encoding`. The first encoding is taken if it is the only one.
    """
    first = first_encoding(encoders)
    if len(encoders) == 1:
        return Choice(first, float("nan"), {}, 0, metric="R2")
    parts = parts_by_fold(balanced_folds(targets, groups, folds, random_state, task="regression"))
    found: dict[str, list[float]] = {name: [] for name in encoders}
    for train, test in parts:
        own = descriptors.take(train)
        for name, encoder in encoders.items():
            fitted = clone(encoder).fit(own)
            ridge = clone(model).fit(
                fitted.transform(own), targets[train], groups=None if groups is None else groups[train]
            )
            predicted = ridge.predict(fitted.transform(descriptors.take(test)))
            scored = [
                r2_score(column[known], guess[known]) if np.ptp(column[known]) > 0 else None
                for column, guess in zip(targets[test].T, predicted.T, strict=True)
                if (known := ~np.isnan(column)).any()
            ]
            defined = [value for value in scored if value is not None]
            found[name].append(float(np.mean(defined)) if defined else 0.0)
    scores = {name: np.array(values) for name, values in found.items()}
    means = {name: float(values.mean()) for name, values in scores.items()}
    return Choice(first_near_best(scores), float("nan"), means, len(parts), metric="R2")


def number_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a plain-text table with one line for each encoding and target.

    Parameters
    ----------
    results : sequence of dict
        The `results` of :meth:`medvlad.experiment.Experiment.evaluate` for numbers.
    """
    header = ["encode", "target", "images", "R2", "95 % interval", "MAE", "Spearman"]
    rows = []
    for one in results:
        for target in one["targets"]:
            ends = target["r2_ci95"]
            rows.append(
                [
                    one["encode"],
                    target["target"],
                    target["n"],
                    None if target["r2"] is None else f"{target['r2']:.3f}",
                    None if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}",
                    None if target["mae"] is None else f"{target['mae']:.4g}",
                    None if target["spearman"] is None else f"{target['spearman']:.3f}",
                ]
            )
    return text_table(header, rows)
