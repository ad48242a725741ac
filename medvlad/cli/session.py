"""What happens around the work of a command: Keras starts quietly, skipped images are listed."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import click

__all__ = ["collected_warnings", "list_skipped", "quiet_pydicom", "start_keras"]

logger = logging.getLogger(__name__)


def start_keras() -> None:
    """Import Keras and wake its backend, keeping what TensorFlow's C++ side announces off standard error.

    TensorFlow prints it past Python and past TF_CPP_MIN_LOG_LEVEL, on file descriptor 2 itself.
    """
    from medvlad.network import import_keras

    sys.stderr.flush()
    with tempfile.TemporaryFile("w+") as announcements:
        saved = os.dup(2)
        os.dup2(announcements.fileno(), 2)
        try:
            keras = import_keras()
            keras.ops.convert_to_numpy(keras.ops.zeros(1))
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            announcements.seek(0)
            logger.debug("while Keras started: %s", announcements.read().strip())


def quiet_pydicom() -> None:
    """Show nothing of what pydicom finds odd in a header: it repeats what it finds, identifiers included."""
    warnings.filterwarnings("ignore", module=r"pydicom\b")
    log = logging.getLogger("pydicom")  # which sets its level itself when it is imported
    log.propagate = False
    if not log.handlers:  # a worker does this for each of its jobs
        log.addHandler(logging.NullHandler())


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
