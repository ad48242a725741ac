"""Two runs compared on the same test images: presets, networks, scales, whatever differs between them.

The statistics stand in :mod:`medvlad.evaluation.bootstrap`.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, check_seed
from medvlad.datasets.pseudonyms import is_pseudonym
from medvlad.evaluation.bootstrap import compare

__all__ = ["compare_runs"]


@dataclass(frozen=True)
class _Decisions:
    """Decisions of one run, images in the order of their names."""

    images: list[str]
    patients: list[str]
    truth: list[str]
    class_names: list[str]
    decision: NDArray[np.float64]


def compare_runs(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    encodings: tuple[str | None, str | None] = (None, None),
    random_state: int = 0,
) -> dict[str, Any]:
    """Whether one of two runs of ``medvlad evaluate --out`` is better.

    Parameters
    ----------
    first, second : path
        Their folders.
    encodings : (str or None, str or None)
        Which encoding of each; None: the only one.
    random_state : int, default=0
        Seed of the bootstrap.

    Returns
    -------
    dict
        n_images, n_patients (None where they are unknown), and what
        :func:`medvlad.evaluation.bootstrap.compare` finds.

    Raises
    ------
    InputError
        If a folder holds no decisions, or they are not about the same images and classes.
    """
    check_seed(random_state, "random_state")
    for run in (first, second):
        if not (Path(run) / "predictions.csv").is_file():
            raise InputError(
                f"{run} holds no predictions.csv: name a folder that 'medvlad evaluate --out' wrote"
            )
    one, other = (_read(Path(run), encode) for run, encode in zip((first, second), encodings, strict=True))
    if (one.images, one.truth, one.class_names) != (other.images, other.truth, other.class_names):
        if any(is_pseudonym(run.images[0]) for run in (one, other)):
            raise InputError(
                f"{first} and {second} do not name the same images alike: what is anonymised compares with "
                "runs that were given the same --anonymise-key"
            )
        raise InputError(
            f"{first} and {second} are about other test images or classes: compare runs on the same "
            "data set with the same split"
        )
    labels = np.array([one.class_names.index(name) for name in one.truth])
    known = all(one.patients)
    return {
        "n_images": len(labels),
        "n_patients": len(set(one.patients)) if known else None,
    } | compare(
        labels,
        one.decision,
        other.decision,
        groups=np.array(one.patients) if known else None,
        random_state=random_state,
    )


def _read(folder: Path, encode: str | None) -> _Decisions:
    path = folder / "predictions.csv"
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file))
        found = sorted({row["encode"] for row in rows})
        if encode is None and len(found) > 1:
            raise InputError(f"{folder} holds several encodings, {', '.join(found)}: say which (--encode)")
        chosen = [row for row in rows if encode in (None, row["encode"])]
        if not chosen:
            raise InputError(f"{folder} holds no encoding {encode!r}, only {', '.join(found)}")
        chosen.sort(key=lambda row: row["image"])
        names = [column.removeprefix("decision ") for column in chosen[0] if column.startswith("decision ")]
        values = [[float(row[f"decision {name}"]) for name in names] for row in chosen]
        return _Decisions(
            [row["image"] for row in chosen],
            [row["patient"] for row in chosen],
            [row["truth"] for row in chosen],
            names,
            np.array(values, np.float64),
        )
    except InputError:
        raise
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path} is damaged ({error}): run 'medvlad evaluate --out' again") from error
