"""What all tests share: the backends under test, tolerances, and where the real data are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from medvlad.backends import BACKENDS, available_backends
from medvlad.weights import find_weights

# Timing on a shared machine says nothing about correctness, and failures must repeat.
settings.register_profile("medvlad", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("medvlad")

#: (operation, dtype) -> largest absolute difference between a backend and the reference. Both sum in float64
#: and round once, so they may differ where the two sums fall on both sides of a rounding boundary: one unit
#: in the last place (2^-24) of a number of at most 1.
TOLERANCE = {
    ("encode", "float32"): 6.0e-8,
    ("residuals", "float32"): 1.2e-7,  # relative to the largest residual
    ("decision", "float64"): 1e-6,  # relative to the largest value: the promise made for WideLinearSVC
}

#: MEDVLAD_REQUIRE=native,keras,bundled,data turns skips for want of these into failures.
REQUIRED = set(filter(None, os.environ.get("MEDVLAD_REQUIRE", "").split(",")))

if "keras" in REQUIRED:
    import keras  # noqa: F401  what is required and missing ends the run here, by name
if "bundled" in REQUIRED and find_weights()["bundled"] != "vgg16":
    raise ImportError("the extra offline is required and not installed")

DATA = Path(os.environ.get("MEDVLAD_DATA", Path(__file__).parents[2] / "shared" / "data"))
VGG16_WEIGHTS = DATA.parent / "weights" / "vgg16_imagenet_notop.weights.h5"


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend in turn; one that cannot run here is skipped with its reason."""
    state = available_backends()[request.param]
    if not state.startswith("ok"):
        if request.param in REQUIRED:
            pytest.fail(f"backend {request.param} is required: {state}")
        pytest.skip(f"backend {request.param}: {state}")
    return request.param


@pytest.fixture(scope="session")
def data_dir():
    """The folder of real images, or a skip that says where it was looked for."""
    if not DATA.is_dir():
        if "data" in REQUIRED:
            pytest.fail(f"the data folder is required: {DATA}")
        pytest.skip(f"no real images in {DATA} (set MEDVLAD_DATA)")
    return DATA


@pytest.fixture(scope="session")
def vgg16_weights(data_dir):
    """The real VGG16 weights beside the data folder."""
    if not VGG16_WEIGHTS.is_file():
        if "data" in REQUIRED:
            pytest.fail(f"the weights are required: {VGG16_WEIGHTS}")
        pytest.skip(f"no weights {VGG16_WEIGHTS}")
    return str(VGG16_WEIGHTS)


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory):
    """A weights file of a small network, MobileNetV2, seeded; what the numbers are does not matter."""
    keras = pytest.importorskip("keras", reason="needs the extra tensorflow")
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mobilenetv2.weights.h5"
    keras.applications.MobileNetV2(weights=None, include_top=False).save_weights(path)
    return str(path)


@pytest.fixture
def rng():
    return np.random.default_rng(20261122)
