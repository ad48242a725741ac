"""Group images by a covariate. Ages and numbers become bands. Identifying covariates are left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["UNKNOWN_VALUE", "grouped_covariate", "why_left_out"]

#: Name of the group of images whose value is not known.
UNKNOWN_VALUE = "(not known)"

_MOST_VALUES = 20  # more texts are no groups
_FEW_NUMBERS = 8  # a number with no more values is taken as it is
_QUARTERS = (0.25, 0.5, 0.75)
_AGE_BANDS = (18.0, 40.0, 65.0, 80.0)
_CHILD_BANDS = (1.0, 6.0, 12.0)
_AGE = re.compile(r"(^|[^a-z])age([^a-z]|$)|^patientage", re.IGNORECASE)
_DICOM_AGE = re.compile(r"([0-9]{1,3})([DWMY])")
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
#: Words in the name of a covariate that tells who somebody is.
_IDENTIFYING = re.compile(
    r"name$|(^|[^a-z])(id|uid|mrn|ssn|accession|birth|dob|address|phone|email|postcode|zip|path|file|"
    r"comment|comments|note|notes|remark|remarks)([^a-z]|$)|birth ?date|accession|patient_?id",
    re.IGNORECASE,
)
_NAME_OF_A_THING = re.compile(
    r"(device|manufacturer|model|scanner|station|institution|hospital|site)", re.IGNORECASE
)

Texts = NDArray[np.str_]


def why_left_out(name: str, values: Texts, patients: NDArray[Any] | None = None) -> str | None:
    """Return why a covariate has no table of subgroups.

    Parameters
    ----------
    name : str
    values : ndarray of shape (n,), str
        "" if not known.
    patients : ndarray of shape (n,), or None
        Patient of each image. None: unknown.

    Returns
    -------
    str or None
        A reason, such as "its name suggests that it may identify patients". None: it has a table.
    """
    known = values[values != ""]
    if len(known) == 0:
        return "it has no value"
    if _IDENTIFYING.search(_words(name)) and not _NAME_OF_A_THING.search(name):
        return "its name suggests that it may identify patients"
    n_values = len(np.unique(known))
    if n_values == 1 and len(known) == len(values):
        return f"all images have the value {str(known[0])!r}"
    if _numbers(name, known) is not None:
        return None
    n_patients = len(known) if patients is None else len(np.unique(patients[values != ""]))
    if n_values > _MOST_VALUES:
        return f"it has {n_values} different texts, more than {_MOST_VALUES}"
    if n_values > 1 and 2 * n_values > n_patients:
        return f"its {n_values} texts are almost one for each patient"
    return None


def grouped_covariate(name: str, values: Texts) -> tuple[Texts, list[str]]:
    """Return the group of each image, and the groups in their order.

    Ages become bands: below 18, 18 to 39, 40 to 64, 65 to 79, and 80 or more years. If all are below 18, the
    bands are those of children. A covariate is an age if "age" is a word of its name; DICOM's "045Y" is read.
    Other numbers with more than eight values become quarters. Texts stay.

    Parameters
    ----------
    name : str
    values : ndarray of shape (n,), str
        "" if not known.

    Returns
    -------
    groups : ndarray of shape (n,), str
    order : list of str
        Every group once. Numbers ascend, texts are sorted, and the group of unknown values is last.
    """
    known = values != ""
    groups = np.full(len(values), UNKNOWN_VALUE, dtype=object)
    numbers = _numbers(name, values[known])
    if numbers is None:
        groups[known] = values[known]
        order = sorted(set(values[known].tolist()))
    else:
        own, order = _bands(numbers, values[known], age=bool(_AGE.search(_words(name))))
        groups[known] = own
    if not known.all():
        order = [*order, UNKNOWN_VALUE]
    return groups.astype(str), order


def _words(name: str) -> str:
    """Return a name with its words apart: "PatientAge" and "patient_age" become "Patient age"."""
    return re.sub(r"[_\-. ]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))


def _numbers(name: str, values: Texts) -> NDArray[np.float64] | None:
    """Return the values as numbers, ages in years. None: not all are numbers."""
    if _AGE.search(_words(name)):
        matches = [_DICOM_AGE.fullmatch(value) for value in values.tolist()]
        if matches and all(matches):
            return np.array([int(one[1]) * _YEARS[one[2]] for one in matches if one])
    try:
        numbers = np.array([float(value) for value in values.tolist()])
    except ValueError:
        return None
    return numbers if len(numbers) and np.isfinite(numbers).all() else None


def _bands(numbers: NDArray[np.float64], texts: Texts, *, age: bool) -> tuple[list[str], list[str]]:
    """Return the band of each number, and the bands in their order."""
    if age:
        cuts: Sequence[float] = _AGE_BANDS if numbers.max() >= _AGE_BANDS[0] else _CHILD_BANDS
        ends = [f"{high - 1:g}" for high in cuts]
        names = [f"below {cuts[0]:g}"]
        names += [f"{low:g} to {end}" for low, end in zip(cuts[:-1], ends[1:], strict=True)]
        names += (
            [f"{cuts[-1]:g} or more"] if cuts is _AGE_BANDS else [f"{cuts[-1]:g} to {_AGE_BANDS[0] - 1:g}"]
        )
        names = [f"{one} years" for one in names]
    elif len(np.unique(numbers)) <= _FEW_NUMBERS:
        ordered = sorted(set(zip(numbers.tolist(), texts.tolist(), strict=True)))
        return texts.tolist(), [text for _, text in ordered]
    else:
        cuts = sorted(set(np.quantile(numbers, _QUARTERS).tolist()))
        names = [f"below {cuts[0]:g}"]
        names += [f"{low:g} to below {high:g}" for low, high in pairwise(cuts)]
        names += [f"{cuts[-1]:g} or more"]
    band = np.searchsorted(np.asarray(cuts), numbers, side="right")
    present = set(band.tolist())
    return [names[k] for k in band.tolist()], [name for k, name in enumerate(names) if k in present]
