"""List the images below a folder, and count the files that are left out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medvlad._util.validate import InputError
from medvlad.images.dicom import holds_an_image, is_dicom
from medvlad.images.formats import is_image_name

__all__ = ["ListedImage", "Listing", "Root", "check_root"]

_log = logging.getLogger(__name__)

Root = str | os.PathLike[str]

_JUNK_FOLDERS = frozenset({"__MACOSX", "@eaDir"})  # of macOS archives, and thumbnails of Synology servers


@dataclass(frozen=True)
class ListedImage:
    """One image of a data set.

    Attributes
    ----------
    split : str or None
        "train" or "test". None: the data set is not split.
    class_name : str
    below_class : tuple of str
        Folders below the class folder, then the name of the file or of the image in it.
    path : Path
    relative : str
        Path relative to the root of the data set, with slashes.
    """

    split: str | None
    class_name: str
    below_class: tuple[str, ...]
    path: Path
    relative: str


class Listing:
    """Lists folders and counts the files that are left out."""

    def __init__(self) -> None:
        self.n_skipped = 0
        self.n_without_image = 0
        self.n_misplaced = 0
        self.n_joined = 0

    def read(self, folder: Path) -> tuple[list[str], list[str]]:
        """Return the names of the folders and of the images directly in `folder`, both sorted.

        Raises
        ------
        InputError
            If the folder cannot be read.
        """
        folders, images = [], []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    hidden = entry.name.startswith(".") or entry.name in _JUNK_FOLDERS
                    if entry.is_dir():
                        if not hidden:
                            folders.append(entry.name)
                    # A broken link counts as an image, so that reading it reports the missing file.
                    elif not hidden and _is_image(folder / entry.name):
                        if holds_an_image(folder / entry.name):
                            images.append(entry.name)
                        else:
                            self.n_without_image += 1
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
        """Yield the path of every image in `folder` and its sub-folders, relative to it and in parts.

        Parameters
        ----------
        folder : Path
        below, above : tuple
            Used by the recursion: the path so far in parts, and the resolved folders on it.

        Raises
        ------
        InputError
            If a folder cannot be read, or links to a folder above it.
        """
        real = folder.resolve()
        if real in above:
            raise InputError(
                f"folder {str(folder)!r} is a link to a folder that contains it: remove the link"
            )
        folders, images = self.read(folder)
        for name in images:
            yield (*below, name)
        for name in folders:
            yield from self.walk(folder / name, (*below, name), (*above, real))

    def report(self, root: Path) -> None:
        """Log the numbers of files that were left out or joined to train."""
        if self.n_joined:
            _log.info("%s: the %d images of val are joined to train, as in the paper", root, self.n_joined)
        if self.n_skipped:
            _log.info("%s: %d files that are not images are left out", root, self.n_skipped)
        if self.n_without_image:
            _log.warning(
                "%s: %d DICOM files without an image (directories, reports, PDF) are left out",
                root,
                self.n_without_image,
            )
        if self.n_misplaced:
            _log.warning("%s: %d images outside the class folders are left out", root, self.n_misplaced)


def _is_image(path: Path) -> bool:
    """Return whether a file is an image by its name, or DICOM without a meaningful file name ending."""
    return is_image_name(path.name) or (not path.suffix.strip(".0123456789") and is_dicom(path))


def check_root(root: object) -> Path:
    """Return the folder of a data set as a path.

    Raises
    ------
    InputError
        If it is not a path, does not exist, cannot be read or is a file.
    """
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
