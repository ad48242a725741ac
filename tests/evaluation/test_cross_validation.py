"""The protocol: nothing that is fitted ever sees a test image or a test patient."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from support.image_folders import evaluate, folder

from medvlad import VLAD, Descriptors, GlobalPool, InputError, WideLinearSVC
from medvlad.encoders.recipe import Recipe
from medvlad.evaluation.calibration import calibrator
from medvlad.evaluation.cross_validation import held_out, inner_folds


class Recorder(GlobalPool):
    """Records the first number of every descriptor that it is fitted on."""

    log: list

    def fit(self, X, y=None):
        self.log.append(set(X.values[:, 0].tolist()))
        return super().fit(X)


def left_out_of_each_fold(labels, groups):
    """Return the indices of the images that each of five folds does not fit on."""
    n = len(labels)
    # An image's first number is its index, its second one tells the class.
    descriptors = Descriptors.from_list([np.array([[i, 5.0 * labels[i]]]) for i in range(n)])
    Recorder.log = []
    evaluate(descriptors, folder(labels, groups), Recorder(), WideLinearSVC(), folds=5)
    assert len(Recorder.log) == 5
    return [set(range(n)) - {int(i) for i in seen} for seen in Recorder.log]


@pytest.mark.parametrize(
    "groups", [None, [f"patient{i // 4}" for i in range(40)]], ids=["images", "patients"]
)
def test_each_image_is_left_out_of_the_fit_of_one_fold(groups):
    folds = left_out_of_each_fold(np.arange(40) % 2, groups)
    assert sorted(i for fold in folds for i in fold) == list(range(40))


def test_a_patient_is_left_out_as_a_whole():
    for fold in left_out_of_each_fold(np.arange(40) % 2, [f"patient{i // 4}" for i in range(40)]):
        assert all({j for j in range(40) if j // 4 == i // 4} <= fold for i in fold)


def test_patients_in_both_parts_are_reported(rng, caplog):
    labels = np.repeat([0, 1, 2], 20)
    descriptors = Descriptors.from_list([rng.normal(loc=4 * np.eye(3, 6)[k], size=(5, 6)) for k in labels])
    data = folder(labels, groups=[f"p{i // 2}" for i in range(60)], splits=["train", "test"] * 30)
    held_out(descriptors, data, GlobalPool(), WideLinearSVC())
    assert "30 patients (such as p0) are in both" in caplog.text
    assert "too optimistic" in caplog.text


def test_random_labels_are_decided_at_chance(rng):
    """A leak of any kind would raise the accuracy on labels without meaning."""
    labels = rng.permutation(np.repeat([0, 1], 100))
    descriptors = Descriptors.from_list([rng.normal(size=(4, 50)) for _ in labels])
    found = evaluate(descriptors, folder(labels), VLAD(4, random_state=0), WideLinearSVC())
    assert 0.35 < found["accuracy"] < 0.65


def test_a_codebook_that_was_fitted_on_the_images_shortens_their_residuals(rng):
    """This is why the codebook is fitted again in each inner fold."""
    descriptors = Descriptors.from_array(rng.normal(size=(40, 6, 16)).astype(np.float32))
    seen, unseen = descriptors[:20], descriptors[20:]
    vlad = VLAD(48, l2_norm=False, random_state=0).fit(seen)
    lengths = [np.linalg.norm(vlad.transform(part), axis=1).mean() for part in (seen, unseen)]
    assert lengths[0] < 0.7 * lengths[1]


@pytest.mark.parametrize(
    ("labels", "groups", "folds", "message"),
    [
        (
            [0, 0, 0, 1, 1],
            None,
            3,
            "folds=3 needs at least 3 images in every class, but class 'class1' has 2",
        ),
        ([0, 0, 0, 1, 1], None, 3, r"has 2: use folds=2, or give"),
        ([0, 0, 0, 0, 1, 1, 1], list("aabbccc"), 2, "2 patients in every class, but class 'class1' has 1"),
        (
            [0, 0, 0, 0, 1, 1, 1],
            list("aabbccc"),
            2,
            "add patients of it, or name the patients with group_pat",
        ),
        ([0] * 4 + [1] * 3, None, 4, "use folds=3 or fewer"),
        ([0, 0, 0, 1], None, 2, "has 1: add images of it, or give a train"),
        ([0, 0, 1, 1], None, 1, "folds=1 must be at least 2"),
        ([0, 0, 1, 1], None, 0, "folds must be an integer of at least 1, got 0"),
    ],
)
def test_a_wrong_number_of_folds_is_refused(labels, groups, folds, message):
    descriptors = Descriptors.from_list([np.ones((1, 2))] * len(labels))
    with pytest.raises(InputError, match=message):
        held_out(descriptors, folder(labels, groups), GlobalPool(), WideLinearSVC(), folds=folds)


def test_patients_of_several_classes_may_leave_a_fold_without_a_class():
    """Folds that keep patients together cannot always train on every class: refused before any fit."""
    labels = [1, 1, 1, 2, 0, 0, 1, 1, 0, 2, 0, 1, 1]
    patients = [str(p) for p in [3, 1, 1, 1, 0, 0, 2, 0, 0, 3, 1, 0, 3]]
    descriptors = Descriptors.from_list([np.eye(3)[[k]] for k in labels])
    data = folder(labels, patients)
    refused = 0
    for seed in range(4):
        try:
            decided = held_out(descriptors, data, GlobalPool(), WideLinearSVC(), folds=2, random_state=seed)
        except InputError as error:
            refused += 1
            assert "one fold has no training image of class" in str(error)  # noqa: PT017
            assert "use another `random_state`" in str(error)  # noqa: PT017  (other numbers are not allowed)
        else:
            assert len(decided.tested) == 13
    assert refused > 0


def test_a_class_without_training_images_is_named():
    data = folder([0, 1, 1], splits=["test", "train", "train"])
    with pytest.raises(InputError, match="the train part has no usable image of class0"):
        held_out(Descriptors.from_list([np.ones((1, 2))] * 3), data, GlobalPool(), WideLinearSVC())


class Nested:
    """A data set whose C is chosen and whose probabilities are calibrated in each of four folds."""

    penalties = (0.1, 1.0)

    def __init__(self):
        rng = np.random.default_rng(20261122)
        self.labels = np.arange(80) % 2
        x = (
            np.eye(8)[self.labels][:, None] * 1.2
            + rng.normal(0, 1, (80, 9, 8))
            + rng.normal(0, 0.4, (80, 1, 8))
        )
        self.descriptors = Descriptors.from_array(x.astype(np.float32))
        self.data = folder(self.labels)
        self.encoder = Recipe(descriptor_norm=True, power=0.5, reduce=4, whiten=True).encoder("vlad3")
        self.decided = self.held_out(penalties=self.penalties, calibration="platt")

    def held_out(self, **settings):
        return held_out(self.descriptors, self.data, self.encoder, WideLinearSVC(), folds=4, **settings)

    def rows(self, fold):
        """Rows of a fold's test images among all predictions."""
        return [int(np.flatnonzero(self.decided.tested == i)[0]) for i in fold.test]


@pytest.fixture(scope="module")
def nested():
    return Nested()


def test_each_fold_has_its_c_and_its_steps(nested):
    decided = nested.decided
    assert len(decided.penalties) == len(decided.inner_balanced_accuracy) == len(decided.fitted) == 4
    assert set(decided.penalties) <= set(nested.penalties)


def test_decisions_are_those_of_the_steps_that_did_not_see_the_image(nested):
    for fold in nested.decided.fitted:
        assert not set(fold.train) & set(fold.test)
        again = fold.head.decision_function(fold.encoder.transform(nested.descriptors.take(fold.test)))
        np.testing.assert_allclose(nested.decided.decision[nested.rows(fold), 1], again)


def test_c_and_probabilities_come_from_folds_inside_the_training_images(nested):
    for fold, penalty in zip(nested.decided.fitted, nested.decided.penalties, strict=True):
        labels = nested.labels[fold.train]
        inner = inner_folds(
            nested.descriptors.take(fold.train),
            labels,
            None,
            nested.encoder,
            WideLinearSVC(),
            nested.penalties,
            folds=4,
        )
        assert inner.penalty == penalty
        rows = nested.rows(fold)
        expected = calibrator("platt", inner.decision, labels)(nested.decided.decision[rows])
        np.testing.assert_allclose(nested.decided.probability[rows], expected)


def test_probabilities_add_up_to_1(nested):
    np.testing.assert_allclose(nested.decided.probability.sum(axis=1), 1)


def test_without_a_choice_of_c_there_are_no_inner_folds(nested):
    plain = nested.held_out()
    assert (plain.probability, plain.inner_balanced_accuracy) == (None, None)
    assert plain.penalties == [1.0] * 4


def test_patients_are_kept_together_inside_the_training_images(nested, monkeypatch):
    patients = np.array([f"p{i // 4}" for i in range(80)])
    data = folder(nested.labels, patients)
    seen = []

    def spy(images, own_labels, groups, *rest, **settings):
        seen.append(groups)
        return inner_folds(images, own_labels, groups, *rest, **settings)

    monkeypatch.setattr("medvlad.evaluation.cross_validation.inner_folds", spy)
    decided = held_out(
        nested.descriptors, data, GlobalPool(), WideLinearSVC(), folds=4, penalties=nested.penalties
    )
    for groups, fold in zip(seen, decided.fitted, strict=True):
        np.testing.assert_array_equal(groups, patients[fold.train])


class PoolingRecorder(BaseEstimator):
    """Pools by average, and records which images it is fitted on: the first number is the image's index."""

    log: list = []  # noqa: RUF012

    def fit(self, X):
        PoolingRecorder.log.append({int(x[0, 0]) for x in X})
        return self

    def transform(self, X):
        return np.stack([x[:, 1:].mean(axis=0) for x in X])


def test_the_encoder_is_fitted_again_in_each_inner_fold(nested):
    index = np.tile(np.arange(60.0)[:, None, None], (1, 9, 1))
    values = nested.descriptors.values.reshape(80, 9, 8)[:60]
    numbered = Descriptors.from_array(np.concatenate([index, values], 2))
    patients = np.array([f"p{i // 3}" for i in range(60)])
    PoolingRecorder.log.clear()
    inner_folds(
        numbered, nested.labels[:60], patients, PoolingRecorder(), WideLinearSVC(), [0.1, 1.0], folds=4
    )
    assert len(PoolingRecorder.log) == 4
    left_out = [set(range(60)) - seen for seen in PoolingRecorder.log]
    assert sorted(i for fold in left_out for i in fold) == list(range(60))
    for fold in left_out:
        assert not set(patients[sorted(fold)]) & set(patients[sorted(set(range(60)) - fold)])
