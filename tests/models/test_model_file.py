"""A saved pipeline comes back the same, and what a model file cannot hold is refused."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline
from support.model_bytes import RECIPES, contents, fitted_model, images, network, with_header

from medvlad import (
    VLAD,
    Descriptors,
    GlobalPool,
    InputError,
    SpatialTiles,
    WideLinearSVC,
    load_model,
    save_model,
)
from medvlad.encoders.recipe import Recipe, encoder_steps
from medvlad.models.model_file import FORMAT_VERSION, _assembled, _read, check_readable, model_card

pytest.importorskip("keras", reason="needs the extra tensorflow")


@pytest.fixture(scope="module")
def features(tiny_weights):
    return network(tiny_weights)


@pytest.fixture(scope="module")
def arrays():
    return images()


@pytest.fixture(params=RECIPES, scope="module")
def fitted(request, features, arrays):
    return fitted_model(request.param, features, arrays)


def test_a_loaded_model_decides_the_same(fitted, arrays, tmp_path):
    save_model(fitted, tmp_path / "model")
    back = load_model(tmp_path / "model")
    found, expected = back.decision_function(arrays), fitted.decision_function(arrays)
    if "reduce" in fitted.named_steps:
        # The components lie in memory in another order, so sums round differently.
        np.testing.assert_allclose(found, expected, atol=1e-5)
    else:
        np.testing.assert_array_equal(found, expected)
    assert back.predict(arrays).tolist() == fitted.predict(arrays).tolist()


def test_a_loaded_model_has_the_same_steps(fitted, tmp_path):
    save_model(fitted, tmp_path / "model")
    for (_, saved), (_, loaded) in zip(fitted.steps, load_model(tmp_path / "model").steps, strict=True):
        assert type(saved) is type(loaded)


def test_saving_twice_gives_the_same_bytes_and_no_other_file(fitted, tmp_path):
    for name in ("again", "model"):
        save_model(fitted, tmp_path / name)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "model"]


def test_a_file_cannot_name_a_folder_to_write_into(fitted, tmp_path):
    path = tmp_path / "model"
    save_model(fitted, path)
    header = json.loads(contents(path)[0]["medvlad"])
    more = header["features"] | {"store": str(tmp_path / "evil"), "output": "store", "n_threads": 1000}
    path.write_bytes(with_header(path, features=more))
    features = load_model(path).named_steps["features"]
    assert (features.store, features.output, features.n_threads) == (None, "host", None)


def test_the_card_describes_the_model(fitted, tmp_path):
    save_model(fitted, tmp_path / "m", card={"n_images": 9})
    card = model_card(tmp_path / "m")
    assert card["card"] == {"n_images": 9}
    assert card["classes"] == ["a", "b", "c"]
    assert card["versions"]["numpy"] == np.__version__
    assert card["features"]["model"] == "mobilenetv2"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"there is no model file .*none: make one"):
        model_card(tmp_path / "none")


def test_a_failed_write_leaves_the_old_model(fitted, tmp_path, monkeypatch):
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


def test_a_link_is_followed(fitted, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "model")
    save_model(fitted, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "model").is_file()


def test_a_pipe_is_refused_and_stays(fitted, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is a device or pipe"):
        save_model(fitted, tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


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
    with pytest.raises(InputError, match="has no counts, so partial_fit cannot go on"):
        vlad.partial_fit([np.ones((5, 1280))])


def test_a_model_that_could_not_be_loaded_is_not_saved(rng, tmp_path):
    x = rng.normal(size=(12, 9, 5)).astype(np.float32)
    vlad = VLAD(2, random_state=0, assignment="soft", alpha=1e101)
    fitted = Pipeline([("vlad", vlad), ("svm", WideLinearSVC())]).fit(x, ["a", "b"] * 6)
    with pytest.raises(
        InputError,
        match=r"the saved pipeline could not be loaded again, .*alpha_ holds numbers that are too large",
    ):
        save_model(fitted, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_big_endian_numbers_give_the_same_file(rng, tmp_path):
    x = rng.normal(size=(12, 9, 5)).astype(np.float32)
    fitted = Pipeline([("vlad", VLAD(2, random_state=0)), ("svm", WideLinearSVC())]).fit(x, ["a", "b"] * 6)
    save_model(fitted, tmp_path / "m")
    fitted["svm"].coef_ = fitted["svm"].coef_.astype(">f8")
    save_model(fitted, tmp_path / "swapped")
    assert (tmp_path / "swapped").read_bytes() == (tmp_path / "m").read_bytes()
    np.testing.assert_array_equal(
        load_model(tmp_path / "m").decision_function(x), fitted.decision_function(x)
    )


def test_numpy_numbers_in_card_and_parameters_become_json(rng, tmp_path):
    x = rng.normal(size=(12, 16, 5)).astype(np.float32)
    tiles = SpatialTiles(GlobalPool(), grids=[tuple(np.array([4, 4]))])
    fitted = Pipeline([("tiles", tiles), ("svm", WideLinearSVC())]).fit(x, ["a", "b"] * 6)
    save_model(fitted, tmp_path / "m", card={"accuracy": np.float32(0.5), "n": np.int64(3)})
    assert model_card(tmp_path / "m")["card"] == {"accuracy": 0.5, "n": 3}
    np.testing.assert_array_equal(
        load_model(tmp_path / "m").decision_function(x), fitted.decision_function(x)
    )


@pytest.mark.parametrize("card", [{"a": np.ones(2)}, {"a": {1, 2}}, {(1, 2): 3}])
def test_a_card_that_is_not_json_is_refused(rng, tmp_path, card):
    x = rng.normal(size=(12, 16, 5)).astype(np.float32)
    fitted = Pipeline([("avg", GlobalPool()), ("svm", WideLinearSVC())]).fit(x, ["a", "b"] * 6)
    with pytest.raises(InputError, match="cannot be written as JSON"):
        save_model(fitted, tmp_path / "m", card=card)


def test_steps_in_another_order_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot hold the steps WideLinearSVC, GlobalPool: use"):
        save_model(Pipeline([("a", WideLinearSVC()), ("b", GlobalPool())]), tmp_path / "m")


@pytest.fixture
def features_and_labels(rng):
    return rng.normal(size=(12, 9, 5)), ["a", "b"] * 6


@pytest.fixture
def unfitted():
    return Pipeline([("avg", GlobalPool()), ("svm", WideLinearSVC())])


def test_a_pipeline_that_is_not_fitted_is_refused(unfitted, tmp_path):
    with pytest.raises(NotFittedError):
        save_model(unfitted, tmp_path / "m")


def test_a_pipeline_of_which_only_the_end_is_fitted_is_refused(unfitted, features_and_labels, tmp_path):
    x, y = features_and_labels
    fitted_end = Pipeline([*unfitted.steps[:-1], ("svm", WideLinearSVC().fit(x[:, 0], y))])
    with pytest.raises(NotFittedError):
        save_model(fitted_end, tmp_path / "m")


def test_the_best_estimator_of_a_search_is_saved_not_the_search(unfitted, features_and_labels, tmp_path):
    search = GridSearchCV(unfitted, {"svm__C": [1.0, 2.0]}, cv=2).fit(*features_and_labels)
    with pytest.raises(InputError, match="not GridSearchCV: give one, such as its best_estimator_"):
        save_model(search, tmp_path / "m")
    with pytest.raises(InputError, match="a fitted Pipeline, not WideLinearSVC: give one"):
        save_model(search.best_estimator_[-1], tmp_path / "m")
    save_model(search.best_estimator_, tmp_path / "m")


def test_tiles_of_several_encoders_are_refused(rng, tmp_path):
    """They could not be loaded again."""
    x = rng.normal(size=(6, 4, 5))
    union = FeatureUnion([("avg", GlobalPool()), ("max", GlobalPool("max"))])
    nested = SpatialTiles(GlobalPool(), grids=[(2, 2)], tiles=[(1, 1)])
    for encoder in (union, nested):
        tiles = SpatialTiles(encoder, grids=[(2, 2)], tiles=[(1, 1)])
        steps = [("tiles", tiles), ("svm", WideLinearSVC())]
        with pytest.raises(InputError, match="tiles of one encoder"):
            save_model(Pipeline(steps).fit(x, [0, 1] * 3), tmp_path / "m")


def test_a_model_of_descriptors_is_loaded_without_a_network(rng, tmp_path):
    """Its input can be the tokens of a transformer, for example."""
    x = rng.normal(size=(12, 9, 5)).astype(np.float32)
    fitted = Pipeline([("vlad", VLAD(3, random_state=0)), ("svm", WideLinearSVC())]).fit(x, ["a", "b"] * 6)
    save_model(fitted, tmp_path / "m", card={"network": "ViT"})
    back = load_model(tmp_path / "m")
    np.testing.assert_array_equal(back.decision_function(x), fitted.decision_function(x))


def test_a_model_of_descriptors_has_no_network(rng, tmp_path):
    x = rng.normal(size=(12, 9, 5)).astype(np.float32)
    fitted = Pipeline([("avg", GlobalPool()), ("svm", WideLinearSVC())]).fit(x, ["a", "b"] * 6)
    save_model(fitted, tmp_path / "m")
    assert model_card(tmp_path / "m")["features"] is None
    check_readable(tmp_path / "m")


SUPPORT = Path(__file__).parents[1] / "support"


@pytest.mark.parametrize("version", [3, 4, FORMAT_VERSION])
def test_a_file_of_an_earlier_version_is_loaded(version):
    """The card of the file holds the decisions from the time when it was written."""
    path = SUPPORT / f"model_format_{version}.medvlad"
    header, learnt = _read(path)
    features, steps = _assembled(header, learnt, path, None)
    assert (features.model, features.scales, features.mirror) == ("mobilenetv2", (0, 1), True)
    x = Descriptors.from_array(np.array(header["card"]["descriptors"], np.float32))
    found = Pipeline(steps).decision_function(x)
    np.testing.assert_allclose(found, header["card"]["decision"], atol=1e-6)
    assert Pipeline(steps).predict(x).tolist() == header["card"]["decided"]


@pytest.mark.parametrize("classifier", [WideLinearSVC(), LogisticRegression()], ids=["svm", "logistic"])
def test_a_fresh_process_imports_what_a_step_needs(rng, tmp_path, classifier):
    """Classes whose imports take long are imported when a file names them."""
    x = rng.normal(size=(12, 4, 5)).astype(np.float32)
    steps = [("encode", GlobalPool()), ("reduce", PCA(2)), ("classify", classifier)]
    save_model(Pipeline(steps).fit(x, ["a", "b"] * 6), tmp_path / "m")
    program = (
        "import sys, medvlad\nfor _, s in medvlad.load_model(sys.argv[1]).steps:\n    print(type(s).__name__)"
    )
    words = [sys.executable, "-c", program, tmp_path / "m"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["GlobalPool", "VectorPCA", type(classifier).__name__]


def test_a_loaded_pipeline_can_be_pickled_and_cloned(rng, tmp_path):
    x = rng.normal(size=(12, 4, 5)).astype(np.float32)
    steps = [("encode", GlobalPool()), ("reduce", PCA(2)), ("classify", WideLinearSVC())]
    save_model(Pipeline(steps).fit(x, ["a", "b"] * 6), tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    again = pickle.loads(pickle.dumps(loaded))
    assert again.decision_function(x).tolist() == loaded.decision_function(x).tolist()
    assert clone(loaded).get_params()["reduce__n_components"] == 2


@pytest.mark.parametrize("tiles", [False, True])
def test_a_model_of_other_arithmetic_is_refused(rng, tmp_path, tiles):
    """Format 3 divided unit residuals by another mass."""
    x = rng.normal(size=(12, 4, 5)).astype(np.float32)
    encoder = VLAD(2, residual_norm=True, mass_norm=True, random_state=0)
    encoder = SpatialTiles(encoder, grids=[(2, 2)]) if tiles else encoder
    fitted = Pipeline([("encode", encoder), ("svm", WideLinearSVC())]).fit(x, ["a", "b"] * 6)
    save_model(fitted, tmp_path / "m")
    assert load_model(tmp_path / "m").predict(x).tolist() == fitted.predict(x).tolist()
    (tmp_path / "old").write_bytes(with_header(tmp_path / "m", format_version=3))
    with pytest.raises(InputError, match=r"residual_norm and mass_norm together .* train the model again"):
        load_model(tmp_path / "old")


def test_a_model_keeps_the_dimensions_that_whitening_kept(rng, tmp_path):
    x = np.repeat(rng.normal(size=(6, 4, 5)).astype(np.float32), 2, axis=0)
    fitted = Pipeline(
        [*encoder_steps(Recipe(reduce=8, whiten=True).encoder("vlad2")), ("c", WideLinearSVC())]
    )
    with pytest.warns(UserWarning, match="only 5 of reduce=8 components vary"):
        fitted.fit(x, ["a", "b"] * 6)
    save_model(fitted, tmp_path / "m")
    found = load_model(tmp_path / "m").decision_function(x)
    np.testing.assert_allclose(found, fitted.decision_function(x), atol=1e-5)
