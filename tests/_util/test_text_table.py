"""Plain-text tables."""

import pytest

from medvlad._util.text_table import printable, text_table


def test_columns_are_as_wide_as_their_widest_cell():
    assert text_table(["name", "n"], [["a", 10], ["longer", 2]]).splitlines() == [
        "name    n",
        "------  --",
        "a       10",
        "longer  2",
    ]


def test_none_is_shown_as_a_dash():
    assert text_table(["x"], [[None]]).splitlines()[-1] == "-"


def test_a_table_without_rows_has_its_header():
    assert text_table(["a", "b"], []) == "a  b\n-  -"


def test_no_line_ends_in_spaces():
    assert all(line == line.rstrip() for line in text_table(["a", "wide"], [["b", ""]]).splitlines())


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="argument"):
        text_table(["a", "b"], [["only one"]])


def test_a_line_break_in_a_name_does_not_break_the_table():
    assert text_table(["name", "n"], [["a\nb", 1]]).splitlines() == ["name  n", "----  -", "a\\nb  1"]


def test_control_characters_are_escaped_and_other_characters_stay():
    assert printable("a\r\n\t\x1b[31m\x85\u2028") == "a\\r\\n\\t\\x1b[31m\\x85\\u2028"
    assert printable("Überfall é 肺\udcff") == "Überfall é 肺\udcff"
