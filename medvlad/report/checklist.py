"""Check-lists for a paper, TRIPOD+AI and CLAIM, with drafts of the answers that follow from a run.

The numbers are those of TRIPOD+AI (Collins et al., BMJ 2024) and of CLAIM (Mongan, Moy & Kahn, Radiology:
Artificial Intelligence 2020). The items are in our own words, so read the originals as well. Check the
drafts. The authors give the other answers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medvlad._util.atomic_file import write_file
from medvlad.datasets.describe import patients_in_words, units_in_words
from medvlad.report.checklist_input import frozen_network, predictors, preparation, weights
from medvlad.report.html import Page
from medvlad.report.metric_rows import by_what
from medvlad.report.settings import penalties_in_words
from medvlad.report.target_checklist import answers_of_targets, imbalance_of_targets

__all__ = ["CLAIM", "TRIPOD_AI", "add_checklist", "filled_checklist", "write_checklist"]

#: Number, what the authors must report, and the name of the answer that a run can give ("": none).
Item = tuple[str, str, str]

TRIPOD_AI: tuple[Item, ...] = (
    ("1", "title: development or evaluation of a prediction model, population, outcome", ""),
    ("2", "abstract", ""),
    ("3a", "medical context, and why the model is needed", ""),
    ("3b", "target population, purpose and place in care, users", ""),
    ("3c", "known inequalities between groups of people", ""),
    ("4", "objectives: development, evaluation or both", "aim"),
    ("5a", "sources of the data, for training and evaluation, and whom they represent", "sources"),
    ("5b", "dates of the data", ""),
    ("6a", "setting, number and places of the centres", "sites"),
    ("6b", "who was eligible", ""),
    ("6c", "treatments, if they matter", ""),
    ("7", "preparation and quality checks of the data", "preparation"),
    ("8a", "outcome, how and when it was assessed", "outcome"),
    ("8b", "who assessed the outcome, if it needs judgement", ""),
    ("8c", "blinding of the outcome's assessment", ""),
    ("9a", "choice of the predictors", "predictors"),
    ("9b", "definition and measurement of the predictors", "predictors"),
    ("9c", "who assessed the predictors, if it needs judgement", "no_judgement"),
    ("10", "how the sample size was reached", ""),
    ("11", "missing data", "missing"),
    ("12a", "which data served for training and which for evaluation", "partitions"),
    ("12b", "how predictors entered the model", "predictors"),
    ("12c", "type of model, steps, tuning, internal validation", "model"),
    ("12d", "differences between clusters, such as hospitals", "sites"),
    ("12e", "measures and plots of performance", "measures"),
    ("12f", "updating of the model, such as recalibration", "calibration"),
    ("12g", "how predictions were computed in an evaluation", "predictions"),
    ("13", "class imbalance and its handling", "imbalance"),
    ("14", "fairness: methods", "subgroups"),
    ("15", "output of the model, and thresholds", "output"),
    ("16", "differences between the data of training and evaluation", "shift"),
    ("17", "ethics approval and consent", ""),
    ("18a", "funding", ""),
    ("18b", "conflicts of interest", ""),
    ("18c", "protocol", ""),
    ("18d", "registration", ""),
    ("18e", "availability of the data", ""),
    ("18f", "availability of the code", "code"),
    ("19", "involvement of patients and the public", ""),
    ("20a", "flow of participants", "flow"),
    ("20b", "characteristics of participants, also by data source", "subgroups"),
    ("20c", "predictors and outcome in training and evaluation data compared", "shift"),
    ("21", "numbers of participants and outcomes in each analysis", "counts"),
    ("22", "the whole model, so that others can use it", "specification"),
    ("23a", "performance with intervals, subgroups included", "performance"),
    ("23b", "performance in each cluster", "sites"),
    ("24", "results of updating", "calibration"),
    ("25", "interpretation, also of fairness", ""),
    ("26", "limitations", "limitations"),
    ("27a", "what to do with poor or missing input", "poor_input"),
    ("27b", "what users must do and know", ""),
    ("27c", "next steps of research", ""),
)

CLAIM: tuple[Item, ...] = (
    ("1", "title or abstract: names the kind of AI", "technology"),
    ("2", "abstract: design, methods, results, conclusions", ""),
    ("3", "background, intended use and clinical role", ""),
    ("4", "objectives and hypotheses", ""),
    ("5", "prospective or retrospective", ""),
    ("6", "goal of the study", "aim"),
    ("7", "sources of the data", "sources"),
    ("8", "eligibility: how, where and when", ""),
    ("9", "preprocessing", "preparation"),
    ("10", "subsets of the data that were selected", "partitions"),
    ("11", "definitions of the data elements", "outcome"),
    ("12", "de-identification", "privacy"),
    ("13", "missing data", "missing"),
    ("14", "reference standard: definition", "outcome"),
    ("15", "reference standard: why it was chosen", ""),
    ("16", "reference standard: who annotated, and their training", ""),
    ("17", "annotation tools", ""),
    ("18", "variability between and within readers", ""),
    ("19", "intended sample size", ""),
    ("20", "how images came to the parts", "partitions"),
    ("21", "level at which the parts are disjoint, such as patients", "disjoint"),
    ("22", "the model, with its inputs, outputs and layers", "model"),
    ("23", "software", "code"),
    ("24", "initial parameters, such as pretrained weights", "weights"),
    ("25", "training: augmentation, hyperparameters, number of models", "training"),
    ("26", "choice of the final model", "choice"),
    ("27", "ensembles", "ensembles"),
    ("28", "metrics", "measures"),
    ("29", "statistical measures of significance and uncertainty", "uncertainty"),
    ("30", "robustness and sensitivity analyses", "robustness"),
    ("31", "explainability", "explanations"),
    ("32", "testing on external data", "external"),
    ("33", "flow of participants or cases", "flow"),
    ("34", "demographic and clinical characteristics in each part", "subgroups"),
    ("35", "performance in all parts, with human readers if there are any", "performance"),
    ("36", "diagnostic accuracy and its precision", "performance"),
    ("37", "analysis of failures", "failures"),
    ("38", "limitations", "limitations"),
    ("39", "implications for practice", ""),
    ("40", "registration", ""),
    ("41", "where the protocol is", ""),
    ("42", "funding", ""),
)

_LISTS = {"TRIPOD+AI": TRIPOD_AI, "CLAIM": CLAIM}
_HEADER = ["list", "item", "what to report", "from this run"]


def filled_checklist(results: Mapping[str, Any]) -> list[list[str]]:
    """Return both check-lists with the answers that follow from a run.

    Parameters
    ----------
    results : mapping
        ``results`` of :class:`medvlad.experiment.Evaluation`.

    Returns
    -------
    list of list of str
        List, number, what to report, and the answer ("" if the authors must give it).
    """
    own = _ANSWERS | answers_of_targets(results)
    answers = {name: answer(results) for name, answer in own.items()}
    answers[""] = ""
    return [
        [title, number, what, answers[name]]
        for title, items in _LISTS.items()
        for number, what, name in items
    ]


def write_checklist(results: Mapping[str, Any], folder: Path) -> None:
    """Write checklist.csv and checklist.md.

    Raises
    ------
    InputError
        If a file cannot be written.
    """
    rows = filled_checklist(results)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerows([_HEADER, *rows])
    write_file(folder / "checklist.csv", _encoded(text.getvalue()), "check-list")
    lines = ["# Reporting check-lists", "", "Check the answers: they are drafts. Fill in the empty ones."]
    for title in _LISTS:
        lines += ["", f"## {title}", "", "| Item | What to report | From this run |", "|---|---|---|"]
        lines += [
            f"| {number} | {what} | {_cell(answer)} |" for name, number, what, answer in rows if name == title
        ]
    write_file(folder / "checklist.md", _encoded("\n".join(lines) + "\n"), "check-list")


def add_checklist(page: Page, results: Mapping[str, Any]) -> None:
    """Add both check-lists to a page, folded."""
    rows = filled_checklist(results)
    page.heading("Check-lists for a paper")
    page.paragraph(
        "Item numbers are those of TRIPOD+AI (2024) and CLAIM (2020). The items are in our own words, so "
        "read the originals as well. Check the answers: they are drafts. Fill in the empty ones. The lists "
        "are also in checklist.csv and checklist.md."
    )
    for title in _LISTS:
        own = [row[1:] for row in rows if row[0] == title]
        filled = sum(bool(row[-1]) for row in own)
        page.folded_table(f"{title}: {filled} of {len(own)} items drafted", _HEADER[1:], own)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


# ------------------------------------------------------------------------------------------- answers


def _aim(r: Mapping[str, Any]) -> str:
    if "external" in r:
        return "Evaluation of an existing classifier on images from elsewhere (external validation)."
    return "Development of an image classifier and its evaluation on held-out images (internal validation)."


def _sources(r: Mapping[str, Any]) -> str:
    root = r["dataset"].get("root")
    named = "" if root is None else f" of {Path(root).name}"
    counted = f"{r['dataset']['n_images']} {units_in_words(r['dataset'])}"
    return f"{counted}{named}. Add where they came from, and whom they represent."


def _sites(r: Mapping[str, Any]) -> str:
    rows = r["results"][0].get("subgroups", {}).get("tables", {}).get("site")
    if not rows:
        return ""
    return f"{len(rows)} sites; metrics of each are in the table of subgroups. Add their places."


def _outcome(r: Mapping[str, Any]) -> str:
    return f"Classes: {', '.join(r['dataset']['class_names'])}. Add how and by whom they were assigned."


def _missing(r: Mapping[str, Any]) -> str:
    counted = f"{len(r['skipped'])} {units_in_words(r['dataset'])}"
    return f"{counted} could not be read and were left out. Nothing was imputed."


def _partitions(r: Mapping[str, Any]) -> str:
    first, units = r["results"][0], units_in_words(r["dataset"])
    if "external" in r:
        return f"All {first['n_test']} {units} served for evaluation only."
    return f"{first['n_train']} {units} to train, {first['n_test']} to test ({first['protocol']})."


def _disjoint(r: Mapping[str, Any]) -> str:
    known = patients_in_words(r["dataset"])
    if known is None:
        return f"{units_in_words(r['dataset']).capitalize()}. The patients are not known."
    shared = [one for one in r.get("warnings", []) if "both the training and the test part" in one]
    if shared:
        return f"Not disjoint: {shared[0]}."
    if "external" in r:
        return f"Not checked: the model file does not name the training patients. Here: {known}."
    return f"Patients ({known})."


def _model(r: Mapping[str, Any]) -> str:
    names = ", ".join(one["encode"] for one in r["results"])
    s = r["settings"]
    tuned = "C chosen by cross-validation inside the training images" if s.get("C") == "cv" else "C fixed"
    what = f"{frozen_network(r)}, encoding {names}, linear SVM"
    if "external" in r:
        return f"{what}, from a model file that is not changed."
    return f"{what} ({tuned}). Internal validation: {r['results'][0]['protocol']}."


def _measures(r: Mapping[str, Any]) -> str:
    more = ", calibration slope and intercept, Brier score" if "calibration" in r["results"][0] else ""
    curve = ", decision curve" if "decision_curve" in r["results"][0] else ""
    return f"Accuracy, balanced accuracy, AUC, sensitivity, specificity{more}{curve}; ROC, confusion matrix."


def _calibration(r: Mapping[str, Any]) -> str:
    found = r["results"][0].get("calibration")
    if found is None:
        return "None."
    parts = []
    for name, one in found.get("by_class", {}).items():
        if one["slope"] is not None and one["intercept"] is not None:
            parts.append(f"{name}: slope {one['slope']:.2f}, intercept {one['intercept']:.2f}")
    method = r["settings"].get("calibration")
    return f"Probabilities by {method or 'the model'}. {'; '.join(parts)}".strip()


def _predictions(r: Mapping[str, Any]) -> str:
    return "By medvlad, from the model file." if "external" in r else "By the fitted classifiers of this run."


def _imbalance(r: Mapping[str, Any]) -> str:
    if "task" in r:
        return imbalance_of_targets(r)
    counts = {name: one["n"] for name, one in r["results"][0]["per_class"].items()}
    listed = ", ".join(f"{name} {n}" for name, n in counts.items())
    weight = r["settings"].get("class_weight")
    return f"Test {units_in_words(r['dataset'])} by class: {listed}. Class weights: {weight or 'none'}."


def _subgroups(r: Mapping[str, Any]) -> str:
    tables = r["results"][0].get("subgroups", {}).get("tables", {})
    return f"Metrics by {', '.join(tables)}, see the tables of subgroups." if tables else ""


def _output(r: Mapping[str, Any]) -> str:
    kind = "probabilities and decision values" if "calibration" in r["results"][0] else "decision values"
    return f"A class, with {kind}. The class with the largest decision value is decided."


def _shift(r: Mapping[str, Any]) -> str:
    shares = r.get("external", {}).get("shares")
    if not shares:
        return ""
    listed = ", ".join(
        f"{name} {one['training']:.3f} in training, {one['observed']:.3f} here"
        for name, one in shares.items()
    )
    return f"Shares of the classes: {listed}."


def _code(r: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{name} {version}" for name, version in r["versions"].items() if version)
    return f"Open source (BSD-3-Clause): {listed}."


def _flow(r: Mapping[str, Any]) -> str:
    left = sum(n for kinds in r["dataset"].get("left_out", {}).values() for n in kinds.values())
    return (
        f"{r['dataset']['n_images']} {units_in_words(r['dataset'])} used, {len(r['skipped'])} unreadable, "
        f"{left} in formats that are not read. Add who was excluded before."
    )


def _counts(r: Mapping[str, Any]) -> str:
    known = patients_in_words(r["dataset"])
    patients = "patients not known" if known is None else known
    return f"{_partitions(r)} {patients[0].upper()}{patients[1:]}. {_imbalance(r)}"


def _specification(r: Mapping[str, Any]) -> str:
    mark = r["settings"].get("weights_fingerprint")
    weights = f" Weights: fingerprint {mark}." if mark else ""
    return f"All parameters are in results.json. 'medvlad train' writes the whole model as one file.{weights}"


def _performance(r: Mapping[str, Any]) -> str:
    lines = []
    for one in r["results"]:
        values = []
        for metric, name in (("balanced_accuracy", "balanced accuracy"), ("auc", "AUC")):
            ends = one[f"{metric}_ci95"]
            if one[metric] is not None:
                interval = "" if ends is None else f" ({ends[0]:.3f} to {ends[1]:.3f})"
                values.append(f"{name} {one[metric]:.3f}{interval}")
        lines.append(f"{one['encode']}: {', '.join(values)}")
    return "; ".join(lines) + "."


def _limitations(r: Mapping[str, Any]) -> str:
    return "Begin with the caveats in the summary of the report."


def _poor_input(r: Mapping[str, Any]) -> str:
    return "Unreadable images are refused or skipped by name; damaged ones are listed (--on-damage)."


def _privacy(r: Mapping[str, Any]) -> str:
    hidden = r["dataset"].get("root") is None
    return "Names of files and patients are pseudonyms in all results." if hidden else ""


def _training(r: Mapping[str, Any]) -> str:
    first, s = r["results"][0], r["settings"]
    penalties = penalties_in_words(first["C"]) if first.get("C") else "see the model file"
    seed = s.get("seed", "unknown")
    return f"Only encoder and SVM are fitted ({_augmentation(r)}); C: {penalties}; seed {seed}."


def _augmentation(r: Mapping[str, Any]) -> str:
    s = r["settings"]
    copies = ["mirrored copies"] if s.get("mirror") else []
    if s.get("augment") == "shift":
        copies.append("a shifted copy of each training image")
    if copies:
        return f"{' and '.join(copies)} too"
    return "augmentation: see the model file" if "external" in r else "no augmentation"


def _choice(r: Mapping[str, Any]) -> str:
    n = len(r["results"])
    return "One encoding was tested." if n == 1 else f"{n} encodings were tested; say how one was chosen."


def _uncertainty(r: Mapping[str, Any]) -> str:
    pairs = " McNemar's test compares encodings." if r["comparisons"] else ""
    return f"95 % score intervals {by_what(r)}.{pairs}"


def _robustness(r: Mapping[str, Any]) -> str:
    tables, curve = _subgroups(r), "learning_curve" in r["results"][0]
    return " ".join(filter(None, [tables, "A learning curve is in the report." if curve else ""]))


def _external(r: Mapping[str, Any]) -> str:
    return "This run is the test on external data." if "external" in r else "None in this run."


def _fixed(text: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda r: text


_ANSWERS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "aim": _aim,
    "sources": _sources,
    "sites": _sites,
    "preparation": preparation,
    "outcome": _outcome,
    "predictors": predictors,
    "no_judgement": _fixed("None: predictors are computed from pixels."),
    "missing": _missing,
    "partitions": _partitions,
    "disjoint": _disjoint,
    "model": _model,
    "measures": _measures,
    "calibration": _calibration,
    "predictions": _predictions,
    "imbalance": _imbalance,
    "subgroups": _subgroups,
    "output": _output,
    "shift": _shift,
    "code": _code,
    "flow": _flow,
    "counts": _counts,
    "specification": _specification,
    "performance": _performance,
    "limitations": _limitations,
    "poor_input": _poor_input,
    "technology": _fixed("Transfer learning: a frozen network with a linear classifier."),
    "privacy": _privacy,
    "weights": weights,
    "training": _training,
    "choice": _choice,
    "ensembles": _fixed("None."),
    "uncertainty": _uncertainty,
    "robustness": _robustness,
    "explanations": _fixed("Evidence maps: the decision value split over places of the image."),
    "external": _external,
    "failures": _fixed("The most confident errors are in the report, and every decision in predictions.csv."),
}
