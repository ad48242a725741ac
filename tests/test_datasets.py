"""Folders as data sets: what is listed, in which order, who is whose patient, and what is refused."""

import logging
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, REQUIRED

from medvlad._validate import InputError
from medvlad.datasets import ImageFolder, load_image_folder
from medvlad.paper_datasets import (
    KVASIR_V2_CLASSES,
    LAYOUTS,
    load_chest_xray,
    load_kvasir_v2,
    load_mini_mit,
    load_mit_indoor,
)


def real(folder):
    """Path of a real data set, or a visible skip."""
    path = DATA / folder
    if not path.is_dir():
        if "data" in REQUIRED:
            pytest.fail(f"the data folder is required: {path}")
        pytest.skip(f"{path} is not there (set MEDVLAD_DATA)")
    return path


def touch(root, *names):
    """Create files; loaders look at names only."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def relative(data, root):
    return [path.relative_to(root).as_posix() for path in data.paths]


def refusal(call, *parts):
    """Check that `call` is refused in one line that holds all `parts`."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
    return message


# --------------------------------------------------------------------------------------- layouts


def test_class_folders(tmp_path):
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


@pytest.mark.parametrize("names", [("train", "test", "val"), ("Train", "TEST", "Val")])
def test_train_test_and_val(tmp_path, names, caplog):
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


def test_folders_beside_the_split_are_left_out_aloud(tmp_path, caplog):
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png", "backup/a/1.png")
    assert len(load_image_folder(tmp_path)) == 3
    assert "beside train and test are left out: backup" in caplog.text


def test_what_is_no_image_is_left_out_and_counted(tmp_path, caplog):
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
    assert "5 files that are no images" in caplog.text, (
        "a file is counted once, and junk folders are not entered"
    )
    assert "1 images outside the class folders" in caplog.text


def test_links_are_followed_but_not_for_ever(tmp_path):
    touch(tmp_path, "store/1.png", "set/a/2.png", "set/b/1.png")
    (tmp_path / "set/a/linked").symlink_to(tmp_path / "store")
    (tmp_path / "set/b/gone.png").symlink_to(tmp_path / "nothing.png")
    listed = ["a/2.png", "a/linked/1.png", "b/1.png", "b/gone.png"]
    assert relative(load_image_folder(tmp_path / "set"), tmp_path / "set") == listed
    (tmp_path / "set/a/loop").symlink_to(tmp_path / "set/a")
    refusal(lambda: load_image_folder(tmp_path / "set"), "set/a/loop", "remove the link")


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


def test_root_missing_or_no_folder(tmp_path):
    refusal(lambda: load_image_folder(tmp_path / "no"), tmp_path / "no", "does not exist")
    touch(tmp_path, "file")
    refusal(lambda: load_image_folder(tmp_path / "file"), tmp_path / "file", "is a file")
    refusal(lambda: load_image_folder("a\0b"), "a\\x00b", "does not exist")
    refusal(lambda: load_image_folder(7), "must be a path", "int")


def test_empty_folder(tmp_path):
    refusal(lambda: load_image_folder(tmp_path), tmp_path, "no class folders")


@pytest.mark.parametrize("name", ["1.png", "train/1.png"])
def test_images_without_class_folders(tmp_path, name):
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


def test_a_single_class(tmp_path):
    touch(tmp_path, "a/1.png")
    refusal(lambda: load_image_folder(tmp_path), tmp_path, "single class 'a'", "add another")
    touch(tmp_path, "a/train/2.png")
    refusal(lambda: load_image_folder(tmp_path), f"give {str(tmp_path / 'a')!r}")


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_class_that_train_lacks(tmp_path, part):
    touch(tmp_path, "train/a/1.png", "train/b/1.png", f"{part}/a/1.png", f"{part}/c/1.png")
    refusal(
        lambda: load_image_folder(tmp_path), tmp_path / part / "c", "no counterpart in", tmp_path / "train"
    )


def test_two_folders_of_one_part(tmp_path):
    touch(tmp_path, "train/a/1.png", "Train/a/1.png")
    refusal(lambda: load_image_folder(tmp_path), tmp_path, "'Train' and 'train'")


def test_a_split_that_is_not_there(tmp_path):
    touch(tmp_path, "plain/a/1.png", "plain/b/1.png", "tested/test/a/1.png", "tested/test/b/1.png")
    refusal(lambda: load_image_folder(tmp_path / "plain", split="train"), "not split", "'train'")
    assert len(load_image_folder(tmp_path / "tested", split="test")) == 2
    refusal(lambda: load_image_folder(tmp_path / "tested", split="train"), "no train images")


@pytest.mark.parametrize("load", [load_image_folder, load_mit_indoor, *LAYOUTS.values()])
def test_bad_split(tmp_path, load):
    refusal(lambda: load(tmp_path, split="val"), "'val'", "joined to train")
    for split in ("Train", "", 3, ["train"]):
        refusal(lambda split=split: load(tmp_path, split=split), "split must be 'train', 'test' or None")


def test_unreadable_folder(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "b").chmod(0)
    try:
        if os.access(tmp_path / "b", os.R_OK):
            pytest.skip("this user (root?) may read everything: see the next test")
        refusal(lambda: load_image_folder(tmp_path), tmp_path / "b", "permissions")
    finally:
        (tmp_path / "b").chmod(0o700)


def test_unreadable_folder_as_seen_by_scandir(tmp_path, monkeypatch):
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
def test_take(indices, expected):
    data = folder_of_six()
    part = data.take(indices)
    assert [int(str(p)) for p in part.paths] == expected
    np.testing.assert_array_equal(part.labels, data.labels[expected])
    assert part.groups.tolist() == ["ppqrst"[i] for i in expected]
    assert part.splits.tolist() == [data.splits[i] for i in expected]
    assert part.class_names == ["a", "b"]
    assert part.labels.dtype == np.int64


def test_subset():
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
        ("patient123.png", "patient123"),
        ("patient_123_left.png", "patient123"),
        ("Patient-0123/slice 4.png", "patient0123"),
        ("scan-patient 7.png", "patient7"),
    ],
)
def test_known_patient_names(tmp_path, name, group):
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
def test_group_pattern(tmp_path, pattern):
    groups = groups_of(tmp_path, "a/anna-1.png", "b/anna-2.png", "b/7.png", pattern=pattern)
    assert groups == {"a/anna-1.png": "anna", "b/anna-2.png": "anna", "b/7.png": "b/7.png"}


def test_group_pattern_replaces_the_known_names(tmp_path):
    groups = groups_of(tmp_path, "a/patient1_x.png", "b/patient1_y.png", pattern=r"_(\w)\.")
    assert set(groups.values()) == {"x", "y"}


def test_group_pattern_that_matches_nothing_is_told(tmp_path, caplog):
    assert groups_of(tmp_path, "a/1.png", "b/1.png", pattern=r"(case\d+)") is None
    assert "matches no image" in caplog.text
    assert "a/1.png" in caplog.text


def test_a_group_that_takes_no_part_in_the_match_or_is_empty(tmp_path):
    groups = groups_of(tmp_path, "a/p1.png", "a/q1.png", "b/pp.png", pattern=r"(?:/p(\d*)|/q)")
    assert groups == {"a/p1.png": "1", "a/q1.png": "a/q1.png", "b/pp.png": "b/pp.png"}


@pytest.mark.parametrize("pattern", ["(", "case", "", b"(x)", re.compile(b"(x)"), 5])
def test_bad_group_pattern(tmp_path, pattern):
    touch(tmp_path, "a/1.png", "b/1.png")
    refusal(lambda: load_image_folder(tmp_path, group_pattern=pattern), "group_pattern")


# ----------------------------------------------------------------------------------- MIT Indoor-67

TRAIN_LIST = [
    "kitchen/int474.jpg",
    "bookstore/Bookstore inside.jpg",
    "bookstore/b_1.jpg",
    "gameroom/bt_132294gameroom2.jpg",
]
TEST_LIST = ["gameroom/game_2.jpg", "bookstore/b_0.jpg", "kitchen/int1.jpg"]


def mit(root, train=TRAIN_LIST, test=TEST_LIST, images="Images", lists="."):
    (root / lists).mkdir(parents=True, exist_ok=True)
    (root / lists / "TrainImages.txt").write_text("\n".join(train))
    (root / lists / "TestImages.txt").write_text("\r\n".join(test) + "\r\n\r\n")
    return touch(root, *(f"{images}/{name}" for name in (*train, *test)))


@pytest.mark.parametrize(
    ("images", "lists", "given"),
    [
        ("Images", ".", "."),
        ("images", ".", "."),
        ("Images", "Images", "."),
        (".", ".", "."),
        ("Images", ".", "Images"),
        ("Images", "Images", "Images"),
    ],
)
def test_mit_indoor_layouts(tmp_path, images, lists, given):
    mit(tmp_path, images=images, lists=lists)
    touch(tmp_path, f"{images}/kitchen/unlisted.jpg")
    data = load_mit_indoor(tmp_path / given)
    assert data.class_names == ["bookstore", "gameroom", "kitchen"]
    assert relative(data, tmp_path / images) == [
        "bookstore/Bookstore inside.jpg",
        "bookstore/b_1.jpg",
        "gameroom/bt_132294gameroom2.jpg",
        "kitchen/int474.jpg",
        "bookstore/b_0.jpg",
        "gameroom/game_2.jpg",
        "kitchen/int1.jpg",
    ]
    np.testing.assert_array_equal(data.labels, [0, 0, 1, 2, 0, 1, 2])
    assert data.splits.tolist() == ["train"] * 4 + ["test"] * 3
    assert data.groups is None
    for split in ("train", "test"):
        assert load_mit_indoor(tmp_path / given, split=split).paths == data.subset(split).paths


def test_mit_indoor_classes(tmp_path):
    mit(tmp_path)
    data = load_mit_indoor(tmp_path, classes=["kitchen", "bookstore"], split="train")
    assert data.class_names == ["bookstore", "kitchen"]
    np.testing.assert_array_equal(data.labels, [0, 0, 1])
    refusal(lambda: load_mit_indoor(tmp_path, classes=["attic"]), "'attic'", "bookstore, gameroom, kitchen")
    for classes in ([], "kitchen"):
        refusal(lambda classes=classes: load_mit_indoor(tmp_path, classes=classes), "list of class names")


def test_mit_indoor_missing_images(tmp_path):
    mit(tmp_path)
    for name in ("kitchen/int474.jpg", "bookstore/b_1.jpg"):
        (tmp_path / "Images" / name).unlink()
    refusal(
        lambda: load_mit_indoor(tmp_path), tmp_path / "Images" / "kitchen/int474.jpg", "2 of 7 listed images"
    )
    assert len(load_mit_indoor(tmp_path, split="test")) == 3
    assert len(load_mit_indoor(tmp_path, classes=["gameroom"])) == 2


@pytest.mark.parametrize("name", ["TrainImages.txt", "TestImages.txt"])
def test_mit_indoor_missing_or_empty_list(tmp_path, name):
    mit(tmp_path)
    (tmp_path / name).write_text("\n \n")
    refusal(lambda: load_mit_indoor(tmp_path), tmp_path / name, "is empty")
    (tmp_path / name).unlink()
    refusal(lambda: load_mit_indoor(tmp_path), tmp_path / name, "does not exist")


@pytest.mark.parametrize("line", ["kitchen", "/etc/passwd", "kitchen/", "../secret.jpg", "a/b/c.jpg"])
def test_mit_indoor_bad_line(tmp_path, line):
    mit(tmp_path, train=["kitchen/int474.jpg"])
    (tmp_path / "TrainImages.txt").write_text(f"kitchen/int474.jpg\n{line}\n")
    refusal(lambda: load_mit_indoor(tmp_path), tmp_path / "TrainImages.txt", repr(line), "line 2")


def test_mit_indoor_image_in_both_lists(tmp_path):
    mit(tmp_path, test=[*TEST_LIST, TRAIN_LIST[0]])
    refusal(lambda: load_mit_indoor(tmp_path), TRAIN_LIST[0], "both train and test")


@pytest.mark.data
def test_official_lists(tmp_path):
    lists = {part: (real("mit_indoor_lists") / f"{part}Images.txt").read_text() for part in ("Train", "Test")}
    assert not lists["Train"].endswith("\n"), "the last line lacks its end"
    mit(tmp_path, *(text.splitlines() for text in lists.values()))
    data = load_mit_indoor(tmp_path)
    assert Counter(data.splits.tolist()) == {"train": 5360, "test": 1340}
    assert len(data.class_names) == 67
    assert_mini_mit(tmp_path)


# ---------------------------------------------------------------------------------------- Mini MIT


def mini_mit(root, sizes=None):
    sizes = sizes or {"bookstore": (80, 20), "library": (80, 20), "inside_bus": (77, 23), "kitchen": (5, 5)}
    train = [f"{c}/{c}_{i:03}.jpg" for c, (n, _) in sizes.items() for i in range(n)]
    test = [f"{c}/{c}_{i:03}.jpg" for c, (n, m) in sizes.items() for i in range(n, n + m)]
    return mit(root, train, test)


def assert_mini_mit(root):
    data = load_mini_mit(root)
    assert data.class_names == ["bookstore", "inside_bus", "library"]
    assert len(set(data.paths)) == 240
    official = load_mit_indoor(root, classes=data.class_names)
    official_test = set(official.subset("test").paths)
    train, test = data.subset("train"), data.subset("test")
    for part in (train, test):
        assert np.bincount(part.labels).tolist() == [40, 40, 40]
    assert official_test <= set(test.paths), "every official test image is a test image"
    assert set(data.paths) - official_test <= set(official.subset("train").paths)
    for split, part in (("train", train), ("test", test)):
        again = load_mini_mit(root, split=split)
        assert again.paths == part.paths, "train and test of two calls belong to one draw"
    other = load_mini_mit(root, random_state=1)
    assert set(other.subset("train").paths) != set(train.paths)
    assert set(other.subset("test").paths) != set(test.paths)


def test_mini_mit(tmp_path):
    assert_mini_mit(mini_mit(tmp_path))


def test_mini_mit_draws_stay_the_same_over_releases(tmp_path):
    data = load_mini_mit(mini_mit(tmp_path), random_state=0)
    rng = np.random.default_rng(0)
    for class_name, n_train, n_filled in (("bookstore", 80, 20), ("inside_bus", 77, 17), ("library", 80, 20)):
        order = rng.permutation(n_train)
        names = {f"{class_name}_{i:03}.jpg" for i in order[n_filled : n_filled + 40]}
        assert {p.name for p in data.subset("train").paths if p.parent.name == class_name} == names


def test_mini_mit_needs_the_other_classes_neither_listed_nor_there(tmp_path):
    mini_mit(tmp_path)
    for path in (tmp_path / "Images" / "kitchen").iterdir():
        path.unlink()
    assert len(load_mini_mit(tmp_path)) == 240


@pytest.mark.parametrize("size", [(59, 20), (80, 41), (39, 40), (0, 0)])
def test_mini_mit_with_other_lists(tmp_path, size):
    mini_mit(tmp_path, {"bookstore": (80, 20), "library": size, "inside_bus": (77, 23)})
    refusal(lambda: load_mini_mit(tmp_path), tmp_path, f"{size[0]} train and {size[1]} test", "library")


@pytest.mark.parametrize("load", [load_mini_mit, load_kvasir_v2])
@pytest.mark.parametrize("seed", [None, -1, 1.0, True, "0", np.random.default_rng(0)])
def test_bad_seed(tmp_path, load, seed):
    refusal(lambda: load(tmp_path, random_state=seed), "random_state must be an integer of at least 0")


# ------------------------------------------------------------------------------------ chest X-rays


def chest(root, train=(3, 5), test=(2, 2), val=(1, 1)):
    for part, sizes in (("train", train), ("test", test), ("val", val)):
        first = {"train": 0, "test": 100, "val": 200}[part]
        touch(root, *(f"{part}/NORMAL/IM-{first + i:04}-0001.jpeg" for i in range(sizes[0])))
        touch(root, *(f"{part}/PNEUMONIA/person{first + i}_virus_1.jpeg" for i in range(sizes[1])))
    return root


def test_chest_xray_joins_val_and_warns_of_other_counts(tmp_path, caplog):
    data = load_chest_xray(chest(tmp_path))
    assert Counter(data.splits.tolist()) == {"train": 10, "test": 4}
    assert "10 train and 4 test images, but the published set has 5232 and 624" in caplog.text
    assert data.groups[0] == "IM-0000"
    assert len(set(data.groups)) == 14
    assert len(load_chest_xray(tmp_path, split="test")) == 4


def test_chest_xray_of_the_published_size_is_quiet(tmp_path, caplog):
    chest(tmp_path, train=(1341, 3875), test=(234, 390), val=(8, 8))
    with caplog.at_level(logging.WARNING):
        assert len(load_chest_xray(tmp_path, split="train")) == 5232
    assert not caplog.records


def test_chest_xray_with_other_classes(tmp_path):
    touch(tmp_path, "train/NORMAL/1.png", "train/COVID/1.png", "test/NORMAL/1.png")
    refusal(lambda: load_chest_xray(tmp_path), tmp_path, "COVID, NORMAL", "NORMAL, PNEUMONIA")


@pytest.mark.parametrize("parts", [("",), ("train/",), ("test/",)])
def test_chest_xray_without_its_split(tmp_path, parts):
    touch(tmp_path, *(f"{part}{c}/1.png" for part in parts for c in ("NORMAL", "PNEUMONIA")))
    refusal(lambda: load_chest_xray(tmp_path), tmp_path, "train and test")


# --------------------------------------------------------------------------------------- Kvasir v2


def kvasir(root, size=10):
    return touch(root, *(f"{c}/{i:04}.jpg" for c in KVASIR_V2_CLASSES for i in range(size)))


def test_kvasir_v2(tmp_path, caplog):
    data = load_kvasir_v2(kvasir(tmp_path))
    assert data.class_names == sorted(KVASIR_V2_CLASSES)
    train, test = load_kvasir_v2(tmp_path, split="train"), load_kvasir_v2(tmp_path, split="test")
    assert np.bincount(train.labels).tolist() == [8] * 8
    assert np.bincount(test.labels).tolist() == [2] * 8
    assert train.paths + test.paths == data.paths
    assert train.paths == sorted(train.paths)
    assert len(set(data.paths)) == 80
    assert load_kvasir_v2(tmp_path, split="test", random_state=1).paths != test.paths
    assert "10 images of polyps, but the published set has 1000" in caplog.text


def test_kvasir_v2_of_the_published_size(tmp_path, caplog):
    data = load_kvasir_v2(kvasir(tmp_path, 1000), random_state=3)
    assert Counter(data.splits.tolist()) == {"train": 6400, "test": 1600}
    assert np.bincount(data.subset("test").labels).tolist() == [200] * 8
    assert not caplog.records


def test_kvasir_v2_refusals(tmp_path):
    touch(tmp_path, "few/a/1.jpg", "few/polyps/1.jpg")
    refusal(lambda: load_kvasir_v2(tmp_path / "few"), tmp_path / "few", "a, polyps", "dyed-lifted-polyps, ")
    kvasir(tmp_path / "one", 1)
    refusal(lambda: load_kvasir_v2(tmp_path / "one"), "dyed-lifted-polyps", "a single image")
    kvasir(tmp_path / "cut" / "train")
    refusal(lambda: load_kvasir_v2(tmp_path / "cut"), tmp_path / "cut", "is split into folders already")


# ---------------------------------------------------------------------------------- layouts table


def test_layouts_are_called_alike(tmp_path):
    mini_mit(tmp_path / "mit")
    chest(tmp_path / "chest")
    kvasir(tmp_path / "kvasir")
    roots = {
        "folder": "chest",
        "mit-indoor": "mit",
        "mini-mit": "mit",
        "chest-xray": "chest",
        "kvasir-v2": "kvasir",
    }
    assert LAYOUTS.keys() == roots.keys()
    for name, load in LAYOUTS.items():
        parts = [
            load(tmp_path / roots[name], split=split, random_state=5) for split in (None, "train", "test")
        ]
        assert len(parts[0]) == len(parts[1]) + len(parts[2])
        assert len(load(tmp_path / roots[name])) == len(parts[0])


# -------------------------------------------------------------------------------------- real data


@pytest.mark.data
@pytest.mark.parametrize("load", [load_image_folder, load_chest_xray])
def test_real_chest_xrays(load, caplog):
    root = real("chest_xray_224")
    with caplog.at_level(logging.WARNING):
        data = load(root)
    assert not caplog.records
    train, test = data.subset("train"), data.subset("test")
    assert data.class_names == ["NORMAL", "PNEUMONIA"]
    assert np.bincount(train.labels).tolist() == [1349, 3883]
    assert np.bincount(test.labels).tolist() == [234, 390]
    train_patients, test_patients = set(train.groups.tolist()), set(test.groups.tolist())
    assert not train_patients & test_patients
    assert (len(train_patients), len(test_patients)) == (3669, 428)
    assert all(re.fullmatch(r"person\d+_(bacteria|virus)|(NORMAL2-)?IM-\d{4}", g) for g in data.groups)


@pytest.mark.data
def test_real_rooms():
    data = load_image_folder(real("rooms_dev"))
    assert data.class_names == ["bathroom", "bedroom", "kitchen"]
    assert Counter(data.splits.tolist()) == {"train": 120, "test": 120}
    assert data.groups is None


@pytest.mark.data
def test_real_hyperkvasir():
    data = load_image_folder(real("hyperkvasir_dev"))
    assert data.class_names == ["bbps-0-1", "bbps-2-3", "impacted-stool", "normal-cecum", "polyp"]
    assert len(data) == 585
    assert data.groups is None
    assert data.splits is None
