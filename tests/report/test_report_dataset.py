"""What a report and an audit say about patients that are not known and files that were left out."""

import html
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.folders import touch
from support.medical_files import write_dicom

from medvlad.audit import audit, audit_summary
from medvlad.datasets.describe import describe_dataset
from medvlad.datasets.folders import load_image_folder
from medvlad.report.audit import audit_page
from medvlad.report.dataset import add_dataset
from medvlad.report.html import Page


@pytest.fixture
def mixed(tmp_path):
    """Two classes of DICOM and PNG files; one has two slides that are not read."""
    rng = np.random.default_rng(3)
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(2):
            pixels = rng.integers(0, 4096, (64, 64), dtype=np.uint16)
            write_dicom(tmp_path / label / f"{i}.dcm", pixels, bits=12, PatientID=f"{label}{i}")
            Image.fromarray((pixels // 16).astype(np.uint8).T).save(tmp_path / label / f"{i}.png")
    touch(tmp_path, "b/1.svs", "b/2.svs")
    return load_image_folder(tmp_path)


def rows(page):
    """The texts of the cells of each row."""
    found = re.findall("<tr>(.*?)</tr>", page.html(), re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall("<t[dh][^>]*>(.*?)</t[dh]>", row)] for row in found]


def test_a_report_counts_unknown_patients_and_files_left_out(mixed):
    page = Page("x")
    add_dataset(page, describe_dataset(mixed))
    shown = rows(page)
    assert ["a", ".png", "0", "2"] in shown
    assert ["b", "DICOM", "2", "0"] in shown
    assert ["b", ".svs", "2"] in shown


def test_a_report_of_known_patients_has_no_such_section(mixed):
    page = Page("x")
    before = page.html()
    known = mixed.take(mixed.kinds == "DICOM")
    add_dataset(page, describe_dataset(replace(known, left_out={})))
    assert page.html() == before


def test_a_report_shows_examples_of_patients_that_names_tell(tmp_path):
    touch(tmp_path, "a/patient1.png", "b/patient2.png")
    page = Page("x")
    add_dataset(page, describe_dataset(load_image_folder(tmp_path)))
    told = (
        f"such as patient1 from {tmp_path / 'a/patient1.png'}, patient2 from {tmp_path / 'b/patient2.png'}."
    )
    assert html.escape(told) in page.html()


def test_an_audit_finds_unknown_patients_and_files_left_out(mixed):
    found = audit(mixed)
    by_kind = {one["kind"]: one for one in found["findings"]}
    unknown, left_out = by_kind["unknown_patients"], by_kind["files_left_out"]
    assert (unknown["severity"], unknown["unknown"]) == ("warning", {"a": {".png": 2}, "b": {".png": 2}})
    assert (left_out["severity"], left_out["left_out"]) == ("warning", {"b": {".svs": 2}})
    summary = audit_summary(found)
    assert "warning: the patient of 4 images is not known, and that of 4 is (a: 2 .png; b: 2 .png)" in summary
    assert "8 images, 2 classes, 4 patients and 4 files of unknown patients" in summary
    assert "4 patients and 4 files of unknown patients" in audit_page(found).html()
    assert "warning: 2 files left out, in formats that are not read (b: 2 .svs)" in summary
