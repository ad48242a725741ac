"""Numbers about a run as OpenMetrics text, for Prometheus and what reads its format.

The text is written here and not by the package prometheus_client, because there is nothing that it would do:
values are counters and times, labels are a command, a part such as 3/16 and fixed words, so nothing needs
escaping. A package would also have to be installed on every node. The tests read the text with the parser of
prometheus_client.

No label names a file, a folder, a class or a patient.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medvlad._util.atomic_file import write_file
from medvlad._util.counters import COUNTERS, Counters, counting
from medvlad._util.validate import InputError

__all__ = ["metrics_text", "writing_metrics"]

logger = logging.getLogger(__name__)

_SECONDS = 60.0  # between two writes

#: Counters that share the family medvlad_images, and its label "outcome".
_OUTCOMES = {"images_extracted": "extracted", "images_from_store": "from_store"}
#: Name and unit of the families of the other counters.
_FAMILIES = {
    "images_damaged": ("medvlad_damaged_images", ""),
    "failures": ("medvlad_failed_images", ""),
    "retries": ("medvlad_retries", ""),
    "bytes_read": ("medvlad_read_bytes", "bytes"),
    "bytes_stored": ("medvlad_stored_bytes", "bytes"),
}


def metrics_text(
    counters: Mapping[str, Any], labels: Mapping[str, str], *, running: bool, failed: bool, now: float
) -> str:
    """Return OpenMetrics text.

    Parameters
    ----------
    counters : dict
        As of :meth:`medvlad._util.counters.Counters.as_dict`.
    labels : dict of str to str
        Labels of every sample.
    running, failed : bool
        Whether the command runs, and whether it has ended with an error.
    now : float
        Time of writing, in seconds since 1970.
    """
    lines: list[str] = []

    def family(name: str, kind: str, help: str, unit: str = "") -> None:
        lines.append(f"# TYPE {name} {kind}")
        if unit:
            lines.append(f"# UNIT {name} {unit}")
        lines.append(f"# HELP {name} {help}.")

    def sample(name: str, value: float, **more: str) -> None:
        named = ",".join(f'{key}="{text}"' for key, text in {**labels, **more}.items())
        lines.append(f"{name}{{{named}}} {value}")

    family("medvlad_images", "counter", "Images that were done, by where their descriptors came from")
    for name, outcome in _OUTCOMES.items():
        sample("medvlad_images_total", counters[name], outcome=outcome)
    for name, (family_name, unit) in _FAMILIES.items():
        family(family_name, "counter", COUNTERS[name], unit)
        sample(f"{family_name}_total", counters[name])
    family("medvlad_stage_seconds", "counter", "Wall-clock seconds by stage", "seconds")
    for stage, seconds in counters["seconds"].items():
        sample("medvlad_stage_seconds_total", seconds, stage=stage)
    family("medvlad_running", "gauge", "1 while the command runs")
    sample("medvlad_running", int(running))
    family("medvlad_failed", "gauge", "1 if the command has ended with an error or a signal")
    sample("medvlad_failed", int(failed))
    family("medvlad_written_timestamp_seconds", "gauge", "Time when this file was written", "seconds")
    sample("medvlad_written_timestamp_seconds", round(now, 3))
    return "\n".join([*lines, "# EOF", ""])


@contextmanager
def writing_metrics(path: Path, labels: Mapping[str, str]) -> Iterator[None]:
    """Count what the block does, and write it to a file: at once, every minute, and at the end.

    Parameters
    ----------
    path : Path
        File, which is replaced atomically.
    labels : dict of str to str
        Labels of every sample. The block may add some.

    Raises
    ------
    InputError
        If the file cannot be written at once. Later failures are only logged, because the work is worth more.
    """
    began, ended = time.perf_counter(), threading.Event()

    def write(counters: Counters, *, running: bool, failed: bool = False) -> None:
        found = counters.as_dict()
        found["seconds"]["total"] = round(time.perf_counter() - began, 4)
        text = metrics_text(found, dict(labels), running=running, failed=failed, now=time.time())
        write_file(path, text.encode(), "metrics")

    def keep_writing(counters: Counters) -> None:
        while not ended.wait(_SECONDS):
            _trying(lambda: write(counters, running=True))

    with counting() as counters:
        write(counters, running=True)
        writer = threading.Thread(target=keep_writing, args=(counters,), name="medvlad-metrics", daemon=True)
        writer.start()
        failed = True
        try:
            yield
            failed = False
        finally:
            ended.set()
            writer.join()
            _trying(lambda: write(counters, running=False, failed=failed))


def _trying(write: Callable[[], None]) -> None:
    try:
        write()
    except (InputError, OSError) as error:
        logger.warning("%s", error)
