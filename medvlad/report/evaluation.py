"""The report of an evaluation: one HTML file, its figures as PNG, and a table of all decisions."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from medvlad._util.atomic_file import write_file
from medvlad._util.validate import make_output_folder
from medvlad.datasets.describe import patients_in_words
from medvlad.datasets.pseudonyms import Pseudonyms
from medvlad.encoders.recipe import encoder_steps
from medvlad.evaluation.cross_validation import FittedFold, HeldOut
from medvlad.experiment import Evaluation
from medvlad.explain import evidence_picture, is_additive, largest_evidence
from medvlad.images.write import png
from medvlad.report import plots
from medvlad.report.dataset import add_dataset
from medvlad.report.html import Page, Picture
from medvlad.report.metric_rows import metric_rows
from medvlad.report.pictures import (
    N_CLUSTERS,
    ShownError,
    cluster_patches,
    confident_errors,
    explainable,
    grid_in_words,
)
from medvlad.report.settings import penalties_in_words, shown_settings
from medvlad.report.similar_cases import add_similar_cases

__all__ = ["explain_page", "write_predictions", "write_report"]

Named = tuple[str, Picture, str]  # name of the file, picture, caption

_FIGURE = re.compile(r"(confusion|roc|precision|decisions|calibration|error[0-9]+|clusters)\.png")
_SHOWN_SCORES = 3  # scores in a caption


def write_predictions(evaluation: Evaluation, path: Path, *, names: Pseudonyms | None = None) -> None:
    """Write every held-out prediction as a table (CSV).

    Parameters
    ----------
    evaluation : Evaluation
    path : Path
        The columns are encode, image, patient (empty if unknown), truth, decided, the decision value of each
        class and, if calibrated, the probability of each class.
    names : Pseudonyms or None, default=None
        Names shown for images and patients; rows are sorted by them. None: their own names.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    classes, dataset = evaluation.dataset.class_names, evaluation.dataset
    images = [str(image) if names is None else names.image(image) for image in dataset.paths]
    patients = [""] * len(dataset) if dataset.groups is None else dataset.groups.tolist()
    if names is not None and dataset.groups is not None:
        patients = [names.patient(patient) for patient in patients]
    calibrated = any(one.probability is not None for one in evaluation.decided.values())
    columns = ["encode", "image", "patient", "truth", "decided", *(f"decision {name}" for name in classes)]
    columns += [f"probability {name}" for name in classes] if calibrated else []
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    for encode, one in evaluation.decided.items():
        rows = list(enumerate(one.tested.tolist()))
        for row, i in rows if names is None else sorted(rows, key=lambda pair: images[pair[1]]):
            values = [repr(float(value)) for value in one.decision[row]]
            if one.probability is not None:
                values += [repr(float(value)) for value in one.probability[row]]
            truth, decided = classes[int(dataset.labels[i])], classes[int(one.decision[row].argmax())]
            table.writerow([encode, images[i], patients[i], truth, decided, *values])
    write_file(path, text.getvalue().encode("utf-8", "surrogateescape"), "table of decisions")


def write_report(
    evaluation: Evaluation, folder: Path, *, names: Pseudonyms | None = None, pictures: bool = True
) -> Path:
    """Write report.html, which holds everything it shows, and its figures as PNG.

    Parameters
    ----------
    evaluation : Evaluation
    folder : Path
        An existing folder. ``report.html`` and ``figures/*.png`` are written into it. Figures of an earlier
        report in this folder are removed.
    names : Pseudonyms or None, default=None
        Names shown for images. None: their file names.
    pictures : bool, default=True
        Whether to show images of the data set: errors, and patches of clusters.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If something cannot be written.
    MissingExtraError
        If matplotlib is not installed.
    """
    kept, results = _Kept(folder / "figures"), evaluation.results
    page = _first_lines(results)
    _metrics(page, results)
    errors: dict[str, list[ShownError]] = {}
    if pictures:
        errors = {
            name: list(confident_errors(evaluation, one, names=names))
            for name, one in evaluation.decided.items()
        }
    # One scale for all maps of the report, so that they can be compared.
    largest = largest_evidence(one.evidence for listed in errors.values() for one in listed)
    for result, (name, one) in zip(results["results"], evaluation.decided.items(), strict=True):
        page.heading(name)
        _figures(page, kept, evaluation, result, one)
        _per_class(page, result)
        if pictures:
            _errors(page, kept, evaluation, name, errors[name], largest)
            _clusters(page, kept, evaluation, name)
    add_dataset(page, results["dataset"])
    _settings(page, results)
    had_one = (folder / "report.html").exists()
    written = page.write(folder / "report.html")
    if had_one:
        kept.remove_others()
    return written


def explain_page(
    predictions: Sequence[dict[str, Any]],
    folder: Path,
    how: str,
    *,
    grids: Sequence[tuple[int, int]] | None = None,
) -> Path:
    """Write explain.html: predictions with the pictures that `predict_images` drew.

    Parameters
    ----------
    predictions : sequence of dict
        With the key evidence; see :func:`medvlad.predict.predict_images`.
    folder : Path
        Folder of the pictures.
    how : str
        How the evidence was split, such as "split over its places exactly".
    grids : sequence of (h, w) or None, default=None
        Grids of the descriptors, ``grids_`` of :class:`medvlad.CNNDescriptors`. None: unknown.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If the page cannot be written.
    """
    page = Page(
        "Predictions and their evidence",
        f"Left: the image. Right: the evidence for its label, {how}.",
    )
    page.paragraph(
        f"Red speaks for the label, blue speaks against it. {_map_in_words(grids)} A map shows where the "
        "decision value comes from. It does not show what a clinician would look at. Scores are decision "
        "values, not probabilities."
    )
    shown = []
    for one in predictions:
        with Image.open(folder / one["evidence"]) as picture:
            caption = f"{one['image']}: {one['label']} ({_highest_scores(one['scores'])})"
            shown.append((picture.convert("RGB"), caption))
    page.pictures(shown, "wide")
    add_similar_cases(page, predictions)
    return page.write(folder / "explain.html")


def _map_in_words(grids: Sequence[tuple[int, int]] | None) -> str:
    what = "A map is a coarse grid" if grids is None else f"A map is a {grid_in_words(grids)} grid"
    return (
        f"{what}, stretched over the image, so it shows no finer detail. All maps of this page share one "
        "colour scale, whose values stand at the colour bar."
    )


def _highest_scores(scores: Mapping[str, float]) -> str:
    """Return the highest scores in words; of few classes all scores in the order of the classes."""
    listed = list(scores.items())
    if len(listed) <= plots.MANY_CLASSES:
        return ", ".join(f"{name} {value:+.2f}" for name, value in listed)
    highest = sorted(listed, key=lambda pair: -pair[1])[:_SHOWN_SCORES]
    text = ", ".join(f"{name} {value:+.2f}" for name, value in highest)
    return f"highest of {len(listed)}: {text}"


class _Kept:
    """Write pictures of a page into a folder as well.

    Parameters
    ----------
    folder : Path
        Created if missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = make_output_folder(folder, "figures of the report:")
        self._names = set[str]()

    def keep(self, encode: str, pictures: Iterable[Named]) -> list[tuple[Picture, str]]:
        """Write pictures of an encoding, and return them with their captions."""
        shown = []
        for name, picture, caption in pictures:
            file = f"{encode}-{name}.png"
            write_file(self._folder / file, picture if isinstance(picture, bytes) else png(picture), "figure")
            self._names.add(file)
            shown.append((picture, caption))
        return shown

    def remove_others(self) -> None:
        """Remove figures of an earlier report that were not written again."""
        for figure in self._folder.glob("*-*.png"):
            if _FIGURE.fullmatch(figure.name.rpartition("-")[2]) and figure.name not in self._names:
                figure.unlink()


def _first_lines(results: dict[str, Any]) -> Page:
    dataset, first = results["dataset"], results["results"][0]
    known = patients_in_words(dataset)
    patients = "" if known is None else f" of {known}"
    page = Page(
        f"{results['settings']['model']} on {Path(dataset.get('root') or 'images').name}",
        f"{dataset['n_images']} images{patients}, {len(dataset['class_names'])} classes. "
        f"{first['n_train']} images to train, {first['n_test']} to test ({first['protocol']}). "
        "Everything is fitted on training images only.",
    )
    for warning in results.get("warnings", []):
        page.paragraph(f"Warning: {warning}.", "warning")
    return page


def _metrics(page: Page, results: dict[str, Any]) -> None:
    """Add the table of all encodings, and their comparisons."""
    page.heading("Results")
    two = len(results["dataset"]["class_names"]) == 2
    header = ["", "accuracy", "balanced accuracy", "AUC"]
    header += ["sensitivity", "specificity"] if two else []
    rows = []
    for r in results["results"]:
        for name, of in metric_rows(r):
            row: list[str | None] = [name]
            for metric in ("accuracy", "balanced_accuracy", "auc"):
                row.append(_with_interval(of[metric], of[f"{metric}_ci95"]))
            if two:
                row += [_with_interval(of[m], of[f"{m}_ci95"]) for m in ("sensitivity", "specificity")]
            rows.append(row)
    by_image = results["results"][0]["ci95_of"] == "images"
    caption = f"Below each value is its 95 % interval {'over images' if by_image else 'by patient'}."
    if two:
        caption += f" Sensitivity and specificity are those of {results['results'][0]['positive_class']}."
    page.table(header, rows, caption)
    for line in _missing_intervals(results["results"]):
        page.paragraph(line)
    if by_image:
        page.paragraph(
            "No patients are known, so every image counts as a patient of its own. If patients have several "
            "images, the intervals are too narrow, and training and test may share patients.",
            "warning",
        )
    for one in results["results"]:
        if "adapted" in one:
            page.paragraph(_adapted_in_words(one))
    for pair in results["comparisons"]:
        page.paragraph(_comparison_in_words(pair, by_image=by_image))


def _missing_intervals(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a sentence for each interval of the table that is missing."""
    for one in results:
        for name, reason in one["ci95_missing"].items():
            metric = name.removesuffix("_ci95").replace("_", " ")
            yield f"{one['encode']} has no interval of the {metric}: {reason}."


def _adapted_in_words(result: Mapping[str, Any]) -> str:
    adapted = result["adapted"]
    if adapted["threshold"] is None:
        return (
            f"{result['encode']}: no threshold was found in the unlabelled test images: {adapted['reason']}."
        )
    return (
        f"{result['encode']}: the adapted threshold {adapted['threshold']:.2f} of the decision value of "
        f"{adapted['threshold_of']} was found in the test images without their labels. It is right only if "
        f"{adapted['assumption']}."
    )


def _comparison_in_words(pair: Mapping[str, Any], *, by_image: bool) -> str:
    ends = pair["difference_ci95"]["accuracy"]
    interval = "no interval" if ends is None else f"95 % interval {ends[0]:+.3f} to {ends[1]:+.3f}"
    return (
        f"{pair['second']} minus {pair['first']} on the same images: accuracy "
        f"{pair['difference']['accuracy']:+.3f} ({interval}). Only {pair['second']} is right on "
        f"{pair['only_second']} images, only {pair['first']} on {pair['only_first']}; McNemar's p"
        f"{'' if by_image else ' by patient'} is {pair['mcnemar_p']:.2g}."
    )


def _with_interval(value: float | None, ends: list[float] | None) -> str | None:
    if value is None:
        return None
    return f"{value:.3f}" if ends is None else f"{value:.3f}\n{ends[0]:.3f} to {ends[1]:.3f}"


def _figures(page: Page, kept: _Kept, evaluation: Evaluation, result: dict[str, Any], one: HeldOut) -> None:
    names = evaluation.dataset.class_names
    many = len(names) > plots.MANY_CLASSES
    caption = "Confusion matrix: rows are the truth."
    if many:
        caption += " An empty cell is a zero."
    if plots.short_names(names) != list(names):
        caption += " Long class names are shortened. The table below has them in full."
    confusion = kept.keep(
        result["encode"], [("confusion", plots.confusion(result["confusion_matrix"], names), caption)]
    )
    others = kept.keep(result["encode"], _curves(evaluation, result, one))
    if many:
        page.pictures(confusion, "natural")
        page.pictures(others)
    else:
        page.pictures([*confusion, *others])


def _curves(evaluation: Evaluation, result: dict[str, Any], one: HeldOut) -> Iterator[Named]:
    names, labels = evaluation.dataset.class_names, evaluation.dataset.labels[one.tested]
    worst = ""
    if len(names) > plots.MANY_CLASSES:
        worst = f". In colour: the {plots.MANY_CLASSES} classes with the lowest value"
    positive = names.index(result["positive_class"]) if len(names) == 2 else None
    of = "" if positive is None else f" of {names[positive]}"
    drawn = plots.roc(labels, one.decision, names, positive)
    yield "roc", drawn, f"ROC{of}, AUC {_number(result['auc'])}{worst}"
    drawn = plots.precision_recall(labels, one.decision, names, positive)
    average = _number(result["average_precision"])
    yield "precision", drawn, f"Precision over recall{of}, average precision {average}{worst}"
    if positive is not None:
        thresholds = {"decided at": 0.0}
        if result.get("adapted", {}).get("threshold") is not None:
            # The threshold is that of the second class. The two decision values are each other's negative.
            thresholds["adapted"] = result["adapted"]["threshold"] * (1 if positive == 1 else -1)
        drawn = plots.decision_values(labels, one.decision[:, positive], names, thresholds, positive)
        yield "decisions", drawn, f"Decision values: a value above the threshold means {names[positive]}"
    if "calibration" in result:
        found = result["calibration"]
        error = f"expected error {found['expected_calibration_error']:.3f}, Brier score {found['brier']:.3f}"
        caption = f"Calibration of the most probable class, which may differ from the SVM's decision: {error}"
        yield "calibration", plots.reliability(found["bins"]), caption


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _per_class(page: Page, result: dict[str, Any]) -> None:
    names = list(result["per_class"])
    short = plots.short_names(names)
    shortened = short != names
    rows = []
    for name, label in zip(names, short, strict=True):
        one = result["per_class"][name]
        rates = [
            _with_interval(one[m], one[f"{m}_ci95"]) for m in ("sensitivity", "specificity", "precision")
        ]
        first = [name, label] if shortened else [name]
        area = _with_interval(one["auc"], one["auc_ci95"])
        rows.append([*first, one["n"], *rates, area, one["average_precision"]])
    header = ["class", *(["in figures"] if shortened else []), "images", "sensitivity", "specificity"]
    header += ["precision (PPV)", "AUC", "average precision"]
    page.table(
        header,
        rows,
        "Below each value is its 95 % interval "
        f"{'over images' if result['ci95_of'] == 'images' else 'by patient'}, if there is one. "
        f"C of the SVM: {penalties_in_words(result['C'])}.",
    )


def _errors(
    page: Page, kept: _Kept, evaluation: Evaluation, name: str, errors: list[ShownError], largest: float
) -> None:
    one = evaluation.decided[name]
    page.heading("Most confident errors", 3)
    if not explainable(one):
        page.paragraph("Decisions of this encoding cannot be split over places of an image.")
        return
    if not errors:
        page.paragraph("There are none: every decision is right.")
        return
    page.paragraph(
        "Left: the image. Right: the evidence for the wrong decision. Red speaks for it, blue against it. "
        f"{_map_in_words(evaluation.extractor.grids_)} {_how_exact(one.fitted[0])}"
    )
    named = [
        (f"error{n}", evidence_picture(error.image, error.evidence, largest), error.caption)
        for n, error in enumerate(errors)
    ]
    page.pictures(kept.keep(name, named), "wide")


def _how_exact(fold: FittedFold) -> str:
    if is_additive(dict(encoder_steps(fold.encoder))["encode"]):
        return "The decision value is the sum of the map and a constant."
    return "The map is a first-order approximation, because a signed power cannot be split over places."


def _clusters(page: Page, kept: _Kept, evaluation: Evaluation, name: str) -> None:
    patches = cluster_patches(evaluation, evaluation.decided[name].fitted[0])
    if patches is None:
        return
    page.heading("What the clusters look like", 3)
    page.paragraph(
        f"Rows are the clusters with most descriptors, at most {N_CLUSTERS}. A row shows the patches of "
        "training images whose descriptors are nearest to the centre, one patch an image."
    )
    page.pictures(kept.keep(name, [("clusters", *patches)]), "column")


def _settings(page: Page, results: dict[str, Any]) -> None:
    page.heading("Settings and versions")
    page.details("Settings", shown_settings(results["settings"]))
    page.details("Parameters of each step", {r["encode"]: r["parameters"] for r in results["results"]})
    page.details("Versions", results["versions"])
    page.details("Seconds", {r["encode"]: r["seconds"] for r in results["results"]})
    if results.get("damaged"):
        page.details(
            "Damaged images that were used", {one["image"]: one["reason"] for one in results["damaged"]}
        )
    if results["skipped"]:
        page.details("Skipped images", {one["image"]: one["reason"] for one in results["skipped"]})
