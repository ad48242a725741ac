r"""Find the images that the rows of a table name.

A name is a path relative to a folder, or an absolute path inside it. ``FILE`` means all images of a file, and
``FILE#N`` means one of them. Backslashes separate folders, as in Windows. A Windows path with a drive, such
as ``C:\data\a.png``, is taken to be relative if some end of it exists in the folder. A URL may stand there
too, whatever the folder is.

Files are looked for by listing folders, because a million single questions take minutes on a network drive.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medvlad._util.object_path import ObjectPath, location
from medvlad._util.read_ahead import read_ahead
from medvlad._util.urls import is_url, without_secrets
from medvlad._util.validate import InputError
from medvlad.datasets.feature_files import FEATURE_SUFFIXES, feature_ending
from medvlad.datasets.listing import check_root
from medvlad.datasets.manifest_table import Table
from medvlad.images.dicom_identity import DicomIdentity
from medvlad.images.formats import IMAGE_SUFFIXES, ending_of
from medvlad.images.frames import split_frame
from medvlad.images.inspect_file import WITHOUT_IMAGE, inspect_file

__all__ = ["FoundRows", "find_images", "local_name", "locate_files", "rows_in_words"]

_FEW = 8  # names in a folder, up to which they are looked for one by one
_LISTED = 10  # rows in a message
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_ASKED_AT_ONCE = 16  # objects
_TRIED = 100  # rows with Windows paths, of which one must exist
#: Endings of files that are not opened, because they hold one picture, or features.
_UNOPENED = (frozenset(IMAGE_SUFFIXES) | frozenset(FEATURE_SUFFIXES)) - {".tif", ".tiff"}


@dataclass
class FoundRows:
    """The images of a table, one entry an image.

    Attributes
    ----------
    row : sequence of int
        Index of the row, from 0, that names the image.
    paths : list of Path
    relative : sequence of str
        Path relative to the folder of the images, with slashes.
    kinds : sequence of str
        See :class:`medvlad.datasets.listing.FoundImage`. The ending for features.
    identities : dict of str to DicomIdentity
        Digests of the patients of DICOM files, by relative path.
    """

    row: Sequence[int]
    paths: list[Path]
    relative: Sequence[str]
    kinds: Sequence[str]
    identities: dict[str, DicomIdentity] = field(default_factory=dict)


def find_images(
    table: Table,
    column: str,
    image_root: str | os.PathLike[str] | None,
    labels: Sequence[str] | None,
) -> FoundRows:
    """Find the images that the cells of a column name.

    Parameters
    ----------
    table : Table
    column : str
    image_root : path or None
        Folder of the images. None: the folder of the table, or the current one for a DataFrame. Then absolute
        paths elsewhere are allowed as well.
    labels : sequence of str or None
        Label of each row, for the counts of missing images and for repeated ones. None: without labels.

    Raises
    ------
    InputError
        If a cell is empty, a file is missing, lies outside `image_root`, is named twice or is no image.
    MissingExtraError
        If a file is DICOM or NIfTI and the extra medical is not installed.
    """
    base = (table.folder or Path()) if image_root is None else check_root(image_root)
    names = _relative_names(table, column, base, is_given=image_root is not None)
    _check_files(table, column, base, names, labels, is_given=image_root is not None)
    found = _expanded(table, column, base, names)
    _check_repeated(table, found, labels)
    return found


def locate_files(
    table: Table, column: str, image_root: str | os.PathLike[str] | None, *, must_exist: bool
) -> list[Path]:
    """Return the file that each cell of a column names. Files are not opened, and may occur twice.

    Parameters
    ----------
    table, column, image_root
        See :func:`find_images`.
    must_exist : bool
        Whether a missing file is an error.

    Raises
    ------
    InputError
        If a cell is empty, or a file is missing or lies outside `image_root`.
    """
    base = (table.folder or Path()) if image_root is None else check_root(image_root)
    names = _relative_names(table, column, base, is_given=image_root is not None)
    if must_exist:
        _check_files(table, column, base, names, None, is_given=image_root is not None)
    return [_joined(base, name) for name in names]


def _joined(base: Path, name: str) -> Path:
    """Return the path of a name that is relative to `base`, absolute or a URL."""
    return location(name, "the image") if ":/" in name and is_url(name) else base / name


def rows_in_words(table: Table, indices: Sequence[int], cells: Sequence[str] | None = None) -> str:
    """Return rows as a spreadsheet counts them, such as "row 3: a.png; row 7: b.png; and 5 more"."""
    listed = [
        f"row {table.rows[i]}" if cells is None else f"row {table.rows[i]}: {without_secrets(cells[i])}"
        for i in indices[:_LISTED]
    ]
    more = len(indices) - len(listed)
    return "; ".join([*listed, *([f"and {more} more"] if more else [])])


def _relative_names(table: Table, column: str, base: Path, *, is_given: bool) -> Sequence[str]:
    """Return the path of each row relative to `base`, or absolute if it lies elsewhere."""
    remote = isinstance(base, ObjectPath)
    inside = f"/{base}/" if remote else os.path.join(os.path.abspath(base), "")  # noqa: PTH100, PTH118
    inside = inside.replace("://", ":/") if remote else inside  # as os.path.normpath writes it
    cells = table.columns[column]
    empty = [i for i, cell in enumerate(cells) if not cell]
    if empty:
        raise InputError(
            f"{_number(len(empty), 'row has', 'rows have')} no image in the column {column!r} of "
            f"{table.name} ({rows_in_words(table, empty)}): name the images or remove the rows"
        )
    if _all_tidy(cells):
        return cells
    names: list[str] = []
    outside = []
    is_posix = inside.startswith("/")
    dropped: str | None = None  # the beginning of Windows paths that stands for `base`
    for i, cell in enumerate(cells):
        name = cell
        if is_url(name):
            location(name, f"row {table.rows[i]} of {table.name}: the image")
            names.append(name)
            continue
        if "\\" in name or name[1:2] == ":":
            foreign = os.name != "nt" and _DRIVE.match(name) is not None
            name = name.replace("\\", "/")
            if foreign:
                if dropped is None:
                    dropped = _dropped_beginning(cells[i : i + _TRIED], base)
                if dropped is None or not name.startswith(dropped):
                    raise InputError(
                        f"row {table.rows[i]} of {table.name} names {cell!r}, a path of a Windows machine, "
                        f"and no end of it is a file in {str(base)!r}: write paths relative to that folder, "
                        "or give the right one as `image_root`"
                    )
                name = name[len(dropped) :]
        untidy = "/." in name or "//" in name or name.endswith("/")
        if name.startswith("/") and is_posix and not untidy:
            if name.startswith(inside):
                name = name[len(inside) :]
            else:
                outside.append(i)
        elif name.startswith((".", "/")) or "/." in name or "//" in name:
            name = _tidied(name, inside)
            if name.startswith((os.sep, "..")):
                outside.append(i)
        names.append(name)
    if outside and (is_given or remote):
        raise InputError(
            f"{_number(len(outside), 'image lies', 'images lie')} outside the folder {str(base)!r} of "
            f"`image_root` ({rows_in_words(table, outside, cells)}): give a folder that holds all images"
        )
    return tuple(names)


def _all_tidy(names: Sequence[str]) -> bool:
    """Return whether all names are relative paths without ".", "..", drives and backslashes."""
    text = "\n".join(("", *names))  # one search of a long text is much faster than many of short ones
    return not any(part in text for part in ("\\", ":", "//", "/.", "\n.", "\n/"))


def _tidied(name: str, inside: str) -> str:
    """Return a path without "." and "..", relative if it lies in the folder `inside`."""
    whole = os.path.normpath(os.path.join(inside, name))  # noqa: PTH118
    if whole.startswith(inside):
        return whole[len(inside) :]
    return whole if os.path.isabs(name) else os.path.normpath(name)  # noqa: PTH117


def _dropped_beginning(cells: Sequence[str], base: Path) -> str | None:
    """Return the shortest beginning of Windows paths without which a file exists in `base`."""
    for cell in cells:
        name = cell.replace("\\", "/")
        for match in re.finditer("/+", name) if _DRIVE.match(cell) else ():
            if name[match.end() :] and _is_file(base / name[match.end() :]):
                return name[: match.end()]
    return None


def local_name(name: str) -> str:
    r"""Return the name of a file that exists, for a name with the backslashes of Windows.

    Parameters
    ----------
    name : str
        Path relative to the current folder, such as ``new\a.png``, or ``FILE#N``. A path with a drive is
        taken to be relative if some end of it exists.

    Returns
    -------
    str
        `name` if it exists as written, or if nothing is found.
    """
    if "\\" not in name and _DRIVE.match(name) is None:
        return name
    here = Path()
    if os.name == "nt" or _is_file(here / name):
        return name
    slashed = name.replace("\\", "/")
    if _DRIVE.match(name):
        dropped = _dropped_beginning([name], here)
        return name if dropped is None else slashed[len(dropped) :]
    return slashed if _is_file(here / slashed) else name


def _check_files(
    table: Table,
    column: str,
    base: Path,
    names: Sequence[str],
    labels: Sequence[str] | None,
    *,
    is_given: bool,
) -> None:
    """Raise InputError if a file does not exist, with counts by class."""
    absent = _absent(base, names)
    if not absent:
        return
    missing = [i for i, name in enumerate(names) if name in absent]
    counts = "" if labels is None else _counts([labels[i] for i in missing])
    what = "images" if any(feature_ending(name) is None for name in names) else "feature files"
    advice = "`image_root`" if is_given else "give the folder that paths are relative to as `image_root`"
    raise InputError(
        f"{len(missing):,} of the {len(names):,} {what} of {table.name} were not found in "
        f"{str(base)!r}{counts}: {rows_in_words(table, missing, table.columns[column])}. Correct the column "
        f"{column!r} or {advice}"
    )


def _counts(labels: Sequence[str]) -> str:
    counted = sorted(Counter(labels).items())
    more = f", and {len(counted) - _LISTED} other labels" if len(counted) > _LISTED else ""
    return " (" + ", ".join(f"{name or 'no label'}: {n}" for name, n in counted[:_LISTED]) + more + ")"


def _absent(base: Path, names: Sequence[str]) -> set[str]:
    """Return the names that are no files."""
    unseen = set(names)
    for folder, n in Counter(name[: _without_query(name).rfind("/") + 1] for name in names).items():
        if n > _FEW:
            try:
                unseen.difference_update([folder + name for name in _files_in(_joined(base, folder))])
            except (OSError, ValueError):  # each file is looked for below
                continue
    # The listing spells names in one way. The file system may accept others, and FILE#N is in none.
    if any(isinstance(_joined(base, name), ObjectPath) for name in unseen):
        asked = read_ahead(
            lambda name: _is_file(_joined(base, name)),
            sorted(unseen),
            n_threads=_ASKED_AT_ONCE,
            n_ahead=2 * _ASKED_AT_ONCE,
            name="medvlad-list",
        )
        return {name for name, is_file in asked if not is_file}
    return {name for name in unseen if not _is_file(base / name)}


def _files_in(folder: Path) -> list[str]:
    """Return the names of the files directly in a folder. Raise OSError."""
    if isinstance(folder, ObjectPath):
        return [one.name for one in folder.children() if not one.is_folder]
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if not entry.is_dir()]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file() or ("#" in path.name and split_frame(path)[0].is_file())
    except (OSError, ValueError) as error:  # a name that no file can have
        if isinstance(path, ObjectPath) and isinstance(error, OSError):
            raise InputError(
                f"the image {path} cannot be looked up ({error.strerror}): check its address and the network"
            ) from None
        return False


def _expanded(table: Table, column: str, base: Path, names: Sequence[str]) -> FoundRows:
    """Return all images of the files."""
    endings = [name[name.rfind(".") :] for name in map(_without_query, names)]
    lower = {ending: sys.intern(ending.lower()) for ending in set(endings)}
    kinds = tuple([lower[ending] for ending in endings])
    del endings
    if _UNOPENED.issuperset(lower.values()) and not any("#" in name for name in names):
        paths = [_joined(base, name) for name in names]
        return FoundRows(range(len(names)), paths, [_shown(name) for name in names], kinds)
    return _with_opened(table, column, base, names, kinds)


def _with_opened(
    table: Table, column: str, base: Path, names: Sequence[str], kinds: Sequence[str]
) -> FoundRows:
    """Return all images of the files, some of which must be opened."""
    row: list[int] = []
    paths: list[Path] = []
    relatives: list[str] = []
    found_kinds: list[str] = []
    identities: dict[str, DicomIdentity] = {}
    unread: list[int] = []
    for i, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        if kind in _UNOPENED and "#" not in name:
            row.append(i)
            paths.append(_joined(base, name))
            relatives.append(_shown(name))
            found_kinds.append(kind)
            continue
        path = _joined(base, name)
        file, frame = split_frame(path) if "#" in name else (path, None)
        inspected = inspect_file(file)
        images = inspected.images
        if frame is not None and images:
            if 1 < len(images) <= frame:
                cell = without_secrets(table.columns[column][i])
                raise InputError(
                    f"row {table.rows[i]} of {table.name} names {cell!r}, and the file "
                    f"holds the images #0 to #{len(images) - 1}: correct the number"
                )
            # Reading a number that does not exist in a file of one image reports the reason.
            images = [images[frame] if frame < len(images) else path]
        if not images:
            unread.append(i)
        folder = _shown(name).rpartition("/")[0]
        for image in images:
            relative = f"{folder}/{image.name}" if folder else image.name
            row.append(i)
            paths.append(image)
            relatives.append(relative)
            found_kinds.append(inspected.kind)
            if inspected.identity is not None:
                identities[relative] = inspected.identity
    if unread:
        formats = sorted({_kind(_joined(base, names[i])) for i in unread})
        raise InputError(
            f"{_number(len(unread), 'file is', 'files are')} no image that is read ({', '.join(formats)}; "
            f"{rows_in_words(table, unread, table.columns[column])}): convert to PNG, TIFF, DICOM or NIfTI, "
            "or remove the rows"
        )
    return FoundRows(row, paths, relatives, found_kinds, identities)


def _without_query(name: str) -> str:
    return name.partition("?")[0] if "?" in name and is_url(name) else name


def _shown(name: str) -> str:
    """Return a name without secrets. URLs that differ in their queries stay different."""
    if "?" not in name or not is_url(name):
        return name
    digest = hashlib.sha256(name.partition("?")[2].encode()).hexdigest()
    return without_secrets(name) + digest[:8]


def _kind(path: Path) -> str:
    kind = inspect_file(path).kind
    return kind if kind and kind != WITHOUT_IMAGE else (kind or ending_of(path.name))


def _check_repeated(table: Table, found: FoundRows, labels: Sequence[str] | None) -> None:
    """Raise InputError if an image is named twice."""
    if len(set(found.relative)) == len(found.relative):
        return
    first: dict[str, int] = {}
    for name, i in zip(found.relative, found.row, strict=True):
        j = first.setdefault(name, i)
        if j == i:
            continue
        both = f"rows {table.rows[j]} and {table.rows[i]} of {table.name} name the same image {name!r}"
        if labels is not None and labels[i] != labels[j]:
            raise InputError(
                f"{both} with two labels, {labels[j]!r} and {labels[i]!r}: keep the right row, or write "
                "several labels into one cell, as a|b"
            )
        raise InputError(f"{both}: remove one of them")


def _number(n: int, one: str, several: str) -> str:
    return f"{n:,} {one if n == 1 else several}"
