"""The call of an audit: a clean set, plain types, the same result twice, and what is refused."""

import json

import numpy as np
import pytest
from support.folders import refusal
from support.planted import picture, save, write_set

from medvlad.audit import audit, audit_summary
from medvlad.datasets.folders import ImageFolder, load_image_folder

BOTH_PARTS = ("train", "test")


@pytest.fixture(scope="module", params=[BOTH_PARTS, ("",)], ids=["parts", "no parts"])
def clean(request, tmp_path_factory):
    """A set without defects in the given parts, and its audit."""
    root = write_set(
        tmp_path_factory.mktemp("clean"),
        np.random.default_rng(0),
        parts=request.param,
        classes=("a", "b", "c"),
    )
    data = load_image_folder(root, group_pattern=r"(\w+)\.bmp")
    return root, data, request.param, audit(data, n_threads=2)


def test_a_clean_set_has_no_findings(clean):
    assert clean[3]["findings"] == []


def test_all_images_of_a_clean_set_are_counted(clean):
    root, data, _, found = clean
    assert found["n_images"] == found["n_read"] == len(data) == found["n_patients"]
    assert found["root"] == str(root)


def test_a_clean_set_has_no_shortcut(clean):
    border = clean[3]["shortcuts"]["cross-validation"]["border"]
    low, high = border["balanced_accuracy_ci95"]
    assert low < border["balanced_accuracy"] < high
    assert abs(border["balanced_accuracy"] - 1 / 3) < 0.15


def test_parts_are_compared_only_if_there_are_two(clean):
    _, _, parts, found = clean
    assert ("train and test part" in found["shortcuts"]) == (parts == BOTH_PARTS)
    assert sorted(found["parts"]) == (["a", "b", "c"] if parts == BOTH_PARTS else [])


def test_the_summary_of_a_clean_set_names_all_checks(clean):
    _, _, parts, found = clean
    lines = audit_summary(found).splitlines()
    assert len(lines) == (2 if parts == BOTH_PARTS else 3)  # what cannot be tried without parts
    for name in ("unreadable files", "identical images", "near duplicates", "shared patients", "shortcuts"):
        assert name in lines[1]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """A set with two copies and an unreadable file, and its audit with random_state=3."""
    rng = np.random.default_rng(0)
    root = write_set(tmp_path_factory.mktemp("faulty"), rng, n=12)
    save(picture(rng), root / "train" / "a" / "x.png")
    (root / "train" / "b" / "x.png").write_bytes((root / "train" / "a" / "x.png").read_bytes())
    (root / "test" / "b" / "y.png").write_bytes(b"nothing")
    data = load_image_folder(root)
    return data, audit(data, random_state=3, n_threads=2)


def test_the_result_has_plain_types_only(faulty):
    found = faulty[1]
    assert json.loads(json.dumps(found)) == found


def test_the_number_of_threads_changes_nothing(faulty):
    data, found = faulty
    assert audit(data, random_state=3, n_threads=1) == found


def test_another_random_state_makes_other_folds(faulty):
    data, found = faulty
    assert audit(data, random_state=4, n_threads=2) != found


@pytest.fixture
def few(rng, tmp_path):
    return load_image_folder(write_set(tmp_path, rng, n=1))


def test_a_negative_random_state_is_refused(few):
    refusal(lambda: audit(few, random_state=-1), "random_state", -1)


def test_no_thread_is_refused(few):
    refusal(lambda: audit(few, n_threads=0), "n_threads", 0)


def test_a_set_without_images_is_refused(few):
    refusal(lambda: audit(few.take([])), "no image")


def test_a_set_without_a_readable_image_is_refused(few):
    for path in few.paths:
        path.write_bytes(b"")
    refusal(lambda: audit(few), "none of the 4 images", few.paths[0], "empty")


@pytest.fixture
def mixed_paths(rng, tmp_path, monkeypatch):
    """Audit of an absolute and a relative path, which have no common folder."""
    monkeypatch.chdir(tmp_path)
    paths = [
        save(picture(rng), tmp_path / "a.png"),
        save(picture(rng), tmp_path / "b.png").relative_to(tmp_path),
    ]
    return audit(ImageFolder(paths, np.array([0, 1]), ["a", "b"]))


def test_a_set_without_a_common_folder_has_no_root(mixed_paths):
    assert mixed_paths["root"] == ""


def test_a_set_without_a_common_folder_is_audited(mixed_paths):
    assert mixed_paths["findings"] == []
    assert mixed_paths["counts"] == {"all": {"a": 1, "b": 1}}
