"""Evaluate and train on several labels or on numbers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medvlad._util.validate import InputError
from medvlad.datasets.describe import units_of
from medvlad.datasets.folders import ImageFolder
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.ragged import Descriptors
from medvlad.evaluation.choice import Choice
from medvlad.evaluation.class_counts import warn_of_few_patients
from medvlad.evaluation.regression import (
    choose_number_encoding,
    compare_numbers,
    held_out_number_metrics,
    held_out_numbers,
)
from medvlad.evaluation.several_labels import (
    choose_label_encoding,
    compare_labels,
    held_out_label_metrics,
    held_out_labels,
)
from medvlad.evaluation.target_folds import check_targets, targets_of
from medvlad.svm.multi_label import MultiLabelSVC
from medvlad.svm.wide_ridge import WideRidge

__all__ = ["TargetRun", "check_targets"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TargetRun:
    """Evaluation and training on the targets of a data set.

    Attributes
    ----------
    dataset : ImageFolder
        With the task "labels" or "regression".
    C : float
        C of the SVMs, if it is not chosen. Numbers do not use it: the penalty of their ridge is always
        chosen.
    penalties : sequence of float, or None
        Values of C to choose from. None: `C`.
    class_weight : dict, "balanced" or None
        See :class:`medvlad.svm.multi_label.MultiLabelSVC`.
    folds, random_state
        See :func:`medvlad.evaluation.cross_validation.held_out`.
    """

    dataset: ImageFolder
    C: float = 1.0
    penalties: Sequence[float] | None = None
    class_weight: Any = None
    folds: int = 5
    random_state: int = 0

    def check(
        self, calibration: str | None = None, positive: str | None = None, threshold: str | None = None
    ) -> None:
        """Raise InputError if a setting does not fit the task, or a target is known for too few patients."""
        if calibration == "isotonic":
            raise InputError(
                "calibration='isotonic' is for classes: labels get probabilities by 'platt', numbers get none"
            )
        if positive is not None:
            raise InputError(f"positive={positive!r} needs a data set with two classes: leave it out")
        if threshold is not None:
            raise InputError(
                f"threshold={threshold!r} is for two classes: leave it out, labels learn their thresholds"
            )
        check_targets(self.dataset, self.folds)

    def estimator(self) -> Any:
        """Return the estimator that is not fitted yet."""
        names = list(self.dataset.class_names)
        if self.dataset.task == "regression":
            return WideRidge(None, target_names=names)
        return MultiLabelSVC(self.C, class_weight=self.class_weight, label_names=names)

    def evaluate(
        self, descriptors: Descriptors | DescriptorBlocks, encoders: Mapping[str, Any]
    ) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
        """Return metrics by encoding, comparisons with the first encoding, and held-out predictions."""
        of_numbers = self.dataset.task == "regression"
        held: dict[str, Any] = {}
        metrics: dict[str, dict[str, Any]] = {}
        comparisons = []
        for name, encoder in encoders.items():
            logger.info("evaluating %s", name)
            settings: dict[str, Any] = {"folds": self.folds, "random_state": self.random_state}
            if of_numbers:
                one: Any = held_out_numbers(descriptors, self.dataset, encoder, self.estimator(), **settings)
                metrics[name] = held_out_number_metrics(self.dataset, one, random_state=self.random_state)
            else:
                settings["penalties"] = self.penalties
                one = held_out_labels(descriptors, self.dataset, encoder, self.estimator(), **settings)
                metrics[name] = held_out_label_metrics(self.dataset, one)
            if held:
                first = next(iter(held))
                against = (compare_numbers if of_numbers else compare_labels)(self.dataset, held[first], one)
                comparisons.append({"first": first, "second": name} | against)
            else:  # the counts are those of all encodings
                warn_of_few_patients(metrics[name], units=units_of(self.dataset))
            held[name] = one
        return metrics, comparisons, held

    def train(
        self, descriptors: Descriptors | DescriptorBlocks, encoders: Mapping[str, Any]
    ) -> tuple[Any, Any, Choice]:
        """Fit on all images of the data set. Return encoder, estimator and the choice."""
        targets, groups, estimator = targets_of(self.dataset), self.dataset.groups, self.estimator()
        settings: dict[str, Any] = {"folds": self.folds, "random_state": self.random_state}
        if self.dataset.task == "regression":
            choice = choose_number_encoding(descriptors, targets, groups, encoders, estimator, **settings)
            encoder = encoders[choice.encoding]
            return encoder, estimator.fit(encoder.fit_transform(descriptors), targets, groups=groups), choice
        choice = choose_label_encoding(
            descriptors, targets, groups, encoders, estimator, penalties=self.penalties, **settings
        )
        encoder = encoders[choice.encoding]
        estimator.set_params(C=choice.penalty).fit(encoder.fit_transform(descriptors), targets)
        assert choice.inner is not None, "labels always use inner folds"
        return encoder, estimator.calibrate(choice.inner.decision, targets), choice
