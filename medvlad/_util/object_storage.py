"""Read, write and list objects by URL, through fsspec (extras s3, gs, azure and cloud).

::

    s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/BLOB    object storage
    https://HOST/FILE                                        read only, and without listings
    memory://FOLDER/FILE                                     the memory of this process, for tests

Credentials come from where the library of the storage looks for them: environment variables, files such as
~/.aws/credentials, and fsspec's configuration. A URL with a password is refused.

A request that fails because the storage is busy, slow or cuts the answer short is tried again, a bounded
number of times with growing waits. Errors become those of files (FileNotFoundError, PermissionError and
OSError), so that readers of files need no second set of rules. Their texts hold no secrets.
"""

from __future__ import annotations

import errno
import functools
import logging
import math
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from medvlad._util.counters import count
from medvlad._util.urls import scheme_of, without_secrets
from medvlad._util.validate import InputError, MissingExtraError, import_extra, one_line

__all__ = [
    "SCHEMES",
    "Entry",
    "StorageFailure",
    "check_url",
    "children",
    "copy",
    "entry_of",
    "forget_connections",
    "is_read_only",
    "put",
    "put_if_absent",
    "read",
    "read_whole",
    "remove",
]

logger = logging.getLogger(__name__)

#: Schemes, the module that fsspec needs for them, and the extra of medvlad that installs it.
SCHEMES = {
    **dict.fromkeys(("s3", "s3a"), ("s3fs", "s3")),
    **dict.fromkeys(("gs", "gcs"), ("gcsfs", "gs")),
    **dict.fromkeys(("az", "abfs", "abfss"), ("adlfs", "azure")),
    **dict.fromkeys(("http", "https"), ("aiohttp", "cloud")),
    "memory": ("fsspec", "cloud"),
}
_READ_ONLY = ("http", "https")

#: Each request is tried so often. The waits between tries are random, and up to these numbers of seconds.
TRIES = 6
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)

#: Errors after which the same request fails again.
_DEFINITE = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    NotImplementedError,
    TypeError,
    ValueError,
    AttributeError,
    ImportError,
    MemoryError,
)
#: Errors of other libraries, by name, that mean that there are no credentials, or wrong ones.
_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "ClientAuthenticationError",
    "DefaultCredentialsError",
    "RefreshError",
)
_DEFINITE_NUMBERS = (errno.EINVAL, errno.EROFS, errno.ENOTSUP, errno.ENOSPC, errno.EDQUOT)
_TRANSIENT_STATUS = (408, 425, 429)

Result = TypeVar("Result")


class CutShort(OSError):
    """The storage returned fewer bytes than it announced."""


class StorageFailure(InputError):
    """The storage does not answer, so nothing is known of an object. It is no defect of the object.

    It ends a run that leaves out damaged images, because an outage must not decide which images are used.

    Parameters
    ----------
    what : str
        What failed, without advice.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"{self.what}: check the network and the credentials, and run the same command again"


@dataclass(frozen=True)
class Entry:
    """An object, or a common beginning of names, which counts as a folder.

    Attributes
    ----------
    name : str
        Name in its folder.
    size : int
        Number of bytes. 0 for folders. -1: the storage does not tell.
    is_folder : bool
    stamp : str
        Changes if the object is written again. Empty: the storage does not tell.
    written : float
        Time of the last write in seconds since 1970. Infinity: the storage does not tell.
    version : str
        Changes with the content, and is the same in listings and look-ups, which may round times
        differently.
    """

    name: str
    size: int
    is_folder: bool
    stamp: str = ""
    written: float = math.inf
    version: str = ""


def check_url(url: str, name: str) -> None:
    """Raise InputError if a URL is of another kind, or holds a password.

    Parameters
    ----------
    url : str
    name : str
        What the message calls it, such as "the store".
    """
    shown = without_secrets(url)
    scheme = scheme_of(url)
    if scheme not in SCHEMES:
        raise InputError(
            f"{name} {shown!r} is a URL of a kind that is not read: copy the data to a folder, or to s3://, "
            "gs://, az:// or https://, and give that"
        )
    if "***@" in shown:
        raise InputError(
            f"{name} {shown!r} holds a password or key, which others could read in lists of processes: leave "
            "it out, and set it in the environment or the configuration file of the storage"
        )
    if "?" in url and scheme not in _READ_ONLY:
        raise InputError(
            f"{name} {shown!r} holds a '?', behind which a key may stand: leave it out, and set keys in the "
            "environment or the configuration file of the storage"
        )
    if url.partition("://")[2].strip("/") in ("", ".", ".."):
        raise InputError(f"{name} {shown!r} names no bucket: write {scheme}://BUCKET/PATH")


def is_read_only(url: str) -> bool:
    """Return whether objects of this scheme cannot be listed and written."""
    return scheme_of(url) in _READ_ONLY


def read(url: str, begin: int, length: int) -> bytes:
    """Return bytes `begin` to ``begin + length - 1`` of an object.

    Raises
    ------
    FileNotFoundError, PermissionError, OSError
        If the object does not exist, may not be read, or could not be read after some tries. CutShort if it
        has fewer bytes.
    """
    if length == 0:
        return b""

    def once(system: Any, path: str) -> bytes:
        content = bytes(system.cat_file(path, start=begin, end=begin + length))
        if len(content) != length:
            raise CutShort(errno.EIO, f"got {len(content)} of {length} bytes")
        return content

    return _tried(url, "reading", once)


def read_whole(url: str) -> bytes:
    """Return an object. See :func:`read` for the errors. The length is compared with the announced one."""

    def once(system: Any, path: str) -> bytes:
        size = system.info(path).get("size")
        content = bytes(system.cat_file(path))
        if size is not None and len(content) != size:
            raise CutShort(errno.EIO, f"got {len(content)} of {size} bytes")
        return content

    return _tried(url, "reading", once)


def copy(url: str, file: Path) -> None:
    """Copy an object of https to a file in one request, for servers without ranges. Raise as `read`."""

    def once(system: Any, path: str) -> None:
        aiohttp = import_extra("aiohttp", "cloud", "https://")
        asyn = import_extra("fsspec.asyn", "cloud", "https://")
        limits = aiohttp.ClientTimeout(total=None, sock_read=60)  # the default limits the time of all
        size = system.info(path).get("size")
        get_file = functools.partial(system._get_file, path, str(file), timeout=limits)
        asyn.sync(system.loop, get_file)  # it takes an argument `timeout` for itself
        if size is not None and file.stat().st_size != size:
            raise CutShort(errno.EIO, f"got {file.stat().st_size} of {size} bytes")

    _tried(url, "reading", once)


def entry_of(url: str) -> Entry:
    """Return what the storage knows of an object or folder.

    Raises
    ------
    FileNotFoundError, PermissionError, OSError
    """
    return _tried(url, "looking up", lambda system, path: _entry(system.info(path)))


def children(url: str) -> list[Entry]:
    """Return the objects and folders directly below a folder, sorted by name.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, PermissionError, OSError
        If the folder does not exist, is an object, or cannot be listed.
    """
    if scheme_of(url) in _READ_ONLY:
        raise OSError(errno.ENOTSUP, "folders of https:// cannot be listed: name the files in a table")

    def once(system: Any, path: str) -> list[Entry]:
        own = path.strip("/")
        found = {}
        for one in system.ls(path, detail=True):
            entry = _entry(one)
            if one["name"].strip("/") != own:
                found[entry.name] = entry
            elif not (entry.is_folder or one["name"].endswith("/") or entry.size == 0):
                raise NotADirectoryError(errno.ENOTDIR, "it is an object, not a folder")
        return [found[name] for name in sorted(found)]

    return _tried(url, "listing", once)


def put(url: str, content: bytes) -> None:
    """Write an object in one request. An object of this name is replaced.

    Raises
    ------
    PermissionError, OSError
    """
    _put(url, content, "overwrite")


def put_if_absent(url: str, content: bytes) -> bool:
    """Write an object, unless there is one of this name. Return whether it was written.

    The storage decides, in one request, so of several writers one wins. A request that is tried again may
    find what its first try has written; then False is returned.

    Raises
    ------
    PermissionError, OSError
    """
    try:
        _put(url, content, "create")
    except FileExistsError:
        return False
    return True


def _put(url: str, content: bytes, mode: str) -> None:
    if scheme_of(url) in _READ_ONLY:
        raise OSError(errno.EROFS, "https:// can be read only: give a folder, or s3://, gs:// or az://")

    def once(system: Any, path: str) -> None:
        system.pipe_file(path, content, mode=mode)

    _tried(url, "writing", once)
    for wait in (*WAITS, 0.0):
        try:
            size = _tried(url, "checking", lambda system, path: system.info(path).get("size"))
        except FileNotFoundError:
            size = 0
        if size == len(content):
            return
        logger.warning(
            "%s has %s of %d bytes after it was written: it is written again",
            *(without_secrets(url), size, len(content)),
        )
        count("retries")
        time.sleep(wait * random.random())
        _tried(url, "writing", lambda system, path: system.pipe_file(path, content))
    raise OSError(errno.EIO, f"it has {size} of {len(content)} bytes after it was written")


def remove(url: str) -> None:
    """Remove an object. Nothing happens if there is none.

    Raises
    ------
    PermissionError, OSError
    """
    with suppress(FileNotFoundError):
        _tried(url, "removing", lambda system, path: system.rm_file(path))


def forget_connections() -> None:
    """Open connections anew, for example because environment variables have changed."""
    _filesystem.cache_clear()


def _tried(url: str, what: str, call: Callable[[Any, str], Result], tries: int = TRIES) -> Result:
    """Return ``call(filesystem, path)``. Try again if the storage fails for a moment."""
    shown = without_secrets(url)
    for attempt in range(1, tries + 1):
        try:
            system = _filesystem(scheme_of(url), os.getpid())
            return call(system, str(system._strip_protocol(url)))
        except (InputError, MissingExtraError):
            raise
        except Exception as caught:
            error = _cause_of(caught)
            failure = _as_file_error(error, shown)
            if failure is not None:
                raise failure from None  # the original text may hold secrets
            reason = _reason(error)
            if attempt == tries:
                if isinstance(error, CutShort):
                    raise CutShort(errno.EIO, reason, shown) from None
                raise OSError(errno.EIO, f"{reason}, after {tries} tries", shown) from None
        count("retries")
        wait = WAITS[min(attempt, len(WAITS)) - 1] * (0.5 + random.random() / 2)
        logger.warning(
            "%s %s failed (%s): try %d of %d in %.1f seconds", what, shown, reason, attempt + 1, tries, wait
        )
        time.sleep(wait)
    raise AssertionError("no tries")


def _cause_of(error: Exception) -> Exception:
    """Return why an object was not found, because fsspec says that of servers that are away, too."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        is_of_network = isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp")
        if is_of_network or _status(cause) is not None:
            return cause
    return error


def _as_file_error(error: Exception, shown: str) -> Exception | None:
    """Return the error of a file that says the same. None: another try may succeed."""
    kind = type(error).__name__
    status = _status(error)
    reason = _reason(error)
    if kind in _CREDENTIALS or status in (401, 403) or isinstance(error, PermissionError):
        advice = "check the credentials of the storage (environment variables or its configuration file)"
        return PermissionError(errno.EACCES, f"{reason}: {advice}", shown)
    if status == 404 or isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "there is no such object, folder or bucket", shown)
    if isinstance(error, MemoryError):
        return error
    if isinstance(error, FileExistsError | IsADirectoryError | NotADirectoryError):
        return type(error)(error.errno or errno.EIO, reason, shown)
    if isinstance(error, _DEFINITE) or (
        status is not None and 400 <= status < 500 and status not in _TRANSIENT_STATUS
    ):
        return OSError(errno.EINVAL, reason, shown)
    if isinstance(error, OSError) and error.errno in _DEFINITE_NUMBERS:
        return OSError(error.errno, reason, shown)
    return None


def _status(error: Exception) -> int | None:
    """Return the status of HTTP that an error names."""
    status = getattr(error, "status", None) or getattr(error, "status_code", None)
    response = getattr(error, "response", None)
    if status is None and isinstance(response, dict):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else None


def _reason(error: Exception) -> str:
    """Return what an error says, on one line and without secrets."""
    text = (error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)) or ""
    return without_secrets(f"{type(error).__name__}: {text}".removesuffix(": "))[:300]


def _entry(about: dict[str, Any]) -> Entry:
    name = str(about["name"]).rstrip("/").rpartition("/")[2]
    keys = ("ETag", "etag", "generation", "created", "LastModified", "Last-Modified", "mtime")
    stamps = [str(about[key]) for key in keys if about.get(key) is not None]
    is_folder, size = about.get("type") == "directory", about.get("size")
    size = 0 if is_folder else -1 if size is None else int(size)
    written = _seconds(about)
    named = next((str(about[key]) for key in keys[:3] if about.get(key) is not None), f"{written:.3f}")
    return Entry(name, size, is_folder, "/".join(stamps), written, named)


def _seconds(about: dict[str, Any]) -> float:
    for key in ("LastModified", "last_modified", "updated", "mtime", "created"):
        value = about.get(key)
        if isinstance(value, str):
            with suppress(ValueError):
                value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return math.inf


@functools.lru_cache(maxsize=16)
def _filesystem(scheme: str, process: int) -> Any:
    """Return the file system of a scheme. All threads of a process share it, and its connections."""
    module, extra = SCHEMES[scheme]
    purpose = f"a URL that begins with {scheme}://"
    fsspec = import_extra("fsspec", extra, purpose)
    import_extra(module, extra, purpose)
    system = fsspec.filesystem(scheme, skip_instance_cache=True)
    system.dircache.use_listings_cache = False  # a listing must show what other processes have written
    return system
