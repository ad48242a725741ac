"""The table of held-out predictions (CSV)."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medvlad._util.atomic_file import write_file
from medvlad.datasets.pseudonyms import Pseudonyms
from medvlad.experiment import Evaluation

__all__ = ["write_predictions"]

# From held-out predictions, the row in them and the row in the data set, to the cells of a line.
_Cells = Callable[[Any, int, int], list[str]]


def write_predictions(evaluation: Evaluation, path: Path, *, names: Pseudonyms | None = None) -> None:
    """Write every held-out prediction as a table (CSV).

    Parameters
    ----------
    evaluation : Evaluation
    path : Path
        The columns are encode, image, patient (empty if unknown), truth, decided, the decision value of each
        class and, if calibrated, the probability of each class. For several labels they are instead truth,
        predicted, decision and probability of each label, and for numbers truth and predicted of each number.
        A truth that is not known is empty.
    names : Pseudonyms or None, default=None
        Names shown for images and patients; rows are sorted by them. None: their own names.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    dataset = evaluation.dataset
    images = [str(image) if names is None else names.image(image) for image in dataset.paths]
    patients = [""] * len(dataset) if dataset.groups is None else dataset.groups.tolist()
    if names is not None and dataset.groups is not None:
        patients = [names.patient(patient) for patient in patients]
    columns, cells = (_of_classes if dataset.targets is None else _of_targets)(evaluation)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["encode", "image", "patient", *columns])
    for encode, one in evaluation.decided.items():
        rows = list(enumerate(one.tested.tolist()))
        for row, i in rows if names is None else sorted(rows, key=lambda pair: images[pair[1]]):
            table.writerow([encode, images[i], patients[i], *cells(one, row, i)])
    write_file(path, text.getvalue().encode("utf-8", "surrogateescape"), "table of predictions")


def _of_classes(evaluation: Evaluation) -> tuple[list[str], _Cells]:
    names, labels = evaluation.dataset.class_names, evaluation.dataset.labels
    calibrated = any(one.probability is not None for one in evaluation.decided.values())
    columns = ["truth", "decided", *(f"decision {name}" for name in names)]
    columns += [f"probability {name}" for name in names] if calibrated else []

    def cells(one: Any, row: int, i: int) -> list[str]:
        values = [*one.decision[row], *([] if one.probability is None else one.probability[row])]
        decided = names[int(one.decision[row].argmax())]
        return [names[int(labels[i])], decided, *(repr(float(value)) for value in values)]

    return columns, cells


def _of_targets(evaluation: Evaluation) -> tuple[list[str], _Cells]:
    targets, names = evaluation.dataset.y, evaluation.dataset.class_names
    parts = ["predicted", *(["decision", "probability"] if evaluation.dataset.task == "labels" else [])]

    def cells(one: Any, row: int, i: int) -> list[str]:
        values = [targets[i], *(getattr(one, part)[row] for part in parts)]
        return [_number(value[k]) for k in range(len(names)) for value in values]

    return [f"{part} {name}" for name in names for part in ["truth", *parts]], cells


def _number(value: Any) -> str:
    number = float(value)
    if number != number:  # not known
        return ""
    return repr(int(number)) if number.is_integer() else repr(number)
