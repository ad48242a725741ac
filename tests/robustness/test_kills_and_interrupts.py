"""Kills, signals to stop and little memory at any moment: nothing is lost, and such a signal is one line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.faults import write_images

from medvlad.store.store import DescriptorStore

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and signals of Linux")


def trials(what, *arguments):
    """Run faults.py and return what it found."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parents[1] / "support" / "faults.py", what, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},  # of tests/support
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)[what]


def test_a_kill_at_any_moment_loses_nothing_that_was_reported(tmp_path):
    assert trials("kill", tmp_path, 25, 0)["images reported"] > 0


def test_a_signal_to_stop_at_any_moment_ends_with_its_status_and_one_line(tmp_path):
    statuses = trials("interrupt", tmp_path, 15, 0)["statuses"]
    assert sum(statuses.get(status, 0) for status in ("129", "130", "143")) > 0


def test_little_memory_is_an_error_and_loses_nothing(tmp_path):
    trials("memory", tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize(("what", "n"), [("kill", 400), ("interrupt", 150)])
@pytest.mark.parametrize("seed", [1, 2])
def test_hundreds_of_kills_and_interrupts(tmp_path, what, n, seed):
    sys.stdout.write(f"{trials(what, tmp_path, n, seed)}\n")


def ended(prepared, folder):
    """Run the command after the code `prepared` in a new process. Return status, output and errors."""
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
import medvlad.__main__, medvlad.cli, medvlad.extraction.keras_startup
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
def test_ctrl_c_at_rare_moments_ends_the_command(tmp_path, when):
    """Just after the handler is set, just before it is restored, and in code that catches the exception."""
    status, out, error = ended(INTERRUPTED[when], tmp_path)
    assert status == (-signal.SIGINT if when == "twice" else 130)
    assert out == ("whole " if when == "while it imports, to its end" else "")
    assert error == ("" if when == "twice" else "\nmedvlad: interrupted\n")


def test_other_errors_of_the_command_show_their_traceback(tmp_path):
    status, _, error = ended("medvlad.cli.main = lambda: 1 / 0", tmp_path)
    assert status == 70
    assert error.endswith("ZeroDivisionError: division by zero\n")


EXTRACTING = """
import medvlad.__main__, signal, sys, time
from support import faults
faults.light_network(setattr)
signal.signal(signal.{name}, signal.SIG_DFL)  # nohup and background jobs ignore some signals
{prepared}
sys.argv = ["medvlad", "extract", "images", "--model", "light", "--layer", "x", "--store", "store"]
medvlad.__main__.main()
"""
NOTE = "what was extracted is in store, and the same command continues"


@pytest.mark.parametrize(
    ("name", "status", "word"),
    [
        ("SIGINT", 130, "interrupted"),
        ("SIGTERM", 143, "terminated"),
        ("SIGHUP", 129, "stopped by the end of the terminal"),
    ],
)
def test_a_signal_keeps_what_is_not_in_a_shard_yet(tmp_path, name, status, word):
    """The signal comes while the eighth image is written; a shard would hold 256."""
    write_images(tmp_path / "images", 10)
    prepared = f"""
from medvlad.store.writer import ShardWriter
add, added = ShardWriter.add, []
def adding(*arguments):
    added.append(add(*arguments))
    if len(added) == 8:
        signal.raise_signal(signal.{name})
ShardWriter.add = adding
"""
    done = subprocess.run(
        [sys.executable, "-c", EXTRACTING.format(name=name, prepared=prepared)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (status, "dtype float32 on light\n"), done.stderr
    assert done.stderr.strip() == f"medvlad: {word}; {NOTE}"
    (section,) = DescriptorStore(tmp_path / "store").sections()
    assert len(section) == 8


def test_sighup_that_is_ignored_stays_ignored(tmp_path):
    """The program nohup ignores it."""
    code = "medvlad.cli.main = lambda: (signal.raise_signal(signal.SIGHUP), print('went on'))"
    code = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + code
    assert ended(code, tmp_path) == (0, "went on\n", "")


def test_a_handler_of_logging_is_complete_before_an_interrupt(tmp_path):
    """Python prints a traceback at exit if a handler has no lock."""
    code = """
import logging
add = logging._addHandlerRef
logging._addHandlerRef = lambda handler: (add(handler), signal.raise_signal(signal.SIGINT))
medvlad.cli.main = lambda: (logging.StreamHandler(), time.sleep(30))
"""
    assert ended(code, tmp_path) == (130, "", "\nmedvlad: interrupted\n")


@pytest.mark.parametrize("after", [0.1, 0.4])
def test_ctrl_c_while_modules_are_imported_shows_no_traceback(after):
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "medvlad", "doctor"], stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:  # the command has started: one import is done
        if "click" in line or "numpy" in line:
            break
    time.sleep(after / 10)
    process.send_signal(2)
    error = process.communicate()[1]
    assert process.returncode in (130, -2, 0)
    assert "Traceback" not in error
