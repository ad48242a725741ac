"""Tables as people write them: separators, encodings, Excel's habits, DataFrames, and what is refused."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.folders import refusal

from medvlad.datasets.manifest_table import is_table, read_table

COLUMNS = {"image": ("a.png", "b.png"), "label": ("x", "y, z")}


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


SPELLINGS = {
    "commas": b'image,label\na.png,x\nb.png,"y, z"\n',
    "semicolons": b"image;label\na.png;x\nb.png;y, z\n",
    "tabs": b"image\tlabel\na.png\tx\nb.png\ty, z\n",
    "BOM": b'\xef\xbb\xbfimage,label\na.png,x\nb.png,"y, z"\n',
    "UTF-16 of Excel": "image\tlabel\r\na.png\tx\r\nb.png\ty, z\r\n".encode("utf-16"),
    "UTF-16 big endian": "\ufeffimage;label\na.png;x\nb.png;y, z\n".encode("utf-16-be"),
    "CR LF": b'image,label\r\na.png,x\r\nb.png,"y, z"\r\n',
    "old Mac": b'image,label\ra.png,x\rb.png,"y, z"\r',
    "quotes": b'"image","label"\n"a.png","x"\n"b.png","y, z"\n',
    "sep=": b"sep=;\nimage;label\na.png;x\nb.png;y, z\n",
    "spaces": b' image , label \n a.png , x \nb.png  ,"y, z "\n',
    "no line break at the end": b'image,label\na.png,x\nb.png,"y, z"',
    "separators at the ends": b'image,label,,\na.png,x,,\nb.png,"y, z",,\n',
}


@pytest.mark.parametrize("content", SPELLINGS.values(), ids=SPELLINGS)
def test_each_way_of_writing_a_table_gives_the_same_cells(tmp_path, content):
    table = read_table(written(tmp_path / "t.csv", content))
    assert table.columns == COLUMNS
    assert list(table.rows) == [2, 3]


def test_empty_rows_are_left_out_and_the_others_keep_their_numbers(tmp_path):
    table = read_table(written(tmp_path / "t.csv", "image,label\n\na.png,x\n , \n,,\nb.png,y\n\n"))
    assert table.columns["image"] == ("a.png", "b.png")
    assert list(table.rows) == [3, 6]
    assert table.n_empty == 4


def test_a_line_break_inside_quotes_does_not_shift_the_numbers_of_rows(tmp_path):
    table = read_table(written(tmp_path / "t.csv", 'image,note\na.png,"two\nlines"\nb.png,one\n'))
    assert list(table.rows) == [2, 3]
    assert table.columns["note"] == ("two\nlines", "one")


def test_a_short_row_has_empty_cells(tmp_path):
    table = read_table(written(tmp_path / "t.csv", "image,label,sex\na.png,x\n"))
    assert table.columns["sex"] == ("",)


@pytest.mark.parametrize("n", [511, 512, 513, 1500])
def test_rows_are_numbered_from_the_header_in_tables_of_any_length(tmp_path, n):
    lines = ["", "image,label", *(f"{i}.png,x" for i in range(n))]
    table = read_table(written(tmp_path / "t.csv", "\n".join(lines)))
    assert table.columns["image"] == tuple(f"{i}.png" for i in range(n))
    assert list(table.rows) == list(range(3, n + 3))


def test_the_first_wrong_row_of_a_long_table_is_refused(tmp_path):
    lines = ["image,label", *["a.png,x"] * 800, "b.png,y,z", *["a.png,x"] * 9, 'c.png,"y']
    refusal(lambda: read_table(written(tmp_path / "t.csv", "\n".join(lines))), "row 802", "3 cells")
    lines[801] = ""
    refusal(lambda: read_table(written(tmp_path / "t.csv", "\n".join(lines))), "row 812", "quotation marks")


def test_a_table_whose_cells_are_all_empty_is_refused(tmp_path):
    refusal(lambda: read_table(written(tmp_path / "t.csv", '"",""\n')), "t.csv", "is empty")


REFUSED = {
    "no header": ("a.png,NORMAL\nb.png,NORMAL\n", ["no header", "'a.png | NORMAL'", "image,label"]),
    "two columns of one name": ("image,label,label\na.png,x,y\n", ["two columns 'label'"]),
    "too many cells": ("image,label\na.png,x\nb.png,y,z\n", ["row 3", "3 cells", "has 2"]),
    "open quote": ('image,label\na.png,"x\nb.png,y\n', ["row 2", "quotation marks"]),
    "text behind a quote": ('image,label\na.png,x\nb.png,"y"z\n', ["row 3", "quotation marks"]),
    "nothing": ("", ["is empty"]),
    "blank lines": ("\n\n", ["is empty"]),
    "header only": ("image,label\n", ["no row"]),
    "Windows-1252": (b"image,label\na.png,x\nb.png,M\xfcller\n", ["row 3", "UTF-8", "0xfc"]),
    "null characters": (b"image,label\na\0.png,x\n", ["row 2", "null"]),
    "workbook under another name": (b"PK\x03\x04rest", ["workbook", "CSV"]),
}


@pytest.mark.parametrize(("content", "parts"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_table_is_refused_in_one_sentence(tmp_path, content, parts):
    refusal(lambda: read_table(written(tmp_path / "t.csv", content)), "t.csv", *parts)


def test_a_workbook_is_refused_with_what_to_do(tmp_path):
    refusal(lambda: read_table(tmp_path / "t.xlsx"), "t.xlsx", "workbook", "CSV")


def test_a_missing_table_is_refused(tmp_path):
    refusal(lambda: read_table(tmp_path / "t.csv"), "t.csv", "cannot be read")


@pytest.mark.parametrize("wrong", [3, None, ["a.png"], {"image": ["a.png"]}])
def test_other_things_than_tables_are_refused(wrong):
    refusal(lambda: read_table(wrong), type(wrong).__name__, "DataFrame")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.csv", True), ("A.TSV", True), ("a.parquet", True), ("a.xlsx", True), ("a.png", False), ("a", False)],
)
def test_a_table_is_told_by_its_ending(name, expected):
    assert is_table(name) is expected


def test_a_folder_with_the_ending_of_a_table_is_no_table(tmp_path):
    (tmp_path / "t.csv").mkdir()
    assert not is_table(tmp_path / "t.csv")


# ----------------------------------------------------------------------------------------- DataFrames


def test_a_pandas_frame_is_read():
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    frame = pandas.DataFrame(
        {
            "image": ["a.png", "b.png", None],
            "n": [1, None, None],
            "x": [0.5, 1.0, None],
            "yes": [True, None, None],
        }
    )
    table = read_table(frame)
    assert table.columns == {
        "image": ("a.png", "b.png"),
        "n": ("1", ""),
        "x": ("0.5", "1.0"),
        "yes": ("True", ""),
    }
    assert table.n_empty == 1


def test_pandas_types_with_their_own_missing_values_are_read():
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    frame = pandas.DataFrame(
        {
            "image": ["a.png", "b.png"],
            "n": pandas.array([1, None], dtype="Int64"),
            "when": [pandas.Timestamp("2020-01-02"), pandas.NaT],
            "kind": pandas.Categorical(["x", None]),
        }
    )
    table = read_table(frame)
    assert table.columns["n"] == ("1", "")
    assert table.columns["when"][1] == ""
    assert table.columns["kind"] == ("x", "")


def test_a_polars_frame_is_read():
    polars = pytest.importorskip("polars", reason="needs polars")
    frame = polars.DataFrame({"image": ["a.png", "b.png"], "label": ["x", None], "n": [1, None]})
    assert read_table(frame).columns == {"image": ("a.png", "b.png"), "label": ("x", ""), "n": ("1", "")}


def test_a_parquet_file_is_read_as_the_frame_it_was_written_from(tmp_path):
    polars = pytest.importorskip("polars", reason="needs the extra tables")
    frame = polars.DataFrame({"image": ["a.png", "b.png"], "label": ["x", None], "n": [1, None]})
    frame.write_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert table.columns == read_table(frame).columns
    assert table.folder == tmp_path


def test_a_damaged_parquet_file_is_refused(tmp_path):
    pytest.importorskip("polars", reason="needs the extra tables")
    refusal(lambda: read_table(written(tmp_path / "t.parquet", b"PAR1 nonsense")), "t.parquet", "Parquet")


# ----------------------------------------------------------------------------------------- invariants

cells = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8).filter(
    lambda text: text == text.strip() and not text.lower().startswith("sep=")
)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=6), st.sampled_from(",;\t"), st.booleans())
def test_what_a_csv_writer_writes_is_read_back(tmp_path_factory, rows, delimiter, marked):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([["image", "label"], *rows])
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_text(text.getvalue(), encoding="utf-8-sig" if marked else "utf-8", newline="")
    columns = read_table(path).columns
    assert list(zip(columns["image"], columns["label"], strict=True)) == rows
