"""Folders of images as data sets: classes, the official split, and who is whose patient.

A loader turns a folder into an `ImageFolder` and reads no pixels::

    root/train/PNEUMONIA/person1_virus_6.jpeg
         |     |         |
         split class     group (one patient; must not be cut by cross-validation)

Images are ordered by split (train, then test), class name and path, so that indices, seeded draws and
results do not depend on the file system. Every loader of `LAYOUTS` is called alike.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medvlad._validate import InputError
from medvlad.images import IMAGE_SUFFIXES

__all__ = [
    "LAYOUTS",
    "ImageFolder",
    "load_chest_xray",
    "load_image_folder",
    "load_kvasir_v2",
    "load_mini_mit",
    "load_mit_indoor",
]

_log = logging.getLogger(__name__)

_Root = str | os.PathLike[str]

CHEST_XRAY_COUNTS = {"train": 5232, "test": 624}
"""Images in the official split of the paediatric chest X-rays, Kaggle's ``val`` counted as train."""

KVASIR_V2_CLASSES = (
    "dyed-lifted-polyps",
    "dyed-resection-margins",
    "esophagitis",
    "normal-cecum",
    "normal-pylorus",
    "normal-z-line",
    "polyps",
    "ulcerative-colitis",
)
KVASIR_V2_IMAGES_A_CLASS = 1000

MINI_MIT_CLASSES = ("bookstore", "inside_bus", "library")
MINI_MIT_IMAGES_A_PART = 40

_SPLITS = ("train", "test")
_PART_FOLDERS = ("train", "test", "val")
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
        """
        chosen = np.asarray(indices)
        if chosen.size == 0 and chosen.dtype != np.bool_:
            chosen = chosen.astype(np.int64)
        index = np.arange(len(self))[chosen]
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
        _check_split(split)
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
    root: _Root, *, split: str | None = None, group_pattern: str | re.Pattern[str] | None = None
) -> ImageFolder:
    """List a folder of images with one sub-folder a class.

    Two layouts are understood: ``root/CLASS/...`` and ``root/{train,test,val}/CLASS/...``, with the names
    train, test and val in any case. The images of ``val`` are joined to train, as the paper did
    for its chest X-rays (Kaggle's copy keeps 16 of the 5,232 training images there). Within a class all
    sub-folders are read, too. Hidden files, ``__MACOSX`` and files that do not end in one of
    `medvlad.images.IMAGE_SUFFIXES` are left out; how many is logged.

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
        folders below the class.

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
    _check_split(split)
    pattern = None if group_pattern is None else _compile_group_pattern(group_pattern)
    root = _check_root(root)
    listing = _Listing()
    parts = _find_parts(root, listing)
    found: list[_Image] = []
    if parts is None:
        found += _list_classes(root, root, None, listing)
    else:
        for part, folder in parts.items():
            found += _list_classes(root, folder, "test" if part == "test" else "train", listing)
        _check_parts(found, parts)
    listing.report(root)
    _check_several_classes(root, found)
    groups = _find_groups(found, pattern)
    return _assemble(root, found, groups).subset(split)


@dataclass(frozen=True)
class _Image:
    """One image of a data set."""

    split: str | None
    class_name: str
    below_class: tuple[str, ...]
    """Folders and file name below the class."""
    path: Path
    relative: str
    """Path relative to the root, with slashes."""


class _Listing:
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
                    elif not hidden and Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
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


def _check_split(split: object) -> None:
    if isinstance(split, str) and split.casefold() in ("val", "valid", "validation"):
        raise InputError(
            f"split={split!r} does not exist, its images are joined to train: choose 'train', 'test' or None"
        )
    if split is not None and split not in _SPLITS:
        raise InputError(f"split must be 'train', 'test' or None (all images), got {split!r}")


def _check_root(root: object) -> Path:
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


def _find_parts(root: Path, listing: _Listing) -> dict[str, Path] | None:
    """Folders of train, test and val in that order, or None if the classes lie in `root` itself."""
    here = _Listing()
    folders, images = here.read(root)
    parts: dict[str, Path] = {}
    others = []
    for name in folders:
        part = name.casefold()
        if part not in _PART_FOLDERS:
            others.append(name)
        elif part in parts:
            raise InputError(f"folder {str(root)!r} holds both {parts[part].name!r} and {name!r}: keep one")
        else:
            parts[part] = root / name
    if not {"train", "test"} & parts.keys():
        return None
    # A single "train" may also be the class of that name, beside "bus": then no folders lie in it.
    if len(parts) == 1 and others and not any(_Listing().read(folder)[0] for folder in parts.values()):
        return None
    if others:
        _log.warning("%s: folders beside train and test are left out: %s", root, ", ".join(others))
    listing.n_skipped += here.n_skipped
    listing.n_misplaced += len(images)
    return {part: parts[part] for part in ("train", "val", "test") if part in parts}


def _list_classes(root: Path, folder: Path, split: str | None, listing: _Listing) -> list[_Image]:
    """List the images of every class folder in `folder`."""
    classes, misplaced = listing.read(folder)
    if not classes:
        why = "images but no class folders" if misplaced else "no class folders"
        raise InputError(f"folder {str(folder)!r} holds {why}: put the images of each class in a sub-folder")
    listing.n_misplaced += len(misplaced)
    found = []
    for class_name in classes:
        images = [
            _Image(split, class_name, parts, path, path.relative_to(root).as_posix())
            for parts in listing.walk(folder / class_name)
            for path in [folder.joinpath(class_name, *parts)]
        ]
        if not images:
            raise InputError(
                f"class folder {str(folder / class_name)!r} holds no images: add some or remove the folder"
            )
        found += images
    if folder.name.casefold() == "val" and split == "train":
        listing.n_joined += len(found)
    return found


def _check_parts(found: list[_Image], parts: Mapping[str, Path]) -> None:
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


def _check_several_classes(root: Path, found: list[_Image]) -> None:
    classes = sorted({image.class_name for image in found})
    if len(classes) == 1:
        nested = any(len(image.below_class) > 1 for image in found)
        hint = f"give {str(root / classes[0])!r} if that is the data set" if nested else "add another"
        raise InputError(
            f"folder {str(root)!r} holds the single class {classes[0]!r}, two are needed: {hint}"
        )


def _assemble(root: Path, found: list[_Image], groups: Mapping[str, str] | None) -> ImageFolder:
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


def _find_groups(found: list[_Image], pattern: re.Pattern[str] | None) -> dict[str, str] | None:
    """Patient of each relative path, or None if no path names one."""
    patients = {
        image.relative: _known_patient(image.below_class)
        if pattern is None
        else _searched_patient(image.relative, pattern)
        for image in found
    }
    n_unknown = sum(not patient for patient in patients.values())
    if n_unknown == len(patients):
        if pattern is not None:
            _log.warning(
                "group_pattern %r matches no image, the first being %r: no patient groups are used",
                pattern.pattern,
                found[0].relative,
            )
        return None
    if n_unknown:
        _log.info("%d images whose names tell no patient are groups of their own", n_unknown)
    return {relative: patient or relative for relative, patient in patients.items()}


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


# -------------------------------------------------------------------------- the paper's data sets


def load_mit_indoor(
    root: _Root, *, split: str | None = None, classes: Sequence[str] | None = None
) -> ImageFolder:
    """List MIT Indoor-67 (Quattoni & Torralba 2009) with its official split.

    Parameters
    ----------
    root : path
        The folder with ``Images/CLASS/*.jpg``, ``TrainImages.txt`` and ``TestImages.txt``. The class folders
        may also lie in `root` itself, and the lists in or beside ``Images``.
    split : {"train", "test"} or None
        Return this part only; None returns all 5,360 + 1,340 listed images. Images in no list are left out.
    classes : sequence of str, optional
        Only these classes; default all that are listed.

    Returns
    -------
    ImageFolder
        Without `groups`.

    Raises
    ------
    InputError
        If a folder, list, listed image or class is missing, or a line of a list is not ``CLASS/FILE``.
    """
    _check_split(split)
    root = _check_root(root)
    listed = _read_mit_lists(root)
    known = {class_name for class_name, _ in (*listed["train"], *listed["test"])}
    if classes is not None:
        if isinstance(classes, str) or len(classes) == 0:
            raise InputError(f"classes must be a list of class names, got {classes!r}")
        unknown = [name for name in classes if name not in known]
        if unknown:
            raise InputError(
                f"classes holds {unknown[0]!r}, which the lists of {str(root)!r} do not: choose from "
                f"{', '.join(sorted(known))}"
            )
        known = set(classes)
    chosen = {
        part: [name for name in names if name[0] in known]
        for part, names in listed.items()
        if split in (None, part)
    }
    return _assemble_mit(root, chosen).subset(split)


def load_mini_mit(root: _Root, *, split: str | None = None, random_state: int = 0) -> ImageFolder:
    """List Mini MIT, the paper's three classes of MIT Indoor-67: bookstore, library and inside bus.

    The paper says 40 images for training and 40 for testing a class, but not which. The official lists
    have 80 + 20 (bookstore, library) and 77 + 23 (inside_bus). Here the 40 test images are the official test
    images, filled up with a seeded draw from the official training images; the 40 training images are a
    seeded draw from the training images that remain. Results depend on that draw: with 120 test
    images, report several seeds.

    Parameters
    ----------
    root : path
        As in `load_mit_indoor`; other classes may be missing.
    split : {"train", "test"} or None
        Return this part only; None returns all 240 images.
    random_state : int, default 0
        Seed of the draw. It must be a number: two calls, one for train and one for test, draw the same.

    Returns
    -------
    ImageFolder
        Without `groups`.

    Raises
    ------
    InputError
        As `load_mit_indoor`, or if the lists have too few images, or `random_state` is not an integer of at
        least 0.
    """
    _check_split(split)
    rng = _seeded(random_state)
    root = _check_root(root)
    listed = _read_mit_lists(root)
    drawn: dict[str, list[_Name]] = {"train": [], "test": []}
    size = MINI_MIT_IMAGES_A_PART
    for class_name in MINI_MIT_CLASSES:
        train, test = (sorted(name for name in listed[part] if name[0] == class_name) for part in _SPLITS)
        n_filled = size - len(test)
        if n_filled < 0 or len(train) < n_filled + size:
            raise InputError(
                f"the lists of {str(root)!r} have {len(train)} train and {len(test)} test images of "
                f"{class_name}, which does not allow {size} + {size}: use the official lists of MIT Indoor-67"
            )
        shuffled = [train[i] for i in rng.permutation(len(train))]
        drawn["test"] += test + shuffled[:n_filled]
        drawn["train"] += shuffled[n_filled : n_filled + size]
    return _assemble_mit(root, drawn).subset(split)


def load_chest_xray(root: _Root, *, split: str | None = None) -> ImageFolder:
    """List the paediatric chest X-rays (Kermany, Zhang & Goldbaum 2018) with their official split.

    Kaggle's copy holds 16 of the training images in a folder ``val``; they are joined to train, which gives
    the paper's 5,232 + 624. Other counts are logged as a warning.

    Parameters
    ----------
    root : path
        The folder with ``train``, ``test`` and perhaps ``val``, each with ``NORMAL`` and ``PNEUMONIA``.
    split : {"train", "test"} or None
        Return this part only; None returns all images.

    Returns
    -------
    ImageFolder
        `groups` are the patients.

    Raises
    ------
    InputError
        As `load_image_folder`, or if the classes are others or train or test is missing.
    """
    _check_split(split)
    data = load_image_folder(root)
    _check_class_names(root, data, ("NORMAL", "PNEUMONIA"), "the chest X-rays have")
    counts = {part: 0 if data.splits is None else int((data.splits == part).sum()) for part in _SPLITS}
    for part, count in counts.items():
        if count == 0:
            raise InputError(
                f"folder {str(root)!r} holds no {part!r} folder: give the folder of the chest X-rays that "
                "holds train and test"
            )
    if counts != CHEST_XRAY_COUNTS:
        _log.warning(
            "%s: %d train and %d test images, but the published set has %d and %d: the results will differ",
            root,
            *counts.values(),
            *CHEST_XRAY_COUNTS.values(),
        )
    return data.subset(split)


def load_kvasir_v2(root: _Root, *, split: str | None = None, random_state: int = 0) -> ImageFolder:
    """List Kvasir v2 (Pogorelov et al. 2017), split 80 to 20 by a seeded draw in each class.

    The set has no official split; the paper has 6,400 + 1,600 images. Of each class a fifth, rounded, is
    test: 200 of the published 1,000. Kvasir does not say which images are of one patient, so near-duplicates
    may stand on both sides of any such split, the paper's included. Other counts than 1,000 a class
    are logged as a warning.

    Parameters
    ----------
    root : path
        The folder with the eight class folders of `KVASIR_V2_CLASSES`.
    split : {"train", "test"} or None
        Return this part only; None returns all images.
    random_state : int, default 0
        Seed of the split. It must be a number: two calls, one for train and one for test, draw the same.

    Returns
    -------
    ImageFolder

    Raises
    ------
    InputError
        As `load_image_folder`, or if the classes are others, a class has fewer than two images, or
        `random_state` is not an integer of at least 0.
    """
    _check_split(split)
    rng = _seeded(random_state)
    data = load_image_folder(root)
    _check_class_names(root, data, KVASIR_V2_CLASSES, "Kvasir v2 has")
    if data.splits is not None:
        raise InputError(
            f"folder {str(root)!r} is split into folders already, Kvasir v2 is not: read it as a plain folder"
        )
    order: dict[str, list[int]] = {"train": [], "test": []}
    for label, class_name in enumerate(data.class_names):
        members = np.flatnonzero(data.labels == label)
        if len(members) < 2:
            raise InputError(
                f"class folder {str(Path(root) / class_name)!r} holds a single image: train and test "
                "need one each"
            )
        if len(members) != KVASIR_V2_IMAGES_A_CLASS:
            _log.warning(
                "%s: %d images of %s, but the published set has %d: the results will differ",
                root,
                len(members),
                class_name,
                KVASIR_V2_IMAGES_A_CLASS,
            )
        shuffled = rng.permutation(members)
        n_test = max(1, round(len(members) / 5))
        order["test"] += sorted(shuffled[:n_test].tolist())
        order["train"] += sorted(shuffled[n_test:].tolist())
    ordered = data.take(order["train"] + order["test"])
    splits = np.repeat(_SPLITS, [len(order[part]) for part in _SPLITS])
    return ImageFolder(ordered.paths, ordered.labels, ordered.class_names, ordered.groups, splits).subset(
        split
    )


def _seeded(random_state: object) -> np.random.Generator:
    if isinstance(random_state, bool) or not isinstance(random_state, int | np.integer) or random_state < 0:
        raise InputError(
            f"random_state must be an integer of at least 0, got {random_state!r}: train and test are drawn "
            "by the same number"
        )
    return np.random.default_rng(int(random_state))


def _check_class_names(root: _Root, data: ImageFolder, expected: Sequence[str], whose: str) -> None:
    if data.class_names != sorted(expected):
        raise InputError(
            f"folder {str(root)!r} holds the classes {', '.join(data.class_names)}, but {whose} "
            f"{', '.join(sorted(expected))}: check the folder, or read it as a plain folder"
        )


_Name = tuple[str, str]
"""Class and file name in a list of MIT Indoor-67."""


def _mit_image_folder(root: Path) -> Path:
    """``root/Images`` in any case, or `root` if there is none."""
    inner = [name for name in _Listing().read(root)[0] if name.casefold() == "images"]
    return root / inner[0] if inner else root


def _read_mit_lists(root: Path) -> dict[str, list[_Name]]:
    """Read both official lists; they may lie in `root`, in ``root/Images`` or beside a given ``Images``."""
    images = _mit_image_folder(root)
    beside = [root.resolve().parent] if root.resolve().name.casefold() == "images" else []
    listed = {}
    for part, file_name in (("train", "TrainImages.txt"), ("test", "TestImages.txt")):
        candidates = [folder / file_name for folder in (root, images, *beside)]
        existing = [path for path in candidates if path.is_file()]
        if not existing:
            raise InputError(
                f"list {str(candidates[0])!r} does not exist: put {file_name} of MIT Indoor-67 there"
            )
        listed[part] = _read_mit_list(existing[0])
    both = sorted(set(listed["train"]) & set(listed["test"]))
    if both:
        raise InputError(
            f"the lists of {str(root)!r} have {'/'.join(both[0])!r} in both train and test: use the official "
            "lists"
        )
    return listed


def _read_mit_list(path: Path) -> list[_Name]:
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise InputError(
            f"list {str(path)!r} cannot be read ({error.strerror}): check its permissions"
        ) from error
    names: dict[_Name, None] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        class_name, slash, file_name = line.strip().partition("/")
        if not slash or not file_name or "/" in file_name or class_name in ("", ".", ".."):
            raise InputError(
                f"list {str(path)!r} has {line.strip()!r} in line {number} where CLASS/FILE belongs: use the "
                "official list"
            )
        names[class_name, file_name] = None
    if not names:
        raise InputError(f"list {str(path)!r} is empty: use the official list of MIT Indoor-67")
    return list(names)


def _assemble_mit(root: Path, chosen: Mapping[str, Iterable[_Name]]) -> ImageFolder:
    images = _mit_image_folder(root)
    found = [
        _Image(part, name[0], name[1:], images.joinpath(*name), "/".join(name))
        for part, names in chosen.items()
        for name in names
    ]
    missing = [image.path for image in found if not image.path.is_file()]
    if missing:
        raise InputError(
            f"listed image {str(missing[0])!r} does not exist ({len(missing)} of {len(found)} listed images "
            f"are missing): unpack MIT Indoor-67 into {str(images)!r} again"
        )
    return _assemble(root, found, None)


# --------------------------------------------------------------------- layouts of the command line


class Layout(Protocol):
    """A loader as the command line calls it."""

    def __call__(self, root: _Root, *, split: str | None = None, random_state: int = 0) -> ImageFolder:
        """List the data set in `root`."""
        ...


def _without_seed(loader: Callable[..., ImageFolder]) -> Layout:
    """Give a loader that draws nothing the argument `random_state`, unused."""

    def load(root: _Root, *, split: str | None = None, random_state: int = 0) -> ImageFolder:
        del random_state
        return loader(root, split=split)

    return load


LAYOUTS: dict[str, Layout] = {
    "folder": _without_seed(load_image_folder),
    "mit-indoor": _without_seed(load_mit_indoor),
    "mini-mit": load_mini_mit,
    "chest-xray": _without_seed(load_chest_xray),
    "kvasir-v2": load_kvasir_v2,
}
"""The loaders by the names the command line gives them, with one way to call them."""
