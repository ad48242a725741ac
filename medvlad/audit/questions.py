"""Pairs of images of which a person should say whether they are of one patient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad.audit.alignment import SAME_SCENE
from medvlad.audit.descriptor_pairs import ScenePairs
from medvlad.audit.duplicates import Copies
from medvlad.audit.finding import ReadImages
from medvlad.audit.groups import connected, near_images

__all__ = ["pair_questions"]

_LISTED = 200


def pair_questions(
    images: ReadImages,
    copies: Copies,
    uncertain: ScenePairs,
    answers: Mapping[tuple[int, int], str] | None = None,
) -> dict[str, Any]:
    """List pairs that are nearly the same, and pairs that may be, unless the patient is known to be the same.

    Parameters
    ----------
    images : ReadImages
    copies : Copies
        Pairs that are nearly the same. A repair keeps them together unless the answer is no.
    uncertain : ScenePairs
        Pairs that may be, by falling correlation. A repair keeps them together only if the answer is yes.
        Pairs that copies, the answer yes, or earlier pairs connect already are left out.
    answers : mapping of (int, int) to str or None, default=None
        See :meth:`medvlad.audit.decisions.Decisions.of_pairs`. None: nobody was asked.

    Returns
    -------
    dict
        listed: pairs with an answer, and at most 200 others, the most doubtful first, with images,
        correlation, mirrored, same (False: uncertain) and answer (None: there is none); and n_left_out.
    """
    answers = {} if answers is None else answers
    near = near_images(copies)
    given = _answers_of(uncertain.pairs, answers, copies)
    apart = _connecting(connected(copies, answers), uncertain.pairs, given)
    pairs = np.concatenate([near, uncertain.pairs[apart]])
    correlation = np.concatenate([copies.correlation, uncertain.correlation[apart]])
    mirrored = np.concatenate([copies.mirrored, uncertain.mirrored[apart]])
    given = np.concatenate([_answers_of(near, answers, copies), given[apart]])
    same = np.arange(len(pairs)) < len(near)
    asked = np.flatnonzero(_may_differ(images, pairs))
    asked = asked[np.argsort(np.abs(correlation[asked] - SAME_SCENE), kind="stable")]
    is_new = given[asked] == ""
    asked = asked[~is_new | (np.cumsum(is_new) <= _LISTED)]
    listed = [
        {
            "images": sorted(images.names[i] for i in pairs[k]),
            "correlation": round(float(correlation[k]), 4),
            "mirrored": bool(mirrored[k]),
            "same": bool(same[k]),
            "answer": str(given[k]) or None,
        }
        for k in asked
    ]
    return {"listed": listed, "n_left_out": max(0, int(is_new.sum()) - _LISTED)}


def _answers_of(
    pairs: NDArray[np.intp], answers: Mapping[tuple[int, int], str], copies: Copies
) -> NDArray[np.str_]:
    """Return the answer about each pair of images, "" if there is none."""
    first = np.empty(len(copies.family), np.intp)
    for unit in copies.units:
        first[unit] = unit[0]
    ordered = np.sort(first[pairs], axis=1)
    return np.array([answers.get((a, b), "") for a, b in ordered.tolist()], "U6")


def _connecting(
    family: NDArray[np.int64], pairs: NDArray[np.intp], given: NDArray[np.str_]
) -> NDArray[np.bool_]:
    """Return which pairs have an answer, or connect families that earlier pairs do not connect."""
    family = family.copy()
    found: NDArray[np.bool_] = given != ""
    for k, (a, b) in enumerate(pairs):
        if given[k] != "no" and family[a] != family[b]:
            found[k] = True
            family[family == family[b]] = family[a]
    return found


def _may_differ(images: ReadImages, pairs: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which pairs are not known to be of one patient."""
    if images.patients is None:
        return np.ones(len(pairs), bool)
    patient = images.patients[pairs]
    different: NDArray[np.bool_] = patient[:, 0] != patient[:, 1]
    return different
