"""What the parts of an audit share: the images that could be read, and one form for all findings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_EXAMPLES", "Finding", "ReadImages", "Severity", "finding", "plural"]

Severity = Literal["error", "warning", "note"]
Finding = dict[str, Any]

MAX_EXAMPLES = 10


@dataclass(frozen=True, eq=False)
class ReadImages:
    """The images of a data set that could be read.

    Attributes
    ----------
    names : list of str, n
        Paths.
    labels : ndarray of shape (n,), int64
    class_names : list of str
    parts : ndarray of shape (n,), str, or None
        "train" or "test".
    patients : ndarray of shape (n,), str, or None
    """

    names: list[str]
    labels: NDArray[np.int64]
    class_names: list[str]
    parts: NDArray[np.str_] | None
    patients: NDArray[np.str_] | None

    def __len__(self) -> int:
        return len(self.names)


def finding(
    kind: str, severity: Severity, sentence: str, examples: Iterable[Any] = (), **counts: Any
) -> Finding:
    """Return one finding: plain types only, the smallest `MAX_EXAMPLES` examples in order."""
    return {
        "kind": kind,
        "severity": severity,
        "sentence": sentence,
        **counts,
        "examples": sorted(examples)[:MAX_EXAMPLES],
    }


def plural(count: int, what: str, several: str | None = None) -> str:
    """Return "1 image", "2 images"."""
    return f"{count} {what}" if count == 1 else f"{count} {several or what + 's'}"
