r"""Check whether two pictures show the same scene: crops, mirror images, other tones and turned views.

A picture is a grey thumbnail :math:`t` of 64 x 64 pixels. With a Gaussian blur :math:`G_s`, its detail is

.. math::

    d_s = \frac{e}{\sqrt{G_6 * e^2 + 4}}, \qquad e = G_{0.7} * t - G_s * t

The division makes dim and bright parts alike, so that gamma and contrast change little. The coarse detail,
with s = 4, finds the alignment. The fine detail, with s = 2.5, decides: different chests have ribs at similar
places, but their edges do not coincide.

**Search.** One picture is taken for a part of the other, at 1, 0.9, 0.8 and 0.7 of its side, plain and
mirrored, at every position. Then width and height are varied by up to 0.2 of the side. The normalised
cross-correlation of all positions is computed by Fourier transforms of details of 32 x 32 pixels. At least
70 % of the part must lie on the other picture.

**Alignment.** The best position, plain and mirrored, starts Gauss-Newton steps for an affine map (Lucas &
Kanade 1981; Baker & Matthews 2004): 5 steps with coarse and 8 with fine details of 64 x 64 pixels. The result
is the best correlation of the fine details where both pictures are, if that is at least 70 % of the part.

Whether two pictures are one scene is decided by :data:`SAME_SCENE`. See
:mod:`medvlad.audit.descriptor_pairs` for how it was chosen.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter

from medvlad._util.blas_threads import single_threaded_blas
from medvlad.audit.images import FINE_SIDE

__all__ = ["SAME_SCENE", "align_pairs", "details"]

SAME_SCENE = 0.84
"""Least correlation of two pictures of one scene."""

_FIRST_BLUR, _BLURS, _ENERGY_BLUR = 0.7, (4.0, 2.5), 6.0  # pixels; coarse and fine
_LEAST_ENERGY = 2.0  # grey levels
_SCALES = (1.0, 0.9, 0.8, 0.7)
_VARIED = tuple(
    (a, b)
    for a in (-0.2, -0.1, 0, 0.1, 0.2)
    for b in (-0.2, -0.1, 0, 0.1, 0.2)
    if a * b <= 0 and 0 < abs(a - b) < 0.35
)
_LEAST_SCALE = 0.6
_COVERED = 0.7  # of the part
_HOPELESS = 0.35  # correlation of the search
_COARSE_STEPS, _FINE_STEPS = 5, 8
_GIVEN_UP = 0.65  # correlation of the coarse details after their steps
_RIDGE = 1e-3
_LARGEST_STEP = 0.05  # of half the side
_PAIRS_AT_A_TIME = 64
_HALF = FINE_SIDE // 2
_PADDED = 48  # side of the Fourier transforms: allowed positions do not wrap around

Detail = NDArray[np.float32]
Spectrum = NDArray[np.complex64]
Side = tuple[int, int]


def details(pictures: NDArray[np.uint8]) -> Detail:
    """Return coarse and fine details (2, n, h, w) of grey thumbnails (n, h, w) with sides of FINE_SIDE."""
    found = np.empty((2, *pictures.shape), np.float32)
    for i, picture in enumerate(pictures):
        t = picture.astype(np.float32)
        first = gaussian_filter(t, _FIRST_BLUR)
        for k, blur in enumerate(_BLURS):
            e = first - gaussian_filter(t, blur)
            found[k, i] = e / np.sqrt(gaussian_filter(e**2, _ENERGY_BLUR) + _LEAST_ENERGY**2)
    return found


def align_pairs(
    detail: Detail, pairs: NDArray[np.intp], *, n_threads: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Align the pictures of each pair.

    Parameters
    ----------
    detail : ndarray of shape (2, n, FINE_SIDE, FINE_SIDE), float32
        From :func:`details`.
    pairs : ndarray of shape (m, 2), int
        Indices of pictures.
    n_threads : int, default=1
        It changes no result.

    Returns
    -------
    correlation : ndarray of shape (m,), float64
        Correlation of the fine details after alignment, 0 if the pair was given up.
    mirrored : ndarray of shape (m,), bool
        Whether one picture is aligned with the mirror image of the other.
    """
    parts = np.array_split(pairs, -(-len(pairs) // _PAIRS_AT_A_TIME) or 1)
    with single_threaded_blas(), ThreadPoolExecutor(n_threads, "medvlad-align") as threads:
        found = list(threads.map(lambda part: _aligned(detail, part), parts))
    correlation = np.concatenate([value for value, _ in found])
    return correlation, np.concatenate([flipped for _, flipped in found])


def _aligned(detail: Detail, pairs: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    best, mirrored = np.zeros(len(pairs)), np.zeros(len(pairs), bool)
    if len(pairs) == 0:
        return best, mirrored
    first, second = detail[:, pairs[:, 0]], detail[:, pairs[:, 1]]
    for flipped in (False, True):
        other = second[..., ::-1] if flipped else second
        found = _searched(first[0], other[0])
        tried = np.flatnonzero(found.score >= _HOPELESS)
        if len(tried) == 0:
            continue
        turn = found.swapped[tried, None, None]
        whole = np.where(turn, other[:, tried], first[:, tried])
        part = np.where(turn, first[:, tried], other[:, tried])
        correlation = _refined(whole, part, found.maps[tried])
        better = correlation > best[tried]
        best[tried[better]], mirrored[tried[better]] = correlation[better], flipped
    return best, mirrored


@dataclass
class _Search:
    """Best position of each pair so far.

    A map (2, 3) takes coordinates (y, x, 1) of the part, with y and x from -1 to 1, to those of the whole.
    """

    score: NDArray[np.float64]
    swapped: NDArray[np.bool_]  # whether the first picture is the part
    scale: NDArray[np.float64]
    maps: NDArray[np.float64]

    def look(
        self,
        spectra: tuple[Spectrum, Spectrum],
        part: Detail,
        scales: tuple[float, float],
        turned: bool,
        rows: Any,
    ) -> None:
        """Look for parts of some rows in the whole pictures, with given shares of height and width."""
        side = (round(scales[0] * _HALF), round(scales[1] * _HALF))
        values, energies = spectra
        value = _cross_correlation((values[rows], energies[rows]), _resized(part[rows], side))
        at = value.reshape(len(value), -1).argmax(axis=1)
        found = value.reshape(len(value), -1)[np.arange(len(value)), at]
        better = found > self.score[rows]
        chosen = rows[better]
        self.score[chosen], self.swapped[chosen] = found[better], turned
        self.scale[chosen] = scales[0] if scales[0] == scales[1] else 0.0
        self.maps[chosen] = _maps(at[better], side)


def _searched(first: Detail, second: Detail) -> _Search:
    n = len(first)
    found = _Search(np.full(n, -np.inf), np.zeros(n, bool), np.zeros(n), np.zeros((n, 2, 3)))
    small = [one.reshape(n, _HALF, 2, _HALF, 2).mean(axis=(2, 4)) for one in (first, second)]
    spectra = [(_spectrum(one), _spectrum(one**2)) for one in small]
    for turned in (False, True):
        for scale in _SCALES[1:] if turned else _SCALES:
            found.look(spectra[turned], small[not turned], (scale, scale), turned, np.arange(n))
    scales, swapped, hopeful = found.scale.copy(), found.swapped.copy(), found.score >= _HOPELESS
    for turned in (False, True):
        for scale in _SCALES:
            rows = np.flatnonzero(hopeful & (scales == scale) & (swapped == turned))
            for more_high, more_wide in _VARIED if len(rows) else ():
                high, wide = scale + more_high, scale + more_wide
                if min(high, wide) > _LEAST_SCALE - 1e-9 and max(high, wide) < 1 + 1e-9:
                    found.look(spectra[turned], small[not turned], (high, wide), turned, rows)
    return found


def _maps(at: NDArray[np.intp], side: Side) -> NDArray[np.float64]:
    """Return the maps of parts of `side` pixels at flat positions of the correlation."""
    corner = np.stack(np.divmod(at, _PADDED), axis=1)
    corner = np.where(corner >= _HALF, corner - _PADDED, corner)  # negative shifts wrap around
    maps = np.zeros((len(at), 2, 3))
    maps[:, 0, 0], maps[:, 1, 1] = side[0] / _HALF, side[1] / _HALF
    maps[:, :, 2] = (2 * corner + np.array(side)) / _HALF - 1
    return maps


def _spectrum(pictures: NDArray[Any]) -> Spectrum:
    found: Spectrum = fft.rfft2(pictures, (_PADDED, _PADDED), workers=1)
    return found


def _resized(pictures: Detail, side: Side) -> Detail:
    """Return pictures (n, h, w) resized to `side` pixels by linear interpolation."""
    high, wide = _weights(pictures.shape[1], side[0]), _weights(pictures.shape[2], side[1])
    found: Detail = np.asarray(high @ pictures @ wide.T, np.float32)
    return found


@cache
def _weights(source: int, side: int) -> NDArray[np.float32]:
    unit = np.eye(source, dtype=np.float32)
    place = (np.arange(side) + 0.5) * source / side - 0.5
    return np.stack([np.interp(place, np.arange(source), row) for row in unit], axis=1).astype(np.float32)


@cache
def _inside(side: Side) -> tuple[Spectrum, Spectrum, NDArray[np.bool_]]:
    """Return the spectra of the masks of the whole and of the part, and the positions that are allowed."""
    whole, part = (_spectrum(np.ones((1, *one), np.float32)) for one in ((_HALF, _HALF), side))
    covered = fft.irfft2(whole * part.conj(), (_PADDED, _PADDED), workers=1)[0]
    return whole, part, covered >= _COVERED * side[0] * side[1]


def _cross_correlation(whole: tuple[Spectrum, Spectrum], template: Detail) -> NDArray[np.float64]:
    """Return the normalised cross-correlation at each position, shape (n, _PADDED, _PADDED)."""
    mask, own_mask, allowed = _inside((template.shape[1], template.shape[2]))
    values, energies = whole
    spectra = (
        values * _spectrum(template).conj(),
        energies * own_mask.conj(),
        mask * _spectrum(template**2).conj(),
    )
    product, first, second = (fft.irfft2(one, (_PADDED, _PADDED), workers=1) for one in spectra)
    found = product / np.sqrt(np.maximum(first, 1e-3) * np.maximum(second, 1e-3))
    return np.where(allowed, found, -np.inf).astype(np.float64)


def _refined(whole: Detail, part: Detail, maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the best correlation of the fine details during Gauss-Newton steps for the maps."""
    correlation = np.zeros(whole.shape[1])
    for _ in range(_COARSE_STEPS):
        maps, seen = _step(whole[0], part[0], maps)
        correlation = np.maximum(correlation, seen)
    best = np.zeros(len(correlation))
    left = np.flatnonzero(correlation >= _GIVEN_UP)
    if len(left):
        fine, wanted, maps = whole[1, left], part[1, left], maps[left]
        for _ in range(_FINE_STEPS):
            maps, seen = _step(fine, wanted, maps)
            best[left] = np.maximum(best[left], seen)
    return best


def _step(
    whole: Detail, part: Detail, maps: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the maps after a step, and the correlation before it; 0 if too little is covered."""
    y, x = _coordinates()
    moved, there = _warped(whole, maps)
    wanted, moved = _standardised(part, there), _standardised(moved, there)
    correlation = (moved * wanted).sum(axis=(1, 2), dtype=np.float64)
    down, right = np.gradient(moved, np.float32(2 / FINE_SIDE), axis=(1, 2))
    slopes = np.stack([down * y, down * x, down, right * y, right * x, right], axis=-1)
    slopes = (slopes * there[..., None]).reshape(len(whole), -1, 6)
    turned = slopes.swapaxes(1, 2)
    hessian = (turned @ slopes).astype(np.float64)
    trace = np.trace(hessian, axis1=1, axis2=2)[:, None, None]
    hessian += _RIDGE * (trace / 6 + 1e-9) * np.eye(6)
    change = np.linalg.solve(hessian, turned @ (wanted - moved).reshape(len(whole), -1, 1))[..., 0]
    change = np.clip(change, -_LARGEST_STEP, _LARGEST_STEP).reshape(-1, 2, 3)
    # The step is taken in the coordinates of the part: the new map is the old one after the step.
    linear = maps[:, :, :2]
    after = [linear + linear @ change[:, :, :2], maps[:, :, 2:] + linear @ change[:, :, 2:]]
    return np.concatenate(after, axis=2), np.where(there.mean(axis=(1, 2)) >= _COVERED, correlation, 0.0)


@cache
def _coordinates() -> tuple[Detail, Detail]:
    place = ((np.arange(FINE_SIDE) + 0.5) * 2 / FINE_SIDE - 1).astype(np.float32)
    y, x = np.meshgrid(place, place, indexing="ij")
    return y, x


def _warped(pictures: Detail, maps: NDArray[np.float64]) -> tuple[Detail, NDArray[np.bool_]]:
    """Return pictures seen through maps, by linear interpolation, and where they are defined."""
    y, x = _coordinates()
    target = np.stack([y.ravel(), x.ravel(), np.ones(y.size, np.float32)])
    source = (maps.astype(np.float32) @ target + 1) * (FINE_SIDE / 2) - 0.5  # pixels
    there = ((source >= 0) & (source <= FINE_SIDE - 1)).all(axis=1)
    corner = np.clip(np.floor(source), 0, FINE_SIDE - 2).astype(np.intp)
    down, right = np.clip(source - corner, 0, 1).astype(np.float32).swapaxes(0, 1)
    flat = pictures.reshape(len(pictures), -1)
    at = corner[:, 0] * FINE_SIDE + corner[:, 1]
    upper, upper_right, lower, lower_right = (
        np.take_along_axis(flat, at + shift, axis=1) for shift in (0, 1, FINE_SIDE, FINE_SIDE + 1)
    )
    above, below = upper + right * (upper_right - upper), lower + right * (lower_right - lower)
    shape = (len(pictures), FINE_SIDE, FINE_SIDE)
    return (above + down * (below - above)).reshape(shape), there.reshape(shape)


def _standardised(values: Detail, there: NDArray[np.bool_]) -> Detail:
    """Return values with mean 0 and length 1 where they are defined, and 0 elsewhere."""
    n = np.maximum(there.sum(axis=(1, 2), keepdims=True, dtype=np.float32), 1)
    mean = (values * there).sum(axis=(1, 2), keepdims=True) / n
    centred = (values - mean) * there
    length = np.sqrt((centred**2).sum(axis=(1, 2), keepdims=True))
    found: Detail = centred / np.maximum(length, np.float32(1e-9))
    return found
