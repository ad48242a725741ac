"""Folders as data sets: which images are listed, their order, their patients, and what is refused."""

import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.folders import refusal, relative, touch

from medvlad import InputError
from medvlad.datasets.folders import ImageFolder, load_image_folder
from medvlad.datasets.published import LAYOUTS, load_mit_indoor
from medvlad.images.read import load_image

# --------------------------------------------------------------------------------------- layouts


def test_images_are_listed_by_class_and_path(tmp_path):
    touch(tmp_path, "b/2.png", "b/10.png", "a/z.JPG", "a/deep/er/1.tif", "a/b.jpeg")
    data = load_image_folder(tmp_path)
    assert relative(data, tmp_path) == ["a/b.jpeg", "a/deep/er/1.tif", "a/z.JPG", "b/10.png", "b/2.png"]
    assert data.labels.dtype == np.int64
    np.testing.assert_array_equal(data.labels, [0, 0, 0, 1, 1])
    assert data.class_names == ["a", "b"]
    assert data.groups is None
    assert data.splits is None
    assert len(data) == 5


def test_the_root_stays_as_given(tmp_path, monkeypatch):
    touch(tmp_path, "set/a/1.png", "set/b/1.png")
    monkeypatch.chdir(tmp_path)
    assert load_image_folder("set").paths == [Path("set/a/1.png"), Path("set/b/1.png")]


@pytest.mark.parametrize(
    "names", [("train", "test", "val"), ("Train", "TEST", "Val"), ("Training", "Testing", "valid")]
)
def test_val_is_joined_to_train(tmp_path, names, caplog):
    train, test, val = names
    touch(tmp_path, f"{train}/b/1.png", f"{train}/a/1.png", f"{test}/a/1.png", f"{test}/b/1.png")
    touch(tmp_path, f"{val}/b/0.png", f"{val}/a/2.png")
    with caplog.at_level(logging.INFO):
        data = load_image_folder(tmp_path)
    assert "the 2 images of val are joined to train" in caplog.text
    expected = {f"{train}/a/1.png", f"{val}/a/2.png", f"{train}/b/1.png", f"{val}/b/0.png"}
    assert set(relative(data, tmp_path)[:4]) == expected
    assert relative(data, tmp_path)[4:] == [f"{test}/a/1.png", f"{test}/b/1.png"]
    assert data.splits.tolist() == ["train"] * 4 + ["test"] * 2
    np.testing.assert_array_equal(data.labels, [0, 0, 1, 1, 0, 1])
    for split, size in (("train", 4), ("test", 2)):
        part = load_image_folder(tmp_path, split=split)
        assert len(part) == size
        assert set(part.splits) == {split}
        assert part.paths == data.subset(split).paths
        np.testing.assert_array_equal(part.labels, data.subset(split).labels)


def test_a_class_that_test_lacks_keeps_its_label(tmp_path):
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "train/c/1.png", "test/a/1.png", "test/c/1.png")
    part = load_image_folder(tmp_path, split="test")
    assert part.class_names == ["a", "b", "c"]
    np.testing.assert_array_equal(part.labels, [0, 2])


def test_a_class_may_be_named_train(tmp_path):
    touch(tmp_path, "bus/1.png", "train/1.png", "car/1.png")
    data = load_image_folder(tmp_path)
    assert data.class_names == ["bus", "car", "train"]
    assert data.splits is None


def test_folders_beside_the_split_are_left_out_with_a_warning(tmp_path, caplog):
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png", "backup/a/1.png")
    assert len(load_image_folder(tmp_path)) == 3
    assert "beside train and test are left out: backup" in caplog.text


def test_files_that_are_not_images_are_left_out_and_counted(tmp_path, caplog):
    touch(
        tmp_path,
        "a/1.png",
        "b/1.png",
        "a/notes.txt",
        "a/.hidden.png",
        "b/._1.png",
        "b/Thumbs.db",
        "split.csv",
    )
    touch(
        tmp_path, "__MACOSX/a/1.png", ".git/a/1.png", "a/__MACOSX/1.png", "a/@eaDir/1.png", "a/.thumbs/1.png"
    )
    touch(tmp_path, "loose.png")
    with caplog.at_level(logging.INFO):
        data = load_image_folder(tmp_path)
    assert relative(data, tmp_path) == ["a/1.png", "b/1.png"]
    assert "5 files that are not images" in caplog.text, (
        "a file is counted once, and junk folders are not entered"
    )
    assert "1 images outside the class folders" in caplog.text


def test_links_are_followed(tmp_path):
    touch(tmp_path, "store/1.png", "set/a/2.png", "set/b/1.png")
    (tmp_path / "set/a/linked").symlink_to(tmp_path / "store")
    (tmp_path / "set/b/gone.png").symlink_to(tmp_path / "nothing.png")
    listed = ["a/2.png", "a/linked/1.png", "b/1.png", "b/gone.png"]
    assert relative(load_image_folder(tmp_path / "set"), tmp_path / "set") == listed


def test_a_link_to_a_folder_above_is_refused(tmp_path):
    touch(tmp_path, "set/a/2.png", "set/b/1.png")
    (tmp_path / "set/a/loop").symlink_to(tmp_path / "set/a")
    refusal(lambda: load_image_folder(tmp_path / "set"), "set/a/loop", "remove the link")


def test_a_link_to_itself_is_listed_as_other_broken_links_are(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a/loop.png").symlink_to("loop.png")
    (tmp_path / "a/loop").symlink_to("loop")
    assert relative(load_image_folder(tmp_path), tmp_path) == ["a/1.png", "a/loop.png", "b/1.png"]
    refusal(lambda: load_image(tmp_path / "a/loop.png"), "loop.png")


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    touch(tmp_path, *(f"{part}/{c}/{i}.png" for part in ("train", "test") for c in "cab" for i in range(5)))
    before = load_image_folder(tmp_path)
    scandir = os.scandir

    class Reversed:
        def __init__(self, folder):
            with scandir(folder) as entries:
                self.entries = sorted(entries, key=lambda e: e.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *args):
            return None

    monkeypatch.setattr(os, "scandir", Reversed)
    assert load_image_folder(tmp_path).paths == before.paths


# ---------------------------------------------------------------------------------------- refused


def test_a_missing_root_is_refused(tmp_path):
    refusal(lambda: load_image_folder(tmp_path / "no"), tmp_path / "no", "does not exist")


def test_a_file_as_root_is_refused(tmp_path):
    touch(tmp_path, "file")
    refusal(lambda: load_image_folder(tmp_path / "file"), tmp_path / "file", "is a file")


def test_an_impossible_root_does_not_exist():
    refusal(lambda: load_image_folder("a\0b"), "a\\x00b", "does not exist")


def test_a_root_that_is_not_a_path_is_refused():
    refusal(lambda: load_image_folder(7), "must be a path", "int")


def test_an_empty_folder_is_refused(tmp_path):
    refusal(lambda: load_image_folder(tmp_path), tmp_path, "no class folders")


@pytest.mark.parametrize("name", ["1.png", "train/1.png"])
def test_images_without_class_folders_are_refused(tmp_path, name):
    touch(tmp_path, name)
    refusal(lambda: load_image_folder(tmp_path), tmp_path, "images but no class folders", "sub-folder")


def test_flat_train_and_test_are_not_taken_for_classes(tmp_path):
    touch(tmp_path, "train/1.png", "test/1.png", "masks/1.png")
    refusal(lambda: load_image_folder(tmp_path), tmp_path / "train", "no class folders")


@pytest.mark.parametrize("prefix", ["", "train/", "test/", "val/"])
def test_a_class_without_images_is_named(tmp_path, prefix):
    touch(tmp_path, *(f"{part}{c}/1.png" for part in {prefix, prefix and "train/"} for c in "ab"))
    (tmp_path / prefix / "c").mkdir()
    touch(tmp_path, f"{prefix}c/readme.txt")
    refusal(lambda: load_image_folder(tmp_path), repr(str(tmp_path / prefix / "c")), "holds no images")


def test_a_single_class_is_refused(tmp_path):
    touch(tmp_path, "a/1.png")
    refusal(lambda: load_image_folder(tmp_path), tmp_path, "single class 'a'", "add another")


def test_a_single_class_with_folders_may_be_the_data_set(tmp_path):
    touch(tmp_path, "a/train/2.png")
    refusal(lambda: load_image_folder(tmp_path), f"give {str(tmp_path / 'a')!r}")


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_class_that_train_lacks_is_refused(tmp_path, part):
    touch(tmp_path, "train/a/1.png", "train/b/1.png", f"{part}/a/1.png", f"{part}/c/1.png")
    refusal(
        lambda: load_image_folder(tmp_path), tmp_path / part / "c", "no counterpart in", tmp_path / "train"
    )


def test_two_folders_of_one_part_are_refused(tmp_path):
    touch(tmp_path, "train/a/1.png", "Train/a/1.png")
    refusal(lambda: load_image_folder(tmp_path), tmp_path, "'Train' and 'train'")


def test_a_part_of_an_unsplit_folder_is_refused(tmp_path):
    touch(tmp_path, "plain/a/1.png", "plain/b/1.png")
    refusal(lambda: load_image_folder(tmp_path / "plain", split="train"), "not split", "'train'")


def test_a_part_without_images_is_refused(tmp_path):
    touch(tmp_path, "tested/test/a/1.png", "tested/test/b/1.png")
    assert len(load_image_folder(tmp_path / "tested", split="test")) == 2
    refusal(lambda: load_image_folder(tmp_path / "tested", split="train"), "no train images")


@pytest.mark.parametrize("load", [load_image_folder, load_mit_indoor, *LAYOUTS.values()])
def test_the_part_val_is_refused_because_it_is_joined_to_train(tmp_path, load):
    refusal(lambda: load(tmp_path, split="val"), "'val'", "joined to train")


@pytest.mark.parametrize("split", ["Train", "", 3, ["train"]])
@pytest.mark.parametrize("load", [load_image_folder, load_mit_indoor, *LAYOUTS.values()])
def test_an_unknown_part_is_refused(tmp_path, load, split):
    refusal(lambda: load(tmp_path, split=split), "split must be 'train', 'test' or None")


def test_a_folder_without_permission_is_refused(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "b").chmod(0)
    try:
        if os.access(tmp_path / "b", os.R_OK):
            pytest.skip("this user (root?) may read everything: see the next test")
        refusal(lambda: load_image_folder(tmp_path), tmp_path / "b", "permissions")
    finally:
        (tmp_path / "b").chmod(0o700)


def test_a_permission_error_of_scandir_is_refused(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.png", "b/1.png")
    scandir = os.scandir

    def refuse(folder):
        if Path(folder).name == "b":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    refusal(lambda: load_image_folder(tmp_path), tmp_path / "b", "Permission denied", "permissions")


# ------------------------------------------------------------------------------------ ImageFolder


def folder_of_six():
    return ImageFolder(
        [Path(str(i)) for i in range(6)],
        np.array([0, 0, 1, 1, 0, 1]),
        ["a", "b"],
        np.array(list("ppqrst")),
        np.array(["train"] * 4 + ["test"] * 2),
    )


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        ([5, 0], [5, 0]),
        ([], []),
        (np.array([-1]), [5]),
        (np.array([True, False] * 3), [0, 2, 4]),
        (range(2), [0, 1]),
    ],
)
def test_take_returns_the_images_at_the_indices(indices, expected):
    data = folder_of_six()
    part = data.take(indices)
    assert [int(str(p)) for p in part.paths] == expected
    np.testing.assert_array_equal(part.labels, data.labels[expected])
    assert part.groups.tolist() == ["ppqrst"[i] for i in expected]
    assert part.splits.tolist() == [data.splits[i] for i in expected]
    assert part.class_names == ["a", "b"]
    assert part.labels.dtype == np.int64


@pytest.mark.parametrize("name", ["labels", "sites", "targets", "folds"])
def test_a_field_has_a_value_for_each_image(name):
    data = folder_of_six()
    refusal(lambda: replace(data, **{name: np.zeros(5)}), f"{name} has 5 values for 6 images")
    of_seven = {"sites": np.array(["F"] * 7)}
    refusal(lambda: replace(data, covariates=of_seven), "the covariate 'sites' has 7 values for 6 images")


def test_a_subset_holds_the_images_of_one_part():
    data = folder_of_six()
    assert data.subset(None) is data
    assert data.subset("test").groups.tolist() == ["s", "t"]
    refusal(lambda: data.subset("train").subset("test"), "no test images")


def test_image_folder_is_frozen():
    with pytest.raises(AttributeError):
        folder_of_six().labels = np.zeros(6)


# ----------------------------------------------------------------------------------------- groups


def groups_of(tmp_path, *names, pattern=None):
    touch(tmp_path, *names)
    data = load_image_folder(tmp_path, group_pattern=pattern)
    if data.groups is None:
        return None
    return dict(zip(relative(data, tmp_path), data.groups.tolist(), strict=True))


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("person1_virus_6.jpeg", "person1_virus"),
        ("person1_bacteria_1.jpeg", "person1_bacteria"),
        ("person1618_virus_2805_12.jpeg", "person1618_virus"),
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("IM-0115-0001-0002.jpeg", "IM-0115"),
        ("NORMAL2-IM-0383-0001.jpeg", "NORMAL2-IM-0383"),
        ("NORMAL2-IM-1440-0001-0002.jpeg", "NORMAL2-IM-1440"),
        ("sub-X01_ses-1_T1w.png", "sub-X01"),
        ("sub-07.png", "sub-07"),
        ("sub-07/anat/1.png", "sub-07"),
        ("sub-07.nii.gz", "sub-07"),
        ("sub-07.NII.GZ", "sub-07"),
        ("sub-07.nii", "sub-07"),
        ("patient123.png", "patient123"),
        ("patient_123_left.png", "patient123"),
        ("Patient-0123/slice 4.png", "patient0123"),
        ("scan-patient 7.png", "patient7"),
    ],
)
def test_known_names_tell_the_patient(tmp_path, name, group):
    groups = groups_of(tmp_path, f"a/{name}", "b/other.png")
    assert groups == {f"a/{name}": group, "b/other.png": "b/other.png"}


@pytest.mark.parametrize(
    "name",
    [
        "12_bathroom.jpg",
        "0a4c2cc2-a86f-4cac-84ca-942b17a6e6db.jpg",
        "personal_1.jpg",
        "person12.jpg",
        "outpatient12.jpg",
        "patients.jpg",
        "submarine_3.jpg",
        "suburb-1.jpg",
        "IM-0115.jpg",
        "DIM-0115-0001.jpg",
        "img_0001.jpg",
    ],
)
def test_names_that_tell_no_patient(tmp_path, name):
    assert groups_of(tmp_path, f"a/{name}", f"b/{name}") is None


def test_class_and_split_folders_are_no_patients(tmp_path):
    assert groups_of(tmp_path, "train/patient1/x.png", "train/patient2/x.png", "test/patient1/y.png") is None


def test_a_patient_is_the_same_in_every_split_and_class(tmp_path):
    groups = groups_of(
        tmp_path, "train/a/person1_virus_1.png", "train/b/person1_virus_2.png", "test/a/person1_virus_3.png"
    )
    assert set(groups.values()) == {"person1_virus"}


def test_groups_do_not_depend_on_the_split_asked_for(tmp_path):
    touch(tmp_path, "train/a/patient1.png", "train/b/patient2.png", "test/a/1.png", "test/b/2.png")
    assert load_image_folder(tmp_path, split="test").groups.tolist() == ["test/a/1.png", "test/b/2.png"]


@pytest.mark.parametrize(
    "pattern", [r"/(\w+)-\d+\.png$", re.compile(r"[ab]/([a-z]+)-"), r"(a|b)/(?P<group>\w+?)-"]
)
def test_a_group_pattern_finds_the_patient(tmp_path, pattern):
    groups = groups_of(tmp_path, "a/anna-1.png", "b/anna-2.png", "b/7.png", pattern=pattern)
    assert groups == {"a/anna-1.png": "anna", "b/anna-2.png": "anna", "b/7.png": "b/7.png"}


def test_a_group_pattern_replaces_the_known_names(tmp_path):
    groups = groups_of(tmp_path, "a/patient1_x.png", "b/patient1_y.png", pattern=r"_(\w)\.")
    assert set(groups.values()) == {"x", "y"}


def test_a_group_pattern_that_matches_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"matches no file, for example not 'a/1\.png'"):
        groups_of(tmp_path, "a/1.png", "b/1.png", pattern=r"(case\d+)")


def test_an_empty_group_is_not_a_patient(tmp_path):
    groups = groups_of(tmp_path, "a/p1.png", "a/q1.png", "b/pp.png", pattern=r"(?:/p(\d*)|/q)")
    assert groups == {"a/p1.png": "1", "a/q1.png": "a/q1.png", "b/pp.png": "b/pp.png"}


@pytest.mark.parametrize("pattern", ["(", "case", "", b"(x)", re.compile(b"(x)"), 5])
def test_a_pattern_without_a_group_is_refused(tmp_path, pattern):
    touch(tmp_path, "a/1.png", "b/1.png")
    refusal(lambda: load_image_folder(tmp_path, group_pattern=pattern), "group_pattern")
