"""Read what a table asks to predict: classes, several labels an image, or numbers.

==========  =====================================  =======================================================
task        columns                                result
==========  =====================================  =======================================================
classes     one column of names                    a class an image; numbers are names too
classes     several columns of 0 and 1             the column with the 1, of which each row has one
labels      one column such as ``a|b``             0 or 1 for each name; NaN in all if the cell is empty
labels      several columns of 0 and 1             0 or 1; NaN if a cell is empty
regression  one or several columns of numbers      the numbers; NaN if a cell is empty
==========  =====================================  =======================================================
"""

from __future__ import annotations

import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.datasets.listing import NamesNobody, class_name_of
from medvlad.datasets.manifest_columns import Columns
from medvlad.datasets.manifest_files import rows_in_words
from medvlad.datasets.manifest_numbers import NUMBER, UNKNOWN_WORDS, read_numbers
from medvlad.datasets.manifest_table import Table

__all__ = ["MeasuredLabels", "Targets", "read_targets"]

_log = logging.getLogger(__name__)
_choices = logging.getLogger("medvlad.datasets.manifest_columns")

_YES_NO = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}
_WHOLE = re.compile(r"[-+]?\d+(?:[.,]0*)?")
_MANY = 20  # different numbers in a column, from which they may be measurements
_SEVERAL = "|"  # separates labels in a cell
_SHOWN_NUMBERS = 10


class MeasuredLabels(InputError):
    """The labels are numbers that look like measurements.

    Parameters
    ----------
    found : str
        The column and an example, such as "the column 'size' of 't.csv' holds 40 different numbers, ...".
    advice : str
        What to do about it.

    Attributes
    ----------
    found : str
    """

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(f"{found}: {advice}")
        self.found = found


@dataclass(frozen=True, eq=False)
class Targets:
    """What is to be predicted for each row of a table.

    Attributes
    ----------
    task : {"classes", "labels", "regression"}
    names : list of str
        Sorted classes or labels; for several columns, their names in the order given.
    labels : ndarray of shape (n,), int64
        Index of the class. Zeros for the other tasks.
    targets : ndarray of shape (n, n_targets), float64, or None
        NaN: not known. None for classes.
    written : sequence of str
        What the row says, for messages.
    """

    task: str
    names: list[str]
    labels: NDArray[np.int64]
    targets: NDArray[np.float64] | None
    written: Sequence[str]


def read_targets(table: Table, columns: Columns, task: str) -> Targets:
    """Read the columns of labels.

    Parameters
    ----------
    table : Table
    columns : Columns
        With one or several columns of labels.
    task : {"auto", "classes", "labels", "regression"}

    Raises
    ------
    InputError
        If a cell does not fit the task, or the task cannot be told.
    """
    names = columns.labels
    if task == "regression":
        values = np.column_stack([read_numbers(table, name) for name in names])
        return _several(table, "regression", list(names), values, names)
    if len(names) == 1:
        cells = table.columns[names[0]]
        if task == "labels" or (task == "auto" and any(_SEVERAL in cell for cell in set(cells))):
            return _labels_in_cells(table, names[0])
        return _classes(table, names[0], is_given=task == "classes")
    values = np.column_stack([_yes_or_no(table, name) for name in names])
    if task == "classes":
        return _one_hot(table, names, values)
    return _several(table, "labels", list(names), values, names)


def _several(
    table: Table, task: str, names: list[str], values: NDArray[np.float64], columns: Sequence[str]
) -> Targets:
    unknown = np.isnan(values).all(axis=0)
    if unknown.any():
        name = names[int(np.flatnonzero(unknown)[0])]
        raise InputError(f"the column {name!r} of {table.name} has no value: fill it in or leave it out")
    _warn_of_unknown(table, values)
    written = [", ".join(row) for row in zip(*(table.columns[column] for column in columns), strict=True)]
    return Targets(task, names, np.zeros(len(table.rows), np.int64), values, written)


def _warn_of_unknown(table: Table, values: NDArray[np.float64]) -> None:
    """Warn of rows whose values are all unknown. They are not used to train or test."""
    unknown = np.flatnonzero(np.isnan(values).all(axis=1)).tolist()
    if unknown:
        _log.warning(
            "%s: all values of %d of %d images are unknown (%s), so these images are not used: fill in their "
            "cells, or write | for an image without any of the labels",
            table.name,
            len(unknown),
            len(values),
            rows_in_words(table, unknown),
        )


def _yes_or_no(table: Table, column: str) -> NDArray[np.float64]:
    cells = table.columns[column]
    values = [_YES_NO.get(cell.lower(), math.nan) for cell in cells]
    wrong = [i for i, cell in enumerate(cells) if math.isnan(values[i]) and cell.lower() not in UNKNOWN_WORDS]
    if wrong:
        raise InputError(
            f"the column {column!r} of {table.name} must hold 0, 1 or empty cells, but holds other values "
            f"({rows_in_words(table, wrong, cells)}): correct them, or use task='regression' for numbers"
        )
    return np.array(values)


def _labels_in_cells(table: Table, column: str) -> Targets:
    cells = table.columns[column]
    found = [[class_name_of(one.strip()) for one in cell.split(_SEVERAL) if one.strip()] for cell in cells]
    names = sorted({name for row in found for name in row})
    if not names:
        raise InputError(f"the column {column!r} of {table.name} has no label: fill it in")
    _warn_of_spellings(names)
    index = {name: k for k, name in enumerate(names)}
    targets = np.zeros((len(cells), len(names)))
    for i, row in enumerate(found):
        if row:
            targets[i, [index[name] for name in row]] = 1
        elif _SEVERAL not in cells[i]:  # a separator alone: no label fits
            targets[i] = math.nan
    _warn_of_unknown(table, targets)
    _log.info("%s: %d labels: %s", table.name, len(names), ", ".join(names))
    return Targets("labels", names, np.zeros(len(cells), np.int64), targets, cells)


def _classes(table: Table, column: str, *, is_given: bool) -> Targets:
    spelled = {cell: class_name_of(cell) for cell in set(table.columns[column])}
    cells = tuple([spelled[cell] for cell in table.columns[column]])
    names = sorted(set(spelled.values()))
    if not names[0]:
        empty = [i for i, cell in enumerate(cells) if not cell]
        verb = "row has" if len(empty) == 1 else "rows have"
        raise InputError(
            f"{len(empty):,} {verb} no label in the column {column!r} of {table.name} "
            f"({rows_in_words(table, empty)}): fill in the labels or remove the rows"
        )
    numbers = [name.replace(",", ".") for name in names] if table.decimal_comma else names
    if all(map(NUMBER.fullmatch, numbers)):
        _check_numbers(table, column, names, is_given=is_given)
    if len(names) == 1:
        raise InputError(
            f"all rows of {table.name} have the single label {names[0]!r} in the column {column!r}, and at "
            "least two are needed: add images of another class, or name another column with `label_column`"
        )
    _warn_of_spellings(names)
    index = {name: k for k, name in enumerate(names)}
    return Targets("classes", names, np.array([index[cell] for cell in cells], np.int64), None, cells)


def _check_numbers(table: Table, column: str, names: list[str], *, is_given: bool) -> None:
    """Log that numbers are names of classes, unless they look like measurements."""
    may_be_measured = len(names) > max(_MANY, len(table.rows) / 3)
    if not is_given and (may_be_measured or not all(map(_WHOLE.fullmatch, names))):
        raise MeasuredLabels(
            f"the column {column!r} of {table.name} holds {len(names)} different numbers, such as "
            f"{names[len(names) // 2]}",
            "use task='regression' to predict numbers, or task='classes' if each is a class",
        )
    more = f" and {len(names) - _SHOWN_NUMBERS} more" if len(names) > _SHOWN_NUMBERS else ""
    _choices.info(
        "%s: the numbers in the column %r are names of classes: %s%s",
        *(table.name, column, ", ".join(names[:_SHOWN_NUMBERS]), more),
    )


def _one_hot(table: Table, columns: Sequence[str], values: NDArray[np.float64]) -> Targets:
    wrong = np.flatnonzero((values == 1).sum(axis=1) != 1).tolist()
    if wrong:
        raise InputError(
            f"task='classes' with several columns needs one 1 in each row of {table.name}, and "
            f"{len(wrong):,} have none or several ({rows_in_words(table, wrong)}): correct them, or use "
            "task='labels'"
        )
    order = sorted(range(len(columns)), key=lambda k: columns[k])
    labels = values[:, order].argmax(axis=1).astype(np.int64)
    names = [columns[k] for k in order]
    return Targets("classes", names, labels, None, [names[k] for k in labels.tolist()])


def _warn_of_spellings(names: Iterable[str]) -> None:
    """Log a warning about labels that differ in case or spaces only."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[" ".join(name.casefold().split())].append(name)
    for spelled in alike.values():
        if len(spelled) > 1:
            _log.warning(
                "the labels %s of the table differ only in case or spaces, and count as different classes: "
                "if they mean the same, write them in one way",
                NamesNobody(", ".join(map(repr, spelled))),
            )
