"""Read a folder of images as a data set: classes, the official split, and patients.

A loader turns a folder into an `ImageFolder`, without reading pixels::

    root/train/PNEUMONIA/person1_virus_6.jpeg
         |     |         |
         split class     group (one patient; cross-validation does not divide it)

Images are ordered by split (train, then test), class name and path, whatever the file system.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.object_path import ObjectPath, plain
from medvlad._util.validate import InputError, check_indices, check_one_each
from medvlad.datasets.feature_files import is_feature_folder
from medvlad.datasets.listing import ListedImage, Listing, Root, check_root, class_name_of, counts_in_words
from medvlad.datasets.patients import Patients, compile_group_pattern, find_groups
from medvlad.datasets.unknown_patients import check_unknown_patients, treat_unknown

__all__ = ["ImageFolder", "load_image_folder"]

_log = logging.getLogger(__name__)

SPLITS = ("train", "test")
_BY_IMAGE = ("labels", "groups", "splits", "patient_sources", "kinds", "targets", "sites", "files", "folds")
#: Names of the folders of parts, in lower case.
_PART_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
}


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Images of a data set with their labels.

    Attributes
    ----------
    paths : list of Path, n
        The images. Each path begins with the root as it was given, so relative paths stay relative.
    labels : ndarray of shape (n,), int64
        Index into `class_names`.
    class_names : list of str
        Sorted. Every part of a data set has the same.
    groups : ndarray of shape (n,), str, or None
        Patient of each image. None: the patients are not known.
    splits : ndarray of shape (n,), str, or None
        "train" or "test". None: the data set is not split.
    patient_sources : ndarray of shape (n,), str, or None
        "pattern", "file name", "table", "PatientID", "StudyInstanceUID", or "". None: not recorded.
    kinds : ndarray of shape (n,), str, or None
        Kind of each file: "DICOM", "NIfTI" or an ending such as ".png". None: not recorded.
    left_out : mapping of str to mapping of str to int
        Number of files in formats that are not read, by class and ending. They are not in `paths`.
    task : {"classes", "labels", "regression"}
        What is to be predicted: one class an image, any number of labels, or numbers. The last two are in
        `targets`. Then `class_names` are the names of its columns, and `labels` are zeros.
    targets : ndarray of shape (n, n_targets), float64, or None
        0 or 1 for each label, or numbers. NaN: not known. None for "classes".
    sites : ndarray of shape (n,), str, or None
        Site of each image, such as a hospital. None: the sites are not known.
    covariates : mapping of str to ndarray of shape (n,), str
        Other facts about each image, such as sex or device, by name. "" if not known.
    files : list of tuple of Path, n, or None
        Feature files of each bag. `paths` are the first ones. None: each path is the only file.
    folds : ndarray of shape (n,), str, or None
        Fold of each image, for cross-validation that tests one fold at a time. None: folds are drawn.
    """

    paths: list[Path]
    labels: NDArray[np.int64]
    class_names: list[str]
    groups: NDArray[np.str_] | None = None
    splits: NDArray[np.str_] | None = None
    patient_sources: NDArray[np.str_] | None = None
    kinds: NDArray[np.str_] | None = None
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    task: str = "classes"
    targets: NDArray[np.float64] | None = None
    sites: NDArray[np.str_] | None = None
    covariates: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    files: list[tuple[Path, ...]] | None = None
    folds: NDArray[np.str_] | None = None

    def __post_init__(self) -> None:
        for name in _BY_IMAGE:
            check_one_each(getattr(self, name), name, len(self))
        for name, values in self.covariates.items():
            check_one_each(values, f"the covariate {name!r}", len(self))

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def y(self) -> NDArray[Any]:
        """What is to be predicted: the class name of each image, or `targets` for the other tasks."""
        return np.array(self.class_names)[self.labels] if self.targets is None else self.targets

    def files_of(self, i: int) -> tuple[Path, ...]:
        """Return the files of row `i`: all files of a bag, or the only one."""
        return (self.paths[i],) if self.files is None else self.files[i]

    def groups_of(self, rows: NDArray[Any]) -> NDArray[np.str_] | None:
        """Return the patient of each image at `rows` (positions or a mask). None: not known."""
        return None if self.groups is None else self.groups[rows]

    def take(self, indices: Sequence[int] | NDArray[Any]) -> ImageFolder:
        """Return the images at `indices`, in that order, with the same `class_names`.

        Parameters
        ----------
        indices : sequence of int, or of bool of shape (n,)
            Positions of the images, or a mask.

        Raises
        ------
        InputError
            If `indices` is neither, or a position does not exist.
        """
        index = check_indices(indices, len(self))

        def taken(values: NDArray[np.str_] | None) -> NDArray[np.str_] | None:
            return None if values is None else values[index]

        return replace(
            self,
            paths=[self.paths[i] for i in index],
            labels=self.labels[index],
            class_names=list(self.class_names),
            groups=taken(self.groups),
            splits=taken(self.splits),
            patient_sources=taken(self.patient_sources),
            kinds=taken(self.kinds),
            targets=None if self.targets is None else self.targets[index],
            sites=taken(self.sites),
            covariates={name: values[index] for name, values in self.covariates.items()},
            files=None if self.files is None else [self.files[i] for i in index],
            folds=taken(self.folds),
        )

    def subset(self, split: str | None) -> ImageFolder:
        """Return the images of one part.

        Parameters
        ----------
        split : {"train", "test"} or None
            None: all images.

        Raises
        ------
        InputError
            If `split` is another value, or there are no such images.
        """
        check_split(split)
        if split is None:
            return self
        if self.splits is None:
            raise InputError(
                f"split={split!r} needs images that are split into train and test, and these are not split: "
                "omit split, or put them into folders train and test"
            )
        chosen = self.splits == split
        if not chosen.any():
            raise InputError(f"the data set holds no {split} images: omit split={split!r}")
        return self.take(chosen)


def load_image_folder(
    root: Root,
    *,
    split: str | None = None,
    group_pattern: str | re.Pattern[str] | None = None,
    unknown_patients: str = "own",
) -> ImageFolder:
    """List a folder of images that has one sub-folder for each class.

    Two layouts are read: ``root/CLASS/...`` and ``root/{train,test,val}/CLASS/...``. The parts may also be
    named training, testing, valid and validation, in any case. The images of ``val`` are joined to train, as
    the paper did for its chest X-rays: Kaggle's copy keeps 16 of the 5,232 training images there.

    All sub-folders of a class are read. Hidden files, ``__MACOSX`` and files that are not images are left
    out, and their number is logged. Files are images by their ending; DICOM by its content, whatever its
    ending; other pictures without an ending too. Images of formats that are not read (such as .heic or .svs)
    are left out with a warning, and are counted in `left_out`. A file of several images is listed as
    ``FILE#0``, ``FILE#1``, ... If there is no image at all, feature files (.h5 and others, see
    :mod:`medvlad.bags`) are listed instead.

    Class folders whose names differ only in how Unicode spells an accent are one class.

    Parameters
    ----------
    root : path or URL
        Folder of the data set. It may lie in object storage, such as ``s3://bucket/chest_xray``.
    split : {"train", "test"} or None
        Return only this part. None: all images.
    group_pattern : str or compiled regular expression, optional
        Searched in the path relative to `root`, with slashes. Its group named "group", or else its first
        group, is the patient. None: the patient comes from DICOM headers, as a digest of PatientID, and from
        known names. Known are the file names ``personN_bacteria_M`` and ``personN_virus_M`` (different
        patients), ``IM-N-M`` and ``NORMAL2-IM-N-M`` of the paediatric chest X-rays. Known in file names and
        in folders below the class are ``sub-X`` (BIDS), ``patientN``, ``patient_N`` and ``patient-N``.
        :mod:`medvlad.datasets.dicom_patients` tells which headers and names are one patient.
    unknown_patients : {"own", "refuse", "drop"}, default="own"
        What to do with an image whose patient is not known. own: each file counts as a patient of its own; if
        other patients are known, a warning tells the numbers. refuse: raise InputError. drop: leave it out,
        with a warning.

    Returns
    -------
    ImageFolder
        `groups` is None if no patient is known and no file has several images. Otherwise a file without a
        known patient is a group of its own, named by its relative path. Groups do not depend on `split`.

    Raises
    ------
    InputError
        If `root` is missing, not a folder, unreadable or empty. If it has a single class, a class without
        images, a test class without training images, or no images of `split`. If `group_pattern` is not a
        regular expression with a group. If a patient is not known and `unknown_patients` is "refuse", or is
        "drop" and no image of a class would be left.
    MissingExtraError
        If a file is DICOM or NIfTI and the extra medical is not installed.

    Examples
    --------
    >>> data = load_image_folder("chest_xray", split="train")  # doctest: +SKIP
    >>> len(data), data.class_names  # doctest: +SKIP
    (5232, ['NORMAL', 'PNEUMONIA'])
    """
    check_split(split)
    check_unknown_patients(unknown_patients)
    pattern = None if group_pattern is None else compile_group_pattern(group_pattern)
    root = check_root(root)
    listing = Listing(of_features=is_feature_folder(root))
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
    found, patients = treat_unknown(found, find_groups(found, pattern), unknown_patients)
    return assemble(root, found, patients, listing.unread).subset(split)


def list_images(root: Root) -> list[str | ObjectPath]:
    """List all images in a folder and its sub-folders, sorted folder by folder. Classes play no part.

    Images in object storage are paths, and others are texts.

    Raises
    ------
    InputError
        If the folder is missing, cannot be read or holds no image.
    MissingExtraError
        If a file is DICOM or NIfTI and the extra medical is not installed.
    """
    folder = check_root(root)
    listing = Listing(of_features=is_feature_folder(folder))
    found = [plain(image.path) for image in listing.walk(folder)]
    listing.report(folder)
    if not found:
        raise InputError(
            f"there is no image in {str(folder)!r}: give a folder of JPEG, PNG, TIFF, DICOM or NIfTI files"
        )
    return found


def check_split(split: object) -> None:
    """Refuse a `split` that is not "train", "test" or None.

    Raises
    ------
    InputError
    """
    if isinstance(split, str) and split.casefold() in ("val", "valid", "validation"):
        raise InputError(
            f"split={split!r} does not exist, because its images are joined to train: choose 'train', 'test' "
            "or None"
        )
    if split is not None and split not in SPLITS:
        raise InputError(f"split must be 'train', 'test' or None (all images), got {split!r}")


def _find_parts(root: Path, listing: Listing) -> dict[str, Path] | None:
    """Return the folders of train, val and test. None: the classes lie in `root` itself."""
    here = listing.like()
    folders, files = here.read(root)
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
        if parts and others:
            _log.warning(
                "%s: the folder %s is taken for a class, because there is no train and no test beside it: "
                "move it, "
                "or rename the other folders",
                root,
                parts["val"].name,
            )
        return None
    # A single folder "train" without sub-folders, beside "bus", is the class of that name.
    if len(parts) == 1 and others and not any(Listing().read(folder)[0] for folder in parts.values()):
        return None
    if others:
        _log.warning("%s: folders beside train and test are left out: %s", root, ", ".join(others))
    if "val" in parts and "test" not in parts:
        _log.warning(
            "%s: there is a folder %s but no test, and its images are joined to train: rename it to test if "
            "it is "
            "the part to test on",
            root,
            parts["val"].name,
        )
    listing.n_skipped += here.n_skipped
    listing.misplaced(root, files)
    return {part: parts[part] for part in ("train", "val", "test") if part in parts}


def _list_classes(root: Path, folder: Path, split: str | None, listing: Listing) -> list[ListedImage]:
    """List the images of every class folder in `folder`."""
    names, files = listing.read(folder)
    n_misplaced = listing.misplaced(folder, files)
    if not names:
        if n_misplaced and listing.of_features:
            raise InputError(
                f"folder {str(folder)!r} holds feature files and no class folders: name their classes in a "
                f"table and read it with image_root={str(root)!r} (in Python by load_manifest), or put the "
                "feature files of each class in a sub-folder"
            )
        why = "images but no class folders" if n_misplaced else "no class folders"
        raise InputError(f"folder {str(folder)!r} holds {why}: put the images of each class in a sub-folder")
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        spellings[class_name_of(name)].append(name)
    found = []
    for class_name, folders in spellings.items():
        unread = listing.like()
        images = [
            ListedImage(
                split,
                class_name,
                image.parts,
                image.path,
                image.path.relative_to(root).as_posix(),
                image.kind,
                image.identity,
            )
            for name in folders
            for image in unread.walk(folder / name, class_name)
        ]
        if not images:
            left_out = counts_in_words({"": unread.unread[class_name]}) if unread.unread else ""
            why = f"no images that can be read ({left_out} are left out)" if left_out else "no images"
            what = "convert them to PNG, TIFF or DICOM" if left_out else "add some or remove the folder"
            raise InputError(f"class folder {str(folder / folders[0])!r} holds {why}: {what}")
        listing.add(unread)
        found += images
    if _PART_FOLDERS.get(folder.name.casefold()) == "val" and split == "train":
        listing.n_joined += len(found)
    return found


def _check_parts(found: list[ListedImage], parts: Mapping[str, Path]) -> None:
    """Refuse a class of test or val that train does not have."""
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
            f"folder {str(root)!r} holds the single class {classes[0]!r}, and at least two are needed: {hint}"
        )


def assemble(
    root: Path,
    found: list[ListedImage],
    patients: Patients | None,
    left_out: Mapping[str, Mapping[str, int]] | None = None,
) -> ImageFolder:
    """Make an `ImageFolder` of listed images, sorted by split, class and path.

    Parameters
    ----------
    root : Path
        Folder of the data set, for the log.
    found : list of ListedImage
    patients : Patients or None
        None: the patients are not known.
    left_out : mapping or None
        Files that are not read, by class and ending. None: there are none.
    """
    ordered = sorted(found, key=lambda i: (i.split == "test", i.class_name, i.relative))
    class_names = sorted({image.class_name for image in found})
    index = {name: i for i, name in enumerate(class_names)}
    splits = [image.split for image in ordered if image.split is not None]
    _log.info("%s: %d images of %d classes", root, len(ordered), len(class_names))

    def texts(of: Mapping[str, str]) -> NDArray[np.str_]:
        return np.array([of[image.relative] for image in ordered], np.str_)

    return ImageFolder(
        paths=[image.path for image in ordered],
        labels=np.array([index[image.class_name] for image in ordered], dtype=np.int64),
        class_names=class_names,
        groups=None if patients is None else texts(patients.groups),
        splits=np.array(splits, np.str_) if splits else None,
        patient_sources=None if patients is None else texts(patients.sources),
        kinds=np.array([image.kind for image in ordered], np.str_),
        left_out={name: dict(by_ending) for name, by_ending in sorted((left_out or {}).items())},
    )
