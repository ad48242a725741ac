"""What the summary of a report says about several labels and about numbers: question, answer and caveats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medvlad.datasets.describe import units_in_words
from medvlad.evaluation.class_counts import FEW_PATIENTS, few_patients

__all__ = ["names_in_words", "target_answer", "target_caveats", "target_metrics", "target_question"]

_MANY_NAMES = 6


def names_in_words(names: Sequence[str]) -> str:
    """Return the first six names, and how many more there are."""
    rest = f" and {len(names) - _MANY_NAMES} more" if len(names) > _MANY_NAMES else ""
    return f"{', '.join(names[:_MANY_NAMES])}{rest}"


def target_question(results: Mapping[str, Any]) -> str:
    """Return the question that a run on several labels or numbers answers."""
    names = results["dataset"]["class_names"]
    who = "an image" if units_in_words(results["dataset"]) == "images" else "a bag"
    shown = names_in_words(names)
    if results["task"] == "labels":
        return f"Which of {len(names)} labels does {who} have: {shown}?"
    return f"How well can numbers be predicted from {who}: {shown}?"


def target_metrics(
    results: Mapping[str, Any], one: Mapping[str, Any]
) -> Iterator[tuple[str, str, list[str]]]:
    """Yield of one encoding: whose metrics these are, the first of them, and the others.

    Parameters
    ----------
    results : mapping
        ``results`` of :class:`medvlad.experiment.Evaluation`, with the task "labels" or "regression".
    one : mapping
        An entry of ``results["results"]``.
    """
    if results["task"] == "labels":
        for kind in ("macro", "micro"):
            of = one[kind]
            others = [f"average precision {_value(of, 'average_precision')}"]
            others += [f"{metric} {_value(of, metric)}" for metric in ("sensitivity", "specificity")]
            yield f"{kind} AUC", _value(of, "auc", large=kind == "macro"), others
        return
    for target in one["targets"][:_MANY_NAMES]:
        others = [f"mean absolute error {_value(target, 'mae', digits='.4g')}"]
        others.append(f"Spearman's correlation {_value(target, 'spearman')}")
        yield f"R2 of {target['target']}", _value(target, "r2", large=True), others


def target_answer(results: Mapping[str, Any]) -> Iterator[str]:
    """Yield the metrics of each encoding, the first of them large, with intervals in parentheses."""
    for one in results["results"]:
        name = "" if len(results["results"]) == 1 else f"{one['encode']}: "
        for what, first, others in target_metrics(results, one):
            yield f"{name}{what} {first}"
            yield ", ".join(others)
    if results["task"] == "labels":
        yield (
            f"Macro: mean over the labels. Micro: all pairs of {units_in_words(results['dataset'])[:-1]} and "
            "label together."
        )
    elif len(results["results"][0]["targets"]) > _MANY_NAMES:
        yield f"The other {len(results['results'][0]['targets']) - _MANY_NAMES} numbers are in the table."


def target_caveats(results: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what limits the results on several labels or numbers: "warning" or "note", and a sentence."""
    first, units = results["results"][0], units_in_words(results["dataset"])
    of_labels = results["task"] == "labels"
    listed = first["labels"] if of_labels else first["targets"]
    key = "label" if of_labels else "target"
    few = few_patients(first)
    told = any("these metrics are uncertain" in warning for warning in results.get("warnings", []))
    if few and not told:
        who = units if first["ci95_of"] == "images" else "patients"
        have = "have" if of_labels else "have a known value of"
        yield (
            "warning",
            f"Fewer than {FEW_PATIENTS} test {who} {have} {names_in_words(few)}, so these metrics are "
            "uncertain.",
        )
    gaps = [one[key] for one in listed if few.count(one[key]) == 0 and one["n"] < first["n_test"]]
    if gaps:
        yield (
            "note",
            f"Not known for all test {units}: {names_in_words(gaps)}. Only known values count.",
        )
    for one in results["results"]:
        if of_labels and one["macro"]["left_out"]:
            yield (
                "warning",
                f"{one['encode']}: the macro average leaves out {names_in_words(one['macro']['left_out'])}, "
                f"because the test {units} all have the label or all lack it.",
            )
        weak = [] if of_labels else [row["target"] for row in one["targets"] if _may_be_zero(row)]
        if weak:
            yield (
                "warning",
                f"{one['encode']}: the interval of R2 reaches 0 for {names_in_words(weak)}. Always "
                "predicting the mean may be as good.",
            )


def _may_be_zero(target: Mapping[str, Any]) -> bool:
    return target["r2_ci95"] is not None and bool(target["r2_ci95"][0] <= 0)


def _value(of: Mapping[str, Any], metric: str, *, digits: str = ".3f", large: bool = False) -> str:
    value, ends = of.get(metric), of.get(f"{metric}_ci95")
    if value is None:
        return "not defined"
    shown = f"*{value:{digits}}*" if large else f"{value:{digits}}"
    return shown + ("" if ends is None else f" ({ends[0]:{digits}}\u00a0to\u00a0{ends[1]:{digits}})")
