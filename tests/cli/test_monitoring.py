"""--log-json and --metrics of long commands."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
from support.faults import light_network, write_images

from medvlad._util.counters import COUNTERS, count, counting
from medvlad.cli import metrics_file
from medvlad.cli.metrics_file import metrics_text, writing_metrics

LIGHT = ["--model", "light", "--layer", "x"]
#: The command with a small network in place of a real one, and what a test adds.
PROGRAM = """
import sys
import medvlad.__main__
from support import faults
faults.light_network(setattr)
{}
medvlad.__main__.main()
"""


def command(arguments, code=""):
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(code), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def records(error):
    """The lines of JSON on standard error. Each has the same fields."""
    found = [json.loads(line) for line in error.splitlines()]
    for one in found:
        assert list(one) == ["time", "level", "logger", "message"]
        assert datetime.fromisoformat(one["time"]).tzinfo is not None
    return found


@pytest.fixture
def images(tmp_path, monkeypatch):
    light_network(monkeypatch.setattr)
    return write_images(tmp_path / "images")


# ------------------------------------------------------------------------------------------- the log


def test_messages_are_lines_of_json(images, tmp_path):
    """Skipped images, warnings of the library, and what --verbose adds."""
    (images / "dark" / "bad\nname.png").write_bytes(b"no image")
    arguments = ["-v", "evaluate", images, *LIGHT, "--encode", "avg", "--folds", "2", "--on-error", "skip"]
    process = command([*arguments, "--log-json"])
    printed, error = process.communicate()
    assert process.returncode == 1
    assert "12 images, each tested once" in printed
    found = records(error)
    assert {one["level"] for one in found} == {"info", "warning"}
    (skipped,) = [one for one in found if one["message"].startswith("skipped: ")]
    assert "bad\\nname.png" in skipped["message"]
    assert (skipped["level"], skipped["logger"]) == ("warning", "medvlad")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--stor", "x"], "No such option '--stor'. Did you mean '--store'? See 'medvlad extract --help'."),
        (["--store", "s", "--scale", "x"], "--scale must be whole numbers separated by commas"),
        (["--store", "s", "--part", "7/3"], "--part 7/3 does not exist"),
    ],
)
def test_a_mistake_is_one_line_of_json_without_a_traceback(run, images, arguments, told):
    status, _, error = run("extract", images, *arguments, "--log-json")
    assert status == 2
    (found,) = records(error)
    assert found["level"] == "error"
    assert told in found["message"]
    assert "Traceback" not in error


def test_the_next_command_writes_text_again(run, images):
    assert run("extract", images, "--log-json")[2].startswith("{")
    assert run("extract", images)[2].startswith("medvlad: ")
    assert run("nonesuch")[2].startswith("medvlad: ")


def test_a_defect_of_the_program_is_one_line_with_its_traceback(images, tmp_path):
    code = "import medvlad.store.store as s; s.Section.prepare = lambda self: [][1]"
    process = command(["extract", images, *LIGHT, "--store", tmp_path / "store", "--log-json"], code)
    error = process.communicate()[1]
    assert process.returncode == 70
    (found,) = records(error)
    assert found["level"] == "critical"
    assert "Traceback" in found["message"]
    assert "IndexError" in found["message"]


def test_a_signal_is_told_in_json_and_in_the_metrics(images, tmp_path):
    code = """
import time, medvlad.store.store as s
def wait(self):
    print("begun", flush=True)
    time.sleep(60)
s.Section.prepare = wait
"""
    metrics = tmp_path / "metrics.prom"
    arguments = ["extract", images, *LIGHT, "--store", tmp_path / "store", "--log-json", "--metrics", metrics]
    process = command(arguments, code)
    while "begun" not in process.stdout.readline():
        pass
    assert samples(metrics.read_text())["medvlad_running", ("command", "extract")] == 1
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    (found,) = records(error)
    assert found["message"].startswith("terminated; what was extracted is in ")
    ended = samples(metrics.read_text())
    assert ended["medvlad_running", ("command", "extract")] == 0
    assert ended["medvlad_failed", ("command", "extract")] == 1


# --------------------------------------------------------------------------------------- the metrics


def samples(text):
    """Values by name and labels, read without a library."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, labels, value = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line).groups()
            key = tuple(word for label in re.findall(r'(\w+)="([^"]*)"', labels) for word in label)
            assert (name, key) not in found
            found[name, key] = float(value)
    return found


def test_metrics_of_a_run_count_its_images(run, images, tmp_path):
    (images / "dark" / "patient7.png").write_bytes(b"no image")
    arguments = ["extract", images, *LIGHT, "--store", tmp_path / "store", "--on-error", "skip"]
    run(*arguments, "--part", "1/2")
    assert run(*arguments, "--part", "1/1", "--metrics", tmp_path / "run.prom")[0] == 1
    text = (tmp_path / "run.prom").read_text()
    own = ("command", "extract", "part", "1/1")
    found = {name: value for (name, key), value in samples(text).items() if key == own}
    outcomes = {key[-1]: value for (name, key), value in samples(text).items() if "outcome" in key}
    assert outcomes["extracted"] > 0
    assert outcomes["from_store"] > 0
    assert sum(outcomes.values()) == 12
    assert found["medvlad_failed_images_total"] == 1
    assert found["medvlad_running"] == found["medvlad_failed"] == found["medvlad_retries_total"] == 0
    n_bytes = sum(path.stat().st_size for path in images.rglob("*.png"))
    assert n_bytes <= found["medvlad_read_bytes_total"] <= 2 * n_bytes
    assert found["medvlad_stored_bytes_total"] == outcomes["extracted"] * 49 * 12 * 4
    assert abs(found["medvlad_written_timestamp_seconds"] - time.time()) < 60
    stages = {key[-1]: value for (_, key), value in samples(text).items() if "stage" in key}
    assert {"list", "hash", "build", "extract", "read", "network", "store", "total"} == stages.keys()
    assert stages["network"] <= stages["extract"] <= stages["total"]
    assert all(key[: len(own)] == own for _, key in samples(text))
    for word in ("patient7", "dark", str(tmp_path), "images/"):  # no file, class, folder or patient
        assert word not in text


def test_an_error_is_in_the_metrics(run, images, tmp_path):
    (images / "dark" / "bad.png").write_bytes(b"no image")
    arguments = ["extract", images, *LIGHT, "--store", tmp_path / "store"]
    assert run(*arguments, "--metrics", tmp_path / "run.prom")[0] == 2
    assert samples((tmp_path / "run.prom").read_text())["medvlad_failed", ("command", "extract")] == 1


def test_a_metrics_file_that_cannot_be_written_is_told_at_once(run, images, tmp_path):
    arguments = ["extract", images, *LIGHT, "--store", tmp_path / "store"]
    status, _, error = run(*arguments, "--metrics", tmp_path / "missing" / "run.prom")
    assert status == 2
    assert error.count("\n") == 1
    assert not (tmp_path / "store").exists()


def test_the_file_is_written_again_while_the_command_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_file, "_SECONDS", 0.01)
    path = tmp_path / "run.prom"
    with writing_metrics(path, {"command": "test"}):
        count("failures", 3)
        deadline = time.monotonic() + 30
        while 'medvlad_failed_images_total{command="test"} 3' not in path.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_the_text_is_openmetrics():
    """By the parser of prometheus_client, which is strict about names, units, order and the end."""
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    with counting() as counters:
        for i, name in enumerate(COUNTERS):
            count(name, i + 1)
        counters.add_seconds("network", 1.5)
    labels = {"command": "extract", "part": "3/16"}
    text = metrics_text(counters.as_dict(), labels, running=False, failed=False, now=1.8e9)
    families = {one.name: one for one in parser.text_string_to_metric_families(text)}
    assert {name: one.type for name, one in families.items() if one.type != "gauge"} == dict.fromkeys(
        [
            "medvlad_images",
            "medvlad_damaged_images",
            "medvlad_failed_images",
            "medvlad_retries",
            "medvlad_read_bytes",
            "medvlad_stored_bytes",
            "medvlad_stage_seconds",
        ],
        "counter",
    )
    assert [one.value for one in families["medvlad_images"].samples] == [1, 2]
    for family in families.values():
        assert family.documentation.endswith(".")
        for sample in family.samples:
            assert labels.items() <= sample.labels.items()


def test_counters_are_in_the_results(run, images, tmp_path):
    arguments = ["evaluate", images, *LIGHT, "--encode", "avg", "--folds", "2", "--out", tmp_path / "out"]
    assert run(*arguments)[0] == 0
    counters = json.loads((tmp_path / "out" / "results.json").read_text())["counters"]
    assert counters.keys() == {*COUNTERS, "seconds"}
    assert counters["images_extracted"] == 12
    assert counters["seconds"].keys() >= {"extract", "network", "read", "fit_encoder", "encode"}
