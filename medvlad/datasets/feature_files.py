"""Names of feature files: descriptors that were extracted elsewhere. :mod:`medvlad.bags` reads them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePath

from medvlad._util.object_path import ObjectPath, check_reached
from medvlad._util.os_files import entry_is_folder
from medvlad._util.urls import is_url
from medvlad.images.formats import NO_ENDING, UNREAD_SUFFIXES, ending_of, is_image_name
from medvlad.images.inspect_file import inspect_file

__all__ = ["FEATURE_SUFFIXES", "feature_ending", "is_feature_folder"]

FEATURE_SUFFIXES = (".h5", ".hdf5", ".npy", ".npz", ".pt", ".pth", ".safetensors")
"""Endings of feature files, in lower case."""


def feature_ending(path: str | os.PathLike[str]) -> str | None:
    """Return the ending of a feature file in lower case. None: the name is not that of a feature file."""
    text = path.name if isinstance(path, ObjectPath) else os.fspath(path)
    ending = PurePath(text.partition("?")[0] if is_url(text) else text).suffix.lower()
    return ending if ending in FEATURE_SUFFIXES else None


def is_feature_folder(root: Path) -> bool:
    """Return whether a folder and its sub-folders hold feature files and no image.

    Names tell, and the content of files without an ending if there are feature files beside them. The search
    ends at the first image, so it costs little for a folder of images. Raise StorageFailure if the folder is
    in object storage that fails.
    """
    has_features, doubtful = False, []
    for file in _files_below(root, set()):
        ending = ending_of(file.name)
        if feature_ending(file) is not None:
            has_features = True
        elif is_image_name(file.name) or ending in UNREAD_SUFFIXES:
            return False
        elif ending == NO_ENDING:
            doubtful.append(file)
    return has_features and not any(inspect_file(file).kind for file in doubtful)


def _files_below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield the files below a folder that are not hidden. What cannot be read is left out."""
    real = folder.resolve()
    if real in seen:
        return
    seen.add(real)
    folders = []
    for path, is_folder in _visible(folder):
        if is_folder:
            folders.append(path)
        else:
            yield path
    for one in folders:
        yield from _files_below(one, seen)


def _visible(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the files and folders directly in a folder, and whether each is a folder."""
    if isinstance(folder, ObjectPath):
        try:
            found = folder.children()
        except OSError as error:
            check_reached(folder, error)
            return
        yield from ((folder / one.name, one.is_folder) for one in found if not one.name.startswith("."))
        return
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                yield Path(entry.path), entry_is_folder(entry)
