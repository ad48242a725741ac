"""Images that are there twice: the same bytes, the same pixels, or nearly the same picture.

*The same* is told by BLAKE2 digests of files and of pixels.

*Nearly the same* (saved again, resized, brightened, mirrored, up to 3 % cut off a side) is told in two steps.

1. Candidates. A 32 x 32 thumbnail in grey has cosine coefficients

       F(v, u) = sum_y sum_x t(y, x) cos(pi v (2y + 1) / 64) cos(pi u (2x + 1) / 64)

   and the hash is the signs of the 255 with u, v < 16 but the mean, a form of the perceptual hash of Zauner
   (2010). Signs do not change with brightness and contrast. Mirroring left and right multiplies F(v, u) by
   (-1)^u, so the hash of the mirrored image is the hash with a fixed mask applied. Pairs that differ in at
   most 60 bits are candidates. All pairs are compared, in blocks by NumPy's popcount.

2. Check. The thumbnails without their coarse light and shade (minus a Gaussian blur of 2 pixels), d, are laid
   over one another as well as they can be: shift and scale along each axis, p = (a, b, c, e) in

       d1(y + c + e y', x + a + b x') ~ d2(y, x),    y', x' the coordinates from -1 to 1,

   by Gauss-Newton steps (Lucas & Kanade 1981). A pair is near if the correlation is then at least 0.93.

How 60 and 0.93 were chosen, on pictures that were looked at. In 5,856 chest X-rays, which look all alike, the
highest correlation of two that are plainly different children is 0.90 among all pairs up to 60 bits; above
0.93 are 34 pairs of the same exposure and one (0.95) whose ribs and marker match though the names say two
children. In 585 colonoscopy frames everything above 0.87 is one scene of one video. Of 240 photographs of
rooms no two are within 72 bits. On the other side, of copies of 210 of these images all were found that were
saved with JPEG quality 50, halved in size, made brighter, darker or flatter, or mirrored; of those with up to
2 % cut off each side 99 %, up to 3 % 95 %, up to 5 % 57 %; of those turned by 2 degrees 42 %.

Cost: 8 KiB an image, and blocks of 12 MiB a thread. All pairs of 100,000 images, plain and mirrored, took two
minutes on two busy processors and 0.9 GB; each candidate takes 0.7 ms besides, and there are at most
`_MAX_CANDIDATES`. Of 100,000 chest X-rays about 200,000 pairs would be.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medvlad.audit.finding import Finding, ReadImages, Severity, finding, plural
from medvlad.audit.images import THUMB_SIDE, ImageFacts, grey_thumbnails

__all__ = ["Copies", "duplicate_findings", "find_copies", "near_pairs"]

_log = logging.getLogger(__name__)

_MAX_BITS = 60
_MIN_CORRELATION = 0.93
_FREQUENCIES = 16
_WORDS = _FREQUENCIES**2 // 64
_BLUR = 2.0
_LEAST_DETAIL = 2.0  # levels: below it a thumbnail shows nothing (real images: 8.8 and more)

_BLOCK = 1024  # images a side of a block of pairs
_EXAMPLES_FROM = 1000  # pairs that examples are taken from
_MAX_CANDIDATES = 1_000_000
_PER_IMAGE = 128  # candidates in a block
_PAIRS_AT_A_TIME = 256
_STEPS = 8
_FIRST_STEPS = 3
_HOPELESS = 0.7  # after the first steps
_MARGIN = 2  # pixels at the edge that may have no counterpart
_MOST_SHIFT = 3.0

MAX_LISTED = 1000
"""Most sets and pairs in the full lists."""

Detail = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Copies:
    """What is there more than once.

    Attributes
    ----------
    same_file, same_pixels : list of ndarray of int
        Sets of images of the same bytes; of the same pixels in different files.
    units : list of ndarray of int
        All images, those of the same pixels together.
    near : ndarray of shape (m, 2), int
        Pairs of units, the lower first.
    mirrored : ndarray of shape (m,), bool
    correlation : ndarray of shape (m,), float64
    family : ndarray of shape (n,), int64
        The same number for images that any chain of copies connects.
    complete : bool
        False if there were more candidates than are looked at.
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
        """Return the same, sets and pairs in the order of the `names` of the n images, not of the images."""
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


def find_copies(facts: Sequence[ImageFacts], *, n_threads: int) -> Copies:
    """Find images that are there twice.

    Parameters
    ----------
    facts : sequence of ImageFacts
        At least one.
    n_threads : int

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
    links = coo_array((np.ones(len(near)), (near[:, 0], near[:, 1])), shape=(n, n))
    of_unit = connected_components(links, directed=False)[1]
    family = np.empty(len(facts), np.int64)
    for unit, group in enumerate(units):
        family[group] = of_unit[unit]
    return Copies(same_file, same_pixels, units, near, mirrored, correlation, family, complete)


def _sets(keys: Iterable[Hashable]) -> list[NDArray[np.intp]]:
    """Positions of equal keys, in the order of the first of each."""
    found: defaultdict[Hashable, list[int]] = defaultdict(list)
    for position, key in enumerate(keys):
        found[key].append(position)
    return [np.array(positions, np.intp) for positions in found.values()]


# --------------------------------------------------------------------------------------- near pairs


def near_pairs(
    thumbs: NDArray[np.float32], *, n_threads: int = 1
) -> tuple[NDArray[np.intp], NDArray[np.bool_], NDArray[np.float64], bool]:
    """Find pairs of images that show nearly the same picture.

    Parameters
    ----------
    thumbs : ndarray of shape (n, THUMB_SIDE, THUMB_SIDE), float32
        Grey levels from 0 to 255.
    n_threads : int, default=1

    Returns
    -------
    pairs : ndarray of shape (m, 2), int
        In ascending order, the lower index first.
    mirrored : ndarray of shape (m,), bool
        Whether one is the other's mirror image.
    correlation : ndarray of shape (m,), float64
        Of the details once aligned.
    complete : bool
        False if there were more than a million candidates, or more than 128 for an image among 1,024 others;
        the nearest of them have been looked at.
    """
    hashes, detail = np.empty((len(thumbs), _WORDS), np.uint64), np.empty_like(thumbs)
    shows = np.empty(len(thumbs), bool)
    for start in range(0, len(thumbs), _BLOCK):  # temporaries of a block only
        block = slice(start, start + _BLOCK)
        fine = thumbs[block] - gaussian_filter(thumbs[block], (0, _BLUR, _BLUR), mode="reflect")
        hashes[block], detail[block] = _hashes(thumbs[block]), _standardised(fine)
        shows[block] = fine.std(axis=(1, 2)) >= _LEAST_DETAIL
    shown = np.flatnonzero(shows)
    hashes, detail = hashes[shown], detail if shows.all() else detail[shown]
    pairs, mirrored, correlation, n_seen, complete = [], [], [], 0, True
    with ThreadPoolExecutor(n_threads, "medvlad-pairs") as threads:
        for found, flipped, all_of_them in _candidates(hashes, threads):
            candidates = found[: _MAX_CANDIDATES - n_seen]
            complete &= all_of_them and len(candidates) == len(found)
            n_seen += len(candidates)
            parts = np.array_split(candidates, -(-len(candidates) // _PAIRS_AT_A_TIME) or 1)
            # A pair's sums do not depend on the others in its batch, so batches and threads change no number.
            values = np.concatenate(list(threads.map(partial(_aligned, detail, flipped), parts)))
            kept = values >= _MIN_CORRELATION
            pairs.append(shown[candidates[kept]])
            correlation.append(values[kept])
            mirrored.append(np.full(int(kept.sum()), flipped))
    if not complete:
        _log.warning(
            "very many images are alike at first sight and %d pairs of them were looked at: not all near "
            "duplicates are listed",
            n_seen,
        )
    return *_joined(pairs, mirrored, correlation), complete


def _joined(
    pairs: list[NDArray[np.intp]],
    mirrored: list[NDArray[np.bool_]],
    correlation: list[NDArray[np.float64]],
) -> tuple[NDArray[np.intp], NDArray[np.bool_], NDArray[np.float64]]:
    """Put pairs in order; of a pair that is found both ways (a symmetric image), only the plain one stays."""
    if not pairs:
        return np.empty((0, 2), np.intp), np.empty(0, bool), np.empty(0)
    both, flipped, values = np.concatenate(pairs), np.concatenate(mirrored), np.concatenate(correlation)
    order = np.lexsort((flipped, both[:, 1], both[:, 0]))
    both, flipped, values = both[order], flipped[order], values[order]
    fresh = np.ones(len(both), bool)
    fresh[1:] = (both[1:] != both[:-1]).any(axis=1)
    return both[fresh], flipped[fresh], values[fresh]


def _hashes(thumbs: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Signs of the cosine coefficients, of shape (n, 4); their first bit, of the mean, is 0."""
    low = dctn(thumbs, axes=(1, 2))[:, :_FREQUENCIES, :_FREQUENCIES]
    bits = (low > 0).reshape(len(thumbs), -1)
    bits[:, 0] = False
    return np.packbits(bits, axis=1).view(np.uint64)


def _mirror_mask() -> NDArray[np.uint64]:
    """Bits of odd horizontal frequency, which mirroring turns over."""
    odd = np.zeros((_FREQUENCIES, _FREQUENCIES), bool)
    odd[:, 1::2] = True
    return np.packbits(odd.ravel()).view(np.uint64)


def _candidates(
    hashes: NDArray[np.uint64], threads: ThreadPoolExecutor
) -> Iterator[tuple[NDArray[np.intp], bool, bool]]:
    """Yield pairs within `_MAX_BITS` in a row of blocks, whether one is mirrored, and if these are all."""
    n = len(hashes)
    columns = np.ascontiguousarray(hashes.T)
    for start in range(0, n, _BLOCK):
        rows = columns[:, start : start + _BLOCK]
        for flipped in (False, True):
            own = rows ^ _mirror_mask()[:, None] if flipped else rows
            near = partial(_near_in_block, own, columns, start)
            found = list(threads.map(near, range(start, n, _BLOCK)))
            yield np.concatenate([pairs for pairs, _ in found]), flipped, all(done for _, done in found)


def _near_in_block(
    own: NDArray[np.uint64], columns: NDArray[np.uint64], start: int, at: int
) -> tuple[NDArray[np.intp], bool]:
    """Pairs of the images `own` from `start` with those from `at`, and whether these are all."""
    distance = np.zeros((own.shape[1], min(_BLOCK, columns.shape[1] - at)), np.uint16)
    for mine, other in zip(own, columns[:, at : at + _BLOCK], strict=True):
        distance += np.bitwise_count(mine[:, None] ^ other)
    near = distance <= _MAX_BITS
    if start == at:
        near = np.triu(near, 1)
    i, j = np.nonzero(near)
    # Frames of one video may be near in all pairs: the nearest of each image connect them.
    order = np.lexsort((distance[i, j], i))
    i, j = i[order], j[order]
    kept = np.arange(len(i)) - np.searchsorted(i, i) < _PER_IMAGE
    return np.column_stack([i[kept] + start, j[kept] + at]), bool(kept.all())


def _aligned(detail: Detail, flipped: bool, pairs: NDArray[np.intp]) -> NDArray[np.float64]:
    """Correlation of each pair, shape (m,), after alignment; lower where it is hopeless."""
    first, second = (detail[pairs[:, k]].astype(np.float64) for k in (0, 1))
    if flipped:
        second = second[:, :, ::-1]
    best = np.zeros(len(pairs))
    moves = np.zeros((len(pairs), 4))
    left = np.arange(len(pairs))
    for step in range(_STEPS + 1):
        moved, wanted = _moved(first[left], moves[left]), _inside(second[left])
        best[left] = np.maximum(best[left], (moved * wanted).sum(axis=(1, 2)))
        if step == _FIRST_STEPS:
            keep = best[left] >= _HOPELESS
            left, moved, wanted = left[keep], moved[keep], wanted[keep]
        if step == _STEPS or len(left) == 0:
            break
        moves[left] = np.clip(moves[left] + _newton_step(moved, wanted), -_MOST_SHIFT, _MOST_SHIFT)
    return best


def _newton_step(moved: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Change of (a, b, c, e), shape (m, 4), at most a pixel each."""
    place = _coordinates()[_MARGIN:-_MARGIN]
    down, right = np.gradient(moved, axis=(1, 2))
    slopes = np.stack([right, right * place, down, down * place[:, None]], axis=-1).reshape(len(moved), -1, 4)
    turned = slopes.swapaxes(1, 2)
    hessian = turned @ slopes
    # Where the picture does not tell one of the four, it stays where it is.
    hessian += 1e-3 / 4 * (np.trace(hessian, axis1=1, axis2=2) + 1e-12)[:, None, None] * np.eye(4)
    step = np.linalg.solve(hessian, turned @ (wanted - moved).reshape(len(moved), -1, 1))[..., 0]
    return np.clip(step, -1.0, 1.0)


def _moved(detail: NDArray[np.float64], moves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Details shifted and scaled, by cubic convolution (Keys 1981), without their edge."""
    across, down = _weights(moves[:, :2]), _weights(moves[:, 2:])
    return _inside(down @ detail @ across.swapaxes(1, 2))


def _weights(moves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of source pixels for target pixels, shape (m, THUMB_SIDE, THUMB_SIDE)."""
    pixels = np.arange(THUMB_SIDE)
    source = np.clip(pixels + moves[:, :1] + moves[:, 1:] * _coordinates(), 0, THUMB_SIDE - 1)
    t = np.abs(source[:, :, None] - pixels)
    near = (1.5 * t - 2.5) * t**2 + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))


def _coordinates() -> NDArray[np.float64]:
    return np.linspace(-1, 1, THUMB_SIDE)


def _inside(detail: NDArray[np.float64]) -> NDArray[np.float64]:
    return _standardised(detail[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN])


def _standardised(detail: NDArray[Any]) -> NDArray[Any]:
    """Mean 0 and length 1 each."""
    centred = detail - detail.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt((centred**2).sum(axis=(1, 2), keepdims=True))
    result: NDArray[Any] = centred / np.maximum(length, 1e-9)
    return result


# ----------------------------------------------------------------------------------------- findings

_WORDS_FOR = {
    "identical_files": "identical files",
    "identical_pixels": "identical pixels in different files",
    "near_duplicates": "nearly the same picture",
}


def duplicate_findings(images: ReadImages, copies: Copies) -> tuple[list[Finding], dict[str, Any]]:
    """Put copies into findings.

    Parameters
    ----------
    images : ReadImages
    copies : Copies
        Of the same images.

    Returns
    -------
    findings : list of dict
    listed : dict
        The sets and pairs themselves, at most `MAX_LISTED` of each kind, and how many were left out.
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
    """Tell what is wrong with pairs of sets of the same picture; a set of copies is paired with itself."""
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
        groups = plural(len(split), several)
        counts = {count: len(split), "n_images": len(touched)}
        if aspect == "across_parts":
            counts["n_test_images"] = int((values[touched] == "test").sum())
            verb = "is" if counts["n_test_images"] == 1 else "are"
            test = plural(counts["n_test_images"], "test image")
            sentence = f"{test} {verb} in the training part as well ({what})"
        elif aspect == "other_label":
            sentence = f"{len(touched)} images in {groups} of {what} have contradicting labels"
        else:
            sentence = f"{len(touched)} images in {groups} of {what} are said to be of different patients"
        examples = [_example(images, pair, values) for pair in split[:_EXAMPLES_FROM]]
        found.append(finding(f"{kind}_{aspect}", graded, sentence, examples, **counts))
    return found


def _split_by(values: NDArray[Any], pairs: list[Pair]) -> list[Pair]:
    """Pairs that hold two different values."""
    return [pair for pair in pairs if len(np.unique(values[np.concatenate(pair)])) > 1]


def _example(images: ReadImages, pair: Pair, values: NDArray[Any] | None = None) -> list[str]:
    """Two images of a pair; with `values`, two that differ in them."""
    first = pair[0][0]
    others = np.concatenate([pair[1], pair[0]])
    others = others[others != first]
    if values is not None:
        others = others[values[others] != values[first]]
    return [images.names[first], images.names[others[0]]]
