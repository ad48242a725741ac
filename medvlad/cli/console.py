"""What happens around the work of a command: warnings are collected, skipped images are listed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import click

__all__ = ["collected_warnings", "list_skipped"]


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def collected_warnings() -> Iterator[list[logging.LogRecord]]:
    """Context whose value becomes a list of what the package warns of, which is shown all the same."""
    collector, package = _Collector(), logging.getLogger("medvlad")
    package.addHandler(collector)
    try:
        yield collector.records
    finally:
        package.removeHandler(collector)


def list_skipped(skipped: list[dict[str, str]]) -> int:
    """List skipped images on standard error; the exit status."""
    for item in skipped:
        # A copy of another image has the other's reason.
        name = "" if item["image"] in item["reason"] else f"{item['image']}: "
        click.echo(f"medvlad: skipped: {name}{item['reason']}", err=True)
    return 1 if skipped else 0
