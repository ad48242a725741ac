"""A model card for Hugging Face: README.md with metadata, beside a copy of the model file.

The card is made from the header of the model file and, if given, the results of an evaluation. Questions in
brackets are for the author, because neither has the answer. The metadata is YAML, as the Hub reads it. Its
values are written as JSON, which is YAML as well, so no YAML package is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medvlad._util.atomic_file import write_file
from medvlad._util.network_name import without_folder, without_folders
from medvlad._util.validate import InputError
from medvlad.report.checklist import filled_checklist
from medvlad.report.metric_rows import by_what
from medvlad.report.model_kind import (
    how_to_use,
    hub_task,
    introduction,
    is_of_classes,
    limitations,
    units,
)

__all__ = ["CARD_FILE", "model_card_text", "read_results", "write_model_card"]

#: Name of the card, which the Hub shows.
CARD_FILE = "README.md"

_LONGEST = 200  # characters of a note of the model file that the card shows
_METRICS = (
    ("accuracy", "accuracy", "accuracy"),
    ("balanced_accuracy", "balanced_accuracy", "balanced accuracy"),
    ("auc", "roc_auc", "AUC"),
    ("sensitivity", "recall", "sensitivity"),
    ("specificity", "specificity", "specificity"),
)


def read_results(folder: Path) -> dict[str, Any]:
    """Read results.json from a folder of 'medvlad evaluate --out' or 'medvlad external --out'.

    Raises
    ------
    InputError
        If the folder has no such file, or it holds something else, such as metrics of labels or numbers.
    """
    path = folder / "results.json"
    try:
        found = json.loads(path.read_text("utf-8"))
        task = found.get("task", "classes")
        if task == "classes":
            _ = found["results"][0]["balanced_accuracy"], found["settings"]["model"]
    except OSError as error:
        raise InputError(
            f"there is no file {path} that can be read: give a folder of 'medvlad evaluate --out'"
        ) from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} does not hold results of an evaluation: give a folder of 'medvlad evaluate --out'"
        ) from error
    if task != "classes":
        raise InputError(
            f"{path} holds results of the task {task!r}, and a model card shows metrics of classes only: "
            "leave the results out"
        )
    return dict(found)


def write_model_card(
    header: Mapping[str, Any], model: Path, folder: Path, *, results: Mapping[str, Any] | None = None
) -> Path:
    """Write README.md and a copy of the model file into a folder.

    Parameters
    ----------
    header : mapping
        What :func:`medvlad.models.model_file.model_card` returned.
    model : Path
        The model file.
    folder : Path
        An existing folder.
    results : mapping or None, default=None
        What `read_results` returned. None: the card has no metrics.

    Returns
    -------
    Path
        The card.

    Raises
    ------
    InputError
        If the results are those of another network or of other classes, or a file cannot be written.
    """
    text = model_card_text(header, model.name, results=results)
    if model.resolve() != (folder / model.name).resolve():
        write_file(folder / model.name, model.read_bytes(), "model")
    write_file(folder / CARD_FILE, text.encode("utf-8", "backslashreplace"), "model card")
    return folder / CARD_FILE


def model_card_text(header: Mapping[str, Any], name: str, *, results: Mapping[str, Any] | None = None) -> str:
    """Return the text of a model card.

    Parameters
    ----------
    header : mapping
        What :func:`medvlad.models.model_file.model_card` returned.
    name : str
        Name of the model file.
    results : mapping or None, default=None
        What `read_results` returned. None: the card has no metrics.

    Returns
    -------
    str
        Markdown that begins with YAML metadata.

    Raises
    ------
    InputError
        If the results are those of another network or of other classes.
    """
    one = None if results is None else _matching(header, results)
    lines = ["---", *_metadata(header, name, results, one), "---", "", f"# {Path(name).stem}", ""]
    card = header["card"]
    trained = f"{card['n_images']} {units(header)}" if "n_images" in card else f"[how many {units(header)}?]"
    lines += [
        introduction(header, trained),
        "",
        "**This model is not a medical device.** It is for research.",
        "",
        "## Use",
        "",
        *how_to_use(header, name),
        "",
        "## Intended use",
        "",
        "[For which images, patients and purpose? For which not?]",
        "",
        "## Training data",
        "",
        f"{trained[0].upper()}{trained[1:]}"
        + (f", from {card['images']}." if card.get("images") else ".")
        + " [Where are they from? Which licence and consent?]",
        "",
        "## Performance",
        "",
        *_performance(header, results, one),
        "",
        "## Limitations",
        "",
        limitations(header, name),
        "",
        "## Technical details",
        "",
        "| Part | Value |",
        "|---|---|",
        *(f"| {_cell(part)} | {_cell(value)} |" for part, value in _details(header)),
        "",
    ]
    return "\n".join(lines)


def _matching(header: Mapping[str, Any], results: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the result of the model's encoding. Raise InputError if the results are of something else."""
    if not is_of_classes(header):
        raise InputError(
            "the model predicts labels or numbers, and a model card shows metrics of classes only: leave the "
            "results out"
        )
    found, classes = results["dataset"]["class_names"], [str(one) for one in header["classes"]]
    if found != classes:
        raise InputError(
            f"the results are about the classes {', '.join(found)}, and the model about "
            f"{', '.join(classes)}: give the results of this model"
        )
    network, used = (
        without_folder(of.get("model")) for of in (header["features"] or {}, results["settings"])
    )
    if network is not None and used != network:
        raise InputError(
            f"the results are those of the network {used}, and the model has {network}: give the results of "
            "this model"
        )
    encode = header["card"].get("encode")
    listed = {one["encode"]: one for one in results["results"]}
    if len(listed) == 1 and "external" in results:
        return next(iter(listed.values()))
    if encode is not None and encode not in listed:
        raise InputError(
            f"the results have no encoding {encode}, which the model uses: evaluate with --encode {encode}"
        )
    return listed[encode] if encode is not None else next(iter(listed.values()))


def _metadata(
    header: Mapping[str, Any],
    name: str,
    results: Mapping[str, Any] | None,
    one: Mapping[str, Any] | None,
) -> Iterator[str]:
    yield "library_name: medvlad"
    task = hub_task(header)
    if task is not None:
        yield f"pipeline_tag: {task}"
    yield "tags:"
    for tag in ("medvlad", "medical-imaging", task, "safetensors"):
        if tag is not None:
            yield f"- {tag}"
    if results is None or one is None:
        return
    data = Path(results["dataset"].get("root") or "images").name
    measured = [
        {"type": kind, "value": round(one[metric], 4), "name": label}
        for metric, kind, label in _METRICS
        if one.get(metric) is not None
    ]
    index = {
        "name": Path(name).stem,
        "results": [
            {
                "task": {"type": task or "other"},
                "dataset": {"type": data, "name": data},
                "metrics": measured,
            }
        ],
    }
    yield f"model-index: [{json.dumps(index)}]"


def _performance(
    header: Mapping[str, Any], results: Mapping[str, Any] | None, one: Mapping[str, Any] | None
) -> Iterator[str]:
    if not is_of_classes(header):
        yield "[Add the metrics of `medvlad evaluate`. The card shows metrics of classes only.]"
        return
    if results is None or one is None:
        yield "[No results were given. `medvlad show MODEL --card FOLDER --results RESULTS` adds them.]"
        return
    data = Path(results["dataset"].get("root") or "images").name
    what = "from elsewhere" if "external" in results else "held out"
    tested = f"{one['n_test']} {units(header)} of {data}"
    yield f"On {tested}, {what} ({one['protocol']}). Intervals are 95 %, {by_what(results)}."
    if "external" not in results:
        yield ""
        yield "The metrics are those of classifiers with the same settings, fitted on training images only."
    yield ""
    yield "| Metric | Value | 95 % interval |"
    yield "|---|---|---|"
    for metric, _, label in _METRICS:
        value, ends = one.get(metric), one.get(f"{metric}_ci95")
        if value is not None:
            yield f"| {label} | {value:.3f} | {'-' if ends is None else f'{ends[0]:.3f} to {ends[1]:.3f}'} |"
    if "positive_class" in one:
        yield ""
        yield f"Sensitivity is that of {one['positive_class']}."
    tables = one.get("subgroups", {}).get("tables", {})
    for name, rows in tables.items():
        yield ""
        yield f"| {_cell(name)} | Number | Balanced accuracy | 95 % interval |"
        yield "|---|---|---|---|"
        for row in rows:
            ends = row["balanced_accuracy_ci95"]
            interval = "-" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
            yield f"| {_cell(row['value'])} | {row['n']} | {row['balanced_accuracy']:.3f} | {interval} |"
    predictors = {row[1]: row[3] for row in filled_checklist(results) if row[0] == "TRIPOD+AI"}
    yield ""
    yield f"Calibration: {predictors['12f']}"


def _details(header: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for part, value in without_folders(header["features"] or {}).items():
        yield f"network: {part}", str(value)
    if header["weights_fingerprint"]:
        yield "fingerprint of the weights", str(header["weights_fingerprint"])
    for step in header["steps"]:
        yield f"step {step['step']}", str(step["class"])
    for key, value in header["card"].items():
        if key == "parameters":  # those of the network stand above; earlier files also name its folder
            value = without_folders(value) if isinstance(value, dict) else value
        text = json.dumps(value) if isinstance(value, dict | list) else str(value)
        if key != "images" and len(text) <= _LONGEST:
            yield key.replace("_", " "), text
    for package, version in header["versions"].items():
        if version:
            yield f"version of {package}", str(version)


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
