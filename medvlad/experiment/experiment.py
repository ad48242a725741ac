"""Evaluate and train a classifier on a folder or a table of images.

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

from medvlad._util.validate import InputError
from medvlad.classifier.image_classifier import ImageClassifier
from medvlad.classifier.steps import PENALTIES
from medvlad.datasets.folders import ImageFolder
from medvlad.datasets.load import load_data
from medvlad.datasets.manifest_columns import TableSettings
from medvlad.datasets.pooling import holds_feature_files, pool_by
from medvlad.decisions.operating_point import Target, read_target
from medvlad.encoders.recipe import Recipe
from medvlad.evaluation.layer_sweep import LayerSweep, sweep_layers
from medvlad.evaluation.parts import with_sites_as_folds
from medvlad.evaluation.targets import TargetRun
from medvlad.experiment.checks import check_classes_left, check_data_set, check_for_layers, check_settings
from medvlad.experiment.evaluation import Evaluation, evaluate, with_copies, workers_for
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.data_set import Workers, calibration_images, extract_data_set

__all__ = ["Evaluation", "Experiment", "calibration_images"]

logger = logging.getLogger(__name__)

#: Fields that are parameters of the same name of :class:`medvlad.ImageClassifier`.
_OF_CLASSIFIER = (
    *("model", "layer", "weights", "scales", "mirror", "resize", "batch_size", "dtype", "engine", "store"),
    *("preprocess", "prefix_tokens", "side", "on_error", "on_damage", "colour_profile", "recipe", "backend"),
    *("decode", "n_threads", "memory", "folds", "threshold", "positive", "augment"),
)


@dataclass(frozen=True)
class Experiment:
    """All settings of a run. They are written into its results, except for `store`.

    Attributes
    ----------
    model, layer, weights, scales, mirror, resize, batch_size, dtype, engine, store
        See :class:`medvlad.CNNDescriptors`.
    on_error, on_damage, colour_profile, decode, preprocess, prefix_tokens, side
        See :class:`medvlad.CNNDescriptors`.
    recipe : Recipe
        Steps from descriptors to vectors.
    backend, n_threads, memory
        See :class:`medvlad.ImageClassifier`. The extraction uses the same number of threads.
    C : float or None
        See :class:`medvlad.WideLinearSVC`. None: chosen from :data:`medvlad.classifier.PENALTIES` by
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
    pool_by : {"patient"} or None
        Pool the feature files of a patient into one bag, see :func:`medvlad.datasets.pooling.pool_by`.
    table : TableSettings
        Columns of a table, see :func:`medvlad.load_manifest`.
    group_by : {"patient", "site"}
        "patient": folds keep the images of a patient together. "site": each site is a fold.
    seed, n_seeds : int
        Seed of k-means and of every random split, and :func:`the number of seeds <.over_seeds>` from it on.
    folds : int
        Number of folds, see :func:`medvlad.evaluation.cross_validation.held_out`.
    positive : str or None
        See :func:`medvlad.evaluation.metrics.scores`.
    augment : {"none", "shift"}
        See :class:`medvlad.ImageClassifier`.
    adapt_threshold : bool or None
        See :func:`medvlad.evaluation.held_out_metrics.held_out_metrics`. None: True if the data set has two
        classes and a test part.
    """

    model: str = "vgg19"
    layer: str | None = None
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
    decode: str = "full"
    store: str | None = None
    recipe: Recipe = field(default_factory=Recipe)
    backend: str = "auto"
    n_threads: int | None = None
    memory: int | str | None = None
    C: float | None = 1.0
    class_weight: str | None = None
    calibration: str | None = None
    threshold: str | None = None
    layout: str = "folder"
    group_pattern: str | None = None
    unknown_patients: str = "own"
    pool_by: str | None = None
    table: TableSettings = field(default_factory=TableSettings)
    group_by: str = "patient"
    seed: int = 0
    n_seeds: int = 1
    folds: int = 5
    positive: str | None = None
    augment: str = "none"
    adapt_threshold: bool | None = False
    preprocess: str | None = None
    prefix_tokens: int | None = None
    side: int | None = None

    def load(self, root: str | Path) -> ImageFolder:
        """Check the settings and list the images. Mistakes are found before the extraction.

        Parameters
        ----------
        root : path
            Folder of images, or a table, see :func:`medvlad.load_manifest`.

        Returns
        -------
        ImageFolder

        Raises
        ------
        InputError
            If a setting is out of range, or the folder does not have the layout.
        """
        check_settings(self)
        dataset = load_data(
            root,
            layout=self.layout,
            table=self.table,
            group_pattern=self.group_pattern,
            unknown_patients=self.unknown_patients,
            random_state=self.seed,
        )
        dataset = dataset if self.pool_by is None else pool_by(dataset, self.pool_by)
        if self.group_by == "site":
            dataset = with_sites_as_folds(dataset)
        check_data_set(self, dataset)
        return dataset

    def check_encodings(self, encodings: Sequence[str]) -> None:
        """Raise InputError if there is no such encoding. No network is needed for this."""
        for name in encodings:
            self.recipe.encoder(name)

    def evaluate(
        self, dataset: ImageFolder, encodings: Sequence[str], *, workers: Workers | None = None
    ) -> Evaluation:
        """Measure how well encodings classify the images of a data set.

        Parameters
        ----------
        dataset : ImageFolder
        encodings : sequence of str
            Names for :meth:`medvlad.encoders.recipe.Recipe.encoder`.
        workers : Workers or None, default=None
            Who extracts, encodes and finds codebooks, such as a cluster. None: this process.

        Raises
        ------
        InputError
            If the images or settings are wrong. Most mistakes are found before the extraction.
        """
        return evaluate(self, dataset, encodings, workers)

    def sweep_layers(self, dataset: ImageFolder, encodings: Sequence[str]) -> LayerSweep:
        """Score the last layers of the network, up to `layer`, inside the training images.

        Average pooling is always among them, see :func:`medvlad.evaluation.layer_sweep.sweep_layers`.
        """
        check_for_layers(self)
        classifier = self.classifier(list(dict.fromkeys(["avg", *encodings])))
        return sweep_layers(
            classifier.make_network(),
            dataset,
            classifier.make_encoders(),
            classifier.make_svm(),
            penalties=PENALTIES if self.C is None else None,
            folds=self.folds,
            random_state=self.seed,
        )

    def train(self, dataset: ImageFolder, encoding: str) -> tuple[Pipeline, list[dict[str, str]], int]:
        """Fit a pipeline with one encoding. See :meth:`train_best`, which this calls."""
        classifier, skipped, n_images = self.train_best(dataset, [encoding])
        return classifier.pipeline_, skipped, n_images

    def train_best(
        self,
        dataset: ImageFolder,
        encodings: Sequence[str],
        *,
        keep: Callable[[Any, ImageFolder], None] | None = None,
        workers: Workers | None = None,
    ) -> tuple[ImageClassifier, list[dict[str, str]], int]:
        """Fit a classifier on the training part of a data set, or on all images if it has no parts.

        Parameters
        ----------
        dataset : ImageFolder
        encodings : sequence of str
            As in :meth:`evaluate`. One of several is chosen, see :mod:`medvlad.evaluation.choice`.
        keep : callable or None, default=None
            Called with the encoded training images (n, D) and their data set. None: they are not kept.
        workers : Workers or None, default=None
            See :meth:`evaluate`.

        Returns
        -------
        classifier : ImageClassifier
            The extractor in its pipeline has no store, so predicting adds nothing to the training store.
        skipped : list of dict
            image and reason.
        n_images : int
            Number of training images.

        Raises
        ------
        InputError
            If the images or settings are wrong, or a class has no usable training image.
        """
        classifier = self.classifier(encodings)
        extractor = self.network_for(dataset, classifier)
        classifier.make_encoders(extractor)  # mistakes are found before the extraction
        if dataset.splits is not None:
            dataset = dataset.take(np.flatnonzero(dataset.splits == "train"))
        if dataset.task != "classes":
            self.target_run(dataset).check(self.calibration, self.positive, self.threshold)
        descriptors, dataset, skipped, _ = extract_data_set(
            extractor, dataset, on_error=self.on_error, workers=workers_for(self, workers)
        )
        if dataset.task != "classes":
            classifier.fit_targets(self.target_run(dataset), descriptors, network=extractor)
            return classifier, skipped, len(dataset)
        check_classes_left(dataset)
        descriptors, nuisance = with_copies(self, extractor, dataset, descriptors)
        source = np.arange(len(dataset)) if nuisance is None else nuisance.source
        kept = None if keep is None else lambda encoded: keep(encoded[: len(dataset)], dataset)
        further: dict[str, Any] = {"network": extractor, "keep": kept, "nuisance": nuisance}
        classifier.fit_descriptors(descriptors, dataset.y[source], dataset.groups_of(source), **further)
        return classifier, skipped, len(dataset.labels)

    def classifier(self, encodings: Sequence[str]) -> ImageClassifier:
        """Return the estimator that these settings describe, not fitted."""
        return ImageClassifier(
            **{name: getattr(self, name) for name in _OF_CLASSIFIER},
            encode=",".join(encodings),
            C="cv" if self.C is None else self.C,
            class_weight=self.class_weight or "none",
            calibration=self.calibration or "none",
            random_state=self.seed,
        )

    def network_for(self, dataset: ImageFolder, classifier: ImageClassifier) -> CNNDescriptors | None:
        """Return the network. None: the rows of the data set are feature files."""
        if not holds_feature_files(dataset):
            return classifier.make_network()
        if self.recipe.tiles:
            raise InputError("tiles divide images, and feature files are no images: leave tiles out")
        return None

    def target(self) -> Target | None:
        """Return the wanted operating point."""
        return None if self.threshold is None else read_target(self.threshold)

    def target_run(self, dataset: ImageFolder) -> TargetRun:
        """Return the run on several labels or numbers."""
        c, penalties = (1.0, PENALTIES) if self.C is None else (self.C, None)
        return TargetRun(dataset, c, penalties, self.class_weight, self.folds, self.seed)
