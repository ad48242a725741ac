"""Watch a prefix of object storage, such as s3://bucket/incoming/.

An object is written as a whole, so it is complete as soon as a listing shows it. Listings may be old: an
object may be missing from one, or be shown as it was before it was replaced.
:class:`medvlad.datasets.watching.FolderWatch` looks each object up before and after it is read, and remembers
for some minutes what it has named.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from medvlad._util.object_path import ObjectPath, location
from medvlad._util.object_storage import Entry, StorageFailure, is_read_only
from medvlad._util.urls import without_secrets
from medvlad._util.validate import InputError
from medvlad.datasets.feature_files import feature_ending
from medvlad.datasets.watching import UNFINISHED
from medvlad.images.inspect_file import inspect_file

__all__ = ["FORGET_AFTER", "ObjectPrefix"]

_log = logging.getLogger(__name__)

FORGET_AFTER = 600.0
"""Seconds for which the watch of a prefix remembers objects that are not listed any more."""


class ObjectPrefix:
    """The objects below a prefix. It is a :class:`medvlad.datasets.watching.WatchedPlace`.

    Empty objects are not listed, because programs write them to mark folders. An object is named as it is
    shown, without what looks like a secret. Of several objects with the same shown name only the first one is
    listed. Objects with a ``?`` in their names are not listed.

    Parameters
    ----------
    prefix : ObjectPath
        It need not hold objects yet.
    of_features : bool, default=False
        Whether feature files arrive instead of images.

    Raises
    ------
    InputError
        If it cannot be listed, or is an object.
    """

    def __init__(self, prefix: ObjectPath, *, of_features: bool = False) -> None:
        self.path = prefix
        self._of_features = of_features
        #: Objects that their shown names do not open.
        self._hidden: dict[str, ObjectPath] = {}
        self._told: set[str] = set()
        if is_read_only(prefix.url):
            raise InputError(
                f"the prefix to watch, {prefix}, cannot be listed, because https:// has no listings: give "
                "s3://, gs:// or az://"
            )
        try:
            if not prefix.children():
                raise FileNotFoundError
        except FileNotFoundError:
            _log.warning("there is no object below %s yet, or no such bucket: waiting for objects", prefix)
        except OSError as error:
            raise InputError(
                f"the prefix to watch, {prefix}, cannot be listed ({error.strerror}): check the URL"
            ) from None

    def files(self) -> list[tuple[str, str]]:
        """Return shown URL and version of each object, sorted within each folder. Raise OSError."""
        found: dict[str, str] = {}
        hidden: dict[str, ObjectPath] = {}
        for path, version in self._below(self.path):
            name = str(path)
            if name in found:
                self._tell_once(name, "is the name of several objects after secrets are hidden")
                continue
            found[name] = version
            if name != path.url:
                hidden[name] = path
        self._hidden = hidden
        return list(found.items())

    def _below(self, folder: ObjectPath) -> Iterator[tuple[ObjectPath, str]]:
        try:
            found = folder.children()
        except FileNotFoundError:  # it is empty now
            return
        shown = [one for one in found if not (one.name in ("", "..") or one.name.startswith("."))]
        for one in shown:
            if "?" in one.name:
                self._tell_once(f"{folder}/{one.name}", "has a '?', which begins the query of a URL")
        usable = [one for one in shown if "?" not in one.name]
        for one in usable:
            if not one.is_folder and one.size and not one.name.lower().endswith(UNFINISHED):
                yield folder / one.name, _version(one)
        for one in usable:
            if one.is_folder:
                yield from self._below(folder / one.name)

    def _tell_once(self, name: str, reason: str) -> None:
        if name not in self._told:
            self._told.add(name)
            _log.warning("%s %s, so it is left out: rename the object", without_secrets(name), reason)

    def _path_of(self, name: str) -> ObjectPath:
        hidden = self._hidden.get(name)
        return cast(ObjectPath, location(name, "the object")) if hidden is None else hidden

    def version(self, name: str) -> str | None:
        """Return the version of an object. None: there is none, or the storage does not tell it now."""
        try:
            entry = self._path_of(name).entry()
        except (OSError, InputError):
            return None
        return None if entry.is_folder or not entry.size else _version(entry)

    def images(self, name: str) -> list[str | ObjectPath]:
        """Return the images of an object. An object in a format that is not read is its own only image.

        Images whose shown names do not open them are paths.

        Raises
        ------
        StorageFailure
            If the storage does not deliver the object, which may hold several images.
        """
        path = self._path_of(name)
        if self._of_features:
            return [] if feature_ending(path) is None else [_openable(path)]
        try:
            found = inspect_file(path)
        except StorageFailure:
            raise
        except InputError:  # reading it reports the error
            return [_openable(path)]
        if len({str(image) for image in found.images}) < len(found.images):
            self._tell_once(
                name, "holds several images, whose numbers are hidden with what looks like a secret"
            )
            return []
        return [_openable(image) for image in found.images] or ([_openable(path)] if found.kind else [])


def _openable(path: Path) -> str | ObjectPath:
    """Return the text of a path. If that hides a secret, return the path."""
    return path if isinstance(path, ObjectPath) and str(path) != path.url else str(path)


def _version(entry: Entry) -> str:
    return f"{entry.size}-{entry.version}"
