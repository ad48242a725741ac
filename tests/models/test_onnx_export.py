"""The ONNX graph gives the scores of the pipeline that it was made from."""

import json

import numpy as np
import pytest
from sklearn.pipeline import Pipeline

from medvlad import (
    CNNDescriptors,
    Descriptors,
    GlobalPool,
    InputError,
    SecondOrderPool,
    SpatialTiles,
    WideLinearSVC,
)
from medvlad.encoders.recipe import Recipe, encoder_steps
from medvlad.extraction.networks import FrozenNetwork
from medvlad.images.read import load_image
from medvlad.images.resize import resize_square
from medvlad.models.onnx_export import export_onnx

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra test")
pytest.importorskip("onnx", reason="needs the extra onnx")
keras = pytest.importorskip("keras", reason="needs the extra tensorflow")

RECIPES = {
    "avg": ("avg", Recipe()),
    "sum": ("sum", Recipe()),
    "max": ("max", Recipe(descriptor_norm=True)),
    "gem": ("gem", Recipe(reduce=3)),
    "vlad": ("vlad4", Recipe()),
    "best": ("vlad4", Recipe(descriptor_norm=True, power=0.5)),
    "intra, PCA": ("vlad4", Recipe(n_components=5, intra_norm=True, reduce=4, whiten=True)),
    "vocabularies": ("vlad3", Recipe(vocabularies=2, residual_norm=True)),
    "soft": ("vlad4", Recipe(assignment="soft", mass_norm=True)),
    "soft, residual": ("vlad4", Recipe(assignment="soft", residual_norm=True, intra_norm=True)),
    "mean unit residual": ("vlad4", Recipe(residual_norm=True, mass_norm=True, intra_norm=True)),
    "top 2": ("vlad4", Recipe(assignment="soft", n_nearest=2)),
    "local axes": ("vlad3", Recipe(local_axes=True, power=0.5)),
    "words": ("bow6", Recipe()),
    "fisher": ("fisher3", Recipe(power=0.5)),
    "side by side": ("avg+vlad3", Recipe()),
}


class Fixed(CNNDescriptors):
    """A network that is never run."""

    def build(self):
        self.n_features_out_, self.weights_fingerprint_ = 8, "0" * 64
        self.network_ = FrozenNetwork("vgg19", "block5_pool", "imagenet", None, None, "0" * 64)
        return self


def run(path, **inputs):
    """Run a graph. Return its scores, labels and metadata."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    scores, label = session.run(["scores", "label"], inputs)
    return scores, label, session.get_modelmeta().custom_metadata_map


def expected_scores(steps, descriptors):
    decision = Pipeline(steps).decision_function(descriptors)
    return np.column_stack([-decision, decision]) if decision.ndim == 1 else decision


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_graph_from_descriptors_gives_the_same_scores(rng, tmp_path, recipe, n_classes):
    name, settings = RECIPES[recipe]
    groups = rng.normal(scale=3, size=(6, 8))
    x = (groups[rng.integers(0, 6, (24, 12))] + rng.normal(size=(24, 12, 8))).astype(np.float32)
    x[3] = 0  # an image of zeros
    steps = [*encoder_steps(settings.encoder(name)), ("classify", WideLinearSVC())]
    labels = np.array(["a", "b", "c"])[np.arange(24) % n_classes]
    Pipeline(steps).fit(Descriptors.from_array(x), labels)
    path = tmp_path / "model.onnx"
    inputs = export_onnx(Pipeline([("features", Fixed()), *steps]), path, from_features=True)
    assert inputs == {"descriptors": ("batch", "n", 8)}
    scores, label, metadata = run(path, descriptors=x)
    expected = expected_scores(steps, Descriptors.from_array(x))
    assert scores.shape == expected.shape
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert json.loads(metadata["classes"]) == sorted(set(labels))
    names = np.array(json.loads(metadata["classes"]))
    np.testing.assert_array_equal(names[label], names[expected.argmax(axis=1)])
    assert run(path, descriptors=x[:0])[0].shape == (0, n_classes if n_classes > 2 else 2)
    # Another number of images and of descriptors.
    scores, _, _ = run(path, descriptors=x[:5, :7])
    again = expected_scores(steps, Descriptors.from_array(x[:5, :7]))
    np.testing.assert_allclose(scores, again, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_a_pipeline_without_a_network_can_have_tiles(rng, tmp_path):
    """The grids fix the number of descriptors."""
    x = rng.normal(size=(12, 14, 5)).astype(np.float32)
    recipe = Recipe(tiles=((1, 1), (2, 3)), n_components=4, power=0.5)
    steps = encoder_steps(recipe.encoder("avg+vlad3", grids=[(3, 4), (1, 2)], mirrored=[False, True]))
    pipeline = Pipeline([*steps, ("classify", WideLinearSVC())]).fit(Descriptors.from_array(x), [0, 1] * 6)
    assert export_onnx(pipeline, tmp_path / "a.onnx") == {"descriptors": ("batch", 14, 5)}
    scores, _, metadata = run(tmp_path / "a.onnx", descriptors=x)
    expected = expected_scores(pipeline.steps, Descriptors.from_array(x))
    np.testing.assert_allclose(scores, expected, atol=1e-3 * np.abs(expected).max())
    assert "network" not in metadata


def test_a_tile_without_descriptors_cannot_be_exported(rng, tmp_path):
    tiles = SpatialTiles(GlobalPool("max"), grids=[(2, 2)], tiles=[(3, 3)])
    pipeline = Pipeline([("tiles", tiles), ("svm", WideLinearSVC())]).fit(
        rng.random((6, 2, 2, 5)), [0, 1] * 3
    )
    with pytest.raises(InputError, match="leave a tile without a descriptor"):
        export_onnx(pipeline, tmp_path / "a.onnx")


def test_second_order_pooling_without_a_root_gives_the_same_scores(rng, tmp_path):
    x = rng.normal(size=(12, 9, 5)).astype(np.float32)
    x[2] = 0
    pipeline = Pipeline([("encode", SecondOrderPool(None, power=0.5)), ("classify", WideLinearSVC())])
    pipeline.fit(Descriptors.from_array(x), [0, 1, 2] * 4)
    export_onnx(pipeline, tmp_path / "a.onnx")
    expected = pipeline.decision_function(Descriptors.from_array(x))
    np.testing.assert_allclose(run(tmp_path / "a.onnx", descriptors=x)[0], expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mirror", [False, True])
def test_a_graph_from_pixels_gives_the_same_scores(rng, tmp_path, vgg16_file, mirror):
    features = CNNDescriptors("vgg16", "block2_pool", weights=vgg16_file, scales=(1, 0), mirror=mirror)
    images = [rng.integers(0, 256, (90, 70, 3), dtype=np.uint8) for _ in range(4)]
    steps = [*encoder_steps(Recipe(descriptor_norm=True, power=0.5).encoder("vlad4")), ("c", WideLinearSVC())]
    pipeline = Pipeline([("features", features), *steps]).fit(images, [0, 1, 0, 1])
    path = tmp_path / "model.onnx"
    inputs = export_onnx(pipeline, path)
    assert inputs == {"image_544": ("batch", 544, 544, 3), "image_224": ("batch", 224, 224, 3)}
    given = {
        f"image_{side}": np.stack([resize_square(load_image(image), side) for image in images])
        for side in (544, 224)
    }
    scores, label, metadata = run(path, **given)
    expected = expected_scores(steps, features.transform(images))
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3)
    assert label.tolist() == expected.argmax(axis=1).tolist()
    assert metadata["weights_fingerprint"] == features.weights_fingerprint_
    assert metadata["resize"] == "bilinear"


@pytest.mark.parametrize("offset", [100, 1000, 1e5])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vlad4", Recipe()),
        ("vlad4", Recipe(assignment="soft")),
        ("vlad4", Recipe(assignment="soft", residual_norm=True)),
        ("vlad4", Recipe(residual_norm=True, mass_norm=True)),
        ("vlad4", Recipe(power=0.5, intra_norm=True)),
        ("vlad4", Recipe(n_components=5)),
        ("avg", Recipe(n_components=5)),
        ("bow8", Recipe()),
        ("fisher3", Recipe(power=0.5)),
    ],
    ids=["vlad", "soft", "soft, residual", "mean unit", "intra", "PCA", "PCA, avg", "words", "fisher"],
)
def test_an_offset_of_the_descriptors_costs_no_digits_of_the_scores(rng, tmp_path, name, settings, offset):
    groups = rng.normal(scale=3, size=(6, 8))
    labels = rng.integers(0, 3, 120)
    drawn = (2 * labels[:, None] + rng.integers(0, 4, (120, 12))) % 6
    x = (groups[drawn] + rng.normal(size=(120, 12, 8)) + offset).astype(np.float32)
    steps = [*encoder_steps(settings.encoder(name)), ("classify", WideLinearSVC())]
    pipeline = Pipeline(steps).fit(Descriptors.from_array(x[:60]), labels[:60])
    export_onnx(pipeline, tmp_path / "a.onnx")
    scores, label, _ = run(tmp_path / "a.onnx", descriptors=x)
    expected = expected_scores(steps, Descriptors.from_array(x))
    np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(label, expected.argmax(axis=1))


def test_what_cannot_be_exported_is_an_error_and_writes_nothing(tmp_path, rng):
    x = Descriptors.from_array(rng.normal(size=(6, 5, 8)))
    steps = [*encoder_steps(Recipe().encoder("second-order")), ("classify", WideLinearSVC())]
    Pipeline(steps).fit(x, [0, 1] * 3)
    with pytest.raises(InputError, match="which ONNX does not have"):
        export_onnx(Pipeline([("features", Fixed()), *steps]), tmp_path / "a", from_features=True)
    assert not list(tmp_path.iterdir())


def test_other_networks_are_exported_from_their_descriptors_only(tmp_path, small_weights, rng):
    steps = [("encode", GlobalPool()), ("classify", WideLinearSVC())]
    Pipeline(steps).fit(Descriptors.from_array(rng.normal(size=(6, 5, 8))), [0, 1] * 3)
    other = CNNDescriptors("MobileNetV2", "out_relu", weights=small_weights)
    with pytest.raises(InputError, match="use from_features=True"):
        export_onnx(Pipeline([("features", other), *steps]), tmp_path / "a")
    assert not list(tmp_path.iterdir())
