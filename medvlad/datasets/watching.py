"""Watch a folder or a prefix of object storage, and name the images of files that have arrived completely.

The folder is listed again and again, because network file systems report no changes. A file is complete if
its size and modification time stay the same for some seconds. Many programs write under another name first,
so hidden files and endings such as ``.part`` are left out until the file is renamed.

A writer may stop for longer than that. So the version of a file is looked at again after it was read. If it
has changed, whatever was computed is dropped, and the file waits again.

:mod:`medvlad.datasets.watched_prefix` is for object storage.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from medvlad._util.object_path import ObjectPath
from medvlad._util.object_storage import StorageFailure
from medvlad._util.validate import InputError
from medvlad.datasets.arriving import PAUSE, Pause
from medvlad.datasets.feature_files import feature_ending
from medvlad.images.inspect_file import inspect_file

__all__ = ["UNFINISHED", "FolderWatch", "LocalFolder", "WatchedPlace"]

_log = logging.getLogger(__name__)

#: Endings of files that are not complete yet.
UNFINISHED = (".part", ".partial", ".filepart", ".crdownload", ".download", ".tmp", ".temp", ".swp", "~")
_LONGEST_INTERVAL = 1.0  # seconds
_AGAIN_AFTER = 60.0  # seconds, if the storage fails for one file


class WatchedPlace(Protocol):
    """Where files arrive."""

    def files(self) -> Iterable[tuple[str, str]]:
        """Return name and version of each file, in order.

        A version is text that changes with the content. Raises OSError if the place cannot be listed as a
        whole, so that no file is taken for a removed one.
        """

    def version(self, name: str) -> str | None:
        """Return the present version of a file. None: there is no such file."""

    def images(self, name: str) -> Sequence[str | ObjectPath]:
        """Return the images in a file. Empty: it is no image.

        Raises StorageFailure if the storage does not deliver the file now.
        """


class LocalFolder:
    """A folder of this machine, or a mounted one, with its sub-folders.

    Links to folders are not followed, and empty files are not listed.

    Parameters
    ----------
    folder : path
        It must exist. Names are absolute.
    of_features : bool, default=False
        Whether feature files arrive instead of images.

    Raises
    ------
    InputError
        If it is no folder that can be read.
    """

    def __init__(self, folder: str | os.PathLike[str], *, of_features: bool = False) -> None:
        self.path = Path(os.path.abspath(folder))  # noqa: PTH100, links stay as they are
        self._of_features = of_features
        try:
            with os.scandir(self.path):
                pass
        except OSError as error:
            raise InputError(
                f"the folder to watch, {str(folder)!r}, cannot be read ({error.strerror}): check the path"
            ) from error

    def files(self) -> list[tuple[str, str]]:
        """Return absolute path and version of each file, sorted by path within each folder."""
        found: list[tuple[str, str]] = []
        folders = [str(self.path)]
        while folders:
            files, below = [], []
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name.lower().endswith(UNFINISHED):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        below.append(entry.path)
                    elif (version := self.version(entry.path)) is not None:
                        files.append((entry.path, version))
            found += sorted(files)
            folders += sorted(below, reverse=True)
        return found

    def version(self, name: str) -> str | None:
        """Return size and modification time in nanoseconds. None: there is no such file, or it is empty."""
        try:
            status = os.stat(name)  # noqa: PTH116, 100,000 paths
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
            return None
        return f"{status.st_size}-{status.st_mtime_ns}"

    def images(self, name: str) -> list[str]:
        """Return the images of a file. A file in a format that is not read is its own only image."""
        path = Path(name)
        if self._of_features:
            return [] if feature_ending(path) is None else [name]
        try:
            found = inspect_file(path)
        except InputError:  # reading it reports the error
            return [name]
        return [str(image) for image in found.images] or ([name] if found.kind else [])


@dataclass
class _Partly:
    """A file with several images. If it is put back, those with an answer are not named again.

    Attributes
    ----------
    version : str
    n_images : int
    answered : set of str
    listed : float
        Time of the last listing with the file.
    """

    version: str
    n_images: int
    answered: set[str]
    listed: float


class FolderWatch:
    """Names the images of complete files, now and later, without an end.

    Memory is that for the names and versions of the files that are present, and of those that were within
    the last `forget` seconds.

    Parameters
    ----------
    place : WatchedPlace
    answered : mapping of str to str, optional
        Images that need no answer, and the version of their files.
    settle : float, default=5
        Number of seconds without a change after which a file is complete.
    interval : float or None, default=None
        Number of seconds between two listings. None: half of `settle`, and at most 1.
    forget : float, default=0
        Number of seconds for which a file is remembered after it was listed for the last time, because
        listings may lack files.
    clock, sleep : callable
        Monotonic time in seconds, and waiting.
    """

    def __init__(
        self,
        place: WatchedPlace,
        answered: Mapping[str, str] | None = None,
        *,
        settle: float = 5.0,
        interval: float | None = None,
        forget: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._place = place
        self._answered = dict(answered or {})
        self._settle, self._forget = settle, forget
        self._interval = min(_LONGEST_INTERVAL, settle / 2) if interval is None else interval
        self._clock, self._sleep = clock, sleep
        #: Version of each present file, and when it was first seen. None: its images were named.
        self._files: dict[str, tuple[str, float | None]] = {}
        self._named: dict[str, tuple[str, str]] = {}  # images without an answer: their file, and its version
        #: Version of files that were named and are not listed with this version any more, and since when.
        self._past: dict[str, tuple[str, float]] = {}
        self._partly: dict[str, _Partly] = {}
        self._one_by_one = False

    def __iter__(self) -> Iterator[str | ObjectPath | Pause]:
        """Yield images of complete files, and `PAUSE` before each wait.

        Call `answer` for all images so far before taking what follows a pause.
        """
        is_listed = True
        while True:
            begun = self._clock()
            try:
                listed = list(self._place.files())
            except OSError as error:
                if is_listed:
                    _log.warning("the watched folder cannot be listed (%s): trying again", error.strerror)
                is_listed, listed = False, []
            else:
                is_listed = True
                self._see(listed, begun)
            took = self._clock() - begun
            for name, _ in listed:
                yield from self._ready(name, begun)
            listed.clear()
            yield PAUSE
            self._one_by_one = False
            self._sleep(max(self._interval, took))

    def _see(self, listed: Iterable[tuple[str, str]], now: float) -> None:
        """Note new and changed files, and forget those that are gone."""
        before, self._files = self._files, {}
        for name, version in listed:
            known = before.get(name)
            if known is not None and known[0] == version:
                self._files[name] = known
            else:
                past = self._past.get(name, ("", 0.0))[0]
                is_answered = version in (self._answered.get(name), past)
                self._files[name] = version, None if is_answered else now
        if self._forget:
            for name, (version, since) in before.items():
                if since is None and self._files.get(name, ("", None))[0] != version:
                    self._past[name] = version, now
            self._past = {name: one for name, one in self._past.items() if now - one[1] <= self._forget}
        for name in self._partly.keys() & self._files.keys():
            self._partly[name].listed = now
        self._partly = {n: one for n, one in self._partly.items() if now - one.listed <= self._forget}

    def _ready(self, name: str, now: float) -> Iterator[str | ObjectPath | Pause]:
        """Yield the images of a file that is complete and has no answer, and pauses after `put_back`."""
        version, since = self._files[name]
        if since is None or now - since < self._settle:
            return
        if self._place.version(name) != version:  # earlier files may have taken hours
            del self._files[name]
            return
        try:
            images = self._place.images(name)
        except StorageFailure as error:
            _log.warning("%s: trying again in a minute", error.what)
            self._files[name] = version, self._clock() + _AGAIN_AFTER - self._settle
            return
        self._files[name] = version, None
        if not images:
            _log.info("%s is not an image, and is left out", name)
        for image in self._without_answer(name, version, images):
            self._named[str(image)] = name, version
            yield image
            if self._one_by_one:
                yield PAUSE

    def _without_answer(
        self, name: str, version: str, images: Sequence[str | ObjectPath]
    ) -> list[str | ObjectPath]:
        """Return the images of a file that have no answer, and note that they are to be answered."""
        partly = self._partly.get(name)
        answered = partly.answered if partly is not None and partly.version == version else set[str]()
        answered |= {str(image) for image in images if self._answered.get(str(image)) == version}
        self._partly.pop(name, None)
        if len(answered) < len(images) > 1:
            self._partly[name] = _Partly(version, len(images), answered, self._clock())
        return [image for image in images if str(image) not in answered]

    def answer(self, image: str) -> str | None:
        """Return the version of the file that an image was read from.

        Call it once for each image that was named, after it was read. None: the file has changed or is gone.
        What was read is then no answer. A file that has changed is named again.
        """
        if image not in self._named:  # the file has changed, and now holds another number of images
            return None
        name, version = self._named.pop(image)
        partly = self._partly.get(name)
        if self._place.version(name) == version:
            if partly is not None and partly.version == version:
                partly.answered.add(image)
                if len(partly.answered) == partly.n_images:
                    del self._partly[name]
            return version
        known = self._files.get(name)
        if known is not None and known[0] == version:
            del self._files[name]
        return None

    def put_back(self) -> None:
        """Name all images without an answer again, because object storage failed. Iterate anew after it.

        They are named one by one, so that one that cannot be read does not stop the others. If it fails
        again, its file waits for a minute.
        """
        now = self._clock()
        files = dict(self._named.values())
        wait = _AGAIN_AFTER if len(files) == 1 else 0.0
        for name, version in files.items():
            known = self._files.get(name)
            if known is not None and known[0] == version:
                self._files[name] = version, now + wait - self._settle
        self._named.clear()
        self._one_by_one = True
