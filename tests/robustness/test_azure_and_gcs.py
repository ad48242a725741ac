"""A store and images on emulators of Azure Blob Storage and Google Cloud Storage.

The emulators are not installed with the extra test. Install them with ``npm install -g azurite`` and
``pip install adlfs gcsfs gcp-storage-emulator``.
"""

import shutil
import socket
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
from support.store_checks import check_images, check_life_of_a_store, check_two_writers
from support.store_content import fill

from medvlad import InputError, load_image_folder
from medvlad._util import object_storage
from medvlad._util.object_path import location

#: The account and key that Azurite publishes for tests.
AZURE = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1O"
    "UzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;BlobEndpoint=http://127.0.0.1:{port}/"
    "devstoreaccount1;"
)


def azure(port):
    if shutil.which("azurite-blob") is None or find_spec("adlfs") is None:
        pytest.skip("needs azurite (npm) and adlfs")
    command = ["azurite-blob", "--inMemoryPersistence", "--blobPort", str(port), "--skipApiVersionCheck"]
    return [*command, "--disableTelemetry"], {"AZURE_STORAGE_CONNECTION_STRING": AZURE.format(port=port)}


def google(port):
    if find_spec("gcsfs") is None or find_spec("gcp_storage_emulator") is None:
        pytest.skip("needs gcsfs and gcp-storage-emulator")
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--in-memory"]
    environment = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}
    return [*command, "--host", "127.0.0.1", "--port", str(port)], environment


@pytest.fixture(scope="module", params=[("az", azure), ("gs", google)], ids=["az", "gs"])
def storage(request):
    """The scheme of a running emulator with the bucket "bucket"."""
    scheme, how = request.param
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command, environment = how(port)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(port)
            object_storage.forget_connections()
            object_storage._filesystem(scheme, 0).mkdir("bucket")
            yield scheme
        finally:
            object_storage.forget_connections()
            server.kill()
            server.wait()


def wait_for(port):
    until = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


@pytest.fixture
def url(storage, request):
    return f"{storage}://bucket/{abs(hash(request.node.nodeid))}"


def test_a_store_is_written_read_verified_and_tidied(url):
    check_life_of_a_store(url)


def test_two_writers_of_the_same_images_make_one_shard(url):
    check_two_writers(url)


def test_a_put_never_replaces_an_object(storage, url):
    if storage == "gs":
        pytest.skip("the emulator ignores the precondition ifGenerationMatch")
    assert object_storage.put_if_absent(f"{url}/one", b"first")
    assert not object_storage.put_if_absent(f"{url}/one", b"second")
    assert location(f"{url}/one", "an object").read_bytes() == b"first"


def test_images_are_those_of_a_folder(url, tmp_path, rng):
    check_images(url, tmp_path, rng)


def test_a_missing_bucket_is_told(storage):
    with pytest.raises(InputError, match=f"'{storage}://none/images' does not exist"):
        load_image_folder(f"{storage}://none/images")
    with pytest.raises(InputError, match="cannot be written"):
        fill(f"{storage}://none/store", 1)
