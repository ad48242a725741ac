"""A data set is downloaded from a server on this machine, checked, and unpacked completely or not at all."""

import http.server
import io
import json
import sys
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from medvlad import InputError, MissingExtraError, cli
from medvlad.datasets import download as module
from medvlad.datasets.download import REMOTE, Remote, RemoteFile, fetch

pytest.importorskip("pooch", reason="needs the extra fetch")

# The way pooch calls requests leaves connections for the garbage collector to close.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def picture(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


FILES = {
    f"chest_xray/{part}/{name}/{name}-{i}.jpeg": picture(i)
    for part in ("train", "test")
    for name in ("NORMAL", "PNEUMONIA")
    for i in range(2)
} | {"__MACOSX/chest_xray/train/NORMAL/._x.jpeg": b"junk"}


def zipped(files=FILES, links=()):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for name in links:
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o120777 << 16
            archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def deflated():
    """Return a zip with one large compressed file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "chest_xray/big.txt", np.random.default_rng(0).integers(0, 9, 20_000).astype(np.uint8).tobytes()
        )
    return buffer.getvalue()


def tarred(files=FILES, links=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
    return buffer.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        content = self.server.contents.get(self.path.strip("/"))
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.server.breaks_off else content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.contents, server.asked, server.breaks_off = {}, [], False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(module.MIRROR, f"http://127.0.0.1:{server.server_address[1]}/")
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def small(monkeypatch):
    """Return a function that registers a data set of eight images, in a zip or a tar."""

    def registered(ending="zip", sha256=None):
        file = RemoteFile(f"http://nowhere.invalid/small.{ending}", f"small.{ending}", sha256)
        monkeypatch.setitem(
            REMOTE, "small", Remote("Small", "none", "http://nowhere.invalid", "1 kB", "folder", (file,))
        )

    return registered


@pytest.fixture(params=["zip", "tar"])
def fetched(request, server, small, tmp_path):
    """The data set, downloaded into the folder "set"."""
    small(request.param)
    server.contents[f"small.{request.param}"] = zipped() if request.param == "zip" else tarred()
    return fetch("small", tmp_path / "set")


def test_the_images_of_a_download_are_listed(fetched, tmp_path):
    assert fetched.is_new
    assert fetched.root == tmp_path / "set" / "chest_xray"
    assert (len(fetched.dataset), fetched.dataset.class_names) == (8, ["NORMAL", "PNEUMONIA"])
    assert sorted(fetched.dataset.splits.tolist()) == ["test"] * 4 + ["train"] * 4


def test_every_file_of_the_archive_is_unpacked(fetched, tmp_path):
    for name, content in FILES.items():
        assert (tmp_path / "set" / name).read_bytes() == content


def test_the_checksum_is_kept_beside_the_data(fetched, tmp_path):
    kept = json.loads((tmp_path / "set" / "fetched.json").read_text())
    assert kept["sha256"] == fetched.sha256


def test_nothing_is_left_beside_the_data(fetched, tmp_path):
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_nothing_is_downloaded_twice(fetched, server, tmp_path):
    again = fetch("small", tmp_path / "set")
    assert not again.is_new
    assert again.sha256 == fetched.sha256
    assert len(server.asked) == 1


@pytest.fixture
def digest(server, small, tmp_path):
    """SHA-256 of the archive, of which the data set is in the folder "set"."""
    server.contents["small.zip"] = zipped()
    small()
    return fetch("small", tmp_path / "set").sha256["small.zip"]


def test_a_stated_checksum_that_fits_is_accepted(digest, small, tmp_path):
    small(sha256=digest)
    assert fetch("small", tmp_path / "b").is_new


def test_a_download_with_another_checksum_is_refused(digest, small, tmp_path):
    small(sha256="0" * 64)
    with pytest.raises(InputError, match="has another SHA-256 than 0000"):
        fetch("small", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_given_checksum_precedes_the_stated_one(digest, small, tmp_path):
    small(sha256="0" * 64)
    with pytest.raises(InputError, match="another SHA-256 than ffff"):
        fetch("small", tmp_path / "c", sha256="f" * 64)
    assert not (tmp_path / "c").exists()


def test_a_fetched_folder_must_come_from_the_archive_asked_for(digest, tmp_path):
    assert not fetch("small", tmp_path / "set", sha256=digest.upper()).is_new
    with pytest.raises(InputError, match="made from an archive with another SHA-256 than 0000"):
        fetch("small", tmp_path / "set", sha256="0" * 64)


def test_a_folder_of_another_data_set_is_refused(digest, tmp_path):
    record = tmp_path / "set" / "fetched.json"
    record.write_text(record.read_text().replace('"small"', '"other"'))
    with pytest.raises(InputError, match="holds other, not small"):
        fetch("small", tmp_path / "set")


@pytest.mark.parametrize("text", ["{}", "not JSON", "[]"])
def test_a_damaged_record_is_refused(digest, tmp_path, text):
    (tmp_path / "set" / "fetched.json").write_text(text)
    with pytest.raises(InputError, match=r"has a damaged fetched\.json"):
        fetch("small", tmp_path / "set")


@pytest.fixture
def without_pooch(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    small()


def test_an_archive_on_this_machine_needs_no_pooch(without_pooch, tmp_path):
    (tmp_path / "mine.zip").write_bytes(zipped())
    got = fetch("small", tmp_path / "set", archive=tmp_path / "mine.zip")
    assert len(got.dataset) == 8


def test_an_archive_with_another_checksum_is_refused(without_pooch, tmp_path):
    (tmp_path / "mine.zip").write_bytes(zipped())
    with pytest.raises(InputError, match="not 0000"):
        fetch("small", tmp_path / "other", archive=tmp_path / "mine.zip", sha256="0" * 64)


def test_a_missing_archive_is_refused(without_pooch, tmp_path):
    with pytest.raises(InputError, match=r"archive .*missing\.zip does not exist"):
        fetch("small", tmp_path / "other", archive=tmp_path / "missing.zip")


def test_lists_beside_the_archive_are_downloaded_too(server, monkeypatch, tmp_path):
    """MIT Indoor-67 is a tar of images and two lists."""
    names = [f"{place}/{i}.jpg" for place in ("bar", "closet") for i in range(4)]
    server.contents["indoorCVPR_09.tar"] = tarred({f"Images/{name}": picture(0) for name in names})
    server.contents["TrainImages.txt"] = "\n".join(names[::2]).encode()
    server.contents["TestImages.txt"] = "\n".join(names[1::2]).encode()
    got = fetch("mit-indoor", tmp_path / "mit")
    assert got.root == tmp_path / "mit"
    assert sorted(got.sha256) == ["TestImages.txt", "TrainImages.txt", "indoorCVPR_09.tar"]
    assert (got.dataset.splits == "train").sum() == 4


BAD = {
    "404": (None, "status 404: try again later, or download it in a browser"),
    "no archive": (b"<html>log in</html>", "neither a zip nor a tar"),
    "cut short": (zipped()[:-300], "neither a zip nor a tar|is damaged"),
    "changed inside": (zipped().replace(picture(1)[50:70], b"\0" * 20), "is damaged"),
    "out of the folder": (
        zipped(FILES | {"../../evil.txt": b"x"}),
        "unsafe, it would write '../../evil.txt'",
    ),
    "absolute": (zipped(FILES | {"/tmp/evil.txt": b"x"}), "unsafe"),
    "backslashes": (zipped(FILES | {"..\\evil.txt": b"x"}), "unsafe"),
    "a drive": (zipped(FILES | {"C:/evil.txt": b"x"}), "unsafe"),
    "a name of nothing": (tarred(FILES | {".": b"x"}), "unsafe|damaged"),
    "compressed and damaged": (deflated()[:2000] + bytes(40) + deflated()[2040:], "is damaged"),
    "a link in a zip": (zipped(links=["chest_xray/link"]), "as a link"),
    "a link in a tar": (tarred(links=["chest_xray/link"]), "as a link"),
    "another data set": (zipped({"a/b/c/readme.txt": b"x"}), "is not Small"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_download_is_refused_and_leaves_nothing(server, small, tmp_path, bad):
    content, told = BAD[bad]
    if content is not None:
        server.contents["small.zip"] = content
    small()
    with pytest.raises(InputError, match=told) as refused:
        fetch("small", tmp_path / "set")
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []
    assert not (tmp_path.parent / "evil.txt").exists()


def test_a_broken_connection_leaves_nothing(server, small, tmp_path):
    server.contents["small.zip"] = zipped()
    server.breaks_off = True
    small()
    with pytest.raises(InputError, match=r"cannot be reached, or the connection broke .*archive=FILE"):
        fetch("small", tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_is_named(small, tmp_path, monkeypatch):
    monkeypatch.setenv(module.MIRROR, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    small()
    with pytest.raises(InputError, match=r"http://127.0.0.1:9/small.zip cannot be reached"):
        fetch("small", tmp_path / "set")


def test_an_archive_larger_than_the_free_space_is_refused(server, small, tmp_path, monkeypatch):
    server.contents["small.zip"] = zipped()
    small()
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(InputError, match=r"unpacks to 0\.0 GB, and there is room for"):
        fetch("small", tmp_path / "set")


def test_a_folder_of_something_else_is_left_alone(small, tmp_path):
    small()
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        fetch("small", tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_download_without_pooch_names_the_extra(without_pooch, tmp_path):
    with pytest.raises(MissingExtraError, match=r"medvlad\[fetch\]"):
        fetch("small", tmp_path / "set")


@pytest.fixture
def run(capsys, monkeypatch):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["medvlad", "fetch", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return call


def test_the_command_says_what_came_and_what_to_do_next(run, server, small, tmp_path):
    server.contents["small.zip"] = zipped()
    small()
    status, out, _ = run("small", "--to", tmp_path / "set")
    assert status == 0
    assert "8 images of 2 classes" in out
    assert f"medvlad evaluate {tmp_path / 'set' / 'chest_xray'} --layout folder" in out
    assert "already there" in run("small", "--to", tmp_path / "set")[1]


def test_the_command_lists_all_data_sets(run, small):
    small()
    status, out, _ = run("--list")
    assert status == 0
    assert all(f"{name}: " in out for name in REMOTE)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("cifar",), "must be one of"),
        ((), "name a data set"),
        (("chest-xray-kaggle",), "cannot be fetched by a program"),
    ],
)
def test_a_mistake_on_the_command_line_has_status_2(run, arguments, told):
    status, _, error = run(*arguments)
    assert status == 2
    assert told in error
    assert "Traceback" not in error
