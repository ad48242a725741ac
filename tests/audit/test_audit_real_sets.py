"""Audits of published data sets, whose defects are known."""

import numpy as np
import pytest
from support.folders import real
from support.planted import findings

from medvlad.audit import audit
from medvlad.datasets.folders import load_image_folder

pytestmark = [pytest.mark.data, pytest.mark.slow]


def test_photographs_of_rooms_have_notes_only():
    found = audit(load_image_folder(real("rooms_dev")))
    assert {one["severity"] for one in found["findings"]} == {"note"}
    assert set(findings(found)) == {
        "uniform_border",
        "sizes_vary",
    }  # four white bars, and photographs of all sizes


@pytest.fixture(scope="module")
def hyperkvasir():
    data = load_image_folder(real("hyperkvasir_dev"))
    whole = [data.class_names.index(name) for name in ("bbps-2-3", "impacted-stool")]
    some = np.isin(data.labels, whole) | (np.arange(len(data)) % 3 == 0)
    return audit(data.take(some))


def test_the_black_box_of_hyperkvasir_goes_with_the_class(hyperkvasir):
    boxes = [one for one in hyperkvasir["findings"] if one["kind"] == "uniform_box"]
    [box] = [one for one in boxes if one["place"] == "bottom left"]
    assert (box["colour"], box["severity"]) == ("black", "warning")
    assert box["shares"]["impacted-stool"] > 0.9
    assert box["shares"]["polyp"] < 0.7


def test_hyperkvasir_grades_near_duplicates_differently(hyperkvasir):
    by_kind = {one["kind"]: one for one in hyperkvasir["findings"]}
    assert by_kind["near_duplicates_other_label"]["n_pairs"] == 4  # frames of one video
    assert not [kind for kind in by_kind if kind.startswith("identical")]


def test_hyperkvasir_has_shortcuts(hyperkvasir):
    kinds = {one["kind"] for one in hyperkvasir["findings"]}
    assert {"shortcut_border", "shortcut_corners", "shortcut_file"} <= kinds


@pytest.fixture(scope="module")
def chest_xrays():
    data = load_image_folder(real("chest_xray_224"))
    return audit(data.take((data.splits == "test") | (np.arange(len(data)) % 10 == 0)))


def test_chest_xrays_have_no_error(chest_xrays):
    assert not [one for one in chest_xrays["findings"] if one["severity"] == "error"]


def test_chest_xrays_have_shortcuts_but_not_by_the_format(chest_xrays):
    kinds = [one["kind"] for one in chest_xrays["findings"]]
    assert {"priors_differ", "class_imbalance", "shortcut_border", "shortcut_bytes"} <= set(kinds)
    assert "shortcut_file" not in kinds  # all are JPEG of 224 x 224


def test_chest_xrays_have_one_file_under_two_patients(chest_xrays):
    [twice] = [one for one in chest_xrays["findings"] if one["kind"] == "identical_files_other_patient"]
    assert [name.rpartition("/")[2] for name in twice["examples"][0]] == [
        "NORMAL2-IM-0095-0001.jpeg",
        "NORMAL2-IM-0096-0001.jpeg",
    ]


def test_normal_chest_xrays_of_the_test_part_differ(chest_xrays):
    found = [one["class_name"] for one in chest_xrays["findings"] if one["kind"] == "parts_differ"]
    assert found == ["NORMAL"]
