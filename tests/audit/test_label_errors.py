"""Ranking of labels by suspicion, and how often a right label is reported."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from support.clean_sets import most_found, number_of_sets
from support.clustered_facts import clustered_vectors
from support.planted import findings

from medvlad.audit.finding import ReadImages
from medvlad.audit.label_errors import LEVEL, label_findings, label_scores
from medvlad.evaluation.folds import stratified_folds


def changed_labels(rng, labels, share):
    """Return labels of which a share is changed to another class, and which ones."""
    changed = np.zeros(len(labels), bool)
    changed[rng.choice(len(labels), max(1, round(share * len(labels))), replace=False)] = True
    n_classes = labels.max() + 1
    other = (labels + rng.integers(1, n_classes, len(labels))) % n_classes
    return np.where(changed, other, labels), changed


def self_confidence(x, labels, units):
    """Return the probability of the own class on the same folds, as confident learning scores labels."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    found = np.zeros(len(x))
    for train, test in stratified_folds(labels, units, 5, 0):
        fitted = LogisticRegression(C=100.0, max_iter=1000).fit(x[train], labels[train])
        found[test] = fitted.predict_proba(x[test])[np.arange(len(test)), labels[test]]
    return found


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_changed_labels_are_ranked_first(share, n_classes):
    ours, confidence = [], []
    for seed in range(5):
        rng = np.random.default_rng([seed, n_classes])
        x, labels, units = clustered_vectors(rng, 150, 2, n_classes, distance=5.0)
        given, changed = changed_labels(rng, labels, share)
        ours.append(roc_auc_score(changed, label_scores(x, given, units, 0).suspicion))
        confidence.append(roc_auc_score(changed, -self_confidence(x, given, units)))
    assert np.mean(ours) >= 0.95
    assert np.mean(ours) >= np.mean(confidence) - 0.005


@pytest.fixture
def one_wrong(rng):
    """Vectors of two classes with one changed label: images, units, scores and the changed image."""
    x, labels, units = clustered_vectors(rng, 60, 2, 2, distance=10.0)
    labels[7] = 1 - labels[7]
    names = [f"{i:03d}.png" for i in range(len(x))]
    return ReadImages(names, labels, ["a", "b"], None, None), label_scores(x, labels, units, 0), 7


def test_a_wrong_label_is_reported_with_the_other_class(one_wrong):
    images, scores, wrong = one_wrong
    assert np.flatnonzero(scores.reported).tolist() == [wrong]
    assert scores.suggested[wrong] == 1 - images.labels[wrong]
    found, listed = label_findings(images, np.arange(len(images)), scores)
    assert findings({"findings": found})["suspicious_labels"]["examples"] == ["007.png"]
    assert listed["listed"][0]["image"] == "007.png"
    assert listed["listed"][0]["reported"]
    suspicion = [one["suspicion"] for one in listed["listed"]]
    assert suspicion == sorted(suspicion, reverse=True)


def test_images_of_a_patient_do_not_vouch_for_one_another(rng):
    """All images of one patient, who is unlike the others, have the wrong label."""
    x, labels, units = clustered_vectors(rng, 60, 3, 2, distance=6.0)
    x += 8 * rng.normal(size=(60, x.shape[1])).astype(np.float32)[units]
    own = units == 5
    labels[own] = 1 - labels[own]
    together = label_scores(x, labels, units, 0)
    apart = label_scores(x, labels, np.arange(len(x)), 0)
    assert together.neighbours[own].mean() < apart.neighbours[own].mean() - 0.2


def test_a_class_of_few_patients_is_not_tried(rng):
    x, labels, units = clustered_vectors(rng, 12, 2, 2)
    assert "6 independent images" in label_scores(x, labels, units, 0)


def test_a_single_class_is_not_tried(rng):
    assert "single class" in label_scores(np.ones((30, 4), np.float32), np.zeros(30, int), np.arange(30), 0)


@pytest.mark.slow
@pytest.mark.parametrize("distance", [0.0, 4.0])
@pytest.mark.parametrize(("n_patients", "n_images", "n_classes"), [(40, 5, 2), (100, 3, 4), (200, 1, 2)])
def test_right_labels_are_reported_in_few_data_sets(n_patients, n_images, n_classes, distance):
    n_sets, n_found = number_of_sets(200), 0
    for seed in range(n_sets):
        rng = np.random.default_rng([n_patients, seed])
        x, labels, units = clustered_vectors(rng, n_patients, n_images, n_classes, distance=distance)
        n_found += bool(label_scores(x, labels, units, seed).reported.any())
    print(n_found)  # noqa: T201, for the table in docs/howto/audit.md
    assert LEVEL == 0.05
    assert n_found <= most_found(n_sets, LEVEL)
