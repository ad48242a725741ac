"""Commands that take a table in place of a folder, and the command manifest."""

import csv
import json
import random

import numpy as np
import pytest
from support.folders import real
from support.small_sets import without_size_warning
from support.striped_images import NETWORK, write_striped_images


@pytest.fixture
def images(tmp_path, rng):
    return write_striped_images(tmp_path / "images", rng)


@pytest.fixture
def table(images, run, tmp_path):
    """A table of the images whose rows are in another order, with sites and ages."""
    path = tmp_path / "data.csv"
    assert run("manifest", images, "-o", path)[0] == 0
    header, *rows = list(csv.reader(path.read_text().splitlines()))
    rows = [[*row, ["Basel", "Bern"][i % 2], str(i)] for i, row in enumerate(rows)]
    random.Random(0).shuffle(rows)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[*header, "site", "age"], *rows])
    return path


def results_of(out):
    """Return the results without times, and without subgroups, which only a table has."""
    found = json.loads((out / "results.json").read_text())["results"]
    return [
        {name: value for name, value in one.items() if name not in ("seconds", "subgroups")} for one in found
    ]


def test_a_table_gives_the_same_figures_as_the_folder(images, table, run, tmp_path, tiny_weights):
    arguments = [*NETWORK, "--weights", tiny_weights, "--encode", "avg,vlad2", "--store", tmp_path / "store"]
    assert run("evaluate", images, *arguments, "--out", tmp_path / "a")[0] == 0
    status, _, error = run("evaluate", table, "--image-root", images, *arguments, "--out", tmp_path / "b")
    assert status == 0
    assert results_of(tmp_path / "a") == results_of(tmp_path / "b")
    said = without_size_warning(error)
    assert said.count("\n") == 1
    assert "images from 'image'; labels from 'label'; splits from 'split'; sites from 'site'" in said
    assert "covariates 'age'" in said
    settings = json.loads((tmp_path / "b" / "results.json").read_text())["settings"]
    assert settings["table"]["image_root"] == str(images)
    trained = []
    for data in ([images], [table, "--image-root", images]):
        model = tmp_path / f"{len(trained)}.model"
        assert run("train", *data, *arguments[:6], "--encode", "avg", "-o", model)[0] == 0
        trained.append(run("predict", model, images / "test/lying/0.png", "--json")[1])
    assert trained[0] == trained[1]
    status, printed, _ = run("extract", table, "--image-root", images, *arguments[:6], *arguments[-2:])
    assert (status, "0 of them extracted now" in printed) == (0, True)


def test_each_site_is_left_out_and_reported(images, table, run, tmp_path, tiny_weights):
    arguments = [*NETWORK, "--weights", tiny_weights, "--encode", "avg", "--image-root", images]
    status, printed, error = run(
        "evaluate", table, *arguments, "--group-by", "site", "--out", tmp_path / "out"
    )
    assert status == 0
    warned = json.loads((tmp_path / "out" / "results.json").read_text())["warnings"]
    assert any("the split into train and test is not used" in one for one in warned)
    assert "sites from 'site'" in error
    assert "leaving out one of 2 sites at a time" in printed
    (result,) = results_of(tmp_path / "out")
    assert [one["fold"] for one in result["per_fold"]] == ["Basel", "Bern"]
    assert [line.split()[0] for line in printed.splitlines() if line.startswith("B")] == ["Basel", "Bern"]
    status, _, _ = run(
        "evaluate", table, *arguments, "--group-by", "site", "--out", tmp_path / "anonymous", "--anonymise"
    )
    assert status == 0
    for file in (tmp_path / "anonymous").rglob("*.*"):
        assert b"Basel" not in file.read_bytes(), file
        assert str(images).encode() not in file.read_bytes(), file


def test_an_audit_uses_patients_and_splits_of_the_table(images, run, tmp_path):
    rows = [
        (f"{part}/{name}/{i}.png", name, f"P{i}", part)
        for part, n in (("train", 6), ("test", 4))
        for name in ("lying", "upright")
        for i in range(n)
    ]
    with (tmp_path / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label", "patient", "split"), *rows])
    status, printed, _ = run("audit", tmp_path / "data.csv", "--image-root", images, "--json")
    assert status == 0
    found = json.loads(printed)
    assert found["n_patients"] == 6
    assert found["counts"] == {"train": {"lying": 6, "upright": 6}, "test": {"lying": 4, "upright": 4}}
    kinds = {one["kind"]: one for one in found["findings"]}
    assert kinds["patient_in_both_parts"]["n_patients"] == 4


MISTAKES = {
    "a column that is missing": (
        ["--label-column", "labelz"],
        ["'labelz'", "--label-column", "did you mean"],
    ),
    "a layout": (["--layout", "chest-xray"], ["--layout chest-xray", "table"]),
    "sites that are not there": (["--group-by", "site", "--site-column", "nosite"], ["'nosite'"]),
    "two names of labels": (["--label-column", "label", "--label-columns", "a,b"], ["together"]),
    "a root that is missing": (["--image-root", "gone"], ["gone", "does not exist"]),
}


@pytest.mark.parametrize(("options", "parts"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence_and_status_2(table, run, options, parts):
    status, printed, error = run("evaluate", table, *options)
    assert (status, printed) == (2, "")
    last = error.splitlines()[-1]
    for part in parts:
        assert part in last


def test_missing_images_are_told_in_one_line(table, run):
    status, _, error = run("audit", table)
    assert status == 2
    assert "20 of the 20 images" in error
    assert "lying: 10, upright: 10" in error
    assert "--image-root" in error


def test_options_of_tables_are_refused_for_folders(images, run):
    status, _, error = run("audit", images, "--label-column", "x")
    assert (status, "is no table" in error) == (2, True)


def test_extract_refuses_options_of_tables_for_folders(images, run, tmp_path):
    status, _, error = run("extract", images, "--image-root", images, "--store", tmp_path / "store")
    assert (status, "is no table" in error) == (2, True)


def test_sites_of_a_folder_are_not_known(images, run):
    status, _, error = run("evaluate", images, "--group-by", "site")
    assert status == 2
    assert "--group-by site needs the site of each image" in error
    assert "--site-column NAME" in error


# ------------------------------------------------------------------------------------------- manifest


def test_an_existing_table_is_replaced_only_if_asked_for(images, run, tmp_path):
    path = tmp_path / "t.csv"
    status, printed, error = run("manifest", images, "-o", path)
    assert (status, error) == (0, "")
    assert "wrote 20 rows with the columns image, label, split" in printed
    assert run("manifest", images, "-o", path)[0] == 2
    assert run("manifest", images, "-o", path, "--overwrite")[0] == 0
    assert run("manifest", images, "-o", tmp_path / "t.txt")[0] == 2


def test_what_a_table_of_dicom_leaves_out_is_said(run, tmp_path):
    pytest.importorskip("pydicom", reason="needs the extra medical")
    from support.medical_files import write_dicom

    for name in ("a", "b"):
        (tmp_path / "scans" / name).mkdir(parents=True)
        write_dicom(tmp_path / "scans" / name / "1.dcm", np.zeros((4, 4), np.uint8), PatientID=f"P{name}")
    _, _, error = run("manifest", tmp_path / "scans", "-o", tmp_path / "t.csv")
    assert "patients are digests" in error
    _, _, error = run("manifest", tmp_path / "scans", "-o", tmp_path / "u.csv", "--identifiers")
    assert "contains PatientID and InstitutionName" in error
    assert "Pa" in (tmp_path / "u.csv").read_text()


def test_folders_that_are_no_classes_leave_the_labels_empty(images, run, tmp_path):
    _, printed, error = run("manifest", images, "-o", tmp_path / "t.csv", "--no-labels")
    assert "wrote 20 rows" in printed
    assert "labels are empty" in error
    assert (tmp_path / "t.csv").read_text().splitlines()[1] == "test/lying/0.png,"


# ------------------------------------------------------------------------------------------ real data


@pytest.mark.data
@pytest.mark.slow
def test_chest_xrays_give_the_same_figures_from_a_table_as_from_folders(run, tmp_path):
    from conftest import VGG16_WEIGHTS

    xrays, root = real("chest_xray_224"), tmp_path / "xrays"
    for part in ("train", "test"):
        for name in ("NORMAL", "PNEUMONIA"):
            (root / part / name).mkdir(parents=True)
            for path in sorted((xrays / part / name).iterdir())[:50]:
                (root / part / name / path.name).symlink_to(path)
    assert run("manifest", root, "-o", tmp_path / "t.csv")[0] == 0
    arguments = ["--model", "vgg16", "--weights", VGG16_WEIGHTS, "--encode", "avg,vlad16", "--C", "cv"]
    arguments += ["--store", tmp_path / "store"]
    assert run("evaluate", root, *arguments, "--out", tmp_path / "a")[0] == 0
    assert (
        run("evaluate", tmp_path / "t.csv", "--image-root", root, *arguments, "--out", tmp_path / "b")[0] == 0
    )
    assert results_of(tmp_path / "a") == results_of(tmp_path / "b")
