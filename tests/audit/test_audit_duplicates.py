"""Planted copies: identical files, identical pixels, and images that are nearly the same."""

import pytest
from PIL import Image, ImageEnhance
from support.planted import SIDE, audited, copied, findings, kinds_of, picture, save, write_set

from medvlad.audit import audit_summary
from medvlad.audit import duplicates as audit_duplicates

KINDS = [("png", "identical_files"), ("bmp", "identical_pixels")]


@pytest.fixture(params=KINDS, ids=[kind for _, kind in KINDS])
def copies(request, rng, tmp_path):
    """Folder, ending and kind of a set with copies in one part, in both parts, and of two classes."""
    ending, kind = request.param
    root = write_set(tmp_path, rng, n=2)
    copied(rng, root, "train/a/c1.png", f"train/a/c2.{ending}")
    copied(rng, root, "train/b/d1.png", f"test/b/d2.{ending}")
    copied(rng, root, "test/a/e1.png", f"test/b/e2.{ending}")
    return root, ending, kind


@pytest.mark.parametrize(("ending", "kind"), KINDS)
def test_copies_in_one_part_and_class_are_a_warning(rng, tmp_path, ending, kind):
    root = write_set(tmp_path, rng, n=2)
    copied(rng, root, "train/a/c1.png", f"train/a/c2.{ending}")
    assert kinds_of(root) == {kind: "warning"}


def test_all_sets_of_copies_are_listed(copies):
    root, _, kind = copies
    found = audited(root)
    by_kind = findings(found)
    assert set(by_kind) == {kind, f"{kind}_across_parts", f"{kind}_other_label"}
    assert (by_kind[kind]["n_sets"], by_kind[kind]["n_images"]) == (3, 6)
    assert len(found["duplicates"][kind]["listed"]) == 3


def test_copies_across_parts_are_an_error(copies):
    root, ending, kind = copies
    across = findings(audited(root))[f"{kind}_across_parts"]
    assert (across["severity"], across["n_sets"], across["n_test_images"]) == ("error", 1, 1)
    assert across["examples"] == [[str(root / "train/b/d1.png"), str(root / f"test/b/d2.{ending}")]]


def test_copies_with_two_labels_are_an_error(copies):
    root, _, kind = copies
    other = findings(audited(root))[f"{kind}_other_label"]
    assert (other["severity"], other["n_sets"], other["n_images"]) == ("error", 1, 2)


def test_identical_images_are_no_near_duplicates(copies):
    listed = audited(copies[0])["duplicates"]["near_duplicates"]
    assert listed == {"listed": [], "n_left_out": 0, "complete": True}


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


@pytest.fixture(params=CHANGES)
def near(request, rng, tmp_path):
    """Folder, change and audit of a set with a changed copy in another part and class."""
    root = write_set(tmp_path, rng, n=4)
    options, change = CHANGES[request.param]
    copied(rng, root, "train/a/c1.png", "test/b/c2.jpg", options, change)
    return root, request.param, audited(root)


def test_near_duplicates_are_found(near):
    by_kind = findings(near[2])
    kinds = ("near_duplicates", "near_duplicates_across_parts", "near_duplicates_other_label")
    assert [by_kind.pop(kind)["severity"] for kind in kinds] == ["warning", "error", "error"]
    assert not [kind for kind in by_kind if kind.startswith("identical")]


def test_near_duplicates_are_listed(near):
    root, name, found = near
    listed = found["duplicates"]["near_duplicates"]["listed"]
    assert [one["images"] for one in listed] == [[str(root / "train/a/c1.png"), str(root / "test/b/c2.jpg")]]
    assert [one["mirrored"] for one in listed] == [name == "mirrored"]
    assert 0.93 <= listed[0]["correlation"] <= 1


def test_near_duplicates_are_in_the_summary(near):
    assert "train/a/c1.png = test/b/c2.jpg" in audit_summary(near[2])


def test_near_duplicates_of_one_patient_are_a_note(rng, tmp_path):
    root = write_set(tmp_path, rng, n=2, parts=("",))
    copied(rng, root, "a/patient1_1.png", "a/patient1_2.jpg")
    assert kinds_of(root) == {"near_duplicates": "note", "unknown_patients": "warning"}


def test_near_duplicates_of_two_patients_are_a_warning(rng, tmp_path):
    root = write_set(tmp_path, rng, n=2, parts=("",))
    copied(rng, root, "a/patient1_1.png", "a/patient1_2.jpg")
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
