r"""Find out whether the class can be told without looking at the subject.

A classifier may learn who took an image instead of what it shows: a scanner's border, a letter burnt into a
corner, or the file size of one hospital (Zech et al. 2018 for chest X-rays; Geirhos et al. 2020). So a linear
classifier is trained on each of these features alone:

=======  =============================================================================================
border   A ring of 2 pixels around a thumbnail of 32 x 32 pixels.
corners  The four corners (15 % of width and height each) as thumbnails of 8 x 8 pixels, with the lowest
         grey level, the highest grey level and the standard deviation of each at full size.
file     Logarithms of width, height and their ratio; bits; whether the image is grey; sums of the JPEG
         quantisation tables; and which of the most frequent formats, modes, sizes and tables it has.
bytes    Logarithms of bytes and of bytes a pixel. At one compression setting, sharp and busy pictures
         take more bytes.
whole    The whole thumbnail in grey, for comparison.
=======  =============================================================================================

The features are standardised and divided by the square root of their number. Then a row has a length near 1,
and C = 1 of the SVM means the same for all features. All classes have the same weight. Everything is fitted
on training folds only, except for the list of the most frequent formats, modes, sizes and tables. Folds keep
all images of a patient, and all copies of an image, together. If the classifier is trained on the training
part and tested on the test part, training images whose patient or copy is in the test part are left out.

With the balanced accuracy :math:`p` of :math:`k` classes, chance is :math:`1/k`, and

.. math::

    \mathrm{skill} = \frac{p - 1/k}{1 - 1/k}

is 0 for guessing and 1 for perfect decisions. Whether there is a finding is decided at the lower end of the
95 % interval by patient, over patients or sets of copies. A finding needs a skill of 0.1 there for *file*,
which says nothing about the subject. The other features show a little of it, so they need 0.25. For example,
the corners of kitchens and bathrooms differ: on photographs of rooms the lower end was 0.11.

The balanced accuracy itself decides the severity. A finding is a warning if its skill is at least 0.25 for
*file*, and at least 0.5 for the others. With two classes, these are balanced accuracies of 0.63 and 0.75.
*bytes* is never a warning, because a busier picture takes more bytes.

The same classifier, trained to tell training from test images *within* one class, shows whether the two parts
were taken alike. This is a classifier two-sample test (Lopez-Paz & Oquab 2017; Rabanser et al. 2019).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from medvlad._util.blas_threads import single_threaded_blas
from medvlad.audit.finding import Finding, ReadImages, Severity, finding
from medvlad.audit.images import THUMB_SIDE, ImageFacts
from medvlad.evaluation.class_counts import units_per_class
from medvlad.evaluation.intervals import metric_estimates
from medvlad.svm.decision import decision_columns
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = ["FEATURES", "shift_findings", "shortcut_findings"]

Matrix = NDArray[np.float32]

_RING = 2
_FOLDS = 5
_MAX_IMAGES = 20_000  # float32 of 768 features: 61 MB
_LEAST_UNITS = 10  # independent images of the smallest class; fewer show nothing
_MAX_VALUES = 16
_MIN_SHARE = 0.01


def _border(facts: Sequence[ImageFacts]) -> Matrix:
    ring = np.ones((THUMB_SIDE, THUMB_SIDE), bool)
    ring[_RING:-_RING, _RING:-_RING] = False
    return np.stack([one.thumb[ring].ravel() for one in facts]).astype(np.float32)


def _corners(facts: Sequence[ImageFacts]) -> Matrix:
    rows = [np.concatenate([one.corners.ravel(), one.contrasts.ravel()]) for one in facts]
    return np.stack(rows).astype(np.float32)


def _whole(facts: Sequence[ImageFacts]) -> Matrix:
    return np.stack([one.thumb.mean(axis=2, dtype=np.float32).ravel() for one in facts])


def _file(facts: Sequence[ImageFacts]) -> Matrix:
    n_tables = max(len(one.quantisation) for one in facts)
    columns = [
        [
            np.log(one.width),
            np.log(one.height),
            np.log(one.width / one.height),
            one.bits,
            one.is_grey,
            *(np.log1p(one.quantisation[k]) if k < len(one.quantisation) else 0 for k in range(n_tables)),
        ]
        for one in facts
    ]
    which: list[Callable[[ImageFacts], Hashable]] = [
        lambda one: one.kind,
        lambda one: one.mode,
        lambda one: (one.width, one.height),
        lambda one: one.quantisation,
    ]
    return np.column_stack(
        [np.array(columns, np.float32), *(_one_hot([of(one) for one in facts]) for of in which)]
    )


def _bytes(facts: Sequence[ImageFacts]) -> Matrix:
    rows = [[np.log(one.n_bytes), np.log(one.n_bytes / (one.width * one.height))] for one in facts]
    return np.array(rows, np.float32)


def _one_hot(values: list[Hashable]) -> Matrix:
    """Return one column for each of the most frequent values. Labels are not used to choose them."""
    counts = Counter(values)
    usual = [value for value, count in counts.most_common(_MAX_VALUES) if count >= _MIN_SHARE * len(values)]
    return np.array([[value == one for one in usual] for value in values], np.float32).reshape(
        len(values), -1
    )


FEATURES: dict[str, Callable[[Sequence[ImageFacts]], Matrix]] = {
    "border": _border,
    "corners": _corners,
    "file": _file,
    "bytes": _bytes,
    "whole": _whole,
}
"""Functions from facts to the features of the linear classifier, by name."""

_IN_WORDS = {
    "border": "the border alone (it may show a part of the subject)",
    "corners": "the corners alone (they may show a part of the subject)",
    "file": "facts about the file alone (width, height, format, bits, compression)",
    "bytes": "the number of bytes of the file alone (sharp and busy pictures take more)",
}
_SKILL = {
    "border": (0.25, 0.5),
    "corners": (0.25, 0.5),
    "file": (0.1, 0.25),
    "bytes": (0.25, np.inf),
    "whole": (0.25, 0.5),
}
"""Skill needed at the lower end for a finding, and at the balanced accuracy for a warning. Bytes are no
defect, so they are never a warning."""


@dataclass(frozen=True, eq=False)
class _Task:
    """Features x, classes y, and units that stay together: images of one patient, or copies."""

    x: dict[str, Matrix]
    y: NDArray[np.int64]
    units: NDArray[np.int64]
    n_classes: int


def shortcut_findings(
    images: ReadImages, facts: Sequence[ImageFacts], units: NDArray[np.int64], random_state: int
) -> tuple[list[Finding], dict[str, Any]]:
    """Try to tell the class from border, corners, file or bytes.

    Parameters
    ----------
    images : ReadImages
    facts : sequence of ImageFacts, n
    units : ndarray of shape (n,), int64
        Images with the same number stay together: those of one patient, and copies.
    random_state : int
        Seed of the folds and of the subsample.

    Returns
    -------
    findings : list of dict
    metrics : dict
        By protocol ("cross-validation", "train and test part") and feature: n_images, balanced_accuracy,
        balanced_accuracy_ci95, auc, auc_ci95 and chance. A protocol that was not tried has a sentence with
        the reason instead.
    """
    rng = np.random.default_rng(random_state)
    in_train = np.ones(len(images), bool) if images.parts is None else images.parts == "train"
    train, test = (_some(np.flatnonzero(part), rng) for part in (in_train, ~in_train))
    used = np.concatenate([train, test])
    x = {name: extract([facts[i] for i in used]) for name, extract in FEATURES.items()}
    n = len(train)
    task = _Task(
        {name: values[:n] for name, values in x.items()},
        images.labels[train],
        units[train],
        len(images.class_names),
    )
    results: dict[str, Any] = {"cross-validation": _cross_validated(task, random_state)}
    if len(test):
        results["train and test part"] = _tested(task, x, images.labels[test], units[test])
    found = []
    for name in _IN_WORDS:
        best = _worst({key: value[name] for key, value in results.items() if isinstance(value, dict)})
        if best is None:
            continue
        protocol, figures, skill = best
        least, warned = _SKILL[name]
        if skill < least:
            continue
        severity: Severity = "warning" if _skill(figures, "balanced_accuracy") >= warned else "note"
        low, high = figures["balanced_accuracy_ci95"]
        whole = results[protocol]["whole"]["balanced_accuracy"]
        sentence = (
            f"the class can be predicted from {_IN_WORDS[name]}: balanced accuracy "
            f"{figures['balanced_accuracy']:.2f} ({low:.2f} to {high:.2f}, {protocol}), chance "
            f"{figures['chance']:.2f}, the whole thumbnail {whole:.2f}"
        )
        found.append(finding(f"shortcut_{name}", severity, sentence, protocol=protocol, **figures))
    return found, results


def shift_findings(
    images: ReadImages, facts: Sequence[ImageFacts], units: NDArray[np.int64], random_state: int
) -> tuple[list[Finding], dict[str, Any]]:
    """Try to tell training from test images within each class.

    Parameters
    ----------
    images, facts, units, random_state
        See :func:`shortcut_findings`.

    Returns
    -------
    findings : list of dict
    metrics : dict
        By class and feature, as in :func:`shortcut_findings`. Empty without two parts.
    """
    if images.parts is None or len(set(images.parts.tolist())) < 2:
        return [], {}
    found: list[Finding] = []
    results: dict[str, Any] = {}
    rng = np.random.default_rng(random_state)
    for label, class_name in enumerate(images.class_names):
        own = _some(np.flatnonzero(images.labels == label), rng)
        y = (images.parts[own] == "test").astype(np.int64)
        chosen = [facts[i] for i in own]
        x = {name: extract(chosen) for name, extract in FEATURES.items()} if len(own) else {}
        results[class_name] = figures = _cross_validated(_Task(x, y, units[own], 2), random_state)
        if not isinstance(figures, dict):
            continue
        told = {name: _skill(one) for name, one in figures.items() if _skill(one) >= _SKILL[name][0]}
        if not told:
            continue
        strongest = max(sorted(told), key=lambda name: told[name])
        warned = [name for name in told if _skill(figures[name], "balanced_accuracy") >= _SKILL[name][1]]
        severity: Severity = "warning" if warned else "note"
        by = "; ".join(f"{name} {figures[name]['balanced_accuracy']:.2f}" for name in sorted(told))
        found.append(
            finding(
                "parts_differ",
                severity,
                f"test images of class {class_name!r} differ from its training images: a linear classifier "
                f"tells them apart (balanced accuracy by {by}; chance 0.50)",
                class_name=class_name,
                told_by=sorted(told),
                **figures[strongest],
            )
        )
    return found, results


def _some(index: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
    """Return at most `_MAX_IMAGES` of the indices, in order."""
    if len(index) <= _MAX_IMAGES:
        return index
    return np.sort(rng.choice(index, _MAX_IMAGES, replace=False))


def _cross_validated(task: _Task, random_state: int) -> dict[str, Any] | str:
    smallest = int(units_per_class(task.y, task.units, task.n_classes).min())
    if smallest < _LEAST_UNITS:
        return f"not tried: the smallest class has {smallest} independent images, {_LEAST_UNITS} are needed"
    splitter = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=random_state)
    folds = list(splitter.split(task.y, task.y, task.units))
    if any(len(np.unique(task.y[train])) < task.n_classes for train, _ in folds):
        return "not tried: folds that keep patients and copies together leave a class without training images"
    results = {}
    for name, x in task.x.items():
        decision = np.empty((len(task.y), task.n_classes))
        for train, test in folds:
            decision[test] = _decide(x[train], task.y[train], x[test])
        results[name] = _figures(task.y, decision, task.units)
    return results


def _tested(
    task: _Task, x: dict[str, Matrix], labels: NDArray[np.int64], units: NDArray[np.int64]
) -> dict[str, Any] | str:
    n_classes = task.n_classes
    # Patients and copies in both parts are a finding of their own. Here they would look like a shortcut.
    apart = ~np.isin(task.units, units)
    smallest = int(units_per_class(labels, units, n_classes).min())
    if len(np.unique(task.y[apart])) < n_classes or smallest < _LEAST_UNITS:
        return (
            f"not tried: a class has no training image or fewer than {_LEAST_UNITS} independent test images"
        )
    return {
        name: _figures(
            labels,
            _decide(task.x[name][apart], task.y[apart], x[name][len(task.y) :]),
            units,
        )
        for name in task.x
    }


def _decide(x: Matrix, y: NDArray[np.int64], unseen: Matrix) -> NDArray[np.float64]:
    scaler, shrink = StandardScaler().fit(x), np.float32(x.shape[1] ** -0.5)
    # Matrices of this size gain little from several threads of BLAS, and lose much on a busy machine.
    with single_threaded_blas():
        svm = WideLinearSVC(class_weight="balanced").fit(scaler.transform(x) * shrink, y)
        values = svm.decision_function(scaler.transform(unseen) * shrink)
    return decision_columns(values)


def _figures(
    labels: NDArray[np.int64], decision: NDArray[np.float64], units: NDArray[np.int64]
) -> dict[str, Any]:
    found = metric_estimates(labels, decision, groups=units)
    figures: dict[str, Any] = {"n_images": len(labels)}
    for name in ("balanced_accuracy", "auc"):
        figures[name] = found[name].value
        figures[f"{name}_ci95"] = None if (ends := found[name].ends) is None else list(ends)
    return figures | {"chance": 1 / decision.shape[1]}


def _skill(figures: dict[str, Any], at: str = "balanced_accuracy_ci95") -> float:
    """Return the skill at the lower end of the interval, or at the balanced accuracy itself."""
    accuracy = figures[at] if at == "balanced_accuracy" else figures[at][0]
    return float((accuracy - figures["chance"]) / (1 - figures["chance"]))


def _worst(by_protocol: dict[str, dict[str, Any]]) -> tuple[str, dict[str, Any], float] | None:
    """Return the protocol with the highest skill, its metrics and that skill."""
    if not by_protocol:
        return None
    protocol = max(by_protocol, key=lambda key: _skill(by_protocol[key]))
    return protocol, by_protocol[protocol], _skill(by_protocol[protocol])
