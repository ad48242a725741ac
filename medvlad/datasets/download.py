"""The paper's data sets from their official homes: downloaded, checked, unpacked, looked through.

Where the publisher states no checksum, the SHA-256 of what came is printed and kept beside the data
(`fetched.json`), so that another machine can be told to accept nothing else. Archives are somebody else's: no
member may leave the folder, be a link or a device, or unpack to more than the disk has room for. A data set
appears under its name once it is whole and its loader has read it; an interrupted run leaves nothing.

None of these addresses could be tried where this was written, which reaches a package index only; how they
are used is tested against a local server.
"""

from __future__ import annotations

import hashlib
import json
import logging
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from medvlad._util.validate import InputError, check_choice, import_extra
from medvlad.datasets.folders import ImageFolder
from medvlad.datasets.published import LAYOUTS

__all__ = ["REMOTE", "Fetched", "Remote", "RemoteFile", "fetch"]

logger = logging.getLogger(__name__)

#: Names a folder of the web that holds the same files, for machines that do not reach their homes.
MIRROR = "MEDVLAD_DATA_MIRROR"

_RECORD = "fetched.json"
_ROOM = 1.05  # of what an archive says it unpacks to

_REASONS = {
    "ConnectTimeout": "no answer in time",
    "ReadTimeout": "no answer in time",
    "ProxyError": "the proxy refuses",
    "SSLError": "its certificate is not trusted here",
    "ConnectionError": "no connection",
}


@dataclass(frozen=True)
class RemoteFile:
    """A file of a data set.

    Attributes
    ----------
    address : str
    name : str
        What it is called here; archives by their ending: .zip, .tar.
    sha256 : str or None
        As the publisher states it.
    """

    address: str
    name: str
    sha256: str | None = None

    @property
    def is_archive(self) -> bool:
        """Whether it is to be unpacked."""
        return self.name.endswith((".zip", ".tar"))


@dataclass(frozen=True)
class Remote:
    """A data set that can be fetched, or that must be by hand.

    Attributes
    ----------
    title, licence, home, size : str
    layout : str
        A key of `medvlad.datasets.published.LAYOUTS`.
    files : tuple of RemoteFile
        None of them where it must be fetched by hand.
    by_hand : str
        What to do then.
    """

    title: str
    licence: str
    home: str
    size: str
    layout: str
    files: tuple[RemoteFile, ...] = ()
    by_hand: str = ""


REMOTE: dict[str, Remote] = {
    "chest-xray": Remote(
        "Paediatric chest X-rays, 5,232 + 624 images (Kermany, Zhang & Goldbaum 2018)",
        "CC BY 4.0",
        "https://data.mendeley.com/datasets/rscbjbr9sj/2",
        "1.2 GB",
        "chest-xray",
        (
            RemoteFile(
                "https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/"
                "f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded",
                "ChestXRay2017.zip",
            ),
        ),
    ),
    "kvasir-v2": Remote(
        "Kvasir v2, 8,000 endoscopy images of 8 classes (Pogorelov et al. 2017)",
        "for research and education, see its home",
        "https://datasets.simula.no/kvasir/",
        "2.3 GB",
        "kvasir-v2",
        (
            RemoteFile(
                "https://datasets.simula.no/downloads/kvasir/kvasir-dataset-v2.zip", "kvasir-dataset-v2.zip"
            ),
        ),
    ),
    "mit-indoor": Remote(
        "MIT Indoor-67, 15,620 images, and the lists of its split (Quattoni & Torralba 2009)",
        "for research, see its home",
        "https://web.mit.edu/torralba/www/indoor.html",
        "2.4 GB",
        "mit-indoor",
        (
            RemoteFile(
                "http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar", "indoorCVPR_09.tar"
            ),
            RemoteFile("http://web.mit.edu/torralba/www/TrainImages.txt", "TrainImages.txt"),
            RemoteFile("http://web.mit.edu/torralba/www/TestImages.txt", "TestImages.txt"),
        ),
    ),
    "chest-xray-kaggle": Remote(
        "Kaggle's copy of the chest X-rays, with a folder val",
        "CC BY 4.0, after logging in",
        "https://www.kaggle.com/datasets/paultimothymooney/chest-xray-pneumonia",
        "1.2 GB",
        "chest-xray",
        by_hand="log in there, accept its terms, download archive.zip, and unpack it yourself or give it to "
        "medvlad fetch chest-xray --archive archive.zip; chest-xray, without a login, holds the same images",
    ),
}


@dataclass(frozen=True)
class Fetched:
    """A data set that is there.

    Attributes
    ----------
    root : Path
        The folder to give to other commands.
    dataset : ImageFolder
    sha256 : dict of str to str
        Of each file that came, by its name.
    is_new : bool
        False where it was there before.
    """

    root: Path
    dataset: ImageFolder
    sha256: dict[str, str]
    is_new: bool


def fetch(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    archive: str | os.PathLike[str] | None = None,
    sha256: str | None = None,
) -> Fetched:
    """Download a data set and unpack it.

    Parameters
    ----------
    name : str
        A key of :data:`REMOTE`.
    folder : path or None
        Where it is wanted; None: a folder of that name here.
    archive : path or None
        The data set's archive, downloaded otherwise; nothing is downloaded in its place.
    sha256 : str or None
        What the archive's must be.

    Returns
    -------
    Fetched

    Raises
    ------
    InputError
        If there is no such data set, it must be fetched by hand, `folder` holds something else, an address
        cannot be reached, a checksum is another, an archive is damaged or unsafe, or the data are not whole.
    MissingExtraError
        If pooch is not installed and something must be downloaded.
    """
    remote = REMOTE[check_choice(name, "the data set", tuple(REMOTE))]
    if not remote.files:
        raise InputError(f"{name} cannot be fetched by a program: at {remote.home} {remote.by_hand}")
    target = Path(name if folder is None else folder)
    record = target / _RECORD
    if record.is_file():
        digests = _recorded(record, name)
        archives = {file.name for file in remote.files if file.is_archive}
        if sha256 is not None and any(digests.get(one) != sha256.lower() for one in archives):
            raise InputError(
                f"{target} was made of another archive than {sha256}: name another folder (--to)"
            )
        root, dataset = _look_through(target, remote)
        return Fetched(root, dataset, digests, is_new=False)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} holds something else: name another folder (--to), or remove it")
    try:
        digests = _made(target, name, remote, archive, sha256)
    except OSError as error:
        what = error.filename or target
        raise InputError(f"{target} cannot be made ({what}: {error.strerror or error})") from error
    root, dataset = _look_through(target, remote)
    return Fetched(root, dataset, digests, is_new=True)


def _made(
    target: Path, name: str, remote: Remote, archive: str | os.PathLike[str] | None, sha256: str | None
) -> dict[str, str]:
    """Make the data set's folder, whole or not at all; return the checksums of what came."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as made:
        downloads, unpacked = Path(made) / "downloads", Path(made) / target.name
        unpacked.mkdir()
        digests = dict[str, str]()
        for file in remote.files:
            wanted = sha256 if file.is_archive and sha256 is not None else file.sha256
            if file.is_archive and archive is not None:
                came = Path(archive)
                if not came.is_file():
                    raise InputError(f"there is no archive {came}: name the file that you downloaded")
                digests[file.name] = _digest(came)
                if wanted is not None and digests[file.name] != wanted.lower():
                    raise InputError(
                        f"{came} has SHA-256 {digests[file.name]}, not {wanted}: download another"
                    )
            else:
                came = _download(file, downloads, wanted, remote)
                digests[file.name] = _digest(came)
            if file.is_archive:
                _unpack(came, unpacked)
            else:
                shutil.copyfile(came, unpacked / file.name)
        _look_through(unpacked, remote)
        addresses = [file.address for file in remote.files]
        text = json.dumps({"name": name, "addresses": addresses, "sha256": digests}, indent=2)
        (unpacked / _RECORD).write_text(text + "\n", encoding="utf-8")
        if target.exists():
            target.rmdir()  # empty
        unpacked.rename(target)
    return digests


def _recorded(record: Path, name: str) -> dict[str, str]:
    """Read the checksums of a data set that is there."""
    try:
        kept = json.loads(record.read_text(encoding="utf-8"))
        digests = {str(file): str(digest) for file, digest in kept["sha256"].items()}
        if kept["name"] == name:
            return digests
        reason = f"holds {kept['name']}, not {name}"
    except (ValueError, KeyError, TypeError, AttributeError):
        reason = f"has a damaged {record.name}"
    raise InputError(f"{record.parent} {reason}: name another folder (--to), or remove it")


def _download(file: RemoteFile, folder: Path, sha256: str | None, remote: Remote) -> Path:
    pooch = import_extra("pooch", "fetch", "downloading")
    requests = import_extra("requests", "fetch", "downloading")
    mirror = os.environ.get(MIRROR)
    address = f"{mirror.rstrip('/')}/{file.name}" if mirror else file.address
    pooch.get_logger().setLevel("ERROR")  # it would ask for the checksum to be stated; ours is printed
    by_hand = f"get it in a browser from {remote.home} and give it to --archive"
    try:
        came = pooch.retrieve(
            address,
            known_hash=None if sha256 is None else f"sha256:{sha256.lower()}",
            fname=file.name,
            path=folder,
            downloader=pooch.HTTPDownloader(progressbar=True, timeout=60),
        )
    except requests.exceptions.HTTPError as error:
        status = error.response.status_code if error.response is not None else "no"
        raise InputError(f"{address} answers with status {status}: try again later, or {by_hand}") from error
    except requests.exceptions.RequestException as error:
        raise InputError(f"{address} cannot be reached, or broke off ({_why(error)}): {by_hand}") from error
    except ValueError as error:
        raise InputError(f"what {address} sent has another SHA-256 than {sha256}: do not use it") from error
    except OSError as error:
        raise InputError(f"{address} cannot be written to {folder} ({error.strerror or error})") from error
    return Path(came)


def _short(error: Exception) -> str:
    return str(error).split("\n")[0][:200]


def _why(error: Exception) -> str:
    """Return what a user can do something with: requests wraps exceptions into each other."""
    return _REASONS.get(type(error).__name__, type(error).__name__)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive of files and folders that stay below `folder`."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _unpack_members(archive, folder, _members_of_zip(opened))
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as opened_tar:
                _unpack_members(archive, folder, _members_of_tar(opened_tar))
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


#: Name, size in bytes, whether an ordinary file (folders are left out), and what opens it.
Member = tuple[str, int, bool, Callable[[], Any]]


def _members_of_zip(opened: zipfile.ZipFile) -> Iterator[Member]:
    for info in opened.infolist():
        if not info.is_dir():
            kind = stat.S_IFMT(info.external_attr >> 16)
            yield info.filename, info.file_size, kind in (0, stat.S_IFREG), partial(opened.open, info)


def _members_of_tar(opened: tarfile.TarFile) -> Iterator[Member]:
    for info in opened.getmembers():
        if not info.isdir():
            yield info.name, info.size, info.isreg(), partial(opened.extractfile, info)


def _unpack_members(archive: Path, folder: Path, members: Iterator[Member]) -> None:
    listed = list(members)
    for name, _, is_file, _ in listed:
        inside = PurePosixPath(name.replace("\\", "/"))
        parts = inside.parts
        if not parts or inside.is_absolute() or ".." in parts or ":" in parts[0] or not is_file:
            raise InputError(
                f"{archive} is unsafe, it would write {name!r} elsewhere or as a link: do not use it"
            )
    size, free = sum(size for _, size, _, _ in listed), shutil.disk_usage(folder).free
    if size * _ROOM > free:
        raise InputError(
            f"{archive} unpacks to {size / 1e9:.1f} GB, and there is room for {free / 1e9:.1f} GB: make "
            "room, or name a folder on another disk (--to)"
        )
    for name, declared, _, open_member in listed:
        path = folder / name.replace("\\", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_member() as source, path.open("wb") as file:
            shutil.copyfileobj(source, file)
        if path.stat().st_size != declared:
            raise InputError(f"{archive} is damaged, {name!r} is cut short: download it again")


def _look_through(folder: Path, remote: Remote) -> tuple[Path, ImageFolder]:
    """Find the data set's own folder at most two levels below, and read its lists."""
    reason: InputError | None = None
    below = [folder, *sorted(folder.glob("*/")), *sorted(folder.glob("*/*/"))]
    for root in below:
        if root.name.startswith((".", "__")):
            continue
        try:
            return root, LAYOUTS[remote.layout](root, random_state=0)
        except InputError as error:
            reason = reason or error
    raise InputError(f"what was unpacked is not {remote.title}: {reason}")
