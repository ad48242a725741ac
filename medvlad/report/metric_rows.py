"""Rows and cells of the tables of metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["by_what", "metric_rows", "with_interval"]


def by_what(result: Mapping[str, Any], units: str = "images") -> str:
    """Return "over images" (or other units) or "by patient": how the intervals of a result were made."""
    return f"over {units}" if result["ci95_of"] == "images" else "by patient"


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
