r"""MultiLabelSVC: one linear SVM for each of several labels, on one shared Gram matrix.

An image can have any number of the labels. Each label is a binary problem of
:mod:`medvlad.svm.newton`: images that have it against images that do not. The problems share the matrix
:math:`G = X X^T` (or the data, if there are fewer features than images), and the factorisation of their first
step as far as the same images are known. Only the later steps are work of one label, and their matrices hold
the active rows only.

**Missing labels.** If it is not known whether image :math:`i` has a label, its weight :math:`C_i` in the
problem of that label is 0. The solution is that of a fit without the image; other labels still use it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from medvlad._util.memory import memory_for
from medvlad._util.passes import Runner
from medvlad._util.validate import InputError
from medvlad.descriptors.array_api import like_input, on_host
from medvlad.svm.binary_problems import check_settings, rows_to_fit, scores_of_rows, solve_path
from medvlad.svm.blocks import Vector
from medvlad.svm.pass_path import choose_way
from medvlad.svm.platt import platt_parameters, platt_probability
from medvlad.svm.targets import names_of_targets, target_matrix

__all__ = ["MultiLabelSVC", "best_threshold"]


class MultiLabelSVC(ClassifierMixin, BaseEstimator):
    """Linear SVMs for several labels, any number of which an image may have.

    Each label is solved as :class:`medvlad.WideLinearSVC` solves two classes: L2 penalty, squared hinge loss,
    penalised intercept, exact for any number of features. The result equals scikit-learn's ``LinearSVC`` on
    one label after another. Labels may be missing.

    Parameters
    ----------
    C : float, default=1.0
        Weight of the squared hinge loss relative to ``1/2 |w|²``, the same for all labels.
    fit_intercept : bool, default=True
        Whether to append a constant feature. Its weight is penalised like the others.
    intercept_scaling : float, default=1.0
        Value of the constant feature. Larger values penalise the intercept less.
    class_weight : dict, 'balanced' or None, default=None
        Factors on C of images without (key 0) and with (key 1) a label. 'balanced': inverse to their numbers
        among the images whose label is known, for each label by itself. None: all 1.
    max_iter : int, default=100
        Maximum number of Newton steps for each label. 1 to 15 are usual.
    solver, tol, memory, checkpoint
        See :class:`medvlad.WideLinearSVC`.
    label_names : sequence of str or None, default=None
        Names of the labels. None: the columns of a DataFrame, otherwise "0", "1", and so on.

    Attributes
    ----------
    coef_ : ndarray of float64, shape (n_labels, n_features)
        Weights.
    intercept_ : ndarray of float64, shape (n_labels,)
        Intercepts.
    classes_ : ndarray of str, shape (n_labels,)
        Names of the labels.
    thresholds_ : ndarray of float64, shape (n_labels,)
        `predict` gives a label to an image if its decision value is larger. Zeros until :meth:`calibrate`.
    platt_ : ndarray of float64, shape (n_labels, 2)
        Parameters of the probabilities, see :mod:`medvlad.svm.platt`. Only set by :meth:`calibrate`.
    n_features_in_, feature_names_in_
        See :class:`medvlad.WideLinearSVC`.
    n_iter_ : int
        Largest number of Newton steps of any label.
    n_passes_ : int
        Number of passes over `X`, see :class:`medvlad.WideLinearSVC`.
    dual_gap_ : float
        Largest relative duality gap of any label, see :class:`medvlad.WideLinearSVC`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    >>> y = [[1, np.nan], [0, np.nan], [np.nan, 1], [np.nan, 0]]  # two labels, each known for two images
    >>> MultiLabelSVC().fit(X, y).predict(X).tolist()
    [[1, 0], [0, 0], [0, 1], [0, 0]]
    """

    coef_: Vector
    intercept_: Vector
    classes_: NDArray[np.str_]
    thresholds_: Vector
    platt_: Vector
    n_features_in_: int
    n_iter_: int
    n_passes_: int
    dual_gap_: float

    def __init__(
        self,
        C: float = 1.0,
        *,
        fit_intercept: bool = True,
        intercept_scaling: float = 1.0,
        class_weight: dict[Any, float] | str | None = None,
        max_iter: int = 100,
        label_names: Sequence[str] | None = None,
        solver: str = "auto",
        tol: float = 1e-4,
        memory: int | str | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.label_names = label_names
        self.solver = solver
        self.tol = tol
        self.memory = memory
        self.checkpoint = checkpoint

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = True
        tags.target_tags.two_d_labels = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike, *, runner: Runner | None = None) -> Self:
        """Fit one SVM for each label.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows. float32 and float64 are used as they are, other types are converted to float64.
        y : array-like of shape (n_samples, n_labels)
            1: the image has the label. 0: it does not. NaN: not known.
        runner : callable or None, default=None
            See :meth:`medvlad.WideLinearSVC.fit`.

        Returns
        -------
        MultiLabelSVC
            This classifier.

        Raises
        ------
        InputError
            If a parameter is out of range, `y` holds another value, or no image has a label or none lacks it.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` steps are too few, if C and X are too large for double precision, or if
            `dual_gap_` is above 1e-8 with 'gram', or above `tol` with 'passes', for another reason.
        """
        self._solve(X, y, [self], runner)
        return self

    def fit_path(self, X: ArrayLike, y: ArrayLike, Cs: Sequence[float]) -> list[Self]:
        """Fit one classifier for each of several C.

        See :meth:`medvlad.WideLinearSVC.fit_path`. Parameters and errors are those of :meth:`fit`.
        """
        fitted = [clone(self).set_params(C=C) for C in Cs]
        if fitted:
            fitted[0]._solve(X, y, fitted)
        return fitted

    @memory_for("the linear SVMs", "give fewer images or shorter vectors, float32 rather than float64")
    def _solve(
        self,
        X: ArrayLike,
        y: ArrayLike,
        fitted: Sequence[MultiLabelSVC],
        runner: Runner | None = None,
    ) -> None:
        """Fit classifiers that have the parameters of this one except for C."""
        settings = check_settings(fitted)
        passes = choose_way(self.solver, self.tol, self.memory, self.checkpoint, X, runner)
        x = rows_to_fit(self, X, ensure_min_samples=2, by_passes=passes is not None)
        labels = target_matrix(on_host(y, "y"), "y")
        check_consistent_length(x, labels)
        names = names_of_targets(self.label_names, y, labels.shape[1], "label_names")
        factors = _factors(self.class_weight, labels, names)

        def problems_at(big_c: float) -> Iterator[tuple[Vector, Vector]]:
            for own, factor in zip(labels.T, factors.T, strict=True):
                yield np.where(own == 1, 1.0, -1.0), 2.0 * big_c * factor

        # Labels that are known for the same images share the factorisation of the first step.
        order = np.lexsort(np.packbits(~np.isnan(labels), axis=0))
        solve_path(fitted, settings, x, problems_at, names, what="label", order=order, passes=passes)
        for one in fitted:
            one.thresholds_ = np.zeros(len(names))
            one.__dict__.pop("platt_", None)  # of an earlier fit

    def calibrate(self, decision: Vector, y: ArrayLike) -> Self:
        """Learn thresholds and probabilities from images that were not used for training.

        Parameters
        ----------
        decision : ndarray of float64, shape (n_samples, n_labels)
            Decision values, such as those of a cross-validation inside the training images. NaN: none.
        y : array-like of shape (n_samples, n_labels)
            As for :meth:`fit`.

        Returns
        -------
        MultiLabelSVC
            This classifier, with `thresholds_` from :func:`best_threshold` and with `platt_`.

        Raises
        ------
        InputError
            If no image with a decision value has a label, or none lacks it.
        """
        check_is_fitted(self)
        labels = target_matrix(on_host(y, "y"), "y")
        thresholds, parameters = [], []
        for k, name in enumerate(self.classes_):
            known = ~np.isnan(labels[:, k]) & ~np.isnan(decision[:, k])
            truth, values = labels[known, k] == 1, decision[known, k]
            if truth.all() or not truth.any():
                raise InputError(
                    f"the label {name!s} cannot be calibrated, because the held-out images all have it or "
                    "all lack it: add images or remove the label"
                )
            thresholds.append(best_threshold(values, truth))
            parameters.append(platt_parameters(values, truth))
        self.thresholds_ = np.array(thresholds)
        self.platt_ = np.array(parameters)
        return self

    def decision_function(self, X: ArrayLike) -> Vector:
        """Return the decision values, shape (n_samples, n_labels), float64."""
        scores: Vector = like_input(scores_of_rows(self, X), X)
        return scores

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Return 1 for each label that a row has and 0 otherwise, shape (n_samples, n_labels), int64."""
        found = scores_of_rows(self, X) > self.thresholds_
        shown: NDArray[np.int64] = like_input(found.astype(np.int64), X)
        return shown

    def _is_calibrated(self) -> bool:
        return hasattr(self, "platt_")

    @available_if(_is_calibrated)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: ArrayLike) -> Vector:
        """Return the probability of each label, shape (n_samples, n_labels), float64.

        Labels do not exclude each other, so a row does not add up to 1. The method exists only after
        :meth:`calibrate`.
        """
        probability = platt_probability(scores_of_rows(self, X), self.platt_[:, 0], self.platt_[:, 1])
        shown: Vector = like_input(probability, X)
        return shown


def best_threshold(decision: Vector, truth: NDArray[np.bool_]) -> float:
    """Return the threshold with the largest sum of sensitivity and specificity (Youden, Cancer 1950).

    It lies in the middle between two neighbouring decision values. Of equally good ones, the lowest is taken.

    Parameters
    ----------
    decision : ndarray of float64, shape (n,)
    truth : ndarray of bool, shape (n,)
        Both values must occur.

    Examples
    --------
    >>> best_threshold(np.array([0.0, 1.0, 3.0, 2.0]), np.array([False, False, True, True]))
    1.5
    """
    order = np.argsort(decision, kind="stable")
    values, own = decision[order], truth[order]
    # Of a cut after position i: what lies below it and is rightly there, minus what is wrongly there.
    gain = np.cumsum(~own) / np.count_nonzero(~own) - np.cumsum(own) / np.count_nonzero(own)
    cuts = np.flatnonzero(values[:-1] < values[1:])
    if len(cuts) == 0:
        return 0.0
    best = int(cuts[gain[cuts].argmax()])
    return float(values[best] + (values[best + 1] - values[best]) / 2.0)


def _factors(class_weight: Any, labels: Vector, names: NDArray[np.str_]) -> Vector:
    """Return the factor on C of each image in each label's problem, 0 where the label is not known."""
    balanced = isinstance(class_weight, str) and class_weight == "balanced"
    if not (balanced or class_weight is None or isinstance(class_weight, dict)):
        raise InputError(f"class_weight must be a dict, 'balanced' or None, got {class_weight!r}")
    given = class_weight if isinstance(class_weight, dict) else {}
    if set(given) - {0, 1}:
        raise InputError(f"class_weight has the keys {sorted(given, key=str)}: use 0 and 1, as in y")
    factors = np.zeros(labels.shape)
    for k, name in enumerate(names):
        for value, what in ((0, "lacks"), (1, "has")):
            rows = labels[:, k] == value
            if not rows.any():
                raise InputError(
                    f"no image {what} the label {name!s}, and a classifier needs both kinds: add images "
                    "or remove the label"
                )
            n_known = np.count_nonzero(~np.isnan(labels[:, k]))
            factor = n_known / (2.0 * rows.sum()) if balanced else float(given.get(value, 1.0))
            if not (np.isfinite(factor) and factor >= 0):
                raise InputError(
                    f"class_weight of {value} must be a finite number of at least 0, got {factor}"
                )
            factors[rows, k] = factor
    return factors
