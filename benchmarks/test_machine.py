"""The limits of the machine, and the share of encoding in the time from image to vector."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import machine
import pytest
from measure import replay, replayed_time

from medvlad._util.validate import check_n_threads

pytestmark = pytest.mark.benchmark(timer=replayed_time)


def test_limits(request, timing):
    try:
        found = machine.limits(sorted({1, check_n_threads(None)}), quick=not timing)
    except machine.NoCompiler as reason:
        pytest.skip(str(reason))
    for rates in found.values():
        assert rates["fma_float32_gflops"] > 0
        assert all(rate > 0 for name, rate in rates.items() if name.endswith("_gb_s"))
        assert ("amx_bfloat16_gflops" in rates) != ("amx" in rates)  # measured, or a reason
    request.config.stash[machine.LIMITS] = found


def test_extraction(benchmark, timing):
    """Time VGG16 with random weights on a few images of 224 x 224 pixels."""
    if not timing:
        pytest.skip("extraction is timed, not tested")
    if find_spec("keras") is None:
        pytest.skip("Keras is not installed (extra tensorflow)")
    script = str(Path(__file__).with_name("extract.py"))
    done = subprocess.run([sys.executable, script, "--time", "16"], stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["seconds"] > 0
    benchmark.group = "extraction, one image"
    benchmark.extra_info.update(
        kind="extraction", implementation="VGG16, block5_pool, 224 x 224 pixels", images=found["images"]
    )
    replay(benchmark, [found["seconds"]])
