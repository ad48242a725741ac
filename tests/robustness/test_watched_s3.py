"""'predict --watch s3://...' as a process, on a real S3 server behind a proxy that makes faults."""

import json
import os
import select
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from support.faults import light_network, write_images
from support.in_this_process import run_command
from support.object_storage import SECRET
from support.s3_server import s3_behind_a_proxy

from medvlad._util.object_path import location

pytest.importorskip("s3fs", reason="needs s3fs, which the extra test installs")
pytest.importorskip("moto.server", reason="needs moto with flask, which the extra test installs")

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TIME = 60  # seconds until a test that waits in vain fails

PROGRAM = """
import s3fs, sys
import medvlad.__main__, medvlad._util.object_storage as storage
from support.faults import light_network
light_network(setattr)
s3fs.S3FileSystem.retries = 1
storage.WAITS = (0.05,) * 5
medvlad.__main__.main()
"""


@pytest.fixture(scope="module")
def proxy():
    with s3_behind_a_proxy() as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _no_faults_for_the_next_test(proxy):
    yield
    proxy.faults.clear()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    root = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        light_network(patch.setattr)
        write_images(root / "images", 4)
        words = ["train", root / "images", "--model", "light", "--layer", "x", "--weights", "imagenet"]
        assert run_command(*words, "--encode", "avg", "-o", root / "model")[0] == 0
    return root / "model"


class Service:
    def __init__(self, *words, errors):
        self.errors = errors
        paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2]), *filter(None, sys.path)]
        with errors.open("wb") as error:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *map(str, words)],
                stdout=subprocess.PIPE,
                stderr=error,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            )

    def answer(self):
        assert select.select([self.process.stdout], [], [], TIME)[0], f"no answer: {self.errors.read_text()}"
        line = self.process.stdout.readline()
        assert line, f"the service has ended: {self.errors.read_text()}"
        return json.loads(line)

    def end(self, number):
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=TIME)
        return rest, self.process.returncode, self.errors.read_text()


@pytest.fixture
def start(tmp_path):
    started = []

    def start(*words):
        started.append(Service(*words, errors=tmp_path / "error"))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        one.process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_objects_are_answered_as_they_arrive(proxy, model, start, number):
    """Through failing listings, failing reads and a damaged image, to a clean end."""
    url = f"s3://bucket/{uuid.uuid4().hex}"
    images = sorted(model.parent.glob("images/*/*.png"))
    service = start("predict", model, "--watch", f"{url}/incoming/", "--settle", "0.2")
    for i, image in enumerate(images[:3]):
        name = f"{url}/incoming/{i}.png"
        location(name, "an image").write_bytes(image.read_bytes())
        assert service.answer()["image"] == name
    proxy.faults += [("GET", "503")] * 8  # more than the tries of one listing
    name = f"{url}/incoming/deep/3.png"
    location(name, "an image").write_bytes(images[3].read_bytes())
    answer = service.answer()
    assert answer["image"] == name
    assert "label" in answer
    location(f"{url}/incoming/bad.png", "an image").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    bad = service.answer()
    assert bad["image"].endswith("bad.png")
    assert "is corrupt or truncated" in bad["skipped"]
    rest, status, errors = service.end(number)
    assert status in (128 + number, -number)
    assert rest == b""
    assert errors.count("skipped: ") == 1
    assert "Traceback" not in errors
    assert SECRET not in errors


def test_a_restart_answers_only_what_has_no_answer(proxy, model, start, tmp_path):
    url = f"s3://bucket/{uuid.uuid4().hex}"
    images, out = sorted(model.parent.glob("images/*/*.png")), tmp_path / "answers.jsonl"
    names = [f"{url}/{i}.png" for i in range(3)]
    for i in range(2):
        location(names[i], "an image").write_bytes(images[i].read_bytes())
    words = ["predict", model, "--watch", url, "--settle", "0.2", "--out", out]

    def answered(n):
        """Wait for answers in the file."""
        for _ in range(TIME * 10):
            lines = out.read_text().splitlines() if out.exists() else []
            if len(lines) >= n:
                return [json.loads(line)["image"] for line in lines]
            select.select([], [], [], 0.1)
        pytest.fail("no answer")

    service = start(*words)
    assert answered(2) == names[:2]
    service.process.kill()
    location(names[2], "an image").write_bytes(images[2].read_bytes())
    service = start(*words)
    assert answered(3) == names
    service.end(signal.SIGTERM)
    assert len(out.read_text().splitlines()) == 3


def test_mistakes_of_watch_are_told(proxy, model, run, tmp_path):
    for words, said in (
        (["--watch", "https://host/x"], "https:// has no listings"),
        (["--watch", "s3://bucket/x", "--out", "s3://bucket/p.jsonl"], "give a file of this machine"),
        (["--watch", f"s3://key:{SECRET}@bucket/x"], "holds a password or key"),
    ):
        status, printed, error = run("predict", model, *words)
        assert (status, printed) == (2, "")
        assert said in error
        assert SECRET not in error
