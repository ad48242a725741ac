"""Networks of ONNX files: layers, layouts, batches, preprocessing, and what is refused."""

import json
import sys

import numpy as np
import pytest

from medvlad import VLAD, CNNDescriptors, GlobalPool, InputError, WideLinearSVC
from medvlad.explain import evidence
from medvlad.extraction.networks import layers_of_network
from medvlad.images.resize import resize_square
from medvlad.models import export_onnx, load_model, save_model

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
ort = pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from sklearn.pipeline import Pipeline  # noqa: E402
from support.onnx_networks import WIDTH, convolutions, tokens  # noqa: E402

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(11)
    return [rng.integers(0, 256, (70 + 5 * i, 90, 3), dtype=np.uint8) for i in range(4)]


@pytest.fixture
def network(tmp_path):
    return convolutions(tmp_path / "network.onnx")


def by_hand(path, tensor, pictures, side=224):
    """Run the whole file, with `tensor` as one more output, on images preprocessed here."""
    model = onnx.load(path)
    model.graph.output.append(onnx.ValueInfoProto(name=tensor))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    squares = np.stack([resize_square(one, side) for one in pictures]).astype(np.float64) / 255
    x = ((squares - IMAGENET["mean"]) / IMAGENET["std"]).astype(np.float32).transpose(0, 3, 1, 2)
    return np.concatenate([session.run([tensor], {"image": one[None]})[0] for one in x])


def test_maps_are_those_of_the_whole_file(network, pictures):
    features = CNNDescriptors(network, "maps", preprocess="imagenet")
    got = features.transform(pictures)
    assert features.engine_ == "onnxruntime"
    assert features.grids_ == ((14, 14),)
    expected = by_hand(features.network_.source, "maps", pictures).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(got.values, expected.reshape(-1, WIDTH), rtol=0, atol=1e-5)


def test_without_a_layer_the_last_feature_map_is_taken(network):
    assert CNNDescriptors(network).build().network_.layer == "maps"


def test_a_layer_may_be_named_by_its_node(network):
    assert CNNDescriptors(network, "conv2").build().network_.layer == "second"


def test_channels_last_gives_the_same_maps(tmp_path, network, pictures):
    other = convolutions(tmp_path / "last.onnx", layout="nhwc", side=224)
    np.testing.assert_allclose(
        CNNDescriptors(other).transform(pictures).values,
        CNNDescriptors(network).transform(pictures).values,
        rtol=0,
        atol=1e-5,
    )


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fixed_batch_changes_nothing(tmp_path, network, pictures, batch):
    fixed = convolutions(tmp_path / "fixed.onnx", batch=batch)
    got = CNNDescriptors(fixed, batch_size=4).transform(pictures)
    np.testing.assert_allclose(
        got.values, CNNDescriptors(network).transform(pictures).values, rtol=0, atol=1e-5
    )


def test_a_vector_gives_one_descriptor(network, pictures):
    features = CNNDescriptors(network, "vector")
    assert features.transform(pictures).values.shape == (4, WIDTH)
    assert features.grids_ == ((1, 1),)


def test_scales_and_mirror_images_have_grids_of_their_own(network, pictures):
    features = CNNDescriptors(network, scales=(0, 1), mirror=True)
    assert features.build().grids_ == ((14, 14), (14, 14), (34, 34), (34, 34))
    assert len(features.transform(pictures[:1]).values) == 2 * (14 * 14 + 34 * 34)


@pytest.mark.parametrize("n_prefix", [1, 2, 5])
def test_prefix_tokens_are_left_out(tmp_path, pictures, n_prefix):
    features = CNNDescriptors(tokens(tmp_path / "t.onnx", n_prefix=n_prefix, batch=1, side=224))
    got = features.transform(pictures)
    assert features.network_.layer == "tokens"
    assert features.network_.input_settings()["prefix_tokens"] == n_prefix
    expected = by_hand(features.network_.source, "tokens", pictures)[:, n_prefix:]
    np.testing.assert_allclose(got.values, expected.reshape(-1, WIDTH), rtol=0, atol=1e-5)


def test_an_unusual_number_of_prefix_tokens_must_be_named(tmp_path):
    model = tokens(tmp_path / "t.onnx", n_prefix=3, batch=1, side=224)
    with pytest.raises(
        InputError, match=r"has 199 tokens, and no usual number of them is .*set prefix_tokens"
    ):
        CNNDescriptors(model, "tokens").build()
    assert CNNDescriptors(model, "tokens", prefix_tokens=3).build().grids_ == ((14, 14),)
    with pytest.raises(InputError, match="without 2 class and register tokens the other 197 form no square"):
        CNNDescriptors(model, "tokens", prefix_tokens=2).build()


def test_a_fixed_side_is_scale_0(tmp_path, pictures):
    features = CNNDescriptors(convolutions(tmp_path / "f.onnx", side=96))
    assert features.build().input_sides_ == (96,)
    assert features.transform(pictures[:1]).values.shape == (36, WIDTH)
    for change in ({"scales": (0, 1)}, {"scales": (1,)}, {"side": 224}):
        with pytest.raises(InputError, match="takes 96 x 96 pixels only") as error:
            CNNDescriptors(features.model, **change).build()
        assert "\n" not in str(error.value)


def test_another_side_can_be_chosen(network):
    assert CNNDescriptors(network, side=160).build().grids_ == ((10, 10),)
    with pytest.raises(InputError, match=r"side=160, which does not fit scales=\(0, 1\)"):
        CNNDescriptors(network, side=160, scales=(0, 1)).build()
    with pytest.raises(InputError, match="side=160 is for networks of onnx"):
        CNNDescriptors("vgg16", weights="bundled", side=160).build()


# -------------------------------------------------------------------------------- preprocessing


def test_preprocessing_is_read_from_a_file_beside_it(tmp_path, network):
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3], "rescale_factor": 0.5}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    found = CNNDescriptors(network).build().network_.input_settings()["preprocess"]
    assert found == {"factor": 0.5, "mean": [0.1, 0.2, 0.3], "std": [1, 2, 3], "order": "rgb"}
    named = CNNDescriptors(network, preprocess="raw").build().network_.input_settings()["preprocess"]
    assert named["name"] == "raw"


def test_preprocessing_is_read_from_timms_config(tmp_path, network):
    (tmp_path / "config.json").write_text(
        json.dumps({"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    )
    found = CNNDescriptors(network).build().network_.input_settings()["preprocess"]
    assert (found["factor"], found["mean"], found["std"]) == (1 / 255, [0.5] * 3, [0.5] * 3)


def test_preprocessing_is_read_from_the_metadata(tmp_path):
    model = convolutions(tmp_path / "m.onnx", metadata={"mean": "[0.5, 0.5, 0.5]", "std": "0.1,0.2,0.3"})
    found = CNNDescriptors(model).build().network_.input_settings()["preprocess"]
    assert (found["mean"], found["std"]) == ([0.5] * 3, [0.1, 0.2, 0.3])


def test_an_assumed_preprocessing_is_said(network, caplog):
    found = CNNDescriptors(network).build().network_.input_settings()["preprocess"]
    assert found["name"] == "imagenet"
    assert "says nothing about its preprocessing" in caplog.text


def test_a_broken_configuration_is_named(tmp_path, network):
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(InputError, match=r"preprocessor_config.json cannot be read as JSON .*set preprocess"):
        CNNDescriptors(network).build()


def test_another_preprocessing_or_layer_has_another_section(tmp_path, network, pictures):
    store = tmp_path / "store"
    sections = set()
    for change in ({}, {"preprocess": "raw"}, {"layer": "relu"}, {"side": 160}, {"weights": "imagenet"}):
        features = CNNDescriptors(network, store=store, **change)
        assert features.extract(pictures) == (4 if change != {"weights": "imagenet"} else 0)
        sections.add(features.store_section().path)
    assert len(sections) == 4


def test_a_moved_file_keeps_its_descriptors_and_a_changed_one_does_not(tmp_path, network, pictures):
    store = tmp_path / "store"
    CNNDescriptors(network, store=store).extract(pictures)
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / "other.onnx"
    moved.write_bytes((tmp_path / "network.onnx").read_bytes())
    assert CNNDescriptors(f"onnx:{moved}", store=store).extract(pictures) == 0
    model = onnx.load(moved)
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    onnx.save(model, moved)
    assert CNNDescriptors(f"onnx:{moved}", store=store).extract(pictures) == 4


# ----------------------------------------------------------------------- models, evidence, export


def test_a_model_remembers_the_file_and_its_preprocessing(tmp_path, network, pictures):
    (tmp_path / "config.json").write_text(json.dumps({"mean": [0.5] * 3, "std": [0.25] * 3}))
    steps = [("features", CNNDescriptors(network)), ("encode", GlobalPool()), ("classify", WideLinearSVC())]
    pipeline = Pipeline(steps).fit(pictures, ["a", "b", "a", "b"])
    save_model(pipeline, tmp_path / "model")
    (tmp_path / "config.json").unlink()
    back = load_model(tmp_path / "model")
    assert (back[0].layer, back[0].preprocess["mean"]) == ("maps", [0.5] * 3)
    np.testing.assert_array_equal(back.decision_function(pictures), pipeline.decision_function(pictures))
    expected, moved = pipeline.decision_function(pictures), tmp_path / "moved.onnx"
    (tmp_path / "network.onnx").rename(moved)
    again = load_model(tmp_path / "model", weights=str(moved))
    np.testing.assert_array_equal(again.decision_function(pictures), expected)
    convolutions(tmp_path / "network.onnx", opset=18)
    with pytest.raises(InputError, match="are not those that"):
        load_model(tmp_path / "model")


def test_the_evidence_of_patch_tokens_adds_up_to_the_decision_value(tmp_path, pictures):
    features = CNNDescriptors(tokens(tmp_path / "t.onnx", batch=1, side=224))
    vlad, svm = VLAD(3, intra_norm=True, random_state=0), WideLinearSVC()
    pipeline = Pipeline([("f", features), ("e", vlad), ("c", svm)]).fit(pictures, [0, 1, 0, 1])
    found = evidence(features.transform(pictures), vlad, svm)
    assert found.terms.shape == (4 * 14 * 14, 1)
    np.testing.assert_allclose(
        found.decision()[:, 0], pipeline.decision_function(pictures), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("opset", [13, 18, 20])
@pytest.mark.parametrize("kind", ["maps", "channels last", "tokens", "scales and mirror"])
def test_the_exported_graph_gives_the_same_scores(tmp_path, pictures, kind, opset):
    settings = {}
    if kind == "tokens":
        model = tokens(tmp_path / "n.onnx", batch=1, side=224, opset=opset)
    else:
        layout = "nhwc" if kind == "channels last" else "nchw"
        model = convolutions(
            tmp_path / "n.onnx", layout=layout, side=224 if layout == "nhwc" else "s", opset=opset
        )
        settings = {"scales": (0, 1), "mirror": True} if kind == "scales and mirror" else {}
    features = CNNDescriptors(model, preprocess="caffe", **settings)
    steps = [("features", features), ("encode", VLAD(2, random_state=0)), ("classify", WideLinearSVC())]
    pipeline = Pipeline(steps).fit(pictures, ["a", "b", "c", "a"])
    inputs = export_onnx(pipeline, tmp_path / "whole.onnx")
    session = ort.InferenceSession(tmp_path / "whole.onnx", providers=["CPUExecutionProvider"])
    for i, picture in enumerate(pictures):
        squares = {name: resize_square(picture, shape[1])[None] for name, shape in inputs.items()}
        (scores,) = session.run(["scores"], squares)
        expected = pipeline.decision_function(pictures[i : i + 1])
        np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-5)


def test_keras_and_torch_are_not_imported(network, pictures):
    """In a fresh interpreter, because other tests import them."""
    import subprocess

    code = (
        "import sys, numpy as np, medvlad as mv\n"
        f"mv.CNNDescriptors({network!r}).transform([np.zeros((9, 9, 3), np.uint8)])\n"
        "print(*[name for name in ('keras', 'tensorflow', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_onnxruntime_leaves_no_record_in_the_home_folder(tmp_path, network):
    import os
    import subprocess

    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import numpy as np, medvlad as mv\n"
        f"mv.CNNDescriptors({network!r}).transform([np.zeros((9, 9, 3), np.uint8)])\n"
    )
    # CI has an effect of its own on onnxruntime.
    kept = {name: text for name, text in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    places = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=kept | places)
    assert list(home.rglob("*onnxruntime*")) == []


# ------------------------------------------------------------------------------------- layers


def test_layers_are_listed_with_the_last_maps_first(tmp_path, network):
    found = layers_of_network(network)
    assert [one.name for one in found] == ["maps", "second", "relu", "first", "vector", "pooled"]
    assert [one.is_spatial for one in found] == [True] * 4 + [False] * 2
    assert found[0].shape == (1, WIDTH, 14, 14)
    assert layers_of_network(network.removeprefix("onnx:")) == found


# ----------------------------------------------------------------------------------- bad input


def changed(path, change):
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def external(path):
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)


def dims(model):
    return model.graph.input[0].type.tensor_type.shape.dim


def set_sizes(model, *sizes):
    for dim, size in zip(dims(model), sizes, strict=True):
        dim.Clear()
        if size:
            dim.dim_value = size


def test_external_weights_are_read_and_missing_ones_named(tmp_path, network, pictures):
    expected = CNNDescriptors(network).transform(pictures).values
    external(tmp_path / "network.onnx")
    features = CNNDescriptors(network)
    np.testing.assert_array_equal(features.transform(pictures).values, expected)
    before = features.weights_fingerprint_
    weights = tmp_path / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[5] ^= 1
    weights.write_bytes(content)
    assert CNNDescriptors(network).build().weights_fingerprint_ != before
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"the external weights of .* cannot be read"):
        CNNDescriptors(network).build()
    weights.unlink()
    with pytest.raises(
        InputError, match=r"keeps its weights in weights\.bin, which is not in the same folder"
    ):
        CNNDescriptors(network).build()


def test_external_weights_outside_the_folder_are_refused(tmp_path, network):
    external(tmp_path / "network.onnx")
    (tmp_path / "weights.bin").rename(tmp_path.parent / "outside.bin")

    def point_outside(model):
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = "../outside.bin"

    model = onnx.load(tmp_path / "network.onnx", load_external_data=False)
    point_outside(model)
    (tmp_path / "network.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="the external weights of"):
        CNNDescriptors(network).build()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: set_sizes(m, 1, 1, 64, 64), r"has shape \(1, 1, 64, 64\), which is not certainly"),
        (lambda m: set_sizes(m, 1, 3, 64, 96), "takes 64 x 96 pixels, and medvlad gives squares"),
        (
            lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 10),
            "takes float16 as input 'image'",
        ),
        (lambda m: m.graph.input.append(m.graph.input[0]), r"has 2 inputs \(image, image\)"),
        (lambda m: setattr(m, "ir_version", 99), "IR version 99 .*update onnxruntime"),
        (lambda m: setattr(m.opset_import[0], "version", 999), "opset 999.*update onnxruntime"),
        (lambda m: setattr(m.graph.node[0], "op_type", "Unknown"), "onnxruntime .* cannot run"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(tmp_path, network, change, message):
    changed(tmp_path / "network.onnx", change)
    with pytest.raises(InputError, match=message) as error:
        CNNDescriptors(network, "maps").build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no protobuf", b"\x08\x07"])
def test_a_file_that_is_not_onnx_is_refused(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.onnx (cannot be read as ONNX|holds no ONNX graph)"):
        CNNDescriptors(f"onnx:{tmp_path / 'x.onnx'}").build()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": "map"}, "has no layer 'map': did you mean 'maps'"),
        ({"layer": "xyzzy"}, "'medvlad layers .*' lists them"),
        ({"weights": "x.h5"}, "holds its own weights"),
        ({"dtype": "int8"}, "dtype='int8' does not work here, because network.onnx runs on onnxruntime"),
        ({"dtype": "bfloat16"}, "dtype='bfloat16' does not work here"),
        ({"engine": "keras"}, "engine='keras' does not work here"),
        ({"output": "gpu"}, "output='gpu' does not work here"),
        ({"preprocess": "imagnet"}, "preprocess must be one of imagenet, .*got 'imagnet'"),
        ({"preprocess": {"std": 0}}, "std must be above 0"),
        ({"preprocess": {"mean": [1, 2]}}, "mean must be 3 finite numbers"),
        ({"preprocess": {"means": 1}}, "has the key 'means'"),
        ({"prefix_tokens": -1}, "prefix_tokens must be an integer of at least 0"),
        ({"side": 0}, "side must be an integer of at least 1"),
        ({"model": "onnx:"}, "names no file"),
        ({"model": "onnx:absent.onnx"}, "there is no ONNX file absent.onnx"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_sentence(network, settings, message):
    with pytest.raises(InputError, match=message) as error:
        CNNDescriptors(network).set_params(**settings).build()
    assert "\n" not in str(error.value)


def test_keras_networks_take_no_options_of_others():
    for name, value in (("preprocess", "raw"), ("prefix_tokens", 1)):
        with pytest.raises(InputError, match=f"{name} is for networks of onnx, timm and torch"):
            CNNDescriptors("vgg16", weights="bundled", **{name: value}).build()


def test_a_size_that_the_graph_does_not_take_is_refused(network):
    with pytest.raises(InputError, match=r"cannot take 1 images of 3 x 3 pixels .*use the side") as error:
        CNNDescriptors(network, "maps", side=3).build()
    assert "\n" not in str(error.value)


def test_no_message_names_a_place_in_the_code_of_onnxruntime(tmp_path, network):
    changed(tmp_path / "network.onnx", lambda model: setattr(model, "ir_version", 99))
    with pytest.raises(InputError, match="IR version: 99") as error:
        CNNDescriptors(network, "maps").build()
    assert not any(part in str(error.value) for part in (".cc", "::", "ONNXRuntimeError"))
