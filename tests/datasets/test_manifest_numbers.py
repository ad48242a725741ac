"""Numbers of a table with a decimal comma, as German and French spreadsheets save them."""

import logging

import numpy as np
import pytest
from support.folders import refusal, touch
from support.tables import write_table

import medvlad as mv
from medvlad.evaluation.covariate_bands import grouped_covariate


@pytest.fixture(autouse=True)
def _images(tmp_path):
    touch(tmp_path, *(f"{i}.png" for i in range(12)))


@pytest.mark.parametrize(("separator", "name"), [(";", "t.csv"), ("\t", "t.tsv")])
def test_decimal_commas_are_read_if_commas_separate_no_cells(tmp_path, separator, name, caplog):
    caplog.set_level(logging.INFO, "medvlad.datasets.manifest_columns")
    rows = [
        "image;value;dose;note",
        "1.png;3,1;0,5;1,2,3",
        "2.png;-,5e1;2;x",
        "3.png;NA;;1,5",
        "4.png;7;1,25;",
    ]
    table = write_table(tmp_path / name, *(row.replace(";", separator) for row in rows))
    data = mv.load_manifest(table, label_column="value", task="regression")
    np.testing.assert_array_equal(data.targets, [[3.1], [-5], [np.nan], [7]])
    assert data.covariates["dose"].tolist() == ["0.5", "2", "", "1.25"]
    assert data.covariates["note"].tolist() == ["1,2,3", "x", "1,5", ""]
    assert "the column 'value' has decimal commas, and 3,1 is read as 3.1" in caplog.text


def test_covariates_with_decimal_commas_become_quarters(tmp_path):
    rows = [f"{i}.png;{'ab'[i % 2]};{i},5" for i in range(12)]
    data = mv.load_manifest(write_table(tmp_path / "t.csv", "image;label;dose", *rows))
    _, bands = grouped_covariate("dose", data.covariates["dose"])
    assert len(bands) == 4


@pytest.mark.parametrize("wrong", ["1.234,5", "1,234.5", "1.234.567", "1,234,567", "2.5"])
@pytest.mark.parametrize("task", ["regression", "classes"])
def test_commas_beside_points_are_refused_with_their_row(tmp_path, wrong, task):
    table = write_table(tmp_path / "t.csv", "image;label;dose", f"1.png;1;{wrong}", "2.png;2;3,1")
    column = "dose" if task == "regression" else "label"
    refusal(lambda: mv.load_manifest(table, label_column=column, task=task), "'dose'", f"row 2: {wrong}")


def test_a_word_beside_decimal_commas_is_refused_alone(tmp_path):
    table = write_table(tmp_path / "t.csv", "image;label", "1.png;3,1", "2.png;high")
    refusal(lambda: mv.load_manifest(table, task="regression"), "(row 3: high)")


def test_a_comma_in_a_table_of_commas_is_refused_by_name(tmp_path):
    table = write_table(tmp_path / "t.csv", "image,label", '1.png,"3,1"', "2.png,4")
    refusal(lambda: mv.load_manifest(table, task="regression"), "decimal comma", "row 2: 3,1", "semicolons")


def test_measurements_with_decimal_commas_need_a_task(tmp_path):
    table = write_table(tmp_path / "t.csv", "image;label", "1.png;0,5", "2.png;1,25", "3.png;1")
    refusal(lambda: mv.load_manifest(table), "3 different numbers", "task='regression'")
    assert mv.load_manifest(table, task="classes").class_names == ["0,5", "1", "1,25"]
