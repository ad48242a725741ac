"""Audits of data sets with planted defects: each must be found, and no other, and nothing in a clean set."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.folders import real, refusal
from support.planted import SIDE, audited, copied, findings, kinds_of, picture, save, write_set

from medvlad.audit import audit, audit_summary
from medvlad.datasets.folders import ImageFolder, load_image_folder
from medvlad.datasets.pseudonyms import Pseudonyms
from medvlad.report.audit import audit_page


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
