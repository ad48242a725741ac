"""Whole slides are fitted, encoded and classified in memory for about one of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.feature_files import write_features

N_SLIDES, N_TILES, WIDTH = 20, 50_000, 1024

PROGRAM = """
import json, re, sys
import numpy as np
import medvlad as mv
from medvlad.bags import open_bags
from medvlad.encoders.recipe import Recipe

def peak():
    # VmHWM begins at exec; ru_maxrss would inherit the peak of the process that started this one.
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1]) << 10

paths, encode, descriptor_norm = sys.argv[3:], sys.argv[1], sys.argv[2] == "1"
bags = open_bags(paths)
encoder = Recipe(descriptor_norm=descriptor_norm).encoder(encode)
parts = [encoder] if not hasattr(encoder, "steps") else [step for _, step in encoder.steps]
for part in parts:
    if isinstance(part, mv.VLAD):
        part.set_params(max_samples=25_000, max_iter=5)
before = peak()
vectors = encoder.fit(bags).transform(bags)
svm = mv.WideLinearSVC().fit(vectors, [int("b." in path) for path in paths])
accuracy = svm.score(vectors, [int("b." in path) for path in paths])
print(json.dumps({"before": before, "peak": peak(), "nbytes": bags.nbytes, "accuracy": accuracy}))
"""


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Twenty slides under names of their own, of two contents, so that the disk holds two only."""
    folder = tmp_path_factory.mktemp("slides")
    rng = np.random.default_rng(0)
    paths = []
    for k, name in enumerate("ab"):
        values = rng.random((1000, WIDTH), np.float32)
        values[:, : WIDTH // 2] += k
        first = write_features(
            folder / f"{name}.npy", np.tile(values.astype(np.float16), (N_TILES // 1000, 1))
        )
        paths.append(first)
        for i in range(1, N_SLIDES // 2):
            paths.append(folder / f"{i}{name}.npy")
            os.link(first, paths[-1])
    return list(map(str, paths))


@pytest.mark.slow
@pytest.mark.parametrize(("encode", "descriptor_norm"), [("avg", "0"), ("vlad64", "0"), ("vlad64", "1")])
def test_twenty_slides_need_the_memory_of_two(slides, encode, descriptor_norm):
    """Beside one slide there are the sample of k-means and the copies that it makes."""
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells the peak of memory")
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, encode, descriptor_norm, *slides], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    one_slide = 4 * N_TILES * WIDTH
    assert found["nbytes"] == N_SLIDES * one_slide
    assert found["accuracy"] == 1.0
    assert found["peak"] - found["before"] < 2 * one_slide
