"""Rows and cells of the tables of metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medvlad.datasets.describe import units_in_words

__all__ = ["by_what", "metric_rows", "with_interval"]


def by_what(results: Mapping[str, Any]) -> str:
    """Return "over images", "over bags" or "by patient": how the intervals of a run were made."""
    alone = results["results"][0]["ci95_of"] == "images"
    return f"over {units_in_words(results['dataset'])}" if alone else "by patient"


def with_interval(of: Mapping[str, Any], metric: str, digits: str = ".3f") -> str | None:
    """Return a metric and, on a second line, its interval. None: the metric is not defined."""
    value, ends = of.get(metric), of.get(f"{metric}_ci95")
    if value is None:
        return None
    return f"{value:{digits}}" + ("" if ends is None else f"\n{ends[0]:{digits}} to {ends[1]:{digits}}")


def metric_rows(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name and the metrics of one encoding, and of its decisions at other thresholds.

    Parameters
    ----------
    result : dict
        See :func:`medvlad.evaluation.held_out_metrics.held_out_metrics`.
    """
    yield result["encode"], result
    if "operating_point" in result:
        yield f"{result['encode']}, {result['operating_point']['target']}", result["operating_point"]
    if "accuracy" in result.get("adapted", {}):
        yield f"{result['encode']}, adapted threshold", result["adapted"]
