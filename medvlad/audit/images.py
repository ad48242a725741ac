r"""Facts about each image that an audit keeps: digests, a thumbnail, corners, border, boxes, file format.

Threads read each image once and keep nothing of full size. The facts take about 4 KiB for each image, 400 MB
for 100,000 images.

**Uniform border.** Lines are removed from each side, from outside inwards, as long as 99 % of their pixels
are within 12 levels of the colour of the outermost line. That colour is its median in each channel. The 12
levels leave room for JPEG noise.

**Uniform box.** The image is cut into 64 x 64 cells, and 4 x 4 pixels of each cell are sampled. A cell is
flat if its samples are within 12 levels of one another. Three kinds of flat cells are searched: black, white,
and the most frequent other colour. For each kind, the largest rectangle of such cells that touches a side of
the image is found. With :math:`h(c)` the number of consecutive such cells in column :math:`c`, counted from
the side, its area is

.. math::

    \max_{a \le b} (b - a + 1) \min(h(a), \ldots, h(b))

This is one running minimum over a 64 x 64 table. The rectangle is a box if

- it covers 0.5 to 40 % of the image
- it is at least 5 % and at most 80 % of a side long and wide (a longer one is a border)
- along each of its inner sides, one line of cells away, 95 % of the cells are of another kind

The last rule tells boxes from the black corners of an endoscope's round view: the largest rectangle in a
triangle has more of the triangle beside it. In 585 colonoscopy frames these rules find 487 insets that were
painted black, and miss insets that touch a corner of the round view. In 240 photographs of rooms they find
four patches of wall or sky, of four kinds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvlad._util.counters import count
from medvlad._util.library_warnings import reads_file
from medvlad._util.progress import progress_bar
from medvlad._util.read_ahead import read_ahead
from medvlad._util.validate import InputError, check_n_threads, one_line
from medvlad.images.formats import PILLOW_FORMATS
from medvlad.images.frames import split_frame
from medvlad.images.read import load_image
from medvlad.images.resize import resize_square

__all__ = ["CORNER_SIDE", "FINE_SIDE", "THUMB_SIDE", "Box", "ImageFacts", "grey_thumbnails", "read_facts"]

THUMB_SIDE = 32
FINE_SIDE = 64
CORNER_SIDE = 8

_CORNER_SHARE = 0.15
_MAX_THREADS = 8  # each holds one image of full size
_AHEAD = 4  # results of each thread that may wait
_DIGEST_BYTES = 16

_BORDER_LEVELS = 12
_BORDER_SHARE = 0.99

_CELLS = 64
_SAMPLES = 4  # along each side of a cell
_FLAT_LEVELS = 12
_BLACK, _WHITE = 20, 235
_COLOUR_STEP = 16
_BOX_SHARE = (0.005, 0.4)
_BOX_SIDE = (0.05, 0.8)
_BOX_FREE = 0.95


@dataclass(frozen=True)
class Box:
    """A rectangle of one colour at a side of an image.

    Attributes
    ----------
    colour : {"black", "white", "one colour"}
    place : str
        Side or corner, such as "top" or "bottom left".
    share : float
        Share of the area of the image, from 0 to 1.
    """

    colour: str
    place: str
    share: float


@dataclass(frozen=True)
class ImageFacts:
    """Facts about one image.

    Attributes
    ----------
    file_digest : bytes, 16
        Digest of the bytes of the file and the number of the frame.
    pixel_digest : bytes, 16
        Digest of size and pixels.
    width, height : int
        Size in pixels.
    n_bytes : int
        Size of the file.
    kind : str
        Pillow's name of the format. If Pillow does not know the file: the ending of its name.
    mode : str
        Pillow's mode. "" if Pillow does not know the file.
    bits : int
        Bits of a channel: 1, 8, 16 or 32, as the mode says.
    is_grey : bool
        Whether all three channels are equal in all pixels.
    quantisation : tuple of int
        Sum of each quantisation table of a JPEG file; () for other formats.
    thumb : ndarray of shape (THUMB_SIDE, THUMB_SIDE, 3), uint8
        The whole image, resized to a square.
    corners : ndarray of shape (4, CORNER_SIDE, CORNER_SIDE, 3), uint8
        Top left, top right, bottom left and bottom right corner, each 15 % of width and height.
    contrasts : ndarray of shape (4, 3), float32
        Lowest grey level, highest grey level and standard deviation of each corner at full size. They show
        thin letters, which vanish in a thumbnail.
    border : tuple of float
        Widths of the uniform border at the top, bottom, left and right, as shares of height or width.
    border_colour : {"black", "white", "one colour"}
        Colour of the widest border.
    boxes : tuple of Box
        At most one for each place and colour, sorted by them.
    fine : ndarray of shape (FINE_SIDE, FINE_SIDE), uint8, or None
        The whole image in grey. None: not asked for.
    """

    file_digest: bytes
    pixel_digest: bytes
    width: int
    height: int
    n_bytes: int
    kind: str
    mode: str
    bits: int
    is_grey: bool
    quantisation: tuple[int, ...]
    thumb: NDArray[np.uint8]
    corners: NDArray[np.uint8]
    contrasts: NDArray[np.float32]
    border: tuple[float, float, float, float]
    border_colour: str
    boxes: tuple[Box, ...]
    fine: NDArray[np.uint8] | None = None


def read_facts(
    paths: Sequence[Path], *, fine: bool = False, n_threads: int | None = None
) -> list[ImageFacts | str]:
    """Read each image once, and return its facts.

    Parameters
    ----------
    paths : sequence of Path
        Images that :func:`medvlad.images.read.load_image` reads.
    fine : bool, default=False
        Whether to keep the larger thumbnail, which takes another 4 KiB for each image.
    n_threads : int or None, default=None
        Number of threads that read, at most 8. None: the processors that this process may use.

    Returns
    -------
    list of ImageFacts or str
        In the order of `paths`. The str is the reason why an image cannot be read.

    Raises
    ------
    InputError
        If `n_threads` is not a positive integer.
    MissingExtraError
        If an image is DICOM or NIfTI and the extra ``medical`` is not installed.
    """
    n = min(check_n_threads(n_threads), _MAX_THREADS)
    found: list[ImageFacts | str] = []
    reading = read_ahead(
        partial(_read, fine=fine), paths, n_threads=n, n_ahead=_AHEAD * n, name="medvlad-audit"
    )
    with progress_bar(len(paths), "images", None) as bar, closing(reading):
        for _, facts in reading:
            found.append(facts)
            count("failures", isinstance(facts, str))
            bar.update()
    return found


@reads_file
def _read(path: Path, *, fine: bool) -> ImageFacts | str:
    try:
        pixels = load_image(path)
        file, frame = split_frame(path)
        n_bytes = file.stat().st_size
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES))
        digest.update(f"#{frame}".encode())
        kind, mode, quantisation = _header(file)
    except (InputError, OSError) as error:
        return one_line(error)
    height, width = pixels.shape[:2]
    border, border_colour = _border(pixels)
    content = hashlib.blake2b(f"{height}x{width}:".encode(), digest_size=_DIGEST_BYTES)
    content.update(np.ascontiguousarray(pixels).data)
    cuts = _corners(pixels)
    grey = [cut.astype(np.float32).mean(axis=2) for cut in cuts]
    return ImageFacts(
        file_digest=digest.digest(),
        pixel_digest=content.digest(),
        width=width,
        height=height,
        n_bytes=n_bytes,
        kind=kind,
        mode=mode,
        bits=_bits(mode),
        is_grey=bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all()),
        quantisation=quantisation,
        thumb=resize_square(pixels, THUMB_SIDE, "box"),
        corners=np.stack([resize_square(np.ascontiguousarray(cut), CORNER_SIDE, "box") for cut in cuts]),
        contrasts=np.array([[g.min(), g.max(), g.std()] for g in grey], np.float32),
        border=border,
        border_colour=border_colour,
        boxes=_boxes(pixels),
        fine=resize_square(pixels, FINE_SIDE, "box").mean(axis=2).round().astype(np.uint8) if fine else None,
    )


def _header(file: Path) -> tuple[str, str, tuple[int, ...]]:
    """Return format, mode and sums of quantisation tables, from the header of the file."""
    try:
        with Image.open(file, formats=PILLOW_FORMATS) as image:
            tables: Any = getattr(image, "quantization", None) or {}
            sums = tuple(int(sum(tables[key])) for key in sorted(tables))
            return str(image.format), image.mode, sums
    except Exception:  # DICOM or NIfTI; Pillow raises any kind of error on a file that it does not know
        return file.suffix.lower().lstrip(".") or "no ending", "", ()


def _bits(mode: str) -> int:
    if mode == "1":
        return 1
    if mode.startswith("I;16"):
        return 16
    return 32 if mode in ("I", "F") else 8


def _corners(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    height, width = (max(1, round(_CORNER_SHARE * side)) for side in pixels.shape[:2])
    return [
        pixels[:height, :width],
        pixels[:height, -width:],
        pixels[-height:, :width],
        pixels[-height:, -width:],
    ]


def _border(pixels: NDArray[np.uint8]) -> tuple[tuple[float, float, float, float], str]:
    """Return the widths of the uniform border, and the colour of the widest side."""
    across = pixels.swapaxes(0, 1)
    sides = (pixels, pixels[::-1], across, across[::-1])
    widths = [_uniform_lines(lines) / len(lines) for lines in sides]
    colour = np.median(sides[int(np.argmax(widths))][0], axis=0)
    name = "black" if (colour <= _BLACK).all() else "white" if (colour >= _WHITE).all() else "one colour"
    return (widths[0], widths[1], widths[2], widths[3]), name


def _uniform_lines(lines: NDArray[np.uint8]) -> int:
    """Return the number of lines, from the first, that have its colour."""
    colour = np.median(lines[0], axis=0).astype(np.int16)
    for number, line in enumerate(lines):
        near = (np.abs(line.astype(np.int16) - colour) <= _BORDER_LEVELS).all(axis=1)
        if near.mean() < _BORDER_SHARE:
            return number
    return len(lines)


def _boxes(pixels: NDArray[np.uint8]) -> tuple[Box, ...]:
    n = _CELLS * _SAMPLES
    rows, columns = ((np.arange(n) * side) // n for side in pixels.shape[:2])
    sampled = pixels[rows[:, None], columns]
    looks = [sampled[i::_SAMPLES, j::_SAMPLES] for i in range(_SAMPLES) for j in range(_SAMPLES)]
    low, high = reduce(np.minimum, looks), reduce(np.maximum, looks)
    flat = (high - low <= _FLAT_LEVELS).all(axis=2)  # high >= low, so uint8 does not wrap around
    black, white = (high <= _BLACK).all(axis=2), (low >= _WHITE).all(axis=2)
    other = flat & ~black & ~white
    if other.any():
        steps = (low // _COLOUR_STEP).astype(np.int32) @ np.array([256, 16, 1], np.int32)
        usual = np.bincount(steps[other]).argmax()
        colour = np.median(low[other & (steps == usual)], axis=0)
        other &= (np.abs(low - colour) <= _FLAT_LEVELS).all(axis=2)
    found: dict[tuple[str, str], Box] = {}
    for name, mask in (("black", flat & black), ("white", flat & white), ("one colour", other)):
        for box in _boxes_of(mask, name):
            found.setdefault((box.place, name), box)
    return tuple(found[key] for key in sorted(found))


def _boxes_of(mask: NDArray[np.bool_], colour: str) -> list[Box]:
    """Return the boxes among the cells of one kind, at most one at each side."""
    found: list[Box] = []
    if np.count_nonzero(mask) < _BOX_SHARE[0] * mask.size:
        return found
    mask = np.pad(mask[1:-1, 1:-1], 1, mode="edge")  # resizing may leave a line of another grey at the edge
    sides = (
        ("top", mask, False),
        ("bottom", mask[::-1], False),
        ("left", mask.T, True),
        ("right", mask.T[::-1], True),
    )
    for side, turned, upright in sides:
        rectangle = _largest_rectangle(turned)
        if rectangle is None:
            continue
        first, last, depth = rectangle
        ends = ("top", "bottom") if upright else ("left", "right")
        at = [end for end, there in zip(ends, (first == 0, last == _CELLS), strict=True) if there]
        place = " ".join([*at, side] if upright else [side, *at])
        found.append(Box(colour, place, round((last - first) * depth / _CELLS**2, 4)))
    return found


def _largest_rectangle(mask: NDArray[np.bool_]) -> tuple[int, int, int] | None:
    """Return first column, last column (exclusive) and depth of the box at the first row, or None."""
    depth = np.where(mask.all(axis=0), _CELLS, (~mask).argmax(axis=0))
    if np.count_nonzero(depth >= _BOX_SIDE[0] * _CELLS) < _BOX_SIDE[0] * _CELLS:
        return None  # a quick answer for most sides of most images
    a, b = np.indices((_CELLS, _CELLS))
    lowest = np.minimum.accumulate(np.where(b >= a, depth, _CELLS), axis=1)
    areas = np.where(b >= a, (b - a + 1) * lowest, 0)
    first, last = (int(i) for i in np.unravel_index(areas.argmax(), areas.shape))
    height, last = int(lowest[first, last]), last + 1
    smallest, largest = (share * _CELLS for share in _BOX_SIDE)
    if not all(smallest <= length <= largest for length in (last - first, height)):
        return None
    if not _BOX_SHARE[0] <= (last - first) * height / _CELLS**2 <= _BOX_SHARE[1]:
        return None
    # The cells next to a box may belong to its blurred edge, so the line of cells after those is checked.
    beside = [mask[height + 1, first:last]]
    beside += [mask[:height, max(first - 2, 0)]] if first > 0 else []
    beside += [mask[:height, min(last + 1, _CELLS - 1)]] if last < _CELLS else []
    if any((~cells).mean() < _BOX_FREE for cells in beside):
        return None
    return first, last, height


def grey_thumbnails(facts: Sequence[ImageFacts]) -> NDArray[np.float32]:
    """Return thumbnails in grey, shape (n, THUMB_SIDE, THUMB_SIDE)."""
    return np.stack([one.thumb.mean(axis=2, dtype=np.float32) for one in facts])
