"""Folders of feature files, and bags of several files of a patient."""

import numpy as np
import pytest
from support.folders import refusal, relative, touch
from support.tables import write_table

from medvlad.datasets.folders import ImageFolder, list_images, load_image_folder
from medvlad.datasets.manifest import load_manifest
from medvlad.datasets.pooling import holds_feature_files, pool_by


class TestFolders:
    def test_class_folders_of_feature_files_are_a_data_set(self, tmp_path):
        touch(tmp_path, "b/2.h5", "a/1.h5", "a/deep/3.H5", "a/notes.txt", "a/.hidden.h5", "README")
        data = load_image_folder(tmp_path)
        assert relative(data, tmp_path) == ["a/1.h5", "a/deep/3.H5", "b/2.h5"]
        assert data.kinds.tolist() == [".h5"] * 3
        assert data.labels.tolist() == [0, 0, 1]
        assert holds_feature_files(data)
        assert sorted(list_images(tmp_path)) == sorted(map(str, data.paths))

    def test_links_to_themselves_do_not_hide_other_files(self, tmp_path):
        touch(tmp_path, "b/2.h5", "a/1.h5")
        for i in range(20):
            (tmp_path / f"a/{i}.txt").symlink_to(f"{i}.txt")
        assert relative(load_image_folder(tmp_path), tmp_path) == ["a/1.h5", "b/2.h5"]

    def test_parts_and_patients_are_those_of_images(self, tmp_path):
        touch(tmp_path, "train/a/p1_x.npz", "train/b/p2_x.npz", "test/a/p3_x.npz", "test/b/p3_y.npz")
        data = load_image_folder(tmp_path, group_pattern="(p[0-9])_")
        assert data.splits.tolist() == ["train", "train", "test", "test"]
        assert data.groups.tolist() == ["p1", "p2", "p3", "p3"]

    def test_without_class_folders_the_table_to_write_is_named(self, tmp_path):
        touch(tmp_path, "1.h5", "2.npz")
        call = f"image_root={str(tmp_path)!r} (in Python by load_manifest)"
        refusal(lambda: load_image_folder(tmp_path), "feature files and no class folders", call)
        table = write_table(tmp_path / "t.csv", "image,label", "1.h5,a", "2.npz,b")
        assert load_manifest(table, image_root=tmp_path).class_names == ["a", "b"]

    def test_beside_images_feature_files_are_left_out_with_a_warning(self, tmp_path, caplog):
        touch(tmp_path, "a/1.png", "b/2.png", "b/2.h5")
        data = load_image_folder(tmp_path)
        assert relative(data, tmp_path) == ["a/1.png", "b/2.png"]
        assert not holds_feature_files(data)
        assert "1 feature files are left out" in caplog.text

    def test_images_without_an_ending_are_images(self, tmp_path):
        touch(tmp_path, "a/1.h5", "b/2.h5")
        (tmp_path / "a" / "IM0001").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 200)
        refusal(lambda: load_image_folder(tmp_path), "b", "no images")


def dataset(**changes):
    fields = {
        "paths": [f"{name}.h5" for name in "abcde"],
        "labels": np.array([0, 1, 0, 1, 1]),
        "class_names": ["no", "yes"],
        "groups": np.array(["p", "q", "p", "r", "q"]),
        "sites": np.array(["s", "s", "s", "t", "t"]),
        "covariates": {"sex": np.array(["f", "m", "f", "m", "m"])},
    }
    return ImageFolder(**(fields | changes))


class TestPooling:
    def test_the_files_of_a_patient_become_one_bag(self):
        pooled = pool_by(dataset(), "patient")
        assert pooled.paths == ["a.h5", "b.h5", "d.h5"]
        assert pooled.files == [("a.h5", "c.h5"), ("b.h5", "e.h5"), ("d.h5",)]
        assert pooled.groups.tolist() == ["p", "q", "r"]
        assert pooled.labels.tolist() == [0, 1, 1]
        assert pooled.sites.tolist() == ["s", "", "t"]
        assert pooled.covariates["sex"].tolist() == ["f", "m", "m"]

    def test_bags_are_taken_with_all_files(self):
        taken = pool_by(dataset(), "patient").take([2, 0])
        assert [taken.files_of(i) for i in range(2)] == [("d.h5",), ("a.h5", "c.h5")]

    def test_pooling_twice_changes_nothing(self):
        once = pool_by(dataset(), "patient")
        assert pool_by(once, "patient").files == once.files

    def test_two_classes_of_a_patient_are_refused(self):
        refusal(
            lambda: pool_by(dataset(labels=np.array([0, 1, 1, 1, 1])), "patient"),
            "patient 'p' has two values of the class: 'no' of a.h5 and 'yes' of c.h5",
        )

    def test_two_parts_of_a_patient_are_refused(self):
        splits = np.array(["train", "train", "test", "test", "train"])
        refusal(lambda: pool_by(dataset(splits=splits), "patient"), "patient 'p' has two values of the part")

    def test_missing_targets_agree_and_different_ones_do_not(self):
        targets = np.array([[np.nan], [2.0], [np.nan], [1.0], [2.0]])
        values = {
            "task": "regression",
            "targets": targets,
            "labels": np.zeros(5, int),
            "class_names": ["age"],
        }
        assert len(pool_by(dataset(**values), "patient")) == 3
        values["targets"] = np.where(np.arange(5)[:, None] == 4, 3.0, targets)
        refusal(lambda: pool_by(dataset(**values), "patient"), "patient 'q' has two values of the target")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"groups": None}, "needs patients"),
            ({"paths": [f"{name}.png" for name in "abcde"]}, "these are images"),
            (
                {"paths": ["a.h5", "b.png", "c.h5", "d.h5", "e.h5"]},
                "a.h5 is a feature file and b.png is an image",
            ),
        ],
    )
    def test_what_cannot_be_pooled_is_refused(self, changes, message):
        refusal(lambda: pool_by(dataset(**changes), "patient"), message)

    def test_only_patients_pool(self):
        refusal(lambda: pool_by(dataset(), "site"), "pool_by must be one of patient")
