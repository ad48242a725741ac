"""Measure how well encodings predict held-out images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medvlad._util.counters import counting
from medvlad._util.passes import run_here
from medvlad._util.validate import InputError
from medvlad._util.versions import versions
from medvlad.classifier.steps import PENALTIES
from medvlad.classifier.training_copies import add_copies
from medvlad.datasets.describe import describe_dataset, units_of
from medvlad.datasets.folders import ImageFolder
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.ragged import Descriptors
from medvlad.evaluation.calibrated_training import positive_index
from medvlad.evaluation.class_counts import warn_of_small_classes
from medvlad.evaluation.cross_validation import HeldOut, Stopwatch, held_out
from medvlad.evaluation.held_out_metrics import compare_held_out
from medvlad.evaluation.parts import check_parts
from medvlad.experiment.results import described, result_of, settings_of
from medvlad.experiment.seeds import over_seeds
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.data_set import Workers, extract_data_set
from medvlad.svm.invariance import Nuisance

__all__ = ["Evaluation", "evaluate", "with_copies", "workers_for"]

logger = logging.getLogger(__name__)

#: Entries of results.json, comparisons, and held-out predictions by encoding.
_Found = tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Evaluation:
    """Result of :meth:`medvlad.experiment.Experiment.evaluate`.

    Attributes
    ----------
    results : dict
        Content of results.json: task (of labels and numbers only), results (one dict for each encoding),
        comparisons (of the first encoding with each other one, see
        :func:`medvlad.evaluation.comparison.compare`), dataset, settings, versions, skipped, damaged
        (images that were used although their data is damaged), and counters (images, bytes, failures,
        retries, and seconds of each stage).
    dataset : ImageFolder
        The images that were used, without skipped ones.
    descriptors : Descriptors or DescriptorBlocks
        Descriptors of these images.
    extractor : CNNDescriptors or None
        The extractor that made the descriptors. None: they are from feature files.
    decided : dict of str to HeldOut, HeldOutLabels or HeldOutNumbers
        Held-out predictions of each encoding. The kind depends on the task of the data set.
    """

    results: dict[str, Any]
    dataset: ImageFolder
    descriptors: Descriptors | DescriptorBlocks
    extractor: CNNDescriptors | None
    decided: dict[str, Any]


def evaluate(
    experiment: Any, dataset: ImageFolder, encodings: Sequence[str], workers: Workers | None = None
) -> Evaluation:
    """Do the work of :meth:`medvlad.experiment.Experiment.evaluate`."""
    with counting() as counters:
        evaluation = _evaluate(experiment, dataset, encodings, workers)
    evaluation.results["counters"] = counters.as_dict()
    return evaluation


def _evaluate(
    experiment: Any, dataset: ImageFolder, encodings: Sequence[str], workers: Workers | None
) -> Evaluation:
    classifier = experiment.classifier(encodings)
    extractor = experiment.network_for(dataset, classifier)
    encoders = classifier.make_encoders(extractor)
    check_parts(dataset)
    if dataset.task != "classes":
        experiment.target_run(dataset).check(
            experiment.calibration, experiment.positive, experiment.threshold
        )
    watch = Stopwatch()
    with watch.stage("extract"):
        descriptors, dataset, skipped, damaged = extract_data_set(
            extractor, dataset, on_error=experiment.on_error, workers=workers_for(experiment, workers)
        )
    with watch.stage("extract"):
        descriptors, nuisance = with_copies(experiment, extractor, dataset, descriptors)
    seconds = watch.seconds["extract"]
    if dataset.task == "classes":
        found = _of_classes(experiment, descriptors, dataset, encoders, extractor, seconds, nuisance)
    else:
        found = _of_targets(experiment, descriptors, dataset, encoders, seconds)
    results, comparisons, held = found
    if nuisance is not None:
        descriptors = descriptors.take(np.flatnonzero(~nuisance.is_copy))
    if isinstance(descriptors, DescriptorBlocks) and descriptors.runner is not None:
        descriptors = descriptors.on(run_here)  # the workers may leave
    task = {} if dataset.task == "classes" else {"task": dataset.task}
    report = task | {
        "results": results,
        "comparisons": comparisons,
        "dataset": describe_dataset(dataset),
        "settings": settings_of(experiment, extractor, descriptors),
        "versions": versions(),
        "skipped": skipped,
        "damaged": damaged,
    }
    return Evaluation(report, dataset, descriptors, extractor, held)


def with_copies(
    experiment: Any,
    extractor: CNNDescriptors | None,
    dataset: ImageFolder,
    descriptors: Descriptors | DescriptorBlocks,
) -> tuple[Descriptors | DescriptorBlocks, Nuisance | None]:
    """Add shifted copies of the training images to the descriptors, if the settings say so.

    With several seeds, all use the copies of the first one.
    """
    if experiment.augment == "none" or extractor is None:
        return descriptors, None
    training = np.ones(len(dataset), bool) if dataset.splits is None else dataset.splits == "train"
    return add_copies(
        extractor, dataset.paths, descriptors, np.flatnonzero(training), random_state=experiment.seed
    )


def workers_for(experiment: Any, workers: Workers | None) -> Workers | None:
    """Return the workers of an experiment.

    A codebook of all descriptors is found by passes also in this process, so a cluster gives the same bits.
    """
    if workers is not None and experiment.augment != "none":
        raise InputError(
            "shifted copies are extracted by this process only: leave augment or the workers out"
        )
    if workers is None and experiment.recipe.codebook_samples is None:
        return Workers(run_here)
    return workers


def _of_classes(
    experiment: Any,
    descriptors: Descriptors | DescriptorBlocks,
    dataset: ImageFolder,
    encoders: Mapping[str, Any],
    extractor: CNNDescriptors | None,
    extract_seconds: float,
    nuisance: Nuisance | None,
) -> _Found:
    tested = dataset if dataset.splits is None else dataset.take(np.flatnonzero(dataset.splits == "test"))
    warn_of_small_classes(tested.labels, tested.groups, tested.class_names, units=units_of(tested))
    results, comparisons = [], []
    held: dict[str, HeldOut] = {}
    for name, encoder in encoders.items():
        logger.info("evaluating %s", name)

        def decide(with_seed: Any, name: str = name) -> HeldOut:
            return _decide(with_seed, name, descriptors, dataset, extractor, nuisance)

        decided = decide(experiment)
        result = result_of(experiment, name, encoder, dataset, decided, extract_seconds)
        if experiment.n_seeds > 1:
            result["over_seeds"] = over_seeds(experiment, dataset, decided, decide)
        results.append(result)
        if held:
            first, decided_first = next(iter(held.items()))
            against = compare_held_out(dataset, decided_first, decided)
            comparisons.append({"first": first, "second": name} | against)
        held[name] = decided
    return results, comparisons, held


def _decide(
    experiment: Any,
    name: str,
    descriptors: Descriptors | DescriptorBlocks,
    dataset: ImageFolder,
    extractor: CNNDescriptors | None,
    nuisance: Nuisance | None,
) -> HeldOut:
    """Return the held-out predictions of one encoding with the seed of `experiment`."""
    classifier = experiment.classifier([name])
    return held_out(
        descriptors,
        dataset,
        classifier.make_encoders(extractor)[name],
        classifier.make_svm(),
        folds=experiment.folds,
        random_state=experiment.seed,
        penalties=PENALTIES if experiment.C is None else None,
        calibration=experiment.calibration,
        target=experiment.target(),
        positive=positive_index(dataset.class_names, experiment.positive),
        nuisance=nuisance,
    )


def _of_targets(
    experiment: Any,
    descriptors: Descriptors | DescriptorBlocks,
    dataset: ImageFolder,
    encoders: Mapping[str, Any],
    extract_seconds: float,
) -> _Found:
    run = experiment.target_run(dataset)
    metrics, comparisons, held = run.evaluate(descriptors, encoders)
    results = []
    for name, one in metrics.items():
        one["seconds"] = {"extract": round(extract_seconds, 4)} | one["seconds"]
        results.append(described(experiment, name, encoders[name], run.estimator(), dataset) | one)
    return results, comparisons, held
