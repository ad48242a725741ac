"""Paths of objects behave as paths of files, and errors as those of files."""

import copy
import io
import pickle
import stat
import uuid
from pathlib import Path

import pytest
from support.object_storage import SECRET, busy, faulty, no_waits, silent_cut_put

from medvlad import InputError
from medvlad._util import object_storage
from medvlad._util.counters import counting
from medvlad._util.object_path import (
    ObjectPath,
    RangeReader,
    check_output,
    location,
    outside,
    plain,
    save_bytes,
)
from medvlad._util.validate import MissingExtraError

pytest.importorskip("fsspec", reason="needs the extra cloud")


@pytest.fixture
def folder(monkeypatch):
    no_waits(monkeypatch)
    return location(f"memory://{uuid.uuid4().hex}/a", "the folder")


def test_paths_of_this_machine_stay():
    assert location("a/b", "x") == Path("a/b")
    assert type(location(Path("a"), "x")) is type(Path("a"))
    assert location("file:///tmp/a%20b", "x") == Path("/tmp/a b")
    assert plain(Path("a/b")) == "a/b"


def test_parts_of_a_path():
    path = location("s3://bucket/a/b.tif", "x")
    assert (path.name, path.suffix, path.stem) == ("b.tif", ".tif", "b")
    assert str(path.parent / "c") == "s3://bucket/a/c"
    assert path.with_name("d").url == "s3://bucket/a/d"
    assert path.relative_to(location("s3://bucket", "x")).as_posix() == "a/b.tif"
    assert location("s3://bucket", "x") in path.parents
    for same in (location(str(path), "x"), location(Path("s3://bucket/a/b.tif"), "x"), copy.deepcopy(path)):
        assert same == path
        assert hash(same) == hash(path)
    assert pickle.loads(pickle.dumps(path)) == path
    assert path.resolve() is path.absolute() is path
    assert path != Path("s3:/bucket/a/b.tif")


def test_the_query_of_a_signed_url_is_used_and_not_shown():
    path = location(f"https://h:80/x.png?X-Amz-Signature={SECRET}", "x")
    url = f"https://h:80/x.png?X-Amz-Signature={SECRET.replace('/', '%2F')}"
    assert path.url == url
    assert path.name == "x.png"
    assert SECRET not in f"{path} {path!r} {path.as_posix()}"
    assert path != location("https://h:80/x.png?X-Amz-Signature=other", "x")
    assert pickle.loads(pickle.dumps(path)).url == url
    assert plain(path) is path
    with pytest.raises(InputError, match="left out to hide it"):
        location(str(path), "x")


@pytest.mark.parametrize(
    "url", ["s3://", "s3://a//b", "s3://a/../b", "ftp://h/x", f"s3://k:{SECRET}@b/x", "s3://b/x?y"]
)
def test_other_urls_are_refused(url):
    with pytest.raises(InputError, match=r"^the store '") as raised:
        location(url, "the store")
    assert SECRET not in str(raised.value)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    object_storage.forget_connections()
    with pytest.raises(MissingExtraError, match=r"gs:// needs .*'gcsfs'.*pip install 'medvlad\[gs\]'"):
        location("gs://bucket/x", "x").exists()


def test_objects_are_read_and_written(folder):
    file = folder / "x.bin"
    assert not file.exists()
    assert not folder.is_dir()
    file.write_bytes(b"0123456789")
    assert file.is_file()
    assert folder.is_dir()
    assert not folder.is_file()
    assert file.read_bytes() == file.open("rb").read() == file.open_ranges().read() == b"0123456789"
    assert file.stat().st_size == 10
    assert stat.S_ISREG(file.stat().st_mode)
    assert [(one.name, one.size, one.is_folder) for one in folder.children()] == [("x.bin", 10, False)]
    assert [one.is_folder for one in folder.parent.children()] == [True]
    (folder / "empty").write_bytes(b"")
    assert (folder / "empty").open("rb").read() == b""
    assert not object_storage.put_if_absent(file.url, b"other")
    assert file.read_bytes() == b"0123456789"
    object_storage.remove(file.url)
    object_storage.remove(file.url)
    with pytest.raises(FileNotFoundError):
        file.open("rb")
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    with pytest.raises(IsADirectoryError):
        folder.open("rb")


def test_large_objects_are_read_by_ranges(folder, monkeypatch):
    content = bytes(range(256)) * 4000
    (folder / "x").write_bytes(content)
    monkeypatch.setattr("medvlad._util.object_path._AT_ONCE", 1000)
    with faulty() as system:
        with (folder / "x").open("rb") as file:
            assert file.read(3) == content[:3]
            assert file.seek(-5, io.SEEK_END) == len(content) - 5
            assert file.read() == content[-5:]
        fetched = [name for name, _ in system.calls]
    assert fetched.count("cat_file") == 2


def test_ranges_are_read_ahead(folder):
    content = bytes(range(256)) * 20_000
    (folder / "x").write_bytes(content)
    reader = RangeReader((folder / "x").url, len(content))
    with faulty() as system:
        half = len(content) // 2
        for i in range(0, half, 5000):  # two places in turn, as marks and numbers of a shard
            assert reader.read(i, 5000) == content[i : i + 5000]
            assert reader.read(half + i, 5000) == content[half + i : half + i + 5000]
        assert len(system.calls) < 20
    assert reader.read(len(content) - 1, 10) == content[-1:]
    assert reader.read(len(content) + 5, 10) == b""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PermissionError("Access Denied"), PermissionError),
        (FileNotFoundError("x"), FileNotFoundError),
        (ValueError(f"bad secret={SECRET}"), OSError),
        (type("NoCredentialsError", (Exception,), {})("none"), PermissionError),
        (type("ClientResponseError", (Exception,), {"status": 403})("no"), PermissionError),
        (type("ClientResponseError", (Exception,), {"status": 404})("no"), FileNotFoundError),
        (type("ClientResponseError", (Exception,), {"status": 400})("no"), OSError),
    ],
)
def test_definite_errors_are_not_tried_again(folder, error, kind):
    def fail(*_, **__):
        raise error

    with faulty() as system:
        system.faults.append(("info", fail))
        with pytest.raises(kind) as raised:
            folder.entry()
        assert len(system.calls) == 1
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("status", [None, 429, 500, 503])
def test_others_are_tried_a_bounded_number_of_times(folder, status):
    def fail(*_, **__):
        raise type("ServerError", (Exception,), {"status": status})(f"https://h/x?sig={SECRET}")

    with faulty() as system:
        system.faults += [("info", fail)] * 100
        with pytest.raises(OSError, match="after 6 tries") as raised:
            folder.entry()
        assert len(system.calls) == 6
    assert SECRET not in str(raised.value)


def test_outputs_are_checked_before_the_work(folder):
    target = folder / "m.model"
    assert check_output(target, "model") == target
    assert folder.parent.exists() is False  # the trial was removed
    save_bytes(target, b"other", "model")
    assert check_output(target, "model", may_replace=lambda _: True) == target
    with pytest.raises(InputError, match="exists and is no model"):
        check_output(target, "model", may_replace=lambda _: False)
    with pytest.raises(InputError, match="is a folder"):
        check_output(folder, "model")
    with pytest.raises(InputError, match="can be read only"):
        check_output("https://host/m.model", "model")


def test_an_output_among_the_images_is_refused(folder):
    assert outside(folder / "store", "--store", folder / "images") == folder / "store"
    with pytest.raises(InputError, match="lies in the image folder"):
        outside(folder / "images/store", "--store", folder / "images")


def test_it_is_a_path():
    assert isinstance(location("s3://b/x", "x"), ObjectPath)
    assert isinstance(location("s3://b/x", "x"), Path)


def test_each_new_try_is_counted(folder):
    file = folder / "x"
    with faulty() as system, counting() as counters:
        system.faults += [("pipe_file", busy), ("pipe_file", silent_cut_put)]
        file.write_bytes(b"content")
        system.faults += [("cat_file", busy)] * 2
        assert file.read_bytes() == b"content"
    assert counters.as_dict()["retries"] == 4


def test_windows_refuses_urls_with_advice(monkeypatch):
    monkeypatch.setattr("medvlad._util.object_path._HAS_OBJECTS", False)
    with pytest.raises(InputError, match=r"the store 's3://bucket/x' is a URL, .* in Windows: copy the data"):
        location("s3://bucket/x", "the store")
    assert location("C:/x", "the store") == Path("C:/x")
