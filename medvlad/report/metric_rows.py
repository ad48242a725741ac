"""Rows of the table of metrics: a result, and the same decisions at other thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["metric_rows"]


def metric_rows(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name and the metrics of each row of one encoding.

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
