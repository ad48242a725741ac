"""Networks of timm and torch modules: tokens, maps, weights, settings of the process, and ONNX."""

import hashlib
import threading
import uuid
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from support.torch_parts import torch_and_timm

from medvlad import VLAD, CNNDescriptors, GlobalPool, InputError, WideLinearSVC
from medvlad._util.object_path import location
from medvlad.explain import evidence, evidence_maps
from medvlad.extraction.networks import build_network, layers_of_network
from medvlad.images.resize import resize_square
from medvlad.models import load_model, save_model

torch, timm = torch_and_timm()

pytestmark = pytest.mark.torch

VIT = "timm:test_vit"  # 160 x 160 pixels, patches of 16, 64 numbers a token
CNN = "timm:test_resnet"


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(11)
    return [rng.integers(0, 256, (170 + 5 * i, 190, 3), dtype=np.uint8) for i in range(4)]


@pytest.fixture
def small():
    """A module of PyTorch whose layer `maps` has 5 channels."""
    torch.manual_seed(1)
    layers = {
        "first": torch.nn.Conv2d(3, 4, 8, 8),
        "relu": torch.nn.ReLU(),
        "maps": torch.nn.Conv2d(4, 5, 2, 2),
    }
    module = torch.nn.Sequential()
    for name, layer in layers.items():
        module.add_module(name, layer)
    module.add_module("pool", torch.nn.AdaptiveAvgPool2d(1))
    return module


def by_hand(network, pictures, side):
    """Tokens of timm's own network, with its own mean and standard deviation."""
    config = timm.data.resolve_model_data_config(network)
    squares = np.stack([resize_square(one, side) for one in pictures]).astype(np.float32) / 255
    mean, std = (np.asarray(config[name], np.float32) for name in ("mean", "std"))
    x = torch.from_numpy(((squares - mean) / std).transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        return network.eval().forward_features(x).numpy()


def seeded(name, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(name, pretrained=False, num_classes=0, **options)


def exported(module, path, side, **options):
    """Write an ONNX file of a module that takes any number of images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.9 and newer prefer another exporter
        torch.onnx.export(
            module.eval(),
            torch.zeros(1, 3, side, side),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["vector"],
            dynamic_axes={"image": {0: "batch"}, "vector": {0: "batch"}},
            **options,
        )
    return f"onnx:{path}"


def test_patch_tokens_are_those_of_timm(pictures):
    features = CNNDescriptors(VIT, weights="random", side=160)
    got = features.transform(pictures)
    expected = by_hand(seeded("test_vit"), pictures, 160)[:, 1:]
    assert features.engine_ == "torch"
    assert features.grids_ == ((10, 10),)
    np.testing.assert_allclose(got.values, expected.reshape(-1, 64), rtol=0, atol=1e-5)


def test_a_vit_gives_the_same_tokens_and_evidence_through_timm_and_onnx(tmp_path, pictures):
    through_timm = CNNDescriptors(VIT, weights="random", side=160)
    module = seeded("test_vit")
    own = through_timm.build().network_.input_settings()["preprocess"]
    through_onnx = CNNDescriptors(exported(module, tmp_path / "vit.onnx", 160), preprocess=own)
    tokens = through_timm.transform(pictures)
    same = through_onnx.transform(pictures)
    assert through_onnx.network_.input_settings() == through_timm.network_.input_settings()
    assert through_onnx.grids_ == through_timm.grids_ == ((10, 10),)
    np.testing.assert_allclose(same.values, tokens.values, rtol=0, atol=1e-5)
    for features, descriptors in ((through_timm, tokens), (through_onnx, same)):
        vlad, svm = VLAD(4, random_state=0), WideLinearSVC()
        pipeline = Pipeline([("f", features), ("e", vlad), ("c", svm)]).fit(pictures, [0, 1, 0, 1])
        found = evidence(descriptors, vlad, svm)
        decision = pipeline.decision_function(pictures)
        np.testing.assert_allclose(found.decision()[:, 0], decision, rtol=0, atol=1e-6)
        own_map = evidence_maps(found, 0, features.grids_)
        assert own_map.shape == (1, 10, 10)
        np.testing.assert_allclose(own_map.sum() + found.bias[0, 0], decision[0], rtol=0, atol=1e-6)


def test_other_sides_interpolate_the_positions(pictures):
    features = CNNDescriptors(VIT, weights="random", scales=(0, 1))
    assert features.build().grids_ == ((14, 14), (34, 34))
    expected = by_hand(seeded("test_vit", dynamic_img_size=True), pictures[:1], 224)[0, 1:]
    np.testing.assert_allclose(features.transform(pictures[:1]).values[:196], expected, rtol=0, atol=1e-5)


def test_a_side_that_is_no_multiple_of_the_patches_is_refused():
    with pytest.raises(InputError, match=r"cannot take images of 150 x 150 pixels .*side=") as error:
        CNNDescriptors(VIT, weights="random", side=150).build()
    assert "\n" not in str(error.value)


def test_maps_of_a_convolutional_network(pictures):
    features = CNNDescriptors(CNN, weights="random")
    got = features.transform(pictures)
    expected = by_hand(seeded("test_resnet"), pictures, 224).transpose(0, 2, 3, 1)
    assert features.grids_ == (expected.shape[1:3],)
    np.testing.assert_allclose(got.values, expected.reshape(-1, expected.shape[-1]), rtol=0, atol=1e-5)


def test_a_named_module_gives_its_output(pictures):
    last = CNNDescriptors(CNN, "layer4", weights="random").transform(pictures)
    whole = CNNDescriptors(CNN, weights="random").transform(pictures)
    np.testing.assert_array_equal(last.values, whole.values)
    block = CNNDescriptors(VIT, "blocks.2", weights="random", side=160)
    assert block.transform(pictures).values.shape == (4 * 100, 64)


def test_layers_of_timm_are_listed_with_shapes():
    found = layers_of_network(VIT)
    assert found[0].name == "forward_features"
    assert {one.name for one in found} >= {"blocks.0", "norm", "patch_embed"}
    assert all(one.is_spatial for one in found[:3])


# -------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_are_read_from_a_file(tmp_path, pictures, suffix, wrapped):
    state = timm.create_model("test_vit", pretrained=False).state_dict()  # with its classifier
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        import safetensors.torch

        safetensors.torch.save_file(state, path)
    else:
        torch.save(
            {"state_dict": {f"module.{name}": one for name, one in state.items()}} if wrapped else state, path
        )
    network = build_network(VIT, None, path)
    found = network.cut.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in found.items())


def test_weights_may_have_a_sha256_or_lie_at_a_url(tmp_path, monkeypatch):
    pytest.importorskip("fsspec", reason="needs the extra cloud")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    state = seeded("test_vit").state_dict()
    path = tmp_path / "w.pth"
    torch.save(state, path)
    url = f"memory://{uuid.uuid4().hex}/w.pth"
    location(url, "weights").write_bytes(path.read_bytes())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for source in (f"{path}#sha256={digest}", url, f"{url}#sha256={digest}"):
        network = build_network(VIT, None, source)
        assert network.source == source
        assert torch.equal(network.cut.module.state_dict()["norm.weight"], state["norm.weight"])
    for place in (str(path), url):
        with pytest.raises(InputError, match="have the SHA-256"):
            build_network(VIT, None, f"{place}#sha256={'0' * 64}")


class Evil:
    def __reduce__(self):
        return print, ("this code must not run",)


def test_a_file_that_holds_code_is_refused_and_not_run(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    torch.save({"weight": Evil()}, path)
    with pytest.raises(InputError, match="holds more than tensors, which could run code") as error:
        build_network(VIT, None, path)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_files_that_do_not_fit_are_refused(tmp_path):
    state = seeded("test_vit").state_dict()
    lacking = {name: value for name, value in state.items() if name != "norm.weight"}
    other = state | {"norm.weight": torch.zeros(3)}
    broken = state | {"norm.weight": torch.full((64,), float("nan"))}
    cases = [
        (lacking, "lacks norm.weight"),
        (other, "has shape"),
        (broken, "not finite"),
        ([1], "holds list"),
    ]
    for content, message in cases:
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(InputError, match=message):
            build_network(VIT, None, tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(b"\x80\x02damaged")
    with pytest.raises(InputError, match="cannot be read as weights"):
        build_network(VIT, None, tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "timm:vit_tinny_patch16_224"}, "timm has no network .*did you mean"),
        ({"layer": "blocks.99"}, "has no layer 'blocks.99': did you mean 'blocks"),
        ({"weights": "w.h5"}, "must be 'imagenet', 'random' or a file ending in .safetensors"),
        ({"weights": "absent.pth"}, "does not exist"),
        ({"dtype": "int8"}, "dtype='int8' does not work here, because timm:test_vit runs on torch"),
        ({"engine": "onnxruntime"}, "engine='onnxruntime' does not work here"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_sentence(settings, message):
    with pytest.raises(InputError, match=message) as error:
        CNNDescriptors(VIT, weights="random").set_params(**settings).build()
    assert "\n" not in str(error.value)


def test_a_failed_download_is_one_sentence(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        InputError, match=r"could not be downloaded \(Network is unreachable\): check"
    ) as error:
        build_network("timm:resnet18", None, "imagenet")
    assert "\n" not in str(error.value)


# -------------------------------------------------------------------------------------- modules


def settings_of(module, **more):
    return CNNDescriptors(module, "maps", preprocess="scale", **more)


def test_a_module_gives_the_maps_of_a_layer(small, pictures):
    got = settings_of(small).transform(pictures)
    x = np.stack([resize_square(one, 224) for one in pictures]).astype(np.float32) / 255
    with torch.inference_mode():
        expected = small[:3](torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(got.values, expected.transpose(0, 2, 3, 1).reshape(-1, 5), rtol=0, atol=1e-5)


def test_a_module_is_not_changed(small, pictures):
    small.train().double()
    before = {name: value.clone() for name, value in small.state_dict().items()}
    settings_of(small).transform(pictures)
    assert small.training
    assert all(parameter.requires_grad for parameter in small.parameters())
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    assert not small.maps._forward_hooks


def test_changed_weights_are_noticed(small, pictures, tmp_path):
    features = settings_of(small, store=tmp_path / "store")
    assert features.extract(pictures) == 4
    assert features.extract(pictures) == 0
    with torch.no_grad():
        small.maps.weight += 1
    assert features.extract(pictures) == 4


class Doubled(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.maps = inner

    def forward(self, x):
        return self.maps(2 * x)


class Halved(Doubled):
    def forward(self, x):
        return self.maps(x / 2)


def test_the_same_weights_in_another_network_have_another_fingerprint(small):
    fingerprints = {settings_of(kind(small.first)).build().weights_fingerprint_ for kind in (Doubled, Halved)}
    assert len(fingerprints) == 2


def test_a_module_can_be_cloned_but_not_saved(small, pictures, tmp_path):
    features = clone(settings_of(small))
    steps = [("features", features), ("encode", GlobalPool()), ("classify", WideLinearSVC())]
    pipeline = Pipeline(steps).fit(pictures, ["a", "b", "a", "b"])
    with pytest.raises(
        InputError, match=r"cannot name the object torch:Sequential: export it with torch\.onnx"
    ):
        save_model(pipeline, tmp_path / "model")
    with pytest.raises(InputError, match="needs layer='NAME'"):
        CNNDescriptors(small, preprocess="scale").build()
    with pytest.raises(InputError, match="has no layer 'map': did you mean 'maps'"):
        CNNDescriptors(small, "map", preprocess="scale").build()


def test_a_model_of_timm_is_saved_with_its_preprocessing(tmp_path, pictures):
    steps = [
        ("features", CNNDescriptors(VIT, weights="random", side=160)),
        ("encode", GlobalPool()),
        ("classify", WideLinearSVC()),
    ]
    pipeline = Pipeline(steps).fit(pictures, ["a", "b", "a", "b"])
    save_model(pipeline, tmp_path / "model")
    back = load_model(tmp_path / "model")
    assert (back[0].layer, back[0].side, back[0].prefix_tokens) == ("forward_features", 160, 1)
    np.testing.assert_array_equal(back.decision_function(pictures), pipeline.decision_function(pictures))


# --------------------------------------------------------------------------- settings of the process


def test_settings_of_torch_are_restored_and_change_nothing(pictures):
    features = CNNDescriptors(VIT, weights="random", side=160, n_threads=1)
    expected = features.transform(pictures).values
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            np.testing.assert_array_equal(features.transform(pictures).values, expected)
        assert torch.get_num_threads() == 3
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.is_grad_enabled()
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")


def test_threads_may_share_one_estimator(pictures):
    features = CNNDescriptors(VIT, weights="random", side=160, n_threads=1)
    expected = features.transform(pictures).values
    found = [None] * 4

    def work(i):
        found[i] = features.transform(pictures).values

    running = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    for values in found:
        np.testing.assert_array_equal(values, expected)
