"""Types that all parts of an audit share: the readable images, and the form of a finding."""

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
"""Maximum number of examples of a finding."""


@dataclass(frozen=True, eq=False)
class ReadImages:
    """The images of a data set that could be read.

    Attributes
    ----------
    names : list of str, n
        Paths or pseudonyms.
    labels : ndarray of shape (n,), int64
        Indices into `class_names`.
    class_names : list of str
    parts : ndarray of shape (n,), str, or None
        "train" or "test". None: the data set has no parts.
    patients : ndarray of shape (n,), str, or None
        Patient of each image. None: unknown.
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
    """Return a finding of plain types, with the first `MAX_EXAMPLES` examples in sorted order."""
    return {
        "kind": kind,
        "severity": severity,
        "sentence": sentence,
        **counts,
        "examples": sorted(examples)[:MAX_EXAMPLES],
    }


def plural(count: int, what: str, several: str | None = None) -> str:
    """Return a number with its noun, such as "1 image" or "2 images"."""
    return f"{count} {what}" if count == 1 else f"{count} {several or what + 's'}"
