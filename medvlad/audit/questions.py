"""Pairs of images of which a person should say whether they are of one patient."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad.audit.alignment import SAME_SCENE
from medvlad.audit.descriptor_pairs import ScenePairs
from medvlad.audit.duplicates import Copies
from medvlad.audit.finding import ReadImages

__all__ = ["pair_questions"]

_LISTED = 200


def pair_questions(images: ReadImages, copies: Copies, uncertain: ScenePairs) -> dict[str, Any]:
    """List pairs that are nearly the same, and pairs that may be, unless the patient is known to be the same.

    Parameters
    ----------
    images : ReadImages
    copies : Copies
        Pairs that are nearly the same. A repair keeps them together unless the answer is no.
    uncertain : ScenePairs
        Pairs that may be, by falling correlation. A repair keeps them together only if the answer is yes.
        Pairs that copies and earlier pairs connect already are left out.

    Returns
    -------
    dict
        listed: at most 200 pairs, the most doubtful first, with images, correlation, mirrored and same
        (False: uncertain); and n_left_out.
    """
    near = np.array([[copies.units[a][0], copies.units[b][0]] for a, b in copies.near], np.intp).reshape(
        -1, 2
    )
    apart = _connecting(copies.family, uncertain.pairs)
    pairs = np.concatenate([near, uncertain.pairs[apart]])
    correlation = np.concatenate([copies.correlation, uncertain.correlation[apart]])
    mirrored = np.concatenate([copies.mirrored, uncertain.mirrored[apart]])
    same = np.arange(len(pairs)) < len(near)
    asked = np.flatnonzero(_may_differ(images, pairs))
    asked = asked[np.argsort(np.abs(correlation[asked] - SAME_SCENE), kind="stable")]
    listed = [
        {
            "images": sorted(images.names[i] for i in pairs[k]),
            "correlation": round(float(correlation[k]), 4),
            "mirrored": bool(mirrored[k]),
            "same": bool(same[k]),
        }
        for k in asked[:_LISTED]
    ]
    return {"listed": listed, "n_left_out": max(0, len(asked) - _LISTED)}


def _connecting(family: NDArray[np.int64], pairs: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which pairs connect families that earlier pairs do not connect."""
    family, found = family.copy(), np.zeros(len(pairs), bool)
    for k, (a, b) in enumerate(pairs):
        if family[a] != family[b]:
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
