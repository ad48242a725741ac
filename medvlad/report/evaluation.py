"""The report of an evaluation: one HTML file and its figures, for people who would rather look than read."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sklearn.pipeline import FeatureUnion

from medvlad._util.atomic_file import write_file
from medvlad._util.validate import check_output_folder
from medvlad.datasets.pseudonyms import Pseudonyms
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.projection import DescriptorProjection
from medvlad.encoders.recipe import encoder_steps
from medvlad.encoders.spatial_tiles import SpatialTiles
from medvlad.encoders.vlad import VLAD
from medvlad.evaluation.cross_validation import FittedFold, HeldOut
from medvlad.experiment import Evaluation
from medvlad.explain import evidence_map, evidence_picture, has_evidence, is_additive, largest_evidence
from medvlad.images.read import load_image, png
from medvlad.report import plots as figures
from medvlad.report.html import Page

__all__ = ["cluster_patches", "confident_errors", "explain_page", "write_predictions", "write_report"]

Picture = bytes | Image.Image
Named = tuple[str, Picture, str]  # with its name and caption

_FIGURE = re.compile(r"(confusion|roc|precision|decisions|calibration|error[0-9]+|clusters)\.png")
_ERRORS = 6
_CLUSTERS = 16
_PATCHES = 8
_LOOKED_AT = 300  # images among which the patches of clusters are looked for
_PATCH = 64  # pixels
_AROUND = 1  # cells of the grid shown on each side of a descriptor's own


def write_predictions(evaluation: Evaluation, path: Path, *, names: Pseudonyms | None = None) -> None:
    """Write every decision on a test image as a table (CSV).

    Parameters
    ----------
    evaluation : Evaluation
    path : Path
        Columns encode, image, patient (empty where unknown), truth, decided, then decision and, where
        calibrated, probability of each class.
    names : Pseudonyms or None
        What images and patients are called, and are sorted by; None: by their own names.
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
    """Write report.html, which holds everything it shows, and its figures as PNG beside it.

    Parameters
    ----------
    evaluation : Evaluation
    folder : Path
        There; `report.html` and `figures/*.png` are written into it.
    names : Pseudonyms or None
        What images are called; None: by their file names.
    pictures : bool, default=True
        With pictures of images: errors, and patches of clusters.

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
    shown, results = _Shown(folder / "figures"), evaluation.results
    dataset, first = results["dataset"], results["results"][0]
    page = Page(
        f"{results['settings']['model']} on {Path(dataset.get('root') or 'images').name}",
        f"{dataset['n_images']} images{_patients(dataset['n_groups'])}, {len(dataset['class_names'])} "
        f"classes: {first['n_train']} to train, {first['n_test']} to test ({first['protocol']}). Everything "
        "is fitted on training images only.",
    )
    for warning in results.get("warnings", []):
        page.paragraph(f"Warning: {warning}.", "warning")
    _figures_of_merit(page, results)
    for result, (name, one) in zip(results["results"], evaluation.decided.items(), strict=True):
        page.heading(name)
        page.pictures(shown.keep(name, _plots(evaluation, result, one)))
        _per_class(page, result)
        if not pictures:
            continue
        page.heading("Most confident errors", 3)
        errors = list(confident_errors(evaluation, one, names=names))
        if errors:
            page.paragraph(
                "Left the image, right where the evidence for the wrong decision is: red for it, blue "
                f"against. {_how_exact(one.fitted[0])}"
            )
            named = [(f"error{n}", picture, caption) for n, (picture, caption) in enumerate(errors)]
            page.pictures(shown.keep(name, named))
        else:
            page.paragraph("None: all are decided rightly, or 'gem' cannot be split over places.")
        patches = cluster_patches(evaluation, one.fitted[0])
        if patches is not None:
            page.heading("What the clusters look like", 3)
            page.paragraph(
                f"The {_CLUSTERS} clusters with most descriptors, a row each: the patches of training images "
                "whose descriptors are nearest to the centre, one an image."
            )
            page.pictures(shown.keep(name, [("clusters", *patches)]), large=True)
    page.heading("Settings and versions")
    page.details("Settings", results["settings"])
    page.details("Parameters of each step", {r["encode"]: r["parameters"] for r in results["results"]})
    page.details("Versions", results["versions"])
    page.details("Seconds", {r["encode"]: r["seconds"] for r in results["results"]})
    if results["skipped"]:
        page.details("Skipped images", {one["image"]: one["reason"] for one in results["skipped"]})
    had_one = (folder / "report.html").exists()
    written = page.write(folder / "report.html")
    if had_one:  # figures of an earlier run may have other names
        for figure in (folder / "figures").glob("*-*.png"):
            if _FIGURE.fullmatch(figure.name.rpartition("-")[2]) and figure.name not in shown.names:
                figure.unlink()
    return written


def explain_page(predictions: Sequence[dict[str, Any]], folder: Path, how: str) -> Path:
    """Write explain.html: predictions with the pictures that `predict_images` drew.

    Parameters
    ----------
    predictions : sequence of dict
        With evidence; see :func:`medvlad.predict.predict_images`.
    folder : Path
        Where the pictures are.
    how : str
        How the evidence was split.

    Returns
    -------
    Path
        The page.
    """
    page = Page(
        "Predictions and their evidence",
        f"Left the image, right where the evidence for its label is, {how}.",
    )
    page.paragraph(
        "Red speaks for the label, blue against; full colour is the largest value of an image. A map says "
        "where numbers come from, not what a clinician would look at. Scores are margins, no probabilities."
    )
    shown = []
    for one in predictions:
        scores = ", ".join(f"{name} {value:+.2f}" for name, value in one["scores"].items())
        with Image.open(folder / one["evidence"]) as picture:
            shown.append((picture.convert("RGB"), f"{one['image']}: {one['label']} ({scores})"))
    page.pictures(shown)
    return page.write(folder / "explain.html")


class _Shown:
    """Puts each picture into a folder as well."""

    def __init__(self, folder: Path) -> None:
        self._folder = check_output_folder(folder, "figures of the report:")
        self.names = set[str]()

    def keep(self, encode: str, pictures: Iterable[Named]) -> list[tuple[Picture, str]]:
        shown = []
        for name, picture, caption in pictures:
            file = f"{encode}-{name}.png"
            write_file(self._folder / file, picture if isinstance(picture, bytes) else png(picture), "figure")
            self.names.add(file)
            shown.append((picture, caption))
        return shown


def _figures_of_merit(page: Page, results: dict[str, Any]) -> None:
    page.heading("Results")
    two = len(results["dataset"]["class_names"]) == 2
    header = ["", "accuracy", "balanced accuracy", "AUC"]
    header += ["sensitivity", "specificity"] if two else []
    rows = []
    for r in results["results"]:
        for name, of in ((r["encode"], r), (f"{r['encode']}, adapted threshold", r.get("adapted", {}))):
            if "accuracy" not in of:
                continue
            row = [name]
            for figure in ("accuracy", "balanced_accuracy", "auc"):
                row.append(_with_interval(of[figure], of["bootstrap_ci95"][figure]))
            if two:
                row += [_with_interval(of[f], of[f"{f}_ci95"]) for f in ("sensitivity", "specificity")]
            rows.append(row)
    drawn = results["results"][0]["bootstrap_of"]
    caption = f"Below figures their 95 % intervals: of 2,000 bootstrap draws of {drawn}"
    if two:
        positive = results["results"][0]["positive_class"]
        caption += f"; of Wilson for sensitivity and specificity, which are those of {positive}"
    page.table(header, rows, f"{caption}.")
    if drawn == "images":
        page.paragraph(
            "No patients are known, so every image counts as one of its own: with several images a patient "
            "the intervals are too narrow, and images of one patient may be on both sides.",
            "warning",
        )
    for pair in results["comparisons"]:
        low, high = pair["difference_ci95"]["accuracy"]
        page.paragraph(
            f"{pair['second']} against {pair['first']}, same images: accuracy "
            f"{pair['difference']['accuracy']:+.3f} ({low:+.3f} to {high:+.3f}); right alone: "
            f"{pair['only_second']} and {pair['only_first']} images, McNemar's p {pair['mcnemar_p']:.2g}."
        )


def _with_interval(value: float | None, ends: list[float] | None) -> str | None:
    if value is None:
        return None
    return f"{value:.3f}" if ends is None else f"{value:.3f}\n{ends[0]:.3f} to {ends[1]:.3f}"


def _patients(n_groups: int | None) -> str:
    return "" if n_groups is None else f" of {n_groups} patients"


def _plots(evaluation: Evaluation, result: dict[str, Any], one: HeldOut) -> Iterator[Named]:
    names, labels = evaluation.dataset.class_names, evaluation.dataset.labels[one.tested]
    drawn = figures.confusion(result["confusion_matrix"], names)
    yield "confusion", drawn, "Confusion matrix: rows are the truth"
    yield "roc", figures.roc(labels, one.decision, names), f"ROC, AUC {_number(result['auc'])}"
    drawn = figures.precision_recall(labels, one.decision, names)
    shown = result["per_class"][names[1]] if len(names) == 2 else result
    yield "precision", drawn, f"Precision over recall, average {_number(shown['average_precision'])}"
    if len(names) == 2:
        thresholds = {"decided at": 0.0}
        if result.get("adapted", {}).get("threshold") is not None:
            thresholds["adapted"] = result["adapted"]["threshold"]
        drawn = figures.decision_values(labels, one.decision[:, 1], names, thresholds)
        yield "decisions", drawn, f"Decision values: {names[1]} above the threshold"
    if "calibration" in result:
        found = result["calibration"]
        error = f"expected error {found['expected_calibration_error']:.3f}, Brier score {found['brier']:.3f}"
        caption = f"Calibration of the most probable class, which may differ from the SVM's decision: {error}"
        yield "calibration", figures.reliability(found["bins"]), caption


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _per_class(page: Page, result: dict[str, Any]) -> None:
    rows = []
    for name, one in result["per_class"].items():
        rates = [
            _with_interval(one[f], one[f"{f}_ci95"]) for f in ("sensitivity", "specificity", "precision")
        ]
        rows.append([name, one["n"], *rates, one["auc"], one["average_precision"]])
    header = ["class", "images", "sensitivity", "specificity", "precision (PPV)", "AUC", "average precision"]
    penalties = ", ".join(f"{c:g}" for c in result["C"])
    page.table(header, rows, f"Below figures their 95 % intervals (Wilson). C of the SVM: {penalties}.")


def _how_exact(fold: FittedFold) -> str:
    if is_additive(dict(encoder_steps(fold.encoder))["encode"]):
        return "The decision value is the sum of what is shown and a constant."
    return "To first order: a signed power cannot be split over places."


def confident_errors(
    evaluation: Evaluation, one: HeldOut, *, names: Pseudonyms | None = None
) -> Iterator[tuple[Image.Image, str]]:
    """Draw the wrong decisions that are surest, with the evidence for them.

    Parameters
    ----------
    evaluation : Evaluation
    one : HeldOut
        One of its decided.
    names : Pseudonyms or None
        What images are called; None: by their file names.

    Yields
    ------
    picture : PIL.Image.Image
    caption : str
    """
    dataset = evaluation.dataset
    classes, labels = dataset.class_names, dataset.labels[one.tested]
    rows = np.arange(len(labels))
    decided = one.decision.argmax(axis=1)
    lead = one.decision[rows, decided]
    if len(classes) > 2:  # of two classes the other's value is the same with another sign
        lead = lead - one.decision[rows, labels]
    wrong = rows[decided != labels]
    for row in wrong[np.argsort(-lead[wrong], kind="stable")][:_ERRORS]:
        image = int(one.tested[row])
        fold = next(fold for fold in one.fitted if image in fold.test)
        steps = [*(step for _, step in encoder_steps(fold.encoder)), fold.classifier]
        if not has_evidence(dict(encoder_steps(fold.encoder))["encode"]):
            return
        own_map = evidence_map(
            evaluation.extractor, steps, _in_memory(evaluation, [image]), int(decided[row])
        )
        picture = evidence_picture(dataset.paths[image], own_map, largest_evidence([own_map]))
        path = Path(dataset.paths[image])
        yield (
            picture,
            f"{path.name if names is None else names.image(path)}: {classes[int(labels[row])]}, decided "
            f"{classes[int(decided[row])]} by {lead[row]:.2f}",
        )


def cluster_patches(evaluation: Evaluation, fold: FittedFold) -> tuple[Image.Image, str] | None:
    """Draw what the largest clusters of a codebook look like: the patches nearest to their centres.

    Parameters
    ----------
    evaluation : Evaluation
    fold : FittedFold

    Returns
    -------
    (PIL.Image.Image, str) or None
        A row of patches a cluster and a caption; None without a codebook, or where descriptors have no place.
    """
    steps = encoder_steps(fold.encoder)
    vlad = next((part for part in _encoders(fold) if isinstance(part, VLAD)), None)
    extractor = evaluation.extractor
    if vlad is None or set(extractor.grids_) == {(1, 1)}:
        return None
    chosen = np.linspace(0, len(fold.train) - 1, min(len(fold.train), _LOOKED_AT)).astype(np.intp)
    images = fold.train[np.unique(chosen)]
    descriptors = _in_memory(evaluation, images.tolist())
    for _, step in steps:
        if isinstance(step, DescriptorProjection):
            descriptors = step.transform(descriptors)
    labels = vlad.codebook_.predict(descriptors)
    distances = vlad.codebook_.transform(descriptors)[np.arange(len(labels)), labels]
    owner = np.repeat(np.arange(len(images)), np.diff(descriptors.offsets))
    counts = np.bincount(labels, minlength=len(vlad.cluster_centers_))
    clusters = np.argsort(-counts, kind="stable")[: min(_CLUSTERS, int((counts > 0).sum()))]
    margin = 70
    drawn = Image.new("RGB", (margin + _PATCHES * (_PATCH + 4), len(clusters) * (_PATCH + 4)), "white")
    pen = ImageDraw.Draw(drawn)
    for line, cluster in enumerate(clusters.tolist()):
        top = line * (_PATCH + 4)
        share = counts[cluster] / len(labels)
        pen.text((4, top + _PATCH // 2 - 10), f"{cluster}\n{share:.1%}", fill="black")
        rows = np.flatnonzero(labels == cluster)
        rows = rows[np.argsort(distances[rows], kind="stable")]
        _, firsts = np.unique(owner[rows], return_index=True)  # one an image
        for column, row in enumerate(rows[np.sort(firsts)][:_PATCHES].tolist()):
            image = int(owner[row])
            place = row - int(descriptors.offsets[image])
            pixels = load_image(evaluation.dataset.paths[int(images[image])])
            drawn.paste(_patch(pixels, place, extractor), (margin + column * (_PATCH + 4), top))
    return drawn, f"Clusters, and their share of the descriptors of {len(images)} training images"


def _patch(pixels: NDArray[np.uint8], place: int, extractor: Any) -> Image.Image:
    """Cut out what a descriptor comes from, and some of what is around it."""
    grid = 0
    while place >= extractor.grids_[grid][0] * extractor.grids_[grid][1]:
        place -= extractor.grids_[grid][0] * extractor.grids_[grid][1]
        grid += 1
    h, w = extractor.grids_[grid]
    row, column = divmod(place, w)
    if extractor.mirrored_[grid]:
        column = w - 1 - column
    height, width = pixels.shape[:2]
    left, right = (column - _AROUND) * width / w, (column + 1 + _AROUND) * width / w
    top, bottom = (row - _AROUND) * height / h, (row + 1 + _AROUND) * height / h
    box = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    return Image.fromarray(pixels).resize((_PATCH, _PATCH), Image.Resampling.BICUBIC, box=box)


def _encoders(fold: FittedFold) -> list[Any]:
    """Return the encoders that stand side by side, or the one."""
    encode = dict(encoder_steps(fold.encoder))["encode"]
    parts = [part for _, part in encode.transformer_list] if isinstance(encode, FeatureUnion) else [encode]
    return [part.encoder_ if isinstance(part, SpatialTiles) else part for part in parts]


def _in_memory(evaluation: Evaluation, images: list[int]) -> Descriptors:
    taken = evaluation.descriptors.take(np.asarray(images))
    return taken if isinstance(taken, Descriptors) else taken.load()
