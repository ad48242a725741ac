"""csrc/test/sanitize.py does not start programs that the processor cannot run."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "csrc/test/sanitize.py"

# Stands for the compiler. It "builds" programs for a processor that has AVX2 only: the program that asks for
# the levels answers; one that is built for AVX-512 dies of an illegal instruction, and another one is right.
COMPILER = """#!/bin/sh
program= answer='kill -ILL $$' previous=
for argument in "$@"; do
  case "$previous" in -o) program=$argument ;; esac
  case "$argument" in -mavx512f) wide=yes ;; -) answer='echo avx2; echo portable' ;; esac
  previous=$argument
done
case "$answer$wide" in kill*yes) ;; kill*) answer='echo right' ;; esac
[ -z "$program" ] || { printf '#!/bin/sh\\n%s\\n' "$answer" > "$program" && chmod +x "$program"; }
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the script with this compiler."""
    compiler = tmp_path / "compiler"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    return lambda *arguments: subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False
    )


def test_levels_that_the_processor_cannot_run_are_built_and_skipped(run):
    done = run("none")
    assert done.returncode == 0, done.stdout
    said = {line.split()[1]: line.split(maxsplit=2)[2] for line in done.stdout.splitlines()}
    skipped = "skipped: this processor cannot run it"
    assert said == {
        "portable": "right; right; right",
        "avx2": "right; right; right",
        "avx512": skipped,
        "avx512bf16": skipped,
        "amx": skipped,
        "amx_emulated": skipped,
    }


def test_nothing_run_is_a_failure(run):
    done = run("none", "--levels", "avx512")
    assert done.returncode == 1
    assert "cannot run any of the levels" in done.stdout
