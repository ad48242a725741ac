"""The two tables of Farhat & Sicre, cell by cell: what they report and what is found here.

Table 1: average pooling, L2, linear SVM, at input sizes 224, 544 and 864 (scales 0, 1, 2). Table 2: VLAD with
64 and 256 centres. Accuracies on the test set, VGG19 cut at block5_pool.

The paper does not say: the resize filter, which 40 + 40 images of MIT Indoor-67 make Mini MIT, which 1,600
images of Kvasir v2 are tested, which scales feed VLAD, whether descriptors or VLAD are normalised otherwise
than by L2, the SVM's C, seeds. Each is a setting here, and stands in every result. Another network than
VGG19, or a data set that stands in for one that is not at hand, is named as what it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medvlad._util.validate import InputError
from medvlad.experiment import Experiment
from medvlad.report.html import Page

__all__ = ["PAPER", "Role", "paper_page", "paper_tables", "paper_text"]

#: Accuracy that the paper reports: by data set, then by encoding and, for "avg", scale.
PAPER: dict[str, dict[tuple[str, int | None], float]] = {
    "mini-mit": {
        ("avg", 0): 0.78,
        ("avg", 1): 0.82,
        ("avg", 2): 0.78,
        ("vlad64", None): 0.82,
        ("vlad256", None): 0.84,
    },
    "chest-xray": {
        ("avg", 0): 0.80,
        ("avg", 1): 0.81,
        ("avg", 2): 0.78,
        ("vlad64", None): 0.77,
        ("vlad256", None): 0.78,
    },
    "kvasir-v2": {
        ("avg", 0): 0.87,
        ("avg", 1): 0.87,
        ("avg", 2): 0.86,
        ("vlad64", None): 0.88,
        ("vlad256", None): 0.88,
    },
}
_VLADS = ("vlad64", "vlad256")
_NAMES = {"mini-mit": "Mini MIT", "chest-xray": "Chest X-ray", "kvasir-v2": "Kvasir v2"}


@dataclass(frozen=True)
class Role:
    """A folder of images and the data set of the paper that it is, or stands in for.

    Attributes
    ----------
    name : str
        A key of :data:`PAPER`.
    root : Path
    stands_in : bool
        Whether the images are others, in a folder of the ordinary layout.
    anonymous : bool
        Whether to leave the folder's name out of the tables.
    """

    name: str
    root: Path
    stands_in: bool = False
    anonymous: bool = False

    @property
    def title(self) -> str:
        """What it is called in a table."""
        if not self.stands_in:
            return _NAMES[self.name]
        return f"{'other images' if self.anonymous else self.root.name}, for {_NAMES[self.name]}"


def paper_tables(
    roles: Sequence[Role],
    experiment: Experiment,
    *,
    scales: Sequence[int] = (0, 1, 2),
    vlad_scales: tuple[int, ...] = (0,),
) -> dict[str, Any]:
    """Fill the cells of both tables.

    Parameters
    ----------
    roles : sequence of Role
        The data sets that are at hand.
    experiment : Experiment
        All other settings; its layout and scales are not looked at.
    scales : sequence of int
        Columns of table 1.
    vlad_scales : tuple of int
        Scales whose descriptors go into VLAD together.

    Returns
    -------
    dict
        cells (data, stands_in, encode, scales, paper, accuracy, accuracy_ci95, ...), runs (what
        :meth:`medvlad.experiment.Experiment.evaluate` found, by data set and scales), ready for JSON.

    Raises
    ------
    InputError
        If there is no data set, or as :meth:`medvlad.experiment.Experiment.evaluate`.
    """
    if not roles:
        raise InputError("name at least one data set: --mini-mit, --chest-xray, --kvasir-v2, or a stand-in")
    loaded = []
    for role in roles:
        run = replace(experiment, layout="folder" if role.stands_in else role.name)
        loaded.append((role, run, run.load(role.root)))  # all mistakes before the long work
    cells, runs = [], []
    for role, run, dataset in loaded:
        wanted: dict[tuple[int, ...], list[str]] = {(scale,): ["avg"] for scale in scales}
        wanted.setdefault(vlad_scales, []).extend(_VLADS)
        for these, encodings in wanted.items():
            found = replace(run, scales=these).evaluate(dataset, encodings).results
            runs.append({"data": role.title} | found)
            for result in found["results"]:
                encode = result["encode"]
                column = (encode, these[0] if encode == "avg" else None)
                cells.append(
                    {
                        "data": role.title,
                        "stands_in": role.stands_in,
                        "encode": encode,
                        "scales": list(these),
                        "paper": PAPER[role.name].get(column),
                    }
                    | {
                        name: result[name]
                        for name in ("accuracy", "accuracy_ci95", "balanced_accuracy", "auc", "n_test")
                    }
                )
    return {"cells": cells, "runs": runs}


def _rows(found: Mapping[str, Any], *, vlad: bool) -> list[list[Any]]:
    rows = []
    for cell in found["cells"]:
        if cell["encode"].startswith("vlad") == vlad:
            low, high = cell["accuracy_ci95"]
            what = cell["encode"] if vlad else f"scale {cell['scales'][0]}"
            given = None if cell["paper"] is None else f"{cell['paper']:.2f}"
            ours = f"{cell['accuracy']:.3f}"
            rows.append([cell["data"], what, given, ours, f"{low:.3f} to {high:.3f}"])
    return rows


_HEADER = ["data", "", "paper", "here", "95 % interval"]
_TITLES = {False: "Table 1: average pooling, linear SVM", True: "Table 2: VLAD, linear SVM"}


def paper_text(found: Mapping[str, Any]) -> str:
    """Both tables as plain text."""
    lines: list[str] = []
    for vlad, title in _TITLES.items():
        rows = [_HEADER, *([str(value or "-") for value in row] for row in _rows(found, vlad=vlad))]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += [title, ""]
        lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.append("")
    return "\n".join(lines)


def paper_page(found: Mapping[str, Any]) -> Page:
    """Both tables, and all settings, as a page."""
    settings = found["runs"][0]["settings"]
    page = Page(
        "The paper's tables",
        "Farhat & Sicre, CNNs for medical image transfer learning + VLAD aggregation, with "
        f"{settings['model']} (the paper: VGG19) cut at {settings['layer']}.",
    )
    if settings["model"] != "vgg19":
        page.paragraph(
            f"These figures are of {settings['model']}, not of the paper's VGG19, so they are others.",
            "warning",
        )
    if any(cell["stands_in"] for cell in found["cells"]):
        page.paragraph(
            "A data set that is 'for' another is a stand-in: other images, so its figures cannot be those of "
            "the paper.",
            "warning",
        )
    for vlad, title in _TITLES.items():
        page.heading(title)
        scales = sorted({tuple(c["scales"]) for c in found["cells"] if c["encode"].startswith("vlad")})
        fed = " and ".join(",".join(map(str, one)) for one in scales)
        caption = "Accuracy on the test images, interval of Wilson."
        caption += f" VLAD is fed by scale {fed}." if vlad else ""
        page.table(_HEADER, _rows(found, vlad=vlad), caption)
    page.heading("Settings and versions")
    page.details("Settings", settings)
    page.details("Versions", found["runs"][0]["versions"])
    for run in found["runs"]:
        seconds = {r["encode"]: r["seconds"] for r in run["results"]}
        page.details(f"Seconds: {run['data']}, scale {run['settings']['scales']}", seconds)
    return page
