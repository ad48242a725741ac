"""One estimator from images to classes: its steps, searches that extract once, files, mistakes."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import Pipeline
from support.faults import light_network
from support.striped_images import write_striped_images

import medvlad as mv
from medvlad.classifier.shared_folder import SharedFolder
from medvlad.encoders.recipe import PRESETS, Recipe
from medvlad.extraction import cnn_descriptors
from medvlad.svm.wide_ridge import WideRidge


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Striped images of two classes."""
    root = write_striped_images(
        tmp_path_factory.mktemp("classifier") / "images", np.random.default_rng(0), train=6, test=3
    )
    return mv.load_image_folder(root, split="train"), mv.load_image_folder(root, split="test")


@pytest.fixture(scope="module", autouse=True)
def _light():
    """Means of blocks instead of a network."""
    with pytest.MonkeyPatch.context() as patch:
        light_network(patch.setattr)
        yield


@pytest.fixture
def classifier():
    return mv.ImageClassifier("vgg16", encode="vlad2")


@pytest.fixture(scope="module")
def fitted(data, _light):
    train, _ = data
    return mv.ImageClassifier("vgg16", encode="vlad2").fit(train.paths, train.y)


@pytest.fixture
def extracted(monkeypatch):
    """Record the number of images that go through the network."""
    seen, batches = [], cnn_descriptors.extract_batches

    def counting(images, wanted, *arguments, **options):
        seen.extend(str(images[i]) for i in wanted)
        return batches(images, wanted, *arguments, **options)

    monkeypatch.setattr(cnn_descriptors, "extract_batches", counting)
    return seen


def test_it_decides_as_its_steps_do(fitted, data):
    train, test = data
    network = mv.CNNDescriptors("vgg16")
    vlad = mv.VLAD(2, random_state=0)
    svm = mv.WideLinearSVC().fit(vlad.fit_transform(network.transform(train.paths)), train.y)
    expected = svm.decision_function(vlad.transform(network.transform(test.paths)))
    np.testing.assert_array_equal(fitted.decision_function(test.paths), expected)
    assert fitted.predict(test.paths).tolist() == svm.classes_[(expected > 0).astype(int)].tolist()
    assert fitted.score(test.paths, test.y) == np.mean(fitted.predict(test.paths) == test.y)


def test_pixels_and_descriptors_give_what_files_give(fitted, data):
    _, test = data
    expected = fitted.decision_function(test.paths)
    pixels = [mv.images.load_image(path) for path in test.paths]
    np.testing.assert_array_equal(fitted.decision_function(pixels), expected)
    descriptors = fitted.pipeline_[0].transform(test.paths)
    np.testing.assert_array_equal(fitted.decision_function(descriptors), expected)


def test_a_search_over_encodings_and_c_extracts_each_image_once(classifier, data, extracted):
    train, test = data
    grid = {"encode": ["avg", "vlad2"], "C": [0.1, 1.0]}
    folds = StratifiedGroupKFold(2, shuffle=True, random_state=0)
    search = GridSearchCV(classifier, grid, cv=folds, error_score="raise")
    search.fit(train.paths, train.y, groups=np.arange(len(train)))
    assert sorted(extracted) == sorted(map(str, train.paths))
    assert search.best_params_.keys() == {"encode", "C"}
    assert search.predict(test.paths).shape == (len(test),)


def test_the_folder_of_clones_is_removed_with_the_last_of_them(classifier, data):
    train, _ = data
    twin = clone(classifier).fit(train.paths, train.y)
    folder = Path(twin.make_network().store)
    assert folder.is_dir()
    del classifier
    assert folder.is_dir()
    network = twin.pipeline_[0]
    assert (network.store, network.output) == (None, "host")
    folder_object = vars(twin).pop("_shared")
    del folder_object


def test_a_shared_folder_goes_with_the_last_reference():
    shared = SharedFolder()
    name = shared.folder()
    assert Path(name).is_dir()
    assert shared.folder() == name
    copy = pickle.loads(pickle.dumps(shared))
    assert copy.folder() == name
    del copy
    assert Path(name).is_dir()
    del shared
    assert not Path(name).exists()


def test_without_clones_nothing_is_kept_on_disk(classifier, data):
    train, _ = data
    network = classifier.fit(train.paths, train.y).make_network()
    assert (network.store, network.output) == (None, "host")


def test_a_store_of_the_user_is_used(classifier, data, tmp_path, extracted):
    train, _ = data
    classifier.set_params(store=tmp_path / "store").fit(train.paths, train.y)
    n = len(extracted)
    clone(classifier).set_params(encode="avg").fit(train.paths, train.y)
    assert n == len(extracted) == len(train)


def test_a_saved_classifier_decides_the_same_and_knows_its_parameters(classifier, data, tmp_path):
    train, test = data
    classifier.set_params(C="cv", folds=2, recipe=Recipe(power=0.5, tiles=((1, 1), (2, 2))))
    classifier.fit(train.paths, train.y)
    classifier.save(tmp_path / "model", card={"note": "striped"})
    again = mv.ImageClassifier.load(tmp_path / "model")
    expected = classifier.decision_function(test.paths)
    np.testing.assert_array_equal(again.decision_function(test.paths), expected)
    own = again.get_params()
    assert (own["recipe"], own["C"], own["encode"]) == (classifier.recipe, "cv", "vlad2")
    assert own["weights"] == "imagenet"  # what None means
    assert again.choice_.penalty == classifier.choice_.penalty
    refitted = clone(again).fit(train.paths, train.y)
    np.testing.assert_array_equal(refitted.decision_function(test.paths), expected)


def test_a_pipeline_without_its_card_can_be_loaded_too(fitted, data, tmp_path):
    _, test = data
    mv.save_model(fitted.pipeline_, tmp_path / "model")
    again = mv.ImageClassifier.load(tmp_path / "model")
    assert again.predict(test.paths).tolist() == fitted.predict(test.paths).tolist()


def test_evidence_adds_up_to_the_decision(fitted, data):
    _, test = data
    decision = fitted.decision_function(test.paths)
    bias = float(fitted.pipeline_[-1].intercept_[0])
    for one, value in zip(fitted.explain(test.paths), decision, strict=True):
        sign = 1 if value > 0 else -1
        assert one.label == fitted.classes_[int(value > 0)]
        assert one.decision == pytest.approx(abs(value))
        assert one.evidence.sum() + sign * bias == pytest.approx(abs(value), rel=1e-4)
        assert one.picture.mode == "RGB"


def test_evidence_for_another_class_can_be_asked_for(fitted, data):
    image = data[1].paths[:1]
    first, second = (fitted.explain(image, label)[0] for label in fitted.classes_)
    np.testing.assert_allclose(first.evidence, -second.evidence)
    with pytest.raises(mv.InputError, match="there is no class 'cat': use one of lying, upright"):
        fitted.explain(image, "cat")


def test_probabilities_are_learned_unless_they_are_not_wanted(fitted, classifier, data):
    train, test = data
    probability = fitted.predict_proba(test.paths)
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    one = fitted.answers(test.paths, coverage=0.9)[0]
    assert one["probabilities"]["lying"] == pytest.approx(probability[0, 0])
    assert {"label", "scores", "prediction_set", "novelty_p"} <= one.keys()
    assert hasattr(classifier, "predict_proba")
    plain = classifier.set_params(calibration="none")
    assert not hasattr(plain, "predict_proba")
    assert not hasattr(plain.fit(train.paths, train.y), "predict_proba")
    assert plain.answers(test.paths)[0].keys() == {"label", "scores"}


def test_an_operating_point_moves_the_threshold(classifier, data):
    train, test = data
    classifier.set_params(threshold="sensitivity=0.5", positive="lying").fit(train.paths, train.y)
    threshold = classifier.pipeline_[-1].threshold_
    decision = classifier.decision_function(test.paths)
    assert threshold != 0
    assert (classifier.predict(test.paths) == "upright").tolist() == (decision > threshold).tolist()
    classifier.pipeline_[-1].threshold_ = decision.max() + 1
    assert {one.label for one in classifier.explain(test.paths)} == {"lying"}


def test_a_preset_sets_what_is_not_given():
    best = mv.ImageClassifier(preset="best", C=3.0)
    network, svm = best.make_network(), best.make_svm()
    assert (network.scales, svm.C, svm.class_weight) == (PRESETS["best"]["scales"], 3.0, "balanced")
    best.set_params(scales=2, class_weight="none")
    assert (best.make_network().scales, best.make_svm().class_weight) == (2, None)


@pytest.mark.parametrize("name", ["best", "fast"])
def test_a_preset_brings_its_network_and_encoding_unless_they_are_given(name):
    preset = PRESETS[name]
    network = mv.ImageClassifier(preset=name).make_network()
    for field in ("model", "layer", "weights", "scales"):
        assert getattr(network, field) == preset[field]
    assert list(mv.ImageClassifier(preset=name).make_encoders()) == [preset["encode"]]
    given = mv.ImageClassifier("vgg16", encode="vlad8", preset=name)
    network = given.make_network()
    assert (network.model, network.layer, network.weights) == ("vgg16", None, "imagenet")
    assert list(given.make_encoders()) == ["vlad8"]


def test_without_a_preset_the_network_is_that_of_the_paper():
    classifier = mv.ImageClassifier()
    network = classifier.make_network()
    assert (network.model, network.layer, network.weights) == ("vgg19", None, "imagenet")
    assert list(classifier.make_encoders()) == ["vlad64"]


def test_several_encodings_are_compared_inside_the_training_images(classifier, data):
    train, _ = data
    classifier.set_params(encode="avg,vlad2", folds=3).fit(train.paths, train.y, np.arange(len(train)))
    assert list(classifier.choice_.balanced_accuracy) == ["avg", "vlad2"]
    assert classifier.choice_.encoding in ("avg", "vlad2")


def test_an_unreadable_image_is_left_out_of_the_training_and_cannot_be_predicted(classifier, data, tmp_path):
    train, _ = data
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    classifier.set_params(on_error="skip").fit([bad, *train.paths], [train.y[0], *train.y])
    assert [i for i, _ in classifier.skipped_] == [0]
    assert classifier.predict(train.paths).shape == (len(train),)
    with pytest.raises(mv.InputError, match=r"bad\.png"):
        classifier.predict([bad])


def test_a_classifier_of_descriptors_takes_descriptors_only(rng, data):
    x = mv.Descriptors.from_array(rng.random((10, 4, 3), dtype=np.float32))
    fitted = mv.ImageClassifier(encode="avg").fit(x, np.arange(10) % 2)
    assert fitted.predict(x).shape == (10,)
    assert fitted.decision_function(x).shape == (10,)
    with pytest.raises(mv.InputError, match="fitted on descriptors, so it needs descriptors, not images"):
        fitted.predict(data[1].paths)
    with pytest.raises(mv.InputError, match="fitted on descriptors"):
        fitted.explain(x)


@pytest.mark.parametrize(
    ("parameters", "y", "message"),
    [
        ({"preset": "good"}, None, "preset must be one of paper, best, fast, got 'good'"),
        ({"C": "auto"}, None, "C must be one of cv, got 'auto'"),
        ({"C": -1}, None, "C must be a finite number above 0"),
        ({"folds": 0}, None, "folds must be an integer of at least 1"),
        ({"encode": "vlad0"}, None, "unknown encoding 'vlad0'"),
        ({}, ["a"] * 3, r"y has shape \(3,\), expected \(12,\): one value an image"),
        ({}, ["a"] * 12, "there is a single class, and a classifier needs two"),
        ({"calibration": "beta"}, None, "calibration must be one of none, auto, platt, isotonic, got 'beta'"),
        ({"threshold": "0.5"}, None, "threshold"),
    ],
)
def test_mistakes_are_named(classifier, data, parameters, y, message):
    train, _ = data
    with pytest.raises(mv.InputError, match=message):
        classifier.set_params(**parameters).fit(train.paths, train.y if y is None else y)


def test_most_mistakes_are_found_before_the_extraction(classifier, data, extracted):
    with pytest.raises(mv.InputError, match="unknown encoding"):
        classifier.set_params(encode="avrg").fit(data[0].paths, data[0].y)
    assert extracted == []


@pytest.mark.parametrize(
    ("parameters", "y", "message"),
    [
        ({"positive": "x"}, None, "the positive class must be one of lying, upright, got 'x'"),
        ({"positive": "3"}, [1, 2] * 6, "the positive class must be one of 1, 2, got '3'"),
        ({"positive": "a"}, ["a", "b", "c"] * 4, "positive='a' needs two classes, and there are 3"),
        ({"threshold": "sensitivity=2"}, None, "a threshold is sensitivity=NUMBER"),
        ({"threshold": "sensitivity=0.9"}, ["a", "b", "c"] * 4, "needs two classes, and there are 3"),
        ({"positive": "a"}, [[0, 1], [1, 0]] * 6, "positive='a' needs a data set with two classes"),
        ({"threshold": "sensitivity=0.9"}, [[0, 1], [1, 0]] * 6, "is for two classes"),
        ({"calibration": "isotonic"}, [[0, 1], [1, 0]] * 6, "calibration='isotonic' is for classes"),
        ({"folds": 1}, [[0, 1], [1, 0]] * 6, "folds=1 is too few for several labels"),
        ({"memory": "2 GiB"}, [[0, 1], [1, 0]] * 6, "memory='2 GiB' is for one class an image"),
        ({"encode": "avg,vlad2"}, [[1], *[[0]] * 11], "there are 1 training images with 0"),
    ],
)
def test_settings_that_do_not_fit_y_are_found_before_the_extraction(
    classifier, data, extracted, parameters, y, message
):
    train, _ = data
    with pytest.raises(mv.InputError, match=message):
        classifier.set_params(**parameters).fit(train.paths, train.y if y is None else y)
    assert extracted == []


def test_the_positive_class_may_be_the_text_of_a_number(classifier, data):
    train, test = data
    numbers = (train.y == "upright").astype(int)
    classifier.set_params(threshold="sensitivity=0.5", positive="0").fit(train.paths, numbers)
    named = clone(classifier).set_params(positive="lying").fit(train.paths, train.y)
    assert classifier.pipeline_[-1].threshold_ == named.pipeline_[-1].threshold_
    assert (classifier.predict(test.paths) == (named.predict(test.paths) == "upright")).all()


def test_class_weights_by_name_are_used_in_the_folds_too(classifier, data):
    train, test = data
    classifier.set_params(class_weight={"lying": 1, "upright": 2}).fit(train.paths, train.y)
    assert classifier.pipeline_[-1].classifier_.class_weight == {"lying": 1, "upright": 2}
    assert classifier.predict_proba(test.paths).shape == (len(test), 2)


@pytest.fixture(scope="module")
def of_labels(data, _light):
    """Two labels, of which an image may have both or none."""
    train, _ = data
    y = np.column_stack([train.y == "upright", np.arange(len(train)) % 2 == 0]).astype(float)
    return mv.ImageClassifier("vgg16", encode="vlad2", folds=3).fit(train.paths, y)


@pytest.fixture(scope="module")
def of_numbers(data, _light, tmp_path_factory):
    """A model of numbers, as the command `train` saves it."""
    train, _ = data
    network = mv.CNNDescriptors("vgg16").build()
    vlad = mv.VLAD(2, random_state=0)
    y = (train.y == "upright") + np.linspace(0, 0.1, len(train))
    ridge = WideRidge(1.0, target_names=["age"]).fit(vlad.fit_transform(network.transform(train.paths)), y)
    path = tmp_path_factory.mktemp("numbers") / "a.model"
    mv.save_model(Pipeline([("features", network), ("encode", vlad), ("classify", ridge)]), path)
    return mv.ImageClassifier.load(path)


def test_answers_with_several_labels_name_those_that_predict_gives(of_labels, data):
    _, test = data
    expected = of_labels.predict(test.paths)
    names = of_labels.classes_.tolist()
    for one, row in zip(of_labels.answers(test.paths), expected, strict=True):
        assert "label" not in one
        assert one["labels"] == [name for name, has in zip(names, row, strict=True) if has]
        assert one["probabilities"].keys() == set(names)


def test_answers_with_numbers_give_numbers(of_numbers, data):
    _, test = data
    values = [one["value"] for one in of_numbers.answers(test.paths)]
    np.testing.assert_allclose(values, np.ravel(of_numbers.predict(test.paths)))


@pytest.mark.parametrize("kind", ["of_labels", "of_numbers"])
def test_what_is_for_classes_is_refused_with_labels_and_numbers(kind, request, data, extracted):
    own, images = request.getfixturevalue(kind), data[1].paths
    extracted.clear()
    for wanted in ({"coverage": 0.9}, {"abstain": True}):
        with pytest.raises(
            mv.InputError, match="for classes, and this classifier predicts labels or numbers"
        ):
            own.answers(images, **wanted)
    with pytest.raises(mv.InputError, match="the evidence is for classes"):
        own.explain(images)
    assert extracted == []


def test_bags_are_refused_by_a_classifier_of_images(fitted, data, rng, tmp_path):
    bags = [rng.random((9, 12), dtype=np.float32) for _ in range(2)]  # as wide as the light network's
    file = tmp_path / "bag.npy"
    np.save(file, bags[0])
    for given in (bags, [file]):
        for method in (fitted.predict, fitted.decision_function, fitted.answers, fitted.explain):
            with pytest.raises(mv.InputError, match="fitted on images, and these are bags of descriptors"):
                method(given)


def test_evidence_needs_the_images(fitted, data):
    descriptors = fitted.pipeline_[0].transform(data[1].paths[:1])
    with pytest.raises(mv.InputError, match="the evidence is shown beside the images: give the images"):
        fitted.explain(descriptors)


def test_a_class_without_usable_images_is_named(classifier, data, tmp_path):
    train, _ = data
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(mv.InputError, match="no usable training image is left of blank"):
        classifier.set_params(on_error="skip").fit([tmp_path / "bad.png", *train.paths], ["blank", *train.y])


def test_it_must_be_fitted_first(classifier, data):
    with pytest.raises(NotFittedError):
        classifier.predict(data[1].paths)


def test_its_text_is_short_and_notebooks_show_its_steps(classifier, fitted):
    assert repr(mv.ImageClassifier("vgg16", encode="avg")) == "ImageClassifier(encode='avg', model='vgg16')"
    for one in (classifier, fitted):
        page = one._repr_html_()
        assert all(step in page for step in ("CNNDescriptors", "VLAD", "WideLinearSVC"))


def test_a_fitted_classifier_can_be_pickled(fitted, data):
    again = pickle.loads(pickle.dumps(fitted))
    assert again.predict(data[1].paths).tolist() == fitted.predict(data[1].paths).tolist()


def test_processes_of_a_search_share_the_folder(classifier, data):
    """What joblib sends to a worker is a pickle of the clone."""
    twin = clone(classifier)
    sent = pickle.loads(pickle.dumps(twin))
    assert os.fspath(sent.make_network().store) == twin.make_network().store
