"""Draw simulated fields of stained tissue: nests of tumour cells in stroma, and lymphocytes in both.

The drawing is a toy, and no model of a disease. Amounts of tumour, stroma and cells are drawn from the same
distributions for every image. Only the places of the lymphocytes depend on `inside`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

__all__ = ["SIDE", "draw_field"]

Plane = NDArray[np.float64]

#: Width and height of a field in pixels.
SIDE = 224

_FINE = 2  # cells are drawn this many times larger, and then reduced
_NEST = 18.0  # standard deviation of the filter that gives nests their size, in pixels
_TUMOUR_SHARE = 0.3, 0.7  # least and largest share of the area
_DENSITY = 0.4, 1.6  # factor of the numbers of tumour and stroma nuclei
_N_TUMOUR, _N_STROMA = 60, 60  # nuclei
_N_LYMPHOCYTES = 30, 90  # least and largest number
_TRIES = 30  # random places tried for a cell, on average
_OUTLINE = np.linspace(0, 2 * np.pi, 16, endpoint=False)

_TINT = 16.0  # standard deviation of each colour of the stain, in grey levels
_BLUR = 0.3, 1.0  # least and largest standard deviation of the focus, in pixels
_STROMA, _TUMOUR = np.array([226.0, 170, 196]), np.array([206.0, 166, 204])  # colours of the background


@dataclass(frozen=True)
class _Kind:
    """A kind of nucleus: free room around its place, least and largest long radius, short radius, colour."""

    room: float
    radius: tuple[float, float]
    roundness: tuple[float, float]
    colour: tuple[float, float, float]


_TUMOUR_NUCLEUS = _Kind(6.5, (5.0, 7.0), (0.75, 1.0), (140.0, 100, 165))
_NUCLEOLUS = _Kind(0.0, (1.5, 1.5), (1.0, 1.0), (95.0, 60, 130))
_STROMA_NUCLEUS = _Kind(4.0, (6.0, 9.0), (0.2, 0.3), (120.0, 85, 150))
_LYMPHOCYTE = _Kind(3.6, (2.8, 3.6), (0.9, 1.0), (70.0, 45, 110))
_REACH = 16  # pixels; two cells cannot touch farther apart
_AWAY = np.hypot(*np.mgrid[-_REACH : _REACH + 1, -_REACH : _REACH + 1])


def draw_field(rng: np.random.Generator, inside: float) -> Image.Image:
    """Draw one field.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of everything that varies from field to field.
    inside : float
        Probability of each lymphocyte to lie in a nest of tumour cells, and not in the stroma.

    Returns
    -------
    PIL.Image.Image
        RGB, `SIDE` x `SIDE` pixels.
    """
    height = _noise(rng, _NEST, _NEST, 0.0)
    nest = height > np.quantile(height, 1 - rng.uniform(*_TUMOUR_SHARE))
    fibre_angle = rng.uniform(0, np.pi)
    stain = rng.normal(0, _TINT, 3)
    drawn = _Cells(_background(rng, nest, fibre_angle, stain), rng, stain + rng.normal(0, 8))
    # Nuclei of the tissues are placed first, so that they are the same for every `inside`.
    tumour = drawn.places(nest, round(_N_TUMOUR * rng.uniform(*_DENSITY)), _TUMOUR_NUCLEUS)
    stroma = drawn.places(~nest, round(_N_STROMA * rng.uniform(*_DENSITY)), _STROMA_NUCLEUS)
    n = int(rng.integers(*_N_LYMPHOCYTES, endpoint=True))
    n_inside = int(rng.binomial(n, inside))
    lymphocytes = np.concatenate(
        [drawn.places(nest, n_inside, _LYMPHOCYTE), drawn.places(~nest, n - n_inside, _LYMPHOCYTE)]
    )
    drawn.add(tumour, _TUMOUR_NUCLEUS, rng.uniform(0, np.pi, len(tumour)))
    drawn.add(tumour + rng.normal(0, 1, tumour.shape), _NUCLEOLUS, np.zeros(len(tumour)))
    drawn.add(stroma, _STROMA_NUCLEUS, rng.normal(fibre_angle, 0.3, len(stroma)))
    drawn.add(lymphocytes, _LYMPHOCYTE, np.zeros(len(lymphocytes)))
    return drawn.image().filter(ImageFilter.GaussianBlur(rng.uniform(*_BLUR)))


def _noise(rng: np.random.Generator, along: float, across: float, angle: float) -> Plane:
    """Return smooth noise with mean 0 and variance 1, blurred by `along` pixels in a direction."""
    down, right = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)
    u = np.cos(angle) * right + np.sin(angle) * down
    v = np.cos(angle) * down - np.sin(angle) * right
    kept = np.exp(-2 * np.pi**2 * ((along * u) ** 2 + (across * v) ** 2))
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((SIDE, SIDE))) * kept, (SIDE, SIDE))
    scaled: Plane = (noise - noise.mean()) / noise.std()
    return scaled


def _background(rng: np.random.Generator, nest: NDArray[np.bool_], angle: float, stain: Plane) -> Image.Image:
    """Return the tissue without cells: fibres in the stroma, and a fine texture in the nests."""
    edge = Image.fromarray(nest.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(1.5))
    share = np.asarray(edge, np.float64)[..., None] / 255
    tumour = _TUMOUR + 6 * _noise(rng, 2, 2, 0.0)[..., None]
    stroma = _STROMA + 10 * _noise(rng, 12, 1.5, angle)[..., None]
    pixels = share * tumour + (1 - share) * stroma + stain
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


class _Cells:
    """Cells on a background, none of which overlap."""

    def __init__(self, background: Image.Image, rng: np.random.Generator, stain: Plane) -> None:
        side = background.width * _FINE
        self._image = background.resize((side, side), Image.Resampling.BILINEAR)
        self._pen = ImageDraw.Draw(self._image)
        self._rng, self._stain = rng, stain
        self._free = np.full((SIDE, SIDE), np.inf)  # distance of each pixel to the nearest cell

    def places(self, region: NDArray[np.bool_], n: int, kind: _Kind) -> Plane:
        """Return up to `n` free places (row, column) in a region, and take them."""
        found: list[tuple[int, int]] = []
        pixels = np.argwhere(region)
        for row, column in pixels[self._rng.integers(0, len(pixels), _TRIES * n)].tolist():
            if len(found) == n:
                break
            if self._free[row, column] >= kind.room:
                top, left = max(row - _REACH, 0), max(column - _REACH, 0)
                around = self._free[top : row + _REACH + 1, left : column + _REACH + 1]
                from_top, from_left = top - row + _REACH, left - column + _REACH
                away = _AWAY[from_top : from_top + len(around), from_left : from_left + around.shape[1]]
                np.minimum(around, away - kind.room, out=around)
                found.append((row, column))
        return np.array(found, np.float64).reshape(-1, 2) + self._rng.random((len(found), 2))

    def add(self, places: Plane, kind: _Kind, angles: Plane) -> None:
        """Draw an ellipse at each place. Its radii, and its colour a little, are random."""
        n = len(places)
        long = self._rng.uniform(*kind.radius, (n, 1))
        short = long * self._rng.uniform(*kind.roundness, (n, 1))
        x, y = long * np.cos(_OUTLINE), short * np.sin(_OUTLINE)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        right = places[:, 1:] + cos * x - sin * y
        down = places[:, :1] + sin * x + cos * y
        outlines = (np.stack([right, down], axis=2) * _FINE).reshape(n, -1).tolist()
        colours = np.array(kind.colour) + self._stain + self._rng.normal(0, 7, (n, 1))
        for outline, colour in zip(outlines, colours.clip(0, 255).astype(int).tolist(), strict=True):
            self._pen.polygon(outline, fill=tuple(colour))

    def image(self) -> Image.Image:
        """Return the drawing in its own size."""
        return self._image.reduce(_FINE)
