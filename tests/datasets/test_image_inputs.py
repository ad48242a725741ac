"""Images are named by files, folders, lists, standard input and tables, in that order and without a limit."""

import io
import itertools

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
        ("a.png,1\nb.png,2\n", r"no column image, path, file or filename, its first row is a\.png, 1"),
        ("", "its first row is nothing"),
        ("image,n\n,2\n", "row 2 has no image"),
        ("n,image\n1\n", "row 2 has no image"),
        ("image\ns3://bucket/a.png\n", r"row 2: the image 's3://bucket/a\.png' is a URL"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_its_row(folder, text, message):
    (folder / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        list(list_inputs(["t.csv"]))


def test_a_table_in_another_encoding_is_refused(folder):
    (folder / "t.csv").write_bytes(b"image\n\xff\xe9.png\n")
    with pytest.raises(InputError, match=r"t\.csv cannot be read .*save it as CSV in UTF-8"):
        list(list_inputs(["t.csv"]))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["gone.png"], "there is no image gone.png: check the path"),
        (["@gone"], "there is no list of images gone: check the path, or write ./@gone"),
        (["@"], r"there is no list of images \(no name\)"),
        (["x", "-", "-"], "can be read once only"),
        (["gone.csv"], "there is no image gone.csv"),
        (["s3://bucket/a.png"], "is a URL"),
    ],
)
def test_mistakes_are_found_before_anything_is_read(folder, inputs, message):
    with pytest.raises(InputError, match=message):
        check_inputs(inputs)


def test_a_missing_image_may_be_allowed_but_not_a_missing_list(folder):
    check_inputs(["gone.png"], must_exist=False)
    with pytest.raises(InputError, match="no list of images"):
        check_inputs(["@gone"], must_exist=False)
    with pytest.raises(InputError, match="image_root"):
        check_inputs(["x/a.png"], image_root="gone")


def test_a_folder_without_images_is_refused(folder):
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="there is no image below empty"):
        list(list_inputs(["empty"]))


def test_a_line_with_a_null_byte_is_refused():
    with pytest.raises(InputError, match="line 2 of the list of images holds a null byte"):
        list(list_inputs(["-"], standard_input=io.BytesIO(b"a.png\nb\0c\n")))
