"""`make gpu`: stages that fail or hang do not stop the others, and what they wrote is kept."""

import json
import sys
import time

import pytest
from support import gpu_run
from support.gpu_run import OUT_OF_TIME, Stage

# Reports the interrupt as pytest does, or does not end.
INTERRUPTED = "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('interrupted')\n"
STUBBORN = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('on')\ntime.sleep(60)\n"


def program(code, limit=30):
    return Stage((sys.executable, "-c", code), limit)


@pytest.fixture
def outcomes(monkeypatch, tmp_path):
    """Function that runs given stages, and returns the exit status, the table and the folder OUT."""

    def run(stages, *arguments):
        out = tmp_path / "out"
        monkeypatch.setattr(gpu_run, "stages", lambda bench: stages)
        monkeypatch.setattr(gpu_run, "ROOT", tmp_path)
        monkeypatch.setattr(gpu_run, "GRACE", 1)
        monkeypatch.setenv("OUT", str(out))
        (tmp_path / gpu_run.RESULTS).mkdir(parents=True, exist_ok=True)
        status = gpu_run.main(list(arguments))
        return status, json.loads((out / "stages.json").read_text()), out

    return run


def test_a_failure_does_not_stop_later_stages(outcomes, capfd):
    write = "from pathlib import Path\nPath('benchmarks/out.json').write_text('{}')\n"
    write += "Path('benchmarks/results/some-gpu.md').write_text('a table')"
    stages = {
        "tests": program("print('one'); raise SystemExit(3)"),
        "benchmarks": program("print('two')"),
        "report": program(write),
    }
    status, table, out = outcomes(stages)
    assert status == 3
    assert [one["status"] for one in table.values()] == [3, 0, 0]
    assert (out / "tests.log").read_text() == "one\n"
    assert {path.name for path in out.iterdir()} == {
        *("tests.log", "benchmarks.log", "benchmarks.json", "some-gpu.md", "stages.json")
    }
    printed = capfd.readouterr().out
    assert "two" in printed
    assert "failed with status 3" in printed


@pytest.mark.parametrize(("code", "said"), [(INTERRUPTED, "interrupted\n"), (STUBBORN, "on\n")])
def test_a_stage_that_hangs_is_interrupted_and_then_killed(outcomes, code, said):
    began = time.monotonic()
    status, table, out = outcomes({"memcheck": program(code, 5), "racecheck": program("print('last')")})
    assert time.monotonic() - began < 40
    assert status == OUT_OF_TIME
    assert table["memcheck"]["words"] == "out of time after 5 s"
    assert table["racecheck"]["status"] == 0
    assert (out / "sanitizer.log").read_text() == said + "last\n"


def test_all_stages_share_a_limit(outcomes):
    stages = {"tests": program(INTERRUPTED), "benchmarks": program("print('never')")}
    status, table, _ = outcomes(stages, "--seconds", "2")
    assert status == OUT_OF_TIME
    assert table["benchmarks"]["words"] == "left out: no time left"


def test_a_sanitizer_that_is_not_installed_is_left_out(outcomes):
    status, table, _ = outcomes({"memcheck": Stage(("", "-q"), 1), "tests": program("")})
    assert status == 0
    assert table["memcheck"]["words"] == "left out: not installed"


def test_a_run_without_any_test_fails(outcomes):
    status, table, _ = outcomes({"tests": program(f"raise SystemExit({gpu_run.NOTHING_RAN})")})
    assert status == gpu_run.NOTHING_RAN
    assert table["tests"]["words"] == "failed: no test ran"


def test_stages_can_be_chosen(outcomes):
    stages = {"tests": program("raise SystemExit(1)"), "report": program("")}
    assert list(outcomes(stages, "--stages", "report")[1]) == ["report"]
    with pytest.raises(SystemExit):
        outcomes(stages, "--stages", "reports")


def test_the_stages_are_those_of_the_makefile():
    stages = gpu_run.stages(["-k", "synthetic"])
    makefile = (gpu_run.ROOT / "Makefile").read_text()
    assert f"GPU_STAGES ?= {' '.join(stages)}\n" in makefile
    assert stages["benchmarks"].command[-2:] == ("-k", "synthetic")
    assert set(stages) == set(gpu_run.LOGS)
