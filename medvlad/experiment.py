"""Evaluate and train a classifier on a folder of images.

An experiment runs all steps in order: data set, extraction, encoding, classifier, metrics. The commands
`evaluate` and `train` do their work here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
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
from medvlad.backends import available_backends, get_backend
from medvlad.datasets.describe import describe_dataset
from medvlad.datasets.folders import ImageFolder, load_image_folder
from medvlad.datasets.published import LAYOUTS
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.recipe import Recipe, encoder_steps
from medvlad.evaluation.calibration import METHODS
from medvlad.evaluation.choice import Choice, choose_encoding
from medvlad.evaluation.class_counts import absent_classes, warn_of_small_classes
from medvlad.evaluation.cross_validation import HeldOut, Stopwatch, held_out
from medvlad.evaluation.held_out_metrics import compare_held_out, held_out_metrics
from medvlad.evaluation.layer_sweep import LayerSweep, sweep_layers
from medvlad.evaluation.parts import check_parts, has_two_class_test
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.data_set import extract_data_set
from medvlad.extraction.parameters import check_parameters
from medvlad.extraction.weights import weights_source
from medvlad.store.stored_descriptors import StoredDescriptors
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = ["PENALTIES", "Evaluation", "Experiment", "calibration_images", "sweep_experiment"]

logger = logging.getLogger(__name__)

#: Values of C from which cross-validation chooses.
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Evaluation:
    """Result of :meth:`Experiment.evaluate`.

    Attributes
    ----------
    results : dict
        Content of results.json: results (one dict for each encoding), comparisons (of the first encoding with
        each other one, see :func:`medvlad.evaluation.comparison.compare`), dataset, settings, versions,
        skipped, and damaged (images that were used although their data is damaged).
    dataset : ImageFolder
        The images that were used, without skipped ones.
    descriptors : Descriptors or StoredDescriptors
        Descriptors of these images.
    extractor : CNNDescriptors
        The extractor that made the descriptors.
    decided : dict of str to HeldOut
        Held-out predictions of each encoding.
    """

    results: dict[str, Any]
    dataset: ImageFolder
    descriptors: Descriptors | StoredDescriptors
    extractor: CNNDescriptors
    decided: dict[str, HeldOut]


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
        cross-validation inside the training images, see :mod:`medvlad.evaluation.cross_validation`.
    class_weight : dict, "balanced" or None
        See :class:`medvlad.WideLinearSVC`.
    calibration : {"platt", "isotonic"} or None
        See :mod:`medvlad.evaluation.calibration`. None: no probabilities.
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
        encoders = {name: self._encoder(name, extractor) for name in encodings}
        check_parts(dataset)
        watch = Stopwatch()
        with watch.stage("extract"):
            descriptors, dataset, skipped, damaged = extract_data_set(
                extractor, dataset, calibration_images(dataset)
            )
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
                folds=self.folds,
                random_state=self.seed,
                penalties=PENALTIES if self.C is None else None,
                calibration=self.calibration,
            )
            results.append(_result(self, name, encoder, dataset, decided, watch.seconds["extract"]))
            if all_decided:
                first, decided_first = next(iter(all_decided.items()))
                against = compare_held_out(dataset, decided_first, decided)
                comparisons.append({"first": first, "second": name} | against)
            all_decided[name] = decided
        report = {
            "results": results,
            "comparisons": comparisons,
            "dataset": describe_dataset(dataset),
            "settings": _settings(self, extractor),
            "versions": versions(),
            "skipped": skipped,
            "damaged": damaged,
        }
        return Evaluation(report, dataset, descriptors, extractor, all_decided)

    def train(self, dataset: ImageFolder, encoding: str) -> tuple[Pipeline, list[dict[str, str]], int]:
        """Fit a classifier with one encoding. See :meth:`train_best`, which this calls."""
        return self.train_best(dataset, [encoding])[:3]

    def train_best(
        self, dataset: ImageFolder, encodings: Sequence[str]
    ) -> tuple[Pipeline, list[dict[str, str]], int, Choice]:
        """Fit a classifier on the training part of a data set, or on all images if it has no parts.

        Parameters
        ----------
        dataset : ImageFolder
        encodings : sequence of str
            Names for :meth:`medvlad.encoders.recipe.Recipe.encoder`. If there are several, one is chosen by
            cross-validation inside the training images, see :mod:`medvlad.evaluation.choice`.

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
        penalties = PENALTIES if self.C is None else None
        extractor, classifier = self._extractor(), self._classifier()
        encoders = {name: self._encoder(name, extractor) for name in encodings}
        if dataset.splits is not None:
            dataset = dataset.take(np.flatnonzero(dataset.splits == "train"))
        descriptors, dataset, skipped, _ = extract_data_set(extractor, dataset, calibration_images(dataset))
        extractor.set_params(output="host", store=None)
        missing = absent_classes(dataset.labels, dataset.class_names)
        if missing:
            raise InputError(
                f"no usable training image is left of {', '.join(missing)}: add some or remove the class"
            )
        images = descriptors, dataset.labels, dataset.groups
        choice = choose_encoding(
            *images, encoders, classifier, penalties=penalties, folds=self.folds, random_state=self.seed
        )
        classifier.set_params(C=choice.penalty)
        encoder = encoders[choice.encoding]
        encoded = encoder.fit_transform(descriptors)
        classifier.fit(encoded, np.array(dataset.class_names)[dataset.labels])
        steps = [("features", extractor), *encoder_steps(encoder), ("classify", classifier)]
        return Pipeline(steps), skipped, len(dataset.labels), choice

    def _extractor(self) -> CNNDescriptors:
        return CNNDescriptors(
            self.model,
            self.layer,
            scales=self.scales,
            mirror=self.mirror,
            weights=self.weights,
            batch_size=self.batch_size,
            dtype=self.dtype,
            engine=self.engine,
            n_threads=self.n_threads,
            resize=self.resize,
            on_error=self.on_error,
            on_damage=self.on_damage,
            colour_profile=self.colour_profile,
            store=self.store,
            output="host" if self.store is None else "store",
        )

    def _encoder(self, name: str, extractor: CNNDescriptors) -> Any:
        layout: dict[str, Any] = {}
        if self.recipe.tiles:
            extractor.build()
            layout = {"grids": extractor.grids_, "mirrored": extractor.mirrored_}
        return self.recipe.encoder(
            name, backend=self.backend, n_threads=self.n_threads, random_state=self.seed, **layout
        )

    def _classifier(self) -> WideLinearSVC:
        return WideLinearSVC(1.0 if self.C is None else self.C, class_weight=self.class_weight)


def sweep_experiment(experiment: Experiment, dataset: ImageFolder, encodings: Sequence[str]) -> LayerSweep:
    """Score the last layers of the network, up to `layer`, inside the training images.

    Average pooling is scored as well, whether or not it is among the encodings.
    See :func:`medvlad.evaluation.layer_sweep.sweep_layers`.
    """
    if experiment.recipe.tiles:
        raise InputError("tiles depend on the layer's grid: leave tiles out to score layers")
    extractor = experiment._extractor()
    return sweep_layers(
        extractor,
        dataset,
        {name: experiment._encoder(name, extractor) for name in dict.fromkeys(["avg", *encodings])},
        experiment._classifier(),
        penalties=PENALTIES if experiment.C is None else None,
        folds=experiment.folds,
        random_state=experiment.seed,
    )


def _check_for_two_classes(experiment: Experiment, dataset: ImageFolder) -> None:
    """Raise InputError if a setting for two classes does not fit the data set."""
    if experiment.positive is not None:
        if len(dataset.class_names) != 2:
            raise InputError(
                f"positive={experiment.positive!r} needs a data set with two classes, this one has "
                f"{len(dataset.class_names)}: leave it out"
            )
        check_choice(experiment.positive, "the positive class", dataset.class_names)
    if experiment.adapt_threshold and not has_two_class_test(dataset):
        raise InputError(
            "adapt_threshold=True needs a data set with two classes and a test part: leave it out"
        )


def calibration_images(dataset: ImageFolder) -> list[Path]:
    """Return the images that the ranges of int8 are measured on: training images, sorted by path.

    Parameters
    ----------
    dataset : ImageFolder
        If it has no parts, all images are used.

    Returns
    -------
    list of Path
    """
    splits = dataset.splits
    wanted = range(len(dataset.paths)) if splits is None else np.flatnonzero(splits == "train").tolist()
    return sorted((dataset.paths[i] for i in wanted), key=str)


def _check_settings(experiment: Experiment) -> None:
    """Raise InputError if a setting is out of range, whatever the data set."""
    if experiment.C is not None:
        check_positive_float(experiment.C, "C")
    check_interval(experiment.recipe.power, "power", 0.0, 1.0)
    if experiment.calibration is not None:
        check_choice(experiment.calibration, "the calibration", tuple(METHODS))
    check_n_threads(experiment.n_threads)
    check_positive_int(experiment.folds, "folds")
    if experiment.folds < 2 and (experiment.C is None or experiment.calibration is not None):
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
    )
    found["seconds"] = {"extract": round(extract_seconds, 4)} | found["seconds"]
    parameters = {step: one.get_params(deep=False) for step, one in encoder_steps(encoder)}
    chosen_c = {"C": "cv"} if experiment.C is None else {}
    parameters |= {"classify": experiment._classifier().get_params() | chosen_c}
    described = {"encode": name, "scales": list(experiment.scales), "parameters": _plain(parameters)}
    return described | found


def _settings(experiment: Experiment, extractor: CNNDescriptors) -> dict[str, Any]:
    """Return the settings for results.json, with facts about the network that was used."""
    settings = asdict(experiment) | {"scales": list(experiment.scales)}
    settings["C"] = "cv" if experiment.C is None else experiment.C
    del settings["store"]  # it does not change any result
    settings["input_sides"] = list(extractor.input_sides_)
    settings["weights"] = weights_source(experiment.weights)
    settings["weights_fingerprint"] = extractor.weights_fingerprint_
    settings["engine"] = extractor.engine_
    settings["ranges"] = extractor.ranges_ if experiment.dtype == "int8" else None
    settings["available_backends"] = available_backends()
    return settings


def _plain(value: Any) -> Any:
    """Return `value` with estimators replaced by dicts of their parameters, for JSON."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, BaseEstimator):
        return {type(value).__name__: _plain(value.get_params(deep=False))}
    return value
