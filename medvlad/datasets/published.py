"""Load the data sets of the paper in their published layouts, and name all layouts.

Each loader returns a :class:`medvlad.datasets.folders.ImageFolder`. Its description says what the paper left
open about the split.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medvlad._util.validate import InputError
from medvlad.datasets.folders import SPLITS, ImageFolder, assemble, check_split, load_image_folder
from medvlad.datasets.listing import ListedImage, Listing, Root, check_root
from medvlad.datasets.unknown_patients import check_unknown_patients

__all__ = ["LAYOUTS", "load_chest_xray", "load_kvasir_v2", "load_mini_mit", "load_mit_indoor"]

_log = logging.getLogger(__name__)

CHEST_XRAY_COUNTS = {"train": 5232, "test": 624}
"""Number of images in the official split of the paediatric chest X-rays. Kaggle's ``val`` counts as train."""

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


def load_mit_indoor(
    root: Root, *, split: str | None = None, classes: Sequence[str] | None = None
) -> ImageFolder:
    """List MIT Indoor-67 (Quattoni & Torralba 2009) with its official split.

    Parameters
    ----------
    root : path
        Folder with ``Images/CLASS/*.jpg``, ``TrainImages.txt`` and ``TestImages.txt``. The class folders
        may also lie in `root` itself, and the lists in or beside ``Images``.
    split : {"train", "test"} or None
        Return only this part. None: all 5,360 + 1,340 listed images. Images in no list are left out.
    classes : sequence of str, optional
        Return only these classes. None: all listed classes.

    Returns
    -------
    ImageFolder
        Its `groups` is None.

    Raises
    ------
    InputError
        If a folder, list, listed image or class is missing, or a line of a list is not ``CLASS/FILE``.
    """
    check_split(split)
    root = check_root(root)
    listed = _read_mit_lists(root)
    known = {class_name for class_name, _ in (*listed["train"], *listed["test"])}
    if classes is not None:
        if isinstance(classes, str) or len(classes) == 0:
            raise InputError(f"classes must be a list of class names, got {classes!r}")
        unknown = [name for name in classes if name not in known]
        if unknown:
            raise InputError(
                f"classes holds {unknown[0]!r}, which is not in the lists of {str(root)!r}: choose from "
                f"{', '.join(sorted(known))}"
            )
        known = set(classes)
    chosen = {
        part: [name for name in names if name[0] in known]
        for part, names in listed.items()
        if split in (None, part)
    }
    return _assemble_mit(root, chosen).subset(split)


def load_mini_mit(root: Root, *, split: str | None = None, random_state: int = 0) -> ImageFolder:
    """List Mini MIT, the paper's three classes of MIT Indoor-67: bookstore, library and inside bus.

    The paper uses 40 training and 40 test images of each class, but does not say which. The official lists
    have 80 + 20 (bookstore, library) and 77 + 23 (inside_bus). Here the official test images are test images,
    and a seeded draw from the official training images fills them up to 40. A second draw, from the remaining
    images, gives the 40 training images. Results depend on the draw, so report several seeds.

    Parameters
    ----------
    root : path
        Folder as in `load_mit_indoor`. Other classes may be missing.
    split : {"train", "test"} or None
        Return only this part. None: all 240 images.
    random_state : int, default 0
        Seed of the draw. It must be a number, so that one call for train and one for test draw the same.

    Returns
    -------
    ImageFolder
        Its `groups` is None.

    Raises
    ------
    InputError
        If `load_mit_indoor` would raise one, if the lists have too few images, or if `random_state` is not an
        integer of at least 0.
    """
    check_split(split)
    rng = _seeded(random_state)
    root = check_root(root)
    listed = _read_mit_lists(root)
    drawn: dict[str, list[_Name]] = {"train": [], "test": []}
    size = MINI_MIT_IMAGES_A_PART
    for class_name in MINI_MIT_CLASSES:
        train, test = (sorted(name for name in listed[part] if name[0] == class_name) for part in SPLITS)
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


def load_chest_xray(root: Root, *, split: str | None = None, unknown_patients: str = "own") -> ImageFolder:
    """List the paediatric chest X-rays (Kermany, Zhang & Goldbaum 2018) with their official split.

    Kaggle's copy keeps 16 of the training images in a folder ``val``. They are joined to train, which gives
    the paper's 5,232 + 624 images. Other numbers are logged as a warning.

    Parameters
    ----------
    root : path
        Folder with ``train``, ``test`` and optionally ``val``, each with ``NORMAL`` and ``PNEUMONIA``.
    split : {"train", "test"} or None
        Return only this part. None: all images.
    unknown_patients : {"own", "refuse", "drop"}, default="own"
        As in `load_image_folder`.

    Returns
    -------
    ImageFolder
        `groups` are the patients.

    Raises
    ------
    InputError
        If `load_image_folder` would raise one, if the classes differ, or if train or test is missing.
    """
    check_split(split)
    data = load_image_folder(root, unknown_patients=unknown_patients)
    _check_class_names(root, data, ("NORMAL", "PNEUMONIA"), "the chest X-rays have")
    counts = {part: 0 if data.splits is None else int((data.splits == part).sum()) for part in SPLITS}
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


def load_kvasir_v2(
    root: Root, *, split: str | None = None, random_state: int = 0, unknown_patients: str = "own"
) -> ImageFolder:
    """List Kvasir v2 (Pogorelov et al. 2017), split 80 to 20 by a seeded draw in each class.

    The set has no official split. The paper has 6,400 + 1,600 images. A fifth of each class, rounded, becomes
    test: 200 of the published 1,000 images. Any other number of images in a class is logged as a warning.

    Kvasir does not say which images show the same patient. Any such split, also the paper's, may therefore
    have near-duplicates in both train and test.

    Parameters
    ----------
    root : path
        Folder with the eight class folders of `KVASIR_V2_CLASSES`.
    split : {"train", "test"} or None
        Return only this part. None: all images.
    random_state : int, default 0
        Seed of the split. It must be a number, so that one call for train and one for test draw the same.
    unknown_patients : {"own", "refuse", "drop"}, default="own"
        As in `load_image_folder`.

    Returns
    -------
    ImageFolder

    Raises
    ------
    InputError
        If `load_image_folder` would raise one, if the classes differ, if the folder is split already, if a
        class has fewer than two images, or if `random_state` is not an integer of at least 0.
    """
    check_split(split)
    rng = _seeded(random_state)
    data = load_image_folder(root, unknown_patients=unknown_patients)
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
    splits = np.repeat(SPLITS, [len(order[part]) for part in SPLITS])
    return replace(ordered, splits=splits).subset(split)


def _seeded(random_state: object) -> np.random.Generator:
    if isinstance(random_state, bool) or not isinstance(random_state, int | np.integer) or random_state < 0:
        raise InputError(
            f"random_state must be an integer of at least 0, got {random_state!r}: train and test need the "
            "same seed"
        )
    return np.random.default_rng(int(random_state))


def _check_class_names(root: Root, data: ImageFolder, expected: Sequence[str], whose: str) -> None:
    if data.class_names != sorted(expected):
        raise InputError(
            f"folder {str(root)!r} holds the classes {', '.join(data.class_names)}, but {whose} "
            f"{', '.join(sorted(expected))}: check the folder, or read it as a plain folder"
        )


_Name = tuple[str, str]
"""Class and file name in a list of MIT Indoor-67."""


def _mit_image_folder(root: Path) -> Path:
    """Return ``root/Images``, its name in any case, or `root` if there is no such folder."""
    inner = [name for name in Listing().read(root)[0] if name.casefold() == "images"]
    return root / inner[0] if inner else root


def _read_mit_lists(root: Path) -> dict[str, list[_Name]]:
    """Read both official lists from `root`, from ``root/Images`` or from beside a given ``Images``."""
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
                f"list {str(path)!r} has {line.strip()!r} in line {number}, but CLASS/FILE is expected: use "
                "the official list"
            )
        names[class_name, file_name] = None
    if not names:
        raise InputError(f"list {str(path)!r} is empty: use the official list of MIT Indoor-67")
    return list(names)


def _assemble_mit(root: Path, chosen: Mapping[str, Iterable[_Name]]) -> ImageFolder:
    images = _mit_image_folder(root)
    found = [
        ListedImage(part, name[0], name[1:], images.joinpath(*name), "/".join(name))
        for part, names in chosen.items()
        for name in names
    ]
    missing = [image.path for image in found if not image.path.is_file()]
    if missing:
        raise InputError(
            f"listed image {str(missing[0])!r} does not exist ({len(missing)} of {len(found)} listed images "
            f"are missing): unpack MIT Indoor-67 into {str(images)!r} again"
        )
    return assemble(root, found, None)


class Layout(Protocol):
    """Signature that all loaders in `LAYOUTS` share."""

    def __call__(
        self,
        root: Root,
        *,
        split: str | None = None,
        random_state: int = 0,
        unknown_patients: str = "own",
    ) -> ImageFolder:
        """List the data set in `root`."""
        ...


def _without_seed(loader: Callable[..., ImageFolder]) -> Layout:
    """Add the unused argument `random_state` to a loader that draws nothing."""

    def load(
        root: Root, *, split: str | None = None, random_state: int = 0, unknown_patients: str = "own"
    ) -> ImageFolder:
        del random_state
        return loader(root, split=split, unknown_patients=unknown_patients)

    return load


def _without_patients(loader: Callable[..., ImageFolder]) -> Callable[..., ImageFolder]:
    """Add the argument `unknown_patients` to the loader of a data set that knows no patients."""

    def load(*args: Any, unknown_patients: str = "own", **settings: Any) -> ImageFolder:
        if check_unknown_patients(unknown_patients) != "own":
            raise InputError(
                f"this layout knows no patients, so unknown_patients={unknown_patients!r} would leave no "
                "image: use "
                "unknown_patients='own'"
            )
        return loader(*args, **settings)

    return load


LAYOUTS: dict[str, Layout] = {
    "folder": _without_seed(load_image_folder),
    "mit-indoor": _without_seed(_without_patients(load_mit_indoor)),
    "mini-mit": _without_patients(load_mini_mit),
    "chest-xray": _without_seed(load_chest_xray),
    "kvasir-v2": load_kvasir_v2,
}
"""Loaders by the names that the command line uses, all with the same signature."""
