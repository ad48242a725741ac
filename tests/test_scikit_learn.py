"""Encoders and the SVM in scikit-learn's own tools: searches, groups, weights, names, pickles."""

import pickle

import numpy as np
import pytest
import sklearn
from sklearn import config_context
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.pipeline import FeatureUnion, Pipeline

import medvlad as mv
from medvlad import Descriptors


@pytest.fixture
def labels():
    return np.arange(40) % 2


@pytest.fixture
def patients():
    return np.arange(40) // 4


@pytest.fixture
def images(rng, labels):
    """Return ragged descriptors of images of two classes."""
    arrays = [rng.random((n, 6), dtype=np.float32) for n in rng.integers(2, 9, 40)]
    for array, label in zip(arrays, labels, strict=True):
        array[::2] += 5  # two kinds of places, so that the centres do not stand for the classes
        array[:, 0] += label
    return Descriptors.from_list(arrays)


def steps():
    return [("vlad", mv.VLAD(2, random_state=0)), ("svm", mv.WideLinearSVC())]


class Counting(mv.GlobalPool):
    """Records the number of images that it is fitted on."""

    seen: list = []  # noqa: RUF012, shared by clones

    def fit(self, X, y=None):
        self.seen.append(len(X))
        return super().fit(X, y)


def test_a_search_over_ragged_images_finds_a_classifier(images, labels, patients):
    grid = {"vlad__n_clusters": [2, 3], "vlad__power": [0.5, 1.0], "svm__C": [0.1, 1.0]}
    search = GridSearchCV(Pipeline(steps()), grid, cv=GroupKFold(4), error_score="raise")
    search.fit(images, labels, groups=patients)
    assert search.best_score_ > 0.9
    assert search.predict(images).shape == (40,)


def test_a_search_over_encoders_fits_them_on_training_folds_only(images, labels, patients):
    Counting.seen.clear()
    search = GridSearchCV(Pipeline(steps()), {"vlad": [Counting()]}, cv=GroupKFold(4), refit=False)
    search.fit(images, labels, groups=patients)
    assert len(Counting.seen) == 4
    assert max(Counting.seen) == 32


needs_score_weights = pytest.mark.skipif(
    sklearn.__version__.startswith("1.6."), reason="scikit-learn 1.6 routes no weights to a pipeline's score"
)


@pytest.fixture
def routed(patients):
    """A pipeline that asks for sample weights, and parameters in which every fourth image has weight 0."""
    with config_context(enable_metadata_routing=True):
        svm = mv.WideLinearSVC().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        given = {"groups": patients, "sample_weight": np.where(np.arange(40) % 4 == 3, 0.0, 1.0)}
        yield Pipeline([steps()[0], ("svm", svm)]), given


@needs_score_weights
def test_groups_and_weights_are_routed_through_cross_validation(images, labels, patients, routed):
    pipeline, given = routed
    found = cross_validate(
        pipeline, images, labels, params=given, cv=GroupKFold(5), return_estimator=True, return_indices=True
    )
    assert found["test_score"].min() > 0.5
    train_of, test_of = found["indices"]["train"], found["indices"]["test"]
    for fitted, train, test in zip(found["estimator"], train_of, test_of, strict=True):
        assert not set(patients[train]) & set(patients[test])
        # Rows with weight 0 have no effect.
        there = train[train % 4 != 3]
        vectors = fitted[0].transform(images.take(there))
        alone = mv.WideLinearSVC().fit(vectors, labels[there])
        np.testing.assert_allclose(fitted[-1].coef_, alone.coef_, atol=1e-8)


@needs_score_weights
def test_groups_and_weights_are_routed_through_a_search(images, labels, routed):
    pipeline, given = routed
    search = GridSearchCV(pipeline, {"svm__C": [0.1, 1.0]}, cv=GroupKFold(4), error_score="raise")
    search.fit(images, labels, **given)
    assert search.n_splits_ == 4


def test_calibration_keeps_patients_apart(images, labels, patients):
    with config_context(enable_metadata_routing=True):
        calibrated = CalibratedClassifierCV(mv.WideLinearSVC(), cv=GroupKFold(4))
        calibrated.fit(mv.GlobalPool().fit_transform(images), labels, groups=patients)
    probability = calibrated.predict_proba(mv.GlobalPool().fit_transform(images))
    assert ((probability[:, 1] > 0.5) == labels).mean() > 0.9


@pytest.fixture
def pandas():
    return pytest.importorskip("pandas", reason="pandas is not installed")


def test_vectors_can_be_data_frames_with_column_names(images, pandas):
    union = FeatureUnion([("vlad", mv.VLAD(2, random_state=0)), ("avg", mv.GlobalPool())])
    frame = union.set_output(transform="pandas").fit_transform(images)
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns[[0, -1]]) == ["vlad__vlad0", "avg__globalpool5"]
    np.testing.assert_array_equal(frame.to_numpy(), union.set_output(transform="default").transform(images))


def test_blocks_are_arrays_even_if_vectors_are_data_frames(images, pandas):
    vlad = mv.VLAD(2, random_state=0).set_output(transform="pandas").fit(images)
    blocks = list(vlad.transform_blocks(images))
    assert isinstance(blocks[0][1], np.ndarray)


def test_an_encoder_checks_the_column_names_of_a_data_frame(images, pandas):
    columns = pandas.DataFrame(images.values, columns=list("abcdef"))
    named = mv.GlobalPool().fit(columns)
    assert named.feature_names_in_.tolist() == list("abcdef")
    with pytest.raises(ValueError, match="feature names should match"):
        named.transform(columns.rename(columns={"a": "z"}))


def test_a_fitted_pipeline_can_be_pickled(images, labels):
    fitted = Pipeline(steps()).fit(images, labels)
    back = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(back.decision_function(images), fitted.decision_function(images))


def test_descriptors_with_weights_can_be_pickled(images):
    again = pickle.loads(pickle.dumps(images.weighted(np.ones(len(images.values)))))
    np.testing.assert_array_equal(again.values, images.values)
    np.testing.assert_array_equal(again.weights, 1)
