"""Folders of images as data sets: classes, the official split, and who is whose patient.

A loader turns a folder into an `ImageFolder` and reads no pixels::

    root/train/PNEUMONIA/person1_virus_6.jpeg
         |     |         |
         split class     group (one patient; must not be cut by cross-validation)

Images are ordered by split (train, then test), class name and path, so that indices, seeded draws and
results do not depend on the file system.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, check_indices
from medvlad.images.dicom import is_dicom, patient_of
from medvlad.images.frames import split_frame
from medvlad.images.read import is_image_name, list_frames

__all__ = ["ImageFolder", "load_image_folder"]

_log = logging.getLogger(__name__)

Root = str | os.PathLike[str]

SPLITS = ("train", "test")
#: What folders of parts are called, in any case.
_PART_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
}
_JUNK_FOLDERS = frozenset({"__MACOSX", "@eaDir"})  # macOS archives; thumbnails of a Synology server

# Patient ids in names of files and of folders below the class. The group is the id.
_PATIENT_IN_FILE_NAME = (
    # Paediatric chest X-rays. Numbers are reused: person1_virus and person1_bacteria are two children,
    # and so may be IM-0383 and NORMAL2-IM-0383.
    re.compile(r"^(?P<group>person\d+_(?:bacteria|virus))_\d+"),
    re.compile(r"^(?P<group>(?:NORMAL\d*-)?IM-\d+)(?:-\d+)+$"),
)
_PATIENT_IN_ANY_NAME = (
    re.compile(r"^(?P<group>sub-[A-Za-z0-9]+)(?:_|$)"),  # Brain Imaging Data Structure
    re.compile(r"(?<![A-Za-z])patient[ _-]?(?P<group>\d+)", re.IGNORECASE),
)


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Images of a data set with their labels.

    Attributes
    ----------
    paths : list of Path, n
        The files, beginning with the root as it was given (relative stays relative).
    labels : ndarray of shape (n,), int64
        Index into `class_names`.
    class_names : list of str
        Sorted; the same for every part of a data set.
    groups : ndarray of shape (n,), str, or None
        Patient of each image; None where the names do not tell patients.
    splits : ndarray of shape (n,), str, or None
        "train" or "test"; None where the data set is not split.
    """

    paths: list[Path]
    labels: NDArray[np.int64]
    class_names: list[str]
    groups: NDArray[np.str_] | None = None
    splits: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Sequence[int] | NDArray[Any]) -> ImageFolder:
        """Return the images at `indices`, in that order, with the same `class_names`.

        Parameters
        ----------
        indices : sequence of int, or of bool of shape (n,)

        Raises
        ------
        InputError
            If they are neither, or outside.
        """
        index = check_indices(indices, len(self))
        return ImageFolder(
            paths=[self.paths[i] for i in index],
            labels=self.labels[index],
            class_names=list(self.class_names),
            groups=None if self.groups is None else self.groups[index],
            splits=None if self.splits is None else self.splits[index],
        )

    def subset(self, split: str | None) -> ImageFolder:
        """Return the "train" or the "test" images, or all with None.

        Raises
        ------
        InputError
            If `split` is neither, or there are no such images.
        """
        check_split(split)
        if split is None:
            return self
        if self.splits is None:
            raise InputError(
                f"the images are not split into train and test, so there is no split={split!r}: "
                "leave split away or split them"
            )
        chosen = self.splits == split
        if not chosen.any():
            raise InputError(f"the data set holds no {split} images: leave split={split!r} away")
        return self.take(chosen)


# --------------------------------------------------------------------------------------- any folder


def load_image_folder(
    root: Root, *, split: str | None = None, group_pattern: str | re.Pattern[str] | None = None
) -> ImageFolder:
    """List a folder of images with one sub-folder a class.

    Two layouts are understood: ``root/CLASS/...`` and ``root/{train,test,val}/CLASS/...``, with the names
    train, test and val, or training, testing, valid and validation, in any case. The images of ``val`` are
    joined to train, as the paper did for its chest X-rays (Kaggle's copy keeps 16 of the 5,232 training
    images there). Within a class all sub-folders are read, too. Hidden files, ``__MACOSX`` and files that
    are no images by their names (see `medvlad.images.read.is_image_name`) are left out; how many is logged.
    DICOM files without an ending are found by their content. A file of several images is listed as
    ``FILE#0``, ``FILE#1``, ...

    Parameters
    ----------
    root : path
    split : {"train", "test"} or None
        Return this part only; None returns all images.
    group_pattern : str or compiled regular expression, optional
        Searched in the path relative to `root` (with slashes); its group named "group", or else its
        first group, is the patient. Without it these names are known: ``personN_bacteria_M`` and
        ``personN_virus_M`` (different patients), ``IM-N-M`` and ``NORMAL2-IM-N-M`` of the paediatric chest
        X-rays, ``sub-X`` (BIDS) and ``patientN``, ``patient_N``, ``patient-N`` in the names of files and of
        folders below the class; then PatientID in DICOM files, as a digest that names nobody.

    Returns
    -------
    ImageFolder
        `groups` is None if no name matches; if some do, each image that does not is a group of its own,
        named by its relative path. Groups are found before `split` is applied.

    Raises
    ------
    InputError
        If `root` is missing, no folder, unreadable or empty, has a single class, a class without images, a
        test class that train lacks, or no such split; or if `group_pattern` is no regular expression
        with a group.

    Examples
    --------
    >>> data = load_image_folder("chest_xray", split="train")  # doctest: +SKIP
    >>> len(data), data.class_names  # doctest: +SKIP
    (5232, ['NORMAL', 'PNEUMONIA'])
    """
    check_split(split)
    pattern = None if group_pattern is None else _compile_group_pattern(group_pattern)
    root = check_root(root)
    listing = Listing()
    parts = _find_parts(root, listing)
    found: list[ListedImage] = []
    if parts is None:
        found += _list_classes(root, root, None, listing)
    else:
        for part, folder in parts.items():
            found += _list_classes(root, folder, "test" if part == "test" else "train", listing)
        _check_parts(found, parts)
    listing.report(root)
    _check_several_classes(root, found)
    groups = _find_groups(found, pattern)
    return assemble(root, found, groups).subset(split)


@dataclass(frozen=True)
class ListedImage:
    """One image of a data set."""

    split: str | None
    class_name: str
    below_class: tuple[str, ...]
    """Folders and file name below the class."""
    path: Path
    relative: str
    """Path relative to the root, with slashes."""


class Listing:
    """Lists folders and counts what is left out."""

    def __init__(self) -> None:
        self.n_skipped = 0
        self.n_misplaced = 0
        self.n_joined = 0

    def read(self, folder: Path) -> tuple[list[str], list[str]]:
        """Names of the folders and of the images directly in `folder`, sorted.

        Raises
        ------
        InputError
            If it cannot be read.
        """
        folders, images = [], []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    hidden = entry.name.startswith(".") or entry.name in _JUNK_FOLDERS
                    if entry.is_dir():
                        if not hidden:
                            folders.append(entry.name)
                    # A broken link counts as an image, so that it is reported as missing when it is read.
                    elif not hidden and _is_image(folder / entry.name):
                        images.append(entry.name)
                    else:
                        self.n_skipped += 1
        except OSError as error:
            raise InputError(
                f"folder {str(folder)!r} cannot be read ({error.strerror}): check its permissions"
            ) from error
        return sorted(folders), sorted(images)

    def walk(
        self, folder: Path, below: tuple[str, ...] = (), above: tuple[Path, ...] = ()
    ) -> Iterable[tuple[str, ...]]:
        """Yield the path of every image in `folder` and its sub-folders, in parts relative to it."""
        real = folder.resolve()
        if real in above:
            raise InputError(f"folder {str(folder)!r} is a link to a folder that holds it: remove the link")
        folders, images = self.read(folder)
        for name in images:
            yield (*below, name)
        for name in folders:
            yield from self.walk(folder / name, (*below, name), (*above, real))

    def report(self, root: Path) -> None:
        if self.n_joined:
            _log.info("%s: the %d images of val are joined to train, as in the paper", root, self.n_joined)
        if self.n_skipped:
            _log.info("%s: %d files that are no images are left out", root, self.n_skipped)
        if self.n_misplaced:
            _log.warning("%s: %d images outside the class folders are left out", root, self.n_misplaced)


def list_images(root: Root) -> list[str]:
    """Paths of all images in a folder and its sub-folders, whatever these mean, sorted folder by folder.

    Raises
    ------
    InputError
        If the folder is missing, cannot be read, or holds no image.
    """
    folder, listing = check_root(root), Listing()
    files = [folder.joinpath(*parts) for parts in listing.walk(folder)]
    listing.report(folder)
    if not files:
        raise InputError(
            f"there is no image in {str(folder)!r}: give a folder of JPEG, PNG, TIFF, DICOM or NIfTI files"
        )
    return [str(path) for file in files for path in list_frames(file)]


def check_split(split: object) -> None:
    if isinstance(split, str) and split.casefold() in ("val", "valid", "validation"):
        raise InputError(
            f"split={split!r} does not exist, its images are joined to train: choose 'train', 'test' or None"
        )
    if split is not None and split not in SPLITS:
        raise InputError(f"split must be 'train', 'test' or None (all images), got {split!r}")


def check_root(root: object) -> Path:
    if not isinstance(root, str | os.PathLike):
        raise InputError(f"the folder of a data set must be a path, got {type(root).__name__}")
    path = Path(root)
    try:
        if path.is_dir():
            return path
        exists = path.exists()
    except OSError as error:
        raise InputError(
            f"folder {str(path)!r} cannot be read ({error.strerror}): check its permissions"
        ) from error
    if exists:
        raise InputError(f"{str(path)!r} is a file: give the folder that holds the class folders")
    raise InputError(f"folder {str(path)!r} does not exist: check the path")


def _find_parts(root: Path, listing: Listing) -> dict[str, Path] | None:
    """Folders of train, test and val in that order, or None if the classes lie in `root` itself."""
    here = Listing()
    folders, images = here.read(root)
    parts: dict[str, Path] = {}
    others = []
    for name in folders:
        part = _PART_FOLDERS.get(name.casefold())
        if part is None:
            others.append(name)
        elif part in parts:
            raise InputError(f"folder {str(root)!r} holds both {parts[part].name!r} and {name!r}: keep one")
        else:
            parts[part] = root / name
    if not {"train", "test"} & parts.keys():
        return None
    # A single "train" may also be the class of that name, beside "bus": then no folders lie in it.
    if len(parts) == 1 and others and not any(Listing().read(folder)[0] for folder in parts.values()):
        return None
    if others:
        _log.warning("%s: folders beside train and test are left out: %s", root, ", ".join(others))
    listing.n_skipped += here.n_skipped
    listing.n_misplaced += len(images)
    return {part: parts[part] for part in ("train", "val", "test") if part in parts}


def _list_classes(root: Path, folder: Path, split: str | None, listing: Listing) -> list[ListedImage]:
    """List the images of every class folder in `folder`."""
    classes, misplaced = listing.read(folder)
    if not classes:
        why = "images but no class folders" if misplaced else "no class folders"
        raise InputError(f"folder {str(folder)!r} holds {why}: put the images of each class in a sub-folder")
    listing.n_misplaced += len(misplaced)
    found = []
    for class_name in classes:
        images = [
            ListedImage(split, class_name, parts, path, path.relative_to(root).as_posix())
            for parts in listing.walk(folder / class_name)
            for path in list_frames(folder.joinpath(class_name, *parts))
        ]
        if not images:
            raise InputError(
                f"class folder {str(folder / class_name)!r} holds no images: add some or remove the folder"
            )
        found += images
    if _PART_FOLDERS.get(folder.name.casefold()) == "val" and split == "train":
        listing.n_joined += len(found)
    return found


def _check_parts(found: list[ListedImage], parts: Mapping[str, Path]) -> None:
    """Refuse classes that are tested or validated but never trained."""
    if "train" not in parts:
        return
    for part in ("test", "val"):
        if part not in parts:
            continue
        classes = {image.class_name for image in found if parts[part] in image.path.parents}
        trained = {image.class_name for image in found if parts["train"] in image.path.parents}
        unknown = sorted(classes - trained)
        if unknown:
            raise InputError(
                f"class folder {str(parts[part] / unknown[0])!r} has no counterpart in "
                f"{str(parts['train'])!r}: add it there or remove it"
            )


def _check_several_classes(root: Path, found: list[ListedImage]) -> None:
    classes = sorted({image.class_name for image in found})
    if len(classes) == 1:
        nested = any(len(image.below_class) > 1 for image in found)
        hint = f"give {str(root / classes[0])!r} if that is the data set" if nested else "add another"
        raise InputError(
            f"folder {str(root)!r} holds the single class {classes[0]!r}, two are needed: {hint}"
        )


def assemble(root: Path, found: list[ListedImage], groups: Mapping[str, str] | None) -> ImageFolder:
    """Sort by split, class and path. `groups` goes by the relative path."""
    ordered = sorted(found, key=lambda i: (i.split == "test", i.class_name, i.relative))
    class_names = sorted({image.class_name for image in found})
    index = {name: i for i, name in enumerate(class_names)}
    splits = [image.split for image in ordered if image.split is not None]
    _log.info("%s: %d images of %d classes", root, len(ordered), len(class_names))
    return ImageFolder(
        paths=[image.path for image in ordered],
        labels=np.array([index[image.class_name] for image in ordered], dtype=np.int64),
        class_names=class_names,
        groups=None if groups is None else np.array([groups[image.relative] for image in ordered], np.str_),
        splits=np.array(splits, np.str_) if splits else None,
    )


# ---------------------------------------------------------------------------------- patient groups


def _compile_group_pattern(pattern: object) -> re.Pattern[str]:
    if not isinstance(pattern, str | re.Pattern) or isinstance(getattr(pattern, "pattern", ""), bytes):
        raise InputError(f"group_pattern must be a regular expression as a str, got {pattern!r}")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"group_pattern {pattern!r} is not a regular expression ({error}): correct it"
        ) from error
    if compiled.groups == 0:
        raise InputError(
            f"group_pattern {compiled.pattern!r} has no group: put parentheses around the part "
            "that is the patient"
        )
    return compiled


def _find_groups(found: list[ListedImage], pattern: re.Pattern[str] | None) -> dict[str, str] | None:
    """Patient of each relative path, or None if no path names one."""
    patients = {
        image.relative: _known_patient(image.below_class)
        if pattern is None
        else _searched_patient(image.relative, pattern)
        for image in found
    }
    if pattern is not None and not any(patients.values()):
        _log.warning(
            "group_pattern %r matches no image, the first being %r: no patient groups are used",
            pattern.pattern,
            found[0].relative,
        )
    patients = _with_files(found, patients, read_dicom=pattern is None)
    n_unknown = sum(not patient for patient in patients.values())
    if n_unknown == len(patients):
        return None
    if n_unknown:
        _log.info("%d images whose names tell no patient are groups of their own", n_unknown)
    return {relative: patient or relative for relative, patient in patients.items()}


def _with_files(
    found: list[ListedImage], patients: dict[str, str | None], *, read_dicom: bool
) -> dict[str, str | None]:
    """Fill in what DICOM files say, where names say nothing; images of one file are one patient's anyway."""
    in_file: dict[Path, str | None] = {}
    for image in found:
        if patients[image.relative]:
            continue
        file, frame = split_frame(image.path)
        if file not in in_file:
            in_file[file] = patient_of(file) if read_dicom and is_dicom(file) else None
        of_file = None if frame is None else image.relative.rpartition("#")[0]
        patients[image.relative] = in_file[file] or of_file
    return patients


def _is_image(path: Path) -> bool:
    """By its name; files of scanners often have none that tells, so their first bytes are looked at."""
    return is_image_name(path.name) or (not path.suffix.strip(".0123456789") and is_dicom(path))


def _searched_patient(relative: str, pattern: re.Pattern[str]) -> str | None:
    match = pattern.search(relative)
    return match.group("group" if "group" in pattern.groupindex else 1) if match else None


def _known_patient(below_class: tuple[str, ...]) -> str | None:
    stem = Path(below_class[-1]).stem
    for known in _PATIENT_IN_FILE_NAME:
        if match := known.match(stem):
            return match["group"]
    for name in (*below_class[:-1], stem):
        for known in _PATIENT_IN_ANY_NAME:
            if match := known.search(name):
                patient = match["group"]
                return f"patient{patient}" if patient.isdigit() else patient
    return None
