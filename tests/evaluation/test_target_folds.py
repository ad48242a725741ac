"""Folds of several labels and of numbers keep patients together and share out every label."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.target_sets import target_set

from medvlad import InputError
from medvlad.evaluation.parts import with_sites_as_folds
from medvlad.evaluation.target_folds import balanced_folds, check_targets, target_parts


@st.composite
def problems(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(4, 60))
    targets = rng.choice([0.0, 1.0, np.nan], size=(n, draw(st.integers(1, 4))), p=[0.6, 0.3, 0.1])
    groups = rng.integers(0, draw(st.integers(2, n)), n).astype(str) if draw(st.booleans()) else None
    return targets, groups, draw(st.integers(2, 5)), draw(st.sampled_from(["labels", "regression"]))


@settings(deadline=None, max_examples=150)
@given(problems())
def test_patients_stay_together_and_no_fold_is_empty(problem):
    targets, groups, folds, task = problem
    fold = balanced_folds(targets, groups, folds, 0, task=task)
    units = len(targets) if groups is None else len(set(groups))
    assert set(fold) == set(range(min(folds, units)))
    if groups is not None:
        assert all(len(set(fold[groups == name])) == 1 for name in set(groups))


def test_a_rare_label_is_in_every_fold():
    rng = np.random.default_rng(0)
    targets = (rng.random((300, 14)) < np.linspace(0.03, 0.5, 14)).astype(float)
    targets[:, 0] = 0
    targets[rng.choice(300, 5, replace=False), 0] = 1
    fold = balanced_folds(targets, None, 5, 0)
    assert [int(targets[fold == k, 0].sum()) for k in range(5)] == [1] * 5
    shares = np.stack([targets[fold == k].mean(axis=0) for k in range(5)])
    assert np.abs(shares - targets.mean(axis=0)).max() < 0.06
    assert np.ptp(np.bincount(fold)) <= 8


def test_numbers_are_spread_evenly():
    numbers = np.random.default_rng(0).lognormal(size=(200, 1))
    fold = balanced_folds(numbers, None, 5, 0, task="regression")
    medians = [np.median(numbers[fold == k]) for k in range(5)]
    assert np.ptp(medians) < 0.15


def test_the_seed_decides():
    targets = np.random.default_rng(0).integers(0, 2, (50, 3)).astype(float)
    first, again, other = (balanced_folds(targets, None, 5, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_train_and_a_test_part_are_one_fold():
    data, _ = target_set("labels", splits=True)
    ((train, test),), protocol = target_parts(data, 5, 0)
    assert protocol == "train and test part"
    assert set(data.splits[train]) == {"train"}
    assert set(data.splits[test]) == {"test"}


@pytest.mark.parametrize("task", ["labels", "regression"])
def test_patients_in_two_given_folds_are_reported(task, caplog):
    data, _ = target_set(task)
    apart = replace(data, folds=np.array(["a", "b", "c"])[np.arange(len(data)) // 2 % 3])
    target_parts(apart, 5, 0)
    assert not caplog.text
    target_parts(replace(data, folds=np.array(["a", "b"])[np.arange(len(data)) % 2]), 5, 0)
    assert "60 patients (such as p000) are in both" in caplog.text


def test_given_folds_are_the_folds_and_their_number_is_told():
    data, _ = target_set("labels")
    names = np.array(["a", "b", "c"])[np.arange(len(data)) // 2 % 3]
    parts, protocol = target_parts(replace(data, folds=names), 5, 0)
    assert protocol == "cross-validation over 3 given folds"
    assert [set(names[test]) for _, test in parts] == [{"a"}, {"b"}, {"c"}]
    assert [set(names[train]) for train, _ in parts] == [{"b", "c"}, {"a", "c"}, {"a", "b"}]


def test_sites_that_are_left_out_are_called_sites():
    data, _ = target_set("labels")
    sites = np.array(["Basel", "Bern"])[np.arange(len(data)) // 2 % 2]
    parts, protocol = target_parts(with_sites_as_folds(replace(data, sites=sites)), 5, 0)
    assert protocol == "leaving out one of 2 sites at a time"
    assert len(parts) == 2


def test_given_folds_come_before_a_train_and_a_test_part():
    """As for classes. Then no image is only tested, so a label may be in the test part alone."""
    data, _ = target_set("labels", splits=True)
    data.targets[:, 0] = data.splits == "test"
    with pytest.raises(InputError, match="0 training patients with effusion"):
        check_targets(data, 5)
    data = replace(data, folds=np.array(["a", "b"])[np.arange(len(data)) // 2 % 2])
    check_targets(data, 5)
    parts, protocol = target_parts(data, 5, 0)
    assert protocol == "cross-validation over 2 given folds"
    assert len(parts) == 2


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_label_of_too_few_patients_is_refused(value):
    data, _ = target_set("labels")
    data.targets[:, 1] = 1.0 - value
    data.targets[[0, 1, 2], 1] = value  # two patients
    kind = "with" if value else "without"
    with pytest.raises(InputError, match=f"there are 2 training patients {kind} nodule, and at least 3"):
        check_targets(data, 5)


def test_a_number_that_is_known_for_too_few_patients_is_refused():
    data, _ = target_set("regression")
    data.targets[4:, 0] = np.nan
    with pytest.raises(InputError, match="2 training patients whose age is known"):
        check_targets(data, 5)


def test_one_fold_is_refused():
    with pytest.raises(InputError, match="folds=1 is too few"):
        check_targets(target_set("labels")[0], 1)
