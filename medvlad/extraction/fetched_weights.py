"""Files of weights: a URL is copied to the cache of this machine, and a SHA-256 is checked.

::

    s3://bucket/vgg19.weights.h5
    https://host/vgg19.weights.h5#sha256=3b1f...     the copy must have this SHA-256
    vgg19.weights.h5#sha256=3b1f...                  the file must have it

The copies lie in ``fetched-weights`` in the folder of :mod:`medvlad._util.cache_folder`. Without a SHA-256
the storage is asked each time whether the object has changed. A new copy replaces the older one of this URL.
If the storage does not tell when the object was written, each process copies it once.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from medvlad._util.atomic_file import atomic_file
from medvlad._util.cache_folder import cache_folder
from medvlad._util.object_path import ObjectPath, check_reached, location
from medvlad._util.object_storage import copy, is_read_only
from medvlad._util.urls import is_url, without_secrets
from medvlad._util.validate import InputError, one_line

__all__ = ["check_weights_url", "weights_file", "without_digest"]

_SHA256 = re.compile("[0-9a-f]{64}")
_WITH_DIGEST = re.compile("#sha256=[0-9a-fA-F]{64}$")
_BLOCK = 4 << 20


def check_weights_url(source: str) -> str:
    """Return the URL of weights as it is kept in models and results. The object is not looked at.

    Raises
    ------
    InputError
        If it is no URL that is read, or holds a query, which models and results would show.
    """
    _parts(source)
    return source


def weights_file(source: str) -> Path:
    """Return the file of weights on this machine. The object at a URL is copied to the cache.

    Parameters
    ----------
    source : str
        A path, or a URL, which may end in ``#sha256=HEX``.

    Raises
    ------
    InputError
        If the file or object does not exist, cannot be read, or has another SHA-256; or if the cache cannot
        be written.
    """
    if not is_url(source):
        file = Path(without_digest(source))
        if expected := source.removeprefix(without_digest(source)).removeprefix("#sha256="):
            _check_digest(file, expected)
        return file
    path, expected = _parts(source)
    try:
        return _in_cache(path, expected)
    except FileNotFoundError:
        raise InputError(f"there are no weights {path}: check the URL") from None
    except (OSError, RuntimeError) as error:
        is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if isinstance(error, OSError) and error.filename == str(path) and not is_full:
            check_reached(path, error)
            raise InputError(f"the weights {path} cannot be read ({error.strerror}): check the URL") from None
        raise InputError(
            f"the weights {path} cannot be copied to the cache ({one_line(error)}): check the disk, or set "
            "XDG_CACHE_HOME to another folder"
        ) from None


def without_digest(source: str) -> str:
    """Return a path or a URL of weights without the SHA-256 behind it."""
    return source.partition("#")[0] if is_url(source) else _WITH_DIGEST.sub("", source)


def _in_cache(path: ObjectPath, expected: str) -> Path:
    """Return the copy of an object. Make it if there is none, or if it may be an old one."""
    copies = cache_folder() / "fetched-weights"
    if expected:
        target, is_known = copies / expected / path.name, True
    else:
        entry = path.entry()
        if entry.is_folder:
            raise InputError(f"the weights {path} are a folder: give the URL of a file")
        copies /= _sha256(path.url)
        target, is_known = copies / _sha256(f"{entry.size} {entry.stamp}") / path.name, bool(entry.stamp)
    copied = _copied(os.getpid())
    if not ((is_known or target in copied) and target.is_file()):
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(path, target, expected)
        copied.add(target)
        if not expected:
            _remove_others(target)
    return target


@functools.lru_cache(maxsize=1)
def _copied(process: int) -> set[Path]:
    """Return the copies that this process has made. It is empty in a process that was forked."""
    return set()


def _remove_others(target: Path) -> None:
    """Remove the copies of earlier versions of an object. Those that another process writes stay."""
    for folder in target.parent.parent.iterdir():
        if folder != target.parent:
            with suppress(OSError):
                (folder / target.name).unlink()
                folder.rmdir()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _check_digest(file: Path, expected: str) -> None:
    try:
        found = _digest_of(file)
    except OSError as error:
        raise InputError(f"the weights {file} cannot be read ({error.strerror}): check the path") from None
    if found != expected.lower():
        raise InputError(
            f"the weights {file} have the SHA-256 {found}, not {expected}: copy the file again, or leave "
            "#sha256= out if you trust it"
        )


def _parts(source: str) -> tuple[ObjectPath, str]:
    """Return the path of the object, and the SHA-256 that is given with it."""
    url, _, given = source.partition("#")
    if "?" in url:
        raise InputError(
            f"the weights {without_secrets(url)!r} have a '?' in their URL, and models would keep what is "
            "behind it: leave it out, or copy the file"
        )
    path = location(url, "the weights")
    expected = given.removeprefix("sha256=").lower()
    if given and (not given.startswith("sha256=") or _SHA256.fullmatch(expected) is None):
        raise InputError(
            f"the weights {without_secrets(url)!r} end in {'#' + given!r}: write #sha256= and 64 hexadecimal "
            "digits, or leave it out"
        )
    if not isinstance(path, ObjectPath):  # file://
        raise InputError(f"the weights {source!r} are a file of this machine: give its path, {path}")
    return path, expected


def _copy(path: ObjectPath, target: Path, expected: str) -> None:
    with atomic_file(target) as file:
        if is_read_only(path.url):
            copy(path.url, Path(file.name))
        else:
            with path.open("rb") as opened:
                shutil.copyfileobj(opened, file, _BLOCK)
            file.flush()
        if expected and (found := _digest_of(Path(file.name))) != expected:
            raise InputError(
                f"the weights {path} have the SHA-256 {found}, not {expected}: check the URL, or leave "
                "#sha256= out if you trust the file"
            )
    with suppress(OSError):
        target.chmod(0o644)


def _digest_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
