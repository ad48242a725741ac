"""What all tests share: the backends under test, tolerances, and where the real data are."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path

# SciPy looks once, when it is imported: scikit-learn's array-API dispatch, in test_array_api.py, wants it.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
# Programs that tests start take the package that is installed, not the sources in the current folder.
os.environ["PYTHONSAFEPATH"] = "1"

import numpy as np
import pytest
from hypothesis import settings
from support.cuda_on_host import cupy_on_host

from medvlad import cli
from medvlad.backends import available_backends, cuda_kernels, forget_decisions
from medvlad.extraction.keras_startup import start_keras
from medvlad.extraction.weights import find_weights

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

#: Largest difference, relative to the largest number, between a network's output in batches of other sizes:
#: convolutions may be cut differently there. On some processors there is none.
BATCH_TOLERANCE = 1e-5

#: MEDVLAD_REQUIRE=native,cuda,keras,bundled,data turns skips for want of these into failures.
REQUIRED = set(filter(None, os.environ.get("MEDVLAD_REQUIRE", "").split(",")))

if "keras" in REQUIRED:
    start_keras()  # what is required and missing ends the run here, by name
if "bundled" in REQUIRED and find_weights()["bundled"] != "vgg16":
    raise ImportError("the extra offline is required and not installed")

DATA = Path(os.environ.get("MEDVLAD_DATA", Path(__file__).parents[2] / "shared" / "data"))
VGG16_WEIGHTS = DATA.parent / "weights" / "vgg16_imagenet_notop.weights.h5"


BACKEND_NAMES = ["reference", "native", pytest.param("cuda", marks=pytest.mark.gpu), "cuda_on_host"]


@contextmanager
def cuda_compiled_for_the_host():
    """The cuda backend with its kernels compiled for the host, and a CuPy that keeps its arrays there."""
    if cupy_on_host.COMPILER is None:
        pytest.skip("needs a C++20 compiler")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", cupy_on_host)
        cuda_kernels.module.cache_clear()
        forget_decisions()
        yield cupy_on_host
    cuda_kernels.module.cache_clear()
    forget_decisions()


@contextmanager
def running(name):
    """Name of a backend of BACKEND_NAMES for get_backend; one that cannot run is skipped with its reason."""
    if name == "cuda_on_host":
        with cuda_compiled_for_the_host():
            yield "cuda"
        return
    state = available_backends()[name]
    if not state.startswith("ok"):
        if name in REQUIRED:
            pytest.fail(f"backend {name} is required: {state}")
        pytest.skip(f"backend {name}: {state}")
    yield name


@pytest.fixture
def cuda_on_host():
    """CuPy's stand-in while the cuda backend runs on the host."""
    with cuda_compiled_for_the_host() as cupy:
        yield cupy


@pytest.fixture(params=BACKEND_NAMES)
def backend(request):
    """Each backend in turn."""
    with running(request.param) as name:
        yield name


@pytest.fixture(params=BACKEND_NAMES, scope="class")
def own_backend(request):
    """The same for a class of tests, which hypothesis runs many times each."""
    with running(request.param) as name:
        yield name


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


@pytest.fixture(scope="session")
def vgg16_file(tmp_path_factory):
    """VGG16's convolutions with seeded random weights."""
    keras = pytest.importorskip("keras", reason="needs the extra tensorflow")
    keras.utils.set_random_seed(2)
    path = tmp_path_factory.mktemp("vgg16") / "vgg16.weights.h5"
    keras.applications.VGG16(weights=None, include_top=False).save_weights(path)
    return path


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the command line; returns exit status, standard output and standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["medvlad", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return call
