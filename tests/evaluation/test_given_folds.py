"""Folds that a table names, and leaving out one site at a time."""

from dataclasses import replace

import numpy as np
import pytest
from support.folders import refusal
from support.image_folders import folder

from medvlad import Descriptors, GlobalPool, WideLinearSVC
from medvlad.evaluation.cross_validation import held_out
from medvlad.evaluation.held_out_metrics import held_out_metrics
from medvlad.evaluation.metrics import fold_table
from medvlad.evaluation.parts import check_parts, with_sites_as_folds

LABELS = np.arange(24) % 2
SITES = np.array(["Basel", "Bern", "Chur"])[np.arange(24) % 3]


@pytest.fixture
def descriptors(rng):
    return Descriptors.from_list([rng.normal(loc=3 * np.eye(2, 4)[k], size=(5, 4)) for k in LABELS])


def test_each_given_fold_is_tested_by_all_others(descriptors):
    data = replace(folder(LABELS), folds=SITES)
    decided = held_out(descriptors, data, GlobalPool(), WideLinearSVC())
    assert len(decided.fitted) == 3
    for fold, name in zip(decided.fitted, ["Basel", "Bern", "Chur"], strict=True):
        assert set(SITES[fold.test]) == {name}
        assert set(SITES[fold.train]) == {"Basel", "Bern", "Chur"} - {name}
    assert sorted(decided.tested) == list(range(24))
    assert decided.protocol == "cross-validation over 3 given folds"


def test_given_folds_decide_as_each_classifier_alone(descriptors):
    data = replace(folder(LABELS), folds=SITES)
    decided = held_out(descriptors, data, GlobalPool(), WideLinearSVC())
    for name in np.unique(SITES):
        train, test = np.flatnonzero(name != SITES), np.flatnonzero(name == SITES)
        pool = GlobalPool().fit(descriptors.take(train))
        svm = WideLinearSVC().fit(pool.transform(descriptors.take(train)), LABELS[train])
        expected = svm.decision_function(pool.transform(descriptors.take(test)))
        rows = np.flatnonzero(np.isin(decided.tested, test))
        np.testing.assert_array_equal(decided.decision[rows, 1], expected)


def test_each_fold_has_metrics_of_its_own(descriptors):
    data = with_sites_as_folds(replace(folder(LABELS), sites=SITES))
    found = held_out_metrics(data, held_out(descriptors, data, GlobalPool(), WideLinearSVC()))
    assert found["protocol"] == "leaving out one of 3 sites at a time"
    assert [(one["fold"], one["n_test"]) for one in found["per_fold"]] == [
        ("Basel", 8),
        ("Bern", 8),
        ("Chur", 8),
    ]
    mean = np.mean([one["accuracy"] for one in found["per_fold"]])
    assert mean == pytest.approx(found["accuracy"])
    lines = fold_table({"encode": "avg"} | found).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["Basel", "Bern", "Chur"]


def test_without_given_folds_there_are_no_metrics_of_folds(descriptors):
    data = folder(LABELS)
    assert "per_fold" not in held_out_metrics(
        data, held_out(descriptors, data, GlobalPool(), WideLinearSVC())
    )


def test_a_class_that_lies_in_one_fold_is_refused(descriptors):
    data = replace(folder(LABELS), folds=np.array(["a", "b"])[LABELS])
    refusal(
        lambda: held_out(descriptors, data, GlobalPool(), WideLinearSVC()),
        "class0",
        "fold 'a'",
        "other folds",
    )


def test_patients_in_two_given_folds_are_reported(descriptors, caplog):
    data = replace(folder(LABELS, groups=[f"p{i // 2}" for i in range(24)]), folds=SITES)
    held_out(descriptors, data, GlobalPool(), WideLinearSVC())
    assert "too optimistic" in caplog.text


def test_a_single_fold_is_refused():
    refusal(lambda: check_parts(replace(folder(LABELS), folds=np.full(24, "0"))), "'0'", "two folds")


def test_sites_replace_a_split_with_a_warning(caplog):
    data = replace(folder(LABELS, splits=["train", "test"] * 12), sites=SITES)
    changed = with_sites_as_folds(data)
    assert changed.splits is None
    np.testing.assert_array_equal(changed.folds, SITES)
    assert "not used" in caplog.text


@pytest.mark.parametrize(
    ("sites", "parts"),
    [
        (None, ["column site"]),
        (np.where(np.arange(24) < 3, "", SITES), ["3 of 24 images"]),
        (np.full(24, "Basel"), ["'Basel'", "two sites"]),
    ],
)
def test_sites_that_cannot_be_left_out_are_refused(sites, parts):
    refusal(lambda: with_sites_as_folds(replace(folder(LABELS), sites=sites)), "group_by='site'", *parts)
