"""Keep, refuse or drop images without a known patient.

Such images are dangerous. If they count as patients of their own, a patient's images may be both in training
and in test. If they are dropped, the data set changes, and often one class more than another. In both cases
a warning gives the numbers by class and kind of file.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping

from medvlad._util.validate import InputError, check_choice
from medvlad.datasets.listing import ListedImage, NamesNobody
from medvlad.datasets.patients import UNKNOWN, Patients

__all__ = ["UNKNOWN_PATIENTS", "check_unknown_patients", "count_patients", "treat_unknown"]

_log = logging.getLogger(__name__)

UNKNOWN_PATIENTS = ("own", "refuse", "drop")
"""What to do with images whose patient is not known."""

Counts = dict[str, dict[str, dict[str, int]]]
"""By class and kind of file: the numbers of images whose patient is "known" and "unknown"."""


def check_unknown_patients(value: object) -> str:
    """Return `value` if it is one of `UNKNOWN_PATIENTS`.

    Raises
    ------
    InputError
    """
    return check_choice(value, "unknown_patients", UNKNOWN_PATIENTS)


def count_patients(images: Iterable[tuple[str, str, bool]]) -> Counts:
    """Count images with and without a known patient.

    Parameters
    ----------
    images : iterable of (str, str, bool)
        Class, kind of file, and whether the patient is known.

    Returns
    -------
    dict
        By class, then by kind of file: {"known": n, "unknown": n}.
    """
    counted = Counter(images)
    counts: Counts = {}
    for class_name, kind, _ in sorted(counted):
        by_kind = counts.setdefault(class_name, {})
        by_kind[kind] = {
            "known": counted[class_name, kind, True],
            "unknown": counted[class_name, kind, False],
        }
    return counts


def treat_unknown(
    found: list[ListedImage], patients: Patients | None, policy: str
) -> tuple[list[ListedImage], Patients | None]:
    """Keep, refuse or drop images whose patient is not known.

    Parameters
    ----------
    found : list of ListedImage
    patients : Patients or None
    policy : {"own", "refuse", "drop"}

    Returns
    -------
    found : list of ListedImage
        Those that are kept.
    patients : Patients or None

    Raises
    ------
    InputError
        If the policy is "refuse" and a patient is unknown, or "drop" would leave
        a class or part without an image.
    """
    unknown = [one for one in found if patients is None or patients.sources[one.relative] == UNKNOWN]
    if not unknown:
        return found, patients
    text = _in_words(_counts_of(found, patients))
    if policy == "refuse":
        raise InputError(
            f"the patient of {len(unknown)} of {len(found)} images is not known ({text}), and "
            "unknown_patients='refuse': name the patients with group_pattern=REGEX, remove these images, or "
            "use "
            "unknown_patients='own'"
        )
    if policy == "drop":
        kept = [one for one in found if patients is not None and patients.sources[one.relative] != UNKNOWN]
        _check_dropped(found, kept)
        _log.warning(
            "%d of %d images are dropped, because their patient is not known (%s). If one class loses more "
            "images "
            "than another, results are biased",
            len(unknown),
            len(found),
            text,
        )
        return kept, patients
    if patients is not None and len(unknown) == len(found):
        _log.warning(
            "no patient is known. Images of one file stay together, and each of the %d files counts as a "
            "patient: "
            "name the patients with `group_pattern`",
            len(set(patients.groups.values())),
        )
    elif patients is not None:
        _log.warning(
            "the patient of %d of %d images is not known (%s). Each of these files counts as a patient of "
            "its own, so "
            "training and test may share patients, and intervals may be too narrow: name the patients with "
            "`group_pattern`, or use unknown_patients='drop' or unknown_patients='refuse'",
            len(unknown),
            len(found),
            text,
        )
    return found, patients


def _counts_of(found: Iterable[ListedImage], patients: Patients | None) -> Counts:
    return count_patients(
        (one.class_name, one.kind, patients is not None and patients.sources[one.relative] != UNKNOWN)
        for one in found
    )


def _in_words(counts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> NamesNobody:
    """Return how many are unknown, such as "benign: 30 of 30 .png, 0 of 30 DICOM; malignant: 9 of 9 .png"."""
    return NamesNobody(
        "; ".join(
            f"{class_name}: "
            + ", ".join(
                f"{one['unknown']} of {one['known'] + one['unknown']} {kind}" for kind, one in by_kind.items()
            )
            for class_name, by_kind in counts.items()
        )
    )


def _check_dropped(found: list[ListedImage], kept: list[ListedImage]) -> None:
    """Raise InputError if a class or a part of `found` has no image in `kept`."""
    for what, before, after in (
        ("class", {one.class_name for one in found}, {one.class_name for one in kept}),
        ("part", {one.split for one in found}, {one.split for one in kept}),
    ):
        lost = sorted(str(one) for one in before - after)
        if kept and lost:
            raise InputError(
                f"unknown_patients='drop' leaves no image of the {what} {lost[0]!r}: name the patients with "
                "group_pattern=REGEX, or use unknown_patients='own'"
            )
    if not kept:
        raise InputError(
            "no patient is known, so unknown_patients='drop' leaves no image: name the patients with "
            "group_pattern=REGEX, or use unknown_patients='own'"
        )
