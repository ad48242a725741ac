"""The summary at the top of a report: question, data, answer, and caveats that the results show.

Here is what all reports say, and what those of one class say. :mod:`medvlad.report.target_summary` has the
parts of several labels and of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvlad.datasets.describe import patients_in_words, units_in_words
from medvlad.datasets.folders import ImageFolder
from medvlad.evaluation.class_counts import FEW_PATIENTS, units_per_class
from medvlad.report.html import Page
from medvlad.report.metric_rows import by_what
from medvlad.report.target_summary import (
    names_in_words,
    target_answer,
    target_caveats,
    target_question,
)

__all__ = ["add_summary", "caveats", "report_title"]

_MANY_NAMES = 6
_IMBALANCED = 0.2  # share of the smallest class of two, or of a class if all were equal
_PRIOR_CHANGE = 0.05  # share of a class, from the training to the test images
_THRESHOLD_GAIN = 0.02  # balanced accuracy

Remark = tuple[str, str]


def report_title(results: Mapping[str, Any]) -> str:
    """Return the title of the page: the network and the data set."""
    units = units_in_words(results["dataset"])
    return f"{results['settings']['model']} on {Path(results['dataset'].get('root') or units).name}"


def add_summary(page: Page, results: Mapping[str, Any], dataset: ImageFolder) -> None:
    """Add question, data, answer and caveats.

    Parameters
    ----------
    page : Page
    results : mapping
        ``results`` of :class:`medvlad.experiment.Evaluation`.
    dataset : ImageFolder
        The images that were used.
    """
    page.card(
        [
            ("Question", [_question(results)]),
            ("Data", list(_data(results))),
            ("Answer", list(_answer(results))),
        ],
        caveats(results, dataset),
    )


def caveats(results: Mapping[str, Any], dataset: ImageFolder) -> list[Remark]:
    """Return the caveats that follow from the results, warnings first.

    Parameters
    ----------
    results : mapping
        ``results`` of :class:`medvlad.experiment.Evaluation`.
    dataset : ImageFolder
        The images that were used.

    Returns
    -------
    list of (str, str)
        "warning" or "note", and a sentence.
    """
    found = [("warning", f"{warning}.") for warning in results.get("warnings", [])]
    found += [
        *_of_patients(results, dataset),
        *_of_sites(results, dataset),
        *(target_caveats(results) if "task" in results else _of_one_class(results, dataset)),
        *_of_files(results),
    ]
    units = units_in_words(results["dataset"])
    if len(results["results"]) > 1:
        found.append(
            (
                "note",
                f"{len(results['results'])} encodings were tested on the same {units}, so the result of the "
                f"best one is too optimistic: choose one before the test, or test it on new {units}.",
            )
        )
    if "external" not in results:
        how = "Test the model" if "task" in results else "'medvlad external' tests a model"
        found.append(("note", f"This is internal validation. {how} on {units} from elsewhere."))
    return sorted(found, key=lambda remark: remark[0] == "note")


def _of_one_class(results: Mapping[str, Any], dataset: ImageFolder) -> Iterator[Remark]:
    """Yield what limits results on classes."""
    yield from _of_small_classes(results, dataset)
    yield from _of_classes(results, dataset)
    yield from _of_shift(results, dataset)
    yield from _of_calibration(results)
    yield from _of_subgroups(results)


def _question(results: Mapping[str, Any]) -> str:
    if "task" in results:
        return target_question(results)
    names, units = results["dataset"]["class_names"], units_in_words(results["dataset"])
    who = "an image" if units == "images" else "a bag"
    return f"Which of {len(names)} classes does {who} show: {names_in_words(names)}?"


def _data(results: Mapping[str, Any]) -> Iterator[str]:
    dataset, first = results["dataset"], results["results"][0]
    known = patients_in_words(dataset)
    patients = "" if known is None else f" of {known}"
    units = units_in_words(dataset)
    counted = f"{dataset['n_images']:,} {units}{patients}"
    if "external" in results:
        yield f"{counted} ({first['protocol']}). Nothing is fitted on them."
        return
    if "cross-validation" in first["protocol"]:
        yield f"{counted}, each tested once ({first['protocol']}, {first['n_train']:,} to train in a fold)"
    else:
        yield f"{counted}; {first['n_train']:,} to train, {first['n_test']:,} to test ({first['protocol']})"
    yield f"Everything is fitted on training {units} only."


def _answer(results: Mapping[str, Any]) -> Iterator[str]:
    first = results["results"][0]
    yield from target_answer(results) if "task" in results else _of_encodings(results)
    of = f" Sensitivity is that of {first['positive_class']}." if "positive_class" in first else ""
    yield f"In parentheses: 95 % intervals {by_what(results)}.{of}"


def _of_encodings(results: Mapping[str, Any]) -> Iterator[str]:
    for one in results["results"]:
        name = "" if len(results["results"]) == 1 else f"{one['encode']}: "
        balanced = f"*{_number(one['balanced_accuracy'])}*{_interval(one, 'balanced_accuracy')}"
        yield f"{name}balanced accuracy {balanced}"
        values = [f"accuracy {_number(one['accuracy'])}{_interval(one, 'accuracy')}"]
        values.append(f"AUC {_number(one['auc'])}{_interval(one, 'auc')}")
        if "positive_class" in one:
            values += [f"{m} {_number(one[m])}{_interval(one, m)}" for m in ("sensitivity", "specificity")]
        yield ", ".join(values)


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _interval(one: Mapping[str, Any], metric: str) -> str:
    ends = one[f"{metric}_ci95"]
    return "" if ends is None else f" ({ends[0]:.3f}\u00a0to\u00a0{ends[1]:.3f})"


def _tested(dataset: ImageFolder) -> ImageFolder:
    return dataset if dataset.splits is None else dataset.take(np.flatnonzero(dataset.splits == "test"))


def _of_patients(results: Mapping[str, Any], dataset: ImageFolder) -> Iterator[Remark]:
    described, units = results["dataset"], units_in_words(results["dataset"])
    if results["results"][0]["ci95_of"] == "images":
        yield (
            "warning",
            f"No patients are known, so every {units[:-1]} counts as a patient of its own. If patients have "
            f"several {units}, the intervals are too narrow, and training and test may share patients.",
        )
    elif (described.get("n_known_patients") or described["n_groups"]) < described["n_groups"]:
        unknown = described["n_groups"] - described["n_known_patients"]
        yield (
            "warning",
            f"The patients of {unknown} files are not known. Each of these files counts as a patient.",
        )


def _of_small_classes(results: Mapping[str, Any], dataset: ImageFolder) -> Iterator[Remark]:
    tested = _tested(dataset)
    counts = units_per_class(tested.labels, tested.groups, len(tested.class_names))
    smallest = int(counts.min())
    told = any("has only" in warning for warning in results.get("warnings", []))
    if smallest < FEW_PATIENTS and not told:
        units = units_in_words(results["dataset"])
        what = f"test {units}" if tested.groups is None else "patients in the test"
        name = tested.class_names[int(counts.argmin())]
        yield (
            "warning",
            f"Class {name} has only {smallest} {what}. With fewer than {FEW_PATIENTS}, metrics are "
            "uncertain.",
        )


def _of_sites(results: Mapping[str, Any], dataset: ImageFolder) -> Iterator[Remark]:
    units = units_in_words(results["dataset"])
    lower = "Accuracy at other sites may be lower."
    if dataset.sites is None:
        yield ("note", f"The sites of the {units} are not known. {lower}")
        return
    sites = set(dataset.sites[dataset.sites != ""].tolist())
    if len(sites) == 1:
        yield ("warning", f"All {units} of known site are from one site. {lower}")


def _of_classes(results: Mapping[str, Any], dataset: ImageFolder) -> Iterator[Remark]:
    labels = _tested(dataset).labels
    shares = np.bincount(labels, minlength=len(dataset.class_names)) / max(len(labels), 1)
    present = shares[shares > 0]
    if len(present) > 1 and present.min() < _IMBALANCED * 2 / len(shares):
        common = dataset.class_names[int(shares.argmax())]
        yield (
            "warning",
            f"The classes are imbalanced. Always answering {common} would have accuracy {shares.max():.3f}, "
            "so read the balanced accuracy and the AUC.",
        )


def _of_shift(results: Mapping[str, Any], dataset: ImageFolder) -> Iterator[Remark]:
    shares = _shares(results, dataset)
    if shares:
        name, (before, after) = max(shares.items(), key=lambda one: abs(one[1][1] - one[1][0]))
        if abs(after - before) >= _PRIOR_CHANGE:
            yield (
                "warning",
                f"Class {name} is {before:.0%} of the training and {after:.0%} of the test images. The "
                "decision threshold and the probabilities are those of the training images.",
            )
    for one in results["results"]:
        adapted = one.get("adapted", {})
        gain = (adapted.get("balanced_accuracy") or 0) - (one["balanced_accuracy"] or 0)
        if "accuracy" in adapted and gain >= _THRESHOLD_GAIN:
            yield (
                "warning",
                f"{one['encode']}: the scores of the test images have shifted. A threshold found in them "
                f"without labels has balanced accuracy {adapted['balanced_accuracy']:.3f}, against "
                f"{one['balanced_accuracy']:.3f}.",
            )


def _shares(results: Mapping[str, Any], dataset: ImageFolder) -> dict[str, tuple[float, float]]:
    """Return the share of each class among the training and the test images; empty if they are not known."""
    n_classes = len(dataset.class_names)
    tested = _tested(dataset)
    after = np.bincount(tested.labels, minlength=n_classes) / max(len(tested), 1)
    counts = results.get("external", {}).get("training_counts")
    if counts:
        before = np.array([counts[name] for name in dataset.class_names], np.float64)
    elif dataset.splits is not None:
        before = np.bincount(dataset.labels[dataset.splits == "train"], minlength=n_classes).astype(
            np.float64
        )
    else:
        return {}
    if before.sum() == 0:
        return {}
    before /= before.sum()
    return dict(zip(dataset.class_names, zip(before.tolist(), after.tolist(), strict=True), strict=True))


def _of_calibration(results: Mapping[str, Any]) -> Iterator[Remark]:
    for one in results["results"]:
        for name, found in one.get("calibration", {}).get("by_class", {}).items():
            ends = found["slope_ci95"]
            if ends is not None and not ends[0] <= 1 <= ends[1]:
                what = "too extreme" if ends[1] < 1 else "too cautious"
                yield (
                    "warning",
                    f"{one['encode']}: the probabilities of {name} are {what}, their calibration slope is "
                    f"{found['slope']:.2f} ({ends[0]:.2f} to {ends[1]:.2f}).",
                )
            ends = found["intercept_ci95"]
            if ends is not None and not ends[0] <= 0 <= ends[1]:
                what = "high" if ends[1] < 0 else "low"
                yield (
                    "warning",
                    f"{one['encode']}: the probabilities of {name} are too {what} on average, "
                    f"{found['expected']:.3f} for a share of {found['observed']:.3f}.",
                )


def _of_subgroups(results: Mapping[str, Any]) -> Iterator[Remark]:
    for one in results["results"]:
        worse: list[str] = []
        for covariate, rows in one.get("subgroups", {}).get("tables", {}).items():
            worse += [f"{covariate} {row['value']}" for row in rows if _is_worse(row, one)]
        if worse:
            listed = ", ".join(worse[:_MANY_NAMES])
            yield (
                "warning",
                f"{one['encode']}: the balanced accuracy is lower in {listed}. Among many subgroups some are "
                "lower by chance.",
            )


def _is_worse(row: Mapping[str, Any], overall: Mapping[str, Any]) -> bool:
    ends, value = row["balanced_accuracy_ci95"], overall["balanced_accuracy"]
    return ends is not None and value is not None and row["warning"] is None and bool(ends[1] < value)


def _of_files(results: Mapping[str, Any]) -> Iterator[Remark]:
    listed: Sequence[tuple[str, str]] = (
        ("skipped", "could not be used and were left out"),
        ("damaged", "were used although their data is damaged"),
    )
    for key, what in listed:
        if results.get(key):
            yield ("warning", f"{len(results[key])} {units_in_words(results['dataset'])} {what}.")
