"""What a report says about its data set: patients from file names, unknown patients, files left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvlad.report.html import Page

__all__ = ["add_dataset"]


def add_dataset(page: Page, described: Mapping[str, Any]) -> None:
    """Add what a reader must know of the data set.

    Nothing is added if all patients are known from headers and all files are read.

    Parameters
    ----------
    page : Page
    described : mapping
        What :func:`medvlad.datasets.describe.describe_dataset` returned.
    """
    patients = [
        [class_name, kind, one["known"], one["unknown"]]
        for class_name, by_kind in (described.get("patients") or {}).items()
        for kind, one in by_kind.items()
    ]
    left_out = [
        [class_name, ending, n]
        for class_name, by_ending in described.get("left_out", {}).items()
        for ending, n in by_ending.items()
    ]
    some_unknown = any(row[3] for row in patients)
    examples = described.get("patient_examples", [])
    if not some_unknown and not left_out and not examples:
        return
    page.heading("Patients and files")
    if examples:
        listed = ", ".join(f"{one['patient']} from {one['image']}" for one in examples)
        page.paragraph(f"Patients were read from file names, such as {listed}.")
    if some_unknown:
        page.table(
            ["class", "file", "images of known patients", "of unknown patients"],
            patients,
            "Each file of an unknown patient counts as a patient of its own. If it shows a patient of other "
            "images, training and test may share that patient.",
        )
    if left_out:
        page.table(
            ["class", "file", "number"],
            left_out,
            "These files were left out, because their formats are not read. If one class loses more images "
            "than another, the results are biased.",
        )
