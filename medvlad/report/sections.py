"""Sections of the report of an evaluation: figures and tables of each encoding, and the settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medvlad.encoders.recipe import encoder_steps
from medvlad.evaluation.cross_validation import FittedFold, HeldOut
from medvlad.experiment import Evaluation
from medvlad.experiment.seeds import seeds_in_words
from medvlad.explain import evidence_picture, is_additive
from medvlad.report import curves, plots
from medvlad.report.clusters import N_CLUSTERS, Cluster, draw_clusters
from medvlad.report.explanations import map_in_words
from medvlad.report.html import Page
from medvlad.report.kept import KeptFigures, Named
from medvlad.report.metric_rows import by_what, metric_rows, with_interval
from medvlad.report.pictures import ShownError, explainable
from medvlad.report.settings import penalties_in_words, shown_settings

__all__ = [
    "add_clusters",
    "add_errors",
    "add_figures",
    "add_metrics",
    "add_per_class",
    "add_settings",
    "add_subgroups",
    "missing_intervals",
]


def add_metrics(page: Page, results: dict[str, Any]) -> None:
    """Add the table of all encodings, and their comparisons."""
    page.heading("All metrics", 3)
    two = len(results["dataset"]["class_names"]) == 2
    header = ["", "accuracy", "balanced accuracy", "AUC"]
    header += ["sensitivity", "specificity"] if two else []
    metrics = ["accuracy", "balanced_accuracy", "auc", *(["sensitivity", "specificity"] if two else [])]
    rows = [
        [name, *(with_interval(of, metric) for metric in metrics)]
        for one in results["results"]
        for name, of in metric_rows(one)
    ]
    first = results["results"][0]
    caption = f"Below each value is its 95 % interval {by_what(results)}."
    if two:
        caption += f" Sensitivity and specificity are those of {first['positive_class']}."
    page.table(header, rows, caption)
    for line in missing_intervals(results["results"]):
        page.paragraph(line)
    for one in results["results"]:
        if "over_seeds" in one:
            page.paragraph(seeds_in_words(one))
        if "adapted" in one:
            page.paragraph(_adapted_in_words(one))
    for pair in results["comparisons"]:
        page.paragraph(_comparison_in_words(pair, by_image=first["ci95_of"] == "images"))


def missing_intervals(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
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


def add_figures(
    page: Page, kept: KeptFigures, evaluation: Evaluation, result: dict[str, Any], one: HeldOut
) -> None:
    """Add the figures of an encoding that show no image of the data set."""
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
        caption = f"Confidence of the most probable class, which may differ from the SVM's decision: {error}"
        yield "confidence", plots.reliability(found["bins"]), caption
        if positive is not None and "by_class" in found:
            name = names[positive]
            own = found["by_class"][name]
            yield "calibration", curves.calibration_plot(own, name), _calibration_in_words(name, own)
    if "decision_curve" in result:
        caption = (
            f"Decision curve of {result['decision_curve']['class']}: true positives per image, minus false "
            "positives weighted by the threshold. The band is the 95 % interval at each threshold"
        )
        yield "benefit", curves.decision_plot(result["decision_curve"]), caption
    if "learning_curve" in result:
        n = len({found["repeat"] for found in result["learning_curve"]})
        caption = f"Learning curve: nested training sets, {n} repetitions (dots) and their mean (line)"
        yield "learning", curves.learning_plot(result["learning_curve"]), caption
    if result.get("subgroups", {}).get("tables"):
        caption = "Balanced accuracy of subgroups, number of images in parentheses. Pale: small groups"
        yield "subgroups", curves.subgroup_plot(result["subgroups"]["tables"], result), caption


def _calibration_in_words(name: str, found: Mapping[str, Any]) -> str:
    def shown(key: str) -> str:
        value, ends = found[key], found[f"{key}_ci95"]
        if value is None:
            return f"{key} not defined ({found['missing'][key]})"
        return f"{key} {value:.2f}" + ("" if ends is None else f" ({ends[0]:.2f} to {ends[1]:.2f})")

    return (
        f"Calibration of {name}: {shown('slope')}, 1 is perfect; {shown('intercept')}, 0 is perfect. "
        f"Observed share {found['observed']:.3f}, mean probability {found['expected']:.3f}"
    )


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def add_per_class(page: Page, result: dict[str, Any], by: str) -> None:
    """Add the table of an encoding's classes. `by` says how intervals were made."""
    page.heading(f"{result['encode']}: classes", 3)
    names = list(result["per_class"])
    short = plots.short_names(names)
    shortened = short != names
    rows = []
    for name, label in zip(names, short, strict=True):
        one = result["per_class"][name]
        rates = [with_interval(one, m) for m in ("sensitivity", "specificity", "precision", "auc")]
        first = [name, label] if shortened else [name]
        rows.append([*first, one["n"], *rates, one["average_precision"]])
    header = ["class", *(["in figures"] if shortened else []), "images", "sensitivity", "specificity"]
    header += ["precision (PPV)", "AUC", "average precision"]
    page.table(
        header,
        rows,
        f"Below each value is its 95 % interval {by}, if there is one. "
        f"C of the SVM: {penalties_in_words(result['C'])}.",
    )


def add_subgroups(page: Page, result: dict[str, Any], by: str) -> None:
    """Add the tables of an encoding's subgroups, and which covariates have none."""
    found = result.get("subgroups")
    if found is None:
        return
    page.heading(f"{result['encode']}: subgroups", 3)
    two = "positive_class" in result
    metrics = ["accuracy", "balanced_accuracy", *(["sensitivity", "specificity"] if two else []), "auc"]
    listed = [(name, row) for name, rows in found["tables"].items() for row in rows]
    known = any(row["n_patients"] is not None for _, row in listed)
    table = [
        [
            f"{name}: {row['value']}{' *' if row['warning'] else ''}",
            row["n"],
            *([row["n_patients"]] if known else []),
            *(with_interval(row, m) for m in metrics),
        ]
        for name, row in listed
    ]
    header = ["subgroup", "images", *(["patients"] if known else [])]
    header += [m.replace("_", " ").replace("auc", "AUC") for m in metrics]
    if table:
        interval = f"Below each value is its 95 % interval {by}."
        page.table(header, table, f"{interval} Subgroups differ by chance as well.")
    small = [f"* {name}: {row['value']} has {row['warning']}." for name, row in listed if row["warning"]]
    if small:
        page.paragraph(" ".join(small), "warning")
    for name, reason in found["left_out"].items():
        page.paragraph(
            f"{name} has no table: {reason}." if name not in found["tables"] else f"{name}: {reason}."
        )


def add_errors(
    page: Page, kept: KeptFigures, evaluation: Evaluation, name: str, errors: list[ShownError], largest: float
) -> None:
    """Add the most confident errors with their evidence."""
    one = evaluation.decided[name]
    page.heading("Most confident errors", 3)
    if not explainable(one):
        page.paragraph("This encoding has no evidence maps.")
        return
    if not errors:
        page.paragraph("There are no errors.")
        return
    page.paragraph(
        "Left: the image. Right: the evidence map. Red is evidence for the wrong decision, blue against it. "
        f"{map_in_words(getattr(evaluation.extractor, 'grids_', None))} {_how_exact(one.fitted[0])}"
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


def add_clusters(page: Page, kept: KeptFigures, evaluation: Evaluation, name: str) -> None:
    """Add the clusters of a codebook: patches, and what they add. Nothing is added if there is none."""
    found = draw_clusters(evaluation, evaluation.decided[name].fitted[0])
    if found is None:
        return
    page.heading("What the clusters look like", 3)
    names = evaluation.dataset.class_names
    if found.clusters[0].gap is None:
        page.paragraph(
            f"Rows are the clusters with most descriptors, at most {N_CLUSTERS}. A row shows the patches of "
            "images whose descriptors are nearest to the centre, one patch an image. Parts of the gap are "
            "computed only for a single VLAD with hard assignment, if decision values of the classes differ."
        )
    else:
        page.paragraph(
            "The decision value of an image is a sum over clusters (with a signed power, to first order). "
            "The gap is the mean decision value in images of a class minus that in all other images. Rows "
            f"are the clusters that add most to it, at most {N_CLUSTERS}. A row shows patches of different "
            "images: near the centre, with the most evidence for the class at the left, and with the most "
            "evidence against it."
        )
    page.pictures(kept.keep(name, [("clusters", found.picture, found.caption)]), "column")
    page.folded_table(
        "Clusters",
        ["cluster", "part of the gap", "class", "used most in", "used least in"],
        [_cluster_row(cluster, names) for cluster in found.clusters],
        "Percentages of use are shares of the descriptors of the images of a class.",
    )


def _cluster_row(cluster: Cluster, names: Sequence[str]) -> list[Any]:
    most, least = int(cluster.share.argmax()), int(cluster.share.argmin())
    return [
        cluster.number,
        "-" if cluster.gap is None else f"{cluster.gap:.1%}",
        "-" if cluster.gap is None else names[cluster.speaks_for],
        *(f"{names[k]}: {cluster.share[k]:.1%}" for k in (most, least)),
    ]


def add_settings(page: Page, results: dict[str, Any]) -> None:
    """Add settings, versions and times, folded."""
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
