"""Answers are written one after another, and what is written stays."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from medvlad.cli.answer_writer import AnswerWriter, format_of

ONE = {"image": "a.png", "label": "x", "scores": {"x": 1.5, "y": -0.5}}
TWO = {"image": "long name.png", "label": "y", "scores": {"x": 0.0, "y": 2.0}, "damaged": "cut, badly"}
GONE = {"image": "gone.png", "reason": "it does not exist"}


def written(format, answers, path):
    with AnswerWriter(format, path) as writer:
        for answer in answers:
            writer.add(None, answer) if "reason" in answer else writer.add(answer, None)
        writer.finish()
    return path.read_text()


def test_json_lines_have_one_object_an_image(tmp_path):
    lines = written("jsonl", [ONE, GONE, TWO], tmp_path / "a").splitlines()
    assert [json.loads(line) for line in lines] == [
        ONE,
        {"image": "gone.png", "skipped": "it does not exist"},
        TWO,
    ]


@pytest.mark.parametrize("answers", [[ONE, GONE, TWO], [GONE, ONE, TWO], [GONE, GONE, TWO, ONE]])
def test_csv_has_one_row_an_image_in_order(tmp_path, answers):
    rows = list(csv.DictReader(written("csv", answers, tmp_path / "a").splitlines()))
    assert [row["image"] for row in rows] == [one["image"] for one in answers]
    by_name = {row["image"]: row for row in rows}
    assert (by_name["a.png"]["label"], float(by_name["a.png"]["score_x"])) == ("x", 1.5)
    assert by_name["long name.png"]["damaged"] == "cut, badly"
    if GONE in answers:
        assert (by_name["gone.png"]["skipped"], by_name["gone.png"]["label"]) == ("it does not exist", "")


def test_csv_of_skipped_images_only_has_a_header(tmp_path):
    assert written("csv", [GONE], tmp_path / "a") == "image,label,skipped\ngone.png,,it does not exist\n"


def test_csv_holds_whatever_else_is_said(tmp_path):
    more = ONE | {
        "probabilities": {"x": 0.75, "y": 0.25},
        "prediction_set": ["x", "y"],
        "novelty_p": 0.5,
        "label": None,
        "similar": [{"image": "b.png"}, {"image": "c.png"}],
    }
    (row,) = csv.DictReader(written("csv", [more], tmp_path / "a").splitlines())
    assert (row["probability_x"], row["prediction_set"], row["novelty_p"]) == ("0.75", "x|y", "0.5")
    assert (row["similar"], row["label"]) == ("b.png|c.png", "")


def test_csv_has_one_column_a_number(tmp_path):
    one = {"image": "a.png", "values": {"age": 61.5}, "value": 61.5}
    assert written("csv", [one], tmp_path / "a") == "image,value_age,damaged,skipped\na.png,61.5,,\n"


def test_a_document_is_complete_at_the_end(tmp_path):
    assert json.loads(written("json", [ONE, GONE], tmp_path / "a")) == {
        "predictions": [ONE],
        "skipped": [GONE],
    }


def test_a_table_aligns_names_and_escapes_line_breaks(tmp_path):
    text = written("table", [ONE, GONE, TWO, ONE | {"image": "two\nlines"}], tmp_path / "a")
    assert text.splitlines() == [
        "a.png  x  (x +1.500  y -0.500)",
        "long name.png  y  (x +0.000  y +2.000)",
        "two\\nlines     x  (x +1.500  y -0.500)",
    ]


@pytest.mark.parametrize("format", ["csv", "jsonl", "table"])
def test_an_answer_is_in_the_file_before_the_next_image(tmp_path, format):
    with AnswerWriter(format, tmp_path / "a") as writer:
        writer.add(ONE, None)
        assert "a.png" in (tmp_path / "a").read_text()


@pytest.mark.parametrize(
    ("wanted", "as_json", "out", "expected"),
    [
        (None, False, None, "table"),
        (None, True, None, "json"),
        ("json", True, None, "json"),
        ("csv", False, "a.json", "csv"),
        (None, False, "a.CSV", "csv"),
        (None, False, "a.jsonl", "jsonl"),
        (None, False, "a.ndjson", "jsonl"),
        (None, False, "a.json", "json"),
        (None, False, "a.txt", "table"),
    ],
)
def test_the_format_is_asked_for_or_follows_the_name(wanted, as_json, out, expected):
    assert format_of(wanted, as_json, None if out is None else Path(out)) == expected


def test_two_formats_are_refused():
    with pytest.raises(click.UsageError, match="contradict each other"):
        format_of("csv", True, None)


#: A million answers, whose reader ends after the first.
ENDLESS = """
import itertools, sys
from medvlad.cli.answer_writer import AnswerWriter, ReaderGone
from medvlad.cli.streams import finish_output, forget_output, open_streams
open_streams()
one = {"image": "a.png", "label": "x", "scores": {"x": 1.0}}
try:
    with AnswerWriter("jsonl", None) as writer:
        for i in range(10 ** 6):
            writer.add(one, None)
except ReaderGone:
    forget_output()
    print(writer.n_written < 10 ** 6, file=sys.stderr)
    finish_output()
    sys.exit(141)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX pipe")
def test_a_reader_that_ends_stops_the_work_quietly():
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert "a.png" in process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "True\n"
    process.stderr.close()
    assert process.wait() == 141


@pytest.mark.parametrize("label", ["x", None], ids=["by threshold", "abstained"])
def test_a_label_that_is_not_the_most_probable_class_is_explained(tmp_path, label):
    answer = ONE | {"label": label, "probabilities": {"x": 0.07, "y": 0.93}}
    (line,) = written("table", [answer], tmp_path / "a").splitlines()
    assert "  most probable: y 0.93  (x +1.500" in line
    assert "most probable" not in written("table", [answer | {"label": "y"}], tmp_path / "b")


def test_similar_images_are_in_the_table(tmp_path):
    near = [{"image": name, "label": "y", "distance": 0.5} for name in ("b.png", "c.png")]
    line = written("table", [ONE | {"similar": near}], tmp_path / "a")
    assert line.endswith("  similar: b.png (y), c.png (y)\n")
