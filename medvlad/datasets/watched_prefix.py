"""Watch a prefix of object storage, such as s3://bucket/incoming/.

An object is written as a whole, so it is complete as soon as a listing shows it. Listings may be old: an
object may be missing from one, or be shown as it was before it was replaced.
:class:`medvlad.datasets.watching.FolderWatch` looks each object up before and after it is read, and remembers
for some minutes what it has named.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from medvlad._util.object_path import ObjectPath, location
from medvlad._util.object_storage import Entry, is_read_only
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

    Empty objects are not listed, because programs write them to mark folders.

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
        """Return URL and version of each object, sorted within each folder. Raise OSError."""
        return list(self._below(self.path))

    def _below(self, folder: ObjectPath) -> Iterator[tuple[str, str]]:
        try:
            found = folder.children()
        except FileNotFoundError:  # it is empty now
            return
        shown = [one for one in found if not (one.name in ("", "..") or one.name.startswith("."))]
        for one in shown:
            if not one.is_folder and one.size and not one.name.lower().endswith(UNFINISHED):
                yield str(folder / one.name), _version(one)
        for one in shown:
            if one.is_folder:
                yield from self._below(folder / one.name)

    def version(self, name: str) -> str | None:
        """Return the version of an object. None: there is none, or the storage does not tell it now."""
        try:
            entry = location(name, "the object").entry()  # type: ignore[attr-defined]
        except (OSError, InputError):
            return None
        return None if entry.is_folder or not entry.size else _version(entry)

    def images(self, name: str) -> list[str]:
        """Return the images of an object. An object in a format that is not read is its own only image."""
        path = location(name, "the object")
        if self._of_features:
            return [] if feature_ending(path) is None else [name]
        try:
            found = inspect_file(path)
        except InputError:  # reading it reports the error
            return [name]
        return [str(image) for image in found.images] or ([name] if found.kind else [])


def _version(entry: Entry) -> str:
    return f"{entry.size}-{entry.version}"
