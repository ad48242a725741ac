"""List the images below a folder, and count the files that are left out."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from medvlad._util.object_path import ObjectPath, location
from medvlad._util.os_files import entry_is_folder
from medvlad._util.read_ahead import read_ahead
from medvlad._util.validate import InputError
from medvlad.datasets.feature_files import feature_ending
from medvlad.images.dicom_identity import DicomIdentity
from medvlad.images.inspect_file import WITHOUT_IMAGE, InspectedFile, inspect_file

__all__ = [
    "FoundImage",
    "ListedImage",
    "Listing",
    "NamesNobody",
    "Root",
    "check_root",
    "class_name_of",
    "counts_in_words",
]

_log = logging.getLogger(__name__)

Root = str | os.PathLike[str]

_JUNK_FOLDERS = frozenset({"__MACOSX", "@eaDir"})  # of macOS archives, and thumbnails of Synology servers
_NO_CLASS = ""
_OPENED_AT_ONCE = 16  # objects


@dataclass(frozen=True)
class FoundImage:
    """One image below a folder.

    Attributes
    ----------
    parts : tuple of str
        Path of its file relative to the folder.
    path : Path
        The image: its file, or ``FILE#N``.
    kind : str
        "DICOM", "NIfTI", an ending such as ".png", or "no ending".
    identity : DicomIdentity or None
        Digests of the patient of a DICOM file.
    """

    parts: tuple[str, ...]
    path: Path
    kind: str
    identity: DicomIdentity | None


@dataclass(frozen=True)
class ListedImage:
    """One image of a data set.

    Attributes
    ----------
    split : str or None
        "train" or "test". None: the data set is not split.
    class_name : str
    below_class : tuple of str
        Folders below the class folder, then the name of the file.
    path : Path
    relative : str
        Path relative to the root of the data set, with slashes.
    kind : str
        Kind of file, see `FoundImage`. Empty: unknown.
    identity : DicomIdentity or None
        Digests of the patient of a DICOM file.
    """

    split: str | None
    class_name: str
    below_class: tuple[str, ...]
    path: Path
    relative: str
    kind: str = ""
    identity: DicomIdentity | None = None


class NamesNobody(str):
    """Text of a message that names neither a file nor a patient, so that anonymised results may keep it."""

    __slots__ = ()


class Listing:
    """Lists folders and counts the files that are left out.

    Parameters
    ----------
    of_features : bool, default=False
        List feature files instead of images.

    Attributes
    ----------
    of_features : bool
    unread : dict of str to Counter
        Number of images that cannot be read: by class, then by ending.
    """

    def __init__(self, *, of_features: bool = False) -> None:
        self.of_features = of_features
        self.n_features = 0
        self.n_skipped = 0
        self.n_without_image = 0
        self.n_misplaced = 0
        self.n_joined = 0
        self.unread: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._sizes: dict[Path, dict[str, int]] = {}  # of the files of each listed folder in object storage

    def like(self) -> Listing:
        """Return a new listing of the same kind of files."""
        return Listing(of_features=self.of_features)

    def read(self, folder: Path) -> tuple[list[str], list[str]]:
        """Return the names of the folders and of the files directly in `folder`, both sorted.

        Hidden files are counted, and hidden folders are left out.

        Raises
        ------
        InputError
            If the folder cannot be read.
        """
        folders, files = [], []
        try:
            for name, is_folder in self._entries(folder):
                hidden = name.startswith(".") or name in _JUNK_FOLDERS
                if is_folder:
                    if not hidden:
                        folders.append(name)
                elif not hidden:
                    files.append(name)
                else:
                    self.n_skipped += 1
        except OSError as error:
            raise InputError(
                f"folder {str(folder)!r} cannot be read ({error.strerror}): check its permissions"
            ) from error
        return sorted(folders), sorted(files)

    def inspect(self, path: Path, class_name: str = _NO_CLASS) -> InspectedFile:
        """Inspect a file, and count it if it is left out."""
        return self._counted(self._inspected(path), path, class_name)

    def _counted(self, found: InspectedFile, path: Path, class_name: str) -> InspectedFile:
        if found.kind == WITHOUT_IMAGE:
            self.n_without_image += 1
        elif not found.kind and feature_ending(path) is not None:
            self.n_features += 1
        elif found.kind and not found.images:
            self.unread[class_name][found.kind] += 1
        elif not found.images:
            self.n_skipped += 1
        return found

    def _entries(self, folder: Path) -> Iterator[tuple[str, bool]]:
        """Yield the name of each file and folder in a folder, and whether it is a folder. Raise OSError."""
        if isinstance(folder, ObjectPath):
            found = folder.children()
            self._sizes[folder] = {one.name: one.size for one in found if one.size >= 0}
            yield from ((one.name, one.is_folder) for one in found)
            return
        with os.scandir(folder) as entries:
            yield from ((entry.name, entry_is_folder(entry)) for entry in entries)

    def _inspected(self, path: Path) -> InspectedFile:
        if not self.of_features:
            return inspect_file(path)
        ending = feature_ending(path)
        return InspectedFile([], "") if ending is None else InspectedFile([path], ending)

    def _all_inspected(self, folder: Path, files: Iterable[str]) -> Iterator[tuple[str, InspectedFile]]:
        """Yield each file with what it is. In object storage several are opened at once."""
        if isinstance(folder, ObjectPath):
            sizes = self._sizes.pop(folder, {})

            def inspected(name: str) -> InspectedFile:
                path = folder / name
                path.listed_size = sizes.get(name)
                return self._inspected(path)

            yield from read_ahead(
                inspected,
                files,
                n_threads=_OPENED_AT_ONCE,
                n_ahead=2 * _OPENED_AT_ONCE,
                name="medvlad-list",
            )
            return
        for name in files:
            yield name, self._inspected(folder / name)

    def misplaced(self, folder: Path, files: Iterable[str]) -> int:
        """Count the images among files that lie outside the class folders, and return their number."""
        is_image = [one.kind not in ("", WITHOUT_IMAGE) for _, one in self._all_inspected(folder, files)]
        n_images = sum(is_image)
        self.n_misplaced += n_images
        self.n_skipped += len(is_image) - n_images
        return n_images

    def walk(
        self,
        folder: Path,
        class_name: str = _NO_CLASS,
        below: tuple[str, ...] = (),
        above: tuple[Path, ...] = (),
    ) -> Iterable[FoundImage]:
        """Yield every image in `folder` and its sub-folders.

        Parameters
        ----------
        folder : Path
        class_name : str
            Class of the images, to count those that cannot be read.
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
        folders, files = self.read(folder)
        for name, inspected in self._all_inspected(folder, files):
            found = self._counted(inspected, folder / name, class_name)
            for path in found.images:
                yield FoundImage((*below, name), path, found.kind, found.identity)
        for name in folders:
            yield from self.walk(folder / name, class_name, (*below, name), (*above, real))

    def add(self, other: Listing) -> None:
        """Add the numbers of another listing."""
        self.n_features += other.n_features
        self.n_skipped += other.n_skipped
        self.n_without_image += other.n_without_image
        self.n_misplaced += other.n_misplaced
        self.n_joined += other.n_joined
        for class_name, counter in other.unread.items():
            self.unread[class_name].update(counter)

    def report(self, root: Path) -> None:
        """Log the numbers of files that were left out or joined to train."""
        if self.n_joined:
            _log.info("%s: the %d images of val are joined to train, as in the paper", root, self.n_joined)
        if self.n_skipped:
            _log.info("%s: %d files that are not images are left out", root, self.n_skipped)
        if self.n_features:
            _log.warning(
                "%s: %d feature files are left out, because there are images beside them",
                root,
                self.n_features,
            )
        if self.n_without_image:
            _log.warning(
                "%s: %d DICOM files without an image (directories, reports, PDF) are left out",
                root,
                self.n_without_image,
            )
        if self.n_misplaced:
            _log.warning("%s: %d images outside the class folders are left out", root, self.n_misplaced)
        if self.unread:
            _log.warning(
                "%s: %d images are left out, because their formats are not read (%s): convert them to PNG, "
                "TIFF, DICOM or NIfTI. If one class loses more images than another, results are biased",
                root,
                sum(counter.total() for counter in self.unread.values()),
                counts_in_words(self.unread),
            )


def counts_in_words(counts: Mapping[str, Mapping[str, int]]) -> NamesNobody:
    """Return numbers by class and kind of file, such as "benign: 3 .heic; malignant: 40 .svs, 1 .img"."""
    listed = []
    for class_name, by_kind in sorted(counts.items()):
        numbers = ", ".join(f"{n} {kind}" for kind, n in sorted(by_kind.items()))
        listed.append(f"{class_name}: {numbers}" if class_name else numbers)
    return NamesNobody("; ".join(listed))


def class_name_of(folder_name: str) -> str:
    """Return the class of a folder. Unicode spells an accented letter in two ways, which are one class."""
    return unicodedata.normalize("NFC", folder_name)


def check_root(root: object) -> Path:
    """Return the folder of a data set as a path.

    Raises
    ------
    InputError
        If it is not a path, does not exist, cannot be read or is a file.
    """
    if not isinstance(root, str | os.PathLike):
        raise InputError(f"the folder of a data set must be a path, got {type(root).__name__}")
    path = location(root, "the folder of a data set")
    try:
        if path.is_dir():
            return path
        exists = path.exists()
    except OSError as error:
        raise InputError(
            f"folder {str(path)!r} cannot be read ({error.strerror}): check its permissions"
        ) from error
    if exists:
        raise InputError(
            f"{str(path)!r} is a file: give the folder that holds the class folders, or a table (.csv)"
        )
    raise InputError(f"folder {str(path)!r} does not exist: check the path")
