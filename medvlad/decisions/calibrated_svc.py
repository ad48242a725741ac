"""CalibratedSVC: a linear SVM with probabilities, prediction sets and a test for unusual images.

The SVM is fitted on all training images. Everything else is learned from held-out decision values of the same
images, by cross-validation: probabilities (:mod:`medvlad.decisions.calibration`), prediction sets
(:mod:`medvlad.decisions.conformal`), the test for unusual images (:mod:`medvlad.decisions.novelty`) and the
decision threshold (:mod:`medvlad.decisions.operating_point`).
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_is_fitted, column_or_1d

from medvlad._util.loaded_class import is_instance_of
from medvlad._util.validate import InputError
from medvlad.decisions.calibration import AUTO, Calibration, fit_calibration, method_for
from medvlad.decisions.conformal import conformal_p_values, prediction_sets
from medvlad.decisions.novelty import Novelty, make_references
from medvlad.decisions.operating_point import Target, operating_threshold
from medvlad.descriptors.array_api import like_input, on_host
from medvlad.svm.binary_problems import rows_to_decide
from medvlad.svm.decision import decision_columns
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = ["MAX_HELD_OUT", "CalibratedSVC", "calibrate_on", "linear_part"]

#: Maximum number of held-out decision values that a classifier keeps.
MAX_HELD_OUT = 10_000

Matrix = NDArray[np.float64]


class CalibratedSVC(ClassifierMixin, BaseEstimator):
    """Linear SVM with probabilities, prediction sets and a test for unusual images.

    `medvlad train` and :meth:`medvlad.experiment.Experiment.train` build it with
    :func:`medvlad.decisions.calibrate_on`, from folds in which the codebook is fitted again. :meth:`fit`
    makes folds of the rows of X. This is enough for encodings without a codebook, such as average pooling.
    With a codebook it is too optimistic, because the codebook was fitted on the held-out images as well.

    Parameters
    ----------
    classifier : WideLinearSVC or None, default=None
        The SVM. It is cloned before it is fitted. None: ``WideLinearSVC()``.
    calibration : {"auto", "platt", "isotonic"}, default="auto"
        See :mod:`medvlad.decisions.calibration`.
    folds : int, default=5
        Maximum number of folds. It is reduced to the number of rows (groups) of the smallest class.
    random_state : int, default=0
        Seed of the folds and of subsamples.

    Attributes
    ----------
    classifier_ : WideLinearSVC
        Fitted on all rows.
    calibration_ : Calibration
        From decision values to probabilities.
    held_out_decision_ : ndarray of float64, shape (m, n_classes)
        Held-out decision values of at most 10,000 rows.
    held_out_labels_ : ndarray of int64, shape (m,)
        Their classes, as indices into `classes_`.
    training_counts_ : ndarray of int64, shape (n_classes,), or None
        Number of training rows of each class. None: unknown, for a large model file of an earlier version.
    novelty_ : Novelty or None
        Test for unusual images. None: no test.
    threshold_ : float
        With two classes: decision values above it mean ``classes_[1]``. 0 unless an operating point was
        chosen.
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    n_features_in_ : int
        Number of features.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(60) % 2
    >>> X = rng.normal(size=(60, 3)) + y[:, None]
    >>> model = CalibratedSVC().fit(X, y)
    >>> model.prediction_sets(np.array([[3.0, 3.0, 3.0]]), coverage=0.9).tolist()
    [[False, True]]
    >>> bool(model.novelty_p(np.array([[50.0, 0.0, 0.0]]))[0] < 0.05)
    True
    """

    classifier_: WideLinearSVC
    calibration_: Calibration
    novelty_: Novelty | None
    n_features_in_: int

    def __init__(
        self,
        classifier: WideLinearSVC | None = None,
        *,
        calibration: str = AUTO,
        folds: int = 5,
        random_state: int = 0,
    ) -> None:
        self.classifier = classifier
        self.calibration = calibration
        self.folds = folds
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit the SVM on all rows, and the rest on held-out rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            Class labels.
        groups : array-like of shape (n_samples,), default=None
            Patient of each row. Rows of a patient stay in one fold. None: each row is a patient.

        Returns
        -------
        CalibratedSVC
            This classifier.

        Raises
        ------
        InputError
            If a parameter is out of range, or a class has fewer than two rows (groups).
        """
        from medvlad.decisions.row_folds import held_out_rows

        svm = WideLinearSVC() if self.classifier is None else clone(self.classifier)
        svm.fit(X, y)
        rows = rows_to_decide(svm, X)
        labels = np.searchsorted(svm.classes_, column_or_1d(on_host(y, "y")))
        decision, novelty, n_references = held_out_rows(
            svm, rows, labels, groups, folds=self.folds, random_state=self.random_state
        )
        references = make_references(rows, n_references=n_references, random_state=self.random_state)
        self.calibration_ = fit_calibration(self.calibration, decision, labels)
        return self._set(svm, decision, labels, references, novelty)

    def _set(
        self,
        svm: WideLinearSVC,
        decision: Matrix,
        labels: NDArray[np.int64],
        references: NDArray[np.float32] | None,
        novelty: NDArray[np.float64] | None,
    ) -> Self:
        """Take a fitted SVM, and learn the rest except for probabilities from held-out values."""
        self.classifier_ = svm
        self.n_features_in_ = svm.n_features_in_
        if hasattr(svm, "feature_names_in_"):
            self.feature_names_in_ = svm.feature_names_in_
        kept = _subsample(labels, MAX_HELD_OUT, self.random_state)
        self.held_out_decision_ = np.ascontiguousarray(decision[kept], np.float64)
        self.held_out_labels_ = np.ascontiguousarray(labels[kept], np.int64)
        self.training_counts_: NDArray[np.int64] | None = np.bincount(labels, minlength=decision.shape[1])
        self.novelty_, self.threshold_ = _novelty(references, novelty, kept), 0.0
        return self

    @property
    def classes_(self) -> NDArray[Any]:
        """Class labels, shape (n_classes,)."""
        return self.classifier_.classes_

    @classes_.setter
    def classes_(self, classes: NDArray[Any]) -> None:
        self.classifier_.classes_ = classes

    @property
    def coef_(self) -> Matrix:
        """Weights of the SVM, shape (1, n_features) or (n_classes, n_features)."""
        return self.classifier_.coef_

    @property
    def intercept_(self) -> Matrix:
        """Intercepts of the SVM, shape (1,) or (n_classes,)."""
        return self.classifier_.intercept_

    @property
    def C(self) -> float:
        """C of the SVM."""
        return float((getattr(self, "classifier_", None) or self.classifier or WideLinearSVC()).C)

    def decision_function(self, X: ArrayLike) -> Matrix:
        """Return the decision values of the SVM, see :meth:`medvlad.WideLinearSVC.decision_function`."""
        check_is_fitted(self)
        return self.classifier_.decision_function(X)

    def _columns(self, X: ArrayLike) -> Matrix:
        check_is_fitted(self)
        return decision_columns(self.classifier_._scores(X))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the class with the largest decision value; with two classes, decide at `threshold_`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
            Class labels.
        """
        decision = self._columns(X)
        predicted = self.classes_[self.decide(decision)]
        return like_input(predicted, X) if predicted.dtype.kind in "biuf" else predicted

    def decide(self, decision: Matrix, threshold: float | None = None) -> NDArray[np.intp]:
        """Return the index of the decided class for decision values (n, n_classes).

        With two classes the second one is decided above `threshold`. None: `threshold_`.
        """
        if decision.shape[1] != 2:
            return np.asarray(decision.argmax(axis=1))
        return np.asarray(decision[:, 1] > (self.threshold_ if threshold is None else threshold), np.intp)

    def predict_proba(self, X: ArrayLike) -> Matrix:
        """Return calibrated probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of float64, shape (n_samples, n_classes)
            Columns in the order of `classes_`. Rows add up to 1. The class of :meth:`predict` need not be the
            most probable one, because the threshold and `class_weight` move decisions and not probabilities.
        """
        decision = self._columns(X)
        probability: Matrix = like_input(self.calibration_.probabilities(decision), X)
        return probability

    def prediction_sets(self, X: ArrayLike, coverage: float = 0.9) -> NDArray[np.bool_]:
        """Return the prediction set of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        coverage : float, default=0.9
            Probability that the true class is in the set, for each class. Above 0 and below 1.

        Returns
        -------
        ndarray of bool, shape (n_samples, n_classes)
            Columns in the order of `classes_`. A row without True fits no class.

        Raises
        ------
        InputError
            If `coverage` is out of range.
        """
        return prediction_sets(self.class_p_values(self._columns(X)), coverage)

    def class_p_values(self, decision: Matrix) -> Matrix:
        """Return the conformal p-values (n, n_classes) of decision values of the same shape."""
        return conformal_p_values(self.held_out_decision_, self.held_out_labels_, decision)

    def novelty_p(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return how usual each image is among the training images.

        Parameters
        ----------
        X : array-like of shape (n_samples, D)
            Mean descriptors of images, see :func:`medvlad.decisions.mean_descriptors`. After :meth:`fit`,
            rows like those of its X.

        Returns
        -------
        ndarray of float64, shape (n_samples,)
            p-values. Below 0.05: unlike the training images.

        Raises
        ------
        InputError
            If the classifier was made without this test, or the rows have another length.
        """
        check_is_fitted(self)
        if self.novelty_ is None:
            raise InputError("this classifier was made without a test for unusual images: train it again")
        found: NDArray[np.float64] = like_input(self.novelty_.p_values(on_host(X, "X")), X)
        return found


def calibrate_on(
    classifier: WideLinearSVC,
    decision: Matrix,
    labels: NDArray[np.int64],
    *,
    references: NDArray[np.float32] | None = None,
    novelty: NDArray[np.float64] | None = None,
    calibration: str = AUTO,
    target: Target | None = None,
    positive: int = 1,
    random_state: int = 0,
    is_image: NDArray[np.bool_] | None = None,
) -> CalibratedSVC:
    """Add probabilities, prediction sets and a test for unusual images to a fitted SVM.

    Parameters
    ----------
    classifier : WideLinearSVC
        Fitted on all training images.
    decision : ndarray of float, shape (n, n_classes)
        Held-out decision values of the training images, see
        `InnerFolds`. Columns in the order of
        ``classifier.classes_``.
    labels : ndarray of int, shape (n,)
        Their classes, as indices into ``classifier.classes_``.
    references : ndarray of float32, shape (m, D), or None
        Mean descriptors of training images, see :func:`medvlad.decisions.novelty.make_references`. None: no
        test for unusual images.
    novelty : ndarray of float, shape (n,), or None
        Novelty of each held-out image among as many references. None: no test for unusual
        images.
    calibration : {"auto", "platt", "isotonic"}, default="auto"
        See :mod:`medvlad.decisions.calibration`.
    target : Target or None, default=None
        Wanted sensitivity or specificity, for two classes. None: decide at 0.
    positive : {0, 1}, default=1
        The class whose detection rate is the sensitivity.
    random_state : int, default=0
        Seed of subsamples.
    is_image : ndarray of bool, shape (n,), or None, default=None
        Which rows are images, and not shifted copies of images. Only probabilities are learned from copies,
        and "auto" counts images only. None: all rows.

    Returns
    -------
    CalibratedSVC
        It holds `classifier` itself.

    Raises
    ------
    InputError
        If the calibration is unknown, the shapes do not fit together, or `target` cannot be reached.
    """
    check_is_fitted(classifier)
    expected = (len(labels), len(classifier.classes_))
    if decision.shape != expected:
        raise InputError(
            f"held-out decision values must have shape {expected}, got {decision.shape}: give one row "
            "an image and one column a class"
        )
    made = CalibratedSVC(clone(classifier), calibration=calibration, random_state=random_state)
    n_images = len(labels) if is_image is None else int(is_image.sum())
    made.calibration_ = fit_calibration(method_for(calibration, n_images), decision, labels)
    if is_image is not None:
        decision, labels = decision[is_image], labels[is_image]
        novelty = None if novelty is None else novelty[is_image]
    made._set(classifier, decision, labels, references, novelty)
    if target is not None:
        made.threshold_ = operating_threshold(target, decision, labels, positive=positive)
    return made


def linear_part(step: Any) -> Any:
    """Return the linear classifier in the last step of a pipeline.

    Parameters
    ----------
    step : estimator
        WideLinearSVC, CalibratedSVC or scikit-learn's LogisticRegression.

    Returns
    -------
    estimator or None
        With `coef_`, `intercept_`, `classes_` and `decision_function` if it is fitted. None if `step` is none
        of these.
    """
    if isinstance(step, CalibratedSVC):
        return step.classifier_
    is_logistic = is_instance_of(step, "sklearn.linear_model", "LogisticRegression")
    return step if is_logistic or isinstance(step, WideLinearSVC) else None


def _novelty(
    references: NDArray[np.float32] | None, novelty: NDArray[np.float64] | None, kept: NDArray[np.intp]
) -> Novelty | None:
    """Return the test for unusual images. None: there is nothing to make it of."""
    if references is None or novelty is None:
        return None
    return Novelty(references, np.sort(novelty[kept]))


def _subsample(labels: NDArray[np.int64], most: int, random_state: int) -> NDArray[np.intp]:
    """Return at most about `most` indices, with the shares of the classes kept, in ascending order."""
    if len(labels) <= most:
        return np.arange(len(labels))
    rng = np.random.default_rng(random_state)
    kept = [
        rng.choice(rows, max(1, round(len(rows) * most / len(labels))), replace=False)
        for rows in (np.flatnonzero(labels == k) for k in np.unique(labels))
    ]
    return np.sort(np.concatenate(kept))
