"""Describe a data set in plain types, for results and reports: its images, patients and files left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from medvlad.datasets.folders import ImageFolder
from medvlad.datasets.patients import FROM_NAMES, UNKNOWN
from medvlad.datasets.pooling import holds_feature_files
from medvlad.datasets.unknown_patients import count_patients

__all__ = [
    "describe_dataset",
    "examples_in_words",
    "name_examples",
    "patients_in_words",
    "units_in_words",
    "units_of",
]

_N_EXAMPLES = 3


def describe_dataset(dataset: ImageFolder) -> dict[str, Any]:
    """Return what results.json says about a data set.

    Parameters
    ----------
    dataset : ImageFolder

    Returns
    -------
    dict
        n_images, class_names, and:

        - units: what n_images counts: "images", or "bags" of feature files
        - n_groups: number of patients, each file without a known patient counts as one; None if no patients
          are known
        - n_known_patients: number of patients that are known; None if it was not recorded
        - patients: by class ("all" for labels and numbers), then by kind of file: the numbers of images whose
          patient is "known" and "unknown"; None if no patients are known, or where they are from was not
          recorded
        - patient_examples: at most three images whose names tell the patient, as dicts with image and patient
        - left_out: number of files in formats that are not read, by class, then by ending
        - task: what is predicted, see `ImageFolder`
        - sites: number of images of each site; None if sites are not known
        - covariates: names of the covariates
    """
    counts = n_known = None
    if dataset.patient_sources is not None and dataset.groups is not None:
        known = (dataset.patient_sources != UNKNOWN).tolist()
        n_known = len(set(dataset.groups[known].tolist()))
        kinds = ["images"] * len(dataset) if dataset.kinds is None else dataset.kinds.tolist()
        classes = ["all"] * len(dataset)
        if dataset.task == "classes":
            classes = [dataset.class_names[label] for label in dataset.labels.tolist()]
        counts = count_patients(zip(classes, kinds, known, strict=True))
    return {
        "n_images": len(dataset),
        "units": units_of(dataset),
        "class_names": dataset.class_names,
        "n_groups": None if dataset.groups is None else len(set(dataset.groups.tolist())),
        "n_known_patients": n_known,
        "patients": counts,
        "patient_examples": name_examples(dataset),
        "left_out": {name: dict(by_ending) for name, by_ending in dataset.left_out.items()},
        "task": dataset.task,
        "sites": None if dataset.sites is None else dict(sorted(Counter(dataset.sites.tolist()).items())),
        "covariates": sorted(dataset.covariates),
    }


def units_of(dataset: ImageFolder) -> str:
    """Return what the rows of a data set are: "images", or "bags" if they are feature files."""
    return "bags" if holds_feature_files(dataset) else "images"


def units_in_words(described: Mapping[str, Any]) -> str:
    """Return "images" or "bags" for what :func:`describe_dataset` returned, also in an earlier version."""
    return str(described.get("units", "images"))


def name_examples(dataset: ImageFolder) -> list[dict[str, str]]:
    """Return at most three images of different patients whose file names tell the patient."""
    if dataset.groups is None or dataset.patient_sources is None:
        return []
    examples: dict[str, str] = {}
    named = zip(dataset.paths, dataset.groups.tolist(), dataset.patient_sources.tolist(), strict=True)
    for path, patient, source in named:
        if source in FROM_NAMES:
            examples.setdefault(patient, str(path))
        if len(examples) == _N_EXAMPLES:
            break
    return [{"image": image, "patient": patient} for patient, image in examples.items()]


def examples_in_words(dataset: ImageFolder) -> str | None:
    """Return a sentence with examples of the patients that file names tell. None: they tell none."""
    examples = name_examples(dataset)
    if not examples:
        return None
    listed = ", ".join(f"{one['patient']!r} from {one['image']!r}" for one in examples)
    return f"patients were read from file names, such as {listed}"


def patients_in_words(described: Mapping[str, Any]) -> str | None:
    """Return the number of patients, such as "52 patients and 60 files of unknown patients".

    Parameters
    ----------
    described : mapping
        What :func:`describe_dataset` returned.

    Returns
    -------
    str or None
        None: no patients are known.
    """
    n_groups, n_known = described["n_groups"], described.get("n_known_patients")
    if n_groups is None or n_known is None or n_known == n_groups:
        return None if n_groups is None else f"{n_groups} patients"
    files = f"{n_groups - n_known} files of unknown patients"
    return f"{n_known} patients and {files}" if n_known else files
