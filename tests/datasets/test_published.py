"""The data sets of the paper in their published layouts: numbers of images and splits."""

import logging
import re
from collections import Counter

import numpy as np
import pytest
from support.folders import real, refusal, relative, touch

from medvlad.datasets.folders import load_image_folder
from medvlad.datasets.published import (
    KVASIR_V2_CLASSES,
    LAYOUTS,
    load_chest_xray,
    load_kvasir_v2,
    load_mini_mit,
    load_mit_indoor,
)

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
def test_mit_indoor_is_read_from_every_layout(tmp_path, images, lists, given):
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


def test_mit_indoor_is_restricted_to_some_classes(tmp_path):
    mit(tmp_path)
    data = load_mit_indoor(tmp_path, classes=["kitchen", "bookstore"], split="train")
    assert data.class_names == ["bookstore", "kitchen"]
    np.testing.assert_array_equal(data.labels, [0, 0, 1])


def test_an_unlisted_class_of_mit_indoor_is_refused(tmp_path):
    mit(tmp_path)
    refusal(lambda: load_mit_indoor(tmp_path, classes=["attic"]), "'attic'", "bookstore, gameroom, kitchen")


@pytest.mark.parametrize("classes", [[], "kitchen"])
def test_classes_of_mit_indoor_must_be_a_list_of_names(tmp_path, classes):
    mit(tmp_path)
    refusal(lambda: load_mit_indoor(tmp_path, classes=classes), "list of class names")


def test_missing_images_of_mit_indoor_are_counted_if_asked_for(tmp_path):
    mit(tmp_path)
    for name in ("kitchen/int474.jpg", "bookstore/b_1.jpg"):
        (tmp_path / "Images" / name).unlink()
    refusal(
        lambda: load_mit_indoor(tmp_path), tmp_path / "Images" / "kitchen/int474.jpg", "2 of 7 listed images"
    )
    assert len(load_mit_indoor(tmp_path, split="test")) == 3
    assert len(load_mit_indoor(tmp_path, classes=["gameroom"])) == 2


@pytest.mark.parametrize("name", ["TrainImages.txt", "TestImages.txt"])
def test_a_missing_or_empty_list_of_mit_indoor_is_refused(tmp_path, name):
    mit(tmp_path)
    (tmp_path / name).write_text("\n \n")
    refusal(lambda: load_mit_indoor(tmp_path), tmp_path / name, "is empty")
    (tmp_path / name).unlink()
    refusal(lambda: load_mit_indoor(tmp_path), tmp_path / name, "does not exist")


@pytest.mark.parametrize("line", ["kitchen", "/etc/passwd", "kitchen/", "../secret.jpg", "a/b/c.jpg"])
def test_a_bad_line_of_a_list_is_refused(tmp_path, line):
    mit(tmp_path, train=["kitchen/int474.jpg"])
    (tmp_path / "TrainImages.txt").write_text(f"kitchen/int474.jpg\n{line}\n")
    refusal(lambda: load_mit_indoor(tmp_path), tmp_path / "TrainImages.txt", repr(line), "line 2")


def test_an_image_in_both_lists_is_refused(tmp_path):
    mit(tmp_path, test=[*TEST_LIST, TRAIN_LIST[0]])
    refusal(lambda: load_mit_indoor(tmp_path), TRAIN_LIST[0], "both train and test")


@pytest.mark.data
def test_the_official_lists_have_the_published_numbers(tmp_path):
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


def test_mini_mit_keeps_official_test_images_in_test(tmp_path):
    assert_mini_mit(mini_mit(tmp_path))


def test_mini_mit_draws_stay_the_same_over_releases(tmp_path):
    data = load_mini_mit(mini_mit(tmp_path), random_state=0)
    rng = np.random.default_rng(0)
    for class_name, n_train, n_filled in (("bookstore", 80, 20), ("inside_bus", 77, 17), ("library", 80, 20)):
        order = rng.permutation(n_train)
        names = {f"{class_name}_{i:03}.jpg" for i in order[n_filled : n_filled + 40]}
        assert {p.name for p in data.subset("train").paths if p.parent.name == class_name} == names


def test_mini_mit_does_not_need_images_of_other_classes(tmp_path):
    mini_mit(tmp_path)
    for path in (tmp_path / "Images" / "kitchen").iterdir():
        path.unlink()
    assert len(load_mini_mit(tmp_path)) == 240


@pytest.mark.parametrize("size", [(59, 20), (80, 41), (39, 40), (0, 0)])
def test_mini_mit_refuses_lists_with_too_few_images(tmp_path, size):
    mini_mit(tmp_path, {"bookstore": (80, 20), "library": size, "inside_bus": (77, 23)})
    refusal(lambda: load_mini_mit(tmp_path), tmp_path, f"{size[0]} train and {size[1]} test", "library")


@pytest.mark.parametrize("load", [load_mini_mit, load_kvasir_v2])
@pytest.mark.parametrize("seed", [None, -1, 1.0, True, "0", np.random.default_rng(0)])
def test_a_seed_that_is_not_a_number_is_refused(tmp_path, load, seed):
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


def test_chest_xray_refuses_other_classes(tmp_path):
    touch(tmp_path, "train/NORMAL/1.png", "train/COVID/1.png", "test/NORMAL/1.png")
    refusal(lambda: load_chest_xray(tmp_path), tmp_path, "COVID, NORMAL", "NORMAL, PNEUMONIA")


@pytest.mark.parametrize("parts", [("",), ("train/",), ("test/",)])
def test_chest_xray_refuses_a_folder_without_its_split(tmp_path, parts):
    touch(tmp_path, *(f"{part}{c}/1.png" for part in parts for c in ("NORMAL", "PNEUMONIA")))
    refusal(lambda: load_chest_xray(tmp_path), tmp_path, "train and test")


# --------------------------------------------------------------------------------------- Kvasir v2


def kvasir(root, size=10):
    return touch(root, *(f"{c}/{i:04}.jpg" for c in KVASIR_V2_CLASSES for i in range(size)))


def test_kvasir_v2_is_split_80_to_20_in_each_class(tmp_path, caplog):
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


def test_kvasir_v2_of_the_published_size_is_quiet(tmp_path, caplog):
    data = load_kvasir_v2(kvasir(tmp_path, 1000), random_state=3)
    assert Counter(data.splits.tolist()) == {"train": 6400, "test": 1600}
    assert np.bincount(data.subset("test").labels).tolist() == [200] * 8
    assert not caplog.records


def test_kvasir_v2_refuses_other_classes(tmp_path):
    touch(tmp_path, "few/a/1.jpg", "few/polyps/1.jpg")
    refusal(lambda: load_kvasir_v2(tmp_path / "few"), tmp_path / "few", "a, polyps", "dyed-lifted-polyps, ")


def test_kvasir_v2_refuses_a_class_of_one_image(tmp_path):
    kvasir(tmp_path / "one", 1)
    refusal(lambda: load_kvasir_v2(tmp_path / "one"), "dyed-lifted-polyps", "a single image")


def test_kvasir_v2_refuses_a_folder_that_is_split_already(tmp_path):
    kvasir(tmp_path / "cut" / "train")
    refusal(lambda: load_kvasir_v2(tmp_path / "cut"), tmp_path / "cut", "is split into folders already")


# ---------------------------------------------------------------------------------- layouts table


def test_all_layouts_are_called_in_one_way(tmp_path):
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
def test_the_real_chest_xrays_have_the_published_numbers_and_no_shared_patient(load, caplog):
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
def test_the_real_rooms_are_split_evenly():
    data = load_image_folder(real("rooms_dev"))
    assert data.class_names == ["bathroom", "bedroom", "kitchen"]
    assert Counter(data.splits.tolist()) == {"train": 120, "test": 120}
    assert data.groups is None


@pytest.mark.data
def test_the_real_hyperkvasir_has_no_split_and_no_patients():
    data = load_image_folder(real("hyperkvasir_dev"))
    assert data.class_names == ["bbps-0-1", "bbps-2-3", "impacted-stool", "normal-cecum", "polyp"]
    assert len(data) == 585
    assert data.groups is None
    assert data.splits is None
