"""Images that occur twice: the same bytes, the same pixels, or nearly the same picture.

BLAKE2 digests of files and of pixels find identical images. :mod:`medvlad.audit.near_pairs` finds images that
are nearly the same. :mod:`medvlad.audit.descriptor_pairs` finds more of them, if there is a network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medvlad.audit.descriptor_pairs import ScenePairs
from medvlad.audit.finding import Finding, ReadImages, Severity, finding, plural
from medvlad.audit.images import ImageFacts, grey_thumbnails
from medvlad.audit.near_pairs import near_pairs

__all__ = ["MAX_LISTED", "Copies", "duplicate_findings", "find_copies"]

MAX_LISTED = 1000
"""Maximum number of sets or pairs in a full list."""

_EXAMPLES_FROM = 1000  # pairs from which examples are taken


@dataclass(frozen=True, eq=False)
class Copies:
    """Images of a data set that occur more than once.

    Attributes
    ----------
    same_file : list of ndarray of int
        Sets of images with the same bytes.
    same_pixels : list of ndarray of int
        Sets of images with the same pixels in different files.
    units : list of ndarray of int
        Sets that together hold all n images. Images with the same pixels are in one set.
    near : ndarray of shape (m, 2), int
        Pairs of units that are nearly the same, as indices into `units`, the lower first.
    mirrored : ndarray of shape (m,), bool
        Whether a pair is mirrored.
    correlation : ndarray of shape (m,), float64
        Correlation of each pair.
    family : ndarray of shape (n,), int64
        Number of the family of each image. A chain of copies connects the images of a family.
    complete : bool
        False if there were more candidates than are checked.
    """

    same_file: list[NDArray[np.intp]]
    same_pixels: list[NDArray[np.intp]]
    units: list[NDArray[np.intp]]
    near: NDArray[np.intp]
    mirrored: NDArray[np.bool_]
    correlation: NDArray[np.float64]
    family: NDArray[np.int64]
    complete: bool

    def by_name(self, names: Sequence[str]) -> Copies:
        """Return the same copies, with sets and pairs in the order of `names`, one name for each image."""
        rank = np.empty(len(names), np.intp)
        rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))

        def in_order(sets: list[NDArray[np.intp]]) -> list[NDArray[np.intp]]:
            return [group[np.argsort(rank[group])] for group in sets]

        def first(group: NDArray[np.intp]) -> Any:
            return rank[group[0]]

        units = in_order(self.units)
        of_unit = np.array([first(group) for group in units], np.intp)
        near = np.take_along_axis(self.near, np.argsort(of_unit[self.near], axis=1), axis=1)
        order = np.lexsort(of_unit[near].T[::-1])
        return replace(
            self,
            same_file=sorted(in_order(self.same_file), key=first),
            same_pixels=sorted(in_order(self.same_pixels), key=first),
            units=units,
            near=near[order],
            mirrored=self.mirrored[order],
            correlation=self.correlation[order],
        )


def find_copies(facts: Sequence[ImageFacts], *, scenes: ScenePairs | None = None, n_threads: int) -> Copies:
    """Find images that occur twice.

    Parameters
    ----------
    facts : sequence of ImageFacts
        Facts of at least one image.
    scenes : ScenePairs or None, default=None
        Pairs of images of one scene, which count as near. None: not searched.
    n_threads : int
        Number of threads that compare images. It changes no result.

    Returns
    -------
    Copies
    """
    units = _sets(one.pixel_digest for one in facts)
    same_file = [group for group in _sets(one.file_digest for one in facts) if len(group) > 1]
    same_pixels = [group for group in units if len({facts[i].file_digest for i in group}) > 1]
    first = [facts[group[0]] for group in units]
    near, mirrored, correlation, complete = near_pairs(grey_thumbnails(first), n_threads=n_threads)
    n = len(units)
    if scenes is not None:
        unit_of = np.empty(len(facts), np.intp)
        for unit, group in enumerate(units):
            unit_of[group] = unit
        added = np.sort(unit_of[scenes.pairs], axis=1)
        apart = added[:, 0] != added[:, 1]
        near = np.concatenate([near, added[apart]])
        near, kept = np.unique(near, axis=0, return_index=True)  # of a pair found twice, the first
        mirrored = np.concatenate([mirrored, scenes.mirrored[apart]])[kept]
        correlation = np.concatenate([correlation, scenes.correlation[apart]])[kept]
    links = coo_array((np.ones(len(near)), (near[:, 0], near[:, 1])), shape=(n, n))
    of_unit = connected_components(links, directed=False)[1]
    family = np.empty(len(facts), np.int64)
    for unit, group in enumerate(units):
        family[group] = of_unit[unit]
    return Copies(same_file, same_pixels, units, near, mirrored, correlation, family, complete)


def _sets(keys: Iterable[Hashable]) -> list[NDArray[np.intp]]:
    """Return the positions of equal keys, in the order of their first positions."""
    found: defaultdict[Hashable, list[int]] = defaultdict(list)
    for position, key in enumerate(keys):
        found[key].append(position)
    return [np.array(positions, np.intp) for positions in found.values()]


_WORDS_FOR = {
    "identical_files": "identical files",
    "identical_pixels": "identical pixels in different files",
    "near_duplicates": "nearly the same picture",
}


def duplicate_findings(images: ReadImages, copies: Copies) -> tuple[list[Finding], dict[str, Any]]:
    """Report copies as findings.

    Parameters
    ----------
    images : ReadImages
    copies : Copies
        Copies among the same images.

    Returns
    -------
    findings : list of dict
    listed : dict
        By kind: listed, at most `MAX_LISTED` sets or pairs, and n_left_out, the number of the others.
    """
    found, listed = [], {}
    for kind, sets in (("identical_files", copies.same_file), ("identical_pixels", copies.same_pixels)):
        found += _findings_of(kind, images, [(group, group) for group in sets], {})
        listed[kind] = _bounded([[images.names[i] for i in group] for group in sets])
    pairs = [(copies.units[a], copies.units[b]) for a, b in copies.near]
    found += _findings_of("near_duplicates", images, pairs, {"n_mirrored": int(copies.mirrored.sum())})
    listed["near_duplicates"] = _bounded(
        [
            {
                "images": [images.names[a[0]], images.names[b[0]]],
                "correlation": round(float(value), 4),
                "mirrored": bool(flipped),
            }
            for (a, b), value, flipped in zip(pairs, copies.correlation, copies.mirrored, strict=True)
        ]
    )
    listed["near_duplicates"]["complete"] = copies.complete
    return found, listed


def _bounded(items: list[Any]) -> dict[str, Any]:
    return {"listed": items[:MAX_LISTED], "n_left_out": max(0, len(items) - MAX_LISTED)}


Pair = tuple[NDArray[np.intp], NDArray[np.intp]]


def _findings_of(kind: str, images: ReadImages, pairs: list[Pair], more: dict[str, int]) -> list[Finding]:
    """Return findings about pairs of sets of one picture. A set of copies is paired with itself."""
    if not pairs:
        return []
    what = _WORDS_FOR[kind]
    several = "pair" if kind == "near_duplicates" else "set"
    count = f"n_{several}s"
    involved = np.unique(np.concatenate([side for pair in pairs for side in pair]))
    same_patient = images.patients is not None and not _split_by(images.patients, pairs)
    severity: Severity = "note" if same_patient else "warning"
    whose = ", all of one patient each" if same_patient else ""
    found = [
        finding(
            kind,
            severity,
            f"{len(involved)} images are in {plural(len(pairs), several)} of {what}{whose}",
            [_example(images, pair) for pair in pairs[:_EXAMPLES_FROM]],
            **{count: len(pairs), "n_images": len(involved)},
            **more,
        )
    ]
    aspects: list[tuple[str, NDArray[Any] | None, Severity]] = [
        ("across_parts", images.parts, "error"),
        ("other_label", images.labels, "error"),
        ("other_patient", images.patients, "warning"),
    ]
    for aspect, values, graded in aspects:
        split = [] if values is None else _split_by(values, pairs)
        if values is None or not split:
            continue
        touched = np.unique(np.concatenate([side for pair in split for side in pair]))
        counts = {count: len(split), "n_images": len(touched)}
        if aspect == "across_parts":
            counts["n_test_images"] = int((values[touched] == "test").sum())
        sentence = _aspect_in_words(aspect, what, plural(len(split), several), counts)
        examples = [_example(images, pair, values) for pair in split[:_EXAMPLES_FROM]]
        found.append(finding(f"{kind}_{aspect}", graded, sentence, examples, **counts))
    return found


def _aspect_in_words(aspect: str, what: str, groups: str, counts: dict[str, int]) -> str:
    """Return the sentence of a finding about pairs that differ in part, label or patient."""
    if aspect == "across_parts":
        verb = "is" if counts["n_test_images"] == 1 else "are"
        return f"{plural(counts['n_test_images'], 'test image')} {verb} in the training part as well ({what})"
    if aspect == "other_label":
        return f"{counts['n_images']} images in {groups} of {what} have contradicting labels"
    return f"{counts['n_images']} images in {groups} of {what} are said to be of different patients"


def _split_by(values: NDArray[Any], pairs: list[Pair]) -> list[Pair]:
    """Return the pairs that hold two different values."""
    return [pair for pair in pairs if len(np.unique(values[np.concatenate(pair)])) > 1]


def _example(images: ReadImages, pair: Pair, values: NDArray[Any] | None = None) -> list[str]:
    """Return the names of two images of a pair. With `values`, these two have different values."""
    first = pair[0][0]
    others = np.concatenate([pair[1], pair[0]])
    others = others[others != first]
    if values is not None:
        others = others[values[others] != values[first]]
    return [images.names[first], images.names[others[0]]]
