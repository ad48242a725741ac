"""A model file holds numbers and text only, comes back the same, and says what is wrong with it."""

import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline

from medvlad import (
    VLAD,
    CNNDescriptors,
    DescriptorProjection,
    Descriptors,
    GlobalPool,
    InputError,
    SpatialTiles,
    WideLinearSVC,
    load_model,
    save_model,
)
from medvlad.encoders.recipe import Recipe, encoder_steps
from medvlad.models.model_file import _assembled, _read, check_readable, model_card

pytest.importorskip("keras", reason="needs the extra tensorflow")


@pytest.fixture(scope="module")
def features(small_weights):
    return CNNDescriptors("mobilenetv2", "out_relu", weights=small_weights)


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(9)]


RECIPES = {
    "avg": ("avg", Recipe()),
    "vlad": ("vlad2", Recipe(power=0.5)),
    "all of it": (
        "vlad2",
        Recipe(
            descriptor_norm=True,
            n_components=5,
            residual_norm=True,
            intra_norm=True,
            vocabularies=2,
            reduce=4,
            whiten=True,
        ),
    ),
    "side by side": ("avg+vlad2", Recipe(power=0.5)),
    "other encoders": ("sum+fisher2+bow3", Recipe()),
    "second order": ("second-order", Recipe(n_components=4)),
    "soft": ("vlad3", Recipe(assignment="soft", n_nearest=2, mass_norm=True)),
    "local axes": ("vlad2", Recipe(n_components=5, local_axes=True)),
    "L2 alone": ("max", Recipe(descriptor_norm=True)),
    "reduced": ("avg", Recipe(reduce=3)),
    "tiles": ("avg+vlad2", Recipe(tiles=((1, 1), (2, 2)), local_axes=True, n_components=5)),
}


#: Tiles of MobileNetV2's 7 x 7 places.
TILING = {"grids": [(7, 7)], "mirrored": (False,)}


@pytest.fixture(params=RECIPES, scope="module")
def fitted(request, features, arrays):
    name, recipe = RECIPES[request.param]
    encoder = recipe.encoder(name, **(TILING if recipe.tiles else {}))
    steps = [("features", features), *encoder_steps(encoder), ("classify", WideLinearSVC())]
    return Pipeline(steps).fit(arrays, ["a", "b", "c"] * 3)


def test_round_trip(fitted, arrays, tmp_path):
    path = tmp_path / "model"
    save_model(fitted, path)
    back = load_model(path)
    if (
        "reduce" in fitted.named_steps
    ):  # its components lie in memory in another order, so sums round differently
        np.testing.assert_allclose(
            back.decision_function(arrays), fitted.decision_function(arrays), atol=1e-5
        )
    else:
        np.testing.assert_array_equal(back.decision_function(arrays), fitted.decision_function(arrays))
    assert back.predict(arrays).tolist() == fitted.predict(arrays).tolist()
    assert list(tmp_path.iterdir()) == [path]
    for (_, a), (_, b) in zip(fitted.steps, back.steps, strict=True):
        assert type(a) is type(b)
    again = tmp_path / "again"
    save_model(fitted, again)
    assert again.read_bytes() == path.read_bytes()


def test_a_new_file_replaces_an_old_one_whole(fitted, tmp_path, monkeypatch):
    path = tmp_path / "model"
    save_model(fitted, path)
    before = path.read_bytes()

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(InputError, match=r"the model .* cannot be written: No space left"):
        save_model(fitted, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("labels", [["a", "b", "c"], [3, 1, 2], [True, False, True]])
def test_labels_keep_their_type(features, arrays, tmp_path, labels):
    steps = [("features", features), ("encode", GlobalPool()), ("classify", WideLinearSVC())]
    fitted = Pipeline(steps).fit(arrays, labels * 3)
    save_model(fitted, tmp_path / "m")
    assert load_model(tmp_path / "m").predict(arrays).tolist() == fitted.predict(arrays).tolist()


def test_other_labels_are_refused(features, arrays, tmp_path):
    steps = [("features", features), ("encode", GlobalPool()), ("classify", WideLinearSVC())]
    fitted = Pipeline(steps).fit(arrays, np.array(["a", "b", "c"] * 3, dtype=object))
    with pytest.raises(InputError, match="dtype object, but a model file holds text or integers"):
        save_model(fitted, tmp_path / "m")


def test_a_loaded_vlad_cannot_go_on_learning(features, arrays, tmp_path):
    steps = [("features", features), ("encode", VLAD(2, random_state=0)), ("classify", WideLinearSVC())]
    fitted = Pipeline(steps).fit(arrays, ["a", "b", "c"] * 3)
    save_model(fitted, tmp_path / "m")
    vlad = load_model(tmp_path / "m").named_steps["encode"]
    with pytest.raises(InputError, match="no counts to go on from"):
        vlad.partial_fit([np.ones((5, 1280))])


def contents(path):
    """Metadata but for the digest, which a stranger can make of anything, and arrays."""
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["medvlad"])
        header.pop("digest", None)
        return {"medvlad": json.dumps(header)}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def altered(path, **changes):
    """The model at `path` with some arrays changed, as bytes; None removes one."""
    metadata, arrays = contents(path)
    kept = {name: value for name, value in (arrays | changes).items() if value is not None}
    return save(kept, metadata=metadata)


def with_text(path, metadata):
    """The model at `path` with other metadata, as bytes."""
    return save(contents(path)[1], metadata=metadata)


def with_header(path, **changes):
    header = json.loads(contents(path)[0]["medvlad"]) | changes
    return with_text(path, {"medvlad": json.dumps(header)})


def longer(path):
    """The model at `path` whose header says of an array that it has more numbers than the file."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].replace(b'"shape":[3]', b'"shape":[9]')
    return data[:8] + header + data[8 + size :]


def _steps(path):
    return json.loads(contents(path)[0]["medvlad"])["steps"]


def _centers(path):
    return [name for name in contents(path)[1] if name.endswith("cluster_centers_")]


DAMAGE = {
    "empty": lambda path: b"",
    "text": lambda path: b"not a model",
    "truncated": lambda path: path.read_bytes()[:-200],
    "pickle": lambda path: pickle.dumps({"header": 1}),
    "no metadata": lambda path: with_text(path, None),
    "metadata of others": lambda path: with_text(path, {"format": "pt"}),
    "header is no JSON": lambda path: with_text(path, {"medvlad": "{"}),
    "header is a list": lambda path: with_text(path, {"medvlad": "[]"}),
    "an endless width": lambda path: with_header(path, n_features=float("inf")),
    "classes twice": lambda path: with_header(path, classes=["a", "a", "b"]),
    "classes of two dimensions": lambda path: with_header(path, classes=[["a", "b"], ["c", "d"], ["e", "f"]]),
    "no classifier": lambda path: with_header(
        path, steps=json.loads(contents(path)[0]["medvlad"])["steps"][:-1]
    ),
    "centres that float32 does not hold": lambda path: altered(
        path, **dict.fromkeys(_centers(path), np.full((2, 5), 1e300))
    ),
    "another format": lambda path: with_header(path, format="other"),
    "a newer format": lambda path: with_header(path, format_version=99),
    "no coefficients": lambda path: altered(path, **{"classify.coef_": None}),
    "coefficients of another shape": lambda path: altered(path, **{"classify.coef_": np.zeros((3, 5))}),
    "coefficients not finite": lambda path: altered(path, **{"classify.intercept_": np.full(3, np.nan)}),
    "unknown encoder": lambda path: with_header(path, steps=[{"step": "encode", "class": "Fisher"}]),
    "no parameters": lambda path: with_header(path, steps=[{"step": "classify", "class": "WideLinearSVC"}]),
    "tiles of a classifier": lambda path: with_header(
        path,
        steps=[
            *_steps(path)[:-1],
            _steps(path)[-1]
            | {"step": "encode", "class": "SpatialTiles", "encoder": _steps(path)[-1]}
            | {"grids": [[7, 7]], "tiles": [[2, 2]], "mirrored": None, "l2_norm": True},
        ],
    ),
    "two classifiers": lambda path: with_header(path, steps=[*_steps(path), _steps(path)[-1]]),
    "the classifier first": lambda path: with_header(path, steps=[_steps(path)[-1], *_steps(path)]),
    "no steps": lambda path: with_header(path, steps=[]),
    "coefficients of integers": lambda path: altered(path, **{"classify.intercept_": np.arange(3)}),
    "unknown network": lambda path: with_header(path, features={"model": "vgg99", "scales": [0]}),
    "deep JSON": lambda path: with_text(path, {"medvlad": "[" * 100_000}),
    "shapes beyond the file": longer,
    "header beyond the file": lambda path: b"\xff" * 8 + path.read_bytes()[8:],
    "array of NumPy": lambda path: (buffer := io.BytesIO(), np.save(buffer, np.zeros(3)), buffer.getvalue())[
        2
    ],
}


@pytest.mark.parametrize("fitted", ["vlad", "all of it"], indirect=True)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused(fitted, tmp_path, damage):
    path = tmp_path / "model"
    save_model(fitted, path)
    path.write_bytes(DAMAGE[damage](path))
    with pytest.raises(InputError) as refused:
        load_model(path)
    assert "\n" not in str(refused.value)
    if damage != "unknown network":
        assert str(path) in str(refused.value)


def test_every_flipped_bit_is_known(rng, tmp_path):
    """Each bit of every byte: refused, or a figure's last digit, which is the same number."""
    x = rng.normal(size=(12, 9, 5)).astype(np.float32)
    fitted = Pipeline([("vlad", VLAD(2, random_state=0)), ("svm", WideLinearSVC())]).fit(x, ["a", "b"] * 6)
    path = tmp_path / "m"
    save_model(fitted, path, card={"network": "ViT"})
    card, expected, sound = model_card(path), fitted.decision_function(x), path.read_bytes()
    taken = 0
    for place, bit in np.ndindex(len(sound), 8):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            back = load_model(path)
        except InputError:
            continue
        assert model_card(path) == card
        np.testing.assert_array_equal(back.decision_function(x), expected)
        taken += 1
    assert taken < 20


@pytest.mark.parametrize("fitted", ["vlad"], indirect=True)
@pytest.mark.parametrize("key", ["eigest", "more"])
def test_a_header_holds_nothing_else(fitted, tmp_path, key):
    path = tmp_path / "model"
    save_model(fitted, path)
    path.write_bytes(with_header(path, **{key: "0"}))
    with pytest.raises(InputError, match="its header has unknown keys"):
        load_model(path)


def test_what_could_not_be_read_back_is_not_written(rng, tmp_path):
    x = rng.normal(size=(12, 9, 5)).astype(np.float32)
    vlad = VLAD(2, random_state=0, assignment="soft", alpha=1e101)
    fitted = Pipeline([("vlad", vlad), ("svm", WideLinearSVC())]).fit(x, ["a", "b"] * 6)
    with pytest.raises(
        InputError,
        match=r"the saved pipeline could not be loaded again, .*alpha_ holds numbers that are too large",
    ):
        save_model(fitted, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_numbers_in_another_order_of_bytes(rng, tmp_path):
    x = rng.normal(size=(12, 9, 5)).astype(np.float32)
    fitted = Pipeline([("vlad", VLAD(2, random_state=0)), ("svm", WideLinearSVC())]).fit(x, ["a", "b"] * 6)
    save_model(fitted, tmp_path / "m")
    fitted["svm"].coef_ = fitted["svm"].coef_.astype(">f8")
    save_model(fitted, tmp_path / "swapped")
    assert (tmp_path / "swapped").read_bytes() == (tmp_path / "m").read_bytes()
    np.testing.assert_array_equal(
        load_model(tmp_path / "m").decision_function(x), fitted.decision_function(x)
    )


def test_numpy_numbers_in_card_and_parameters(rng, tmp_path):
    x = rng.normal(size=(12, 16, 5)).astype(np.float32)
    tiles = SpatialTiles(GlobalPool(), grids=[tuple(np.array([4, 4]))])
    fitted = Pipeline([("tiles", tiles), ("svm", WideLinearSVC())]).fit(x, ["a", "b"] * 6)
    save_model(fitted, tmp_path / "m", card={"accuracy": np.float32(0.5), "n": np.int64(3)})
    assert model_card(tmp_path / "m")["card"] == {"accuracy": 0.5, "n": 3}
    np.testing.assert_array_equal(
        load_model(tmp_path / "m").decision_function(x), fitted.decision_function(x)
    )
    for card in ({"a": np.ones(2)}, {"a": {1, 2}}, {(1, 2): 3}):
        with pytest.raises(InputError, match="cannot be written as JSON"):
            save_model(fitted, tmp_path / "m", card=card)


def test_a_number_that_was_damaged_is_told(rng, tmp_path):
    """It is finite and of the right shape: only the digest knows."""
    x = rng.normal(size=(12, 9, 5)).astype(np.float32)
    fitted = Pipeline([("vlad", VLAD(3, random_state=0)), ("svm", WideLinearSVC())]).fit(x, ["a", "b"] * 6)
    path = tmp_path / "m"
    save_model(fitted, path)
    coefficients = fitted["svm"].coef_.astype("<f8").tobytes()
    sound = path.read_bytes()
    assert sound.count(coefficients) == 1
    path.write_bytes(sound.replace(coefficients, (fitted["svm"].coef_ * 1.5).astype("<f8").tobytes()))
    with pytest.raises(InputError, match="is damaged, its content does not match its digest: copy it again"):
        load_model(path)


@pytest.mark.parametrize("fitted", ["vlad"], indirect=True)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 3)])
def test_arrays_of_strange_shapes_have_digests_too(fitted, tmp_path, shape):
    path = tmp_path / "model"
    save_model(fitted, path)
    metadata, arrays = contents(path)
    header = json.loads(metadata["medvlad"]) | {"digest": "0"}
    path.write_bytes(save(arrays | {"more": np.zeros(shape)}, metadata={"medvlad": json.dumps(header)}))
    with pytest.raises(InputError, match="does not match its digest"):
        load_model(path)


def test_links_are_followed_and_devices_left_alone(fitted, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "model")
    save_model(fitted, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "model").is_file()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is a device or pipe"):
        save_model(fitted, tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_other_pipelines_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot hold the steps WideLinearSVC, GlobalPool: use"):
        save_model(Pipeline([("a", WideLinearSVC()), ("b", GlobalPool())]), tmp_path / "m")


def test_what_is_no_fitted_pipeline_is_refused(rng, tmp_path):
    x, y = rng.normal(size=(12, 9, 5)), ["a", "b"] * 6
    pipeline = Pipeline([("avg", GlobalPool()), ("svm", WideLinearSVC())])
    with pytest.raises(NotFittedError):
        save_model(pipeline, tmp_path / "m")
    fitted_end = Pipeline([*pipeline.steps[:-1], ("svm", WideLinearSVC().fit(x[:, 0], y))])
    with pytest.raises(NotFittedError):
        save_model(fitted_end, tmp_path / "m")
    search = GridSearchCV(pipeline, {"svm__C": [1.0, 2.0]}, cv=2).fit(x, y)
    with pytest.raises(InputError, match="not GridSearchCV: give one, such as its best_estimator_"):
        save_model(search, tmp_path / "m")
    with pytest.raises(InputError, match="a fitted Pipeline, not WideLinearSVC: give one"):
        save_model(search.best_estimator_[-1], tmp_path / "m")
    save_model(search.best_estimator_, tmp_path / "m")


def test_tiles_of_several_encoders_are_refused(rng, tmp_path):
    """They would not be read back."""
    x = rng.normal(size=(6, 4, 5))
    union = FeatureUnion([("avg", GlobalPool()), ("max", GlobalPool("max"))])
    nested = SpatialTiles(GlobalPool(), grids=[(2, 2)], tiles=[(1, 1)])
    for encoder in (union, nested):
        tiles = SpatialTiles(encoder, grids=[(2, 2)], tiles=[(1, 1)])
        steps = [("tiles", tiles), ("svm", WideLinearSVC())]
        with pytest.raises(InputError, match="tiles of one encoder"):
            save_model(Pipeline(steps).fit(x, [0, 1] * 3), tmp_path / "m")


def test_descriptors_from_elsewhere(rng, tmp_path):
    """A pipeline without network: tokens of a transformer, say."""
    x = rng.normal(size=(12, 9, 5)).astype(np.float32)
    fitted = Pipeline([("vlad", VLAD(3, random_state=0)), ("svm", WideLinearSVC())]).fit(x, ["a", "b"] * 6)
    save_model(fitted, tmp_path / "m", card={"network": "ViT"})
    back = load_model(tmp_path / "m")
    np.testing.assert_array_equal(back.decision_function(x), fitted.decision_function(x))
    assert model_card(tmp_path / "m")["features"] is None
    check_readable(tmp_path / "m")
    with pytest.raises(InputError, match="does not accept images: load it in Python"):
        check_readable(tmp_path / "m", of_images=True)


FIXTURE = Path(__file__).parents[1] / "support" / "model_format_3.medvlad"


def test_the_format_of_an_earlier_version_opens(arrays):
    """A file that was written when this format was new; what it decides is in its card."""
    header, learnt = _read(FIXTURE)
    features, steps = _assembled(header, learnt, FIXTURE, None)
    assert (features.model, features.scales, features.mirror) == ("mobilenetv2", (0, 1), True)
    x = Descriptors.from_array(np.array(header["card"]["descriptors"], np.float32))
    found = Pipeline(steps).decision_function(x)
    np.testing.assert_allclose(found, header["card"]["decision"], atol=1e-6)
    assert Pipeline(steps).predict(x).tolist() == header["card"]["decided"]


def test_a_stranger_cannot_say_where_to_write(fitted, tmp_path):
    path = tmp_path / "model"
    save_model(fitted, path)
    header = json.loads(contents(path)[0]["medvlad"])
    more = header["features"] | {"store": str(tmp_path / "evil"), "output": "store", "n_threads": 1000}
    path.write_bytes(with_header(path, features=more))
    features = load_model(path).named_steps["features"]
    assert (features.store, features.output, features.n_threads) == (None, "host", None)


@pytest.mark.parametrize(
    "name", ["encode.vlad3.alpha_", "encode.fisher2.variances_", "encode.fisher2.weights_"]
)
def test_rates_and_variances_are_above_zero(tmp_path, name):
    path = tmp_path / "model"
    path.write_bytes(FIXTURE.read_bytes())
    path.write_bytes(altered(path, **{name: -contents(path)[1][name]}))
    with pytest.raises(InputError, match="not above 0"):
        model_card(path)


@pytest.mark.parametrize(
    ("step", "name", "factor", "words"),
    [
        (VLAD(2, random_state=0, local_axes=True), "encode.rotations_", 2, "too large"),
        (GlobalPool(), "classify.coef_", 1e200, "too large"),
        (DescriptorProjection(2, whiten=True), "descriptors.explained_variance_", -1, "below 0"),
    ],
)
def test_numbers_that_would_make_nan(rng, tmp_path, step, name, factor, words):
    x = rng.normal(size=(12, 9, 5))
    encoder = [] if step.__class__ in (VLAD, GlobalPool) else [("encode", GlobalPool())]
    fitted = Pipeline([("first", step), *encoder, ("svm", WideLinearSVC())]).fit(x, ["a", "b"] * 6)
    path = tmp_path / "m"
    save_model(fitted, path)
    load_model(path)
    path.write_bytes(altered(path, **{name: contents(path)[1][name] * factor}))
    with pytest.raises(InputError, match=words):
        load_model(path)


def test_the_card(fitted, tmp_path):
    save_model(fitted, tmp_path / "m", card={"n_images": 9})
    card = model_card(tmp_path / "m")
    assert card["card"] == {"n_images": 9}
    assert card["classes"] == ["a", "b", "c"]
    assert card["versions"]["numpy"] == np.__version__
    assert card["features"]["model"] == "mobilenetv2"
    with pytest.raises(InputError, match="there is no model file"):
        model_card(tmp_path / "none")
