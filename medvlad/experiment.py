"""Evaluate and train a classifier on a folder of images.

An experiment runs all steps in order: data set, extraction, encoding, classifier, metrics. The commands
`evaluate` and `train` do their work here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from medvlad._util.validate import (
    InputError,
    check_choice,
    check_interval,
    check_n_threads,
    check_positive_float,
    check_positive_int,
    check_seed,
)
from medvlad._util.versions import versions
from medvlad.backends import get_backend
from medvlad.datasets.describe import describe_dataset
from medvlad.datasets.folders import ImageFolder, load_image_folder
from medvlad.datasets.published import LAYOUTS
from medvlad.decisions.calibration import AUTO, METHODS
from medvlad.decisions.operating_point import Target, read_target
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.recipe import Recipe, encoder_steps
from medvlad.evaluation.calibrated_training import positive_index, train_classifier
from medvlad.evaluation.choice import Choice
from medvlad.evaluation.class_counts import warn_of_small_classes
from medvlad.evaluation.cross_validation import HeldOut, Stopwatch, held_out
from medvlad.evaluation.held_out_metrics import compare_held_out, held_out_metrics
from medvlad.evaluation.parts import check_parts, has_two_class_test
from medvlad.evaluation.step_parameters import run_settings, step_parameters
from medvlad.evaluation.targets import TargetRun
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.data_set import calibration_images, extract_data_set
from medvlad.extraction.parameters import check_parameters
from medvlad.store.stored_descriptors import StoredDescriptors
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = ["PENALTIES", "Evaluation", "Experiment", "calibration_images"]

logger = logging.getLogger(__name__)

#: Values of C from which cross-validation chooses.
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Evaluation:
    """Result of :meth:`Experiment.evaluate`.

    Attributes
    ----------
    results : dict
        Content of results.json: task (of labels and numbers only), results (one dict for each encoding),
        comparisons (of the first encoding with each other one, see
        :func:`medvlad.evaluation.comparison.compare`), dataset, settings, versions, skipped, and damaged
        (images that were used although their data is damaged).
    dataset : ImageFolder
        The images that were used, without skipped ones.
    descriptors : Descriptors or StoredDescriptors
        Descriptors of these images.
    extractor : CNNDescriptors
        The extractor that made the descriptors.
    decided : dict of str to HeldOut, HeldOutLabels or HeldOutNumbers
        Held-out predictions of each encoding. The kind depends on the task of the data set.
    """

    results: dict[str, Any]
    dataset: ImageFolder
    descriptors: Descriptors | StoredDescriptors
    extractor: CNNDescriptors
    decided: dict[str, Any]


@dataclass(frozen=True)
class Experiment:
    """All settings of a run. They are written into its results, except for `store`.

    Attributes
    ----------
    model, layer, weights, scales, mirror, resize, batch_size, dtype, engine, store
        See :class:`medvlad.CNNDescriptors`.
    on_error, on_damage, colour_profile
        See :class:`medvlad.CNNDescriptors`.
    recipe : Recipe
        Steps from descriptors to vectors.
    backend, n_threads
        See :class:`medvlad.VLAD`. The extraction uses the same number of threads.
    C : float or None
        See :class:`medvlad.WideLinearSVC`. None: chosen from :data:`medvlad.experiment.PENALTIES` by
        cross-validation inside the training images, see :mod:`medvlad.evaluation.cross_validation`. Numbers
        do not use it, see :mod:`medvlad.evaluation.regression`.
    class_weight : dict, "balanced" or None
        See :class:`medvlad.WideLinearSVC`.
    calibration : {"auto", "platt", "isotonic"} or None
        See :mod:`medvlad.decisions.calibration`. A trained model then ends in
        :class:`medvlad.decisions.CalibratedSVC`. None: no probabilities.
    threshold : str or None
        Operating point for two classes that is found inside the training images, such as "sensitivity=0.95",
        see :mod:`medvlad.decisions.operating_point`. It includes a calibration of a trained model. None: the
        SVM's own threshold.
    layout : str
        Layout of the folder, a key of `medvlad.datasets.published.LAYOUTS`.
    group_pattern : str or None
        Regular expression for the patient in a file name, see :func:`medvlad.load_image_folder`.
    unknown_patients : {"own", "refuse", "drop"}
        What to do with images whose patient is not known, see :func:`medvlad.load_image_folder`.
    seed : int
        Seed of k-means and of every random split.
    folds : int
        Number of folds, see :func:`medvlad.evaluation.cross_validation.held_out`.
    positive : str or None
        See :func:`medvlad.evaluation.metrics.scores`.
    adapt_threshold : bool or None
        See :func:`medvlad.evaluation.held_out_metrics.held_out_metrics`. None: True if the data set has two
        classes and a test part.
    """

    model: str = "vgg19"
    layer: str = "block5_pool"
    weights: str = "imagenet"
    scales: tuple[int, ...] = (0,)
    mirror: bool = False
    resize: str = "bilinear"
    batch_size: int | None = None
    dtype: str = "float32"
    engine: str = "auto"
    on_error: str = "raise"
    on_damage: str = "warn"
    colour_profile: str = "ignore"
    store: str | None = None
    recipe: Recipe = field(default_factory=Recipe)
    backend: str = "auto"
    n_threads: int | None = None
    C: float | None = 1.0
    class_weight: str | None = None
    calibration: str | None = None
    threshold: str | None = None
    layout: str = "folder"
    group_pattern: str | None = None
    unknown_patients: str = "own"
    seed: int = 0
    folds: int = 5
    positive: str | None = None
    adapt_threshold: bool | None = False

    def load(self, root: str | Path) -> ImageFolder:
        """Check the settings and list the images under `root`.

        This is fast, so mistakes are found before the extraction.

        Parameters
        ----------
        root : path
            Folder of images.

        Returns
        -------
        ImageFolder

        Raises
        ------
        InputError
            If a setting is out of range, or the folder does not have the layout.
        """
        _check_settings(self)
        layout = check_choice(self.layout, "layout", tuple(LAYOUTS))
        unknown = {"unknown_patients": self.unknown_patients}
        if self.group_pattern is None:
            dataset = LAYOUTS[layout](root, random_state=self.seed, **unknown)
        elif layout == "folder":
            dataset = load_image_folder(root, group_pattern=self.group_pattern, **unknown)
        else:
            raise InputError(
                f"the layout {layout} already defines the patients: leave the pattern for patients out"
            )
        _check_for_two_classes(self, dataset)
        return dataset

    def check_encodings(self, encodings: Sequence[str]) -> None:
        """Raise InputError if there is no such encoding. No network is needed for this."""
        for name in encodings:
            self.recipe.encoder(name)

    def evaluate(self, dataset: ImageFolder, encodings: Sequence[str]) -> Evaluation:
        """Measure how well encodings classify the images of a data set.

        Parameters
        ----------
        dataset : ImageFolder
        encodings : sequence of str
            Names for :meth:`medvlad.encoders.recipe.Recipe.encoder`.

        Returns
        -------
        Evaluation

        Raises
        ------
        InputError
            If the images or settings are wrong. Most mistakes are found before the extraction.
        """
        extractor = self._extractor()
        encoders = {name: _encoder(self, name, extractor) for name in encodings}
        check_parts(dataset)
        if dataset.task != "classes":
            _targets(self, dataset).check(self.calibration, self.positive, self.threshold)
        watch = Stopwatch()
        with watch.stage("extract"):
            descriptors, dataset, skipped, damaged = extract_data_set(
                extractor, dataset, calibration_images(dataset)
            )
        if dataset.task != "classes":
            run, seconds = _targets(self, dataset), watch.seconds["extract"]
            report, held = run.results(descriptors, encoders, scales=self.scales, extract=seconds)
            report |= _facts(self, dataset, extractor, skipped=skipped, damaged=damaged)
            return Evaluation(report, dataset, descriptors, extractor, held)
        tested = dataset if dataset.splits is None else dataset.take(np.flatnonzero(dataset.splits == "test"))
        warn_of_small_classes(tested.labels, tested.groups, tested.class_names)
        results, comparisons = [], []
        all_decided: dict[str, HeldOut] = {}
        for name, encoder in encoders.items():
            logger.info("evaluating %s", name)
            decided = held_out(
                descriptors,
                dataset,
                encoder,
                self._classifier(),
                **_fitting(self),
                positive=positive_index(dataset.class_names, self.positive),
            )
            results.append(_result(self, name, encoder, dataset, decided, watch.seconds["extract"]))
            if all_decided:
                first, decided_first = next(iter(all_decided.items()))
                against = compare_held_out(dataset, decided_first, decided)
                comparisons.append({"first": first, "second": name} | against)
            all_decided[name] = decided
        report = {"results": results, "comparisons": comparisons}
        report |= _facts(self, dataset, extractor, skipped=skipped, damaged=damaged)
        return Evaluation(report, dataset, descriptors, extractor, all_decided)

    def train(self, dataset: ImageFolder, encoding: str) -> tuple[Pipeline, list[dict[str, str]], int]:
        """Fit a classifier with one encoding. See :meth:`train_best`, which this calls."""
        return self.train_best(dataset, [encoding])[:3]

    def train_best(
        self,
        dataset: ImageFolder,
        encodings: Sequence[str],
        *,
        keep: Callable[[Any, ImageFolder], None] | None = None,
    ) -> tuple[Pipeline, list[dict[str, str]], int, Choice]:
        """Fit a classifier on the training part of a data set, or on all images if it has no parts.

        Parameters
        ----------
        dataset : ImageFolder
        encodings : sequence of str
            Names for :meth:`medvlad.encoders.recipe.Recipe.encoder`. If there are several, one is chosen by
            cross-validation inside the training images, see :mod:`medvlad.evaluation.choice`.
        keep : callable or None, default=None
            Called with the encoded training images (n, D) and their data set, such as to keep them for the
            search of similar cases. None: they are dropped.

        Returns
        -------
        pipeline : sklearn.pipeline.Pipeline
            Predicts class names from image paths or arrays. Its extractor has no store, so predicting does
            not add new images to the training store.
        skipped : list of dict
            image and reason.
        n_images : int
            Number of training images.
        choice : Choice
            The encoding, and how good each one was.

        Raises
        ------
        InputError
            If the images or settings are wrong, or a class has no usable training image.
        """
        extractor = self._extractor()
        encoders = {name: _encoder(self, name, extractor) for name in encodings}
        if dataset.splits is not None:
            dataset = dataset.take(np.flatnonzero(dataset.splits == "train"))
        if dataset.task != "classes":
            _targets(self, dataset).check(self.calibration, self.positive, self.threshold)
        descriptors, dataset, skipped, _ = extract_data_set(extractor, dataset, calibration_images(dataset))
        extractor.set_params(output="host", store=None)
        if dataset.task != "classes":
            encoder, head, choice = _targets(self, dataset).train(descriptors, encoders)
            steps = [("features", extractor), *encoder_steps(encoder), ("classify", head)]
            return Pipeline(steps), skipped, len(dataset), choice
        encoder, classifier, choice = train_classifier(
            descriptors,
            dataset,
            encoders,
            self._classifier(),
            **_fitting(self),
            positive=self.positive,
            keep=keep,
        )
        steps = [("features", extractor), *encoder_steps(encoder), ("classify", classifier)]
        return Pipeline(steps), skipped, len(dataset.labels), choice

    def _extractor(self) -> CNNDescriptors:
        given: Any = self  # its words are checked when the network is built
        return CNNDescriptors(
            self.model,
            self.layer,
            scales=self.scales,
            mirror=self.mirror,
            weights=self.weights,
            batch_size=self.batch_size,
            dtype=given.dtype,
            engine=given.engine,
            n_threads=self.n_threads,
            resize=given.resize,
            on_error=given.on_error,
            on_damage=given.on_damage,
            colour_profile=given.colour_profile,
            store=self.store,
            output="host" if self.store is None else "store",
        )

    def _classifier(self) -> WideLinearSVC:
        return WideLinearSVC(1.0 if self.C is None else self.C, class_weight=self.class_weight)


def _encoder(experiment: Experiment, name: str, extractor: CNNDescriptors) -> Any:
    layout: dict[str, Any] = {"backend": experiment.backend}
    if experiment.recipe.tiles:
        extractor.build()
        layout |= {"grids": extractor.grids_, "mirrored": extractor.mirrored_}
    return experiment.recipe.encoder(
        name,
        n_threads=experiment.n_threads,
        random_state=experiment.seed,
        **layout,
    )


def _fitting(experiment: Experiment) -> dict[str, Any]:
    """Return the settings of folds, C and calibration."""
    return {
        "folds": experiment.folds,
        "random_state": experiment.seed,
        "penalties": PENALTIES if experiment.C is None else None,
        "calibration": experiment.calibration,
        "target": _target(experiment),
    }


def _target(experiment: Experiment) -> Target | None:
    return None if experiment.threshold is None else read_target(experiment.threshold)


def _targets(experiment: Experiment, dataset: ImageFolder) -> TargetRun:
    """Return the run on several labels or numbers."""
    c, penalties = (1.0, PENALTIES) if experiment.C is None else (experiment.C, None)
    return TargetRun(dataset, c, penalties, experiment.class_weight, experiment.folds, experiment.seed)


def _facts(
    experiment: Experiment, dataset: ImageFolder, extractor: CNNDescriptors, **reasons: list[Any]
) -> dict[str, Any]:
    """Return what results.json says beside metrics; `reasons` are skipped and damaged."""
    about = {"dataset": describe_dataset(dataset), "settings": run_settings(experiment, extractor)}
    return about | {"versions": versions(), **reasons}


def _check_for_two_classes(experiment: Experiment, dataset: ImageFolder) -> None:
    """Raise InputError if a setting for two classes does not fit the data set."""
    if experiment.positive is not None:
        if len(dataset.class_names) != 2:
            raise InputError(
                f"positive={experiment.positive!r} needs a data set with two classes, this one has "
                f"{len(dataset.class_names)}: leave it out"
            )
        check_choice(experiment.positive, "the positive class", dataset.class_names)
    if experiment.threshold is not None and len(dataset.class_names) != 2:
        raise InputError(
            f"threshold={experiment.threshold!r} needs a data set with two classes, this one has "
            f"{len(dataset.class_names)}: leave it out"
        )
    if experiment.adapt_threshold and not has_two_class_test(dataset):
        raise InputError(
            "adapt_threshold=True needs a data set with two classes and a test part: leave it out"
        )


def _check_settings(experiment: Experiment) -> None:
    """Raise InputError if a setting is out of range, whatever the data set."""
    if experiment.C is not None:
        check_positive_float(experiment.C, "C")
    check_interval(experiment.recipe.power, "power", 0.0, 1.0)
    if experiment.calibration is not None:
        check_choice(experiment.calibration, "the calibration", (AUTO, *METHODS))
    check_n_threads(experiment.n_threads)
    check_positive_int(experiment.folds, "folds")
    target = _target(experiment)
    if experiment.folds < 2 and (experiment.C is None or experiment.calibration or target):
        raise InputError(f"folds={experiment.folds} is too few to choose C or calibrate: use folds=2 or more")
    check_seed(experiment.seed)
    get_backend(experiment.backend)
    check_parameters(experiment._extractor())


def _result(
    experiment: Experiment,
    name: str,
    encoder: Any,
    dataset: ImageFolder,
    decided: HeldOut,
    extract_seconds: float,
) -> dict[str, Any]:
    """Return the entry of results.json for one encoding."""
    found = held_out_metrics(
        dataset,
        decided,
        positive=experiment.positive,
        random_state=experiment.seed,
        adapt_threshold=has_two_class_test(dataset) and experiment.adapt_threshold is not False,
        target=_target(experiment),
    )
    found["seconds"] = {"extract": round(extract_seconds, 4)} | found["seconds"]
    return _described(experiment, name, encoder, experiment._classifier()) | found


def _described(experiment: Experiment, name: str, encoder: Any, classifier: Any) -> dict[str, Any]:
    """Return an encoding and the parameters of its steps for results.json."""
    parameters = step_parameters(encoder, classifier, chosen_c=experiment.C is None)
    return {"encode": name, "scales": list(experiment.scales), "parameters": parameters}
