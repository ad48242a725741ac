"""CITATION.cff must describe the package that it is delivered with."""

from __future__ import annotations

import re
from importlib.metadata import metadata
from pathlib import Path

import medvlad

CITATION = (Path(__file__).parents[1] / "CITATION.cff").read_text()


def field(name):
    """A field of the citation itself, not of the paper that it refers to."""
    return re.findall(rf"^{name}: (.+)$", CITATION, re.MULTILINE)


def test_the_cited_version_is_the_version_of_the_package():
    assert field("version") == [medvlad.__version__]


def test_the_cited_licence_is_the_licence_of_the_package():
    assert field("license") == [metadata("medvlad")["License-Expression"]]
