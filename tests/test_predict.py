"""predict_images: labels, scores and pictures of files; neither pipeline nor training store change."""

import copy

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.pipeline import Pipeline, make_pipeline
from support.striped_images import small_experiment, write_striped_images

import medvlad.extraction.cnn_descriptors
from medvlad import Descriptors, GlobalPool, InputError, WideLinearSVC
from medvlad.datasets.pseudonyms import Pseudonyms
from medvlad.predict import predict_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with images of two classes and a file that is no image."""
    root = write_striped_images(
        tmp_path_factory.mktemp("predict") / "images", np.random.default_rng(0), train=4, test=2
    )
    (root / "bad.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def files(folder):
    """Paths of images that the pipeline was not trained on."""
    return sorted(map(str, (folder / "test").rglob("*.png")))


@pytest.fixture(scope="module")
def store(folder):
    """Folder of the store that the pipeline was trained with."""
    return folder.parent / "store"


@pytest.fixture(scope="module")
def pipeline(tiny_weights, folder, store):
    """A pipeline that was trained with a store."""
    experiment = small_experiment(tiny_weights, store=str(store))
    return experiment.train(experiment.load(folder), "avg")[0]


def content(store):
    """Return the bytes of every file of a store, by path."""
    return {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_images_keep_their_names_and_order(pipeline, files):
    predictions, skipped = predict_images(pipeline, files[::-1])
    assert [one["image"] for one in predictions] == files[::-1]
    assert skipped == []


def test_the_label_is_the_class_with_the_largest_score(pipeline, files):
    predictions, _ = predict_images(pipeline, files)
    for one in predictions:
        assert one["scores"].keys() == {"lying", "upright"}
        assert one["label"] == max(one["scores"], key=one["scores"].get)
        assert one["label"] in one["image"]


def test_the_scores_are_the_decision_values_of_the_pipeline(pipeline, files):
    predictions, _ = predict_images(pipeline, files)
    expected = pipeline.decision_function(files)
    np.testing.assert_array_equal([one["scores"]["upright"] for one in predictions], expected)
    np.testing.assert_array_equal([one["scores"]["lying"] for one in predictions], -expected)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_predicting_adds_nothing_to_the_training_store(pipeline, files, store, on_error):
    before = content(store)
    assert len(before) > 0, "the pipeline was trained with this store"
    predict_images(pipeline, files, on_error=on_error)
    assert content(store) == before


def test_a_pipeline_that_was_trained_with_a_store_predicts_without_it(pipeline, files, store, tmp_path):
    expected = pipeline.decision_function(files)
    store.rename(tmp_path / "elsewhere")
    try:
        np.testing.assert_array_equal(pipeline.decision_function(files), expected)
        assert not store.exists()
    finally:
        (tmp_path / "elsewhere").rename(store)


def test_an_unreadable_image_is_skipped_with_its_reason(pipeline, files, folder):
    bad = str(folder / "bad.png")
    predictions, skipped = predict_images(pipeline, [files[0], bad, files[1]], on_error="skip")
    assert [one["image"] for one in predictions] == files[:2]
    assert [one["image"] for one in skipped] == [bad]
    assert "bad.png" in skipped[0]["reason"]


def test_an_unreadable_image_is_refused(pipeline, folder):
    with pytest.raises(InputError, match=r"bad\.png"):
        predict_images(pipeline, [str(folder / "bad.png")])


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_the_pipeline_keeps_its_parameters(pipeline, files, on_error):
    before = pipeline.get_params(deep=True)
    predict_images(pipeline, files, on_error=on_error)
    assert pipeline.get_params(deep=True) == before


def test_the_pipeline_keeps_its_own_way_with_unreadable_images(pipeline, files, folder):
    predict_images(pipeline, [files[0], str(folder / "bad.png")], on_error="skip")
    with pytest.raises(InputError, match=r"bad\.png"):
        pipeline.predict([str(folder / "bad.png")])


def test_the_network_is_not_built_again(pipeline, files, monkeypatch):
    expected = pipeline.decision_function(files)

    def built_again(*args, **kwargs):
        raise AssertionError("the network was built a second time")

    monkeypatch.setattr("keras.applications.MobileNetV2", built_again)
    predictions, _ = predict_images(pipeline, files, on_error="skip")
    np.testing.assert_array_equal([one["scores"]["upright"] for one in predictions], expected)


@pytest.fixture
def of_descriptors(rng):
    """A fitted pipeline whose input is descriptors, not images."""
    x = Descriptors.from_array(rng.normal(size=(6, 3, 4)).astype(np.float32))
    return make_pipeline(GlobalPool(), WideLinearSVC()).fit(x, np.arange(6) % 2)


def test_a_pipeline_without_an_extractor_takes_feature_files_only(of_descriptors, files):
    with pytest.raises(InputError, match="is not a feature file"):
        predict_images(of_descriptors, files)


def test_a_refused_pipeline_keeps_its_parameters(of_descriptors, files):
    before = copy.deepcopy(vars(of_descriptors[0]))
    with pytest.raises(InputError):
        predict_images(of_descriptors, files)
    assert vars(of_descriptors[0]) == before


def test_a_classifier_alone_is_refused(of_descriptors, files):
    with pytest.raises(InputError, match="got WideLinearSVC"):
        predict_images(of_descriptors[-1], files)


def test_a_pipeline_with_one_step_is_refused(files):
    with pytest.raises(InputError, match="got WideLinearSVC"):
        predict_images(Pipeline([("classify", WideLinearSVC())]), files)


def test_each_image_of_a_file_is_predicted(pipeline, files, tmp_path):
    frames = [Image.open(path) for path in files[:2]]
    frames[0].save(tmp_path / "both.tiff", save_all=True, append_images=frames[1:])
    predictions, _ = predict_images(pipeline, [str(tmp_path / "both.tiff")])
    alone, _ = predict_images(pipeline, files[:2])
    assert len({one["image"] for one in predictions}) == 2
    assert [one["scores"] for one in predictions] == [one["scores"] for one in alone]


def test_a_path_stays_as_it_was_given(pipeline, files, folder, monkeypatch):
    monkeypatch.chdir(folder)
    predictions, _ = predict_images(pipeline, ["./test/lying/0.png"])
    assert predictions[0]["image"] == "./test/lying/0.png"


def test_each_image_has_a_picture_of_its_evidence(pipeline, files, folder, tmp_path):
    given = [files[0], str(folder / "bad.png"), files[1]]
    predictions, _ = predict_images(pipeline, given, on_error="skip", explain=tmp_path)
    assert [one["evidence"] for one in predictions] == ["0_0.png", "2_1.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0_0.png", "2_1.png"]


def test_all_pictures_share_one_colour_scale(pipeline, files, tmp_path, monkeypatch):
    drawn = []

    def draw(image, own_map, largest):
        drawn.append((np.abs(own_map).max(), largest))
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr("medvlad.predict.evidence_picture", draw)
    predict_images(pipeline, files, explain=tmp_path)
    maxima, scales = zip(*drawn, strict=True)
    assert len(set(maxima)) == len(files), "the maps differ"
    assert set(scales) == {max(maxima)}


def test_pseudonyms_name_images_pictures_and_reasons(pipeline, files, folder, tmp_path):
    names, bad = Pseudonyms(bytes(32)), str(folder / "bad.png")
    predictions, skipped = predict_images(
        pipeline, [files[0], bad], on_error="skip", explain=tmp_path, names=names
    )
    assert predictions[0]["image"] == names.image(files[0])
    assert predictions[0]["evidence"] == f"{names.image(files[0])}.png"
    assert skipped[0]["image"] == names.image(bad)
    assert bad not in skipped[0]["reason"]


def test_calls_with_another_on_error_share_one_engine(pipeline, files, monkeypatch):
    made, make = [], medvlad.extraction.cnn_descriptors.make_engine

    def counted(*arguments, **options):
        made.append(options["engine"])
        return make(*arguments, **options)

    monkeypatch.setattr(medvlad.extraction.cnn_descriptors, "make_engine", counted)
    fresh = Pipeline([("features", clone(pipeline.steps[0][1])), *pipeline.steps[1:]])
    for on_error in ("raise", "skip", "skip"):
        predict_images(fresh, files[:1], on_error=on_error)
    assert len(made) == 1


def test_an_extractor_alone_is_refused(pipeline, files):
    with pytest.raises(InputError, match="needs a fitted pipeline whose first step is CNNDescriptors"):
        predict_images(pipeline.steps[0][1], files)
