"""Read a table of images (a manifest) as a data set.

A row names an image and says what is known of it::

    image,label,patient,split,site,sex
    scans/a.png,benign,P1,train,Basel,F
    scans/b.dcm,malignant,P2,test,Bern,M

:mod:`medvlad.datasets.manifest_table` reads the table, :mod:`medvlad.datasets.manifest_columns` chooses its
columns, :mod:`medvlad.datasets.manifest_files` finds the images, and
:mod:`medvlad.datasets.manifest_targets` reads the labels.

Images are ordered as those of a folder: by split (train, then test), class and path. So the order of the rows
changes no result.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.datasets.folders import ImageFolder
from medvlad.datasets.listing import ListedImage
from medvlad.datasets.manifest_columns import Columns, TableSettings, check_spelling, choose_columns
from medvlad.datasets.manifest_files import FoundRows, find_images, locate_files, rows_in_words
from medvlad.datasets.manifest_numbers import UNKNOWN_WORDS, with_decimal_points
from medvlad.datasets.manifest_table import Table, is_table, read_table
from medvlad.datasets.manifest_targets import Targets, read_targets
from medvlad.datasets.patients import UNKNOWN, Patients, compile_group_pattern, find_groups, relative_file
from medvlad.datasets.unknown_patients import check_unknown_patients, treat_unknown
from medvlad.images.dicom_identity import stands_for_nobody

__all__ = ["is_table", "list_files", "list_manifest", "load_manifest", "load_table"]

_log = logging.getLogger(__name__)
_choices = logging.getLogger("medvlad.datasets.manifest_columns")

FROM_TABLE = "table"
"""Source of a patient that a column of a table names."""

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development", "tune", "tuning"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_MANY_FOLDS = 100  # more are no folds


def load_manifest(
    table: Any,
    *,
    image_root: str | os.PathLike[str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    label_columns: Sequence[str] = (),
    patient_column: str | None = None,
    split_column: str | None = None,
    site_column: str | None = None,
    task: str = "auto",
    group_pattern: str | re.Pattern[str] | None = None,
    unknown_patients: str = "own",
) -> ImageFolder:
    """List the images of a table, with their labels, patients, splits, sites and covariates.

    Columns are found by usual names in any case: image, path, file or filename; label, class, diagnosis or
    target; patient, patient_id or subject; split, fold or set; site, centre, center or hospital. All other
    columns are covariates. The choice is logged.

    Parameters
    ----------
    table : path or DataFrame
        CSV (separated by commas, semicolons or tabs), TSV or Parquet file, or a DataFrame of pandas or
        polars.
    image_root : path or None, default=None
        Folder that paths are relative to. Images outside it are refused. None: the folder of the table, or
        the current folder for a DataFrame.
    image_column, label_column, patient_column, split_column, site_column : str or None, default=None
        Names of columns. None: found by usual names.
    label_columns : sequence of str, default=()
        Several columns of labels: 0 or 1, or numbers for regression. Empty: one column.
    task : {"auto", "classes", "labels", "regression"}, default="auto"
        classes: one class an image. labels: any number of labels, in a cell such as ``a|b`` or in several
        columns of 0 and 1. regression: numbers. auto: labels if a cell has a ``|`` or there are several
        columns, otherwise classes.
    group_pattern : str or compiled regular expression, optional
        See :func:`medvlad.load_image_folder`. It is used instead of a column of patients.
    unknown_patients : {"own", "refuse", "drop"}, default="own"
        See :func:`medvlad.load_image_folder`.

    Returns
    -------
    ImageFolder
        A row that names a file of several images gives all of them, and ``FILE#N`` gives one. `splits` comes
        from a column of train, val and test; val is joined to train. A column with other values, such as 0 to
        4, gives `folds`. Without a column of patients, they come from DICOM headers and known file names.

        A row may name features that were extracted elsewhere (.h5, .npy, .npz, .pt, .safetensors).

    Raises
    ------
    InputError
        If the table cannot be read, has no header or no fitting column; if an image is missing, is outside
        `image_root` or occurs twice; if a cell does not fit. The message names row and column. The header is
        row 1.
    MissingExtraError
        If the table is Parquet and the extra tables is not installed, or a file is DICOM or NIfTI and the
        extra medical is not.

    Examples
    --------
    >>> data = load_manifest("data.csv", image_root="scans")  # doctest: +SKIP
    >>> data.class_names, data.covariates.keys()  # doctest: +SKIP
    (['benign', 'malignant'], dict_keys(['sex', 'age']))
    """
    if isinstance(label_columns, str) or not all(isinstance(one, str) for one in label_columns):
        raise InputError(f"label_columns must be a list of names of columns, got {label_columns!r}")
    settings = TableSettings(
        None if image_root is None else os.fspath(image_root),
        image_column,
        label_column,
        tuple(label_columns),
        patient_column,
        split_column,
        site_column,
        task,
    )
    return load_table(table, settings, group_pattern=group_pattern, unknown_patients=unknown_patients)


def load_table(
    table: Any,
    settings: TableSettings,
    *,
    group_pattern: str | re.Pattern[str] | None = None,
    unknown_patients: str = "own",
) -> ImageFolder:
    """List the images of a table. See :func:`load_manifest`, which calls this."""
    check_unknown_patients(unknown_patients)
    pattern = None if group_pattern is None else compile_group_pattern(group_pattern)
    if pattern is not None and settings.patient_column is not None:
        raise InputError("`group_pattern` and `patient_column` both name the patients: leave one out")
    read = read_table(table)
    columns = choose_columns(read, settings)
    check_spelling(read, columns, _SPLITS, has_patients=pattern is not None)
    if read.n_empty:
        _choices.info("%s: %d empty rows are left out", read.name, read.n_empty)
    targets = read_targets(read, columns, settings.task)
    splits, folds = _read_splits(read, columns.split)
    found = find_images(read, columns.image, settings.image_root, targets.written)
    if splits is not None and targets.task == "classes":
        _check_trained(read, targets, splits)
    data = _assembled(read, columns, targets, found, splits, folds)
    data = _with_patients(read, columns, data, found, pattern, unknown_patients)
    _log.info("%s: %d images, %s", read.name, len(data), ", ".join(data.class_names))
    return data


def list_manifest(
    table: Any, *, image_root: str | os.PathLike[str] | None = None, image_column: str | None = None
) -> list[Path]:
    """List the images of a table in the order of its rows. Labels are not needed.

    Parameters
    ----------
    table, image_root, image_column
        See :func:`load_manifest`.

    Raises
    ------
    InputError
        As `load_manifest` for images.
    """
    settings = TableSettings(None if image_root is None else os.fspath(image_root), image_column)
    read = read_table(table)
    columns = choose_columns(read, settings, needs_labels=False)
    return find_images(read, columns.image, settings.image_root, None).paths


def list_files(
    table: Any,
    *,
    image_root: str | os.PathLike[str] | None = None,
    image_column: str | None = None,
    must_exist: bool = True,
) -> list[Path]:
    """List the file of each row of a table, in order. Labels are not needed, and files are not opened.

    Parameters
    ----------
    table, image_root, image_column
        See :func:`load_manifest`.
    must_exist : bool, default=True
        Whether a missing file is an error.

    Returns
    -------
    list of Path
        One file for each row. A file that two rows name is listed twice.

    Raises
    ------
    InputError
        If the table cannot be read or has no column of images, a row names no image, or a file is missing or
        lies outside `image_root`.
    MissingExtraError
        If the table is Parquet and the extra tables is not installed.
    """
    settings = TableSettings(None if image_root is None else os.fspath(image_root), image_column)
    read = read_table(table)
    columns = choose_columns(read, settings, needs_labels=False)
    return locate_files(read, columns.image, settings.image_root, must_exist=must_exist)


def _read_splits(table: Table, column: str | None) -> tuple[NDArray[np.str_] | None, NDArray[np.str_] | None]:
    """Return split and fold of each row. One of them is None, or both are."""
    if column is None:
        return None, None
    cells = table.columns[column]
    names = set(cells)
    part_of = {name: _SPLITS.get(name.casefold(), "") for name in names}
    parts = [part_of[cell] for cell in cells]
    empty = [i for i, cell in enumerate(cells) if not cell]
    if len(empty) == len(cells):
        return None, None
    if empty:
        raise InputError(
            f"{len(empty):,} rows of {table.name} have nothing in the column {column!r} of splits "
            f"({rows_in_words(table, empty)}): fill in the splits or remove the rows"
        )
    if all(parts):
        return _joined(table, column, parts), None
    other = [i for i, part in enumerate(parts) if not part]
    if len(other) < len(cells):
        raise InputError(
            f"the column {column!r} of {table.name} holds train, val or test, and others "
            f"({rows_in_words(table, other, cells)}): correct them"
        )
    if not 2 <= len(names) <= _MANY_FOLDS:
        raise InputError(
            f"the column {column!r} of {table.name} holds {len(names)} different values, such as "
            f"{cells[0]!r}: use train, val and test, 2 to {_MANY_FOLDS} names of folds, or another "
            "`split_column`"
        )
    _choices.info(
        "%s: the column %r names %d folds of a cross-validation: %s",
        *(table.name, column, len(names), ", ".join(sorted(names))),
    )
    return None, np.array(cells, np.str_)


def _joined(table: Table, column: str, parts: Sequence[str]) -> NDArray[np.str_] | None:
    """Return the splits, with val joined to train."""
    splits = np.array(parts, np.str_)
    n_joined = int((splits == "val").sum())
    if n_joined:
        _choices.info("%s: the %d images of val are joined to train", table.name, n_joined)
        splits = np.where(splits == "val", "train", splits)
    if "test" not in parts:
        if n_joined:
            _log.warning(
                "the column %s of the table has val and no test, and val is joined to train: rename val to "
                "test if it is the part to test on",
                column,
            )
        else:
            _choices.info("%s: all images are in train, so they are not split", table.name)
            return None
    return splits


def _check_trained(table: Table, targets: Targets, splits: NDArray[np.str_]) -> None:
    """Refuse a class of test that train does not have."""
    if "train" not in splits:
        return
    new = np.flatnonzero(~np.isin(targets.labels, np.unique(targets.labels[splits == "train"]))).tolist()
    if new:
        raise InputError(
            f"the label {targets.names[targets.labels[new[0]]]!r} of {table.name} has test images and no "
            f"training image ({rows_in_words(table, new)}): add training images or remove the rows"
        )


def _assembled(
    table: Table,
    columns: Columns,
    targets: Targets,
    found: FoundRows,
    splits: NDArray[np.str_] | None,
    folds: NDArray[np.str_] | None,
) -> ImageFolder:
    """Return the data set in the order of a folder, without patients. `found` is put into that order too."""
    rows = np.array(found.row, np.int64)
    order = _order(targets, found, rows, splits)
    rows = rows[order]
    found.row = rows.tolist()
    positions = order.tolist()
    found.paths = [found.paths[i] for i in positions]
    found.relative = [found.relative[i] for i in positions]
    found.kinds = [found.kinds[i] for i in positions]

    def of_rows(column: str | None) -> NDArray[np.str_] | None:
        return None if column is None else np.array(table.columns[column], np.str_)[rows]

    sites = None if columns.site is None else _without_unknown(table.columns[columns.site])
    return ImageFolder(
        paths=found.paths,
        labels=targets.labels[rows],
        class_names=targets.names,
        splits=None if splits is None else splits[rows],
        kinds=np.array(found.kinds, np.str_),
        task=targets.task,
        targets=None if targets.targets is None else targets.targets[rows],
        sites=None if sites is None else np.array(sites, np.str_)[rows],
        covariates={
            name: np.array(with_decimal_points(table, name), np.str_)[rows] for name in columns.covariates
        },
        folds=None if folds is None else folds[rows],
    )


def _order(
    targets: Targets, found: FoundRows, rows: NDArray[np.int64], splits: NDArray[np.str_] | None
) -> NDArray[np.intp]:
    """Return the order of the images: by split, class and path."""
    by_path = np.array(sorted(range(len(rows)), key=found.relative.__getitem__), np.intp)
    classes = targets.labels[rows[by_path]]
    tested = np.zeros(len(rows), bool) if splits is None else splits[rows[by_path]] == "test"
    return by_path[np.lexsort((classes, tested))]


def _without_unknown(cells: Sequence[str]) -> Sequence[str]:
    return _blanked(cells, {cell for cell in set(cells) if cell.lower() in UNKNOWN_WORDS})


def _known_patients(cells: Sequence[str]) -> Sequence[str]:
    """Return the cells of patients. Words that name nobody, such as "unknown" and "?", become empty.

    Patients may be called by letters, so a single "x" is a patient.
    """
    return _blanked(
        cells,
        {
            cell
            for cell in set(cells)
            if cell.lower() in UNKNOWN_WORDS or (stands_for_nobody(cell) and cell.lower() != "x")
        },
    )


def _blanked(cells: Sequence[str], unknown: set[str]) -> Sequence[str]:
    return ["" if cell in unknown else cell for cell in cells] if unknown else cells


def _with_patients(
    table: Table,
    columns: Columns,
    data: ImageFolder,
    found: FoundRows,
    pattern: re.Pattern[str] | None,
    unknown_patients: str,
) -> ImageFolder:
    """Return the data set with the patients of a column, or else of a pattern, of headers and of names."""
    from dataclasses import replace

    named = None
    if columns.patient is not None and pattern is None:
        cells = _known_patients(table.columns[columns.patient])
        if all(cells):
            return replace(
                data,
                groups=np.array(cells, np.str_)[np.array(found.row)],
                patient_sources=np.full(len(data), FROM_TABLE),
            )
        named = [cells[i] for i in found.row]
    listed = _listed(data, found)
    patients = find_groups(listed, pattern) if named is None else _named_patients(listed, named)
    kept, patients = treat_unknown(listed, patients, unknown_patients)
    if len(kept) < len(listed):
        names = {image.relative for image in kept}
        data = data.take([i for i, image in enumerate(listed) if image.relative in names])
    if patients is None:
        return data
    return replace(
        data,
        groups=np.array([patients.groups[image.relative] for image in kept], np.str_),
        patient_sources=np.array([patients.sources[image.relative] for image in kept], np.str_),
    )


def _listed(data: ImageFolder, found: FoundRows) -> list[ListedImage]:
    """Return the images as those of a folder, for the rules about patients."""
    splits = [None] * len(data) if data.splits is None else data.splits.tolist()
    labels = data.labels.tolist()
    is_class = data.task == "classes"
    return [
        ListedImage(
            split,
            data.class_names[label] if is_class else "",
            _below_class(relative, data.class_names[label]) if is_class else tuple(relative.split("/")),
            path,
            relative,
            kind,
            found.identities.get(relative),
        )
        for split, label, path, relative, kind in zip(
            splits, labels, found.paths, found.relative, found.kinds, strict=True
        )
    ]


def _below_class(relative: str, class_name: str) -> tuple[str, ...]:
    """Return the parts of a path that may name a patient: those below a folder with the name of the class."""
    parts = tuple(relative.split("/"))
    return parts[parts.index(class_name) + 1 :] if class_name in parts[:-1] else parts


def _named_patients(listed: list[ListedImage], named: Sequence[str]) -> Patients | None:
    if not any(named):
        return None
    return Patients(
        {image.relative: name or relative_file(image) for image, name in zip(listed, named, strict=True)},
        {image.relative: FROM_TABLE if name else UNKNOWN for image, name in zip(listed, named, strict=True)},
    )
