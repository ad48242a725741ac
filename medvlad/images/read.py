"""Image files and arrays to RGB pixels, and the one resize filter between them and the network.

Everything downstream sees (H, W, 3) uint8 RGB, however the picture was stored::

    JPEG, PNG, BMP, GIF, WebP, PGM/PPM (8 bit) --convert---+
    PNG, TIFF, PGM of more than 8 bits         --stretch---+--orient--> (H, W, 3) uint8 --resize--> square
    DICOM (medvlad.images.dicom), NIfTI (medvlad.images.nifti) ----------+
    uint8 or uint16 array                      ------------+

The format is recognised by the content of a file (NIfTI by its name). What cannot be read faithfully
is refused with the name of the file: a wrong pixel is worse than a missing one.

A file may hold several images: frames of DICOM, pages of TIFF, slices of NIfTI. ``FILE#N`` is number N of
them, from 0, and stands wherever the path of an image may.

A file may be made to fill the memory. So there are limits, and what is beyond them is refused before it is
decoded::

    pixels of an image      PIL.Image.MAX_IMAGE_PIXELS, 89 million unless set, or None
    images in a file        the environment variable MEDVLAD_MAX_FRAMES, 10000 unless set
    bytes of a file         1 GiB, for PNG, JPEG, GIF, WebP, BMP and PGM
    once it is unpacked     512 MiB for deflated DICOM, 4 GiB for .nii.gz, of which 64 MiB may be header
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from medvlad._util.validate import InputError, check_choice, check_positive_int, one_line
from medvlad.images.deep_colour import read_colour
from medvlad.images.dicom import DICOM_SUFFIXES, count_dicom, is_dicom, is_dicom_file, read_dicom
from medvlad.images.frames import check_frame, max_frames, split_frame, too_many_frames
from medvlad.images.grey_levels import stretch
from medvlad.images.hashed_file import HashedFile
from medvlad.images.nifti import NIFTI_SUFFIXES, count_nifti, read_nifti

__all__ = [
    "IMAGE_SUFFIXES",
    "RESIZE_FILTERS",
    "is_image_name",
    "list_frames",
    "load_image",
    "load_image_and_key",
    "png",
    "resize_square",
]

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm", ".ppm"}
)
"""File name endings, in lower case, of images that need no extra."""

RESIZE_FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
"""Names of Pillow's resampling filters."""

# Only what is tested: Pillow would hand an EPS to Ghostscript and take the first slice of a FITS cube.
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
_FORMATS_IN_WORDS = "JPEG, PNG, TIFF, BMP, GIF, WebP or PGM/PPM"

# Grey of more than 8 bits, as Pillow calls it.
_GREY_MODES = ("F", "I", "I;16", "I;16B", "I;16L", "I;16N")
_TIFF_SUFFIXES = (".tif", ".tiff")
_MAX_FILE_BYTES = 1 << 30  # of one image; decoders of some formats take the file into memory as a whole
_EXIF_ORIENTATION = 0x0112
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 262, 339
_TIFF_UNSIGNED, _TIFF_SIGNED = 1, 2
_TIFF_MIN_IS_WHITE = 0


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image when a folder is read."""
    endings = (*IMAGE_SUFFIXES, *DICOM_SUFFIXES, *NIFTI_SUFFIXES)
    return name.lower().endswith(endings)


def list_frames(path: str | os.PathLike[str]) -> list[Path]:
    """Paths of the images of a file.

    Parameters
    ----------
    path : path

    Returns
    -------
    list of Path
        ``FILE#0``, ``FILE#1``, ... of a DICOM file of several frames, a TIFF of several pages or a NIfTI
        volume; else the path itself, also where the file is damaged or holds more images than the
        environment variable MEDVLAD_MAX_FRAMES allows (10000): reading it will tell.

    Raises
    ------
    MissingExtraError
        If the file is DICOM or NIfTI and the extra medical is not installed.
    """
    given = Path(path)
    try:
        file, frame = split_frame(given)
        name = file.name.lower()
        if frame is not None:
            return [file.with_name(f"{file.name}#{frame}")]
        if not file.is_file():  # opening a named pipe would wait for ever
            return [given]
        if name.endswith(NIFTI_SUFFIXES):
            n_frames, single = count_nifti(file), False
        elif name.endswith(_TIFF_SUFFIXES):
            with Image.open(file, formats=("TIFF",)) as image:
                n_frames = _count_pages(image, str(file))
            single = n_frames == 1
        elif is_dicom(file):
            n_frames = count_dicom(file)
            single = n_frames == 1
        else:
            return [given]
    except ImportError:
        raise
    except Exception:
        return [given]
    if single or n_frames < 1:  # where there is none, reading the file tells
        return [given]
    return [given.with_name(f"{given.name}#{i}") for i in range(n_frames)]


def load_image(source: str | os.PathLike[str] | NDArray[Any]) -> NDArray[np.uint8]:
    """Read an image as RGB pixels.

    Parameters
    ----------
    source : path, or array of uint8 or uint16 of shape (H, W), (H, W, 1) or (H, W, 3)
        A JPEG, PNG, TIFF, BMP, GIF, WebP or PGM/PPM file, DICOM or NIfTI (extra medical), or pixels that are
        grey or RGB. ``FILE#N`` is one of several images of a DICOM, TIFF or NIfTI file, see `list_frames`.

    Returns
    -------
    ndarray of shape (H, W, 3), uint8
        RGB. An array that already is of this shape and dtype is returned itself, not copied.

    Raises
    ------
    InputError
        If the file is missing, a folder, unreadable, empty, not an image, corrupt or truncated, too large
        to be decoded safely (the limits stand at the top of :mod:`medvlad.images.read`), an animation or of
        several images of which none is named, colour of more than 8 bits a channel without the extra
        medical, floating point with NaN or infinity, or less than 2 x 2 pixels; or if the array is of
        another dtype or shape.
    MissingExtraError
        If the file is DICOM or NIfTI and the extra medical is not installed.

    Notes
    -----
    Grey, 1-bit, palette and CMYK images become RGB as `PIL.Image.Image.convert` does it; transparency is
    dropped, which uncovers the colour stored beneath it. The EXIF orientation is applied. Of the several
    pictures in the multi-picture JPEG of some cameras the first is the photograph and the only one read.

    Images of more than 8 bits a channel (and uint16 arrays) are mapped linearly from their own minimum and
    maximum to 0 and 255. The file says 16 bits, but detectors deliver 10, 12 or 14 of them, and how many
    is not recorded reliably: dividing by 256 would turn a 12-bit radiograph nearly black. A constant image
    becomes zeros. A TIFF whose zero is white (photometric interpretation 0) is inverted, as Pillow does for
    8 bits but not for 16.

    Pillow keeps only the high byte of PNG and TIFF *colour* of 16 bits a channel (measured: Pillow 13), which
    loses 12-bit data; such files are read by imagecodecs and tifffile (extra medical), all channels stretched
    together. How DICOM and NIfTI become grey levels stands in :mod:`medvlad.images.dicom` and
    :mod:`medvlad.images.nifti`.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, str | os.PathLike):
        return _from_file(source, hashed=False)[0]
    raise InputError(f"an image must be a path or a NumPy array, got {type(source).__name__}: convert it")


def load_image_and_key(source: str | os.PathLike[str]) -> tuple[NDArray[np.uint8], str]:
    """Read the image of a file, as `load_image`, and the key of the very bytes that it was decoded from.

    Returns
    -------
    pixels : ndarray of shape (H, W, 3), uint8
    key : str
        What :func:`medvlad.images.hashed_file.image_key` says of these bytes, whatever the file holds by now.
    """
    return _from_file(source, hashed=True)


def resize_square(pixels: NDArray[np.uint8], side: int, method: str = "bilinear") -> NDArray[np.uint8]:
    """Resize to a square, whatever the aspect ratio, with Pillow's antialiased filters.

    When it shrinks, Pillow widens the filter to cover all pixels it replaces; OpenCV and TensorFlow do not
    unless told, and give visibly different pixels. "nearest" never antialiases.

    Parameters
    ----------
    pixels : ndarray of shape (H, W, 3), uint8
    side : int
        Width and height of the result in pixels.
    method : str, default "bilinear"
        One of `RESIZE_FILTERS`.

    Returns
    -------
    ndarray of shape (side, side, 3), uint8
        `pixels` itself, not a copy, where it has this size.

    Raises
    ------
    InputError
        If `pixels` is not (H, W, 3) uint8, `side` not a positive integer or `method` unknown.
    """
    side = check_positive_int(side, "side")
    check_choice(method, "method", RESIZE_FILTERS)
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.ndim != 3
        or pixels.shape[2] != 3
        or pixels.size == 0
    ):
        got = (
            f"{pixels.dtype} of shape {pixels.shape}"
            if isinstance(pixels, np.ndarray)
            else type(pixels).__name__
        )
        raise InputError(
            f"pixels must be uint8 of shape (height, width, 3), got {got}: read them with load_image"
        )
    if pixels.shape[:2] == (side, side):
        return pixels
    resized = Image.fromarray(pixels).resize((side, side), Image.Resampling[method.upper()])
    return np.array(resized)


def png(picture: Image.Image) -> bytes:
    """Return a picture as the content of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _from_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"an image array must be of uint8 or uint16, got {array.dtype}: scale it to 0..255 and convert "
            "it with astype('uint8')"
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise InputError(
            f"an image array must have shape (height, width), (height, width, 1) or (height, width, 3), "
            f"got {array.shape}: give one grey or RGB image with the channels last"
        )
    _check_size(array.shape[1], array.shape[0], "the image array")
    eight_bits = array if array.dtype == np.uint8 else stretch(array, "the image array")
    return _as_three_channels(eight_bits)


def _from_file(source: str | os.PathLike[str], *, hashed: bool) -> tuple[NDArray[np.uint8], str]:
    """Pixels and key of an image; the key is empty if it is not asked for."""
    name = f"image {str(Path(source))!r}"
    try:
        path, frame = split_frame(source)
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{name} is a folder: give the path of an image file in it")
        if not stat.S_ISREG(status.st_mode):  # opening a named pipe would wait for ever
            raise InputError(f"{name} is not a regular file: give the path of an image file")
        if status.st_size == 0:
            raise InputError(f"{name} is empty (0 bytes): copy it again or remove it")
        with path.open("rb") as opened:
            if not hashed:
                return _from_open_file(opened, path, frame, name), ""
            content = HashedFile(opened)
            pixels = _from_open_file(content.file, path, frame, name)
            content.check_unchanged(name)
            return pixels, content.digest if frame is None else f"{content.digest}#{frame}"
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(
            f"{name} is too large for the memory that is left, or damaged: reduce it, close other programs, "
            "or copy it again"
        ) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{name} does not exist: check the path") from error
    except PermissionError as error:
        raise InputError(f"{name} may not be read by this user: change its permissions") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise InputError(f"{name} cannot be opened ({one_line(error)}): check the path") from error


def _from_open_file(file: BinaryIO, path: Path, frame: int | None, name: str) -> NDArray[np.uint8]:
    read = _medical_reader(file, path)
    if read is None:
        return _decode(file, frame, name)
    pixels = read(file, path, frame, name, max_pixels=Image.MAX_IMAGE_PIXELS)
    _check_size(pixels.shape[1], pixels.shape[0], name)
    return _as_three_channels(pixels)


def _medical_reader(file: BinaryIO, path: Path) -> Callable[..., NDArray[np.uint8]] | None:
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        return read_nifti
    return read_dicom if is_dicom_file(path, file) else None


def _decode(file: BinaryIO, frame: int | None, name: str) -> NDArray[np.uint8]:
    n_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    # A TIFF of many pages may be large: Pillow reads what it needs of it.
    formats = _FORMATS if n_bytes <= _MAX_FILE_BYTES else ("TIFF",)
    try:
        with Image.open(file, formats=formats) as image:
            _choose_page(image, frame, name)
            _check_header(image, name)
            if _bits_a_channel(image) > 8 and image.mode not in _GREY_MODES:
                if image.mode == "CMYK":
                    raise InputError(f"{name} is CMYK of more than 8 bits a channel: convert it to RGB")
                colour = read_colour(file, frame or 0, str(image.format), name)
                if colour is None:
                    raise InputError(
                        f"{name} is colour (or grey with transparency) of more than 8 bits a channel, of "
                        "which Pillow would keep the high byte only: pip install 'medvlad[medical]', or "
                        "convert it to 8 bits or to grey"
                    )
                return _orient(stretch(colour, name), _orientation(image))
            image.load()
            pixels = _to_rgb(image, name)
            return _orient(pixels, _orientation(image))
    except (InputError, ImportError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name) from error
    except UnidentifiedImageError as error:
        if n_bytes > _MAX_FILE_BYTES:
            raise InputError(
                f"{name} has {n_bytes} bytes, and at most {_MAX_FILE_BYTES} are read but of a TIFF: reduce it"
            ) from error
        raise InputError(
            f"{name} is not an image or its beginning is damaged: replace it by a {_FORMATS_IN_WORDS} file"
        ) from error
    except Exception as error:
        # Damaged files reach Pillow's decoders with any content, and what those raise is not limited to
        # OSError: SyntaxError, struct.error, zlib.error, ValueError, IndexError, ... were seen.
        reason = one_line(error) or type(error).__name__
        raise InputError(f"{name} is corrupt or truncated ({reason}): copy it again or remove it") from error


def _check_header(image: Image.Image, name: str) -> None:
    """Refuse, before any pixel is decoded, what its header shows to be unfit."""
    # Pillow only warns between one and two times its limit, and once at that; the limit is checked here
    # so that neither the warning filters nor the order of calls decide.
    width, height = image.size
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise _too_large(name)
    _check_size(width, height, name)
    if image.mode in _GREY_MODES:
        return
    if image.format == "TIFF" and _tiff_tag(image, _TIFF_SAMPLE_FORMAT, _TIFF_UNSIGNED) == _TIFF_SIGNED:
        raise InputError(f"{name} is a TIFF of signed 8-bit numbers: convert it to unsigned or to 16 bits")


def _choose_page(image: Image.Image, frame: int | None, name: str) -> None:
    """Turn to the page that is asked for; refuse animations, and several pages of which none is named."""
    if image.format == "TIFF":
        if frame is None or frame >= max_frames():
            check_frame(frame, _count_pages(image, name), name)
        try:
            image.seek(frame or 0)
        except EOFError:
            check_frame(frame, _count_pages(image, name), name)
        return
    check_frame(frame, 1, name)
    # Whether, not how many: Pillow reads a GIF to its end to count them.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise InputError(
            f"{name} holds several frames of an animation: save the one that is meant as a file of its own"
        )


def _count_pages(image: Image.Image, name: str) -> int:
    """How many pages a TIFF has; Pillow's time for them grows with their square, so not beyond the limit."""
    for page in range(1, max_frames() + 1):
        try:
            image.seek(page)  # one by one: after a longer step Pillow miscounts them
        except EOFError:
            return page
    raise too_many_frames(name)


def _check_size(width: int, height: int, name: str) -> None:
    if width < 2 or height < 2:
        raise InputError(
            f"{name} has {width} x {height} pixels (width x height): an image needs at least 2 x 2, remove it"
        )


def _too_large(name: str) -> InputError:
    return InputError(
        f"{name} has more pixels than are safe to decode (over {Image.MAX_IMAGE_PIXELS}): reduce it, or "
        "raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    )


def _bits_a_channel(image: Image.Image) -> int:
    """Bits a channel as stored, for the formats where Pillow's 8-bit modes may hide more."""
    if image.format == "TIFF":
        return _tiff_tag(image, _TIFF_BITS, 1)
    if isinstance(image, ImageFile.ImageFile) and image.format == "PNG" and image.tile:
        # The raw mode of a PNG, last in its tile, names the depth: "RGB;16B".
        return 16 if ";16" in str(image.tile[0][3]) else 8
    return 8


def _tiff_tag(image: Image.Image, tag: int, default: int) -> int:
    """Largest value of a TIFF tag."""
    tags: Any = getattr(image, "tag_v2", {})
    value = tags.get(tag, default)
    return int(max(value)) if isinstance(value, tuple) else int(value)


def _to_rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    if image.mode in _GREY_MODES:
        values: NDArray[Any] = np.asarray(image)
        inverted = False
        if image.format == "TIFF":
            # Pillow reads unsigned 32-bit numbers as signed ones.
            unsigned = _tiff_tag(image, _TIFF_SAMPLE_FORMAT, _TIFF_UNSIGNED) == _TIFF_UNSIGNED
            if unsigned and values.dtype == np.int32:
                values = values.view(np.uint32)
            inverted = _tiff_tag(image, _TIFF_PHOTOMETRIC, 1) == _TIFF_MIN_IS_WHITE
        grey = stretch(values, name)
        return _as_three_channels(255 - grey if inverted else grey)
    # A palette with several transparent entries makes convert warn that it cannot keep them: nor should it.
    image.info.pop("transparency", None)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _as_three_channels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded image, 1 to 8; 1 (upright) where it is not given or not legible.

    Pillow turns a TIFF while it loads it and removes the tag, so that it reads as 1 here.
    """
    try:
        value: Any = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels, which have been decoded
        return 1
    return int(value) if value in range(1, 9) else 1


def _orient(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn stored pixels upright. 5 to 8 are transposed first."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
