"""Fixtures and constants of all tests: backends, tolerances, and the folder of real data."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

# test_array_api.py needs scikit-learn's array-API dispatch. SciPy reads this variable only when imported.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
# A shell starts background jobs with Ctrl-C ignored, and programs started by tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Programs started by tests import the installed package, not the sources in the current folder.
os.environ["PYTHONSAFEPATH"] = "1"

import numpy as np
import pytest
from hypothesis import settings
from support.cuda_on_host import cupy_on_host

from medvlad.backends import available_backends, cuda_kernels, forget_decisions
from medvlad.extraction.keras_startup import start_keras
from medvlad.extraction.weights import find_weights

# No deadline, because time on a shared machine varies. Derandomised, so that failures repeat.
settings.register_profile("medvlad", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("medvlad")

#: (operation, dtype) -> largest absolute difference between a backend and the reference. Both sum in float64
#: and round once. The two sums may lie on both sides of a rounding boundary, so they may differ by one unit
#: in the last place (2^-24) of a number of at most 1.
TOLERANCE = {
    ("encode", "float32"): 6.0e-8,
    ("residuals", "float32"): 1.2e-7,  # relative to the largest residual
    ("decision", "float64"): 1e-6,  # relative to the largest value, as documented for WideLinearSVC
}

#: Largest difference between outputs of a network in batches of different sizes, relative to the largest one.
#: Keras may compute convolutions differently then. On some processors there is no difference.
BATCH_TOLERANCE = 1e-5

#: Parts named by MEDVLAD_REQUIRE=native,cuda,keras,bundled,data. If one is missing, its tests fail.
REQUIRED = set(filter(None, os.environ.get("MEDVLAD_REQUIRE", "").split(",")))

if "bundled" in REQUIRED and "vgg16" not in find_weights()["bundled"]:
    raise ImportError("the extra offline is required and not installed")

DATA = Path(os.environ.get("MEDVLAD_DATA", Path(__file__).parents[2] / "shared" / "data"))
VGG16_WEIGHTS = DATA.parent / "weights" / "vgg16_imagenet_notop.weights.h5"


BACKEND_NAMES = ["reference", "native", pytest.param("cuda", marks=pytest.mark.gpu), "cuda_on_host"]


def pytest_configure(config):
    """Start Keras, or end the run here if it is required and missing.

    The process of pytest-xdist that only hands tests to others does not need it.
    """
    hands_out = getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput")
    if "keras" in REQUIRED and not hands_out:
        start_keras()


def pytest_collection_modifyitems(items):
    """Measure coverage by the first case of each test, because further cases run the same lines.

    The longest file comes first. At the end, one process would run it while the others have nothing to do.
    """
    items.sort(key=lambda item: item.path.name != "test_documentation.py")
    seen = set()
    for item in items:
        name = item.nodeid.partition("[")[0]
        if name in seen:
            item.add_marker("no_cover")
        seen.add(name)


@contextmanager
def cuda_compiled_for_the_host():
    """Run the cuda backend with kernels compiled for the host and a CuPy with arrays in host memory."""
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
    """Yield the name for get_backend of an entry of BACKEND_NAMES. Skip with a reason if it cannot run."""
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
    """The replacement of CuPy while the cuda backend runs on the host."""
    with cuda_compiled_for_the_host() as cupy:
        yield cupy


@pytest.fixture(params=BACKEND_NAMES)
def backend(request):
    """Each backend in turn."""
    with running(request.param) as name:
        yield name


@pytest.fixture(params=BACKEND_NAMES, scope="class")
def own_backend(request):
    """Each backend in turn, once for a class of tests, because hypothesis runs each test many times."""
    with running(request.param) as name:
        yield name


@pytest.fixture(scope="session")
def data_dir():
    """The folder of real images. Skips with the name of the folder if it does not exist."""
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
    """A weights file of a small network, MobileNetV2, with seeded random weights."""
    keras = pytest.importorskip("keras", reason="needs the extra tensorflow")
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mobilenetv2.weights.h5"
    keras.applications.MobileNetV2(weights=None, include_top=False).save_weights(path)
    return str(path)


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory):
    """A weights file of four layers that stand for MobileNetV2 in this module and process.

    Commands build a network in each test. MobileNetV2 takes seconds of it, these layers take tenths.
    """
    pytest.importorskip("keras", reason="needs the extra tensorflow")
    from support import tiny_networks

    path = tmp_path_factory.mktemp("tiny") / "mobilenetv2.weights.h5"
    with pytest.MonkeyPatch.context() as patch:
        tiny_networks.install("MobileNetV2", patch.setattr, path)
        yield str(path)


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
    """A function that runs the command line and returns exit status, standard output and standard error."""
    from medvlad import cli  # needs cloup, which a machine for the tests of the GPU may lack

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["medvlad", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def client():
    """A client of two workers in threads of this process."""
    distributed = pytest.importorskip("distributed", reason="needs the extra distributed")
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=False,
            dashboard_address="127.0.0.1:0",
            memory_limit=0,  # the tests before it may have filled the memory, and Dask would pause
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client
