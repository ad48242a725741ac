"""Weights by URL are copied to the cache once, and checked if a SHA-256 is given."""

import hashlib
import uuid

import pytest
from support.object_storage import busy, faulty, no_waits

from medvlad import InputError
from medvlad._util.object_path import location
from medvlad.extraction.fetched_weights import weights_file
from medvlad.extraction.weights import check_weights, weights_source

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


def test_a_changed_object_is_copied_again(url):
    weights_file(url)
    location(url, "weights").write_bytes(CONTENT + b"more")
    assert weights_file(url).read_bytes() == CONTENT + b"more"


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
