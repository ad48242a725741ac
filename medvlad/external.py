"""External validation: measure a trained model on labelled images from elsewhere.

Nothing is fitted: threshold and probabilities are those of the model. The share of each class is also
estimated without the labels, see :mod:`medvlad.evaluation.prior_shift`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from medvlad._util.validate import InputError
from medvlad._util.versions import versions
from medvlad.backends import available_backends
from medvlad.bags.data_set import feature_settings
from medvlad.datasets.describe import describe_dataset, units_of
from medvlad.datasets.folders import ImageFolder
from medvlad.datasets.manifest_targets import MeasuredLabels
from medvlad.datasets.pooling import holds_feature_files
from medvlad.evaluation.class_counts import warn_of_small_classes
from medvlad.evaluation.cross_validation import FittedFold, HeldOut, Stopwatch
from medvlad.evaluation.held_out_metrics import held_out_metrics
from medvlad.evaluation.prior_shift import prior_shift
from medvlad.experiment import Evaluation
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.data_set import extract_data_set
from medvlad.extraction.weights import weights_source
from medvlad.models.heads import task_of_head
from medvlad.svm.decision import decision_columns

__all__ = ["PROTOCOL", "check_classes", "check_task", "check_wanted", "needing_classes", "validate"]

#: Value of `protocol` in results.json.
PROTOCOL = "external validation"


def check_task(task: str) -> None:
    """Raise InputError unless a model predicts one class an image.

    Parameters
    ----------
    task : {"classes", "labels", "regression"}
        What the model predicts, see :func:`medvlad.models.heads.task_of_head`.
    """
    if task != "classes":
        what = "several labels an image" if task == "labels" else "numbers"
        raise InputError(
            f"external validation needs a model that predicts one class an image, and this one predicts "
            f"{what}: give another model"
        )


def check_wanted(task: str) -> None:
    """Raise InputError if a data set is to be read for another task than one class an image.

    Parameters
    ----------
    task : {"auto", "classes", "labels", "regression"}
        See :func:`medvlad.load_manifest`.
    """
    if task not in ("auto", "classes"):
        raise InputError(
            f"external validation needs one class an image, and task={task!r} reads the data set otherwise: "
            "leave it out, and give images with one class each"
        )


@contextmanager
def needing_classes() -> Iterator[None]:
    """Say that classes are needed if the labels that are read inside are numbers.

    Raises
    ------
    InputError
        Instead of :class:`medvlad.datasets.manifest_targets.MeasuredLabels`.
    """
    try:
        yield
    except MeasuredLabels as error:
        raise InputError(
            f"external validation needs one class an image, and {error.found}: name a column of classes with "
            "`label_column`, or use task='classes' if each number is a class of the model"
        ) from error


def check_classes(dataset: ImageFolder, classes: list[str]) -> ImageFolder:
    """Return a data set whose class names are those of a model.

    Parameters
    ----------
    dataset : ImageFolder
    classes : list of str
        Class names of the model.

    Returns
    -------
    ImageFolder
        The same images. Classes of the model without an image stay in `class_names`.

    Raises
    ------
    InputError
        If the data set holds several labels an image, or numbers, or a class that the model does not know.
    """
    if dataset.task != "classes":
        raise InputError(
            f"external validation needs one class an image, and the data set has the task {dataset.task!r}: "
            "give images with one label each"
        )
    present = {dataset.class_names[k] for k in np.unique(dataset.labels)}
    unknown = sorted(present - set(classes))
    if unknown:
        raise InputError(
            f"the model does not know the class {', '.join(unknown)}, it knows {', '.join(classes)}: rename "
            "the class as in training, or remove its images"
        )
    place = np.array([classes.index(name) if name in classes else -1 for name in dataset.class_names])
    return replace(dataset, labels=place[dataset.labels], class_names=list(classes))


def validate(
    pipeline: Pipeline,
    dataset: ImageFolder,
    *,
    name: str = "model",
    positive: str | None = None,
    on_error: str = "raise",
    on_damage: str = "warn",
    store: str | None = None,
    random_state: int = 0,
) -> Evaluation:
    """Measure a trained pipeline on labelled images that it was not trained on.

    Parameters
    ----------
    pipeline : sklearn.pipeline.Pipeline
        A fitted pipeline, such as from :func:`medvlad.load_model`. Its first step is CNNDescriptors, or it
        was fitted on feature files. Its parameters do not change.
    dataset : ImageFolder
        Images, or feature files for a pipeline that was fitted on such files. All of them are used, also
        those of a training part.
    name : str, default="model"
        Name of the model in the results.
    positive : str or None
        See :func:`medvlad.evaluation.metrics.scores`.
    on_error, on_damage, store
        See :class:`medvlad.CNNDescriptors`.
    random_state : int, default=0
        Seed of the bootstrap.

    Returns
    -------
    Evaluation
        As from :meth:`medvlad.experiment.Experiment.evaluate`, with one result. Its results also have
        external: model, training_counts (training images by class; None: the model does not know them),
        threshold (of the decision value of the second of two classes; 0 for more classes), shares (by class:
        what :func:`medvlad.evaluation.prior_shift.prior_shift` returns, and observed, the true share) and
        shares_missing, the reason if shares is None.

    Raises
    ------
    InputError
        If the pipeline predicts no classes, or the images or feature files do not fit it.
    """
    first = pipeline.steps[0][1]
    network = first if isinstance(first, CNNDescriptors) else None
    _check_kind(pipeline, dataset)
    classifier = pipeline.steps[-1][1]
    check_task(task_of_head(classifier))
    classes = [str(one) for one in classifier.classes_]
    dataset = replace(check_classes(dataset, classes), splits=None)
    extractor = network and network.build().with_parameters(
        on_error=on_error, on_damage=on_damage, store=store, output="host" if store is None else "store"
    )
    watch = Stopwatch()
    with watch.stage("extract"):
        descriptors, dataset, skipped, damaged = extract_data_set(
            extractor,
            dataset,
            on_error=on_error,
            is_fitted=True,
            n_features=None if extractor is not None else getattr(first, "n_features_in_", None),
        )
    warn_of_small_classes(dataset.labels, dataset.groups, dataset.class_names, units=units_of(dataset))
    with watch.stage("encode"):
        fitted = pipeline.steps if extractor is None else pipeline.steps[1:]
        encoder = Pipeline(fitted[:-1])
        vectors = encoder.transform(descriptors)
    with watch.stage("predict"):
        decision = decision_columns(classifier.decision_function(vectors))
        probability = classifier.predict_proba(vectors) if hasattr(classifier, "predict_proba") else None
    threshold = float(getattr(classifier, "threshold_", 0.0))
    if len(classes) == 2 and threshold:
        decision = decision_columns(decision[:, 1] - threshold)
    tested = np.arange(len(dataset))
    fold = FittedFold(np.empty(0, np.intp), tested, encoder, classifier)
    penalties = [float(classifier.C)] if hasattr(classifier, "C") else []
    decided = HeldOut(
        tested=tested,
        decision=decision,
        probability=probability,
        penalties=penalties,
        inner_balanced_accuracy=None,
        fitted=[fold],
        protocol=PROTOCOL,
        seconds=watch.seconds,
    )
    result = {
        "encode": name,
        "scales": [] if extractor is None else np.atleast_1d(extractor.scales).tolist(),
        "parameters": {step: _plain(one.get_params(deep=False)) for step, one in fitted},
    } | held_out_metrics(dataset, decided, positive=positive, random_state=random_state)
    results = {
        "results": [result],
        "comparisons": [],
        "dataset": describe_dataset(dataset),
        "settings": _settings(extractor, descriptors.n_features, random_state),
        "versions": versions(),
        "skipped": skipped,
        "damaged": damaged,
        "external": _external(name, classifier, dataset, probability, threshold, random_state),
    }
    return Evaluation(results, dataset, descriptors, extractor, {name: decided})


def _check_kind(pipeline: Pipeline, dataset: ImageFolder) -> None:
    """Raise InputError if a pipeline takes images and the data set holds feature files, or the reverse."""
    reads_images = isinstance(pipeline.steps[0][1], CNNDescriptors)
    if len(pipeline.steps) < 2:
        raise InputError(
            "external validation needs a pipeline that encodes images or feature files and classifies them, "
            f"got {type(pipeline.steps[0][1]).__name__} alone: put the encoder first"
        )
    if reads_images and holds_feature_files(dataset):
        raise InputError(
            f"the model was trained on images, and {dataset.paths[0]} is a feature file: give images, or a "
            "model that was trained on feature files"
        )
    if not reads_images and not holds_feature_files(dataset):
        raise InputError(
            f"the model was trained on descriptors, and {dataset.paths[0]} is an image: give feature files "
            "of the same network, such as .h5, or a pipeline whose first step is CNNDescriptors"
        )


def _external(
    name: str,
    classifier: Any,
    dataset: ImageFolder,
    probability: NDArray[np.float64] | None,
    threshold: float,
    random_state: int,
) -> dict[str, Any]:
    """Return the entry `external` of results.json."""
    counts = _training_counts(classifier, dataset.class_names)
    shares: dict[str, dict[str, Any]] | None = None
    missing = None
    if probability is None:
        missing = "the model has no probabilities, because it was trained without calibration"
    elif counts is None or min(counts.values()) == 0:
        missing = "the model file has no number of training images of each class"
    else:
        shares = prior_shift(probability, counts, groups=dataset.groups, random_state=random_state)
        for k, one in enumerate(dataset.class_names):
            shares[one]["observed"] = float((dataset.labels == k).mean())
    return {
        "model": name,
        "training_counts": counts,
        "threshold": threshold,
        "shares": shares,
        "shares_missing": missing,
    }


def _training_counts(classifier: Any, class_names: list[str]) -> dict[str, int] | None:
    """Return the number of training images by class. None: the classifier does not know it."""
    counts = getattr(classifier, "training_counts_", None)
    if counts is None:
        return None
    return dict(zip(class_names, counts.tolist(), strict=True))


def _settings(extractor: CNNDescriptors | None, n_features: int, random_state: int) -> dict[str, Any]:
    """Return the settings for results.json: those of the network. The store changes no result."""
    common = {"seed": random_state, "available_backends": available_backends()}
    if extractor is None:
        return feature_settings(n_features) | common
    settings = {name: _plain(one) for name, one in extractor.get_params().items() if name != "store"}
    settings["weights"] = weights_source(extractor.weights)
    settings["weights_fingerprint"] = extractor.weights_fingerprint_
    settings["engine"] = extractor.engine_
    settings["input_sides"] = list(extractor.input_sides_)
    return settings | common


def _plain(value: Any) -> Any:
    """Return a value for JSON. What JSON does not know becomes the text that Python shows."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
