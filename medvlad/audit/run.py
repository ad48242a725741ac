"""Audit a data set: find what makes results too good, or worse than they need be.

An audit reads every image once. It looks for files that cannot be read, pictures that occur twice, patients
in both parts, classes that can be told without looking at the subject, and parts that differ. With a network
it also looks for other views of one scene, and for wrong labels. Each finding has a severity:

==========  ==========================================================================================
error       Do not trust results on this split: training and test share a picture or a patient, or one
            picture has two labels.
warning     Look at it: it is likely to mislead.
note        Good to know.
==========  ==========================================================================================

The methods are described in :mod:`medvlad.audit.duplicates`, :mod:`medvlad.audit.near_pairs`,
:mod:`medvlad.audit.descriptor_pairs`, :mod:`medvlad.audit.label_errors`, :mod:`medvlad.audit.shortcuts`,
:mod:`medvlad.audit.covariates`, :mod:`medvlad.audit.images`, :mod:`medvlad.audit.counts` and
:mod:`medvlad.audit.group_test`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medvlad._util.network_name import without_folder
from medvlad._util.text_table import printable
from medvlad._util.urls import is_url, url_of
from medvlad._util.validate import InputError, check_n_threads, check_seed
from medvlad.audit.changes import changes_of_copies
from medvlad.audit.counts import (
    class_findings,
    count_images,
    frame_findings,
    measure_sizes,
    patient_findings,
    size_findings,
    unreadable_findings,
)
from medvlad.audit.covariates import covariate_findings
from medvlad.audit.decisions import Decisions
from medvlad.audit.descriptor_pairs import ScenePairs, scene_pairs, window_means
from medvlad.audit.duplicates import MAX_LISTED, Copies, duplicate_findings, find_copies
from medvlad.audit.finding import Finding, ReadImages, plural
from medvlad.audit.images import read_facts
from medvlad.audit.label_errors import label_findings, label_scores
from medvlad.audit.listing import listing_findings
from medvlad.audit.questions import pair_questions
from medvlad.audit.shortcuts import shift_findings, shortcut_findings
from medvlad.datasets.describe import describe_dataset, patients_in_words
from medvlad.datasets.folders import ImageFolder
from medvlad.datasets.pseudonyms import Pseudonyms
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.data_set import extract_data_set

__all__ = ["Audit", "audit", "audit_summary", "below", "patients_of_audit", "root_of", "run_audit"]

_SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True, eq=False)
class Audit:
    """An audit, with what a repair needs.

    Attributes
    ----------
    found : dict
        See :func:`medvlad.audit.audit`.
    dataset : ImageFolder
        The images that could be read.
    listed : list of str
        All images, below `root` of `found`.
    copies : Copies
        Copies among them.
    """

    found: dict[str, Any]
    dataset: ImageFolder
    listed: list[str]
    copies: Copies


def audit(
    dataset: ImageFolder,
    *,
    network: CNNDescriptors | None = None,
    random_state: int = 0,
    n_threads: int | None = None,
    names: Pseudonyms | None = None,
) -> dict[str, Any]:
    """Find leaks, shortcuts and other defects of a data set.

    Parameters
    ----------
    dataset : ImageFolder
        Train and test part, patients, sites and covariates are used if the data set has them.
    network : CNNDescriptors or None, default=None
        Network whose descriptors find other views of one scene, and wrong labels. None: pixels only.
    random_state : int, default=0
        Seed of folds, subsamples and permutations. The same data and seed give the same result.
    n_threads : int or None, default=None
        Number of threads that read and compare. None: the processors that this process may use.
    names : Pseudonyms or None, default=None
        Names of images and patients in the result. None: their paths and own names.

    Returns
    -------
    dict
        Plain types only, ready for JSON:

        - findings: list of dicts with kind, severity ("error", "warning" or "note"), sentence, counts and
          examples (at most 10, sorted); severe findings first
        - n_images, n_read
        - n_patients and n_known_patients; each file of an unknown patient counts in the first. None: unknown
        - root: the folder that holds all files
        - counts: number of images by part and class
        - sizes: ranges and medians of width and height
        - unreadable and duplicates: listed (at most 1,000 files, sets or pairs) and n_left_out
        - shortcuts and parts: metrics of the linear classifiers, or the reason why there are none
        - labels: the most suspicious labels, see :mod:`medvlad.audit.label_errors`, or the reason why there
          are none
        - questions: pairs of images that a person should decide on
        - network: name of the network. None: pixels only
        - random_state

    Raises
    ------
    InputError
        If there is no image, no image can be read, or an argument is out of range.
    MissingExtraError
        If an image is DICOM or NIfTI and the extra ``medical`` is not installed.

    Examples
    --------
    >>> from medvlad.datasets.folders import load_image_folder
    >>> print(audit_summary(audit(load_image_folder("chest_xray"))))  # doctest: +SKIP
    """
    options: dict[str, Any] = {"random_state": random_state, "n_threads": n_threads, "names": names}
    return run_audit(dataset, network=network, **options).found


def run_audit(
    dataset: ImageFolder,
    *,
    network: CNNDescriptors | None = None,
    random_state: int = 0,
    n_threads: int | None = None,
    names: Pseudonyms | None = None,
    decisions: Decisions | None = None,
) -> Audit:
    """Do :func:`medvlad.audit.audit`, and keep what :func:`medvlad.audit.repair.repaired` needs.

    With `decisions`, the questions follow from what a person has answered already.
    """
    seed = check_seed(random_state, "random_state")
    threads = check_n_threads(n_threads)
    if dataset.task != "classes":
        raise InputError(
            "an audit needs a class for each image, and the task of this data set is "
            f"{dataset.task!r}: name a "
            "column of classes with `label_column`"
        )
    if len(dataset) == 0:
        raise InputError("the data set has no image: give a folder with images")
    read = read_facts(dataset.paths, fine=network is not None, n_threads=threads)
    index = [i for i, one in enumerate(read) if not isinstance(one, str)]
    facts = [one for one in read if not isinstance(one, str)]
    unreadable = [(str(dataset.paths[i]), one) for i, one in enumerate(read) if isinstance(one, str)]
    if not facts:
        raise InputError(
            f"none of the {plural(len(dataset), 'image')} can be read. The first error is: {unreadable[0][1]}"
        )
    chosen = dataset.take(index)
    called, patients, root = [str(path) for path in chosen.paths], chosen.groups, root_of(dataset)
    if names is not None:
        unreadable = sorted((names.image(name), names.reason(why, name)) for name, why in unreadable)
        called, root = [names.image(name) for name in called], ""
        if patients is not None:
            patients = np.array([names.patient(patient) for patient in patients.tolist()])
    images = ReadImages(called, chosen.labels, list(chosen.class_names), chosen.splits, patients)
    vectors, scenes = None, ScenePairs.none()
    if network is not None:
        means, changes = _mean_descriptors(network, chosen, seed)
        vectors = means[0]
        pictures = np.stack([one.fine for one in facts if one.fine is not None])
        scenes = scene_pairs(means, changes, pictures, n_threads=threads)
    copies = find_copies(facts, scenes=scenes.same(), n_threads=threads)
    if names is not None:  # the order of files would reveal which images are neighbours
        copies = copies.by_name(called)
    answers: dict[tuple[int, int], str] = {}
    if decisions is not None:
        answers = decisions.of_pairs([below(one, root) for one in called], copies.units)
    doubled, duplicates = duplicate_findings(images, copies)
    units = _units(copies.family, chosen.groups)  # not by pseudonyms, so that folds do not depend on the key
    shortcuts, shortcut_figures = shortcut_findings(images, facts, units, seed)
    shifted, shift_figures = shift_findings(images, facts, units, seed)
    mislabelled: list[Finding] = []
    labels: dict[str, Any] | str = "not tried: no network is given"
    if vectors is not None:
        ranked = np.arange(len(images)) if images.parts is None else np.flatnonzero(images.parts == "train")
        scores = label_scores(vectors[ranked], images.labels[ranked], units[ranked], seed)
        mislabelled, labels = label_findings(images, ranked, scores)
    found = [
        *unreadable_findings(unreadable, len(dataset)),
        *listing_findings(dataset),
        *doubled,
        *patient_findings(images),
        *mislabelled,
        *shortcuts,
        *covariate_findings(images, _columns(chosen), units, seed),
        *shifted,
        *frame_findings(images, facts, units, seed),
        *class_findings(images, units, seed),
        *size_findings(images, facts),
    ]
    known = {
        "n_images": len(dataset),
        "n_read": len(facts),
        "root": root,
        "counts": {
            part: dict(zip(images.class_names, map(int, counts), strict=True))
            for part, counts in count_images(images).items()
        },
        "n_patients": None if images.patients is None else len(np.unique(images.patients)),
        "n_known_patients": describe_dataset(chosen)["n_known_patients"],
        "findings": sorted(found, key=lambda one: _SEVERITIES.index(one["severity"])),
        "sizes": measure_sizes(images, facts),
        "unreadable": {
            "listed": [{"image": name, "why": why} for name, why in unreadable[:MAX_LISTED]],
            "n_left_out": max(0, len(unreadable) - MAX_LISTED),
        },
        "duplicates": duplicates,
        "shortcuts": shortcut_figures,
        "parts": shift_figures,
        "labels": labels,
        "questions": pair_questions(images, copies, scenes.uncertain(), answers),
        "network": None if network is None else _network_name(network, hide_folder=names is not None),
        "random_state": seed,
    }
    return Audit(known, chosen, [below(str(path), root) for path in dataset.paths], copies)


def _mean_descriptors(
    network: CNNDescriptors, dataset: ImageFolder, seed: int
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Return the mean descriptors of all images, and what altering an image changes in them."""
    descriptors, kept, _, _ = extract_data_set(network, dataset)
    if len(kept) < len(dataset):
        raise InputError("an audit needs the descriptors of every image: use on_error='raise'")
    means = window_means(descriptors, network.grids_)
    return means, changes_of_copies(network, dataset.paths, means, seed)


def _network_name(network: CNNDescriptors, *, hide_folder: bool) -> str:
    return str(without_folder(network.model) if hide_folder else network.model)


_CHECKS = {
    "unreadable files": ("unreadable", "files_left_out"),
    "identical images": ("identical_files", "identical_pixels"),
    "near duplicates": ("near_duplicates",),
    "shared patients": ("patient", "unknown_patients"),
    "wrong labels": ("suspicious_labels",),
    "shortcuts": ("shortcut", "covariate"),
    "parts that differ": ("parts_differ", "priors_differ", "class_absent"),
    "borders and boxes": ("blank", "uniform"),
    "class imbalance": ("class_imbalance",),
    "sizes": ("small_images", "sizes"),
}
"""Names of the checks in the summary, and how the kinds of their findings begin."""


def audit_summary(found: dict[str, Any]) -> str:
    """Return the result of an audit as plain text.

    Parameters
    ----------
    found : dict
        What :func:`medvlad.audit.audit` returned.

    Returns
    -------
    str
        One line about the data set, one line for each finding with at most two examples, one line that names
        the checks without a finding, and one line for each check that was not tried.
    """
    counts = found["counts"]
    parts = ", ".join(
        f"{sum(by_class.values())} {part}" for part, by_class in counts.items() if part != "all"
    )
    known = patients_of_audit(found)
    patients = "" if known is None else f", {known}"
    classes = plural(len(next(iter(counts.values()))), "class", "classes")
    lines = [f"{plural(found['n_images'], 'image')}{f' ({parts})' if parts else ''}, {classes}{patients}"]
    for one in found["findings"]:
        examples = "; ".join(_shown(example, found["root"]) for example in one["examples"][:2])
        lines.append(f"{one['severity']}: {one['sentence']}{f'; such as {examples}' if examples else ''}")
    kinds = [one["kind"] for one in found["findings"]]
    left_out = {name for name, _ in _untried(found)}
    left_out |= {"wrong labels"} if found["network"] is None else set()
    if all(isinstance(one, str) for one in found["shortcuts"].values()):
        left_out.add("shortcuts")
    clean = [
        name
        for name, starts in _CHECKS.items()
        if name not in left_out and not any(kind.startswith(starts) for kind in kinds)
    ]
    if clean:
        lines.append(f"nothing found: {', '.join(clean)}")
    lines += [f"{name}: {text}" for name, text in _untried(found)]
    return "\n".join(map(printable, lines))


def patients_of_audit(found: dict[str, Any]) -> str | None:
    """Return the number of patients of an audit in words. None: no patients are known."""
    n, n_known = found["n_patients"], found.get("n_known_patients")
    if n_known is None or n_known == n:
        return None if n is None else plural(n, "patient")
    return patients_in_words({"n_groups": n, "n_known_patients": n_known})


def _untried(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the checks that were not tried, and the reasons."""
    figures: list[tuple[str, Any]] = []
    if found["n_patients"] is None:
        figures.append(("shared patients", "not tried: no patients are known"))
    if "all" in found["counts"]:
        figures.append(("parts that differ", "not tried: there is no train and test part"))
    figures += [] if found["network"] is None else [("wrong labels", found["labels"])]
    figures += [(f"shortcuts, {name}", one) for name, one in found["shortcuts"].items()]
    figures += [(f"parts, class {name}", one) for name, one in found["parts"].items()]
    return [(name, one) for name, one in figures if isinstance(one, str)]


def _shown(example: Any, root: str) -> str:
    names = example if isinstance(example, list) else [example]
    prefix = os.path.join(root, "") if root else ""  # noqa: PTH118
    return " = ".join(name.removeprefix(prefix) for name in names)


def _columns(dataset: ImageFolder) -> dict[str, NDArray[np.str_]]:
    """Return the columns of a table that may go with the class."""
    sites = {} if dataset.sites is None else {"site": dataset.sites}
    return sites | dict(dataset.covariates)


def root_of(dataset: ImageFolder) -> str:
    """Return the folder that holds all files, or "" if there is none."""
    try:
        common = os.path.commonpath([path.parent for path in dataset.paths])
    except ValueError:  # a mixture of relative and absolute paths
        return ""
    return url_of(common) if is_url(common) else common


def _units(family: NDArray[np.int64], patients: NDArray[np.str_] | None) -> NDArray[np.int64]:
    """Return one number for each group of images that copies, patients, or chains of both connect."""
    if patients is None:
        return family
    _, patient = np.unique(patients, return_inverse=True)
    n = int(family.max()) + 1
    links = coo_array((np.ones(len(family)), (family, n + patient)), shape=(n + len(family), n + len(family)))
    linked: NDArray[np.int64] = connected_components(links, directed=False)[1][family].astype(np.int64)
    return linked


def below(name: str, root: str) -> str:
    """Return the path of an image relative to the folder that holds all images. A pseudonym has no folder."""
    if "://" in root:
        return name.removeprefix(f"{root}/")
    return Path(name).relative_to(root).as_posix() if root else name
