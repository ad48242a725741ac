"""Figures of merit and the protocol: nothing fitted ever sees a test image or a test patient."""

import numpy as np
import pytest
from scipy.stats import binomtest

from medvlad import VLAD, Descriptors, GlobalPool, InputError, WideLinearSVC
from medvlad.datasets.folders import ImageFolder
from medvlad.evaluation.cross_validation import held_out
from medvlad.evaluation.held_out_metrics import held_out_metrics as figures
from medvlad.evaluation.metrics import score_table, scores, wilson_interval


@pytest.mark.parametrize(("correct", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (17, 23), (496, 624)])
def test_wilson_interval_against_scipy(correct, n):
    expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def evaluate_encoder(descriptors, data, encoder, classifier, *, folds=5, **settings):
    return figures(data, held_out(descriptors, data, encoder, classifier, folds=folds), **settings)


def test_two_classes_by_hand():
    labels = np.array([0, 0, 0, 1, 1])
    values = np.array([-2.0, -1.0, 0.5, 0.2, 3.0])
    decision = np.column_stack([-values, values])
    figures = scores(labels, decision.argmax(axis=1), decision, ["NORMAL", "PNEUMONIA"])
    assert figures["accuracy"] == 4 / 5
    assert figures["positive_class"] == "PNEUMONIA"
    assert figures["sensitivity"] == 1.0
    assert figures["specificity"] == pytest.approx(2 / 3)
    assert figures["balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert figures["auc"] == pytest.approx(5 / 6)
    assert figures["confusion_matrix"] == [[2, 1], [0, 2]]
    swapped = scores(labels, decision.argmax(axis=1), decision, ["NORMAL", "PNEUMONIA"], positive="NORMAL")
    assert swapped["sensitivity"] == pytest.approx(figures["specificity"])
    with pytest.raises(InputError, match="the positive class must be one of NORMAL, PNEUMONIA, got 'X'"):
        scores(labels, decision.argmax(axis=1), decision, ["NORMAL", "PNEUMONIA"], positive="X")


def test_a_class_without_test_images_has_no_figure():
    decision = np.eye(3)[[0, 1, 1]]
    figures = scores(np.array([0, 1, 1]), decision.argmax(axis=1), decision, ["a", "b", "c"])
    assert figures["per_class"]["c"]["sensitivity"] is None
    assert figures["per_class"]["c"]["specificity"] == 1.0
    assert figures["auc"] is None
    assert figures["sensitivity"] is None


def test_three_classes_average_over_classes():
    labels = np.array([0, 0, 1, 1, 2, 2])
    decision = np.eye(3)[[0, 1, 1, 1, 2, 0]]
    figures = scores(labels, decision.argmax(axis=1), decision, ["a", "b", "c"])
    assert figures["sensitivity"] == figures["balanced_accuracy"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert figures["specificity"] == pytest.approx((3 / 4 + 3 / 4 + 1) / 3)
    assert "positive_class" not in figures


def folder(labels, groups=None, splits=None):
    labels = np.array(labels)
    names = [f"class{k}" for k in range(labels.max() + 1)]
    return ImageFolder(
        [f"{i}.png" for i in range(len(labels))],
        labels,
        names,
        None if groups is None else np.array(groups, dtype=object),
        None if splits is None else np.array(splits),
    )


@pytest.fixture
def easy(rng):
    """Sixty images of three classes that pooling tells apart."""
    labels = np.repeat([0, 1, 2], 20)
    images = [rng.normal(loc=4 * np.eye(3, 6)[k], size=(5, 6)) for k in labels]
    return Descriptors.from_list(images), labels


def test_official_split(easy):
    descriptors, labels = easy
    data = folder(labels, splits=np.where(np.arange(60) % 4 == 0, "test", "train"))
    figures = evaluate_encoder(descriptors, data, GlobalPool(), WideLinearSVC())
    assert (figures["n_train"], figures["n_test"], figures["protocol"]) == (45, 15, "train and test part")
    assert figures["accuracy"] == 1.0
    assert figures["seconds"].keys() == {"fit_encoder", "encode", "fit_classifier", "predict"}


def test_cross_validation_is_seeded(easy):
    descriptors, labels = easy
    runs = [
        evaluate_encoder(
            descriptors, folder(labels), VLAD(4, random_state=0), WideLinearSVC(), random_state=seed
        )
        for seed in (0, 0)
    ]
    for run in runs:
        run.pop("seconds")
    assert runs[0] == runs[1]
    assert runs[0]["n_test"] == 60
    assert runs[0]["protocol"] == "5-fold cross-validation"


class Recorder(GlobalPool):
    """Remembers the first number of every descriptor it is fitted on or transforms."""

    log: list

    def fit(self, X, y=None):
        self.log.append(set(X.values[:, 0].tolist()))
        return super().fit(X)


@pytest.mark.parametrize("grouped", [False, True])
def test_nothing_is_fitted_on_test_images(monkeypatch, grouped):
    n = 40
    labels = np.arange(n) % 2
    groups = [f"patient{i // 4}" for i in range(n)] if grouped else None
    # An image's first number is its index, its second tells the class.
    descriptors = Descriptors.from_list([np.array([[i, 5.0 * labels[i]]]) for i in range(n)])
    Recorder.log = []
    evaluate_encoder(descriptors, folder(labels, groups), Recorder(), WideLinearSVC(), folds=5)
    assert len(Recorder.log) == 5
    held_out = [set(range(n)) - {int(i) for i in seen} for seen in Recorder.log]
    assert sorted(i for fold in held_out for i in fold) == list(range(n))
    if grouped:
        for fold in held_out:
            assert all({j for j in range(n) if j // 4 == i // 4} <= fold for i in fold)


def test_a_planted_leak_is_reported(easy, caplog):
    descriptors, labels = easy
    data = folder(labels, groups=[f"p{i // 2}" for i in range(60)], splits=["train", "test"] * 30)
    evaluate_encoder(descriptors, data, GlobalPool(), WideLinearSVC())
    assert "30 patients (such as p0) are in both" in caplog.text


def test_intervals_know_patients(rng):
    """Two tested copies of an image a patient: wider than if they were images of their own."""
    x, labels = rng.normal(size=(50, 3, 4)).astype(np.float32), np.arange(50) % 2
    x[labels == 1] += 0.4
    copies = np.repeat(x, 4, axis=0)
    widths = []
    for groups in (None, np.repeat(np.arange(50), 4).astype(str)):
        data = folder(np.repeat(labels, 4).tolist(), groups, np.tile(["train", "test"], 100))
        found = evaluate_encoder(Descriptors.from_array(copies), data, GlobalPool(), WideLinearSVC())
        assert found["bootstrap_of"] == ("images" if groups is None else "patients")
        low, high = found["bootstrap_ci95"]["accuracy"]
        widths.append(high - low)
    assert 1.2 * widths[0] < widths[1] < 1.7 * widths[0]  # two of the four are tested: the square root of 2


def test_threshold_of_unlabelled_test_images(rng):
    """A class that has moved in the test part is found without a label; the usual figures stay."""
    labels = np.tile([0, 1], 300)
    x = rng.normal(size=(600, 1, 6)).astype(np.float32) * 0.4
    x[labels == 1, 0, 0] += 4
    splits = np.repeat(["train", "test"], 300)
    x[(splits == "test") & (labels == 0), 0, 0] += 2.4
    data = folder(labels.tolist(), None, splits)
    settings = Descriptors.from_array(x), data, GlobalPool(l2_norm=False), WideLinearSVC()
    decided = held_out(*settings)
    found = figures(data, decided, adapt_threshold=True)
    adapted = found.pop("adapted")
    assert found == figures(data, decided)
    assert found["accuracy"] < 0.7
    assert adapted["accuracy"] > 0.95
    assert adapted["auc"] == found["auc"]
    shuffled = data.take(np.arange(600))
    shuffled.labels[300:] = rng.permutation(shuffled.labels[300:])
    again = figures(shuffled, decided, adapt_threshold=True)
    assert again["adapted"]["threshold"] == adapted["threshold"]


def test_random_labels_score_chance(rng):
    """A leak of any kind would lift accuracy on labels that mean nothing."""
    labels = rng.permutation(np.repeat([0, 1], 100))
    descriptors = Descriptors.from_list([rng.normal(size=(4, 50)) for _ in labels])
    figures = evaluate_encoder(descriptors, folder(labels), VLAD(4, random_state=0), WideLinearSVC())
    assert 0.35 < figures["accuracy"] < 0.65


@pytest.mark.parametrize(
    ("labels", "groups", "folds", "message"),
    [
        ([0, 0, 0, 1, 1], None, 3, "at most the images of the smallest class, 2"),
        ([0, 0, 0, 0, 1, 1, 1], list("aabbccc"), 2, "at most the patients of the smallest class, 1"),
        ([0, 0, 1, 1], None, 1, "folds=1 must be at least 2"),
        ([0, 0, 1, 1], None, 0, "folds must be an integer of at least 1, got 0"),
    ],
)
def test_too_few_for_the_folds(labels, groups, folds, message):
    descriptors = Descriptors.from_list([np.ones((1, 2))] * len(labels))
    with pytest.raises(InputError, match=message):
        evaluate_encoder(descriptors, folder(labels, groups), GlobalPool(), WideLinearSVC(), folds=folds)


def test_patients_of_several_classes_may_leave_a_fold_without_one():
    """Group folds cannot always keep every class in training: told before anything is fitted."""
    labels = [1, 1, 1, 2, 0, 0, 1, 1, 0, 2, 0, 1, 1]
    patients = [str(p) for p in [3, 1, 1, 1, 0, 0, 2, 0, 0, 3, 1, 0, 3]]
    descriptors = Descriptors.from_list([np.eye(3)[[k]] for k in labels])
    refused = 0
    for seed in range(4):
        try:
            figures = evaluate_encoder(
                descriptors,
                folder(labels, patients),
                GlobalPool(),
                WideLinearSVC(),
                folds=2,
                random_state=seed,
            )
        except InputError as error:
            refused += 1
            assert "one fold leaves no training image of: class" in str(error)  # noqa: PT017
        else:
            assert figures["n_test"] == 13
    assert refused > 0


def test_a_class_missing_from_train():
    data = folder([0, 1, 1], splits=["test", "train", "train"])
    with pytest.raises(InputError, match="the train part has no training image of: class0"):
        evaluate_encoder(Descriptors.from_list([np.ones((1, 2))] * 3), data, GlobalPool(), WideLinearSVC())


def test_table_lines_up():
    row = {
        "encode": "vlad64",
        "scales": [0, 1],
        "accuracy": 0.8,
        "accuracy_ci95": [0.7, 0.9],
        "balanced_accuracy": 0.75,
        "auc": None,
    }
    lines = score_table([row, row | {"encode": "avg", "auc": 0.9}]).splitlines()
    assert lines[0].split()[:2] == ["encode", "scale"]
    assert lines[2].endswith("-")
    assert "0.700 to 0.900" in lines[3]
    assert {line.index("0.8") for line in lines[2:]} == {lines[0].index("accuracy")}
