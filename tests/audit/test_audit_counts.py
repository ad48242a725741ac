"""Findings by counting: unreadable files, patients, classes, sizes and blank images."""

import pytest
from PIL import Image
from support.planted import SIDE, audited, findings, kinds_of, picture, save, write_set

from medvlad.audit import audit
from medvlad.datasets.folders import load_image_folder


@pytest.fixture
def unreadable(rng, tmp_path):
    """A set of 12 images, one of which is truncated and one empty, and its audit."""
    root = write_set(tmp_path, rng, n=3)
    whole = (root / "train" / "a" / "traina1.bmp").read_bytes()
    (root / "train" / "a" / "traina1.bmp").write_bytes(whole[: len(whole) // 2])
    (root / "test" / "b" / "testb0.bmp").write_bytes(b"")
    return root, audited(root)


def test_unreadable_files_are_named(unreadable):
    root, found = unreadable
    one = findings(found)["unreadable"]
    assert (one["severity"], one["n_images"]) == ("warning", 2)
    assert one["examples"] == [
        str(root / "test" / "b" / "testb0.bmp"),
        str(root / "train" / "a" / "traina1.bmp"),
    ]


def test_unreadable_files_have_a_reason(unreadable):
    assert "truncated" in unreadable[1]["unreadable"]["listed"][0]["why"]


def test_unreadable_files_are_not_counted(unreadable):
    found = unreadable[1]
    assert (found["n_images"], found["n_read"]) == (12, 10)
    assert found["counts"] == {"train": {"a": 2, "b": 3}, "test": {"a": 3, "b": 2}}


@pytest.fixture
def patients(rng, tmp_path):
    """Patient 1 in both parts, patient 2 in one."""
    root = write_set(tmp_path, rng, n=2)
    for name in ("train/a/patient1_1", "train/a/patient1_2", "test/a/patient1_3", "train/b/patient2_1"):
        save(picture(rng), root / f"{name}.png")
    return root


def test_a_patient_in_both_parts_is_an_error(patients):
    one = findings(audited(patients))["patient_in_both_parts"]
    assert (one["severity"], one["n_patients"]) == ("error", 1)
    assert (one["n_train_images"], one["n_test_images"]) == (2, 1)
    assert one["examples"] == ["patient1"]


def test_patients_in_one_part_and_class_are_no_finding(patients):
    (patients / "test/a/patient1_3.png").unlink()
    assert not [kind for kind in kinds_of(patients) if kind.startswith("patient")]


def test_a_patient_of_several_classes_is_a_warning(rng, patients):
    (patients / "test/a/patient1_3.png").unlink()
    save(picture(rng), patients / "train/b/patient1_4.png")
    by_kind = findings(audited(patients))
    assert [kind for kind in by_kind if kind.startswith("patient")] == ["patient_several_labels"]
    one = by_kind["patient_several_labels"]
    assert (one["severity"], one["n_patients"], one["n_images"]) == ("warning", 1, 3)


@pytest.fixture
def unbalanced(rng, tmp_path):
    """Findings on 60 and 20 training images, 20 and 25 test images."""
    for part, name, n in (("train", "a", 60), ("train", "b", 20), ("test", "a", 20), ("test", "b", 25)):
        write_set(tmp_path, rng, n=n, parts=(part,), classes=(name,))
    by_kind = findings(audited(tmp_path))
    assert set(by_kind) == {"class_imbalance", "priors_differ"}
    return by_kind


def test_unbalanced_classes_are_found_in_their_part(unbalanced):
    one = unbalanced["class_imbalance"]
    assert (one["ratio"], one["severity"], one["part"]) == (3, "warning", "train")


def test_different_priors_of_the_parts_are_found(unbalanced):
    one = unbalanced["priors_differ"]
    assert one["distance"] == pytest.approx(0.75 - 20 / 45)
    assert "a 75% and 44%" in one["sentence"]


def test_a_class_without_test_images_is_found(rng, tmp_path):
    root = write_set(tmp_path, rng, n=12, classes=("a", "b", "c"))
    data = load_image_folder(root)
    data = data.take((data.splits == "train") | (data.labels < 2))
    by_kind = findings(audit(data, n_threads=2))
    assert by_kind["class_absent"]["examples"] == ["c"]
    assert by_kind["class_absent"]["part"] == "test"


@pytest.fixture
def sizes(rng, tmp_path):
    """Audit of a set with images of 50 x 60, 96 x 96 and, in class b, 200 x 260 pixels."""

    def larger(image, part, name, i):
        return image.resize((200, 260)) if name == "b" else image.resize((50, 60)) if i == 0 else image

    found = audited(write_set(tmp_path, rng, n=4, make=larger))
    assert set(findings(found)) == {"small_images", "sizes_vary", "sizes_by_class"}
    return found


def test_small_images_are_counted(sizes):
    assert findings(sizes)["small_images"]["n_images"] == 2


def test_sizes_that_vary_are_found(sizes):
    one = findings(sizes)["sizes_vary"]
    assert (one["width"], one["height"]) == ([50, 200], [60, 260])
    assert sizes["sizes"]["width"] == [50, 200]


def test_sizes_that_differ_between_classes_are_found(sizes):
    assert findings(sizes)["sizes_by_class"]["median_width_height"] == {"a": [96, 96], "b": [200, 260]}


def test_an_image_of_a_single_colour_is_found(rng, tmp_path):
    root = write_set(tmp_path, rng, n=4)
    save(Image.new("RGB", (SIDE, SIDE), (7, 7, 7)), root / "train" / "a" / "blank.png")
    by_kind = findings(audited(root))
    assert set(by_kind) == {"blank"}
    assert by_kind["blank"]["n_images"] == 1
