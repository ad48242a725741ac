"""How often an audit finds something in images of patients in which nothing is wrong."""

from collections import Counter
from math import comb

import numpy as np
import pytest
from scipy.stats import chi2_contingency
from support.clean_sets import most_found, number_of_sets
from support.clustered_facts import clustered

from medvlad.audit.counts import class_findings, frame_findings
from medvlad.audit.covariates import covariate_findings
from medvlad.audit.duplicates import duplicate_findings, find_copies
from medvlad.audit.group_test import group_p_value
from medvlad.audit.shortcuts import shift_findings, shortcut_findings

TESTED = ("priors_differ", "uniform_border", "uniform_box")


def counted(n_sets, n_patients, n_images, n_classes, find):
    """Return how many of `n_sets` clean data sets have a finding of each kind. A border as such is none."""
    found = Counter()
    for seed in range(n_sets):
        rng = np.random.default_rng([n_patients, n_images, n_classes, seed])
        images, facts, units = clustered(rng, n_patients, n_images, n_classes)
        kinds = {
            one["kind"]
            for one in find(images, facts, units, seed)
            if not one["kind"].startswith("uniform") or one["severity"] == "warning"
        }
        found.update(kinds)
    return found


def by_counting(images, facts, units, seed):
    return class_findings(images, units, seed) + frame_findings(images, facts, units, seed)


def by_learning(images, facts, units, seed):
    copies = find_copies(facts, n_threads=2)
    shortcuts, _ = shortcut_findings(images, facts, units, seed)
    shifts, _ = shift_findings(images, facts, units, seed)
    return duplicate_findings(images, copies)[0] + shortcuts + shifts


@pytest.mark.slow
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize(("n_patients", "n_images"), [(20, 10), (40, 5), (100, 3), (200, 1)])
def test_tests_of_counts_keep_their_level(n_patients, n_images, n_classes):
    """The levels are 0.01 for priors, and 0.001 for a border and a box."""
    n_sets = number_of_sets(1000)
    found = counted(n_sets, n_patients, n_images, n_classes, by_counting)
    print({kind: found[kind] for kind in TESTED})  # noqa: T201, for the table in docs/reliability.md
    assert found["priors_differ"] <= most_found(n_sets, 0.01)
    assert found["uniform_border"] <= most_found(n_sets, 0.001)
    assert found["uniform_box"] <= most_found(n_sets, 0.001)


@pytest.mark.slow
@pytest.mark.parametrize(("n_patients", "n_images"), [(40, 5), (100, 3)])
def test_classifiers_and_copies_find_nothing_in_clean_data(n_patients, n_images):
    """The lower end of a 95 % interval must be above chance by far, so 0.025 is a bound."""
    n_sets = number_of_sets(200)
    found = counted(n_sets, n_patients, n_images, 2, by_learning)
    print(dict(found))  # noqa: T201, for the table in docs/howto/audit.md
    assert max(found.values(), default=0) <= most_found(n_sets, 0.025)


def by_columns(images, facts, units, seed):
    """Findings of a site that each patient has one of, and of an age."""
    rng = np.random.default_rng(seed)
    n_patients = units.max() + 1
    columns = {
        "site": rng.choice(list("ABCD"), n_patients)[units],
        "age": rng.integers(20, 90, n_patients).astype(str)[units],
    }
    return covariate_findings(images, columns, units, seed)


@pytest.mark.slow
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize(("n_patients", "n_images"), [(40, 5), (200, 1)])
def test_columns_without_meaning_do_not_go_with_the_class(n_patients, n_images, n_classes):
    """The level is 0.001 for each of two columns."""
    n_sets = number_of_sets(200)
    found = counted(n_sets, n_patients, n_images, n_classes, by_columns)
    print(dict(found))  # noqa: T201, for the table in docs/howto/audit.md
    assert found["covariate_goes_with_class"] <= most_found(n_sets, 0.002)


@pytest.mark.parametrize("seed", range(3))
def test_images_of_one_patient_are_not_independent(seed):
    """20 patients of two classes, 7 of them in the test part: 1 of one class and 6 of the other."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(20) % 2)
    parts = np.zeros(20, int)
    parts[np.r_[np.flatnonzero(labels == 0)[:1], np.flatnonzero(labels == 1)[:6]]] = 1
    units = np.repeat(np.arange(20), 10)
    table = np.zeros((2, 2))
    np.add.at(table, (parts[units], labels[units]), 1)
    assert chi2_contingency(table, correction=False).pvalue < 1e-12
    exact = 2 * (comb(10, 6) * comb(10, 1) + comb(10, 7)) / comb(20, 7)  # as far apart, or farther
    assert group_p_value(parts[units], labels[units], units, seed) == pytest.approx(exact, abs=0.01)


def test_single_images_are_compared_by_pearsons_test(rng):
    groups, outcomes = rng.integers(0, 3, 90), rng.integers(0, 2, 90)
    table = np.zeros((3, 2))
    np.add.at(table, (groups, outcomes), 1)
    expected = chi2_contingency(table, correction=False).pvalue
    assert group_p_value(groups, outcomes, np.arange(90), 0) == pytest.approx(expected)


def test_a_difference_between_patients_is_found(rng):
    groups = np.repeat(np.arange(40) % 2, 5)
    outcomes = (rng.random(200) < np.where(groups == 0, 0.1, 0.7)).astype(int)
    assert group_p_value(groups, outcomes, np.repeat(np.arange(40), 5), 0) < 0.001


def test_the_p_value_of_many_units_needs_no_permutation(rng):
    units = np.repeat(np.arange(6000), 2)
    groups, outcomes = rng.integers(0, 2, 6000)[units], rng.integers(0, 2, 12000)
    first = group_p_value(groups, outcomes, units, 0)
    assert first == group_p_value(groups, outcomes, units, 1)
    assert 0 < first < 1


@pytest.mark.parametrize("outcomes", [np.zeros(6, int), np.arange(6) % 2])
def test_a_single_group_does_not_differ(outcomes):
    assert group_p_value(np.zeros(6, int), outcomes, np.arange(6) // 2, 0) == 1
