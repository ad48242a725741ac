"""Weights by URL are copied to the cache once, and checked if a SHA-256 is given."""

import errno
import hashlib
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.object_storage import busy, faulty, no_waits

from medvlad import InputError
from medvlad._util import object_path, object_storage
from medvlad._util.object_path import location
from medvlad.extraction import fetched_weights
from medvlad.extraction.fetched_weights import weights_file
from medvlad.extraction.networks.choose import check_network
from medvlad.extraction.weights import check_weights, find_weights, weights_source

pytest.importorskip("fsspec", reason="needs the extra cloud")

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def url(monkeypatch, tmp_path):
    no_waits(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url = f"memory://{uuid.uuid4().hex}/net.weights.h5"
    location(url, "weights").write_bytes(CONTENT)
    return url


@pytest.mark.parametrize("ending", ["", f"#sha256={DIGEST}"])
def test_an_object_is_copied_once(url, ending, tmp_path):
    with faulty() as system:
        file = weights_file(url + ending)
        assert file.read_bytes() == CONTENT
        assert file.name == "net.weights.h5"
        assert tmp_path in file.parents
        assert weights_file(url + ending) == file
        assert [name for name, _ in system.calls].count("cat_file") == 1
    assert check_weights(url + ending) == url + ending, "models keep the URL, not the file of this machine"


def test_a_changed_object_is_copied_again_and_its_old_copy_is_removed(url, tmp_path):
    pinned = weights_file(f"{url}#sha256={DIGEST}")
    old = weights_file(url)
    location(url, "weights").write_bytes(CONTENT + b"more")
    new = weights_file(url)
    assert new.read_bytes() == CONTENT + b"more"
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == {pinned, new}
    assert not old.parent.exists()


def test_other_content_than_the_sha256_is_refused_and_not_kept(url, tmp_path):
    with pytest.raises(InputError, match=f"have the SHA-256 {DIGEST}, not {'0' * 64}"):
        weights_file(f"{url}#sha256={'0' * 64}")
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_copy_that_is_cut_off_is_not_kept(url, tmp_path):
    with faulty() as system:
        system.faults += [("cat_file", busy)] * 6
        with pytest.raises(InputError, match="because its storage fails"):
            weights_file(url)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
    assert weights_file(url).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda url: f"{url}2", r"are not 'imagenet', 'bundled' or a file ending in"),
        (lambda url: url.replace("net.", "none."), "there are no weights"),
        (lambda url: f"{url}#md5=0", "write #sha256= and 64 hexadecimal digits"),
        (lambda url: "https://host/net.h5?token=abc", "have a '\\?' in their URL"),
        (lambda url: "hdfs://host/net.h5", "of a kind that is not read"),
    ],
)
def test_wrong_urls_are_told(url, change, said):
    with pytest.raises(InputError, match=said) as raised:
        check_weights(change(url))
    assert "abc" not in str(raised.value)


def test_the_environment_may_name_a_url(url, monkeypatch):
    monkeypatch.setenv("MEDVLAD_WEIGHTS", url)
    assert weights_source("imagenet") == url


def test_without_a_place_for_the_copy_the_variable_is_named(url, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="set XDG_CACHE_HOME to another folder"):
        weights_file(url)


def test_the_sha256_is_no_part_of_the_name_of_a_file(monkeypatch, tmp_path):
    file = tmp_path / "w.h5"
    file.write_bytes(CONTENT)
    monkeypatch.setenv("MEDVLAD_WEIGHTS", f"{file}#sha256={DIGEST}")
    assert "(missing)" not in find_weights()["MEDVLAD_WEIGHTS"]
    file.unlink()
    assert "(missing)" in find_weights()["MEDVLAD_WEIGHTS"]
    with pytest.raises(InputError, match="cannot be read"):
        weights_file(f"{file}#sha256={DIGEST}")


class Handler(BaseHTTPRequestHandler):
    """A server that knows no ranges. It sends `headers` of the server, and its `status` for a path."""

    def do_GET(self):
        self.server.asked.append(self.command)
        content = self.server.content
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    pytest.importorskip("aiohttp", reason="needs the extra cloud")
    no_waits(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.status, server.headers, server.asked = CONTENT, 200, {}, []
    server.url = f"http://127.0.0.1:{server.server_port}/net.weights.h5"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_the_time_of_the_last_write_tells_a_changed_file_of_the_same_size(server):
    server.headers = {"Last-Modified": "Wed, 21 Oct 2026 07:28:00 GMT"}
    assert weights_file(server.url).read_bytes() == CONTENT
    weights_file(server.url)
    assert server.asked.count("GET") == 1
    server.content = CONTENT[::-1]
    server.headers = {"Last-Modified": "Wed, 21 Oct 2026 07:29:00 GMT"}
    assert weights_file(server.url).read_bytes() == CONTENT[::-1]


def test_a_file_of_which_no_time_is_known_is_copied_once_by_each_process(server):
    for _ in range(2):
        assert weights_file(server.url).read_bytes() == CONTENT
    assert server.asked.count("GET") == 1
    server.content = CONTENT[::-1]
    fetched_weights._copied.cache_clear()  # as in a new process
    assert weights_file(server.url).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("ending", ["", f"#sha256={DIGEST}"])
def test_a_large_file_is_copied_from_a_server_without_ranges(server, ending, monkeypatch):
    monkeypatch.setattr(object_path, "_AT_ONCE", 1000)
    monkeypatch.setattr(object_path, "_FIRST_RANGE", 100)
    monkeypatch.setattr(fetched_weights, "_BLOCK", 1000)
    assert weights_file(server.url + ending).read_bytes() == CONTENT
    assert server.asked.count("GET") == 1


def test_a_refused_url_is_no_fault_of_the_disk(server):
    server.status = 403
    with pytest.raises(InputError, match=r"h5 cannot be read \(.*403.*\): check the URL$"):
        weights_file(server.url)


def test_a_folder_is_no_fault_of_the_disk(url):
    folder = url.rpartition("/")[0]
    with pytest.raises(InputError, match=r"cannot be read \(it is a folder\): check the URL$"):
        weights_file(f"{folder}#sha256={DIGEST}")


def test_a_full_disk_is_no_fault_of_the_server(server, monkeypatch):
    async def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with faulty("http") as system:
        monkeypatch.setattr(system, "_get_file", full, raising=False)
        with pytest.raises(InputError, match=r"copied to the cache \(.*No space left.*\): check the disk"):
            weights_file(server.url)


def test_a_failing_storage_does_not_speak_of_a_store():
    text = str(object_storage.StorageFailure("s3://b/a cannot be read"))
    assert text.endswith("and run the same command again")


def test_weights_of_timm_may_have_a_sha256_or_lie_at_a_url(url, tmp_path):
    file, there = tmp_path / "w.pth", url.replace("net.weights.h5", "w.pth")
    file.write_bytes(CONTENT)
    location(there, "weights").write_bytes(CONTENT)
    for place in (there, f"{there}#sha256={DIGEST}", f"{file}#sha256={DIGEST}"):
        assert check_network("timm:test_vit", None, place) == place
    with pytest.raises(InputError, match="there are no weights"):
        check_network("timm:test_vit", None, f"{there[:-5]}v.pth")
