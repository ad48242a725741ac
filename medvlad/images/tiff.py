"""Decode an image of a TIFF file: which decoder reads it, and how its numbers become RGB.

Pillow reads what `pillow_reads` lists. That list was measured: every combination of number format,
photometric interpretation, byte order, compression and planar configuration was written with known values
and read again. Pillow swaps the bytes of compressed big-endian signed and floating-point numbers twice, keeps
8 bits of colour of 16, mixes up the planes of some files, and refuses many valid files. tifffile (extra
medical) reads all others. Colour that neither of them converts to RGB is refused.

==========================  ===============================  ============================================
Numbers                     Read by Pillow                   What becomes of them
==========================  ===============================  ============================================
unsigned, 1 to 8 bits       1, 2, 4, 8 bits; colour: 8 bits  0 and the largest number become 0 and 255
unsigned, more bits         grey of 12, 16 and 32 bits       stretched, all channels together
signed, floating point      grey, if not byte-swapped twice  stretched, all channels together
with associated alpha       8 bits, not in planes            divided by alpha: 255 * colour / alpha
==========================  ===============================  ============================================

Min-is-white is inverted after that. Other transparency is dropped.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvlad._util.validate import InputError, import_extra, one_line
from medvlad.images.grey_levels import rounded, stretch, undo_alpha
from medvlad.images.tiff_pages import (
    BITS,
    COMPRESSION,
    DEPTH,
    HEIGHT,
    PHOTOMETRIC,
    PLANAR,
    SAMPLES,
    WIDTH,
    TiffDirectory,
    TiffImage,
    stack_place,
    with_first_page,
)
from medvlad.images.to_rgb import as_three_channels, check_size, too_many_pixels, turn_upright

__all__ = ["pillow_reads", "read_tiff_image"]

_FILL_ORDER, _ORIENTATION, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _SUBSAMPLING = 266, 274, 338, 339, 530

_PLANES = 2  # of PlanarConfiguration
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_MISSING = -1
_PHOTOMETRICS = {
    -1: "numbers without PhotometricInterpretation",
    **{0: "grey (zero is white)", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr"},
    **{8: "Lab", 9: "ICC Lab", 10: "ITU Lab", 32803: "raw camera data", 32844: "LogL", 32845: "LogLuv"},
    34892: "linear raw camera data",
}
_UNSIGNED, _SIGNED, _FLOAT, _UNDEFINED = 1, 2, 3, 4
_FORMATS = {2: "signed ", 3: "floating-point ", 5: "complex integer ", 6: "complex "}
# Number formats that tifffile decodes to the stored values, by SampleFormat.
_BITS = {
    _UNSIGNED: frozenset((*range(1, 17), 32, 64)),
    _SIGNED: frozenset((8, 16, 32, 64)),
    _FLOAT: frozenset((16, 32, 64)),
    _UNDEFINED: frozenset((*range(1, 17), 32, 64)),
}
_ASSOCIATED = 1  # a value of ExtraSamples: colour is multiplied by this alpha

_NONE, _OLD_JPEG, _JPEG = 1, 6, 7
# CCITT, LZW, JPEG, deflate, uncompressed in words, PackBits, LZMA, zstd. All of Pillow's wheels decode these.
_PILLOW_COMPRESSIONS = frozenset((1, 2, 3, 4, 5, 7, 8, 32771, 32773, 32946, 34925, 50000))
_COMPRESSIONS = {
    **{2: "CCITT RLE", 3: "CCITT fax 3", 4: "CCITT fax 4", 5: "LZW", 6: "old-style JPEG", 7: "JPEG"},
    **{8: "deflate", 32773: "PackBits", 32946: "deflate", 34925: "LZMA", 50000: "zstd", 50001: "WebP"},
    **{33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 34887: "LERC"},
    **{22610: "JPEG XR", 34934: "JPEG XR", 50002: "JPEG XL", 52546: "JPEG XL", 34933: "PNG"},
}

# Values of ExtraSamples with which Pillow reads RGB. 999 is written by CorelDRAW.
_PILLOW_RGB_EXTRA = ((0,), (0, 0), (0, 0, 0), (1,), (1, 0), (1, 0, 0), (2,), (2, 0), (2, 0, 0), (999,))

_MAX_SAMPLES = 8
_BYTES_A_PIXEL = 16  # after decoding, for the limit of PIL.Image.MAX_IMAGE_PIXELS


@dataclass(frozen=True)
class _Encoding:
    """How a page stores its pixels. It is printed as a description for errors."""

    order: str
    is_big: bool
    size: tuple[int, int]  # width, height
    bits: tuple[int, ...]  # of each sample
    formats: frozenset[int]
    photometric: int
    compression: int
    in_planes: bool
    extra: tuple[int, ...]
    subsampling: tuple[int, ...]
    fill_order: int
    orientation: int
    depth: int

    @classmethod
    def of(cls, page: TiffDirectory) -> _Encoding:
        bits = page.numbers(BITS) or (1,)
        n_samples = page.number(SAMPLES, len(bits))
        if len(bits) == 1:
            bits *= min(n_samples, _MAX_SAMPLES + 1)
        if len(bits) < min(n_samples, _MAX_SAMPLES + 1) or not bits:
            raise ValueError(f"it claims {n_samples} channels, and the bits of {len(bits)}")
        return cls(
            order=page.order,
            is_big=page.is_big,
            size=(page.number(WIDTH, 0), page.number(HEIGHT, 0)),
            bits=bits[:n_samples],
            formats=frozenset(page.numbers(_SAMPLE_FORMAT) or (_UNSIGNED,)),
            photometric=page.number(PHOTOMETRIC, _MISSING),
            compression=page.number(COMPRESSION, _NONE),
            in_planes=n_samples > 1 and page.number(PLANAR, 1) == _PLANES,
            extra=page.numbers(_EXTRA_SAMPLES),
            subsampling=page.numbers(_SUBSAMPLING),
            fill_order=page.number(_FILL_ORDER, 1),
            orientation=page.number(_ORIENTATION, 1),
            depth=page.number(DEPTH, 1),
        )

    @property
    def is_uniform(self) -> bool:
        """Whether all samples have the same number format."""
        return len(set(self.bits)) == 1 and len(self.formats) == 1

    @property
    def format(self) -> int:
        return max(self.formats)

    @property
    def is_bytes(self) -> bool:
        """Whether the numbers are levels of at most 8 bits."""
        return self.format in (_UNSIGNED, _UNDEFINED) and max(self.bits) <= 8

    @property
    def pillow_mode(self) -> str | None:
        """Pillow's name of a colour that is not grey or RGB, and that it converts to RGB."""
        if set(self.bits) != {8} or self.format != _UNSIGNED or self.extra or self.compression == _JPEG:
            return None
        if self.photometric == _YCBCR and self.subsampling == (1, 1) and len(self.bits) == 3:
            return "YCbCr"
        return "CMYK" if self.photometric == _CMYK and len(self.bits) == 4 else None

    @property
    def n_colours(self) -> int:
        """Number of channels that are colours. 0: they cannot be converted to RGB."""
        n_samples = len(self.bits)
        if self.pillow_mode:
            return n_samples
        grey = self.photometric in (_MIN_IS_WHITE, _MIN_IS_BLACK, _MISSING)
        if grey and n_samples <= 2:
            return 1
        return 3 if self.photometric in (_RGB, _MISSING) and n_samples >= 3 else 0

    def __str__(self) -> str:
        bits = " and ".join(map(str, sorted(set(self.bits))))
        numbers = "".join(_FORMATS.get(kind, "") for kind in sorted(self.formats))
        colour = _PHOTOMETRICS.get(self.photometric, f"colour {self.photometric}")
        channels = "" if self.n_colours or len(self.bits) == 1 else f" in {len(self.bits)} channels"
        alpha = " with transparency" if self.n_colours and len(self.bits) > self.n_colours else ""
        named = _COMPRESSIONS.get(self.compression)
        packed = f"compressed as {named}" if named else f"of compression {self.compression}"
        end = "" if self.compression == _NONE else f", {packed}"
        return f"{bits}-bit {numbers}{colour}{channels}{alpha}{end}"


def pillow_reads(page: TiffDirectory) -> bool:
    """Return whether Pillow decodes the pixels of a page without loss."""
    stored = _Encoding.of(page)
    if stored.compression == _OLD_JPEG:  # its headers leave much out
        return True
    if not stored.is_uniform or stored.compression not in _PILLOW_COMPRESSIONS:
        return False
    if stored.is_big and stored.order == ">":
        return False
    if stored.format == _UNSIGNED and stored.bits[0] <= 8:
        return _pillow_reads_bytes(stored)
    return _pillow_reads_deep_grey(stored)


def _pillow_reads_bytes(stored: _Encoding) -> bool:
    """Return whether Pillow decodes unsigned numbers of at most 8 bits."""
    n_samples, n_extra = len(stored.bits), len(stored.extra)
    if stored.bits[0] != 8:
        grey = (_MIN_IS_WHITE, _MIN_IS_BLACK, _PALETTE)
        return stored.bits[0] in (1, 2, 4) and n_samples == 1 and stored.photometric in grey
    only_colours = not n_extra and not stored.in_planes
    match stored.photometric:
        case 0 | 3:
            return n_samples == 1
        case 1:
            return n_samples == 1 or (n_samples == 2 and n_extra == 1 and not stored.in_planes)
        case 2:
            if stored.in_planes or n_samples == 3:
                return n_samples == 3 and not n_extra
            return n_samples == 4 if not n_extra else stored.extra in _PILLOW_RGB_EXTRA
        case 5:
            return n_samples == 4 and only_colours
        case 6 if stored.compression == _NONE:  # Pillow takes it for one that is not subsampled
            return n_samples == 3 and only_colours and stored.subsampling == (1, 1)
        case 6:
            return n_samples in (1, 3) and not n_extra
        case 8:
            return n_samples == 3 and only_colours
    return False


def _pillow_reads_deep_grey(stored: _Encoding) -> bool:
    """Return whether Pillow decodes grey of more than 8 bits, or signed, or floating point."""
    if len(stored.bits) != 1 or stored.fill_order != 1 or stored.compression == _JPEG:
        return False
    little = stored.order == "<"
    swapped_once = little or stored.compression == _NONE
    white, black = (stored.photometric == kind for kind in (_MIN_IS_WHITE, _MIN_IS_BLACK))
    match stored.format, stored.bits[0]:
        case 1, 12 | 32:
            return black and little
        case 1, 16:
            return black or (white and little)
        case 2, 16 | 32:
            return black and swapped_once
        case 3, 32:
            return (black or white) and swapped_once
    return False


def read_tiff_image(
    file: BinaryIO, image: TiffImage, name: str, *, max_pixels: int | None
) -> NDArray[np.uint8]:
    """Read an image of a stack without pages, or one that Pillow does not read (extra medical).

    Parameters
    ----------
    file : binary file
        The open file.
    image : TiffImage
    name : str
        How errors name the image.
    max_pixels : int or None
        Larger images are refused before they are decoded. None: no limit.

    Returns
    -------
    ndarray of shape (H, W, 3), uint8
        Turned upright.

    Raises
    ------
    InputError
        If the image is too large or too small, damaged, neither grey nor RGB, or needs an extra that is not
        installed.
    """
    stored = _Encoding.of(image.page)
    _check(stored, name, max_pixels)
    if image.position is None or stored.depth > 1:
        values = _read_with_tifffile(file, image, stored, name)
    else:
        values = _read_from_stack(file, image.page, stored, image.position)
    return turn_upright(_to_rgb(values, stored, name), stored.orientation)


def _check(stored: _Encoding, name: str, max_pixels: int | None) -> None:
    """Refuse what cannot become RGB, and what would fill the memory."""
    what = f"{name} is a TIFF of {stored}"
    if not stored.n_colours:
        raise InputError(f"{what}, which has no known colours in this form: convert it to RGB or to grey")
    if not stored.is_uniform or stored.bits[0] not in _BITS.get(stored.format, ()):
        raise InputError(f"{what}: convert it to unsigned numbers of 8 or 16 bits")
    width, height = stored.size
    check_size(width, height, name)
    n_bytes = width * height * stored.depth * len(stored.bits) * max(1, stored.bits[0] // 8)
    if max_pixels is not None and (
        width * height > max_pixels
        or n_bytes > _BYTES_A_PIXEL * max_pixels
        or len(stored.bits) > _MAX_SAMPLES
    ):
        raise too_many_pixels(name)


def _read_from_stack(file: BinaryIO, page: TiffDirectory, stored: _Encoding, position: int) -> NDArray[Any]:
    """Return an image that follows the pixels of the only page, of shape (H, W, channels)."""
    start, n_bytes = stack_place(page) or (0, 0)
    file.seek(start + position * n_bytes)
    kind = {_SIGNED: "i", _FLOAT: "f"}.get(stored.format, "u")
    values = np.frombuffer(file.read(n_bytes), f"{stored.order}{kind}{stored.bits[0] // 8}")
    (width, height), n_samples = stored.size, len(stored.bits)
    if stored.in_planes:
        return values.reshape(n_samples, height, width).transpose(1, 2, 0)
    return values.reshape(height, width, n_samples)


def _read_with_tifffile(file: BinaryIO, image: TiffImage, stored: _Encoding, name: str) -> NDArray[Any]:
    """Return the pixels of a page, or of a slice of a volume, of shape (H, W, channels)."""
    what = f"{name} is a TIFF of {stored}"
    if any(importlib.util.find_spec(module) is None for module in ("imagecodecs", "tifffile")):
        raise InputError(
            f"{what}, which Pillow cannot read without loss: pip install 'medvlad[medical]', or convert it "
            "to 8 bits or to grey of 16 bits"
        )
    tifffile = import_extra("tifffile", "medical", "TIFF")
    try:
        with tifffile.TiffFile(with_first_page(file, image.page)) as opened:
            # One thread: images are read by several threads already.
            values = np.asarray(opened.pages[0].asarray(squeeze=False, maxworkers=1))
    except MemoryError:
        raise
    except Exception as error:
        reason = (one_line(error) or type(error).__name__)[:200]
        if stored.compression not in tifffile.TIFF.DECOMPRESSORS:
            raise InputError(f"{what}, for which there is no decoder ({reason}): convert it") from error
        raise InputError(f"{name} is corrupt or truncated ({reason}): copy it again or remove it") from error
    # tifffile's axes: planes, depth, height, width, channels
    cut = values[:, image.position or 0]
    return cut[..., 0].transpose(1, 2, 0) if stored.in_planes else cut[0]


def _to_rgb(values: NDArray[Any], stored: _Encoding, name: str) -> NDArray[np.uint8]:
    """Return pixels of shape (H, W, channels) as RGB."""
    n_colours = stored.n_colours
    colours = values[..., :n_colours]
    if stored.pillow_mode:
        image = Image.frombytes(stored.pillow_mode, stored.size, np.ascontiguousarray(colours).tobytes())
        return np.array(image.convert("RGB"))
    inverted = stored.photometric == _MIN_IS_WHITE
    at = n_colours + stored.extra.index(_ASSOCIATED) if _ASSOCIATED in stored.extra else len(stored.bits)
    if at < len(stored.bits) and stored.format != _SIGNED:
        levels = undo_alpha(colours, values[..., at : at + 1], name)
    elif stored.is_bytes:
        largest = 2 ** stored.bits[0] - 1
        levels = rounded(colours * (255 / largest)) if largest < 255 else colours
    else:
        return as_three_channels(stretch(colours, name, inverted=inverted))
    return as_three_channels(255 - levels if inverted else levels)
