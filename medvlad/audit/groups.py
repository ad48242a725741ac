"""Groups of images that copies, answers of a person, or other links connect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medvlad.audit.duplicates import Copies

__all__ = ["chain", "connected", "near_images"]


def near_images(copies: Copies) -> NDArray[np.intp]:
    """Return the pairs (m, 2) that are nearly the same, as the first images of both units."""
    first = np.array([unit[0] for unit in copies.units], np.intp)
    return first[np.asarray(copies.near, np.intp).reshape(-1, 2)]


def chain(keys: NDArray[Any]) -> NDArray[np.intp]:
    """Return pairs (m, 2) of images that connect all images with the same key."""
    order = np.argsort(keys, kind="stable")
    same = keys[order[:-1]] == keys[order[1:]]
    pairs: NDArray[np.intp] = np.column_stack([order[:-1], order[1:]])[same]
    return pairs


def connected(
    copies: Copies,
    answers: Mapping[tuple[int, int], str],
    others: Sequence[NDArray[np.intp]] = (),
) -> NDArray[np.int64]:
    """Return the number of the group of each image.

    Images with the same pixels are connected, pairs that are nearly the same are unless the answer is "no",
    and any pair is if the answer is "yes".

    Parameters
    ----------
    copies : Copies
    answers : mapping of (int, int) to str
        See :meth:`medvlad.audit.decisions.Decisions.of_pairs`.
    others : sequence of ndarray of shape (m, 2), int
        More pairs that are connected.
    """
    n = len(copies.family)
    near = [pair for pair in near_images(copies).tolist() if answers.get((min(pair), max(pair))) != "no"]
    yes = [pair for pair, answer in answers.items() if answer == "yes"]
    pixels = [np.column_stack([unit[:-1], unit[1:]]) for unit in copies.units]
    pairs = [np.array(one, np.intp).reshape(-1, 2) for one in (near, yes)]
    links = np.concatenate([*pairs, *pixels, *others])
    graph = coo_array((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(n, n))
    found: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return found
