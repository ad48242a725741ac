"""Convert a CalibratedSVC to parameters and arrays, and back.

Its arrays in the file, after "classify.":

    coef_, intercept_      of the SVM
    held_out_decision_     (m, n_classes), and held_out_labels_ (m,)
    training_counts_       (n_classes,), the number of training rows; absent in files of earlier versions
    calibration_center_    (n_curves,), calibration_spread_ (n_curves,), calibration_curves_ (r, 2) with the
    rows
                           of all curves, and calibration_sizes_ (n_curves,), the number of rows of each
    novelty_references_    (k, D), and novelty_held_out_ (h,); both are absent without a test for unusual
    images

Everything is checked before it becomes part of the classifier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad.decisions.calibrated_svc import MAX_HELD_OUT, CalibratedSVC
from medvlad.decisions.calibration import METHODS, Calibration
from medvlad.decisions.novelty import Novelty
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = ["calibrated_arrays", "describe_calibrated", "make_calibrated"]

Arrays = dict[str, NDArray[Any]]

_PARAMETERS = ("calibration", "folds", "random_state")


def describe_calibrated(step: CalibratedSVC) -> dict[str, Any]:
    """Return what the header says of a fitted CalibratedSVC, except for its SVM."""
    parameters = {name: getattr(step, name) for name in _PARAMETERS}
    return parameters | {"method": step.calibration_.method, "threshold": float(step.threshold_)}


def calibrated_arrays(name: str, step: CalibratedSVC) -> Arrays:
    """Return the arrays of a fitted CalibratedSVC, without its SVM, under their names in the file."""
    learnt = step.calibration_
    arrays: Arrays = {
        "held_out_decision_": step.held_out_decision_,
        "held_out_labels_": step.held_out_labels_,
        "calibration_center_": learnt.center,
        "calibration_spread_": learnt.spread,
        "calibration_curves_": np.concatenate(learnt.curves),
        "calibration_sizes_": np.array([len(curve) for curve in learnt.curves], np.int64),
    }
    if step.training_counts_ is not None:
        arrays["training_counts_"] = step.training_counts_
    if step.novelty_ is not None:
        arrays["novelty_references_"] = step.novelty_.references
        arrays["novelty_held_out_"] = step.novelty_.held_out
    return {f"{name}.{key}": values for key, values in arrays.items()}


def make_calibrated(
    parameters: dict[str, Any], arrays: Arrays, name: str, svm: WideLinearSVC, n_classes: int
) -> CalibratedSVC:
    """Make the fitted classifier.

    Parameters
    ----------
    parameters : dict
        What :func:`describe_calibrated` returned.
    arrays : dict of str to ndarray
        All arrays of the file.
    name : str
        Name of the step.
    svm : WideLinearSVC
        The fitted SVM.
    n_classes : int
        Number of classes of the model.

    Returns
    -------
    CalibratedSVC
        Its `classes_` are not set yet.

    Raises
    ------
    KeyError, TypeError, ValueError
        If a parameter or an array is missing or invalid.
    """

    def array(
        key: str, n_dimensions: int, dtypes: tuple[Any, ...] = (np.float32, np.float64)
    ) -> NDArray[Any]:
        values = arrays[f"{name}.{key}"]
        if values.ndim != n_dimensions or values.dtype not in dtypes:
            raise ValueError(f"{name}.{key} has shape {values.shape} and dtype {values.dtype}")
        _require(np.isfinite(values).all(), f"{name}.{key} holds numbers that are not finite")
        return values

    step = CalibratedSVC(svm, **{key: parameters[key] for key in _PARAMETERS})
    step.classifier_, step.n_features_in_ = svm, svm.n_features_in_
    step.threshold_ = float(parameters["threshold"])
    _require(np.isfinite(step.threshold_), "its threshold is not finite")
    decision, labels = array("held_out_decision_", 2), array("held_out_labels_", 1, (np.int64,))
    _require(decision.shape == (len(labels), n_classes), f"{name}.held_out_decision_ has another shape")
    _require(((labels >= 0) & (labels < n_classes)).all(), f"{name}.held_out_labels_ holds unknown classes")
    step.held_out_decision_, step.held_out_labels_ = decision.astype(np.float64), labels
    counts = np.bincount(labels, minlength=n_classes)
    if f"{name}.training_counts_" in arrays:
        step.training_counts_ = array("training_counts_", 1, (np.int64,))
        _require(step.training_counts_.shape == counts.shape, f"{name}.training_counts_ has another shape")
        _require((step.training_counts_ >= counts).all(), f"{name}.training_counts_ are too small")
    else:  # about MAX_HELD_OUT rows may be a part of more
        step.training_counts_ = counts if len(labels) < MAX_HELD_OUT - n_classes else None
    step.calibration_ = _calibration(str(parameters["method"]), array, 1 if n_classes == 2 else n_classes)
    step.novelty_ = None
    if f"{name}.novelty_references_" in arrays:
        references, held_out = array("novelty_references_", 2), array("novelty_held_out_", 1)
        _require(len(references) > 0, f"{name}.novelty_references_ is empty")
        _require((np.diff(held_out) >= 0).all(), f"{name}.novelty_held_out_ is not sorted")
        step.novelty_ = Novelty(
            np.ascontiguousarray(references, np.float32), np.ascontiguousarray(held_out, np.float64)
        )
    return step


def _calibration(method: str, array: Callable[..., NDArray[Any]], n_curves: int) -> Calibration:
    """Make the calibration of the arrays that `array` returns."""
    _require(method in METHODS, f"its calibration {method!r} is unknown")
    center, spread = array("calibration_center_", 1), array("calibration_spread_", 1)
    sizes = array("calibration_sizes_", 1, (np.int64,))
    rows = array("calibration_curves_", 2).astype(np.float64)
    _require(len(center) == len(spread) == len(sizes) == n_curves, "its calibration lacks curves")
    _require(bool((spread > 0).all() and (sizes > 0).all()), "its calibration has an empty curve")
    _require(rows.shape == (int(sizes.sum()), 2), "its calibration curves have another shape")
    curves = tuple(np.split(rows, np.cumsum(sizes)[:-1]))
    if method == "platt":
        _require(bool((sizes == 1).all()), "its calibration has too many parameters")
    for curve in curves if method == "isotonic" else ():
        _require(bool((np.diff(curve, axis=0) >= 0).all()), "its calibration does not ascend")
        _require(bool(curve[0, 1] >= 0 and curve[-1, 1] <= 1), "its calibration holds no probabilities")
    return Calibration(method, center.astype(np.float64), spread.astype(np.float64), curves)


def _require(holds: Any, message: str) -> None:
    if not holds:
        raise ValueError(message)
