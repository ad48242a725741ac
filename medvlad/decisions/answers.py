"""Predictions as plain values: label, scores, probabilities, prediction set and novelty of each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.decisions.calibrated_svc import CalibratedSVC
from medvlad.decisions.conformal import check_coverage, prediction_sets
from medvlad.decisions.novelty import mean_descriptors
from medvlad.decisions.shift import Shift, ShiftWatch
from medvlad.svm.multi_label import MultiLabelSVC
from medvlad.svm.wide_ridge import WideRidge

__all__ = ["DEFAULT_COVERAGE", "Answering", "answers_of", "check_answers", "with_threshold"]

#: Coverage of `abstain` without a coverage.
DEFAULT_COVERAGE = 0.9


def answers_of(
    classifier: Any,
    decision: NDArray[np.float64],
    vectors: Any,
    *,
    coverage: float | None = None,
    abstain: bool = False,
    threshold: float | None = None,
) -> list[dict[str, Any]]:
    """Return the prediction for each image as plain values for JSON.

    Parameters
    ----------
    classifier : estimator
        Last step of a fitted pipeline: CalibratedSVC, or another classifier with `classes_`.
    decision : ndarray of float, shape (n, n_classes)
        Its decision values, see `medvlad.svm.decision_columns`.
    vectors : ndarray of float, shape (n, D), or None
        Mean descriptors of the images, from :func:`medvlad.decisions.mean_descriptors`. None: no novelty.
    coverage : float or None, default=None
        Coverage of the prediction sets, above 0 and below 1. None: no prediction sets.
    abstain : bool, default=False
        Give a label only if the prediction set contains this label and no other class. Without `coverage`,
        0.9 is used.
    threshold : float or None, default=None
        With two classes: threshold of the decision value of the second class. None: that of the classifier.

    Returns
    -------
    list of dict
        One for each image:

        - label: class name, or None if the classifier abstains
        - scores: decision value of each class
        - probabilities: of each class, if the classifier has them
        - prediction_set: list of class names, with `coverage` or `abstain`
        - novelty_p: p-value, if the classifier has this test; below 0.05: unlike the training images
        - abstained: whether the label is None, with `abstain`

    Raises
    ------
    InputError
        If the classifier has no held-out decision values for `coverage` or `abstain`, `coverage` is out of
        range, `threshold` is given for other than two classes, or one of these three is given for a model of
        several labels or numbers.
    """
    coverage = check_answers(classifier, coverage=coverage, abstain=abstain, threshold=threshold)
    classes = [str(name) for name in classifier.classes_]
    calibrated = classifier if isinstance(classifier, CalibratedSVC) else None
    if calibrated is not None:
        decided = calibrated.decide(decision, threshold)
    elif threshold is not None:
        decided = (decision[:, 1] > threshold).astype(np.intp)
    else:
        decided = decision.argmax(axis=1)
    answers: list[dict[str, Any]] = [
        {"label": classes[k], "scores": _by_class(classes, values)}
        for k, values in zip(decided.tolist(), decision, strict=True)
    ]
    if calibrated is None or not answers:
        return answers
    for answer, values in zip(answers, calibrated.calibration_.probabilities(decision), strict=True):
        answer["probabilities"] = _by_class(classes, values)
    if coverage is not None:
        sets = prediction_sets(calibrated.class_p_values(decision), coverage)
        for answer, row in zip(answers, sets, strict=True):
            answer["prediction_set"] = [classes[k] for k in np.flatnonzero(row).tolist()]
    if calibrated.novelty_ is not None and vectors is not None:
        for answer, p in zip(answers, calibrated.novelty_.p_values(vectors), strict=True):
            answer["novelty_p"] = float(p)
    if abstain:
        for answer in answers:
            answer["abstained"] = answer["prediction_set"] != [answer["label"]]
            if answer["abstained"]:
                answer["label"] = None
    return answers


def check_answers(
    classifier: Any, *, coverage: float | None = None, abstain: bool = False, threshold: float | None = None
) -> float | None:
    """Check the parameters of :func:`answers_of` before any image is read.

    Parameters and errors are those of :func:`medvlad.decisions.answers_of`.

    Returns
    -------
    float or None
        Coverage of the prediction sets. None: no prediction sets.
    """
    if isinstance(classifier, MultiLabelSVC | WideRidge) and (
        coverage is not None or abstain or threshold is not None
    ):
        what = "labels" if isinstance(classifier, MultiLabelSVC) else "numbers"
        raise InputError(
            f"the model predicts {what}, and `coverage`, `abstain` and `adapt_threshold` are for one class "
            "an image: leave them out"
        )
    if coverage is None and abstain:
        coverage = DEFAULT_COVERAGE
    if coverage is not None:
        check_coverage(coverage)
        if not isinstance(classifier, CalibratedSVC):
            what = f"coverage={coverage:g}" if not abstain else "abstain=True"
            raise InputError(
                f"{what} needs a model with calibration, this one ends in {type(classifier).__name__}: "
                "train it again with calibration"
            )
    if threshold is not None and len(classifier.classes_) != 2:
        raise InputError(
            f"a threshold needs a model with two classes, this one has {len(classifier.classes_)}: "
            "leave it out"
        )
    return coverage


class Answering:
    """Predictions of `medvlad predict` for each image, and the shift of all scores.

    :func:`medvlad.predict.iter_predictions` takes such an object as `answers`.

    Parameters
    ----------
    coverage, abstain
        See :func:`medvlad.decisions.answers_of`.
    """

    def __init__(self, *, coverage: float | None = None, abstain: bool = False) -> None:
        self._wanted: dict[str, Any] = {"coverage": coverage, "abstain": abstain}
        self._classifier: Any = None
        self._watch = ShiftWatch()

    def __call__(
        self, classifier: Any, decision: NDArray[np.float64], vectors: Any, descriptors: Any
    ) -> list[dict[str, Any]]:
        """Return the answers for some images.

        Parameters
        ----------
        classifier, decision
            See :func:`medvlad.decisions.answers_of`.
        vectors : ndarray of float, shape (n, d)
            Encoded images. Not used.
        descriptors : Descriptors
            Descriptors of the images.
        """
        self._classifier = classifier
        means = None
        if isinstance(classifier, CalibratedSVC):
            self._watch.add(decision)
            if classifier.novelty_ is not None:
                means = mean_descriptors(descriptors)
        return answers_of(classifier, decision, means, **self._wanted)

    def shift(self) -> Shift | None:
        """Return the shift of the scores so far from those of the training images. None: no shift."""
        if not isinstance(self._classifier, CalibratedSVC):
            return None
        return self._watch.find(self._classifier)


def with_threshold(answers: Sequence[dict[str, Any]], classes: Sequence[str], threshold: float) -> None:
    """Change the labels of answers to those of another threshold, in place. For two classes.

    Parameters
    ----------
    answers : sequence of dict
        From :func:`medvlad.decisions.answers_of`. Each one also gets threshold.
    classes : sequence of str
        Both classes in their order.
    threshold : float
        Decision values of the second class above it mean the second class.
    """
    for answer in answers:
        answer["label"] = classes[int(answer["scores"][classes[1]] > threshold)]
        answer["threshold"] = threshold
        if "abstained" in answer:
            answer["abstained"] = answer["prediction_set"] != [answer["label"]]
            answer["label"] = None if answer["abstained"] else answer["label"]


def _by_class(classes: list[str], values: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(classes, map(float, values), strict=True))
