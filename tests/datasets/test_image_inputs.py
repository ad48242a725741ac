"""Images are named by files, folders, lists, standard input and tables, in that order and without a limit."""

import io
import itertools
import os

import numpy as np
import pytest
from PIL import Image

from medvlad import InputError
from medvlad.datasets.image_inputs import check_inputs, list_inputs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Six images in two folders, and a text file."""
    for name in ("x/a.png", "x/b.png", "x/deep/c.png", "y/d.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    (tmp_path / "x" / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_and_folders_are_listed_in_order(folder):
    assert list(list_inputs(["y/d.png", "x", "y/d.png"])) == [
        "y/d.png",
        "x/a.png",
        "x/b.png",
        "x/deep/c.png",
        "y/d.png",
    ]


@pytest.mark.parametrize("content", [b"x/a.png\ny/d.png\n", b"\xef\xbb\xbfx/a.png\r\n\r\ny/d.png", b"\n x\n"])
def test_a_list_names_an_image_a_line(folder, content):
    (folder / "list.txt").write_bytes(content)
    expected = [" x"] if content.startswith(b"\n") else ["x/a.png", "y/d.png"]
    assert list(list_inputs(["@list.txt"])) == expected
    assert list(list_inputs(["-"], standard_input=io.BytesIO(content))) == expected


@pytest.mark.skipif(os.name == "nt", reason="backslashes separate folders there anyway")
@pytest.mark.parametrize(
    ("written", "found"),
    [
        (r"x\deep\c.png", "x/deep/c.png"),
        (r"x\a.png#0", "x/a.png#0"),
        (r"C:\data\x\a.png", "x/a.png"),
        ("C:/data/x/a.png", "x/a.png"),
        (r"y\own.png", r"y\own.png"),  # a file of this name exists
        (r"no\such.png", r"no\such.png"),
        (r"D:\no\such.png", r"D:\no\such.png"),
    ],
)
def test_names_in_lists_may_be_those_of_windows(folder, written, found):
    (folder / r"y\own.png").touch()
    (folder / "y" / "own.png").touch()
    (folder / "list.txt").write_text(written + "\r\n")
    assert list(list_inputs(["@list.txt"])) == [found]
    assert list(list_inputs(["-"], standard_input=io.BytesIO(written.encode()))) == [found]


def test_names_are_read_when_they_are_needed():
    endless = (f"{i}.png\n".encode() for i in itertools.count())
    assert list(itertools.islice(list_inputs(["-"], standard_input=endless), 3)) == [
        "0.png",
        "1.png",
        "2.png",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "image,label\na.png,1\nb.png,2\n",
        "label;File\n1;a.png\n\n2;b.png\n;\n",
        'label\tPATH\n"x"\ta.png\nx\t"b.png"\n',
        "filename\na.png \n b.png\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_names_an_image_a_row(folder, text, encoding):
    (folder / "x" / "table.csv").write_bytes(text.encode(encoding))
    assert list(list_inputs(["x/table.csv"])) == ["x/a.png", "x/b.png"]
    assert list(list_inputs(["x/table.csv"], image_root="y")) == ["y/a.png", "y/b.png"]


def test_a_column_may_be_named(folder):
    (folder / "t.csv").write_text("image,Scan\na.png,b.png\n")
    assert list(list_inputs(["t.csv"], image_column="scan")) == ["b.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,1\nb.png,2\n", r"has no header, because its first row is 'a\.png \| 1'"),
        ("", "is empty: write a first row"),
        ("image,n\n,2\n", r"1 row has no image in the column 'image' of 't\.csv' \(row 2\)"),
        ("n,image\n1\n", r"1 row has no image in the column 'image' of 't\.csv' \(row 2\)"),
        ("image\nhdfs://bucket/a.png\n", r"row 2 of 't\.csv': the image 'hdfs://bucket/a\.png' is a URL"),
        ("name,n\na.png,2\n", "has no column of images: its columns are 'name', 'n'"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_its_row(folder, text, message):
    (folder / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        list(list_inputs(["t.csv"]))


def test_a_table_in_another_encoding_is_refused(folder):
    (folder / "t.csv").write_bytes(b"image\n\xff\xe9.png\n")
    with pytest.raises(InputError, match=r"row 2 of the table 't\.csv' is not UTF-8 .*CSV UTF-8"):
        list(list_inputs(["t.csv"]))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["gone.png"], "there is no image gone.png: check the path"),
        (["@gone"], "there is no list of images gone: check the path, or write ./@gone"),
        (["@"], r"there is no list of images \(no name\)"),
        (["x", "-", "-"], "can be read once only"),
        (["gone.csv"], "there is no image gone.csv"),
        (["hdfs://bucket/a.png"], "is a URL"),
    ],
)
def test_mistakes_are_found_before_anything_is_read(folder, inputs, message):
    with pytest.raises(InputError, match=message):
        check_inputs(inputs)


def test_missing_images_of_a_table_are_counted_with_their_rows(folder):
    (folder / "x" / "t.csv").write_text("image,label\na.png,1\ngone.png,2\nb.png,1\n")
    with pytest.raises(InputError, match=r"1 of the 3 images of 'x/t\.csv' were not found .*: row 3: gone"):
        check_inputs(["x/t.csv"])
    check_inputs(["x/t.csv"], must_exist=False)
    assert list(list_inputs(["x/t.csv"])) == ["x/a.png", "x/gone.png", "x/b.png"]


def test_an_image_that_a_table_names_twice_is_listed_twice(folder):
    (folder / "t.csv").write_text("image\nx/a.png\ny/d.png\nx/a.png\n")
    check_inputs(["t.csv"])
    assert list(list_inputs(["t.csv"])) == ["x/a.png", "y/d.png", "x/a.png"]


def test_a_parquet_table_names_images(folder):
    polars = pytest.importorskip("polars", reason="needs the extra tables")
    polars.DataFrame({"label": [1, 2], "path": ["a.png", "deep/c.png"]}).write_parquet("x/t.parquet")
    check_inputs(["x/t.parquet"])
    assert list(list_inputs(["x/t.parquet"])) == ["x/a.png", "x/deep/c.png"]


@pytest.mark.skipif(os.name == "nt", reason="Windows opens such paths itself")
def test_windows_paths_of_a_table_are_understood(folder):
    (folder / "t.csv").write_text("sep=;\nimage;n\nC:\\scans\\x\\a.png;1\nC:\\scans\\x\\deep\\c.png;2\n")
    check_inputs(["t.csv"])
    assert list(list_inputs(["t.csv"])) == ["x/a.png", "x/deep/c.png"]


def test_images_of_a_table_lie_in_the_given_folder(folder):
    (folder / "t.csv").write_text("image\n../y/d.png\n")
    with pytest.raises(InputError, match="1 image lies outside the folder 'x' of `image_root`"):
        check_inputs(["t.csv"], image_root="x")


def test_a_workbook_is_refused_with_advice(folder):
    (folder / "t.xlsx").touch()
    with pytest.raises(InputError, match=r"'t\.xlsx' is a workbook, which is not read: save the sheet"):
        check_inputs(["t.xlsx"])


@pytest.mark.parametrize("option", [{"image_root": "x"}, {"image_column": "scan"}])
def test_options_of_tables_need_a_table(folder, option):
    with pytest.raises(InputError, match="is for tables, and no table is given: leave it out"):
        check_inputs(["x/a.png", "@list.csv", "-"], **option)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_a_list_without_a_name_is_refused(folder, content):
    (folder / "list.txt").write_bytes(content)
    with pytest.raises(
        InputError, match=r"the list of images list\.txt names no image: write one name a line"
    ):
        list(list_inputs(["@list.txt"]))
    with pytest.raises(InputError, match="standard input names no image"):
        list(list_inputs(["x", "-"], standard_input=io.BytesIO(content)))


def test_a_missing_image_may_be_allowed_but_not_a_missing_list(folder):
    check_inputs(["gone.png"], must_exist=False)
    with pytest.raises(InputError, match="no list of images"):
        check_inputs(["@gone"], must_exist=False)
    (folder / "t.csv").write_text("image\na.png\n")
    with pytest.raises(InputError, match="gone"):
        check_inputs(["t.csv"], image_root="gone")


def test_a_folder_without_images_is_refused(folder):
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="there is no image below empty"):
        list(list_inputs(["empty"]))


def test_a_line_with_a_null_byte_is_refused():
    with pytest.raises(InputError, match="line 2 of the list of images holds a null byte"):
        list(list_inputs(["-"], standard_input=io.BytesIO(b"a.png\nb\0c\n")))
