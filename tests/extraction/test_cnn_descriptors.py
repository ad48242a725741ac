"""CNNDescriptors against the network used by hand."""

import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import BATCH_TOLERANCE
from PIL import Image
from sklearn.base import clone

from medvlad import CNNDescriptors, InputError
from medvlad._util.validate import MissingExtraError
from medvlad.backends import available_backends
from medvlad.extraction.cnn_descriptors import input_side
from medvlad.images.read import load_image, resize_square

keras = pytest.importorskip("keras", reason="needs the extra tensorflow")


@pytest.fixture(scope="module")
def vgg19_weights(tmp_path_factory):
    """Seeded VGG19 convolutions; real ones are not needed to test the path."""
    keras.utils.set_random_seed(1)
    path = tmp_path_factory.mktemp("vgg19") / "vgg19.weights.h5"
    keras.applications.VGG19(weights=None, include_top=False).save_weights(path)
    return path


@pytest.fixture(scope="module")
def vgg19(vgg19_weights):
    return CNNDescriptors(weights=vgg19_weights)


@pytest.fixture
def small(small_weights):
    """A cheap network: 49 descriptors of 1280 numbers at scale 0."""
    return CNNDescriptors("MobileNetV2", "out_relu", weights=small_weights)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (60 + 9 * i, 80, 3), dtype=np.uint8) for i in range(5)]


def by_hand(weights, pictures, scale):
    """VGG19's block5_pool (B, h * w, 512), from Keras alone."""
    network = keras.applications.VGG19(weights=None, include_top=False)
    network.load_weights(weights)
    side = 224 + 320 * scale
    batch = np.stack(
        [np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.BILINEAR)) for p in pictures]
    )
    maps = network(keras.applications.vgg19.preprocess_input(batch.astype("float32")))
    return keras.ops.convert_to_numpy(maps).reshape(len(pictures), -1, 512)


def test_defaults_are_the_paper(vgg19, vgg19_weights, pictures):
    got = vgg19.transform(pictures[:2])
    assert (vgg19.model, vgg19.layer, vgg19.scales) == ("vgg19", "block5_pool", (0,))
    assert got.offsets.tolist() == [0, 49, 98]
    assert got.n_features == 512
    expected = by_hand(vgg19_weights, pictures[:2], 0)
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(got.values.reshape(2, 49, 512), expected, rtol=0, atol=BATCH_TOLERANCE * scale)


def test_scales_in_the_order_given(vgg19_weights, pictures):
    got = CNNDescriptors(weights=vgg19_weights, scales=(1, 0)).transform(pictures[:2])
    assert got.offsets.tolist() == [0, 289 + 49, 2 * (289 + 49)]
    for i in range(2):
        for part, scale in ((got[i][:289], 1), (got[i][289:], 0)):
            expected = by_hand(vgg19_weights, pictures[i : i + 1], scale)[0]
            np.testing.assert_allclose(part, expected, atol=BATCH_TOLERANCE * np.abs(expected).max())


def test_mirror_images_too(vgg19_weights, pictures, tmp_path):
    """At each scale an image's own descriptors, then those of its mirror image; in a section of its own."""
    plain = CNNDescriptors(weights=vgg19_weights, store=tmp_path)
    both = CNNDescriptors(weights=vgg19_weights, store=tmp_path, mirror=True)
    square = [resize_square(load_image(picture), 224) for picture in pictures[:2]]
    got, own = both.transform(square), plain.transform(square)
    mirrored = plain.transform([np.ascontiguousarray(picture[:, ::-1]) for picture in square])
    assert got.offsets.tolist() == [0, 98, 196]
    assert (both.grids_, both.mirrored_) == (((7, 7), (7, 7)), (False, True))
    assert (plain.grids_, plain.mirrored_) == (((7, 7),), (False,))
    for i in range(2):
        np.testing.assert_allclose(got[i][:49], own[i], atol=BATCH_TOLERANCE * own[i].max())
        np.testing.assert_allclose(got[i][49:], mirrored[i], atol=BATCH_TOLERANCE * own[i].max())
        assert np.abs(got[i][:49] - got[i][49:]).max() > 0.01 * own[i].max()


@pytest.mark.slow
def test_largest_scale(vgg19_weights, pictures):
    transformer = CNNDescriptors(weights=vgg19_weights, scales=2)
    assert transformer.transform(pictures[:1]).offsets.tolist() == [0, 27 * 27]
    assert transformer.input_sides_ == (864,)


def test_input_sides():
    assert [input_side(s) for s in (0, 1, 2)] == [224, 544, 864]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batches_change_nothing(small, pictures, batch_size):
    whole = small.transform(pictures)
    cut = clone(small).set_params(batch_size=batch_size).transform(pictures)
    np.testing.assert_array_equal(cut.offsets, whole.offsets)
    np.testing.assert_allclose(cut.values, whole.values, atol=BATCH_TOLERANCE * np.abs(whole.values).max())


def test_paths_and_arrays_are_alike(small, pictures, tmp_path):
    paths = []
    for i, p in enumerate(pictures):
        Image.fromarray(p).save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    np.testing.assert_array_equal(small.transform(paths).values, small.transform(pictures).values)
    np.testing.assert_array_equal(
        small.transform([str(p) for p in paths]).values, small.transform(pictures).values
    )
    array = np.stack([resize_square(load_image(p), 100) for p in pictures])
    np.testing.assert_array_equal(small.transform(array).values, small.transform(list(array)).values)


def test_input_is_not_changed(vgg19, pictures):
    before = pictures[0].copy()
    vgg19.transform(pictures[:1])
    np.testing.assert_array_equal(pictures[0], before)


def test_resize_filter_matters_and_is_a_parameter(small, pictures):
    other = clone(small).set_params(resize="nearest").transform(pictures[:1])
    assert (other.values != small.transform(pictures[:1]).values).any()


def test_no_images(small):
    got = small.transform([])
    assert len(got) == 0
    assert got.n_features == 1280


def test_skip_keeps_alignment_and_lists(small, pictures, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    images = [pictures[0], bad, pictures[1], tmp_path / "gone.png"]
    with pytest.raises(InputError, match=r"bad\.png"):
        small.transform(images)
    skipping = clone(small).set_params(on_error="skip")
    got = skipping.transform(images)
    assert np.diff(got.offsets).tolist() == [49, 0, 49, 0]
    assert [i for i, _ in skipping.skipped_] == [1, 3]
    assert "bad.png" in skipping.skipped_[0][1]
    alone = small.transform([pictures[1]])[0]  # in another batch
    np.testing.assert_allclose(got[2], alone, rtol=0, atol=BATCH_TOLERANCE * np.abs(alone).max())
    assert len(clone(skipping).transform([bad])) == 1


def test_an_array_that_is_no_image_is_named(small, pictures):
    with pytest.raises(InputError, match=r"image 1: .*float64"):
        small.transform([pictures[0], np.zeros((5, 5))])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "vgg18"}, "Keras has no network 'vgg18': did you mean vgg1"),
        ({"model": "xyzzy"}, "use one of .*vgg19"),
        ({"model": 7}, "Keras has no network 7"),
        ({"layer": "block5_pool"}, "MobileNetV2 has no layer 'block5_pool': "),
        ({"layer": "out_rely"}, "did you mean 'out_relu'"),
        ({"scales": ()}, "scales must be at least one integer"),
        ({"scales": (0, 0)}, "none of them twice"),
        ({"scales": (-1,)}, "got -1"),
        ({"scales": (0.5,)}, r"got 0\.5"),
        ({"scales": 0.5}, r"got 0\.5"),
        ({"scales": None}, "got None"),
        ({"weights": None}, "weights must be 'imagenet', 'bundled' or a file .*, got None"),
        ({"layer": 7}, "layer must be the name of a layer, got 7"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"resize": "magic"}, "resize must be one of nearest, .*got 'magic'"),
        ({"on_error": "ignore"}, "on_error must be one of raise, skip, got 'ignore'"),
        ({"layer": "predictions", "scales": (1,)}, "takes 224 x 224 pixels only"),
    ],
)
def test_bad_parameters(small, change, message, monkeypatch):
    if "predictions" in change.values():
        keras.utils.set_random_seed(0)
        monkeypatch.setattr(
            "medvlad.extraction.network.fill_network", lambda network, *a, include_top: network
        )
    with pytest.raises(InputError, match=message) as error:
        small.set_params(**change).fit()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "images",
    ["picture.png", b"x", None, 3, {"a": 1}, {"a"}, iter(()), np.zeros((30, 40, 3), np.uint8), np.zeros(())],
)
def test_one_image_is_not_a_list(small, images):
    """A single (H, W, 3) array would otherwise pass for H grey images of W x 3 pixels."""
    with pytest.raises(InputError, match="put it into a list") as error:
        small.transform(images)
    assert "\n" not in str(error.value)


def test_images_are_taken_by_position_not_by_label(small, pictures):
    """As in a shuffled column of a data frame, whose [0] is the row labelled 0."""

    class Column:
        def __len__(self):
            return 2

        def __iter__(self):
            return iter(pictures[:2])

        def __getitem__(self, label):
            return pictures[1 - label]

    np.testing.assert_array_equal(small.transform(Column()).values, small.transform(pictures[:2]).values)


@pytest.mark.parametrize(("progress", "shown"), [(None, False), (False, False), (True, True)])
def test_progress(small, pictures, capsys, progress, shown):
    """None: no bar, as this is no terminal."""
    small.set_params(progress=progress).transform(pictures[:1])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("descriptors" in captured.err) == shown


def test_weights_that_give_no_numbers(small, pictures, monkeypatch):
    monkeypatch.setattr(
        "medvlad.extraction.cnn_descriptors.make_engine",
        lambda *_, **__: lambda x: np.full((len(x), 7, 7, 1280), np.nan),
    )
    with pytest.raises(InputError, match="not finite for image 0"):
        small.transform(pictures)


def test_fully_connected_layer_gives_one_descriptor(tmp_path, pictures):
    keras.utils.set_random_seed(0)
    path = tmp_path / "top.weights.h5"
    network = keras.applications.MobileNetV2(weights=None)
    network.save_weights(path)
    top = CNNDescriptors("mobilenetv2", "predictions", weights=path)
    got = top.transform(pictures[:2])
    assert got.offsets.tolist() == [0, 1, 2]
    assert got.n_features == 1000
    np.testing.assert_allclose(got.values.sum(axis=1), 1, rtol=1e-5)


@pytest.fixture(scope="module")
def vgg16_with_top(tmp_path_factory):
    """Half a gigabyte of weights."""
    keras.utils.set_random_seed(0)
    network = keras.applications.VGG16(weights=None)
    path = tmp_path_factory.mktemp("top") / "top.weights.h5"
    network.save_weights(path)
    yield network, path
    path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["fc1", "fc2"])
def test_fc1_and_fc2_of_vgg16(vgg16_with_top, pictures, layer):
    network, path = vgg16_with_top
    got = CNNDescriptors("vgg16", layer, weights=path).transform(pictures[:1])
    assert got.values.shape == (1, 4096)
    cut = keras.Model(network.input, network.get_layer(layer).output)
    pixels = resize_square(pictures[0], 224)[None].astype("float32")
    expected = keras.ops.convert_to_numpy(cut(keras.applications.vgg16.preprocess_input(pixels)))
    np.testing.assert_allclose(got.values, expected, atol=BATCH_TOLERANCE * np.abs(expected).max())


def test_resnet50(tmp_path, pictures):
    keras.utils.set_random_seed(0)
    keras.applications.ResNet50(weights=None, include_top=False).save_weights(tmp_path / "r.weights.h5")
    got = CNNDescriptors("resnet50", "conv3_block4_out", weights=tmp_path / "r.weights.h5").transform(
        pictures[:1]
    )
    assert got.values.shape == (28 * 28, 512)


def test_pickle_and_clone_leave_the_network_behind(small, pictures):
    expected = small.transform(pictures[:1]).values
    dump = pickle.dumps(small)
    assert len(dump) < 10_000
    np.testing.assert_array_equal(pickle.loads(dump).transform(pictures[:1]).values, expected)
    assert not hasattr(clone(small), "_network")


def test_changed_parameters_build_the_network_again(small, vgg19_weights, pictures):
    first = small.fit().weights_fingerprint_
    small.set_params(model="vgg19", layer="block1_pool", weights=vgg19_weights)
    assert small.transform(pictures[:1]).n_features == 64
    assert small.weights_fingerprint_ != first


def test_without_keras(tmp_path):
    code = (
        "import sys; sys.modules['keras'] = None\n"
        "import medvlad as mv\n"
        "try: mv.CNNDescriptors().fit()\n"
        "except mv.MissingExtraError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "pip install 'medvlad[tensorflow]'" in done.stdout
    assert done.stdout.count("\n") == 1


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


def test_importing_brings_in_no_network_library(tmp_path):
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
def test_without_a_backend(tmp_path, backend, hidden, answer):
    code = (
        f"import sys; sys.modules[{hidden!r}] = None\n"
        "import medvlad as mv\n"
        "try: mv.CNNDescriptors().fit()\n"
        "except (mv.MissingExtraError, mv.InputError) as e: print(type(e).__name__, e, sep=': ')\n"
    )
    assert re.fullmatch(answer + "\n", python(code, tmp_path, KERAS_BACKEND=backend))


@pytest.mark.data
def test_real_descriptors_are_sparse(data_dir, vgg16_weights):
    """Rooms through VGG16: non-negative, and about a tenth not zero, as measured when the project began."""
    paths = sorted((data_dir / "rooms_dev" / "train" / "kitchen").glob("*"))[:4]
    got = CNNDescriptors("vgg16", weights=vgg16_weights).transform(paths)
    assert got.values.min() == 0
    assert 0.05 < (got.values > 0).mean() < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_keras_backends(backend, small_weights, small, pictures, tmp_path):
    """The same descriptors, and not one warning, whichever backend KERAS_BACKEND names."""
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    np.savez(tmp_path / "pictures.npz", *pictures)
    code = (
        "import numpy as np, medvlad as mv\n"
        f"with np.load({str(tmp_path / 'pictures.npz')!r}) as a: pictures = list(a.values())\n"
        f"network = mv.CNNDescriptors('MobileNetV2', 'out_relu', weights={small_weights!r})\n"
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


def test_gpu_output_without_a_gpu(small, pictures):
    """On a machine whose Keras computes on the CPU: one sentence, whether or not CuPy is there."""
    if available_backends()["cuda"].startswith("ok"):
        pytest.skip("there is a GPU")
    features = clone(small).set_params(output="gpu")
    with pytest.raises((InputError, MissingExtraError), match=r"GPU|cuda12"):
        features.transform(pictures)


GPU_OUTPUT = """
import sys
sys.path[:0] = [{tests!r}]
import keras, numpy as np
import medvlad as mv
from medvlad import gpu_array
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
    """From pixels to vectors with each of Keras' backends; on the host CPU arrays stand in for a GPU's."""
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


@pytest.fixture(
    params=["policy float16", "policy mixed_bfloat16", "policy float64", "floatx float16", "floatx float64"]
)
def other_globals(request):
    """Keras' globals as another program of the process may have set them; returns what they must stay."""
    which, dtype = request.param.split()
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    if which == "policy":
        keras.config.set_dtype_policy(dtype)
    else:
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
    yield keras.config.dtype_policy().name, keras.config.floatx()
    keras.config.set_dtype_policy(policy)
    keras.config.set_floatx(floatx)


@pytest.fixture(scope="module", params=["MobileNetV2", "VGG16"])
def with_default_globals(request, tmp_path_factory, pictures):
    """Network, the section of its descriptors, its engine, and the descriptors."""
    keras.utils.set_random_seed(3)
    path = tmp_path_factory.mktemp("float32") / "seeded.weights.h5"
    getattr(keras.applications, request.param)(weights=None, include_top=False).save_weights(path)
    layer = {"MobileNetV2": "out_relu", "VGG16": "block5_pool"}[request.param]
    network = CNNDescriptors(request.param, layer, weights=path, store=path.parent / "store")
    return network, *made_by(clone(network), pictures)


def made_by(network, pictures):
    values = network.set_params(store=None).build().transform(pictures[:2]).values
    return network.set_params(store="store")._section().settings, network.engine_, values


def test_other_globals_of_keras_change_nothing(with_default_globals, other_globals, pictures):
    network, settings, engine, values = with_default_globals
    found = made_by(clone(network), pictures)
    assert found[:2] == (settings, engine)
    np.testing.assert_array_equal(found[2], values)
    assert (keras.config.dtype_policy().name, keras.config.floatx()) == other_globals
    with ThreadPoolExecutor(2) as pool:  # a policy is a thread's own, floatx is not
        for one in [pool.submit(made_by, clone(network), pictures) for _ in range(2)]:
            np.testing.assert_array_equal(one.result()[2], values)
    assert (keras.config.dtype_policy().name, keras.config.floatx()) == other_globals


def test_globals_that_change_after_the_network_is_built(with_default_globals, pictures):
    network, _, _, values = with_default_globals
    built = clone(network).set_params(store=None).build()
    policy = keras.config.dtype_policy()
    keras.config.set_floatx("float16")
    keras.config.set_dtype_policy("float16")
    try:
        np.testing.assert_array_equal(built.transform(pictures[:2]).values, values)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy(policy)


def test_globals_are_restored_after_an_error():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with pytest.raises(InputError, match="no layer 'nothing'"):
            CNNDescriptors("MobileNetV2", "nothing").build()
        assert keras.config.dtype_policy().name == "mixed_float16"
    finally:
        keras.config.set_dtype_policy(policy)


@pytest.mark.parametrize("nested", [False, True])
def test_a_network_of_other_arithmetic_is_refused(small_weights, monkeypatch, nested):
    """Such as one that somebody has put into Keras' own place."""
    real = keras.applications.MobileNetV2

    def half(*arguments, **options):
        pixels = keras.Input((None, None, 3))
        inner = keras.Sequential([keras.layers.Conv2D(4, 3, dtype="mixed_float16", name="odd")])
        maps = inner(pixels) if nested else inner.layers[0](pixels)
        return keras.Model(pixels, keras.layers.Activation("relu", name="out_relu", dtype="float32")(maps))

    half.__name__, half.__module__ = real.__name__, real.__module__
    monkeypatch.setattr(keras.applications, "MobileNetV2", half)
    monkeypatch.setattr("medvlad.extraction.network.fill_network", lambda network, *_, **__: network)
    with pytest.raises(InputError, match=r"layer 'odd' of MobileNetV2 computes in float16"):
        CNNDescriptors("MobileNetV2", "out_relu", weights=small_weights).build()
