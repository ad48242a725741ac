"""Experiment: settings are checked first, and results do not depend on the store."""

from dataclasses import fields

import numpy as np
import pytest
from support.folders import touch
from support.striped_images import small_experiment, write_striped_images

from medvlad import Descriptors, InputError
from medvlad.classifier import PENALTIES, ImageClassifier
from medvlad.encoders.recipe import Recipe
from medvlad.experiment import Experiment, calibration_images
from medvlad.extraction.cnn_descriptors import ExtractionReport


@pytest.fixture
def two_classes(tmp_path):
    """A folder of empty files, two classes with five images each."""
    return touch(tmp_path / "two", *(f"{name}/{i}.png" for name in ("a", "b") for i in range(5)))


@pytest.fixture
def three_classes(tmp_path):
    return touch(tmp_path / "three", *(f"{name}/{i}.png" for name in ("a", "b", "c") for i in range(5)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"C": 0.0}, "C must be a finite number above 0"),
        ({"C": float("inf")}, "C must be a finite number above 0, got inf"),
        ({"recipe": Recipe(power=2.0)}, "power must"),
        ({"recipe": Recipe(power=float("inf"))}, "power must"),
        ({"calibration": "beta"}, "the calibration must be one of auto, platt, isotonic, got 'beta'"),
        ({"folds": 0}, "folds must be an integer of at least 1, got 0"),
        ({"folds": 1, "C": None}, "folds=1 is too few to choose C or calibrate: use folds=2 or more"),
        ({"folds": 1, "calibration": "platt"}, "folds=1 is too few"),
        ({"seed": -1}, "seed must be an integer"),
        ({"n_threads": 0}, "n_threads must be"),
        ({"backend": "gpu"}, "gpu"),
        ({"layout": "tree"}, "layout must be one of"),
        (
            {"layout": "chest-xray", "group_pattern": "(case)"},
            "layout chest-xray already defines the patients",
        ),
        ({"positive": "c"}, "the positive class must be one of a, b, got 'c'"),
        ({"adapt_threshold": True}, "adapt_threshold=True needs a data set with two classes and a test part"),
    ],
)
def test_a_wrong_setting_is_refused_when_the_folder_is_read(two_classes, settings, message):
    with pytest.raises(InputError, match=message):
        Experiment(**settings).load(two_classes)


def test_a_positive_class_needs_two_classes(three_classes):
    with pytest.raises(InputError, match="positive='a' needs a data set with two classes, this one has 3"):
        Experiment(positive="a").load(three_classes)


def test_an_adapted_threshold_needs_two_classes(tmp_path):
    names = [f"{part}/{k}/0.png" for part in ("train", "test") for k in "abc"]
    with pytest.raises(InputError, match="adapt_threshold=True needs a data set with two classes"):
        Experiment(adapt_threshold=True).load(touch(tmp_path / "parts", *names))


def test_int8_is_calibrated_on_training_images_only(tmp_path):
    names = [f"{part}/{k}/{i}.png" for part in ("train", "test") for k in "ab" for i in range(2)]
    data = Experiment().load(touch(tmp_path / "parts", *names))
    assert calibration_images(data) == sorted(path for path in data.paths if "train" in path.parts)


def test_int8_is_calibrated_on_all_images_without_a_test_part(two_classes):
    data = Experiment().load(two_classes)
    assert calibration_images(data) == sorted(data.paths)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with images of two classes in a train and a test part."""
    return write_striped_images(
        tmp_path_factory.mktemp("experiment") / "images", np.random.default_rng(0), train=4, test=2
    )


@pytest.fixture(scope="module")
def evaluation(tiny_weights, folder):
    experiment = small_experiment(tiny_weights)
    return experiment.evaluate(experiment.load(folder), ["avg", "vlad2"])


def test_the_results_have_an_entry_for_each_encoding(evaluation):
    assert [one["encode"] for one in evaluation.results["results"]] == ["avg", "vlad2"]
    assert list(evaluation.decided) == ["avg", "vlad2"]


def test_the_first_encoding_is_compared_with_the_others(evaluation):
    (pair,) = evaluation.results["comparisons"]
    assert (pair["first"], pair["second"]) == ("avg", "vlad2")


def test_the_settings_in_the_results_are_those_of_the_experiment(evaluation):
    own = {field.name for field in fields(Experiment)} - {"store"}
    added = {"input_sides", "weights_fingerprint", "engine", "ranges", "available_backends"}
    assert evaluation.results["settings"].keys() == own | added
    assert evaluation.results["settings"]["layer"] == "out_relu"


def test_the_extraction_is_part_of_the_seconds_of_each_encoding(evaluation):
    seconds = [one["seconds"]["extract"] for one in evaluation.results["results"]]
    assert seconds[0] == seconds[1] > 0


def test_an_absent_part_is_refused_before_the_extraction(tiny_weights, tmp_path, monkeypatch):
    experiment = small_experiment(tiny_weights)
    data = experiment.load(touch(tmp_path / "images", "train/a/0.png", "train/b/0.png"))
    monkeypatch.setattr("medvlad.experiment.evaluation.extract_data_set", None)
    with pytest.raises(InputError, match="there is a train part but no test part"):
        experiment.evaluate(data, ["avg"])


@pytest.fixture(scope="module")
def trained(tiny_weights, folder):
    """Pipelines that were trained without and with a store."""
    pipelines = []
    for store in (None, str(folder.parent / "store")):
        experiment = small_experiment(tiny_weights, store=store)
        pipelines.append(experiment.train(experiment.load(folder), "vlad2")[0])
    return pipelines


def test_a_trained_pipeline_has_no_store(trained):
    for pipeline in trained:
        assert (pipeline[0].store, pipeline[0].output) == (None, "host")


def test_a_store_does_not_change_what_is_trained(trained):
    without, with_store = trained
    np.testing.assert_array_equal(without["classify"].coef_, with_store["classify"].coef_)
    np.testing.assert_array_equal(without["encode"].cluster_centers_, with_store["encode"].cluster_centers_)


@pytest.fixture(scope="module")
def chosen(tiny_weights, tmp_path_factory):
    """Result of training with a choice of C on a folder with an unreadable image, and that image."""
    root = write_striped_images(
        tmp_path_factory.mktemp("chosen") / "images", np.random.default_rng(0), train=3, test=1
    )
    bad = root / "train" / "lying" / "bad.png"
    bad.write_bytes(b"no image")
    experiment = small_experiment(tiny_weights, C=None, folds=2, on_error="skip")
    return *experiment.train(experiment.load(root), "avg"), str(bad)


def test_training_reports_the_skipped_images(chosen):
    _, skipped, n_images, bad = chosen
    assert [one["image"] for one in skipped] == [bad]
    assert n_images == 6


def test_a_chosen_c_is_one_of_the_penalties(chosen):
    assert chosen[0]["classify"].C in PENALTIES


class UnreadableExtractor:
    """In place of CNNDescriptors: skips every image whose path holds `part`."""

    def __init__(self, part):
        self.part = part

    def fit(self, paths):
        return self

    def transform_with_report(self, paths):
        skipped = [(i, "it is empty") for i, path in enumerate(paths) if self.part in str(path)]
        return Descriptors.from_list([np.ones((1, 2))] * len(paths)), ExtractionReport(skipped, len(paths))

    def set_params(self, **params):
        return self


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("/a/", "no usable training image is left of a: add some or remove the class"),
        ("", "none of the 10 images could be read; the first: it is empty"),
    ],
)
def test_training_without_images_of_a_class_is_refused(two_classes, monkeypatch, part, message):
    experiment = Experiment()
    dataset = experiment.load(two_classes)
    monkeypatch.setattr(ImageClassifier, "make_network", lambda self: UnreadableExtractor(part))
    with pytest.raises(InputError, match=message):
        experiment.train(dataset, "avg")
