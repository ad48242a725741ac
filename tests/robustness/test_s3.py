"""A store, images and models on a real S3 server, behind a proxy that makes faults on the wire."""

import subprocess
import sys
import time

import pytest
from support.object_storage import SECRET, no_waits
from support.s3_server import s3_behind_a_proxy
from support.store_checks import check_images, check_life_of_a_store, check_two_writers, holds, opened
from support.store_content import COLLECTOR, WRITER, fill

from medvlad import InputError, load_image_folder

pytest.importorskip("s3fs", reason="needs s3fs, which the extra test installs")
pytest.importorskip("moto.server", reason="needs moto with flask, which the extra test installs")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def proxy():
    """A server, started once, with the bucket "bucket"."""
    with s3_behind_a_proxy() as proxy:
        yield proxy


@pytest.fixture
def url(proxy, request, monkeypatch):
    no_waits(monkeypatch)
    proxy.faults.clear()
    yield f"s3://bucket/{abs(hash(request.node.nodeid))}"
    assert not proxy.faults


def test_a_store_is_written_read_verified_and_tidied(url):
    check_life_of_a_store(url)


@pytest.mark.parametrize("fault", ["503", "lost", "refused"])
def test_a_put_that_fails_leaves_whole_shards(proxy, url, fault, caplog):
    proxy.faults += [("PUT", fault)] * 3
    fill(url, 4)
    section = opened(url)
    assert section.verify() == []
    holds(section, 4)
    assert "try 2 of 6" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("fault", ["503", "cut", "slow"])
def test_a_read_that_fails_is_tried_again(proxy, url, fault, caplog):
    fill(url, 4)
    section = opened(url)
    proxy.faults.append(("GET", fault))
    holds(section, 4)
    assert SECRET not in caplog.text


def test_a_server_that_stays_busy_is_an_error_without_secrets(proxy, url, caplog):
    section = fill(url, 3)
    proxy.faults += [("PUT", "503")] * 6
    with pytest.raises(InputError, match="cannot be written") as raised:
        fill(url, 5)
    assert url in str(raised.value)
    assert SECRET not in str(raised.value) + caplog.text
    assert section.verify() == []


def test_two_writers_of_the_same_images_make_one_shard(url):
    check_two_writers(url)


def test_a_missing_bucket_is_told(proxy, url):
    with pytest.raises(InputError, match="'s3://none/images' does not exist"):
        load_image_folder("s3://none/images")
    with pytest.raises(InputError, match="cannot be written"):
        fill("s3://none/store", 1)


def test_images_are_those_of_a_folder(url, tmp_path, rng):
    check_images(url, tmp_path, rng)


@pytest.mark.slow
@pytest.mark.parametrize("program", [WRITER, COLLECTOR], ids=["writer", "gc"])
def test_a_process_killed_at_any_moment_leaves_a_good_store(url, program):
    for i in range(6):
        fill(url, i + 1)
    for delay in (0.0, 0.1, 0.3, 1.0):
        process = subprocess.Popen([sys.executable, "-c", program, url, "40"], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.communicate()
        section = opened(url)
        assert section.verify() == []
        holds(section, 6)
    subprocess.run([sys.executable, "-c", program, url, "40"], check=True, stdout=subprocess.DEVNULL)
    section = opened(url)
    assert section.verify() == []
    holds(section, 40 if program is WRITER else 6)
