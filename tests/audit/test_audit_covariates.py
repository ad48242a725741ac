"""Columns of a table that go with the class."""

from dataclasses import replace

import numpy as np
import pytest
from support.clustered_facts import clustered
from support.folders import refusal
from support.planted import write_set

from medvlad.audit import audit
from medvlad.audit.covariates import covariate_findings
from medvlad.datasets.folders import load_image_folder


def found_in(images, units, **columns):
    return {one["column"]: one for one in covariate_findings(images, columns, units, 0)}


@pytest.fixture
def patients(rng):
    """Images of 120 patients with 3 images each, and their units."""
    images, _, units = clustered(rng, 120, 3)
    return images, units


def test_a_site_that_goes_with_the_class_is_a_warning(patients):
    images, units = patients
    (one,) = found_in(images, units, site=np.array(["Basel", "Bern"])[images.labels]).values()
    assert (one["severity"], one["balanced_accuracy"], one["chance"]) == ("warning", 1.0, 0.5)
    assert "'site'" in one["sentence"]
    assert "Basel" not in str(one)


def test_a_weak_connection_is_a_note(rng):
    images, _, units = clustered(rng, 600, 1)
    same = np.arange(600) % 5 < 3
    column = np.where(same, images.labels, 1 - images.labels).astype(str)
    (one,) = found_in(images, units, sex=column).values()
    assert one["severity"] == "note"
    assert one["balanced_accuracy"] == pytest.approx(0.6, abs=0.025)


def test_columns_that_do_not_depend_on_the_class_are_no_finding(patients, rng):
    images, units = patients
    _, patient = np.unique(units, return_inverse=True)
    columns = {f"c{i}": rng.integers(0, 4, patient.max() + 1)[patient].astype(str) for i in range(40)}
    assert found_in(images, units, **columns) == {}


def test_numbers_are_divided_and_names_of_studies_are_not_tried(patients, rng):
    images, units = patients
    ages = (30 + 30 * images.labels + rng.integers(0, 25, len(images))).astype(str)
    studies = np.array([f"study{i}" for i in range(len(images))])
    assert set(found_in(images, units, age=ages, study=studies, one=np.full(len(images), "x"))) == {"age"}


def test_an_audit_reports_the_columns_of_a_table(rng, tmp_path):
    data = load_image_folder(write_set(tmp_path, rng, n=12))
    data = replace(
        data, sites=np.array(["Basel", "Bern"])[data.labels], covariates={"sex": np.full(len(data), "F")}
    )
    kinds = [one["column"] for one in audit(data)["findings"] if one["kind"] == "covariate_goes_with_class"]
    assert kinds == ["site"]


def test_an_audit_of_numbers_is_refused(rng, tmp_path):
    data = load_image_folder(write_set(tmp_path, rng, n=3))
    refusal(lambda: audit(replace(data, task="regression")), "'regression'", "label_column")
