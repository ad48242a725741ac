"""Subgroups: bands of ages and numbers, covariates that are left out, metrics, and warnings."""

import numpy as np
import pytest

from medvlad.datasets.folders import ImageFolder
from medvlad.evaluation.covariate_bands import UNKNOWN_VALUE, grouped_covariate, why_left_out
from medvlad.evaluation.metrics import scores
from medvlad.evaluation.subgroups import hide_rare_groups, subgroup_metrics


def texts(*values):
    return np.array(values, dtype=str)


# --------------------------------------------------------------------------------------------- bands


def test_ages_become_bands_of_years():
    groups, order = grouped_covariate("age", texts("17.9", "18", "39", "40", "80", "", "64"))
    assert groups.tolist() == [
        "below 18 years",
        "18 to 39 years",
        "18 to 39 years",
        "40 to 64 years",
        "80 or more years",
        UNKNOWN_VALUE,
        "40 to 64 years",
    ]
    assert order == ["below 18 years", "18 to 39 years", "40 to 64 years", "80 or more years", UNKNOWN_VALUE]


@pytest.mark.parametrize("name", ["age", "Age", "patient_age", "PatientAge", "age at exam"])
def test_an_age_is_known_by_its_name(name):
    assert grouped_covariate(name, texts("30", "70"))[1] == ["18 to 39 years", "65 to 79 years"]


@pytest.mark.parametrize("name", ["stage", "image", "dosage", "page"])
def test_a_name_that_only_ends_in_age_is_no_age(name):
    assert grouped_covariate(name, texts("30", "70"))[1] == ["30", "70"]


def test_ages_of_dicom_are_read_and_children_have_their_own_bands():
    groups, order = grouped_covariate("PatientAge", texts("003M", "002Y", "017Y", "026W"))
    assert groups.tolist() == ["below 1 years", "1 to 5 years", "12 to 17 years", "below 1 years"]
    assert order == ["below 1 years", "1 to 5 years", "12 to 17 years"]


def test_many_numbers_become_quarters():
    groups, order = grouped_covariate("dose", texts(*map(str, range(100))))
    assert len(order) == 4
    assert [(groups == one).sum() for one in order] == [25, 25, 25, 25]


def test_few_numbers_stay_in_their_order():
    assert grouped_covariate("grade", texts("10", "2", "10"))[1] == ["2", "10"]


@pytest.mark.parametrize(
    "name",
    ["PatientName", "patient_id", "MRN", "birth_date", "AccessionNumber", "file", "address", "comments"],
)
def test_a_covariate_whose_name_identifies_is_left_out(name):
    assert "identify" in why_left_out(name, texts("a", "b", "a", "b"))


@pytest.mark.parametrize("name", ["sex", "device_name", "ManufacturerModelName", "age", "skin type"])
def test_a_covariate_that_identifies_nobody_has_a_table(name):
    assert why_left_out(name, texts(*["1", "2"] * 10)) is None


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["", ""], "no value"),
        (["a"] * 5, "all images have the value 'a'"),
        ([f"t{i}" for i in range(30)] * 5, "30 different texts"),
        (["a", "b", "c"], "almost one for each patient"),
    ],
)
def test_a_covariate_without_groups_is_left_out_with_a_reason(values, reason):
    assert reason in why_left_out("x", texts(*values))


# ------------------------------------------------------------------------------------------- metrics


def study(rng, n=200, patients=100, **more):
    labels = np.arange(n) % 2
    decision = rng.normal(size=(n, 2)) + np.eye(2)[labels]
    dataset = ImageFolder([f"{i}.png" for i in range(n)], labels, ["a", "b"], **more)
    return dataset, decision


def test_metrics_of_a_subgroup_are_those_of_its_images_alone(rng):
    sex = np.array(["F", "M"])[rng.integers(0, 2, 200)]
    groups = np.array([f"p{i // 2}" for i in range(200)])
    dataset, decision = study(rng, groups=groups, covariates={"sex": sex})
    rows = subgroup_metrics(dataset, np.arange(200), decision)["tables"]["sex"]
    assert [row["value"] for row in rows] == ["F", "M"]
    own = sex == "F"
    alone = scores(
        dataset.labels[own], decision[own].argmax(1), decision[own], ["a", "b"], groups=groups[own]
    )
    assert {name: rows[0][name] for name in ("accuracy", "auc", "sensitivity_ci95")} == {
        name: alone[name] for name in ("accuracy", "auc", "sensitivity_ci95")
    }
    assert (rows[0]["n"], rows[0]["n_patients"]) == (own.sum(), len(set(groups[own])))
    assert sum(row["n"] for row in rows) == 200


def test_only_test_images_count(rng):
    dataset, decision = study(rng, sites=np.array(["x", "y"] * 100))
    tested = np.arange(0, 60)
    rows = subgroup_metrics(dataset, tested, decision[tested])["tables"]["site"]
    assert sum(row["n"] for row in rows) == 60


def test_a_small_group_has_a_warning_with_the_number(rng):
    sex = np.array(["F"] * 10 + ["M"] * 190)
    dataset, decision = study(rng, covariates={"sex": sex})
    small, large = subgroup_metrics(dataset, np.arange(200), decision)["tables"]["sex"]
    assert small["warning"] == "only 5 images of a; below 20 the metrics are uncertain"
    assert large["warning"] is None


def test_a_group_without_a_class_has_no_auc_and_a_warning(rng):
    dataset, decision = study(rng)
    sex = np.where(dataset.labels == 0, "F", "M")
    sex[1] = "F"
    dataset, _ = study(np.random.default_rng(0), covariates={"sex": sex})
    rows = {row["value"]: row for row in subgroup_metrics(dataset, np.arange(200), decision)["tables"]["sex"]}
    assert rows["M"]["auc"] is None
    assert rows["M"]["warning"].startswith("no images of a")


def test_without_sites_and_covariates_there_are_no_subgroups(rng):
    dataset, decision = study(rng)
    assert subgroup_metrics(dataset, np.arange(200), decision) is None


def test_sites_that_are_numbers_are_names(rng):
    sites = np.array([str(i % 12) for i in range(200)])
    dataset, decision = study(rng, sites=sites)
    assert len(subgroup_metrics(dataset, np.arange(200), decision)["tables"]["site"]) == 12


def test_anonymous_subgroups_name_no_site_and_no_rare_group(rng):
    sites = np.array(["Charité", "Mayo"] * 100)
    device = np.array(["rare"] * 4 + ["usual"] * 196)
    country = np.full(200, "Norway")
    dataset, decision = study(rng, sites=sites, covariates={"device": device, "country": country})
    found = subgroup_metrics(dataset, np.arange(200), decision)
    hide_rare_groups(found)
    text = str(found)
    assert [row["value"] for row in found["tables"]["site"]] == ["site 1", "site 2"]
    assert not [name for name in ("Charité", "Mayo", "'rare'", "Norway") if name in text]
    assert "1 of its groups have fewer than 5 patients" in text
