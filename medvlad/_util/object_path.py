"""Paths of objects in object storage, with the methods of :class:`pathlib.Path` that readers of files use.

``location("s3://bucket/scans")`` is such a path, and ``location("scans")`` an ordinary one. So the code that
lists and reads images needs no second form for URLs. A path of an object differs in three points:

- ``str(path)`` is safe to show: the query of a signed URL is hidden. ``path.url`` is the whole URL.
- ``path.open("rb")`` fetches an object of up to 64 MiB at once. A larger one is read by ranges.
- Links do not exist, so ``resolve`` and ``absolute`` return the path.

Windows has no such paths, because its own parsing of paths changes URLs.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PosixPath
from typing import IO, Any, BinaryIO, Self, cast
from urllib.parse import unquote, urlsplit

from medvlad._util.atomic_file import write_file
from medvlad._util.object_storage import (
    Entry,
    StorageFailure,
    check_url,
    children,
    entry_of,
    is_read_only,
    put,
    read,
    read_whole,
    remove,
)
from medvlad._util.urls import is_shown_url, is_url, shown_url, url_of, without_secrets
from medvlad._util.validate import InputError, check_output_file, check_outside, one_line

__all__ = [
    "ObjectPath",
    "RangeReader",
    "check_output",
    "check_reached",
    "failure_of",
    "failures_of_one_object",
    "location",
    "outside",
    "plain",
    "save_bytes",
]

_AT_ONCE = 64 << 20  # bytes of an object that is fetched in one request
_FIRST_RANGE = 64 << 10
_LARGEST_RANGE = 4 << 20
_KEPT_RANGES = 4
_of_one_object: ContextVar[bool] = ContextVar("of_one_object", default=False)
_HAS_OBJECTS = os.name != "nt"


class ObjectPath(PosixPath):
    """Path of an object or a folder in object storage. Make it with :func:`location`.

    It behaves as a path of a file: errors are FileNotFoundError, PermissionError and OSError.

    Attributes
    ----------
    listed_size : int or None
        Number of bytes in the listing that the path comes from. The object may have changed since then.
        None: the path does not come from a listing.
    """

    listed_size: int | None = None

    @property
    def url(self) -> str:
        """The whole URL, which may hold a signature. Do not show it."""
        return url_of(super().__str__())

    def __str__(self) -> str:
        text = super().__str__()
        return shown_url(url_of(text)) if is_url(text) else text

    def __fspath__(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and super().__str__() == PosixPath.__str__(other)

    def __hash__(self) -> int:
        return hash(super().__str__())

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectPath, (super().__str__(),), {"listed_size": self.listed_size}

    @property
    def name(self) -> str:
        """Last part of the path, without the query of a signed URL."""
        return super().name.partition("?")[0]

    def resolve(self, strict: bool = False) -> Self:
        """Return the path."""
        return self

    def absolute(self) -> Self:
        """Return the path."""
        return self

    def entry(self) -> Entry:
        """Return what the storage knows of the object."""
        return entry_of(self.url)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return kind and size, as of a file."""
        entry = self.entry()
        kind = stat.S_IFDIR if entry.is_folder else stat.S_IFREG
        return os.stat_result((kind | 0o444, 0, 0, 1, 0, 0, entry.size, 0, 0, 0))

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether there is such an object or folder."""
        try:
            self.entry()
        except FileNotFoundError:
            return False
        return True

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether it is an object."""
        try:
            return not self.entry().is_folder
        except FileNotFoundError:
            return False

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether it is a folder, which means that there are objects below it."""
        try:
            return self.entry().is_folder
        except FileNotFoundError:
            return False

    def samefile(self, other: str | os.PathLike[str]) -> bool:
        """Return whether both are the same object."""
        return self == other

    def children(self) -> list[Entry]:
        """Return the objects and folders directly below."""
        return children(self.url)

    def open(self, mode: str = "r", *_: Any, **__: Any) -> IO[Any]:  # type: ignore[override]
        """Open for reading. Only the mode "rb" exists: objects are written as a whole.

        Raises
        ------
        FileNotFoundError, IsADirectoryError, PermissionError, OSError
        """
        if mode != "rb":
            raise ValueError(f"an object is opened with mode 'rb', not {mode!r}")
        entry = self.entry()
        if entry.is_folder:
            raise IsADirectoryError(21, "it is a folder", str(self))
        if entry.size < 0:
            return io.BytesIO(self.read_bytes())
        if entry.size <= _AT_ONCE:
            return io.BytesIO(read(self.url, 0, entry.size))
        return _by_ranges(self.url, entry.size)

    def open_ranges(self) -> BinaryIO:
        """Open for reading by ranges, whatever the size. It is for readers of headers."""
        size = self.entry().size
        return io.BytesIO(self.read_bytes()) if size < 0 else _by_ranges(self.url, size)

    def read_bytes(self) -> bytes:
        """Return the content."""
        return read_whole(self.url)

    def read_text(self, encoding: str | None = None, errors: str | None = None, *_: Any) -> str:
        """Return the content as text, in UTF-8 unless another encoding is given."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def write_bytes(self, data: Any) -> int:
        """Write the object in one request."""
        content = bytes(data)
        put(self.url, content)
        return len(content)


class RangeReader:
    """Read parts of an object, with read-ahead. Several threads may read at the same time.

    A read that continues an earlier one fetches twice as many bytes as that, up to 4 MiB. The last four
    ranges are kept, so a reader of two places of an object (the two halves of a shard) makes few requests.

    Parameters
    ----------
    url : str
    size : int
        Number of bytes of the object.
    """

    def __init__(self, url: str, size: int) -> None:
        self._url = url
        self.size = size
        self._lock = threading.Lock()
        self._ranges: list[tuple[int, bytes]] = []  # the one that was used last stands last

    def read(self, begin: int, length: int) -> bytes:
        """Return bytes; fewer than `length` at the end of the object."""
        length = min(length, self.size - begin)
        if length <= 0:
            return b""
        with self._lock:
            ahead = _FIRST_RANGE
            for kept in reversed(self._ranges):
                start, content = kept
                if start <= begin and begin + length <= start + len(content):
                    self._ranges.remove(kept)
                    self._ranges.append(kept)
                    return content[begin - start : begin - start + length]
                if start <= begin <= start + len(content):
                    ahead = min(2 * len(content), _LARGEST_RANGE)
                    self._ranges.remove(kept)
                    break
            fetched = read(self._url, begin, min(max(length, ahead), self.size - begin))
            self._ranges = [*self._ranges[1 - _KEPT_RANGES :], (begin, fetched)]
            return fetched[:length]


class _RawRanges(io.RawIOBase):
    """A large object as a file."""

    def __init__(self, ranges: RangeReader) -> None:
        self._ranges = ranges
        self._position = 0
        self.failure: OSError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._ranges.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        try:
            content = self._ranges.read(self._position, len(buffer))
        except OSError as error:
            self.failure = error
            raise
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def failure_of(file: BinaryIO) -> OSError | None:
    """Return the last failure of the storage under a file of an object, which a reader may have caught."""
    raw = getattr(file, "raw", None)
    return raw.failure if isinstance(raw, _RawRanges) else None


def check_reached(path: Path, error: Exception | None) -> None:
    """Raise StorageFailure if an error means that the storage of an object fails.

    An object that does not exist is no failure. Each https URL may have its own signature, so an https
    server that refuses one URL does not fail.

    Parameters
    ----------
    path : Path
        Nothing happens for a path of this machine.
    error : Exception or None
        What looking at the object raised.
    """
    if not isinstance(path, ObjectPath) or not isinstance(error, OSError):
        return
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return
    if is_read_only(path.url) and (isinstance(error, PermissionError) or error.errno == errno.EINVAL):
        return
    what = f"{path} cannot be read, because its storage fails ({error.strerror or one_line(error)})"
    if _of_one_object.get():
        raise InputError(f"{what}: name it again later") from None
    raise StorageFailure(what) from None


@contextmanager
def failures_of_one_object(wanted: bool = True) -> Iterator[None]:
    """Let a failing storage be an error of the object that is read, for services whose callers can repeat."""
    token = _of_one_object.set(wanted)
    try:
        yield
    finally:
        _of_one_object.reset(token)


def _by_ranges(url: str, size: int) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_RawRanges(RangeReader(url, size)), _FIRST_RANGE))


def location(path: str | os.PathLike[str], name: str) -> Path:
    """Return a path of this machine, or the path of an object if a URL is given.

    Parameters
    ----------
    path : path-like or URL
    name : str
        What messages call it, such as "the store".

    Raises
    ------
    InputError
        If it is a URL of another kind, holds a password, or was shortened to be shown; any URL in Windows.
    """
    if isinstance(path, ObjectPath):
        return path
    text = os.fspath(path)
    if not is_url(text):
        return Path(path)
    url = url_of(text)
    if not _HAS_OBJECTS:
        raise InputError(
            f"{name} {without_secrets(url)!r} is a URL, and URLs are not read in Windows: copy the data to "
            "a folder, or run medvlad in the Windows Subsystem for Linux"
        )
    if url.startswith("file://"):
        return Path(unquote(urlsplit(url.replace("file://", "file:///", 1)).path))
    check_url(url, name)
    if is_shown_url(url):
        raise InputError(f"{name} {url!r} is a URL whose end was left out to hide it: give the whole URL")
    url, mark, query = url.partition("?")
    url += mark + query.replace("/", "%2F")  # which means the same, and is no folder
    inside = url.partition("://")[2].partition("?")[0].strip("/")
    if any(part in ("", ".", "..") for part in inside.split("/")):
        raise InputError(
            f"{name} {without_secrets(url)!r} has an empty part, '.' or '..' between its slashes: rename the "
            "objects, or copy them to a folder"
        )
    return ObjectPath(url)


def save_bytes(path: str | os.PathLike[str], content: bytes, what: str) -> None:
    """Write a file or an object. An existing one stays until the new one is complete.

    Parameters
    ----------
    path : path-like or URL
    content : bytes
    what : str
        Kind of file, such as "model". Error messages use it.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    target = location(path, f"the {what}")
    if not isinstance(target, ObjectPath):
        write_file(target, content, what)
        return
    try:
        target.write_bytes(content)
    except OSError as error:
        raise InputError(
            f"the {what} {target} cannot be written: {error.strerror}; choose another place"
        ) from None


def check_output(
    path: str | os.PathLike[str], what: str, *, may_replace: Callable[[Path], bool] | None = None
) -> Path:
    """Return `path` if a file or an object can be written there. Beside an object a small one is tried.

    See :func:`medvlad._util.validate.check_output_file` for the parameters and errors.
    """
    target = location(path, f"the {what}")
    if not isinstance(target, ObjectPath):
        return check_output_file(target, what, may_replace=may_replace)
    if is_read_only(target.url):
        raise InputError(
            f"the {what} {target} cannot be written, because https:// can be read only: give a file, or "
            "s3://, gs:// or az://"
        )
    try:
        if target.is_dir():
            raise InputError(f"the {what} {target} is a folder: give the URL of a file")
        is_other = may_replace is not None and target.exists() and not may_replace(target)
        trial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
        trial.write_bytes(b"medvlad")
        remove(trial.url)
    except OSError as error:
        raise InputError(
            f"the {what} {target} cannot be written: {error.strerror}; choose another place"
        ) from None
    if is_other:
        raise InputError(
            f"{target} exists and is no {what}, so it is not replaced: choose another name, or remove it"
        )
    return target


def outside(path: str | os.PathLike[str], name: str, *images: str | os.PathLike[str]) -> Path:
    """Return `path`. Raise InputError if it lies in one of the folders `images`.

    See :func:`medvlad._util.validate.check_outside`. Both may be URLs.
    """
    target = location(path, name)
    roots = [location(root, "the folder of images") for root in images]
    if not isinstance(target, ObjectPath):
        return check_outside(target, name, *(root for root in roots if not isinstance(root, ObjectPath)))
    for root in roots:
        if isinstance(root, ObjectPath) and (target == root or root in target.parents):
            raise InputError(
                f"{name} {target} lies in the image folder {root}, so the next run would read it as images: "
                "choose a folder outside"
            )
    return target


def plain(path: Path) -> str | ObjectPath:
    """Return the text of a path. A URL stays a path, because its text hides its query."""
    return path if isinstance(path, ObjectPath) else str(path)
