"""Planted shortcuts: something beside the subject that tells the class."""

import random
import shutil

import numpy as np
import pytest
from PIL import ImageDraw, ImageEnhance
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from support.planted import SIDE, audited, findings, picture, save, shortcuts, write_set

from medvlad.audit import audit_summary
from medvlad.audit import shortcuts as audit_shortcuts


@pytest.fixture(scope="module")
def framed(tmp_path_factory):
    """Audit of a set in which the images of class a have a frame of 4 pixels."""

    def make(image, part, name, i):
        if name == "a":
            ImageDraw.Draw(image).rectangle((0, 0, SIDE - 1, SIDE - 1), outline=(60, 90, 30), width=4)
        return image

    rng = np.random.default_rng(20261122)
    return audited(write_set(tmp_path_factory.mktemp("framed"), rng, make=make))


def test_a_frame_is_a_shortcut_by_border_and_corners(framed):
    assert shortcuts(framed) == {"border", "corners"}


def test_a_border_tells_the_class(framed):
    one = findings(framed)["shortcut_border"]
    assert one["severity"] == "warning"
    assert one["balanced_accuracy"] > 0.95
    assert one["auc_ci95"][0] > 0.9
    assert one["chance"] == 0.5


def test_a_border_that_goes_with_the_class_is_a_warning(framed):
    by_kind = findings(framed)
    frame = by_kind["uniform_border"]
    assert (frame["severity"], frame["n_images"], frame["colour"]) == ("warning", 40, "one colour")
    assert frame["shares"] == {"a": 1.0, "b": 0.0}
    assert frame["median"] == pytest.approx(4 / SIDE)
    assert "goes with the class" in frame["sentence"]


def test_a_border_in_both_parts_is_no_difference_of_the_parts(framed):
    assert "parts_differ" not in findings(framed)


def test_letters_in_a_corner_tell_the_class(rng, tmp_path):
    def lettered(image, part, name, i):
        if name == "b":
            ImageDraw.Draw(image).text((SIDE - 13, 3), "R", fill=(255, 255, 255))
        return image

    assert shortcuts(audited(write_set(tmp_path, rng, make=lettered))) == {"corners"}


def test_the_subject_is_no_shortcut(rng, tmp_path):
    def lesion(image, part, name, i):
        if name == "b":
            ImageDraw.Draw(image).ellipse((36, 36, 60, 60), fill=(230, 230, 230))
        return image

    found = audited(write_set(tmp_path, rng, make=lesion))
    assert found["findings"] == []
    assert found["shortcuts"]["train and test part"]["whole"]["balanced_accuracy"] > 0.9


@pytest.mark.parametrize("leak", ["format", "size", "quality", "grey"])
def test_facts_about_files_tell_the_class(rng, tmp_path, leak):
    grey = leak == "grey"
    for part in ("train", "test"):
        for name in "ab":
            for i in range(20):
                image, ending, options = picture(rng), "jpg", {"quality": 90}
                if name == "b" and leak == "format":
                    ending, options = "bmp", {}
                if name == "b" and leak == "size":
                    image = image.resize((SIDE + 4, SIDE))
                if name == "b" and leak == "quality":
                    options = {"quality": 85}
                image = image.convert("L") if grey and name == "b" else image
                save(image, tmp_path / part / name / f"{part}{name}{i}.{ending}", **options)
    found = audited(tmp_path)
    assert "file" in shortcuts(found)
    assert not shortcuts(found) & {"border", "corners"}
    assert findings(found)["shortcut_file"]["balanced_accuracy"] == 1


def test_the_number_of_bytes_tells_the_class(rng, tmp_path):
    def sharp(image, part, name, i):
        return picture(rng, sigma=1.0) if name == "b" else image

    found = audited(write_set(tmp_path, rng, make=sharp, ending="png"))
    assert shortcuts(found) >= {"bytes"}
    assert findings(found)["shortcut_bytes"]["severity"] == "note"


@pytest.mark.parametrize("what", ["copies", "patients"])
def test_copies_and_patients_stay_on_one_side(rng, tmp_path, what):
    """A classifier that has seen a copy, or the background of the same patient, would know the label."""
    draw = random.Random(0)
    for k in range(30):
        name, base = "ab"[k % 2], picture(rng)
        for i in range(4):
            if what == "patients":  # the subject in the middle is new each time: no copies
                image = base.copy()
                image.paste(picture(rng, 64), (16, 16))
            else:
                image = base.resize((SIDE + draw.randrange(8),) * 2)
            save(image, tmp_path / name / f"patient{k if what == 'patients' else f'{k}{i}'}-{i}.png")
    found = audited(tmp_path)
    assert not shortcuts(found)
    figures = found["shortcuts"]["cross-validation"]["border"]
    assert figures["balanced_accuracy"] < 0.75
    # The interval is wide, because it draws pictures or patients, and each has four images.
    low, high = figures["balanced_accuracy_ci95"]
    assert high - low > 0.2
    assert ("near_duplicates" in findings(found)) == (what == "copies")


def test_test_images_that_differ_from_training_images_are_found(rng, tmp_path):
    def darker(image, part, name, i):
        return ImageEnhance.Brightness(image).enhance(0.6) if (part, name) == ("test", "b") else image

    found = audited(write_set(tmp_path, rng, make=darker))
    one = findings(found)["parts_differ"]
    assert (one["class_name"], one["severity"]) == ("b", "warning")
    assert {"border", "corners", "whole"} <= set(one["told_by"])
    assert "file" not in one["told_by"]
    assert "'b'" in one["sentence"]


def test_scores_are_those_of_scikit_learn(rng):
    labels = rng.integers(0, 3, 200)
    decision = np.round(rng.normal(size=(200, 3)) + np.eye(3)[labels], 1)  # with ties
    found = audit_shortcuts._figures(labels, decision, np.arange(200))
    aucs = [roc_auc_score(labels == k, decision[:, k]) for k in range(3)]
    assert found["auc"] == pytest.approx(np.mean(aucs))
    assert found["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(labels, decision.argmax(axis=1))
    )
    for name in ("auc", "balanced_accuracy"):
        assert found[f"{name}_ci95"][0] < found[name] < found[f"{name}_ci95"][1]


def test_few_images_are_not_tried(rng, tmp_path):
    found = audited(write_set(tmp_path, rng, n=3))
    assert found["findings"] == []
    assert found["shortcuts"]["cross-validation"].startswith("not tried: the smallest class has 3")
    assert "shortcuts, cross-validation: not tried" in audit_summary(found)


def test_copies_in_both_parts_are_no_shortcut(tmp_path, rng):
    """They are found as copies. Without them nothing tells the classes."""
    write_set(tmp_path, rng, n=40, parts=("train",))
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    kinds = {one["kind"] for one in audited(tmp_path)["findings"]}
    assert any(kind.startswith("identical") for kind in kinds)
    assert not any(kind.startswith("shortcut") for kind in kinds)


def test_a_border_that_predicts_the_class_at_about_0_8_is_a_warning(rng, tmp_path):
    """The severity is that of the balanced accuracy, not of the lower end of its interval."""

    def make(image, part, name, i):
        if (name == "a") == (i % 5 > 0):
            ImageDraw.Draw(image).rectangle((0, 0, SIDE - 1, SIDE - 1), outline=(60, 90, 30), width=4)
        return image

    one = findings(audited(write_set(tmp_path, rng, n=40, make=make)))["shortcut_border"]
    assert 0.75 < one["balanced_accuracy"] < 0.88
    assert one["balanced_accuracy_ci95"][0] < 0.75
    assert one["severity"] == "warning"
