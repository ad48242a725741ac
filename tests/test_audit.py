"""Audits of data sets with planted defects: each must be found, and no other, and nothing in a clean set."""

import json
import logging
import random
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from folders import real, refusal
from PIL import Image, ImageDraw, ImageEnhance
from scipy.ndimage import gaussian_filter
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from medvlad.anonymise import Pseudonyms
from medvlad.audit import audit, audit_summary
from medvlad.audit import duplicates as audit_duplicates
from medvlad.audit import shortcuts as audit_shortcuts
from medvlad.audit.duplicates import near_pairs
from medvlad.audit.images import read_facts
from medvlad.audit.page import audit_page
from medvlad.datasets import ImageFolder, load_image_folder

SIDE = 96


def picture(rng, side=SIDE, sigma=3.0):
    """A smooth random texture in colour, unlike any other."""
    noise = gaussian_filter(rng.normal(size=(side, side, 3)), (sigma, sigma, 0))
    return Image.fromarray(np.clip(128 + 45 * noise / noise.std(), 20, 235).astype(np.uint8))


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def write_set(root, rng, n=20, classes=("a", "b"), parts=("train", "test"), make=None, ending="bmp"):
    """A set of `n` images a class and part; `make` may change a picture."""
    for part in parts:
        for name in classes:
            for i in range(n):
                image = picture(rng)
                image = image if make is None else make(image, part, name, i)
                save(image, root / part / name / f"{part}{name}{i}.{ending}")
    return root


def findings(found):
    kinds = [one["kind"] for one in found["findings"]]
    assert len(kinds) == len(set(kinds)), kinds
    return {one["kind"]: one for one in found["findings"]}


def audited(root, **options):
    return audit(load_image_folder(root, **options), n_threads=2)


def kinds_of(root, **options):
    return {one["kind"]: one["severity"] for one in audited(root, **options)["findings"]}


# --------------------------------------------------------------------------------------- clean sets


@pytest.mark.parametrize("parts", [("train", "test"), ("",)])
def test_a_clean_set(rng, tmp_path, parts):
    root = write_set(tmp_path, rng, parts=parts, classes=("a", "b", "c"))
    data = load_image_folder(root, group_pattern=r"(\w+)\.bmp")
    found = audit(data, n_threads=2)
    assert found["findings"] == []
    assert found["n_images"] == found["n_read"] == len(data) == found["n_patients"]
    assert found["root"] == str(tmp_path)
    text = audit_summary(found)
    assert len(text.splitlines()) == (2 if len(parts) == 2 else 3)  # what cannot be tried without parts
    for name in ("unreadable files", "identical images", "near duplicates", "shared patients", "shortcuts"):
        assert name in text.splitlines()[1]
    figures = found["shortcuts"]["cross-validation"]["border"]
    low, high = figures["balanced_accuracy_ci95"]
    assert low < figures["balanced_accuracy"] < high
    assert abs(figures["balanced_accuracy"] - 1 / 3) < 0.15
    assert ("train and test part" in found["shortcuts"]) == (len(parts) == 2)
    assert sorted(found["parts"]) == (["a", "b", "c"] if len(parts) == 2 else [])


def test_plain_types_and_the_same_twice(rng, tmp_path):
    root = write_set(tmp_path, rng, n=12)
    save(picture(rng), root / "train" / "a" / "x.png")
    (root / "train" / "b" / "x.png").write_bytes((root / "train" / "a" / "x.png").read_bytes())
    (root / "test" / "b" / "y.png").write_bytes(b"nothing")
    data = load_image_folder(root)
    found = audit(data, random_state=3, n_threads=2)
    assert json.loads(json.dumps(found)) == found
    assert audit(data, random_state=3, n_threads=1) == found
    assert audit(data, random_state=4, n_threads=2) != found  # other folds


def test_refusals(rng, tmp_path):
    root = write_set(tmp_path, rng, n=1)
    data = load_image_folder(root)
    refusal(lambda: audit(data, random_state=-1), "random_state", -1)
    refusal(lambda: audit(data, n_threads=0), "n_threads", 0)
    refusal(lambda: audit(data.take([])), "no image")
    for path in data.paths:
        path.write_bytes(b"")
    refusal(lambda: audit(data), "none of the 4 images", data.paths[0], "empty")


def test_unreadable_files(rng, tmp_path):
    root = write_set(tmp_path, rng, n=3)
    whole = (root / "train" / "a" / "traina1.bmp").read_bytes()
    (root / "train" / "a" / "traina1.bmp").write_bytes(whole[: len(whole) // 2])
    (root / "test" / "b" / "testb0.bmp").write_bytes(b"")
    found = audited(root)
    one = findings(found)["unreadable"]
    assert (one["severity"], one["n_images"]) == ("warning", 2)
    assert one["examples"] == [
        str(root / "test" / "b" / "testb0.bmp"),
        str(root / "train" / "a" / "traina1.bmp"),
    ]
    assert (found["n_images"], found["n_read"]) == (12, 10)
    assert found["counts"] == {"train": {"a": 2, "b": 3}, "test": {"a": 3, "b": 2}}
    assert "truncated" in found["unreadable"]["listed"][0]["why"]


# --------------------------------------------------------------------------------------- duplicates


def copied(rng, root, one, other, options=None, change=lambda image: image):
    """A picture at one path and its copy at another."""
    image = picture(rng)
    save(image, root / one)
    return save(change(image), root / other, **(options or {}))


@pytest.mark.parametrize(("ending", "kind"), [("png", "identical_files"), ("bmp", "identical_pixels")])
def test_identical_images(rng, tmp_path, ending, kind):
    root = write_set(tmp_path, rng, n=2)
    copied(rng, root, "train/a/c1.png", f"train/a/c2.{ending}")
    assert kinds_of(root) == {kind: "warning"}
    copied(rng, root, "train/b/d1.png", f"test/b/d2.{ending}")
    copied(rng, root, "test/a/e1.png", f"test/b/e2.{ending}")
    found = audited(root)
    by_kind = findings(found)
    assert set(by_kind) == {kind, f"{kind}_across_parts", f"{kind}_other_label"}
    assert (by_kind[kind]["n_sets"], by_kind[kind]["n_images"]) == (3, 6)
    across, other = by_kind[f"{kind}_across_parts"], by_kind[f"{kind}_other_label"]
    assert (across["severity"], across["n_sets"], across["n_test_images"]) == ("error", 1, 1)
    assert across["examples"] == [[str(root / "train/b/d1.png"), str(root / f"test/b/d2.{ending}")]]
    assert (other["severity"], other["n_sets"], other["n_images"]) == ("error", 1, 2)
    assert len(found["duplicates"][kind]["listed"]) == 3
    assert found["duplicates"]["near_duplicates"] == {"listed": [], "n_left_out": 0, "complete": True}


def test_pages_of_one_file_are_images_of_their_own(rng, tmp_path):
    root = write_set(tmp_path, rng, n=2, parts=("",))
    first, second = picture(rng), picture(rng)
    save(first, root / "a" / "pages.tif", save_all=True, append_images=[second, first])
    found = audited(root)
    assert found["n_read"] == 7
    assert found["duplicates"]["identical_files"]["listed"] == []
    pages = [str(root / "a" / f"pages.tif#{i}") for i in (0, 2)]
    assert found["duplicates"]["identical_pixels"]["listed"] == [pages]


CHANGES = {
    "saved again": ({"quality": 60}, lambda image: image),
    "half as large": ({"quality": 90}, lambda image: image.resize((SIDE // 2, SIDE // 2))),
    "brighter": ({"quality": 90}, lambda image: ImageEnhance.Brightness(image).enhance(1.2)),
    "cropped": ({"quality": 90}, lambda image: image.crop((2, 1, SIDE - 2, SIDE - 1))),
    "mirrored": ({"quality": 90}, lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_near_duplicates(rng, tmp_path, name):
    root = write_set(tmp_path, rng, n=4)
    options, change = CHANGES[name]
    copied(rng, root, "train/a/c1.png", "test/b/c2.jpg", options, change)
    found = audited(root)
    by_kind = findings(found)
    near = ("near_duplicates", "near_duplicates_across_parts", "near_duplicates_other_label")
    assert [by_kind.pop(kind)["severity"] for kind in near] == ["warning", "error", "error"]
    assert not [kind for kind in by_kind if kind.startswith("identical")]
    listed = found["duplicates"]["near_duplicates"]["listed"]
    assert [one["images"] for one in listed] == [[str(root / "train/a/c1.png"), str(root / "test/b/c2.jpg")]]
    assert [one["mirrored"] for one in listed] == [name == "mirrored"]
    assert 0.93 <= listed[0]["correlation"] <= 1
    assert "train/a/c1.png = test/b/c2.jpg" in audit_summary(found)


def test_near_duplicates_and_patients(rng, tmp_path):
    root = write_set(tmp_path, rng, n=2, parts=("",))
    copied(rng, root, "a/patient1_1.png", "a/patient1_2.jpg")
    assert kinds_of(root) == {"near_duplicates": "note"}  # of one patient, as is usual
    copied(rng, root, "a/patient2_1.png", "a/patient3_1.jpg")
    by_kind = findings(audited(root))
    assert by_kind["near_duplicates"]["severity"] == "warning"
    other = by_kind["near_duplicates_other_patient"]
    assert (other["severity"], other["n_pairs"], other["n_images"]) == ("warning", 1, 2)
    assert other["examples"] == [[str(root / "a/patient2_1.png"), str(root / "a/patient3_1.jpg")]]


def test_a_copy_of_identical_images_counts_for_all_of_them(rng, tmp_path):
    root = write_set(tmp_path, rng, n=2)
    copied(rng, root, "train/a/c1.png", "train/a/c2.png")
    save(Image.open(root / "train/a/c1.png"), root / "test/a/c3.jpg", quality=80)
    by_kind = findings(audited(root))
    assert set(by_kind) == {"identical_files", "near_duplicates", "near_duplicates_across_parts"}
    assert by_kind["near_duplicates"]["n_images"] == 3
    assert by_kind["near_duplicates_across_parts"]["n_test_images"] == 1


def thumbnails(rng, n, sigma=1.0):
    return gaussian_filter(rng.normal(128, 60, (n, 32, 32)), (0, sigma, sigma)).astype(np.float32)


def test_near_pairs_across_blocks(rng):
    thumbs = thumbnails(rng, 2200)
    planted = {(0, 1): False, (5, 2199): False, (1023, 1024): False, (1500, 2100): True, (7, 1030): True}
    for (i, j), mirrored in planted.items():
        thumbs[j] = 0.7 * (thumbs[i, :, ::-1] if mirrored else thumbs[i]) + 30
        thumbs[j] += rng.normal(0, 1, (32, 32))
    pairs, mirrored, correlation, complete = near_pairs(thumbs, n_threads=3)
    assert dict(zip(map(tuple, pairs.tolist()), mirrored.tolist(), strict=True)) == planted
    assert complete
    assert (correlation > 0.95).all()
    again = near_pairs(thumbs, n_threads=1)
    for one, other in zip((pairs, mirrored, correlation), again[:3], strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_hash_of_a_mirror_image(rng):
    thumbs = thumbnails(rng, 20)
    hashes = audit_duplicates._hashes(thumbs)
    mirrored = audit_duplicates._hashes(np.ascontiguousarray(thumbs[:, :, ::-1]))
    np.testing.assert_array_equal(hashes ^ audit_duplicates._mirror_mask(), mirrored)
    assert (hashes != mirrored).any(axis=1).all()
    np.testing.assert_array_equal(audit_duplicates._hashes(0.5 * thumbs + 40), hashes)


def test_a_symmetric_image_is_one_pair(rng):
    thumbs = thumbnails(rng, 3)
    thumbs[0] += thumbs[0, :, ::-1]
    thumbs[2] = thumbs[0]
    pairs, mirrored, _, _ = near_pairs(thumbs)
    assert pairs.tolist() == [[0, 2]]
    assert mirrored.tolist() == [False]


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_images_that_look_alike_are_no_copies(rng, share):
    """A common subject makes up that share of the variance of each picture."""
    thumbs = np.sqrt(share) * thumbnails(rng, 1) + np.sqrt(1 - share) * thumbnails(rng, 100)
    assert len(near_pairs(thumbs)[0]) == 0


def test_images_without_detail_are_no_copies(rng):
    ramp = np.linspace(0, 200, 32, dtype=np.float32)
    thumbs = np.stack([np.tile(ramp, (32, 1)), np.tile(ramp, (32, 1)) * 0.5, np.zeros((32, 32), np.float32)])
    assert len(near_pairs(thumbs)[0]) == 0


def test_too_many_candidates_are_said(rng, monkeypatch, caplog):
    thumbs = np.repeat(thumbnails(rng, 1), 12, axis=0) + rng.normal(0, 0.5, (12, 32, 32)).astype(np.float32)
    pairs, _, _, complete = near_pairs(thumbs)
    assert (len(pairs), complete) == (66, True)
    monkeypatch.setattr(audit_duplicates, "_PER_IMAGE", 2)
    with caplog.at_level(logging.WARNING):
        pairs, _, _, complete = near_pairs(thumbs)
    assert (len(pairs), complete) == (21, False)
    assert "not all near duplicates are listed" in caplog.text
    assert len(set(pairs.ravel().tolist())) == 12  # still connected
    monkeypatch.setattr(audit_duplicates, "_MAX_CANDIDATES", 5)
    pairs, _, _, complete = near_pairs(thumbs)
    assert (len(pairs), complete) == (5, False)


def test_long_lists_are_bounded(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(audit_duplicates, "MAX_LISTED", 2)
    root = write_set(tmp_path, rng, n=1, parts=("",))
    for i in range(12):
        copied(rng, root, f"a/c{i}.png", f"a/d{i}.png")
    found = audited(root)
    assert len(found["duplicates"]["identical_files"]["listed"]) == 2
    assert found["duplicates"]["identical_files"]["n_left_out"] == 10
    examples = findings(found)["identical_files"]["examples"]
    assert len(examples) == 10
    assert examples == sorted(examples)


# ----------------------------------------------------------------------------------------- patients


def test_shared_patients(rng, tmp_path):
    root = write_set(tmp_path, rng, n=2)
    for name in ("train/a/patient1_1", "train/a/patient1_2", "test/a/patient1_3", "train/b/patient2_1"):
        save(picture(rng), root / f"{name}.png")
    one = findings(audited(root))["patient_in_both_parts"]
    assert (one["severity"], one["n_patients"]) == ("error", 1)
    assert (one["n_train_images"], one["n_test_images"]) == (2, 1)
    assert one["examples"] == ["patient1"]
    (root / "test/a/patient1_3.png").unlink()
    assert not [kind for kind in kinds_of(root) if kind.startswith("patient")]
    save(picture(rng), root / "train/b/patient1_4.png")
    by_kind = findings(audited(root))
    assert [kind for kind in by_kind if kind.startswith("patient")] == ["patient_several_labels"]
    one = by_kind["patient_several_labels"]
    assert (one["severity"], one["n_patients"], one["n_images"]) == ("warning", 1, 3)


# ---------------------------------------------------------------------------------------- shortcuts


def shortcuts(found):
    return {kind[9:] for kind in findings(found) if kind.startswith("shortcut_")}


def test_a_border_tells_the_class(rng, tmp_path):
    def framed(image, part, name, i):
        if name == "a":
            ImageDraw.Draw(image).rectangle((0, 0, SIDE - 1, SIDE - 1), outline=(60, 90, 30), width=4)
        return image

    found = audited(write_set(tmp_path, rng, make=framed))
    assert shortcuts(found) == {"border", "corners"}  # a frame has corners
    by_kind = findings(found)
    one = by_kind["shortcut_border"]
    assert one["severity"] == "warning"
    assert one["balanced_accuracy"] > 0.95
    assert one["auc_ci95"][0] > 0.9
    assert one["chance"] == 0.5
    frame = by_kind["uniform_border"]
    assert (frame["severity"], frame["n_images"], frame["colour"]) == ("warning", 40, "one colour")
    assert frame["shares"] == {"a": 1.0, "b": 0.0}
    assert frame["median"] == pytest.approx(4 / SIDE)
    assert "goes with the class" in frame["sentence"]
    assert "parts_differ" not in by_kind


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
    """Labels say nothing, but who has seen a picture, or its patient's background, knows its label."""
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
    # The interval draws pictures or patients, of which there are a quarter: it is wide.
    low, high = figures["balanced_accuracy_ci95"]
    assert high - low > 0.2
    assert ("near_duplicates" in findings(found)) == (what == "copies")


def test_test_images_that_differ(rng, tmp_path):
    def darker(image, part, name, i):
        return ImageEnhance.Brightness(image).enhance(0.6) if (part, name) == ("test", "b") else image

    found = audited(write_set(tmp_path, rng, make=darker))
    one = findings(found)["parts_differ"]
    assert (one["class_name"], one["severity"]) == ("b", "warning")
    assert {"border", "corners", "whole"} <= set(one["told_by"])
    assert "file" not in one["told_by"]
    assert "'b'" in one["sentence"]


def test_figures_are_those_of_scikit_learn(rng):
    labels = rng.integers(0, 3, 200)
    decision = np.round(rng.normal(size=(200, 3)) + np.eye(3)[labels], 1)  # with ties
    found = audit_shortcuts._figures(labels, decision, np.arange(200), 0)
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


# --------------------------------------------------------------------------------- borders and boxes


def facts_of(image, tmp_path, **options):
    [facts] = read_facts([save(image, tmp_path / "x.jpg", quality=90, **options)], n_threads=1)
    return facts


PLACES = {
    "top left": (0, 0, 24, 16),
    "top right": (72, 0, 95, 16),
    "bottom left": (0, 60, 40, 95),
    "bottom right": (80, 70, 95, 95),
    "top": (30, 0, 60, 12),
    "left": (0, 30, 20, 70),
}


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (20, 120, 60)])
@pytest.mark.parametrize("place", PLACES)
def test_boxes(rng, tmp_path, place, colour):
    image = picture(rng).resize((5 * SIDE, 4 * SIDE))
    x0, y0, x1, y1 = PLACES[place]
    ImageDraw.Draw(image).rectangle((5 * x0, 4 * y0, 5 * x1 + 4, 4 * y1 + 3), fill=colour)
    [box] = facts_of(image, tmp_path).boxes
    assert box.place == place
    assert box.colour == {0: "black", 255: "white", 20: "one colour"}[colour[0]]
    assert box.share == pytest.approx((x1 + 1 - x0) * (y1 + 1 - y0) / SIDE**2, rel=0.2)


@pytest.mark.parametrize("shape", ["nothing", "round view", "bars", "inside", "blank", "half"])
def test_what_is_no_box(rng, tmp_path, shape):
    image = picture(rng, 400)
    draw = ImageDraw.Draw(image)
    if shape == "round view":
        for x in (0, 399):
            for y in (0, 399):
                draw.polygon([(x, y), (abs(x - 130), y), (x, abs(y - 130))], fill=0)
    elif shape == "bars":
        draw.rectangle((0, 0, 399, 40), fill=0)
        draw.rectangle((0, 350, 399, 399), fill=0)
    elif shape == "inside":
        draw.rectangle((150, 150, 250, 250), fill=0)
    elif shape == "blank":
        draw.rectangle((0, 0, 399, 399), fill=0)
    elif shape == "half":
        draw.rectangle((0, 0, 200, 399), fill=0)
    assert facts_of(image, tmp_path).boxes == ()


def test_borders(rng, tmp_path):
    facts = facts_of(picture(rng, 400), tmp_path)
    assert max(facts.border) < 0.01
    image = picture(rng, 400)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 399, 39), fill=(250, 250, 250))
    draw.rectangle((380, 0, 399, 399), fill=(250, 250, 250))
    facts = facts_of(image, tmp_path)
    np.testing.assert_allclose(facts.border, [0.1, 0, 0, 0.05], atol=0.01)
    assert facts.border_colour == "white"


def test_boxes_of_a_set(rng, tmp_path):
    def painted(image, part, name, i):
        if i % 2 or name == "b":
            ImageDraw.Draw(image).rectangle((0, 70, 30, 95), fill=0)
        return image

    found = audited(write_set(tmp_path, rng, make=painted))
    one = findings(found)["uniform_box"]
    assert (one["place"], one["colour"], one["n_images"]) == ("bottom left", "black", 60)
    assert one["shares"] == {"a": 0.5, "b": 1.0}
    assert one["severity"] == "warning"

    def evenly(image, part, name, i):
        return painted(image, part, "a", i)

    found = audited(write_set(tmp_path / "even", rng, make=evenly))
    one = findings(found)["uniform_box"]
    assert (one["severity"], one["shares"]) == ("note", {"a": 0.5, "b": 0.5})
    assert "goes with the class" not in one["sentence"]
    assert not shortcuts(found)


# ---------------------------------------------------------------------------------- classes and sizes


def test_classes_and_priors(rng, tmp_path):
    for part, name, n in (("train", "a", 60), ("train", "b", 20), ("test", "a", 20), ("test", "b", 25)):
        write_set(tmp_path, rng, n=n, parts=(part,), classes=(name,))
    found = audited(tmp_path)
    by_kind = findings(found)
    assert set(by_kind) == {"class_imbalance", "priors_differ"}
    assert (by_kind["class_imbalance"]["ratio"], by_kind["class_imbalance"]["severity"]) == (3, "warning")
    assert by_kind["class_imbalance"]["part"] == "train"
    assert by_kind["priors_differ"]["distance"] == pytest.approx(0.75 - 20 / 45)
    assert "a 75% and 44%" in by_kind["priors_differ"]["sentence"]


def test_a_class_that_is_not_tested(rng, tmp_path):
    root = write_set(tmp_path, rng, n=12, classes=("a", "b", "c"))
    data = load_image_folder(root)
    data = data.take((data.splits == "train") | (data.labels < 2))
    by_kind = findings(audit(data, n_threads=2))
    assert by_kind["class_absent"]["examples"] == ["c"]
    assert by_kind["class_absent"]["part"] == "test"


def test_sizes(rng, tmp_path):
    def larger(image, part, name, i):
        return image.resize((200, 260)) if name == "b" else image.resize((50, 60)) if i == 0 else image

    found = audited(write_set(tmp_path, rng, n=4, make=larger))
    by_kind = findings(found)
    assert set(by_kind) == {"small_images", "sizes_vary", "sizes_by_class"}
    assert by_kind["small_images"]["n_images"] == 2
    assert (by_kind["sizes_vary"]["width"], by_kind["sizes_vary"]["height"]) == ([50, 200], [60, 260])
    assert by_kind["sizes_by_class"]["median_width_height"] == {"a": [96, 96], "b": [200, 260]}
    assert found["sizes"]["width"] == [50, 200]


def test_blank_images(rng, tmp_path):
    root = write_set(tmp_path, rng, n=4)
    save(Image.new("RGB", (SIDE, SIDE), (7, 7, 7)), root / "train" / "a" / "blank.png")
    by_kind = findings(audited(root))
    assert set(by_kind) == {"blank"}
    assert by_kind["blank"]["n_images"] == 1


def test_summary_puts_errors_first(rng, tmp_path):
    root = write_set(tmp_path, rng, n=4)
    copied(rng, root, "train/a/c1.png", "train/a/c2.png")
    copied(rng, root, "train/b/d1.png", "test/b/d2.png")
    save(picture(rng, 400), root / "test" / "a" / "large.png")
    text = audit_summary(audited(root)).splitlines()
    starts = [line.split(":")[0] for line in text[1:5]]
    assert starts == ["error", "warning", "note", "nothing found"]
    assert text[1].endswith("train/b/d1.png = test/b/d2.png")
    assert "1 test image is in the training part as well" in text[1]
    assert all(line.count(" = ") <= 2 for line in text)


# ---------------------------------------------------------------------------------------- real sets


@pytest.mark.data
def test_rooms_are_clean():
    found = audit(load_image_folder(real("rooms_dev")))
    assert {one["severity"] for one in found["findings"]} == {"note"}
    assert set(findings(found)) == {
        "uniform_border",
        "sizes_vary",
    }  # four white bars, and photographs of all sizes


@pytest.mark.data
def test_hyperkvasir():
    data = load_image_folder(real("hyperkvasir_dev"))
    whole = [data.class_names.index(name) for name in ("bbps-2-3", "impacted-stool")]
    some = np.isin(data.labels, whole) | (np.arange(len(data)) % 3 == 0)
    found = audit(data.take(some))
    boxes = [one for one in found["findings"] if one["kind"] == "uniform_box"]
    [box] = [one for one in boxes if one["place"] == "bottom left"]
    assert (box["colour"], box["severity"]) == ("black", "warning")
    assert box["shares"]["impacted-stool"] > 0.9
    assert box["shares"]["polyp"] < 0.7
    by_kind = {one["kind"]: one for one in found["findings"]}
    assert by_kind["near_duplicates_other_label"]["n_pairs"] == 4  # frames of one video, graded differently
    assert {"shortcut_border", "shortcut_corners", "shortcut_file"} <= set(by_kind)
    assert not [kind for kind in by_kind if kind.startswith("identical")]


@pytest.mark.data
def test_chest_xrays():
    data = load_image_folder(real("chest_xray_224"))
    found = audit(data.take((data.splits == "test") | (np.arange(len(data)) % 10 == 0)))
    kinds = [one["kind"] for one in found["findings"]]
    assert not [one for one in found["findings"] if one["severity"] == "error"]
    assert {"priors_differ", "class_imbalance", "shortcut_border", "shortcut_bytes"} <= set(kinds)
    assert "shortcut_file" not in kinds  # all are JPEG of 224 x 224
    [twice] = [one for one in found["findings"] if one["kind"] == "identical_files_other_patient"]
    assert [name.rpartition("/")[2] for name in twice["examples"][0]] == [
        "NORMAL2-IM-0095-0001.jpeg",
        "NORMAL2-IM-0096-0001.jpeg",
    ]
    assert [one["class_name"] for one in found["findings"] if one["kind"] == "parts_differ"] == ["NORMAL"]


@pytest.fixture
def doubled(rng, tmp_path):
    """Six patients in each folder, sets of copies, and pairs of images that are nearly the same."""
    root = write_set(tmp_path / "set", rng, n=12, ending="png")
    for i in range(6):
        one = picture(rng)
        save(one, root / "train" / "a" / f"twin{i}.png")
        save(one, root / "train" / "b" / f"twin{i}.bmp")
        shutil.copy(root / "test" / "a" / f"testa{i}.png", root / "test" / "a" / f"copy{i}.png")
        two = picture(rng)
        save(two, root / "test" / "b" / f"near{i}.png")
        save(two, root / "test" / "b" / f"near{i}.jpg", quality=50)
    data = load_image_folder(root)
    numbers = [int(re.sub("[a-z]", "", path.stem)) % 6 for path in data.paths]
    groups = [f"{path.parent.name}{number}" for path, number in zip(data.paths, numbers, strict=True)]
    return replace(data, groups=np.array(groups))


def test_an_audit_does_not_hang_on_the_key_of_pseudonyms(doubled):
    plain, *others = (audit(doubled, names=names) for names in (None, Pseudonyms(), Pseudonyms()))
    for found in others:
        for part in ("shortcuts", "parts", "counts", "sizes", "n_patients"):
            assert found[part] == plain[part]
        assert [one["sentence"] for one in found["findings"]] == [
            one["sentence"] for one in plain["findings"]
        ]


def test_pseudonyms_do_not_tell_the_order_of_files(doubled):
    found = audit(doubled, names=Pseudonyms())
    listed = found["duplicates"]
    sets = [listed[kind]["listed"] for kind in ("identical_files", "identical_pixels")]
    sets.append([one["images"] for one in listed["near_duplicates"]["listed"]])
    for names in sets:
        assert len(names) == 6
        assert names == sorted(sorted(one) for one in names)
    pairs = [one["examples"] for one in found["findings"] if "identical" in one["kind"]]
    assert len(pairs) >= 3
    for examples in pairs:
        assert examples == sorted(sorted(pair) for pair in examples)


def test_pictures_of_an_anonymised_audit(doubled):
    names = Pseudonyms()
    found = audit(doubled, names=names)
    shown = audit_page(found, names=names).html()
    assert shown.count("<img") == audit_page(audit(doubled)).html().count("<img") > 3
    assert "twin" not in shown
    assert audit_page(found, names=names, pictures=False).html().count("<img") == 0


def test_what_was_not_tried_is_not_said_to_be_clear(rng, tmp_path):
    said = audit_summary(audited(write_set(tmp_path / "few", rng, n=3, parts=("all",)) / "all"))
    assert "nothing found: unreadable files, identical images, near duplicates, borders and boxes" in said
    assert "shared patients: not tried: no patients are known" in said
    assert "parts that differ: not tried: there is no train and test part" in said
    assert "shortcuts, cross-validation: not tried" in said
    whole = audit_summary(audited(write_set(tmp_path / "whole", rng, n=12)))
    assert "shortcuts, parts that differ" in whole.partition("nothing found: ")[2].partition("\n")[0]


def test_a_data_set_without_a_common_folder(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [
        save(picture(rng), tmp_path / "a.png"),
        save(picture(rng), tmp_path / "b.png").relative_to(tmp_path),
    ]
    found = audit(ImageFolder(paths, np.array([0, 1]), ["a", "b"]))
    assert found["root"] == ""
    assert found["findings"] == []
    assert found["counts"] == {"all": {"a": 1, "b": 1}}


def test_copies_on_both_sides_are_no_shortcut(tmp_path, rng):
    """They are told as copies; without them nothing tells the classes."""
    write_set(tmp_path, rng, n=40, parts=("train",))
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    found = audit(load_image_folder(tmp_path))
    kinds = {one["kind"] for one in found["findings"]}
    assert any(kind.startswith("identical") for kind in kinds)
    assert not any(kind.startswith("shortcut") for kind in kinds)
