"""Full or failing disks, kills, Ctrl-C, clocks, little memory: told in a sentence, and nothing is lost."""

import errno
import fcntl
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.faults import (
    SETTINGS,
    descriptors,
    files,
    fill,
    fitted,
    key_of,
    light_network,
    section_of,
    whole_store,
    write_images,
    zipped_chest,
)

from medvlad import InputError, StoredDescriptors, save_model
from medvlad.datasets import download as fetch
from medvlad.models.onnx_export import export_onnx
from medvlad.store.store import DescriptorStore

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and signals as Linux has them")


class FailingDisk:
    """Counts what is done to write to a disk; from step `fails_at` on everything fails with `number`."""

    def __init__(self, patch):
        self.fails_at, self.number, self.count = None, errno.ENOSPC, 0
        disk, open_ = self, Path.open

        class Raw(io.FileIO):
            def write(self, content):
                disk.step(self.name)
                return super().write(content)

        def opened(path, mode="r", *rest, **named):
            if disk.fails_at is None or not set(mode) & set("wxa+"):
                return open_(path, mode, *rest, **named)
            disk.step(path)
            raw = io.BufferedWriter(Raw(os.fspath(path), mode.replace("b", "")))
            return raw if "b" in mode else io.TextIOWrapper(raw, "utf-8")

        patch.setattr(Path, "open", opened)
        for name in ("os.fsync", "os.posix_fallocate", "os.mkdir", "os.rename", "os.replace"):
            patch.setattr(name, self.counted(getattr(os, name[3:])))

    def counted(self, call):
        def counted(*arguments, **named):
            self.step(arguments[0])
            return call(*arguments, **named)

        return counted

    def step(self, what):
        if self.fails_at is None:
            return
        self.count += 1
        if self.count > self.fails_at:
            raise OSError(self.number, os.strerror(self.number), None if isinstance(what, int) else str(what))

    @contextmanager
    def failing(self, at, number):
        self.fails_at, self.number, self.count = at, number, 0
        try:
            yield
        finally:
            self.fails_at = None


@pytest.fixture
def disk(monkeypatch):
    return FailingDisk(monkeypatch)


@pytest.fixture(scope="module")
def pipeline():
    return fitted()


def store_work(folder, _):
    fill(folder / "store", 5)


def gc_work(folder, _):
    section_of(folder / "store").gc()


def vectors_work(folder, pipeline):
    stored = StoredDescriptors(section_of(folder / "store"), [key_of(i) for i in range(4)])
    pipeline.named_steps["encode"].transform_to_file(stored, folder / "vectors.npy")


def model_work(folder, pipeline):
    save_model(pipeline, folder / "model", card={"new": True})


def export_work(folder, pipeline):
    pytest.importorskip("onnx", reason="needs the extra onnx")
    export_onnx(pipeline, folder / "model.onnx")


def fetch_work(folder, _):
    fetch.fetch("chest-xray", folder / "chest", archive=folder / "chest.zip")


WORKS = {
    "store": (store_work, "store"),
    "gc": (gc_work, "store"),
    "vectors": (vectors_work, r"vectors\.npy"),
    "model": (model_work, "model"),
    "export": (export_work, r"model\.onnx"),
    "fetch": (fetch_work, "chest"),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder in which there is something of everything already."""
    monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 4)
    small = dict(fetch.REMOTE)
    small["chest-xray"] = replace(small["chest-xray"], layout="folder")
    monkeypatch.setattr(fetch, "REMOTE", small)
    for n in range(1, 4):  # shards of one image each
        fill(tmp_path / "store", n)
    fill(tmp_path / "store", 4)
    for name in ("vectors.npy", "model", "model.onnx"):
        (tmp_path / name).write_bytes(b"what was there")
    zipped_chest(tmp_path / "chest.zip")
    return tmp_path


def nothing_lost(place, before):
    """What was there is there, and nothing unfinished."""
    after = files(place)
    for name, content in before.items():
        if not name.endswith(".shard"):  # gc may have joined them
            assert after[name] == content, name
    assert not [name for name in after if name.endswith(".part")]
    assert not (place / "chest").exists()
    whole_store(place / "store", 4)


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_whatever_fails_from_some_moment_on(place, pipeline, disk, work, number):
    """Each opening, write, flush, making and renaming in turn is the first to fail; then it goes on."""
    do, named = WORKS[work]
    before = files(place)
    for at in range(60):
        with disk.failing(at, number):
            try:
                do(place, pipeline)
            except InputError as error:
                message = str(error)
            else:
                assert disk.count <= at
                break
        assert "\n" not in message
        assert os.strerror(number) in message
        assert named.replace("\\", "") in message
        # Where the name was given and its folder could not be flushed, the new file stands there, whole.
        if disk.count > at and work in ("vectors", "model", "export") and files(place) != before:
            assert files(place)[named.replace("\\", "")] != b"what was there"
            (place / named.replace("\\", "")).write_bytes(b"what was there")
        if work == "fetch" and (place / "chest").exists():
            pytest.fail("a data set that could not be made whole is there")
        nothing_lost(place, before)
    assert at > 1
    whole_store(place / "store", 5 if work == "store" else 4)


@pytest.mark.parametrize("work", WORKS)
def test_a_file_may_not_become_large(place, pipeline, work):
    """The system's own refusal, in the middle of a write (EFBIG)."""
    do, named = WORKS[work]
    before, refused = files(place), 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 100, 250):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            with pytest.raises(InputError, match=f"{named}.*File too large"):
                do(place, pipeline)
            refused += 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        nothing_lost(place, before)
    do(place, pipeline)
    assert refused == 3


@pytest.fixture
def run(run, monkeypatch):
    light_network(monkeypatch.setattr)
    return run


LIGHT = ["--model", "light", "--layer", "x", "--weights", "imagenet"]
COMMANDS = {
    "evaluate": ["evaluate", "images", *LIGHT, "--encode", "avg", "--folds", "2", "--out", "out"],
    "extract": ["extract", "images", *LIGHT, "--store", "new store"],
    "train": ["train", "images", *LIGHT, "--encode", "avg", "-o", "model"],
    "audit": ["audit", "images", "--out", "out"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_on_a_disk_that_fails(tmp_path, run, disk, monkeypatch, command):
    """Status 2, one line that names a file, no half file; and the next run has the same results."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", 4)
    # The figures of a report take seconds each time; where they are written, predictions.csv and pages are.
    monkeypatch.setattr("medvlad.report.evaluation._plots", lambda *_, **how: [("roc", b"picture", "")])
    monkeypatch.setattr("medvlad.report.evaluation.confident_errors", lambda *_, **how: [])
    assert run(*COMMANDS[command])[0] == 0
    before = {name: content for name, content in files(tmp_path).items() if not name.startswith("new store")}
    written, n_failed = len(before), 0
    for at in (0, 1, 2, 3, 5, 8, 11, 14, 17, 20):
        for file in tmp_path.glob("new store/*/*"):
            file.unlink()
        with disk.failing(at, errno.ENOSPC):
            status, _, error = run(*COMMANDS[command])
        if disk.count <= at:
            break
        n_failed += 1
        assert status == 2
        assert error.count("\n") == 1
        assert "No space left on device" in error
        assert str(tmp_path) in error or "out" in error or "new store" in error
        after = files(tmp_path)
        assert not [name for name in after if name.endswith(".part")]
        for name, content in before.items():
            if name.endswith("results.json"):
                json.loads(after[name])  # an old or a new one; its seconds are others
            elif not name.endswith(".html"):
                assert after[name] == content, name
            else:
                assert after[name].endswith(b"</html>\n")
    assert n_failed > 2
    assert run(*COMMANDS[command])[0] == 0
    assert len([name for name in files(tmp_path) if not name.startswith("new store")]) == written


def test_a_read_only_store(tmp_path):
    """In a mount of its own: what is there is read; what is not is asked for in a sentence."""
    fill(tmp_path / "store", 4)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from support import faults; from pathlib import Path\n"
        "from medvlad import InputError; s = Path(sys.argv[2]); faults.whole_store(s, 4); faults.fill(s, 4)\n"
        "for work in (lambda: faults.fill(s, 5), lambda: faults.section_of(s).gc()):\n"
        "    try: work()\n"
        "    except InputError as error: print(error)"
    )
    mount = 'mount --bind "$2" "$2" && mount -o remount,ro,bind "$2" && exec "$0" -c "$3" "$1" "$2"'
    allowed = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, "true", "", tmp_path / "store", ""],
        capture_output=True,
        check=False,
    )
    if allowed.returncode != 0:
        pytest.skip(f"no mounts of one's own here: {allowed.stderr.decode().strip()}")
    done = subprocess.run(
        [
            "unshare",
            "-rm",
            "sh",
            "-c",
            mount,
            sys.executable,
            Path(__file__).parents[1],
            tmp_path / "store",
            script,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert "cannot be written: Read-only file system; what is in it stays" in lines[0]
    assert "cannot be tidied: Read-only file system" in lines[1]


def test_the_store_is_removed_during_a_run(tmp_path, monkeypatch):
    """It begins again, or says so; images of the shard in hand are not lost without a word."""
    monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 2)
    section = fill(tmp_path / "store", 4)
    stored = StoredDescriptors(section, [key_of(i) for i in range(4)])
    writer = section.writer()
    writer.add(key_of(4), descriptors(4))
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(InputError, match=r"store .*cannot be written: No such file"):
        writer.add(key_of(5), descriptors(5))
    with pytest.raises(InputError, match="damaged or gone: run 'medvlad store gc"):
        stored.load()
    fill(tmp_path / "store", 6)
    whole_store(tmp_path / "store", 6)


def test_a_shard_is_cut_short_while_it_is_read(tmp_path):
    """A map of it would end the process by a signal (SIGBUS)."""
    section = fill(tmp_path / "store", 200)
    assert section.get(key_of(0)) is not None
    (shard,) = section.path.glob("*.shard")
    os.truncate(shard, shard.stat().st_size // 2)
    assert section.get(key_of(199)) is None
    fill(tmp_path / "store", 200)
    whole_store(tmp_path / "store", 200)


def test_a_disk_that_does_not_read_for_a_while(tmp_path, monkeypatch):
    """What cannot be read is not taken for damaged, so gc removes none of it."""
    section = fill(tmp_path / "store", 4)
    before = files(section.path)

    def failing(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("os.pread", failing)
        for use in (lambda: section_of(tmp_path / "store"), section.verify, section.gc):
            with pytest.raises(InputError, match=r"\.shard cannot be opened or read \(Input/output error\)"):
                use()
    assert {name: content for name, content in files(section.path).items() if name != "gc.lock"} == before
    whole_store(tmp_path / "store", 4)


@pytest.mark.parametrize("now", [0.0, 86400.0 * 365, 4102444800.0], ids=["1970", "1971", "2100"])
def test_clocks_do_not_matter(tmp_path, monkeypatch, now):
    """Files of the past and the future, a clock that jumps: the same images; who still writes goes on."""
    monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 8)
    for n in (3, 5, 9):
        section = fill(tmp_path / "store", n)
    times = iter([0, 4102444800, 10**9, 1, 2 * 10**9] * 9)
    living, dead = section.path / ".living.part", section.path / ".dead.part"
    dead.write_bytes(b"1")
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for one in sorted(section.path.iterdir()):
            os.utime(one, (moment := next(times), moment))
        past = now - 10**8 if now > 10**9 else now + 10**9
        for part in (living, dead):
            os.utime(part, (max(past, 0), max(past, 0)))
        monkeypatch.setattr(time, "time", lambda: now)
        section.gc()
        assert living.exists()
        assert not dead.exists()
    fill(tmp_path / "store", 12)
    whole_store(tmp_path / "store", 12)
    section.gc()
    assert not living.exists()
    assert [one.settings for one in DescriptorStore(tmp_path / "store").sections()] == [SETTINGS]


def trials(what, *arguments):
    """Run faults.py; what it found."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parents[1] / "support" / "faults.py", what, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)[what]


def test_kills(tmp_path):
    assert trials("kill", tmp_path, 25, 0)["images reported"] > 0


def ended(prepared, folder):
    """Status, output and errors of the command after `prepared`, in a process with its own signals."""
    done = subprocess.run(
        [sys.executable, "-c", f"{COMMAND}{prepared}\nmedvlad.__main__.main()"],
        cwd=folder,
        timeout=60,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


COMMAND = """
import importlib, pathlib, signal, sys, time
import medvlad.__main__, medvlad.cli, medvlad.extraction.network
from medvlad._util.validate import import_extra
from medvlad.extraction.keras_startup import start_keras

set_handler, calls = signal.signal, []

def interrupted_call(at):
    def handler_is(number, handler):
        if number == signal.SIGINT:
            calls.append(handler)
        if len(calls) == at:
            raise KeyboardInterrupt
        return set_handler(number, handler)
    return handler_is

def importing(*_):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt as error:
        raise ImportError("initialization failed") from error

def importing_an_extra(**_):
    importlib.import_module = importing
    import_extra("pydicom", "medical", "DICOM")

def importing_a_module(seconds):
    module = "import signal, time; signal.raise_signal(signal.SIGINT)"
    module += f"; [time.sleep(0.01) for _ in range({100 * seconds})]; print('whole', end=' ')"
    pathlib.Path("interrupted_module.py").write_text(module)
    sys.path.append(".")
    import interrupted_module
    time.sleep(20)
    print("did not end")

def as_keras_does():
    medvlad.extraction.keras_startup.import_keras = lambda: importing_a_module(20)
    start_keras()

class Object:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def twice():
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.raise_signal(signal.SIGINT)

def forgetting():
    Object()
    time.sleep(20)
    print("did not end")

"""
INTERRUPTED = {
    "in its first moment": "medvlad.cli.main = sys.exit; signal.signal = interrupted_call(1)",
    "in its last moment": "medvlad.cli.main = sys.exit; signal.signal = interrupted_call(2)",
    "while it imports, to its end": "medvlad.cli.main = lambda: importing_a_module(0)",
    "in a long import": "medvlad.cli.main = lambda: importing_a_module(20)",
    "while Keras starts": "medvlad.cli.main = as_keras_does",
    "while it imports": "medvlad.cli.main = importing",
    "while it imports an extra": "medvlad.cli.cli.main = importing_an_extra",
    "while it forgets an object": "medvlad.cli.main = forgetting",
    "twice": "medvlad.cli.main = twice",
}


@pytest.mark.parametrize("when", INTERRUPTED)
def test_an_interrupt_that_random_moments_seldom_meet(tmp_path, when):
    """Just after the handler is set, before it is taken back, where others make something else of it."""
    status, out, error = ended(INTERRUPTED[when], tmp_path)
    assert status == (-signal.SIGINT if when == "twice" else 130)
    assert out == ("whole " if when == "while it imports, to its end" else "")
    assert error == ("" if when == "twice" else "\nmedvlad: interrupted\n")


def test_other_errors_of_the_command_line_are_shown(tmp_path):
    status, _, error = ended("medvlad.cli.main = lambda: 1 / 0", tmp_path)
    assert status == 1
    assert error.endswith("ZeroDivisionError: division by zero\n")


def test_interrupts(tmp_path):
    assert trials("interrupt", tmp_path, 10, 0)["statuses"].get("130", 0) > 0


def test_little_memory(tmp_path):
    trials("memory", tmp_path)


@pytest.mark.parametrize("after", [0.1, 0.4])
def test_an_interrupt_while_modules_are_imported(after):
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "medvlad", "doctor"], stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:  # the command has begun: one of its imports is done
        if "click" in line or "numpy" in line:
            break
    time.sleep(after / 10)
    process.send_signal(2)
    error = process.communicate()[1]
    assert process.returncode in (130, -2, 0)
    assert "Traceback" not in error


@pytest.mark.faults
@pytest.mark.parametrize(("what", "n"), [("kill", 400), ("interrupt", 150)])
@pytest.mark.parametrize("seed", [1, 2])
def test_many(tmp_path, what, n, seed):
    sys.stdout.write(f"{trials(what, tmp_path, n, seed)}\n")
