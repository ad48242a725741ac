"""Download the paper's data sets from their publishers, check and unpack them.

If a publisher states no checksum, the SHA-256 of the download is printed and kept beside the data
(``fetched.json``), so that another machine can be told to accept nothing else. Archives are unpacked by
:mod:`medvlad.datasets.archives`.

A data set appears under its name once it is complete and its loader has listed it. An interrupted run leaves
nothing behind.

The addresses in `REMOTE` could not be tried when this was written, because the machine only reached a package
index. Tests use a local server.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from medvlad._util.validate import InputError, check_choice, check_local, import_extra
from medvlad.datasets.archives import unpack
from medvlad.datasets.folders import ImageFolder
from medvlad.datasets.published import LAYOUTS

__all__ = ["REMOTE", "Fetched", "Remote", "RemoteFile", "fetch"]

logger = logging.getLogger(__name__)

#: Environment variable with the address of a web folder that holds the same files, for machines that cannot
#: reach the publishers.
MIRROR = "MEDVLAD_DATA_MIRROR"

_RECORD = "fetched.json"

_REASONS = {
    "ConnectTimeout": "no answer in time",
    "ReadTimeout": "no answer in time",
    "ProxyError": "the proxy refuses",
    "SSLError": "its certificate is not trusted here",
    "ConnectionError": "no connection",
}


@dataclass(frozen=True)
class RemoteFile:
    """A file of a data set, to be downloaded.

    Attributes
    ----------
    address : str
        URL.
    name : str
        Name of the local file. The endings .zip and .tar mark archives.
    sha256 : str or None
        Checksum that the publisher states. None: the publisher states none.
    """

    address: str
    name: str
    sha256: str | None = None

    @property
    def is_archive(self) -> bool:
        """Whether the file has to be unpacked."""
        return self.name.endswith((".zip", ".tar"))


@dataclass(frozen=True)
class Remote:
    """A published data set.

    Attributes
    ----------
    title, licence, home, size : str
        `home` is the URL of the publisher's page.
    layout : str
        Key of `medvlad.datasets.published.LAYOUTS`.
    files : tuple of RemoteFile
        Files to download. Empty: a person has to download the data set.
    by_hand : str
        What that person has to do.
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
    """A data set on this machine.

    Attributes
    ----------
    root : Path
        Folder to give to other commands.
    dataset : ImageFolder
        Its images.
    sha256 : dict of str to str
        SHA-256 of each downloaded file, by its name.
    is_new : bool
        False: the data set had been fetched before.
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
        Key of :data:`REMOTE`.
    folder : path or None, default None
        Folder for the data set: new, empty, or one that it was fetched into before. None: a folder called
        `name` in the current folder.
    archive : path or None, default None
        Archive of the data set that is on this machine already. None: download it.
    sha256 : str or None, default None
        Checksum that the archive must have. None: the one that the publisher states, if any.

    Returns
    -------
    Fetched

    Raises
    ------
    InputError
        If the data set is unknown or a person has to download it, `folder` holds something else, an address
        cannot be reached, a checksum differs, an archive is damaged or unsafe, or images are missing.
    MissingExtraError
        If pooch is not installed and something must be downloaded.
    """
    remote = REMOTE[check_choice(name, "the data set", tuple(REMOTE))]
    if not remote.files:
        raise InputError(f"{name} cannot be fetched by a program: at {remote.home} {remote.by_hand}")
    target = check_local(name if folder is None else folder, "the folder")
    record = target / _RECORD
    if record.is_file():
        digests = _read_record(record, name)
        archives = {file.name for file in remote.files if file.is_archive}
        if sha256 is not None and any(digests.get(one) != sha256.lower() for one in archives):
            raise InputError(
                f"{target} was made from an archive with another SHA-256 than {sha256}: name another folder"
            )
        root, dataset = _look_through(target, remote)
        return Fetched(root, dataset, digests, is_new=False)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} holds something else: name another folder, or remove it")
    try:
        digests = _make_folder(target, name, remote, archive, sha256)
    except OSError as error:
        what = error.filename or target
        raise InputError(
            f"{target} cannot be made ({what}: {error.strerror or error}): check the folder and the disk"
        ) from error
    root, dataset = _look_through(target, remote)
    return Fetched(root, dataset, digests, is_new=True)


def _make_folder(
    target: Path, name: str, remote: Remote, archive: str | os.PathLike[str] | None, sha256: str | None
) -> dict[str, str]:
    """Make the folder of the data set, completely or not at all. Return the checksums of its files."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as made:
        downloads, unpacked = Path(made) / "downloads", Path(made) / target.name
        unpacked.mkdir()
        digests = dict[str, str]()
        for file in remote.files:
            wanted = sha256 if file.is_archive and sha256 is not None else file.sha256
            if file.is_archive and archive is not None:
                local = check_local(archive, "the archive")
                _check_archive(local, wanted)
            else:
                local = _download(file, downloads, wanted, remote)
            digests[file.name] = _digest(local)
            if file.is_archive:
                unpack(local, unpacked)
            else:
                shutil.copyfile(local, unpacked / file.name)
        _look_through(unpacked, remote)
        addresses = [file.address for file in remote.files]
        text = json.dumps({"name": name, "addresses": addresses, "sha256": digests}, indent=2)
        (unpacked / _RECORD).write_text(text + "\n", encoding="utf-8")
        if target.exists():
            target.rmdir()  # empty
        unpacked.rename(target)
    return digests


def _check_archive(archive: Path, sha256: str | None) -> None:
    """Check that an archive of the user exists and has the expected checksum, if there is one."""
    if not archive.is_file():
        raise InputError(f"archive {archive} does not exist: name the file that you downloaded")
    if sha256 is not None and (found := _digest(archive)) != sha256.lower():
        raise InputError(f"{archive} has SHA-256 {found}, not {sha256}: download it again")


def _read_record(record: Path, name: str) -> dict[str, str]:
    """Read the checksums of a data set that was fetched before."""
    try:
        kept = json.loads(record.read_text(encoding="utf-8"))
        digests = {str(file): str(digest) for file, digest in kept["sha256"].items()}
        if kept["name"] == name:
            return digests
        reason = f"holds {kept['name']}, not {name}"
    except (ValueError, KeyError, TypeError, AttributeError):
        reason = f"has a damaged {record.name}"
    raise InputError(f"{record.parent} {reason}: name another folder, or remove it")


def _download(file: RemoteFile, folder: Path, sha256: str | None, remote: Remote) -> Path:
    pooch = import_extra("pooch", "fetch", "downloading")
    requests = import_extra("requests", "fetch", "downloading")
    mirror = os.environ.get(MIRROR)
    address = f"{mirror.rstrip('/')}/{file.name}" if mirror else file.address
    pooch.get_logger().setLevel("ERROR")  # it asks for a checksum in the code; the command prints it
    by_hand = f"download it in a browser from {remote.home} and pass archive=FILE"
    try:
        path = pooch.retrieve(
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
        raise InputError(
            f"{address} cannot be reached, or the connection broke ({_why(error)}): {by_hand}"
        ) from error
    except ValueError as error:
        raise InputError(
            f"the download from {address} has another SHA-256 than {sha256}: do not use it"
        ) from error
    except OSError as error:
        raise InputError(
            f"{address} cannot be written to {folder} ({error.strerror or error}): check folder and disk"
        ) from error
    return Path(path)


def _why(error: Exception) -> str:
    """Name the cause in words that help a user: requests nests exceptions in each other."""
    return _REASONS.get(type(error).__name__, type(error).__name__)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _look_through(folder: Path, remote: Remote) -> tuple[Path, ImageFolder]:
    """Find the root of the data set at most two levels below `folder`, and list its images."""
    reason: InputError | None = None
    below = [folder, *sorted(folder.glob("*/")), *sorted(folder.glob("*/*/"))]
    for root in below:
        if root.name.startswith((".", "__")):
            continue
        try:
            return root, LAYOUTS[remote.layout](root, random_state=0)
        except InputError as error:
            reason = reason or error
    raise InputError(f"the archive is not {remote.title}: {reason}")
