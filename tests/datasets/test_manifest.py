"""Data sets from tables: columns, labels, images, patients, splits and folds, and what is refused."""

import logging
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.folders import refusal, relative, touch
from support.tables import names, write_table

import medvlad as mv
from medvlad.datasets.manifest import list_manifest

TABLE = ["image,label,patient,split,site,sex", "b/2.png,y,P2,test,Bern,M", "a/1.png,x,P1,train,Basel,F"]
TABLE += ["a/3.png,y,P3,train,Basel,", "b/4.png,x,P4,test,,F"]


@pytest.fixture
def choices(caplog):
    """The sentences about the choice of columns."""
    caplog.set_level(logging.INFO, "medvlad.datasets.manifest_columns")
    return lambda: [one.getMessage() for one in caplog.records if one.name.endswith("manifest_columns")]


def test_a_table_gives_all_facts_of_its_images(tmp_path):
    data = mv.load_manifest(write_table(tmp_path / "t.csv", *TABLE))
    assert relative(data, tmp_path) == ["a/1.png", "a/3.png", "b/4.png", "b/2.png"]
    assert data.class_names == ["x", "y"]
    assert data.labels.tolist() == [0, 1, 0, 1]
    assert data.groups.tolist() == ["P1", "P3", "P4", "P2"]
    assert set(data.patient_sources) == {"table"}
    assert data.splits.tolist() == ["train", "train", "test", "test"]
    assert data.sites.tolist() == ["Basel", "Basel", "", "Bern"]
    assert {name: values.tolist() for name, values in data.covariates.items()} == {"sex": ["F", "", "F", "M"]}
    assert (data.task, data.targets, data.folds) == ("classes", None, None)
    assert data.kinds.tolist() == [".png"] * 4


def test_the_order_of_the_rows_changes_nothing(tmp_path):
    first = mv.load_manifest(write_table(tmp_path / "t.csv", *TABLE))
    rows = TABLE[1:]
    random.Random(0).shuffle(rows)
    second = mv.load_manifest(write_table(tmp_path / "u.csv", TABLE[0], *rows))
    assert first.paths == second.paths
    for name in ("labels", "groups", "splits", "sites"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_a_table_of_a_folder_gives_what_the_folder_gives(tmp_path):
    root = tmp_path / "images"
    touch(
        root, "train/a/person1_virus_1.png", "train/a/IM-1-1.png", "train/b/x.png", "test/b/patient_7/y.png"
    )
    touch(root, "test/a/patient7.png", "train/b/sub-3_T1.png")
    folder = mv.load_image_folder(root)
    rows = [
        f"{path.relative_to(root).as_posix()},{folder.class_names[label]},{split}"
        for path, label, split in zip(folder.paths, folder.labels, folder.splits, strict=True)
    ]
    random.Random(1).shuffle(rows)
    table = write_table(tmp_path / "t.csv", "path,class,set", *rows, images=False)
    data = mv.load_manifest(table, image_root=root)
    assert data.paths == folder.paths
    assert data.class_names == folder.class_names
    for name in ("labels", "groups", "splits", "patient_sources", "kinds"):
        np.testing.assert_array_equal(getattr(data, name), getattr(folder, name))


# -------------------------------------------------------------------------------------------- columns


@pytest.mark.parametrize(
    "header",
    [
        "Image,Label",
        "PATH,Class",
        "file,diagnosis",
        "Filename,TARGET",
        "image path,label",
        "File-Name,Class Name",
    ],
)
def test_columns_are_found_by_usual_names(tmp_path, header):
    data = mv.load_manifest(write_table(tmp_path / "t.csv", header, "1.png,x", "2.png,y"))
    assert data.class_names == ["x", "y"]
    assert data.covariates == {}


def test_the_choice_of_columns_is_logged_with_what_else_would_fit(tmp_path, choices):
    table = write_table(
        tmp_path / "t.csv", "file,image,class,label,age", "1.png,1.png,x,y,3", "2.png,2.png,y,x,4"
    )
    data = mv.load_manifest(table)
    assert set(data.covariates) == {"file", "class", "age"}
    (said,) = choices()
    assert "images from 'image' (not from 'file': `image_column` changes this)" in said
    assert "labels from 'label' (not from 'class'" in said
    assert "no column of patients, splits, sites" in said
    assert "covariates 'file', 'class', 'age'" in said


def test_columns_can_be_named(tmp_path):
    table = write_table(
        tmp_path / "t.csv", "image,photo,label,finding,who", "0.png,1.png,q,x,A", "0.png,2.png,q,y,B"
    )
    touch(tmp_path, "1.png", "2.png")
    data = mv.load_manifest(table, image_column="Photo", label_column="finding", patient_column="who")
    assert names(data) == ["1.png", "2.png"]
    assert data.class_names == ["x", "y"]
    assert data.groups.tolist() == ["A", "B"]
    assert set(data.covariates) == {"image", "label"}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"label_column": "labelz"}, ["'labelz'", "'image', 'label'", "did you mean 'label'"]),
        ({"label_column": "image", "image_column": "image"}, ["'image'", "two purposes"]),
        ({"label_column": "label", "label_columns": ["label"]}, ["label_columns", "together"]),
        ({"label_columns": "label"}, ["label_columns", "list"]),
        ({"task": "class"}, ["task", "'class'", "regression"]),
        ({"patient_column": "label", "group_pattern": "(.)"}, ["patient_column", "leave one out"]),
        ({"unknown_patients": "keep"}, ["unknown_patients"]),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, arguments, parts):
    table = write_table(tmp_path / "t.csv", "image,label", "1.png,x", "2.png,y")
    refusal(lambda: mv.load_manifest(table, **arguments), *parts)


def test_a_table_without_a_column_of_labels_names_its_columns(tmp_path):
    table = write_table(tmp_path / "t.csv", "image,finding", "1.png,x")
    refusal(lambda: mv.load_manifest(table), "t.csv", "labels", "'image', 'finding'", "label_column")


# --------------------------------------------------------------------------------------------- images


def test_missing_images_are_listed_with_counts_by_class(tmp_path):
    rows = [f"gone{i}.png,{'xy'[i % 3 == 0]}" for i in range(12)]
    table = write_table(tmp_path / "t.csv", "image,label", "here.png,x", "there.png,y")
    table.write_text("\n".join(["image,label", "here.png,x", *rows, "there.png,y"]))
    message = refusal(
        lambda: mv.load_manifest(table), "12 of the 14 images", "x: 8, y: 4", "row 3: gone0.png"
    )
    assert message.count("row ") == 10
    assert "and 2 more" in message
    assert "image_root" in message


def test_a_folder_or_an_impossible_name_is_no_image(tmp_path):
    (tmp_path / "2.png").mkdir()
    table = write_table(
        tmp_path / "t.csv", "image,label", "1.png,x", "2.png,y", f"{'n' * 300},y", images=False
    )
    touch(tmp_path, "1.png")
    refusal(lambda: mv.load_manifest(table), "2 of the 3 images", "row 3: 2.png")


def test_the_same_image_twice_is_refused_with_both_rows(tmp_path):
    table = write_table(
        tmp_path / "t.csv", "image,label", "1.png,x", "2.png,y", "./a/../1.png,x", images=False
    )
    touch(tmp_path, "1.png", "2.png", "a/3.png")
    refusal(lambda: mv.load_manifest(table), "rows 2 and 4", "'1.png'")


def test_one_image_with_two_labels_is_refused_with_both_labels(tmp_path):
    table = write_table(tmp_path / "t.csv", "image,label", "1.png,x", "2.png,y", "1.png,y")
    refusal(lambda: mv.load_manifest(table), "rows 2 and 4", "two labels, 'x' and 'y'", "a|b")


@pytest.mark.parametrize("outside", ["../1.png", "a/../../1.png", "{tmp}/1.png"])
def test_an_image_outside_the_root_is_refused(tmp_path, outside):
    touch(tmp_path, "1.png", "root/2.png", "root/a/3.png")
    name = outside.format(tmp=tmp_path)
    table = write_table(tmp_path / "t.csv", "image,label", "2.png,x", f"{name},y", images=False)
    refusal(lambda: mv.load_manifest(table, image_root=tmp_path / "root"), "outside", "row 3", "1.png")


def test_absolute_paths_inside_the_root_are_relative_to_it(tmp_path):
    touch(tmp_path, "root/a/1.png", "root/2.png")
    lines = [f"{tmp_path}/root/a/1.png,x", f"{tmp_path}/root//2.png,y"]
    table = write_table(tmp_path / "t.csv", "image,label", *lines, images=False)
    data = mv.load_manifest(table, image_root=tmp_path / "root")
    assert relative(data, tmp_path / "root") == ["a/1.png", "2.png"]


def test_without_a_root_paths_are_relative_to_the_table_or_absolute(tmp_path):
    touch(tmp_path, "else/1.png", "table/2.png")
    lines = [f"{tmp_path}/else/1.png,x", "2.png,y"]
    table = write_table(tmp_path / "table" / "t.csv", "image,label", *lines, images=False)
    assert [path.name for path in mv.load_manifest(table).paths] == ["1.png", "2.png"]


@pytest.mark.parametrize(
    "cells",
    [
        ("a\\1.png", "b\\2.png"),
        (".\\a\\1.png", "b/2.png"),
        ("C:\\data\\set\\a\\1.png", "C:\\data\\set\\b\\2.png"),
        ("d:/set/a/1.png", "d:/set/b/2.png"),
        ("\\\\server\\share\\a\\1.png", "\\\\server\\share\\b\\2.png"),
    ],
)
def test_windows_paths_are_understood(tmp_path, cells):
    touch(tmp_path, "a/1.png", "b/2.png", "2.png")
    table = write_table(tmp_path / "t.csv", "image,label", f"{cells[0]},x", f"{cells[1]},y", images=False)
    assert relative(mv.load_manifest(table), tmp_path) == ["a/1.png", "b/2.png"]


def test_windows_paths_without_a_file_here_are_refused(tmp_path):
    table = write_table(tmp_path / "t.csv", "image,label", "C:\\scans\\1.png,x", "2.png,y", images=False)
    refusal(lambda: mv.load_manifest(table), "row 2", "Windows", "image_root")


@pytest.mark.parametrize(
    ("cell", "parts"),
    [
        ("", ["no image", "row 3"]),
        ("hdfs://bucket/1.png", ["row 3", "URL"]),
        ("notes.pdf", ["1 file", "row 3: notes.pdf", "DICOM"]),
        ("slide.svs", ["1 file", ".svs", "row 3: slide.svs"]),
    ],
)
def test_a_cell_that_names_no_image_is_refused_with_its_row(tmp_path, cell, parts):
    touch(tmp_path, "1.png", "notes.pdf", "slide.svs")
    table = write_table(tmp_path / "t.csv", "image,label", "1.png,x", f"{cell},y", images=False)
    refusal(lambda: mv.load_manifest(table), *parts)


def test_an_image_root_that_is_missing_is_refused(tmp_path):
    table = write_table(tmp_path / "t.csv", "image,label", "1.png,x", "2.png,y")
    refusal(lambda: mv.load_manifest(table, image_root=tmp_path / "gone"), "gone", "does not exist")


def test_features_are_named_by_their_ending(tmp_path):
    table = write_table(tmp_path / "t.csv", "file,label", "1.h5,x", "2.npy,y", "3.PT,y", "4.safetensors,x")
    data = mv.load_manifest(table)
    assert dict(zip(names(data), data.kinds.tolist(), strict=True)) == {
        "1.h5": ".h5",
        "2.npy": ".npy",
        "3.PT": ".pt",
        "4.safetensors": ".safetensors",
    }


def test_a_file_of_several_images_is_all_of_them_and_a_number_is_one(tmp_path):
    pytest.importorskip("pydicom", reason="needs the extra medical")
    from support.medical_files import write_dicom

    for name in ("a", "b"):
        write_dicom(tmp_path / f"{name}.dcm", np.zeros((3, 4, 4), np.uint8), frames=3, PatientID=f"ID {name}")
    table = write_table(tmp_path / "t.csv", "image,label", "a.dcm,x", "b.dcm#1,y", images=False)
    data = mv.load_manifest(table)
    assert names(data) == ["a.dcm#0", "a.dcm#1", "a.dcm#2", "b.dcm#1"]
    assert data.labels.tolist() == [0, 0, 0, 1]
    assert len(set(data.groups.tolist())) == 2
    assert data.patient_sources.tolist() == ["PatientID"] * 4
    again = write_table(tmp_path / "u.csv", "image,label", "a.dcm,x", "a.dcm#1,x", "b.dcm,y", images=False)
    refusal(lambda: mv.load_manifest(again), "rows 2 and 3", "a.dcm#1")
    beyond = write_table(tmp_path / "v.csv", "image,label", "a.dcm,x", "b.dcm#3,y", images=False)
    refusal(lambda: mv.load_manifest(beyond), "row 3", "#0 to #2")


def test_images_are_listed_without_labels_in_the_order_of_the_rows(tmp_path):
    table = write_table(tmp_path / "t.csv", "image", "2.png", "1.png")
    assert [path.name for path in list_manifest(table)] == ["2.png", "1.png"]


# --------------------------------------------------------------------------------------------- labels


def test_labels_that_differ_in_case_or_spaces_are_warned_about_and_kept_apart(tmp_path, caplog):
    table = write_table(tmp_path / "t.csv", "image,label", "1.png,Normal", "2.png,normal ", "3.png,sick")
    assert mv.load_manifest(table).class_names == ["Normal", "normal", "sick"]
    assert "'Normal', 'normal'" in caplog.text


def test_numbers_as_labels_are_classes_and_that_is_said(tmp_path, choices):
    table = write_table(tmp_path / "t.csv", "image,label", "1.png,0", "2.png,1", "3.png,1")
    assert mv.load_manifest(table).class_names == ["0", "1"]
    assert any("numbers in the column 'label' are names of classes: 0, 1" in one for one in choices())


def test_measurements_as_labels_need_a_task(tmp_path):
    table = write_table(tmp_path / "t.csv", "image,label", "1.png,0.5", "2.png,1.25", "3.png,1")
    refusal(lambda: mv.load_manifest(table), "3 different numbers", "task='regression'", "task='classes'")
    assert mv.load_manifest(table, task="classes").class_names == ["0.5", "1", "1.25"]


def test_a_missing_label_is_refused_with_its_row(tmp_path):
    table = write_table(tmp_path / "t.csv", "image,label", "1.png,x", "2.png,", "3.png,y")
    refusal(lambda: mv.load_manifest(table), "1 row", "row 3", "'label'")


def test_a_single_class_is_refused(tmp_path):
    table = write_table(tmp_path / "t.csv", "image,label", "1.png,x", "2.png,x")
    refusal(lambda: mv.load_manifest(table), "single label 'x'", "at least two")


def test_images_of_which_nothing_is_known_are_counted_and_none_of_the_labels_can_be_written(tmp_path, caplog):
    table = write_table(tmp_path / "data.csv", "image,label", "1.png,a|b", "2.png,", "3.png,|", "4.png,b")
    data = mv.load_manifest(table)
    np.testing.assert_array_equal(data.targets, [[1, 1], [np.nan, np.nan], [0, 0], [0, 1]])
    assert "all values of 1 of 4 images are unknown (row 3)" in caplog.text


def test_several_labels_in_a_cell_become_columns(tmp_path):
    lines = ["1.png,b|a", "2.png,", "3.png, a ", "4.png,c|a|"]
    data = mv.load_manifest(write_table(tmp_path / "t.csv", "image,label", *lines))
    assert (data.task, data.class_names) == ("labels", ["a", "b", "c"])
    np.testing.assert_array_equal(data.targets, [[1, 1, 0], [np.nan] * 3, [1, 0, 0], [1, 0, 1]])
    assert data.labels.tolist() == [0] * 4


def test_several_columns_of_0_and_1_are_labels(tmp_path):
    lines = ["1.png,1,0", "2.png,,1.0", "3.png,false,NaN"]
    table = write_table(tmp_path / "t.csv", "image,mass,edema", *lines)
    data = mv.load_manifest(table, label_columns=["mass", "edema"])
    assert (data.task, data.class_names) == ("labels", ["mass", "edema"])
    np.testing.assert_array_equal(data.targets, [[1, 0], [np.nan, 1], [0, np.nan]])
    assert data.covariates == {}


def test_one_column_with_a_1_in_each_row_can_be_classes(tmp_path):
    lines = ["1.png,1,0", "2.png,0,1"]
    table = write_table(tmp_path / "t.csv", "image,nevus,melanoma", *lines)
    data = mv.load_manifest(table, label_columns=["nevus", "melanoma"], task="classes")
    named = dict(zip(names(data), (data.class_names[k] for k in data.labels), strict=True))
    assert named == {"1.png": "nevus", "2.png": "melanoma"}
    both = write_table(tmp_path / "u.csv", "image,nevus,melanoma", *lines, "3.png,1,1")
    refusal(
        lambda: mv.load_manifest(both, label_columns=["nevus", "melanoma"], task="classes"), "row 4", "one 1"
    )


def test_a_wrong_cell_of_a_label_column_is_refused_with_its_row(tmp_path):
    table = write_table(tmp_path / "t.csv", "image,mass,edema", "1.png,1,0", "2.png,maybe,1")
    refusal(
        lambda: mv.load_manifest(table, label_columns=["mass", "edema"]),
        "'mass'",
        "row 3: maybe",
        "0, 1 or empty",
    )


def test_numbers_are_targets_of_a_regression(tmp_path):
    lines = ["1.png,3.5,1", "2.png,,2", "3.png,-1e2,3", "4.png,NA,4"]
    table = write_table(tmp_path / "t.csv", "image,target,size", *lines)
    data = mv.load_manifest(table, task="regression")
    assert (data.task, data.class_names) == ("regression", ["target"])
    np.testing.assert_array_equal(data.targets, [[3.5], [np.nan], [-100], [np.nan]])
    both = mv.load_manifest(table, task="regression", label_columns=["target", "size"])
    np.testing.assert_array_equal(both.targets[:, 1], [1, 2, 3, 4])


@pytest.mark.parametrize("wrong", ["3;5", "high", "inf", "1e999"])
def test_a_cell_that_is_no_number_is_refused_with_its_row(tmp_path, wrong):
    table = write_table(tmp_path / "t.csv", "image,target", "1.png,3.5", f"2.png,{wrong}")
    refusal(lambda: mv.load_manifest(table, task="regression"), "'target'", f"row 3: {wrong}")


def test_a_column_without_any_number_is_refused(tmp_path):
    table = write_table(tmp_path / "t.csv", "image,target", "1.png,", "2.png,NA")
    refusal(lambda: mv.load_manifest(table, task="regression"), "'target'", "no value")


# ---------------------------------------------------------------------------- patients, splits, folds


def test_unknown_patients_are_treated_as_in_folders(tmp_path, caplog):
    lines = ["1.png,x,P1", "2.png,y,P1", "3.png,x,", "4.png,y,nan"]
    table = write_table(tmp_path / "t.csv", "image,label,patient", *lines)
    data = mv.load_manifest(table)
    assert dict(zip(names(data), data.groups.tolist(), strict=True)) == {
        "1.png": "P1",
        "2.png": "P1",
        "3.png": "3.png",
        "4.png": "4.png",
    }
    assert "2 of 4 images is not known" in caplog.text
    assert names(mv.load_manifest(table, unknown_patients="drop")) == ["1.png", "2.png"]
    refusal(lambda: mv.load_manifest(table, unknown_patients="refuse"), "2")


def test_a_pattern_counts_more_than_a_column_found_by_its_name(tmp_path):
    table = write_table(tmp_path / "t.csv", "image,label,patient", "c1_l.png,x,P", "c2_l.png,y,P")
    assert mv.load_manifest(table, group_pattern="(c[0-9])_").groups.tolist() == ["c1", "c2"]


def test_val_is_joined_to_train(tmp_path, choices):
    lines = ["1.png,x,Train", "2.png,y,VAL", "3.png,x,test", "4.png,y,testing"]
    data = mv.load_manifest(write_table(tmp_path / "t.csv", "image,label,split", *lines))
    assert data.splits.tolist() == ["train", "train", "test", "test"]
    assert any("1 images of val" in one for one in choices())


def test_numbers_in_the_column_fold_are_folds(tmp_path, choices):
    lines = [f"{i}.png,{'xy'[i % 2]},{i % 3}" for i in range(6)]
    data = mv.load_manifest(write_table(tmp_path / "t.csv", "image,label,fold", *lines))
    assert data.splits is None
    assert dict(zip(names(data), data.folds.tolist(), strict=True)) == {
        f"{i}.png": str(i % 3) for i in range(6)
    }
    assert any("3 folds" in one for one in choices())


@pytest.mark.parametrize(
    ("cells", "parts"),
    [
        (["train", "1"], ["row 3: 1", "train, val or test"]),
        (["train", ""], ["row 3", "nothing"]),
        (["0", "0"], ["1 different", "split_column"]),
    ],
)
def test_wrong_splits_are_refused(tmp_path, cells, parts):
    lines = [f"1.png,x,{cells[0]}", f"2.png,y,{cells[1]}"]
    table = write_table(tmp_path / "t.csv", "image,label,split", *lines)
    refusal(lambda: mv.load_manifest(table), "'split'", *parts)


def test_a_class_without_training_images_is_refused(tmp_path):
    lines = ["1.png,x,train", "2.png,y,train", "3.png,z,test"]
    table = write_table(tmp_path / "t.csv", "image,label,split", *lines)
    refusal(lambda: mv.load_manifest(table), "'z'", "row 4", "training")


def test_taking_images_takes_their_folds_sites_and_covariates(tmp_path):
    lines = [f"{i}.png,{'xy'[i % 2]},{i % 3},s{i},{i}" for i in range(6)]
    data = mv.load_manifest(write_table(tmp_path / "t.csv", "image,label,fold,site,age", *lines))
    taken = data.take([4, 1])
    for name in ("folds", "sites"):
        assert getattr(taken, name).tolist() == getattr(data, name)[[4, 1]].tolist()
    assert taken.covariates["age"].tolist() == data.covariates["age"][[4, 1]].tolist()


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(["p", "q", ""])), min_size=2, max_size=8))
def test_each_row_keeps_its_facts(tmp_path_factory, rows):
    if len({label for label, _ in rows}) < 2:
        rows = [("x", ""), ("y", ""), *rows]
    lines = [f"{i}.png,{label},{patient}" for i, (label, patient) in enumerate(rows)]
    table = write_table(tmp_path_factory.mktemp("t") / "t.csv", "image,label,who", *lines)
    data = mv.load_manifest(table)
    for i, path in enumerate(data.paths):
        label, who = rows[int(path.stem)]
        assert (data.class_names[data.labels[i]], data.covariates["who"][i]) == (label, who)
