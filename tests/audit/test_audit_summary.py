"""The plain text of an audit."""

import numpy as np
import pytest
from support.planted import audited, copied, picture, save, write_set

from medvlad.audit import audit_summary


@pytest.fixture
def lines(rng, tmp_path):
    """Summary of a set with an error, a warning and a note."""
    root = write_set(tmp_path, rng, n=4)
    copied(rng, root, "train/a/c1.png", "train/a/c2.png")
    copied(rng, root, "train/b/d1.png", "test/b/d2.png")
    save(picture(rng, 400), root / "test" / "a" / "large.png")
    return audit_summary(audited(root)).splitlines()


def test_a_summary_puts_errors_first(lines):
    starts = [line.split(":")[0] for line in lines[1:5]]
    assert starts == ["error", "warning", "note", "nothing found"]


def test_a_summary_names_examples_below_the_common_folder(lines):
    assert lines[1].endswith("train/b/d1.png = test/b/d2.png")
    assert "1 test image is in the training part as well" in lines[1]


def test_a_summary_has_at_most_two_examples_of_a_finding(lines):
    assert all(line.count(" = ") <= 2 for line in lines)


def test_a_summary_names_checks_of_parts_that_found_nothing(rng, tmp_path):
    whole = audit_summary(audited(write_set(tmp_path, rng, n=12)))
    assert "shortcuts, parts that differ" in whole.partition("nothing found: ")[2].partition("\n")[0]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Summary of three images a class, without parts and patients."""
    root = write_set(tmp_path_factory.mktemp("few"), np.random.default_rng(0), n=3, parts=("all",))
    return audit_summary(audited(root / "all"))


def test_what_was_not_tried_is_not_said_to_be_clear(few):
    assert "nothing found: unreadable files, identical images, near duplicates, borders and boxes" in few


@pytest.mark.parametrize(
    "line",
    [
        "shared patients: not tried: no patients are known",
        "parts that differ: not tried: there is no train and test part",
        "shortcuts, cross-validation: not tried",
    ],
)
def test_a_summary_says_what_was_not_tried_and_why(few, line):
    assert line in few
