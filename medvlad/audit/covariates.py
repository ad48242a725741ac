r"""Find out whether the class goes with a column of the table: the site, or a covariate.

If one hospital sends most of the sick, a classifier may learn the hospital. The column itself is no defect,
but the images may show it.

Each value of a column is taken for the class that has it most often, as a share of the images of that class.
The skill (see :mod:`medvlad.audit.shortcuts`) of these decisions is measured on the same images. A finding
needs a skill of at least 0.1, and p < 0.001 in a test of value against class in which each patient counts
once (:mod:`medvlad.audit.group_test`). It is a warning from a skill of 0.25 on. Numbers with many values are
divided into quarters. A column of other texts with more than 16 values, such as a number of a study, is not
tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad.audit.finding import Finding, ReadImages, Severity, finding
from medvlad.audit.group_test import group_p_value

__all__ = ["covariate_findings"]

_MAX_VALUES = 16
_P = 0.001
_NOTE, _WARNING = 0.1, 0.25


def covariate_findings(
    images: ReadImages,
    columns: Mapping[str, NDArray[np.str_]],
    units: NDArray[np.int64],
    random_state: int,
) -> list[Finding]:
    """Report columns that go with the class.

    Parameters
    ----------
    images : ReadImages
    columns : mapping of str to ndarray of shape (n,), str
        Site and covariates of each image, by name.
    units : ndarray of shape (n,), int64
        Images with the same number are of one patient, or copies.
    random_state : int
        Seed of the tests.

    Returns
    -------
    list of dict
        Values of the columns are not in them, because they may tell who somebody is.
    """
    found: list[Finding] = []
    for name, cells in columns.items():
        values = _values(cells)
        if values is None:
            continue
        accuracy, chance = _balanced_accuracy(values, images.labels)
        skill = (accuracy - chance) / (1 - chance) if chance < 1 else 0.0
        if skill < _NOTE:
            continue
        p_value = group_p_value(images.labels, values, units, random_state)
        if p_value >= _P:
            continue
        severity: Severity = "warning" if skill >= _WARNING else "note"
        figures: dict[str, Any] = {"balanced_accuracy": accuracy, "chance": chance, "p": p_value}
        sentence = (
            f"the class goes with the column {name!r}: balanced accuracy {accuracy:.2f} from it "
            "alone, chance "
            f"{chance:.2f}. If images show it, a classifier may learn it"
        )
        found.append(finding("covariate_goes_with_class", severity, sentence, column=name, **figures))
    return found


def _values(cells: NDArray[np.str_]) -> NDArray[np.int64] | None:
    """Return a number for each value. None: the column has a single value or is not tried."""
    names, values = np.unique(cells, return_inverse=True)
    if len(names) > _MAX_VALUES:
        try:
            numbers = np.array([float(cell) if cell else np.nan for cell in cells.tolist()])
        except ValueError:
            return None
        ends = np.nanquantile(numbers, (0.25, 0.5, 0.75))
        values = np.where(np.isnan(numbers), 4, np.searchsorted(ends, numbers))
    values = np.asarray(values, np.int64)
    return values if len(np.unique(values)) > 1 else None


def _balanced_accuracy(values: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Return the balanced accuracy of the best decisions by value alone, and that of guessing."""
    classes, label = np.unique(labels, return_inverse=True)
    table = np.zeros((int(values.max()) + 1, len(classes)))
    np.add.at(table, (values, label), 1)
    shares = table / table.sum(axis=0)
    return float(shares.max(axis=1).sum() / len(classes)), 1 / len(classes)
