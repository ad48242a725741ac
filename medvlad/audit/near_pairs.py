r"""Pairs of images that show nearly the same picture.

Nearly the same means: saved again, resized, brightened, mirrored, or cut by up to 3 % on a side. Such pairs
are found in two steps.

**Candidates.** A 32 x 32 grey thumbnail :math:`t` has the cosine coefficients

.. math::

    F(v, u) = \sum_y \sum_x t(y, x) \cos \frac{\pi v (2y + 1)}{64} \cos \frac{\pi u (2x + 1)}{64}

The hash of an image is the signs of the 255 coefficients with :math:`u, v < 16`, without the mean. It is a
form of the perceptual hash of Zauner (2010). Signs do not change with brightness and contrast. Mirroring left
and right multiplies :math:`F(v, u)` by :math:`(-1)^u`, so the hash of the mirrored image is the hash with a
fixed mask applied. A cut of 3 % on a side moves the thumbnail by up to a pixel, which changes many signs. So
each image has a second hash, of its thumbnail without the outer 2 %: no cut of up to 3 % is far from both.
Pairs are candidates if the hashes, or the second hash of either image and the hash of the other, differ in at
most 60 bits. All pairs are compared, block by block.

**Check.** The details :math:`d` of a thumbnail are what is left after subtracting a Gaussian blur of 2
pixels. The details of both images are aligned by a shift and a scale along each axis, with
:math:`p = (a, b, c, e)`:

.. math::

    d_1(y + c + e y', x + a + b x') \approx d_2(y, x)

:math:`y'` and :math:`x'` are the coordinates from -1 to 1. Gauss-Newton steps find :math:`p` (Lucas & Kanade
1981). A pair is near if the correlation is then at least 0.93.

**Choice of 60 bits and 0.93.** Both were chosen on pictures that people looked at. Among different images,
the highest correlation was:

- 0.90 in 5,856 chest X-rays, for two children who are plainly different. Above 0.93 there are 34 pairs of the
  same exposure, and one pair (0.95) with the same ribs and marker under two names.
- 0.87 in 585 colonoscopy frames. Every pair above it shows one scene of one video.
- None in 240 photographs of rooms: no two are within 72 bits.

Copies of 210 of these images were made by one change each. Of these copies, the check found all with JPEG
quality 50, half the size, another brightness or contrast, or mirrored, and 42 % turned by 2 degrees.

Of 150 images of each set, copies were cut. This share of the copies was found:

======================================  ======  ===========  ======
cut                                     X-rays  colonoscopy   rooms
======================================  ======  ===========  ======
3 % on all four sides                    100 %        100 %   100 %
up to 3 % on each side, at random        100 %        100 %   100 %
3 % on one side                          100 %        100 %   100 %
3 % on two adjoining sides                97 %         99 %    99 %
5 % on all four sides                     79 %         24 %    92 %
======================================  ======  ===========  ======

**Cost.** Memory is 8 KiB for each image and blocks of 12 MiB for each thread. All pairs of 100,000 images,
plain and mirrored, take about five minutes and 0.9 GB on two busy processors. Each candidate takes another
0.7 ms. There are at most ``_MAX_CANDIDATES``; 100,000 chest X-rays have about 200,000.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from medvlad.audit.images import THUMB_SIDE

__all__ = ["near_pairs"]

_log = logging.getLogger(__name__)

_MAX_BITS = 60
_MIN_CORRELATION = 0.93
_FREQUENCIES = 16
_WORDS = _FREQUENCIES**2 // 64
_BLUR = 2.0  # pixels
_MIN_DETAIL = 2.0  # grey levels; a thumbnail below it shows nothing (real images have 8.8 and more)

_BLOCK = 1024  # images a side of a block of pairs
_MAX_CANDIDATES = 1_000_000
_PER_IMAGE = 128  # candidates of one image in a block
_PAIRS_AT_A_TIME = 256
_STEPS = 8
_FIRST_STEPS = 3
_HOPELESS = 0.7  # correlation after the first steps, below which a pair is given up
_MARGIN = 2  # pixels at the edge that may have no counterpart
_MAX_SHIFT = 3.0  # pixels
_CUT = 0.02  # of each side, for the second hash

Detail = NDArray[np.float32]


def near_pairs(
    thumbs: NDArray[np.float32], *, n_threads: int = 1
) -> tuple[NDArray[np.intp], NDArray[np.bool_], NDArray[np.float64], bool]:
    """Find pairs of images that show nearly the same picture.

    Parameters
    ----------
    thumbs : ndarray of shape (n, THUMB_SIDE, THUMB_SIDE), float32
        Grey levels from 0 to 255.
    n_threads : int, default=1
        Number of threads. It changes no result.

    Returns
    -------
    pairs : ndarray of shape (m, 2), int
        In ascending order, the lower index first.
    mirrored : ndarray of shape (m,), bool
        Whether one image is the mirror image of the other.
    correlation : ndarray of shape (m,), float64
        Correlation of the details after alignment.
    complete : bool
        False if there were more than a million candidates, or one image had more than 128 among 1,024 others.
        Then only the nearest candidates were checked.
    """
    hashes, detail = np.empty((2, len(thumbs), _WORDS), np.uint64), np.empty_like(thumbs)
    shows = np.empty(len(thumbs), bool)
    for start in range(0, len(thumbs), _BLOCK):  # block by block, to bound the temporary memory
        block = slice(start, start + _BLOCK)
        fine = thumbs[block] - gaussian_filter(thumbs[block], (0, _BLUR, _BLUR), mode="reflect")
        hashes[0, block], hashes[1, block] = _hashes(thumbs[block]), _hashes(_cut(thumbs[block]))
        detail[block] = _standardised(fine)
        shows[block] = fine.std(axis=(1, 2)) >= _MIN_DETAIL
    shown = np.flatnonzero(shows)
    hashes, detail = hashes[:, shown], detail if shows.all() else detail[shown]
    pairs, mirrored, correlation, n_seen, complete = [], [], [], 0, True
    with ThreadPoolExecutor(n_threads, "medvlad-pairs") as threads:
        for found, flipped, all_of_them in _candidates(hashes, threads):
            candidates = found[: _MAX_CANDIDATES - n_seen]
            complete &= all_of_them and len(candidates) == len(found)
            n_seen += len(candidates)
            parts = np.array_split(candidates, -(-len(candidates) // _PAIRS_AT_A_TIME) or 1)
            # The sums of a pair do not depend on other pairs, so batches and threads change no result.
            values = np.concatenate(list(threads.map(partial(_aligned, detail, flipped), parts)))
            kept = values >= _MIN_CORRELATION
            pairs.append(shown[candidates[kept]])
            correlation.append(values[kept])
            mirrored.append(np.full(int(kept.sum()), flipped))
    if not complete:
        _log.warning(
            "many pairs of images look alike and only %d were checked: not all near duplicates are listed",
            n_seen,
        )
    return *_joined(pairs, mirrored, correlation), complete


def _joined(
    pairs: list[NDArray[np.intp]],
    mirrored: list[NDArray[np.bool_]],
    correlation: list[NDArray[np.float64]],
) -> tuple[NDArray[np.intp], NDArray[np.bool_], NDArray[np.float64]]:
    """Sort pairs. Of a pair that is found plain and mirrored (a symmetric image), keep the plain one."""
    if not pairs:
        return np.empty((0, 2), np.intp), np.empty(0, bool), np.empty(0)
    both, flipped, values = np.concatenate(pairs), np.concatenate(mirrored), np.concatenate(correlation)
    order = np.lexsort((flipped, both[:, 1], both[:, 0]))
    both, flipped, values = both[order], flipped[order], values[order]
    fresh = np.ones(len(both), bool)
    fresh[1:] = (both[1:] != both[:-1]).any(axis=1)
    return both[fresh], flipped[fresh], values[fresh]


def _hashes(thumbs: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return the signs of the cosine coefficients, shape (n, 4). The first bit, of the mean, is 0."""
    low = dctn(thumbs, axes=(1, 2))[:, :_FREQUENCIES, :_FREQUENCIES]
    bits = (low > 0).reshape(len(thumbs), -1)
    bits[:, 0] = False
    return np.packbits(bits, axis=1).view(np.uint64)


def _cut(thumbs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return thumbnails without their outer `_CUT`, at the same size."""
    weights = _weights(np.array([[0.0, -_CUT * THUMB_SIDE]]))[0].astype(np.float32)
    cut: NDArray[np.float32] = weights @ thumbs @ weights.T
    return cut


def _mirror_mask() -> NDArray[np.uint64]:
    """Return the bits of odd horizontal frequency, which mirroring flips."""
    odd = np.zeros((_FREQUENCIES, _FREQUENCIES), bool)
    odd[:, 1::2] = True
    return np.packbits(odd.ravel()).view(np.uint64)


def _candidates(
    hashes: NDArray[np.uint64], threads: ThreadPoolExecutor
) -> Iterator[tuple[NDArray[np.intp], bool, bool]]:
    """Yield candidates of a row of blocks, whether they are mirrored, and whether these are all of them.

    `hashes` (2, n, 4) are the hashes of the thumbnails, and of the thumbnails without their outer part.
    """
    n = hashes.shape[1]
    columns = np.ascontiguousarray(hashes.swapaxes(1, 2))
    for start in range(0, n, _BLOCK):
        rows = columns[:, :, start : start + _BLOCK]
        for flipped in (False, True):
            own = rows ^ _mirror_mask()[:, None] if flipped else rows
            near = partial(_near_in_block, own, columns, start)
            found = list(threads.map(near, range(start, n, _BLOCK)))
            yield np.concatenate([pairs for pairs, _ in found]), flipped, all(done for _, done in found)


def _near_in_block(
    own: NDArray[np.uint64], columns: NDArray[np.uint64], start: int, at: int
) -> tuple[NDArray[np.intp], bool]:
    """Return candidates of the images `own` from `start` with those from `at`, and whether these are all."""
    others = columns[:, :, at : at + _BLOCK]
    distance = _distances(own[0], others[0])
    np.minimum(distance, _distances(own[1], others[0]), out=distance)
    np.minimum(distance, _distances(own[0], others[1]), out=distance)
    near = distance <= _MAX_BITS
    if start == at:
        near = np.triu(near, 1)
    i, j = np.nonzero(near)
    # All frames of a video may be near one another. The nearest pairs of each frame still connect them.
    order = np.lexsort((distance[i, j], i))
    i, j = i[order], j[order]
    kept = np.arange(len(i)) - np.searchsorted(i, i) < _PER_IMAGE
    return np.column_stack([i[kept] + start, j[kept] + at]), bool(kept.all())


def _distances(own: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return the number of different bits of hashes (4, a) and (4, b), shape (a, b); at most 255."""
    distance: NDArray[np.uint8] = np.bitwise_count(own[0][:, None] ^ others[0])
    for mine, other in zip(own[1:], others[1:], strict=True):
        distance += np.bitwise_count(mine[:, None] ^ other)
    return distance


def _aligned(detail: Detail, flipped: bool, pairs: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the correlation of each pair after alignment, shape (m,); lower if a pair is given up."""
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
        moves[left] = np.clip(moves[left] + _newton_step(moved, wanted), -_MAX_SHIFT, _MAX_SHIFT)
    return best


def _newton_step(moved: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the change of (a, b, c, e), shape (m, 4), at most one pixel each."""
    place = _coordinates()[_MARGIN:-_MARGIN]
    down, right = np.gradient(moved, axis=(1, 2))
    slopes = np.stack([right, right * place, down, down * place[:, None]], axis=-1).reshape(len(moved), -1, 4)
    turned = slopes.swapaxes(1, 2)
    hessian = turned @ slopes
    # The ridge keeps a parameter where it is if the picture does not determine it.
    hessian += 1e-3 / 4 * (np.trace(hessian, axis1=1, axis2=2) + 1e-12)[:, None, None] * np.eye(4)
    step = np.linalg.solve(hessian, turned @ (wanted - moved).reshape(len(moved), -1, 1))[..., 0]
    return np.clip(step, -1.0, 1.0)


def _moved(detail: NDArray[np.float64], moves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return details shifted and scaled by cubic convolution (Keys 1981), without their margin."""
    across, down = _weights(moves[:, :2]), _weights(moves[:, 2:])
    return _inside(down @ detail @ across.swapaxes(1, 2))


def _weights(moves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights of source pixels for target pixels, shape (m, THUMB_SIDE, THUMB_SIDE)."""
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
    """Return details with mean 0 and length 1."""
    centred = detail - detail.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt((centred**2).sum(axis=(1, 2), keepdims=True))
    result: NDArray[Any] = centred / np.maximum(length, 1e-9)
    return result
