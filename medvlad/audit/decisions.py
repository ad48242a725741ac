"""Read what a person decided about pairs of images and about labels.

The page of decisions (:mod:`medvlad.report.decisions`) saves a JSON file::

    {"medvlad_decisions": 1,
     "pairs": [{"images": ["train/a/1.png", "test/a/7.png"], "same_patient": "yes"}, ...],
     "labels": [{"image": "train/b/3.png", "label": "b", "answer": "wrong"}, ...]}

Names are relative to the folder that holds all images. `same_patient` is "yes", "no" or "unsure". `answer` is
"right", "wrong" or "unsure".
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError

__all__ = ["LABEL_ANSWERS", "PAIR_ANSWERS", "Decisions", "read_decisions"]

PAIR_ANSWERS = ("yes", "no", "unsure")
LABEL_ANSWERS = ("right", "wrong", "unsure")

_FORMAT = 1


@dataclass(frozen=True)
class Decisions:
    """Answers of a person.

    Attributes
    ----------
    pairs : dict of (str, str) to str
        Whether two images are of one patient: "yes", "no" or "unsure". The names of a pair are in order.
    labels : dict of str to str
        Whether the label of an image is "right", "wrong" or "unsure".
    shown : dict of str to str
        The label of an image at the time of the answer. If it is known and the image has another label now,
        the answer does not count.
    """

    pairs: dict[tuple[str, str], str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)

    def check(self, names: Sequence[str]) -> None:
        """Raise InputError if a decision is about an image that is not in `names`."""
        known = set(names)
        asked = [name for pair in self.pairs for name in pair]
        unknown = sorted({name for name in [*asked, *self.labels] if name not in known})
        if unknown:
            raise InputError(
                f"a decision is about the image {unknown[0]!r}, which the data set does not have: use "
                "decisions of an audit of the same images"
            )

    def of_pairs(self, names: Sequence[str], units: Sequence[NDArray[np.intp]]) -> dict[tuple[int, int], str]:
        """Return the answers by the first images of both units, the lower first.

        An answer about an image also counts for the images with the same pixels. If the answers contradict
        each other, "no" counts more than "yes".

        Parameters
        ----------
        names : sequence of str
        units : sequence of ndarray of int
            Images with the same pixels. Each image is in one of them.
        """
        first = {names[i]: int(unit[0]) for unit in units for i in unit}
        found: dict[tuple[int, int], str] = {}
        for answer in ("unsure", "yes", "no"):
            for (a, b), given in self.pairs.items():
                if given == answer and a in first and b in first:
                    one, other = sorted((first[a], first[b]))
                    found[one, other] = answer
        return found

    def label_answer(self, name: str, label: str) -> str | None:
        """Return the answer about an image with this label. None: there is none."""
        return self.labels.get(name) if self.shown.get(name, label) == label else None


def _in_order(first: str, second: str) -> tuple[str, str]:
    return (first, second) if first <= second else (second, first)


def read_decisions(path: str | os.PathLike[str]) -> Decisions:
    """Read a file of decisions.

    Parameters
    ----------
    path : path
        JSON file that the page of decisions saved.

    Returns
    -------
    Decisions

    Raises
    ------
    InputError
        If the file cannot be read, or is no file of decisions.
    """
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"decisions {str(path)!r} cannot be read: {error}") from error
    if not isinstance(given, dict) or given.get("medvlad_decisions") != _FORMAT:
        raise InputError(
            f"{str(path)!r} is no file of decisions: give the JSON file that audit_decisions.html saved"
        )
    pairs: dict[tuple[str, str], str] = {}
    labels: dict[str, str] = {}
    shown: dict[str, str] = {}
    for one in _listed(path, given, "pairs"):
        images: Any = one.get("images")
        answer: Any = one.get("same_patient")
        is_pair = isinstance(images, list) and len(images) == 2 and all(isinstance(i, str) for i in images)
        _check(path, one, is_pair and answer in PAIR_ANSWERS, "two images and same_patient", PAIR_ANSWERS)
        pairs[_in_order(images[0], images[1])] = answer
    for one in _listed(path, given, "labels"):
        image: Any = one.get("image")
        answer = one.get("answer")
        is_label = isinstance(image, str) and answer in LABEL_ANSWERS
        _check(path, one, is_label, "an image and answer", LABEL_ANSWERS)
        labels[image] = answer
        if isinstance(one.get("label"), str):
            shown[image] = one["label"]
    return Decisions(pairs, labels, shown)


def _listed(path: str | os.PathLike[str], given: dict[str, Any], name: str) -> list[dict[str, Any]]:
    listed = given.get(name, [])
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise InputError(f"{name} in {str(path)!r} must be a list of decisions, got {str(listed)[:60]!r}")
    return listed


def _check(
    path: str | os.PathLike[str], one: dict[str, Any], is_right: bool, what: str, answers: tuple[str, ...]
) -> None:
    if not is_right:
        raise InputError(
            f"a decision in {str(path)!r} needs {what}, which is one of {', '.join(answers)}, got "
            f"{str(one)[:120]}"
        )
