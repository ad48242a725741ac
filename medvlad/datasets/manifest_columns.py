"""Choose the columns of a table: image, label, patient, split and site. The others are covariates.

A column is found by its usual name, in any case, and with spaces, hyphens or underscores between words. If
several columns fit, the most usual name counts. The choice is logged.

Without its patients or splits, a data set gives results that look right. So a misspelt column of them is an
error, see `check_spelling`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from medvlad._util.validate import InputError, check_choice
from medvlad.datasets.manifest_table import Table

__all__ = ["TASKS", "Columns", "TableSettings", "check_spelling", "choose_columns"]

# Only choices are logged under this name, so that the command line can show them.
_log = logging.getLogger(__name__)

TASKS = ("auto", "classes", "labels", "regression")
"""What a table can ask to predict. auto: classes, or labels if a cell holds several of them."""

#: Usual names, the most usual first.
_USUAL = {
    "image": (
        *("image", "path", "file", "filename", "image_path", "file_path", "filepath", "file_name"),
        *("image_file", "image_filename", "image_name", "img", "img_path"),
    ),
    "label": ("label", "class", "diagnosis", "target", "class_name", "category"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id", "subjectid"),
    "split": ("split", "fold", "set", "subset", "partition"),
    "site": ("site", "centre", "center", "hospital", "institution"),
}
_SHOWN_COLUMNS = 12
_NEARLY = 0.85  # similarity of two names of which one is probably a misspelt form of the other


@dataclass(frozen=True)
class TableSettings:
    """How a table is read. None: found by usual names.

    Attributes
    ----------
    image_root : str or None
        Folder that the paths of images are relative to. None: the folder of the table.
    image_column, label_column, patient_column, split_column, site_column : str or None
        Names of columns.
    label_columns : tuple of str
        Columns with 0 or 1 for each of several labels, or with numbers.
    task : {"auto", "classes", "labels", "regression"}
        See :func:`medvlad.load_manifest`.
    """

    image_root: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    label_columns: tuple[str, ...] = ()
    patient_column: str | None = None
    split_column: str | None = None
    site_column: str | None = None
    task: str = "auto"


@dataclass(frozen=True)
class Columns:
    """Names of the chosen columns.

    Attributes
    ----------
    image : str
    labels : tuple of str
        One column, or several. Empty: the table has no labels.
    patient, split, site : str or None
    covariates : tuple of str
        All other columns.
    """

    image: str
    labels: tuple[str, ...]
    patient: str | None
    split: str | None
    site: str | None
    covariates: tuple[str, ...]


def choose_columns(table: Table, settings: TableSettings, *, needs_labels: bool = True) -> Columns:
    """Return which column is what, and log it.

    Parameters
    ----------
    table : Table
    settings : TableSettings
    needs_labels : bool, default=True
        Refuse a table without labels. False: only the column of images is logged.

    Raises
    ------
    InputError
        If a named column is missing or has two roles, or no column fits.
    """
    check_choice(settings.task, "task", TASKS)
    if settings.label_column is not None and settings.label_columns:
        raise InputError("label_column and label_columns cannot be used together: leave one out")
    given: dict[str, str] = {}
    for role in _USUAL:
        name = getattr(settings, f"{role}_column")
        if name is not None:
            given[role] = _named(table, name, f"{role}_column")
    labels = tuple(_named(table, name, "label_columns") for name in settings.label_columns)
    taken = [*given.values(), *labels]
    twice = next((name for name in taken if taken.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"the column {twice!r} of {table.name} is named for two purposes: name two columns")
    found, others = given | _found(table, given, labels), dict[str, tuple[str, ...]]()
    for role in [role for role in found if role not in given]:
        fitting = _fitting(table, role, {*given.values(), *labels})
        others[role] = tuple(name for name in fitting if name not in found.values())
    if "image" not in found:
        raise _no_column(table, "images", "image")
    if labels:
        found.pop("label", None)
    elif "label" in found:
        labels = (found["label"],)
    elif needs_labels:
        raise _no_column(table, "labels", "label")
    chosen = {*found.values(), *labels}
    columns = Columns(
        found["image"],
        labels,
        found.get("patient"),
        found.get("split"),
        found.get("site"),
        tuple(name for name in table.columns if name not in chosen),
    )
    _log.info("%s: %s", table.name, "; ".join(_in_words(columns, others, needs_labels=needs_labels)))
    return columns


def check_spelling(table: Table, columns: Columns, parts: Collection[str], *, has_patients: bool) -> None:
    """Refuse a table whose column of patients or splits was taken for a covariate, because it is misspelt.

    The name must begin like a usual one, be nearly the same, and have no digit (``split1``). The cells must
    fit as well: more than two patients, or the name of a part.

    Parameters
    ----------
    table : Table
    columns : Columns
        The choice.
    parts : collection of str
        Names of parts, in lower case.
    has_patients : bool
        Whether patients are known from elsewhere.

    Raises
    ------
    InputError
        If there is such a column.
    """
    roles = {"patient": columns.patient is None and not has_patients, "split": columns.split is None}
    for name in columns.covariates:
        for role in (role for role, is_missing in roles.items() if is_missing):
            close = get_close_matches(_usual(name), _USUAL[role], n=1, cutoff=_NEARLY)
            if not close or close[0][0] != _usual(name)[0] or re.search(r"\d", name):
                continue
            cells = {cell.casefold() for cell in set(table.columns[name])}
            if len(cells) > 2 if role == "patient" else not cells.isdisjoint(parts):
                raise InputError(
                    f"the column {name!r} of {table.name} may be a misspelt {close[0]!r}, and no other "
                    f"column is that of {role}s: name it with `{role}_column`, or, if it holds something "
                    "else, rename it"
                )


def _usual(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip()).casefold()


def _fitting(table: Table, role: str, taken: set[str]) -> list[str]:
    """Return the columns with a usual name of a role, the most usual first."""
    names = _USUAL[role]
    fitting = [name for name in table.columns if _usual(name) in names and name not in taken]
    return sorted(fitting, key=lambda name: names.index(_usual(name)))


def _found(table: Table, given: Mapping[str, str], labels: tuple[str, ...]) -> dict[str, str]:
    """Return the columns of the roles that were not named."""
    taken = {*given.values(), *labels}
    found = {}
    for role in _USUAL:
        if role in given or (role == "label" and labels):
            continue
        fitting = _fitting(table, role, taken)
        if fitting:
            found[role] = fitting[0]
            taken.add(fitting[0])
    return found


def _named(table: Table, name: str, parameter: str) -> str:
    """Return the column that a user has named."""
    if name in table.columns:
        return name
    alike = [one for one in table.columns if one.casefold() == name.strip().casefold()]
    if len(alike) == 1:
        return alike[0]
    close = get_close_matches(name, table.columns, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise InputError(
        f"{table.name} has no column {name!r} for `{parameter}`: its columns are "
        f"{_listed(table.columns)}{hint}"
    )


def _no_column(table: Table, what: str, role: str) -> InputError:
    usual = ", ".join(_USUAL[role][:4])
    several = ", or several columns of 0 and 1 with `label_columns`" if role == "label" else ""
    return InputError(
        f"{table.name} has no column of {what}: its columns are {_listed(table.columns)}. Name one of them "
        f"with `{role}_column`{several}, or call it one of {usual}"
    )


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - _SHOWN_COLUMNS} more" if len(names) > _SHOWN_COLUMNS else ""
    return ", ".join(map(repr, [*names][:_SHOWN_COLUMNS])) + more


def _in_words(
    columns: Columns, others: Mapping[str, tuple[str, ...]], *, needs_labels: bool
) -> Iterator[str]:
    """Yield what each column is, such as "images from 'path'". Without labels, only images are used."""
    roles = {"image": (columns.image,)} | ({"label": columns.labels} if needs_labels else {})
    for role in ("patient", "split", "site") if needs_labels else ():
        name = getattr(columns, role)
        roles[role] = () if name is None else (name,)
    for role, names in roles.items():
        alike = others.get(role, ())
        also = f" (not from {_listed(alike)}: `{role}_column` changes this)" if alike else ""
        if names:
            yield f"{role}s from {_listed(names)}{also}"
    missing = [f"{role}s" for role, names in roles.items() if not names]
    if missing:
        yield f"no column of {', '.join(missing)}"
    if columns.covariates and needs_labels:
        yield f"covariates {_listed(columns.covariates)}"
