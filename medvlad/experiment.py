"""The main job: a folder of images in, a tested classifier out.

Ties the rooms together, in the order data moves: dataset, extraction, encoding, classifier. The command line
calls nothing else for `evaluate`, `train` and `predict`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline

from medvlad._util.atomic_file import write_file
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
from medvlad.datasets.folders import ImageFolder, load_image_folder
from medvlad.datasets.pseudonyms import Pseudonyms
from medvlad.datasets.published import LAYOUTS
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.recipe import Recipe, encoder_steps
from medvlad.evaluation.calibration import METHODS
from medvlad.evaluation.cross_validation import HeldOut, Stopwatch, held_out, inner_folds
from medvlad.evaluation.metrics import compare_decisions, figures
from medvlad.explain import evidence_map, evidence_picture, largest_evidence
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.weights import weights_source
from medvlad.images.read import list_frames
from medvlad.images.write import png
from medvlad.store.stored_descriptors import StoredDescriptors
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = ["Evaluation", "Experiment", "calibration_images", "predict_images"]

logger = logging.getLogger(__name__)

#: A C that is to be chosen is one of these.
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)

_IN_MEMORY = 1 << 30  # bytes of descriptors; more than that stay in the store, where there is one


@dataclass(frozen=True)
class Evaluation:
    """What :meth:`Experiment.evaluate` found.

    Attributes
    ----------
    results : dict
        results (one dict an encoding), comparisons (of the first with each other one, see
        :func:`medvlad.evaluation.bootstrap.compare`), dataset, settings, versions, skipped: ready for JSON.
    dataset : ImageFolder
        Without the images that were skipped.
    descriptors : Descriptors or StoredDescriptors
        Of its images.
    extractor : CNNDescriptors
    decided : dict of str to HeldOut
        By encoding.
    """

    results: dict[str, Any]
    dataset: ImageFolder
    descriptors: Descriptors | StoredDescriptors
    extractor: CNNDescriptors
    decided: dict[str, HeldOut]


@dataclass(frozen=True)
class Experiment:
    """Every setting of a run; all of them are written into its result.

    Attributes
    ----------
    model, layer, weights, scales, mirror, resize, batch_size, dtype, engine, on_error, store
        See :class:`medvlad.CNNDescriptors`.
    recipe : Recipe
        The way from descriptors to vectors.
    backend, n_threads
        See :class:`medvlad.VLAD`; the threads are those of extraction, too.
    C, class_weight
        See :class:`medvlad.WideLinearSVC`; a C of None is chosen from
        :data:`medvlad.experiment.PENALTIES` by cross-validation inside the training images, see
        :mod:`medvlad.evaluation.cross_validation`.
    calibration : {"platt", "isotonic"} or None
        See :mod:`medvlad.evaluation.calibration`.
    layout : str
        How the folder is read: a key of `medvlad.datasets.published.LAYOUTS`.
    group_pattern : str or None
        See :func:`medvlad.load_image_folder`.
    seed : int
        Of k-means and of every random split.
    folds, positive, adapt_threshold : int, str or None, bool or None
        See :func:`medvlad.evaluation.cross_validation.held_out` and
        :func:`medvlad.evaluation.metrics.figures`. None: adapt where there is a test part of two classes.
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
    store: str | None = None
    recipe: Recipe = field(default_factory=Recipe)
    backend: str = "auto"
    n_threads: int | None = None
    C: float | None = 1.0
    class_weight: str | None = None
    calibration: str | None = None
    layout: str = "folder"
    group_pattern: str | None = None
    seed: int = 0
    folds: int = 5
    positive: str | None = None
    adapt_threshold: bool | None = False

    def load(self, root: str | Path) -> ImageFolder:
        """Check the settings and list the images under `root`; quick, and before anything that takes long.

        Raises
        ------
        InputError
            If a setting is out of its range or the folder does not have the layout.
        """
        if self.C is not None:
            check_positive_float(self.C, "C")
        check_interval(self.recipe.power, "power", 0.0, 1.0)
        if self.calibration is not None:
            check_choice(self.calibration, "the calibration", tuple(METHODS))
        check_n_threads(self.n_threads)
        check_positive_int(self.folds, "folds")
        if self.folds < 2 and (self.C is None or self.calibration is not None):
            raise InputError(f"choosing C and calibration take at least 2 folds, got {self.folds}: give more")
        check_seed(self.seed)
        get_backend(self.backend)
        layout = check_choice(self.layout, "layout", tuple(LAYOUTS))
        if self.group_pattern is None:
            dataset = LAYOUTS[layout](Path(root), random_state=self.seed)
        elif layout == "folder":
            dataset = load_image_folder(Path(root), group_pattern=self.group_pattern)
        else:
            raise InputError(f"the layout {layout} knows its own patients: leave the pattern of theirs out")
        if self.positive is not None:
            if len(dataset.class_names) != 2:
                raise InputError(f"a positive class needs two classes, here are {len(dataset.class_names)}")
            check_choice(self.positive, "the positive class", dataset.class_names)
        if self.adapt_threshold and not _has_two_class_test(dataset):
            raise InputError(
                "a threshold is adapted to a test part of two classes: leave --adapt-threshold out"
            )
        return dataset

    def evaluate(self, dataset: ImageFolder, encodings: Sequence[str]) -> Evaluation:
        """Score encodings of the images of a data set.

        Parameters
        ----------
        dataset : ImageFolder
        encodings : sequence of str
            Names that :meth:`medvlad.encoders.recipe.Recipe.encoder` knows.

        Returns
        -------
        Evaluation

        Raises
        ------
        InputError
            On any mistake in images or settings, before the long work where possible.
        """
        extractor = self._extractor()
        encoders = {name: self._encoder(name, extractor) for name in encodings}
        if dataset.splits is not None:
            for part, other in (("train", "test"), ("test", "train")):
                if not (dataset.splits == part).any():
                    raise InputError(
                        f"there is a {other} part but no {part} part: add one, or give the folder of "
                        "the classes itself for cross-validation"
                    )
        watch = Stopwatch()
        with watch.stage("extract"):
            descriptors, dataset, skipped = _extract(extractor, dataset)
        _warn_of_absent_classes(dataset)
        results, comparisons = [], []
        all_decided: dict[str, HeldOut] = {}
        classifier = self._classifier()
        for name, encoder in encoders.items():
            logger.info("evaluating %s", name)
            decided = held_out(
                descriptors,
                dataset,
                encoder,
                classifier,
                folds=self.folds,
                random_state=self.seed,
                penalties=PENALTIES if self.C is None else None,
                calibration=self.calibration,
            )
            found = figures(
                dataset,
                decided,
                positive=self.positive,
                random_state=self.seed,
                adapt_threshold=_has_two_class_test(dataset) and self.adapt_threshold is not False,
            )
            found["seconds"] = {"extract": round(watch.seconds["extract"], 4)} | found["seconds"]
            parameters = {step: one.get_params(deep=False) for step, one in encoder_steps(encoder)}
            learnt = {"C": "cv"} if self.C is None else {}
            parameters = _plain(parameters | {"classify": classifier.get_params() | learnt})
            results.append({"encode": name, "scales": list(self.scales), "parameters": parameters} | found)
            if all_decided:
                first, decided_first = next(iter(all_decided.items()))
                against = compare_decisions(dataset, decided_first, decided, random_state=self.seed)
                comparisons.append({"first": first, "second": name} | against)
            all_decided[name] = decided
        report = {
            "results": results,
            "comparisons": comparisons,
            "dataset": {
                "n_images": len(dataset.labels),
                "class_names": dataset.class_names,
                "n_groups": None if dataset.groups is None else len(set(dataset.groups.tolist())),
            },
            "settings": self._settings(extractor),
            "versions": versions(),
            "skipped": skipped,
        }
        return Evaluation(report, dataset, descriptors, extractor, all_decided)

    def train(self, dataset: ImageFolder, encoding: str) -> tuple[Pipeline, list[dict[str, str]], int]:
        """Fit a classifier on the images of a data set, on their training part if they have one.

        Returns
        -------
        pipeline : sklearn.pipeline.Pipeline
            Predicts class names from image paths or arrays.
        skipped : list of dict
            image and reason.
        n_images : int
            Images trained on.
        """
        extractor, classifier = self._extractor(), self._classifier()
        encoder = self._encoder(encoding, extractor)
        if dataset.splits is not None:
            dataset = dataset.take(np.flatnonzero(dataset.splits == "train"))
        descriptors, dataset, skipped = _extract(extractor, dataset)
        extractor.set_params(output="host")  # few images are predicted at a time
        missing = set(range(len(dataset.class_names))) - set(dataset.labels.tolist())
        if missing:
            names = ", ".join(dataset.class_names[k] for k in sorted(missing))
            raise InputError(f"no usable training image is left of: {names}; add some or remove the class")
        if self.C is None:
            inner = inner_folds(
                descriptors,
                dataset.labels,
                dataset.groups,
                encoder,
                classifier,
                PENALTIES,
                folds=self.folds,
                random_state=self.seed,
            )
            classifier.set_params(C=inner.penalty)
        encoded = encoder.fit_transform(descriptors)
        classifier.fit(encoded, np.array(dataset.class_names)[dataset.labels])
        steps = [("features", extractor), *encoder_steps(encoder), ("classify", classifier)]
        return Pipeline(steps), skipped, len(dataset.labels)

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
            store=self.store,
            output="host" if self.store is None else "store",
        )

    def _encoder(self, name: str, extractor: CNNDescriptors) -> Any:
        where: dict[str, Any] = {}
        if self.recipe.tiles:
            extractor.build()
            where = {"grids": extractor.grids_, "mirrored": extractor.mirrored_}
        return self.recipe.encoder(
            name, backend=self.backend, n_threads=self.n_threads, random_state=self.seed, **where
        )

    def _classifier(self) -> WideLinearSVC:
        return WideLinearSVC(1.0 if self.C is None else self.C, class_weight=self.class_weight)

    def _settings(self, extractor: CNNDescriptors) -> dict[str, Any]:
        settings = asdict(self) | {"scales": list(self.scales), "C": "cv" if self.C is None else self.C}
        del settings["store"]  # where descriptors lie changes no number
        settings["input_sides"] = list(extractor.input_sides_)
        settings["weights"] = weights_source(self.weights)
        settings["weights_fingerprint"] = extractor.weights_fingerprint_
        settings["engine"] = extractor.engine_
        settings["ranges"] = extractor.ranges_ if self.dtype == "int8" else None
        settings["available_backends"] = available_backends()
        return settings


def _warn_of_absent_classes(dataset: ImageFolder) -> None:
    if dataset.splits is None:
        return
    there = set(dataset.labels[dataset.splits == "test"].tolist())
    absent = [name for k, name in enumerate(dataset.class_names) if k not in there]
    if absent:
        logger.warning(
            "the test part has no image of %s: figures that need some are left out", ", ".join(absent)
        )


def _has_two_class_test(dataset: ImageFolder) -> bool:
    return len(dataset.class_names) == 2 and dataset.splits is not None


def calibration_images(dataset: ImageFolder) -> list[Path]:
    """Images whose pixels may say how large numbers get, for int8: without a test part all of them."""
    splits = dataset.splits
    wanted = range(len(dataset.paths)) if splits is None else np.flatnonzero(splits == "train").tolist()
    return sorted((dataset.paths[i] for i in wanted), key=str)


def predict_images(
    pipeline: Pipeline,
    images: Sequence[str],
    *,
    on_error: str = "raise",
    explain: Path | None = None,
    names: Pseudonyms | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Classify image files.

    Parameters
    ----------
    pipeline : sklearn.pipeline.Pipeline
        From :meth:`Experiment.train` or :func:`medvlad.load_model`.
    images : sequence of str
        Paths; of a file of several images, all of them are classified.
    on_error : {"raise", "skip"}, default="raise"
    explain : Path or None
        Folder for a picture an image: where the evidence for its label is, see :mod:`medvlad.explain`.
    names : Pseudonyms or None
        What images and pictures are called; None: by their paths.

    Returns
    -------
    predictions : list of dict
        image, label, scores (class name to decision value; the largest wins), and with `explain` the file
        name of the picture, evidence.
    skipped : list of dict
        image and reason.
    """
    extractor = pipeline.steps[0][1]
    extractor.set_params(on_error=on_error)
    listed = [(image, list_frames(image)) for image in images]
    # One name stays as it was given, "./a.png" for example.
    images = [str(path) for image, paths in listed for path in (paths if paths != [Path(image)] else [image])]
    descriptors = extractor.transform(list(images))
    skipped = dict(extractor.skipped_)
    decision = pipeline[1:].decision_function(descriptors)
    if decision.ndim == 1:
        decision = np.column_stack([-decision, decision])
    classes = [str(name) for name in pipeline.classes_]
    predictions: list[dict[str, Any]] = [
        {
            "image": image if names is None else names.image(image),
            "label": classes[int(values.argmax())],
            "scores": dict(zip(classes, map(float, values), strict=True)),
        }
        for i, (image, values) in enumerate(zip(images, decision, strict=True))
        if i not in skipped
    ]
    if explain is not None:
        seen = [i for i in range(len(images)) if i not in skipped]
        steps = [step for _, step in pipeline.steps[1:]]
        maps = [
            evidence_map(extractor, steps, descriptors[i : i + 1], int(decision[i].argmax())) for i in seen
        ]
        largest = largest_evidence(maps)
        for i, own, prediction in zip(seen, maps, predictions, strict=True):
            name = f"{i:0{len(str(len(images) - 1))}d}_{Path(images[i]).stem[:80]}.png"
            if names is not None:
                name = f"{names.image(images[i])}.png"
            write_file(explain / name, png(evidence_picture(images[i], own, largest)), "picture")
            prediction["evidence"] = name
    left_out = [(images[i], reason) for i, reason in skipped.items()]
    if names is not None:
        left_out = [(names.image(image), names.reason(reason, image)) for image, reason in left_out]
    return predictions, [{"image": image, "reason": reason} for image, reason in left_out]


def _plain(value: Any) -> Any:
    """Turn estimators among parameters into what JSON can hold."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, BaseEstimator):
        return {type(value).__name__: _plain(value.get_params(deep=False))}
    return value


def _extract(
    extractor: CNNDescriptors, dataset: ImageFolder
) -> tuple[Descriptors | StoredDescriptors, ImageFolder, list[dict[str, str]]]:
    """Descriptors of the readable images, the data set without the others, and the list of those."""
    descriptors = extractor.fit(calibration_images(dataset)).transform(dataset.paths)
    skipped = [{"image": str(dataset.paths[i]), "reason": reason} for i, reason in extractor.skipped_]
    if skipped:
        bad = {i for i, _ in extractor.skipped_}
        kept = np.array([i for i in range(len(dataset.paths)) if i not in bad], dtype=np.intp)
        if len(kept) == 0:
            raise InputError(
                f"none of the {len(dataset.paths)} images could be read; the first: {skipped[0]['reason']}"
            )
        descriptors, dataset = descriptors.take(kept), dataset.take(kept)
    if isinstance(descriptors, StoredDescriptors) and descriptors.nbytes <= _IN_MEMORY:
        with suppress(MemoryError):  # then they stay where they are
            descriptors = descriptors.load()  # the same numbers, and quicker to come back to
    return descriptors, dataset, skipped
