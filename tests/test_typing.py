"""The words of parameters are types: an editor completes them, mypy refuses others, and run time agrees."""

import subprocess
import sys
from pathlib import Path

import pytest

from medvlad._util import choices
from medvlad._util.choices import words_of
from medvlad.backends import BACKENDS
from medvlad.encoders.pooling import POOL
from medvlad.extraction.engines import DTYPES, ENGINES
from medvlad.images import RESIZE_FILTERS
from medvlad.images.colour_profile import COLOUR_PROFILES
from medvlad.images.damage import ON_DAMAGE

SNIPPET = """\
import medvlad as mv
from medvlad.images import load_image

mv.VLAD(64, assignment="soft")
mv.VLAD(64, assignment="softmax")
mv.GlobalPool("gem")
mv.GlobalPool("median")
mv.CNNDescriptors(engine="native", dtype="int8", output="store")
mv.CNNDescriptors(engine="fast")
mv.CNNDescriptors(resize="linear")
mv.SecondOrderPool(mode="sqrt", power=0.5)
mv.SecondOrderPool(mode="cube")
load_image("a.png", on_damage="ignore")
load_image("a.png", on_damage="skip")
mv.vlad_encode([], [], backend="numpy")
"""
#: Lines of the snippet that mypy must refuse.
WRONG = {5, 7, 9, 10, 12, 14, 15}


def test_the_words_at_run_time_are_those_of_the_types():
    assert words_of(choices.PoolMode) == tuple(POOL)
    assert words_of(choices.BackendName) == ("auto", *BACKENDS)
    assert words_of(choices.EngineName) == ENGINES
    assert words_of(choices.Dtype) == ("auto", *DTYPES)
    assert words_of(choices.ResizeFilter) == RESIZE_FILTERS
    assert words_of(choices.ColourProfile) == COLOUR_PROFILES
    assert words_of(choices.OnDamage) == ON_DAMAGE


@pytest.mark.slow
def test_mypy_refuses_words_that_do_not_exist(tmp_path):
    pytest.importorskip("mypy", reason="needs the extra dev")
    (tmp_path / "snippet.py").write_text(SNIPPET)
    root = Path(__file__).parents[1]
    words = ["--config-file", root / "pyproject.toml", "--cache-dir", tmp_path / "cache", "snippet.py"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *map(str, words)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"MYPYPATH": str(root), "PATH": ""},
        check=False,
    )
    found = {int(line.split(":")[1]) for line in done.stdout.splitlines() if line.startswith("snippet.py:")}
    assert found == WRONG, done.stdout + done.stderr
