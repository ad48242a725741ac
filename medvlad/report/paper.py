"""The two tables of Farhat & Sicre, cell by cell: the accuracy of the paper and the accuracy found here.

Table 1 is average pooling, L2 normalisation and a linear SVM at input sizes 224, 544 and 864 (scales 0, 1 and
2). Table 2 is VLAD with 64 and 256 centres. Both report the accuracy on the test set, with VGG19 cut at
block5_pool.

The paper leaves several settings open. Each of them is a setting here and is written into every result:

- the resize filter
- which 40 + 40 images of MIT Indoor-67 make Mini MIT
- which 1,600 images of Kvasir v2 are tested
- which scales feed VLAD
- normalisations of descriptors and VLAD other than L2
- C of the SVM, and all seeds

The tables name another network than VGG19, and a data set that stands in for one of the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medvlad._util.text_table import text_table
from medvlad._util.validate import InputError
from medvlad.experiment import Experiment
from medvlad.report.html import Page
from medvlad.report.settings import shown_settings

__all__ = ["PAPER", "Role", "paper_page", "paper_tables", "paper_text"]

#: Accuracy that the paper reports, by data set, then by encoding and scale. VLAD has no scale.
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
_NEAR = 0.02  # difference of accuracies
_VLADS = ("vlad64", "vlad256")
_NAMES = {"mini-mit": "Mini MIT", "chest-xray": "Chest X-ray", "kvasir-v2": "Kvasir v2"}


@dataclass(frozen=True)
class Role:
    """A folder of images, and the data set of the paper that it is or stands in for.

    Attributes
    ----------
    name : str
        A key of :data:`PAPER`.
    root : Path
        Folder of the images.
    stands_in : bool, default=False
        Whether the folder holds other images, in one subfolder for each class.
    anonymous : bool, default=False
        Whether to leave the name of the folder out of the tables.
    """

    name: str
    root: Path
    stands_in: bool = False
    anonymous: bool = False

    @property
    def title(self) -> str:
        """Name in the tables."""
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
    """Compute the cells of both tables.

    Parameters
    ----------
    roles : sequence of Role
        The data sets to evaluate, at least one.
    experiment : Experiment
        All other settings. Its layout and scales are ignored.
    scales : sequence of int, default=(0, 1, 2)
        Columns of table 1.
    vlad_scales : tuple of int, default=(0,)
        Scales whose descriptors VLAD encodes together.

    Returns
    -------
    dict
        Ready for JSON. cells: one dict for each cell with data, stands_in, encode, scales, paper (its
        accuracy, None if it has none), accuracy, accuracy_ci95, balanced_accuracy, auc and n_test; with
        several seeds over_seeds, see :func:`medvlad.experiment.seeds.over_seeds`. runs: the results of
        :meth:`medvlad.experiment.Experiment.evaluate` for each data set and scale.

    Raises
    ------
    InputError
        If `roles` is empty, or for the reasons of :meth:`medvlad.experiment.Experiment.evaluate`.
    """
    if not roles:
        raise InputError(
            "no data set was given: give the folder of mini-mit, chest-xray or kvasir-v2, or of a stand-in"
        )
    loaded = []
    for role in roles:
        run = replace(experiment, layout="folder" if role.stands_in else role.name)
        loaded.append((role, run, run.load(role.root)))  # mistakes are reported before the long work
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
                    | {name: result[name] for name in ("over_seeds",) if name in result}
                )
    return {"cells": cells, "runs": runs}


def _rows(found: Mapping[str, Any], *, vlad: bool) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of a table. The last column is left out if there is one seed."""
    rows = []
    for cell in found["cells"]:
        if cell["encode"].startswith("vlad") == vlad:
            ends = cell["accuracy_ci95"]
            what = cell["encode"] if vlad else f"scale {cell['scales'][0]}"
            given = None if cell["paper"] is None else f"{cell['paper']:.2f}"
            ours = f"{cell['accuracy']:.3f}"
            interval = None if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
            over = cell.get("over_seeds", {}).get("accuracy")
            spread = None if over is None else f"{over['mean']:.3f} ({over['std']:.3f})"
            rows.append([cell["data"], what, given, ours, interval, spread])
    if all(row[-1] is None for row in rows):
        return _HEADER[:-1], [row[:-1] for row in rows]
    return _HEADER, rows


_HEADER = ["data", "", "paper", "here", "95 % interval", "over seeds: mean (standard deviation)"]
_TITLES = {False: "Table 1: average pooling, linear SVM", True: "Table 2: VLAD, linear SVM"}


def paper_text(found: Mapping[str, Any]) -> str:
    """Return both tables of :func:`paper_tables` as plain text."""
    tables = [f"{title}\n\n{text_table(*_rows(found, vlad=vlad))}\n" for vlad, title in _TITLES.items()]
    return "\n".join(tables)


def paper_page(found: Mapping[str, Any]) -> Page:
    """Return both tables of :func:`paper_tables`, and all settings, as a page."""
    settings = found["runs"][0]["settings"]
    page = Page("The paper's tables")
    remarks = []
    if settings["model"] != "vgg19":
        remarks.append(
            (
                "warning",
                f"These accuracies are those of {settings['model']}. The paper uses VGG19, so they differ.",
            )
        )
    if any(cell["stands_in"] for cell in found["cells"]):
        remarks.append(
            (
                "warning",
                "A data set 'for' one of the paper is a stand-in. It has other images, so its accuracies "
                "cannot be compared with those of the paper.",
            )
        )
    compared = [cell for cell in found["cells"] if cell["paper"] is not None and not cell["stands_in"]]
    near = sum(abs(cell["accuracy"] - cell["paper"]) <= _NEAR for cell in compared)
    answer = (
        f"*{near} of {len(compared)}* accuracies are within {_NEAR} of the paper's."
        if compared
        else "No cell is of a data set of the paper."
    )
    page.card(
        [
            ("Question", ["Do the accuracies of Farhat & Sicre come out again?"]),
            (
                "Data",
                [
                    f"{', '.join(dict.fromkeys(cell['data'] for cell in found['cells']))}; "
                    f"{settings['model']} (the paper: VGG19) cut at {settings['layer']}."
                ],
            ),
            ("Answer", [answer]),
        ],
        remarks,
    )
    for vlad, title in _TITLES.items():
        page.heading(title)
        scales = sorted({tuple(c["scales"]) for c in found["cells"] if c["encode"].startswith("vlad")})
        fed = " and ".join(",".join(map(str, one)) for one in scales)
        caption = "Accuracy on the test images, with its 95 % interval (by patient, if patients are known)."
        caption += f" VLAD encodes the descriptors of scale {fed}." if vlad else ""
        page.table(*_rows(found, vlad=vlad), caption)
    page.heading("Settings and versions")
    page.details("Settings", shown_settings(settings))
    page.details("Versions", found["runs"][0]["versions"])
    for run in found["runs"]:
        seconds = {r["encode"]: r["seconds"] for r in run["results"]}
        run_scales = ",".join(map(str, run["settings"]["scales"]))
        page.details(f"Seconds: {run['data']}, scale {run_scales}", seconds)
    return page
