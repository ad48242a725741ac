"""Unpack zip and tar archives of strangers without letting them write elsewhere.

All members are checked before the first one is written. An archive is refused as a whole if it holds a link,
a device or a name that leads out of the folder, or if it needs more room than the disk has.

zipfile and tarfile extract the members, tarfile with its data filter. The checks are our own, because:

- ``zipfile`` writes ``../evil.txt`` as ``evil.txt`` and a symbolic link as a text file. The data filter of
  ``tarfile`` writes ``/tmp/evil.txt`` as ``tmp/evil.txt`` and allows links inside the folder. An archive that
  tries this should not be used at all, so it is refused.
- The data filter exists from Python 3.11.4 on, and Debian 12 has 3.11.2.
- ``pooch.Unzip`` and ``pooch.Untar`` add no checks to these, do not look at the free space, and use the data
  filter only from Python 3.12 on. They must be chosen before the content is known, and pooch is not installed
  if the user gives an archive.
"""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from medvlad._util.validate import InputError

__all__ = ["unpack"]

_ROOM = 1.05  # free space needed, relative to the sizes that an archive states

#: Options of TarFile.extract: owner, permissions and times of the archive are not taken over.
_TAR_OPTIONS: dict[str, Any] = {"set_attrs": False}
if hasattr(tarfile, "data_filter"):
    _TAR_OPTIONS["filter"] = "data"


@dataclass(frozen=True)
class _Member:
    """A file in an archive. Folders are not members: they are made if a file needs them.

    Attributes
    ----------
    name : str
        With slashes.
    size : int
        In bytes.
    is_file : bool
        False for links and devices.
    extract : callable
        Writes it into the folder.
    """

    name: str
    size: int
    is_file: bool
    extract: Callable[[], object]


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar archive into a folder.

    Parameters
    ----------
    archive : Path
        Its content tells whether it is zip or tar.
    folder : Path
        Must exist. If an error is raised, it may hold some of the files.

    Raises
    ------
    InputError
        If the archive is neither zip nor tar, is damaged or unsafe, needs more room than is free, or cannot
        be written.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _unpack_members(archive, folder, list(_members_of_zip(opened, folder)))
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as opened_tar:
                _unpack_members(archive, folder, list(_members_of_tar(opened_tar, folder)))
        else:
            raise InputError(f"{archive} is neither a zip nor a tar archive: download it again")
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        IndexError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise InputError(f"{archive} is damaged ({_short(error)}): download it again") from error
    except OSError as error:
        raise InputError(f"{archive} cannot be unpacked ({error.strerror or _short(error)})") from error


def _short(error: Exception) -> str:
    return str(error).split("\n")[0][:200]


def _members_of_zip(opened: zipfile.ZipFile, folder: Path) -> Iterator[_Member]:
    for info in opened.infolist():
        info.filename = info.filename.replace("\\", "/")  # some programs on Windows write backslashes
        if not info.is_dir():
            kind = stat.S_IFMT(info.external_attr >> 16)
            is_file = kind in (0, stat.S_IFREG)  # 0: written on a system without kinds of files
            yield _Member(info.filename, info.file_size, is_file, partial(opened.extract, info, folder))


def _members_of_tar(opened: tarfile.TarFile, folder: Path) -> Iterator[_Member]:
    for info in opened.getmembers():
        if not info.isdir():
            info.name = info.name.replace("\\", "/")
            extract = partial(opened.extract, info, folder, **_TAR_OPTIONS)
            yield _Member(info.name, info.size, info.isreg(), extract)


def _unpack_members(archive: Path, folder: Path, members: list[_Member]) -> None:
    for member in members:
        if not member.is_file or not _is_below(member.name):
            raise InputError(
                f"{archive} is unsafe, it would write {member.name!r} elsewhere or as a link: do not use it"
            )
    size, free = sum(member.size for member in members), shutil.disk_usage(folder).free
    if size * _ROOM > free:
        raise InputError(
            f"{archive} unpacks to {size / 1e9:.1f} GB, and there is room for {free / 1e9:.1f} GB: make "
            "room, or name a folder on another disk"
        )
    for member in members:
        member.extract()
        if (folder / member.name).stat().st_size != member.size:
            raise InputError(f"{archive} is damaged, {member.name!r} is cut short: download it again")


def _is_below(name: str) -> bool:
    """Return whether a name, with slashes, leads to a file below the folder on every system."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and ":" not in path.parts[0]
