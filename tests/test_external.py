"""External validation: a trained model on labelled images from elsewhere."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import Pipeline, make_pipeline
from support.striped_images import small_experiment, write_striped_images

from medvlad import GlobalPool, InputError, WideLinearSVC, load_model, save_model
from medvlad.datasets.folders import ImageFolder, load_image_folder
from medvlad.external import check_classes, validate
from medvlad.predict import predict_images


class Calibrated(ClassifierMixin, BaseEstimator):
    """The attributes of a calibrated classifier: probabilities, a threshold, and counts of the training."""

    def __init__(self, svm=None, threshold=0.0):
        self.svm, self.threshold = svm, threshold

    def fit(self, X, y):
        self.svm_, self.C = self.svm, self.svm.C
        self.classes_, self.coef_, self.intercept_ = self.svm.classes_, self.svm.coef_, self.svm.intercept_
        self.threshold_, self.training_counts_ = self.threshold, np.array([3, 1])
        return self

    def decision_function(self, X):
        return self.svm.decision_function(X)

    def predict_proba(self, X):
        p = 1 / (1 + np.exp(-self.decision_function(X)))
        return np.column_stack([1 - p, p])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_striped_images(tmp_path_factory.mktemp("external") / "images", np.random.default_rng(0))


@pytest.fixture(scope="module")
def pipeline(tiny_weights, folder):
    experiment = small_experiment(tiny_weights)
    return experiment.train(experiment.load(folder), "avg")[0]


@pytest.fixture(scope="module")
def elsewhere(folder):
    return load_image_folder(folder / "test")


def with_last(pipeline, **parameters):
    last = Calibrated(pipeline.steps[-1][1], **parameters).fit(None, None)
    return Pipeline([*pipeline.steps[:-1], ("classify", last)])


def test_decisions_are_those_of_predict(pipeline, elsewhere):
    decided = validate(pipeline, elsewhere).decided["model"]
    predictions, _ = predict_images(pipeline, list(map(str, elsewhere.paths)))
    labels = [elsewhere.class_names[k] for k in decided.decision.argmax(axis=1)]
    assert labels == [one["label"] for one in predictions]
    np.testing.assert_allclose(decided.decision[:, 1], [one["scores"]["upright"] for one in predictions])


def test_all_images_are_tested_and_none_trains(pipeline, folder):
    parts = load_image_folder(folder)
    result = validate(pipeline, parts).results["results"][0]
    assert (result["n_train"], result["n_test"]) == (0, len(parts))
    assert result["protocol"] == "external validation"


def test_nothing_is_fitted(pipeline, elsewhere, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("fitted")

    for kind in (WideLinearSVC, GlobalPool, type(pipeline.steps[0][1])):
        monkeypatch.setattr(kind, "fit", refuse)
    before = pipeline.steps[-1][1].coef_.copy()
    validate(pipeline, elsewhere)
    np.testing.assert_array_equal(pipeline.steps[-1][1].coef_, before)
    assert pipeline.steps[0][1].store is None


def test_the_threshold_of_the_model_decides(pipeline, elsewhere):
    plain = validate(pipeline, elsewhere).decided["model"].decision[:, 1]
    middle = float(np.median(plain))
    evaluation = validate(with_last(pipeline, threshold=middle), elsewhere)
    decided = evaluation.decided["model"].decision.argmax(axis=1)
    np.testing.assert_array_equal(decided, plain > middle)
    assert evaluation.results["external"]["threshold"] == middle
    right = (decided == elsewhere.labels).mean()
    assert evaluation.results["results"][0]["accuracy"] == right


def test_shares_are_estimated_from_probabilities_and_shown_beside_the_true_ones(pipeline, elsewhere):
    found = validate(with_last(pipeline), elsewhere).results["external"]
    assert found["training_counts"] == {"lying": 3, "upright": 1}
    assert found["shares"]["upright"]["training"] == 0.25
    assert found["shares"]["upright"]["observed"] == 0.5
    assert found["shares_missing"] is None


def test_all_training_images_are_counted_although_few_held_out_values_are_kept(
    folder, tiny_weights, elsewhere, monkeypatch, tmp_path
):
    monkeypatch.setattr("medvlad.decisions.calibrated_svc.MAX_HELD_OUT", 4)
    experiment = small_experiment(tiny_weights, calibration="platt", folds=2)
    train = load_image_folder(folder)
    train = train.take(np.flatnonzero(train.splits == "train"))
    counts = np.bincount(train.labels)
    save_model(experiment.train(train, "avg")[0], tmp_path / "m")
    trained = load_model(tmp_path / "m", weights=tiny_weights)
    assert len(trained[-1].held_out_labels_) < len(train)
    found = validate(trained, elsewhere).results["external"]
    assert list(found["training_counts"].values()) == counts.tolist()


def test_the_labels_do_not_change_the_estimated_shares(pipeline, elsewhere):
    turned = ImageFolder(elsewhere.paths, 1 - elsewhere.labels, elsewhere.class_names)
    one, two = (
        validate(with_last(pipeline), data).results["external"]["shares"] for data in (elsewhere, turned)
    )
    assert one["upright"]["estimated"] == two["upright"]["estimated"]


def test_probabilities_give_calibration_and_a_decision_curve(pipeline, elsewhere):
    result = validate(with_last(pipeline), elsewhere).results["results"][0]
    assert result["calibration"]["by_class"]["upright"]["observed"] == 0.5
    assert result["decision_curve"]["class"] == "upright"


def test_a_model_without_probabilities_says_why_there_are_no_shares(pipeline, elsewhere):
    found = validate(pipeline, elsewhere).results["external"]
    assert found["shares"] is None
    assert "no probabilities" in found["shares_missing"]


def test_an_unknown_class_is_refused_in_one_sentence(elsewhere):
    with pytest.raises(InputError, match="the model does not know the class upright, it knows a, lying"):
        check_classes(elsewhere, ["a", "lying"])


def test_classes_are_matched_by_name_and_missing_ones_stay():
    data = ImageFolder(["1.png", "2.png"], np.array([0, 1]), ["b", "c"])
    found = check_classes(data, ["a", "b", "c"])
    assert found.labels.tolist() == [1, 2]
    assert found.class_names == ["a", "b", "c"]


def test_an_unknown_class_without_images_is_no_mistake():
    data = ImageFolder(["1.png"], np.array([1]), ["z", "b"])
    assert check_classes(data, ["a", "b"]).labels.tolist() == [1]


def test_several_labels_are_refused(elsewhere):
    data = ImageFolder([], np.empty(0, np.int64), ["a"], task="labels")
    with pytest.raises(InputError, match="one class an image"):
        check_classes(data, ["a"])


def test_a_pipeline_without_a_network_is_refused(elsewhere):
    with pytest.raises(InputError, match="first step is CNNDescriptors"):
        validate(make_pipeline(GlobalPool(), WideLinearSVC()), elsewhere)
    with pytest.raises(InputError, match="got WideLinearSVC alone: put the encoder first"):
        validate(make_pipeline(WideLinearSVC()), elsewhere)


def test_feature_files_are_refused_by_a_pipeline_of_images(pipeline):
    data = ImageFolder([Path("a.npy")], np.array([0]), ["lying"])
    with pytest.raises(InputError, match=r"trained on images, and a\.npy is a feature file"):
        validate(pipeline, data)
