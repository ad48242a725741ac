"""'predict -' and 'predict --watch' as processes that go on: answers at once, back-pressure, and clean ends.

Each service is a fork of one process that has imported everything. A small network replaces a real one.
"""

import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.documents import ROOT, examples
from support.faults import light_network, write_images
from support.in_this_process import run_command

import medvlad
from medvlad import InputError
from medvlad.cli.answer_writer import AnswerWriter
from medvlad.cli.watching import read_answered

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and POSIX signals")

NETWORK = ["--model", "light", "--layer", "x", "--weights", "imagenet"]
TIME = 30  # seconds until a test that waits in vain fails

#: Reads argument lists (JSON) and descriptors of standard streams, forks the command, and prints its number.
PARENT = """
import array, json, os, signal, socket, sys
import medvlad.__main__, medvlad.cli, medvlad.predict
from support import faults
faults.light_network(setattr)
asked = socket.socket(fileno=int(sys.argv[1]))
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
while True:
    words, streams, _, _ = socket.recv_fds(asked, 65536, 3)
    if not words:
        break
    process = os.fork()
    if process == 0:
        asked.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        sys.argv = ["medvlad", *json.loads(words)]
        medvlad.__main__.main()
    for stream in streams:
        os.close(stream)
    asked.send(str(process).encode())
    asked.send(b" %d" % os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A function that starts a service; one at a time."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    paths = [str(Path(__file__).parents[1]), *filter(None, sys.path)]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(there.fileno())],
        pass_fds=[there.fileno()],
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    there.close()
    here.settimeout(TIME)
    errors = tmp_path_factory.mktemp("errors") / "error"

    def started(*words, **streams):
        return Service(here, list(map(str, words)), errors, **streams)

    yield started
    here.close()
    os.killpg(parent.pid, signal.SIGKILL)  # also a service that a failed test has left
    parent.wait()


class Service:
    """A command with pipes for its standard input and output."""

    def __init__(self, parent, words, errors):
        self.parent, self.errors = parent, errors
        theirs_in, self.input = os.pipe()
        self.output, theirs_out = os.pipe()
        error = os.open(errors, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        streams = [theirs_in, theirs_out, error]
        socket.send_fds(parent, [json.dumps(words).encode()], streams)
        for stream in streams:
            os.close(stream)
        self.process = int(parent.recv(100))
        self.rest = b""

    def write(self, *names):
        os.write(self.input, b"".join(os.fsencode(name) + b"\n" for name in names))

    def answer(self):
        """Return the next answer. A service that waits for more names fails the test."""
        while b"\n" not in self.rest:
            assert select.select([self.output], [], [], TIME)[0], "no answer came"
            block = os.read(self.output, 65536)
            assert block, f"the service has ended: {self.errors.read_text()}"
            self.rest += block
        line, _, self.rest = self.rest.partition(b"\n")
        return json.loads(line)

    def answers(self, n):
        return [self.answer() for _ in range(n)]

    def signal(self, number):
        os.kill(self.process, number)

    def close(self, *streams):
        for stream in streams or ("input", "output"):
            if getattr(self, stream) is not None:
                os.close(getattr(self, stream))
                setattr(self, stream, None)

    def end(self, *, close=True):
        """Return the rest of the output, the status, and standard error."""
        if close:
            self.close("input")
        rest = self.rest
        while self.output is not None and (block := os.read(self.output, 65536)):
            rest += block
        status = int(self.parent.recv(100))
        self.close()
        return rest.decode(), status, self.errors.read_text().lstrip()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Images, and a model that was trained on them."""
    root = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        light_network(patch.setattr)
        write_images(root / "images", 4)
        words = ["train", root / "images", *NETWORK, "--encode", "avg", "-o", root / "model"]
        assert run_command(*words)[0] == 0
    return root


@pytest.fixture
def model(place):
    return place / "model"


@pytest.fixture
def files(place):
    return sorted(map(str, (place / "images").rglob("*.png")))


@pytest.fixture
def copied(tmp_path, files):
    """A folder for images, and a function that copies one into it."""
    folder = tmp_path / "incoming"
    folder.mkdir()

    def copy(name, i=0):
        (folder / "x.part").write_bytes(Path(files[i]).read_bytes())
        (folder / "x.part").rename(folder / name)
        return str(folder / name)

    return folder, copy


# -------------------------------------------------------------------------------------- standard input


def test_each_name_is_answered_before_the_next_is_written(start, model, files, tmp_path):
    """Bad names get one line each with the reason, and the service goes on."""
    (tmp_path / "cut.png").write_bytes(Path(files[0]).read_bytes()[:60])
    bad = [str(tmp_path / name) for name in ("gone.png", "cut.png")]
    bad += ["s3://bucket/a.png", "a\0b.png", "x" * 20_000]
    service = start("predict", model, "-")
    for name in [*files[:2], *bad, files[2]]:
        service.write(name)
        said = service.answer()
        assert ("skipped" in said, "scores" in said) == (name in bad, name not in bad), said
        assert said["image"] == name[:16_384]
    service.write("", files[3])  # an empty line is no name
    assert service.answer()["image"] == files[3]
    rest, status, error = service.end()
    assert (rest, status, error.count("medvlad: skipped: ")) == ("", 1, len(bad))


@pytest.mark.parametrize("store", [False, True])
def test_answers_are_those_of_all_images_together(start, model, files, tmp_path, store):
    service = start("predict", model, "-", *(["--store", tmp_path / "store"] if store else []))
    one_by_one = []
    for name in files:
        service.write(name)
        one_by_one.append(service.answer())
    service.write(*files * 3)
    for said, alone in zip(service.answers(3 * len(files)), one_by_one * 3, strict=True):
        assert (said["image"], said["label"]) == (alone["image"], alone["label"])
        assert said["scores"] == pytest.approx(alone["scores"], rel=1e-6), (
            "sums of a batch are rounded otherwise"
        )
    assert service.end() == ("", 0, "")


def test_names_wait_in_the_pipe_if_nobody_reads_the_answers(start, model, files):
    """The service takes no more names than it can hold."""
    service = start("predict", model, "-")
    os.set_blocking(service.input, False)
    name = "/" + "./" * 500 + files[0]
    line, n = os.fsencode(name) + b"\n", 0
    last = time.monotonic()
    while time.monotonic() - last < 1:  # nothing was taken for a second
        try:
            os.write(service.input, line)
            n, last = n + 1, time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
        assert n < 2_000, "no more than 512 images, and what two pipes hold"
    rest, status, _ = service.end()
    answers = [json.loads(text) for text in rest.splitlines()]
    assert (len(answers), status) == (n, 0)
    assert all(said["image"] == name for said in answers)


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_ends_a_waiting_service_and_answers_stay(start, model, files, number, status, word):
    service = start("predict", model, "-")
    service.write(*files[:2])
    service.answers(2)
    service.signal(number)
    assert service.end(close=False) == ("", status, f"medvlad: {word}\n")


@pytest.mark.parametrize("later", [0.1, 1.3])
def test_a_signal_never_writes_a_part_of_a_line_twice(start, model, tmp_path, later):
    """The pipe is full, and lines are longer than what a pipe takes at once."""
    names = [str(tmp_path / ("x" * 9_000 + str(i))) for i in range(6)]
    service = start("predict", model, "-")
    service.write(*names)
    first = service.answer()
    time.sleep(0.3)  # until the pipe is full
    service.signal(signal.SIGTERM)
    time.sleep(later)
    rest, status, error = service.end(close=False)
    assert (status, error.endswith("\nmedvlad: terminated\n")) == (143, True)
    *lines, last = rest.split("\n")
    answers = [first, *map(json.loads, lines)]
    assert [one["image"] for one in answers] == names[: len(answers)]
    assert len(last) < len(json.dumps(first))
    assert later > 1 or last == "", "a reader that goes on gets whole lines"


def test_a_service_ends_when_its_reader_does(start, model, files):
    service = start("predict", model, "-")
    service.write(files[0])
    service.answer()
    service.close("output")
    service.write(files[0])
    assert service.end() == ("", 141, "")


def test_a_list_on_standard_input_may_stop_at_a_bad_name(start, model, files):
    service = start("predict", model, "-", "--on-error", "stop")
    service.write(files[0], "gone.png", files[1])
    rest, status, error = service.end()
    assert (status, "gone.png" in error) == (2, True)
    assert rest.count("\n") <= 1


# ---------------------------------------------------------------------------------------------- a folder


def test_a_folder_is_watched_across_restarts(start, model, copied, tmp_path):
    """No image is lost or answered twice, also if the process was killed while it wrote."""
    folder, copy = copied
    out = tmp_path / "answers.jsonl"
    words = ["predict", model, "--watch", folder, "--out", out, "--settle", "0.1"]
    expected = [copy("a.png"), copy("b.png", 5)]

    def written():
        lines = out.read_text().splitlines(keepends=True) if out.exists() else []
        return [json.loads(line)["image"] for line in lines if line.endswith("\n")]

    def until(n):
        end = time.monotonic() + TIME
        while len(written()) < n:
            assert time.monotonic() < end, written()
            time.sleep(0.02)

    service = start(*words)
    until(2)
    expected.append(copy("c.png"))
    until(3)
    (folder / "d.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing")
    expected.append(str(folder / "d.png"))
    until(4)
    service.signal(signal.SIGKILL)
    assert service.end()[1] == -signal.SIGKILL
    cut = out.read_text()
    out.write_text(cut + cut.splitlines()[0][:40])
    expected.append(copy("e.png"))
    service = start(*words)
    until(5)
    time.sleep(0.3)
    service.signal(signal.SIGTERM)
    rest, status, error = service.end()
    assert (rest, status) == ("", 143)
    assert f"terminated; {out} holds the answers for 1 images" in error
    assert written() == expected
    assert "skipped" in json.loads(out.read_text().splitlines()[3])


def test_answers_of_a_folder_go_to_a_reader_and_end_with_it(start, model, copied):
    _, copy = copied
    service = start("predict", model, "--watch", copied[0], "--settle", "0.05")
    first = copy("a.png")
    said = service.answer()
    assert (said["image"], "label" in said, "version" in said) == (first, True, True)
    service.close("output")
    assert service.end() == ("", 141, ""), "although no image arrives any more"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.png"], "--watch {folder} and a.png cannot be used together: leave one out"),
        (["--explain", "maps"], "--watch and --explain cannot be used together: leave one out"),
        (["--anonymise"], "--watch and --anonymise cannot be used together: leave one out"),
        (["--json"], "--watch has no end, and json is written at the end: give --format jsonl"),
        (["--out", "a.csv"], "--watch has no end, and csv cannot be continued after a restart"),
        (["--out", "{folder}/a.jsonl"], "lies in the image folder"),
        (["--out", "other.jsonl"], "line 1 of other.jsonl is not an answer of --watch"),
        (["--settle", "-1"], "--settle"),
    ],
)
def test_what_does_not_fit_a_watched_folder_is_refused(model, copied, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.jsonl").write_text('{"image": "a.png", "label": "x"}\n')
    words = [word.format(folder=copied[0]) for word in words]
    status, _, error = run_command("predict", model, "--watch", copied[0], *words)
    assert (status, message.format(folder=copied[0]) in error) == (2, True), error


def test_a_missing_folder_and_a_command_without_images_are_told(model):
    error = run_command("predict", model, "--watch", "gone")[2]
    assert "the folder to watch, 'gone', cannot be read" in error
    status, _, error = run_command("predict", model)
    assert (status, "Missing argument 'IMAGE...'" in error) == (2, True)
    status, _, error = run_command("predict", model, "a.png", "--settle", "3")
    assert (status, "--settle is for --watch: leave it out" in error) == (2, True)


def test_answers_of_files_that_are_gone_take_no_memory(tmp_path):
    out = tmp_path / "a.jsonl"
    lines = [{"image": name, "version": "1-2"} for name in ("a", "b#0", "b#1", "gone", "gone#3")]
    out.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"image": "c"')
    assert read_answered(out, {"a", "b"}) == {"a": "1-2", "b#0": "1-2", "b#1": "1-2"}
    assert out.read_text().splitlines() == [json.dumps(line) for line in lines]


def test_two_services_do_not_write_the_same_file(tmp_path):
    out = tmp_path / "a.jsonl"
    with AnswerWriter("jsonl", out, append=True):
        with pytest.raises(InputError, match="another process writes answers to"):
            read_answered(out, ())
        with pytest.raises(InputError, match="another process writes answers to"):
            AnswerWriter("jsonl", out, append=True)
    assert read_answered(out, ()) == {}


def test_names_from_a_pipe_give_json_lines_and_a_file_name_decides_else(model, files, tmp_path, monkeypatch):
    def piped(*words):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{files[0]}\n".encode())))
        return run_command("predict", model, "-", *words)[1]

    light_network(monkeypatch.setattr)
    assert json.loads(piped())["image"] == files[0]
    assert piped("--format", "table").startswith(f"{files[0]}  dark")
    piped("--out", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().startswith("image,label,")


# ------------------------------------------------------------------------------------------------- FastAPI


def test_the_example_with_fastapi_answers_and_tells_what_is_damaged():
    pytest.importorskip("fastapi", reason="needs the extra test")
    testclient = pytest.importorskip("fastapi.testclient", reason="needs the extra test")

    def classify(content):
        if content != b"image":
            raise InputError("the image is damaged")
        return {"label": "x"}

    (code,) = [one.text for one in examples(ROOT / "docs/howto/serving.md") if "FastAPI" in one.text]
    names = {"classify": classify, "mv": medvlad}
    exec(code, names)
    client = testclient.TestClient(names["app"])
    assert client.post("/predict", content=b"image").json() == {"label": "x"}
    refused = client.post("/predict", content=b"other")
    assert (refused.status_code, refused.json()) == (422, {"detail": "the image is damaged"})
