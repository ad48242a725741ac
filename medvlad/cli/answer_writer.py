"""Write the predictions of 'predict' one by one, as a table, CSV or JSON lines, or all together as JSON."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import click

from medvlad._util.text_table import printable
from medvlad.cli.streams import is_reader_gone

__all__ = ["FORMATS", "AnswerWriter", "ReaderGone", "format_of", "lock_answers"]

FORMATS = ("table", "csv", "jsonl", "json")
_BY_SUFFIX = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"}
_UNUSUAL_BELOW = 0.05  # p-value; a test compares it with the library's
#: Keys of a prediction that have a column for each class, and the beginning of its name.
_BY_CLASS = {
    "scores": "score",
    "probabilities": "probability",
    "thresholds": "threshold",
    "values": "value",
}


class ReaderGone(Exception):
    """The program that reads standard output has ended, such as ``head``."""


def format_of(wanted: str | None, as_json: bool, out: Path | None, default: str = "table") -> str:
    """Return the format: the one that was asked for, that of the file's name, or the default.

    Raises
    ------
    click.UsageError
        If --json and another --format are given.
    """
    if as_json and wanted not in (None, "json"):
        raise click.UsageError(f"--json and --format {wanted} contradict each other: leave one out")
    if as_json:
        return "json"
    return wanted or _BY_SUFFIX.get("" if out is None else out.suffix.lower(), default)


def lock_answers(file: Any, path: Path) -> None:
    """Lock an open file of answers, if its file system has locks.

    Raises
    ------
    InputError
        If another process holds the lock.
    """
    from medvlad._util.os_files import try_lock
    from medvlad._util.validate import InputError

    try:
        try_lock(file)
    except BlockingIOError as error:
        raise InputError(
            f"another process writes answers to {path}: stop it first, or name another file"
        ) from error
    except OSError:
        return


class AnswerWriter:
    """Write predictions one by one.

    Parameters
    ----------
    format : {"table", "csv", "jsonl", "json"}
        "json": one document, which is written at the end.
    out : Path or None
        File. None: standard output. An object is written as a whole by `finish`.
    names : sequence of str
        Names of images that are known before, for the width of the table's first column.
    append : bool, default=False
        Keep what the file holds, and lock the file.

    Raises
    ------
    InputError
        If the file cannot be written, or with `append` another process writes it.
    """

    def __init__(
        self, format: str, out: Path | None, names: Sequence[str] = (), *, append: bool = False
    ) -> None:
        from medvlad._util.object_path import ObjectPath, check_output
        from medvlad._util.validate import InputError

        self._format, self._out = format, out
        self._width = max((len(printable(name)) for name in names), default=0)
        self._predictions: list[dict[str, Any]] = []
        self._skipped: list[dict[str, str]] = []
        self._columns: list[str] | None = None
        self._file: IO[str] | None = None
        if out is not None:
            check_output(out, "table of predictions")
            if isinstance(out, ObjectPath):
                self._file = tempfile.TemporaryFile(  # noqa: SIM115, __exit__ closes it
                    "w+", encoding="utf-8", errors="backslashreplace", newline=""
                )
            elif format != "json":
                self._file = out.open(
                    "a" if append else "w", encoding="utf-8", errors="backslashreplace", newline=""
                )
                if append:
                    try:
                        lock_answers(self._file, out)
                    except InputError:
                        self._file.close()
                        raise
        self.n_written = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, prediction: dict[str, Any] | None, skipped: dict[str, str] | None) -> None:
        """Write the prediction for an image, or the reason why it was skipped, and flush the output.

        Raises
        ------
        ReaderGone
        OSError
            If the file cannot be written.
        """
        if self._format == "json":
            (self._predictions if skipped is None else self._skipped).append(prediction or skipped)  # type: ignore[arg-type]
        elif self._format == "jsonl":
            renamed = {"skipped" if key == "reason" else key: text for key, text in (skipped or {}).items()}
            said = prediction or renamed
            self._print(json.dumps(said) + "\n")
        elif self._format == "csv":
            self._add_row(prediction, skipped)
        elif prediction is not None:
            name = printable(prediction["image"])
            self._width = max(self._width, len(name))
            self._print(f"{name:<{self._width}}  {printable(_in_words(prediction))}\n")
        self.n_written += 1

    def finish(self) -> None:
        """Write what depends on all predictions: a JSON document, or the header of a CSV without images."""
        if self._format == "csv" and self._columns is None:
            self._columns = ["image", "label", "skipped"]
            self._print(_csv_line(self._columns) + self._rows_of(self._skipped))
        from medvlad._util.object_path import ObjectPath, save_bytes

        what = "table of predictions"
        if self._format == "json":
            text = json.dumps({"predictions": self._predictions, "skipped": self._skipped}, indent=2)
            if self._out is None:
                click.echo(text)
            else:
                save_bytes(self._out, f"{text}\n".encode(), what)
        elif isinstance(self._out, ObjectPath) and self._file is not None:
            self._file.seek(0)
            save_bytes(self._out, self._file.buffer.read(), what)  # type: ignore[attr-defined]

    def _add_row(self, prediction: dict[str, Any] | None, skipped: dict[str, str] | None) -> None:
        """Write a row. The columns are those of the first prediction; skipped images wait for it."""
        if skipped is not None and self._columns is None:
            self._skipped.append(skipped)
            return
        text = ""
        if self._columns is None:
            self._columns = [*_flat(prediction or {}), "damaged", "skipped"]
            text = _csv_line(self._columns) + self._rows_of(self._skipped)
        if skipped is not None:
            self._print(text + self._rows_of([skipped]))
        else:
            cells = _flat(prediction or {})
            self._print(text + _csv_line([cells.get(column, "") for column in self._columns]))

    def _rows_of(self, skipped: Sequence[dict[str, str]]) -> str:
        columns = self._columns or []
        known = [{"image": one["image"], "skipped": one["reason"]} for one in skipped]
        return "".join(_csv_line([cells.get(column, "") for column in columns]) for cells in known)

    def _print(self, text: str) -> None:
        if self._file is not None:
            self._file.write(text)
            self._file.flush()
            return
        click.echo(text, nl=False)
        if is_reader_gone():
            raise ReaderGone


def _in_words(prediction: dict[str, Any]) -> str:
    """Return the label and its probability, the prediction set, the scores and the similar images."""
    if "values" in prediction:
        return "  ".join(f"{name} {value:.4g}" for name, value in prediction["values"].items())
    if "labels" in prediction:
        return _labels_in_words(prediction)
    label = "no label" if prediction["label"] is None else prediction["label"]
    said = [label]
    probabilities = prediction.get("probabilities", {})
    if prediction["label"] in probabilities:
        said[0] += f" {probabilities[prediction['label']]:.2f}"
    most_probable = max(probabilities, key=probabilities.__getitem__, default=None)
    if most_probable != prediction["label"] and most_probable is not None:
        said.append(f"most probable: {most_probable} {probabilities[most_probable]:.2f}")
    if "prediction_set" in prediction:
        said.append("{" + ", ".join(prediction["prediction_set"]) + "}")
    if prediction.get("novelty_p", 1.0) < _UNUSUAL_BELOW:
        said.append(f"unlike the training images (p {prediction['novelty_p']:.2g})")
    values = "  ".join(f"{name} {value:+.3f}" for name, value in prediction["scores"].items())
    said.append(f"({values})")
    if "similar" in prediction:
        cases = (f"{one['image']} ({one['label']})" for one in prediction["similar"])
        said.append(f"similar: {', '.join(cases)}")
    return "  ".join(said)


def _labels_in_words(prediction: dict[str, Any]) -> str:
    """Return the labels that an image has with their probabilities, and the scores of all labels."""
    probabilities = prediction.get("probabilities", {})
    said = [f"{one} {probabilities[one]:.2f}" if probabilities else one for one in prediction["labels"]]
    values = "  ".join(f"{name} {value:+.3f}" for name, value in prediction["scores"].items())
    return f"{', '.join(said) or 'no label'}  ({values})"


def _flat(prediction: dict[str, Any]) -> dict[str, Any]:
    """Return a prediction with one value for each column. Lists are joined by ``|``."""
    cells: dict[str, Any] = {}
    for key, value in prediction.items():
        if key in _BY_CLASS:
            cells |= {f"{_BY_CLASS[key]}_{name}": number for name, number in value.items()}
        elif key == "value" and "values" in prediction:
            continue  # the only one of the values, which has a column with its name
        elif key == "similar":
            cells[key] = "|".join(one["image"] for one in value)
        elif isinstance(value, list):
            cells[key] = "|".join(map(str, value))
        else:
            cells[key] = "" if value is None else value
    return cells


def _csv_line(cells: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
