"""Planted copies: identical files and pixels, and images that are nearly the same."""

import logging

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter
from support.planted import SIDE, audited, copied, findings, kinds_of, picture, save, write_set

from medvlad.audit import audit_summary
from medvlad.audit import duplicates as audit_duplicates
from medvlad.audit import near_pairs as audit_near_pairs
from medvlad.audit.near_pairs import near_pairs


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
    hashes = audit_near_pairs._hashes(thumbs)
    mirrored = audit_near_pairs._hashes(np.ascontiguousarray(thumbs[:, :, ::-1]))
    np.testing.assert_array_equal(hashes ^ audit_near_pairs._mirror_mask(), mirrored)
    assert (hashes != mirrored).any(axis=1).all()
    np.testing.assert_array_equal(audit_near_pairs._hashes(0.5 * thumbs + 40), hashes)


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
    monkeypatch.setattr(audit_near_pairs, "_PER_IMAGE", 2)
    with caplog.at_level(logging.WARNING):
        pairs, _, _, complete = near_pairs(thumbs)
    assert (len(pairs), complete) == (21, False)
    assert "not all near duplicates are listed" in caplog.text
    assert len(set(pairs.ravel().tolist())) == 12  # still connected
    monkeypatch.setattr(audit_near_pairs, "_MAX_CANDIDATES", 5)
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
