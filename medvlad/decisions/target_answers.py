"""Predictions of models of several labels or numbers, as plain values for `medvlad predict`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad.svm.multi_label import MultiLabelSVC
from medvlad.svm.platt import platt_probability
from medvlad.svm.wide_ridge import WideRidge

__all__ = ["predictions_of"]

Vectors = NDArray[np.float32] | NDArray[np.float64]


def predictions_of(head: Any, vectors: Vectors) -> list[dict[str, Any]] | None:
    """Return the prediction for each vector.

    Parameters
    ----------
    head : estimator
        The fitted last step of a pipeline.
    vectors : ndarray of float, shape (n, n_features)
        Encoded images: what the step before `head` returns.

    Returns
    -------
    list of dict, or None
        None: `head` predicts one class.

        Several labels: labels (names of the labels that the image has, in their order), scores (name to
        decision value), thresholds (name to the value above which an image has the label) and, if the model
        was calibrated, probabilities (name to probability; they need not add up to 1).

        Numbers: value, if there is one target; values (name to number).
    """
    if isinstance(head, MultiLabelSVC):
        return _labels(head, head.decision_function(vectors))
    if isinstance(head, WideRidge):
        return _numbers(head, head.predict(vectors))
    return None


def _labels(head: MultiLabelSVC, decision: NDArray[np.float64]) -> list[dict[str, Any]]:
    names = [str(name) for name in head.classes_]
    found: list[dict[str, Any]] = [
        {
            "labels": [name for name, has in zip(names, above, strict=True) if has],
            "scores": dict(zip(names, map(float, row), strict=True)),
            "thresholds": dict(zip(names, map(float, head.thresholds_), strict=True)),
        }
        for row, above in zip(decision, decision > head.thresholds_, strict=True)
    ]
    if hasattr(head, "platt_"):
        probability = platt_probability(decision, head.platt_[:, 0], head.platt_[:, 1])
        for one, row in zip(found, probability, strict=True):
            one["probabilities"] = dict(zip(names, map(float, row), strict=True))
    return found


def _numbers(head: WideRidge, predicted: NDArray[np.float64]) -> list[dict[str, Any]]:
    names = [str(name) for name in head.target_names_]
    rows = predicted.reshape(len(predicted), len(names))
    found: list[dict[str, Any]] = [{"values": dict(zip(names, map(float, row), strict=True))} for row in rows]
    if len(names) == 1:
        for one, row in zip(found, rows, strict=True):
            one["value"] = float(row[0])
    return found
