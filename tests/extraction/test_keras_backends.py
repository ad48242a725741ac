"""Keras and its backends: missing ones are explained, all of them give the same descriptors, on a GPU too."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import BATCH_TOLERANCE

from medvlad import CNNDescriptors, InputError
from medvlad._util.validate import MissingExtraError
from medvlad.backends import available_backends


@pytest.fixture
def small(small_weights):
    """A cheap network: 49 descriptors of 1280 numbers at scale 0."""
    return CNNDescriptors("MobileNetV2", "out_relu", weights=small_weights, engine="keras")


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (60 + 9 * i, 80, 3), dtype=np.uint8) for i in range(5)]


def python(code, cwd, **environment):
    """Standard output of `code` in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
        env=os.environ | environment,
    ).stdout


def test_without_keras_the_extra_is_named(tmp_path):
    code = (
        "import sys; sys.modules['keras'] = None\n"
        "import medvlad as mv\n"
        "try: mv.CNNDescriptors().fit()\n"
        "except mv.MissingExtraError as error: print(error)\n"
    )
    printed = python(code, tmp_path)
    assert "pip install 'medvlad[tensorflow]'" in printed
    assert printed.count("\n") == 1


def test_an_import_loads_no_network_library(tmp_path):
    code = (
        "import sys, medvlad.extraction.cnn_descriptors, medvlad.extraction.weights\n"
        "print([m for m in ('keras', 'tensorflow', 'onnx', 'h5py') if m in sys.modules])"
    )
    assert python(code, tmp_path) == "[]\n"


@pytest.mark.parametrize(
    ("backend", "hidden", "answer"),
    [
        (
            "tensorflow",
            "tensorflow",
            "MissingExtraError: .*tensorflow.*pip install 'medvlad\\[tensorflow\\]'",
        ),
        ("nonesuch", "-", "InputError: Keras cannot start .*nonesuch.*: check KERAS_BACKEND"),
    ],
)
def test_a_backend_that_cannot_start_is_named(tmp_path, backend, hidden, answer):
    code = (
        f"import sys; sys.modules[{hidden!r}] = None\n"
        "import medvlad as mv\n"
        "try: mv.CNNDescriptors().fit()\n"
        "except (mv.MissingExtraError, mv.InputError) as e: print(type(e).__name__, e, sep=': ')\n"
    )
    assert re.fullmatch(answer + "\n", python(code, tmp_path, KERAS_BACKEND=backend))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_keras_backends_give_the_same_descriptors(backend, small_weights, small, pictures, tmp_path):
    """There is no warning, whichever backend KERAS_BACKEND names."""
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    np.savez(tmp_path / "pictures.npz", *pictures)
    code = (
        "import numpy as np, medvlad as mv\n"
        f"with np.load({str(tmp_path / 'pictures.npz')!r}) as a: pictures = list(a.values())\n"
        f"network = mv.CNNDescriptors('MobileNetV2', 'out_relu', weights={small_weights!r}, engine='keras')\n"
        f"np.save({str(tmp_path / 'values.npy')!r}, network.transform(pictures).values)\n"
    )
    subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        check=True,
        cwd=tmp_path,
        env=os.environ | {"KERAS_BACKEND": backend},
    )
    expected = small.transform(pictures).values
    got = np.load(tmp_path / "values.npy")
    np.testing.assert_allclose(got, expected, atol=10 * BATCH_TOLERANCE * np.abs(expected).max())


def test_output_on_the_gpu_needs_a_gpu(small, pictures):
    """One sentence, with CuPy or without it."""
    if available_backends()["cuda"].startswith("ok"):
        pytest.skip("there is a GPU")
    features = small.set_params(output="gpu")
    with pytest.raises((InputError, MissingExtraError), match=r"GPU|cuda12"):
        features.transform(pictures)


GPU_OUTPUT = """
import sys
sys.path[:0] = [{tests!r}]
import keras, numpy as np
import medvlad as mv
from medvlad.descriptors import gpu_array
sys.modules.setdefault("cupy", None)
if {on_host}:
    from support.cuda_on_host import cupy_on_host
    sys.modules["cupy"] = cupy_on_host
    gpu_array._CUDA_DEVICES = (1, 2)
    cupy_on_host.Array.device_type = 1
    gpu_array._foreign_stream = lambda *_: cupy_on_host.cuda.Stream()
    gpu_array._torch_stream = lambda device: 0
cupy = gpu_array.import_cupy()
pictures = np.random.default_rng(0).integers(0, 256, (5, 60, 50, 3)).astype(np.uint8)
settings = dict(model="mobilenetv2", layer="block_2_add", weights={weights!r}, scales=(1, 0), batch_size=2)
host = mv.CNNDescriptors(**settings).transform(pictures)
there = mv.CNNDescriptors(**settings, output="gpu").transform(pictures)
assert isinstance(there.values, gpu_array.GpuArray), there.values
assert there.offsets.tolist() == host.offsets.tolist()
scale = abs(host.values).max()
assert abs(there.to_host().values - host.values).max() < 1e-5 * scale
vlad = mv.VLAD(4, random_state=0).fit(host)
encoded = vlad.transform(there)
assert type(encoded).__module__.partition(".")[0] in (keras.config.backend(), keras.config.backend() + "lib")
numbers = encoded.detach().cpu().numpy() if keras.config.backend() == "torch" else np.asarray(encoded)
assert abs(numbers - vlad.transform(host)).max() < 1e-4
one = mv.CNNDescriptors(**{{**settings, "scales": (0,)}}, output="gpu").transform(pictures)
assert len(one) == 5
print("right")
"""


@pytest.mark.parametrize("keras_backend", ["tensorflow", "jax", "torch"])
@pytest.mark.parametrize("where", [pytest.param("gpu", marks=pytest.mark.gpu), "on_host"])
@pytest.mark.slow
def test_descriptors_stay_on_the_gpu(where, keras_backend, small_weights):
    """From pixels to vectors with each backend of Keras. On the host, CPU arrays replace those of a GPU."""
    if find_spec(keras_backend) is None:
        pytest.skip(f"{keras_backend} is not installed")
    if where == "gpu" and not available_backends()["cuda"].startswith("ok"):
        pytest.skip(available_backends()["cuda"])
    code = GPU_OUTPUT.format(
        tests=str(Path(__file__).parents[1]), weights=small_weights, on_host=where == "on_host"
    )
    environment = {**os.environ, "KERAS_BACKEND": keras_backend}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "right\n", done.stderr[-2000:]
