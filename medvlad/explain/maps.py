"""Evidence maps: terms laid out over the image, and pictures of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvlad._util.validate import InputError
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.projection import DescriptorProjection
from medvlad.explain.split import Evidence, evidence, first_order_evidence, is_additive
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.images.colour_bar import add_colour_bar
from medvlad.images.read import load_image

__all__ = ["evidence_map", "evidence_maps", "evidence_picture", "largest_evidence", "overlay", "spread"]

Matrix = NDArray[np.float64]

_FOR, _AGAINST = (200, 30, 30), (30, 70, 200)  # RGB
_MAX_OPACITY = 0.75
_GAP = 8  # pixels between the two pictures
_BAR_WIDTH, _BAR_GREY = 24, 200  # pixels and grey level of a colour bar


def spread(values: Matrix, side: tuple[int, int]) -> Matrix:
    """Spread values of a coarse grid evenly over a finer grid of the same area. The total does not change.

    Parameters
    ----------
    values : ndarray of shape (h, w, ...)
    side : (int, int)
        Height and width of the finer grid.

    Returns
    -------
    ndarray of float64, shape (height, width, ...)
    """
    for axis, size in enumerate(side):
        values = np.moveaxis(np.tensordot(_shares(values.shape[axis], size), values, (1, axis)), 0, axis)
    return values


def _shares(coarse: int, fine: int) -> Matrix:
    """Return, as (fine, coarse), the share of each coarse interval that lies in each fine interval.

    Both sets of equal intervals divide the same line.
    """
    starts, ends = np.arange(fine)[:, None] / fine, (np.arange(fine)[:, None] + 1) / fine
    begin, end = np.arange(coarse) / coarse, (np.arange(coarse) + 1) / coarse
    shares: Matrix = np.maximum(np.minimum(ends, end) - np.maximum(starts, begin), 0.0) * coarse
    return shares


def evidence_maps(
    decision: Evidence,
    index: int,
    grids: Sequence[tuple[int, int]],
    mirrored: Sequence[bool] | None = None,
) -> NDArray[np.float64]:
    """Lay the terms of one image out over its grid.

    Parameters
    ----------
    decision : Evidence
    index : int
        Index of the image.
    grids : sequence of (h, w)
        Grid of each view, in the order of the descriptors: `grids_` of :class:`medvlad.CNNDescriptors`.
        Descriptors lie row by row.
    mirrored : sequence of bool, or None
        Which views are of the mirror image: `mirrored_` of :class:`medvlad.CNNDescriptors`. Their terms are
        mirrored back. None: no view.

    Returns
    -------
    ndarray of float64, shape (n_columns, H, W)
        Maps on the finest of the grids. Terms of coarser grids are spread over the cells that they cover, so
        the sum over H and W plus the bias is still the decision value.

    Raises
    ------
    InputError
        If the number of descriptors of the image is not that of the grids.
    """
    terms = decision.terms[decision.offsets[index] : decision.offsets[index + 1]]
    if len(terms) != sum(h * w for h, w in grids):
        raise InputError(
            f"image {index} has {len(terms)} descriptors, but the grids {', '.join(map(str, grids))} have "
            f"{sum(h * w for h, w in grids)}: use grids_ of the CNNDescriptors that made the descriptors"
        )
    finest = max(grids, key=lambda grid: grid[0] * grid[1])
    maps = np.zeros((*finest, terms.shape[1]))
    start = 0
    for (h, w), flipped in zip(grids, mirrored or [False] * len(grids), strict=True):
        laid_out = terms[start : start + h * w].reshape(h, w, -1)
        maps += spread(laid_out[:, ::-1] if flipped else laid_out, finest)
        start += h * w
    return maps.transpose(2, 0, 1)


def overlay(
    pixels: NDArray[np.uint8], evidence_map: Matrix, *, side: int = 448, largest: float | None = None
) -> Image.Image:
    """Draw an image, and next to it the image in grey with the evidence in colour.

    Red is evidence for the class, blue evidence against it.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (height, width, 3)
    evidence_map : ndarray of shape (H, W)
        Map of one class. It covers the whole image.
    side : int, default=448
        Longer side of each of the two pictures, in pixels.
    largest : float or None, default=None
        Absolute value that full colour stands for. Give several maps the same value to compare them. None:
        the largest absolute value in this map.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    plain = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    if largest is None:
        largest = float(np.abs(evidence_map).max())
    largest = largest or 1.0
    share = Image.fromarray((evidence_map / largest).astype(np.float32))
    strength = np.asarray(share.resize(size, Image.Resampling.BICUBIC))
    grey = np.asarray(plain.convert("L"), np.float32)
    shown = Image.fromarray(evidence_colours(grey, strength))
    both = Image.new("RGB", (2 * size[0] + _GAP, size[1]), "white")
    both.paste(plain, (0, 0))
    both.paste(shown, (size[0] + _GAP, 0))
    return both


def evidence_colours(grey: NDArray[np.float32], strength: NDArray[Any]) -> NDArray[np.uint8]:
    """Colour a grey picture: red for evidence for the class, blue for evidence against it.

    Parameters
    ----------
    grey : ndarray of float32, shape (H, W)
        Grey levels from 0 to 255.
    strength : ndarray of float, shape (H, W)
        Evidence. 1 and -1 are full colour.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
    """
    strength, grey = strength.clip(-1, 1)[..., None], grey[..., None]
    colour = np.where(strength > 0, np.array(_FOR, np.float32), np.array(_AGAINST, np.float32))
    amount = np.abs(strength) * _MAX_OPACITY
    return np.asarray(np.rint(grey * (1 - amount) + colour * amount), np.uint8)


def evidence_scale(height: int) -> Image.Image:
    """Return a bar of the colours of :func:`evidence_colours`, for at the top and against at the bottom."""
    size = (height, _BAR_WIDTH)
    ramp = np.broadcast_to(np.linspace(1, -1, height)[:, None], size)
    return Image.fromarray(evidence_colours(np.full(size, _BAR_GREY, np.float32), ramp))


def evidence_map(
    extractor: CNNDescriptors, steps: Sequence[Any], descriptors: Descriptors, label: int
) -> Matrix:
    """Return the map of the evidence for one class in one image.

    Parameters
    ----------
    extractor : CNNDescriptors
        The one that made the descriptors.
    steps : sequence of fitted estimators
        The steps from descriptors to decision values.
    descriptors : Descriptors
        Descriptors of this image only.
    label : int
        Index of the class.

    Returns
    -------
    ndarray of float64, shape (H, W)
        On the finest grid of the extractor, see :func:`evidence_maps`. With a signed power, the evidence is
        the first-order form.
    """
    encoder, *after = steps
    if isinstance(encoder, DescriptorProjection):
        descriptors = encoder.transform(descriptors)
        encoder, *after = after
    split = evidence if is_additive(encoder) else first_order_evidence
    terms = split(descriptors, encoder, *after)
    maps = evidence_maps(terms, 0, extractor.grids_, extractor.mirrored_)
    # With two classes there is one map, that of class 1.
    own: Matrix = maps[label] if len(maps) > 1 else maps[0] * (1 if label == 1 else -1)
    return own


def largest_evidence(maps: Iterable[Matrix]) -> float:
    """Return the largest absolute value in several maps, for one colour scale. 0 without maps."""
    return max((float(np.abs(one).max()) for one in maps), default=0.0)


def evidence_picture(image: Any, own_map: Matrix, largest: float) -> Image.Image:
    """Draw an image, its evidence map next to it, and a colour bar.

    Parameters
    ----------
    image : path or array
        The image.
    own_map : ndarray of shape (H, W)
        Map from :func:`evidence_map`.
    largest : float
        Absolute value that full colour stands for, see :func:`largest_evidence`.

    Returns
    -------
    PIL.Image.Image
        RGB, see :func:`overlay`.
    """
    picture = overlay(load_image(image, on_damage="ignore"), own_map, largest=largest)
    return add_colour_bar(
        picture, evidence_scale(picture.height), [f"{largest:+.2g}", "0", f"{-largest:+.2g}"]
    )
