"""Read image files and arrays as RGB pixels.

Everything downstream gets (H, W, 3) uint8 RGB, whatever the image was stored as::

    JPEG, PNG, BMP, GIF, WebP, PGM/PPM (8 bit) --convert---+
    PNG, TIFF, PGM of more than 8 bits         --stretch---+--orient--> (H, W, 3) uint8 --resize--> square
    DICOM (medvlad.images.dicom), NIfTI (medvlad.images.nifti) ----------+
    uint8 or uint16 array                      ------------+

The content of a file tells its format, except that NIfTI is known by its name. A file that cannot be read
faithfully is refused with its name: a wrong pixel is worse than a missing one.

A file may hold several images: frames of DICOM, pages of TIFF, slices of NIfTI. ``FILE#N`` is image N of a
file, counted from 0, and may be used wherever the path of an image is expected.

A small file can be made to fill the memory when it is decoded. These limits are checked before decoding:

==========================  ==========================================================================
Pixels of an image          ``PIL.Image.MAX_IMAGE_PIXELS``: 89 million by default, None for no limit
Images in a file            environment variable ``MEDVLAD_MAX_FRAMES``: 10000 by default
Bytes of a file             1 GiB for PNG, JPEG, GIF, WebP, BMP and PGM/PPM
Bytes after decompression   512 MiB for deflated DICOM; 4 GiB for .nii.gz, 64 MiB of them header
==========================  ==========================================================================
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from medvlad._util.validate import InputError, check_local, one_line
from medvlad.images.deep_colour import read_colour
from medvlad.images.dicom import count_dicom, is_dicom, is_dicom_file, read_dicom
from medvlad.images.formats import FORMATS_IN_WORDS, PILLOW_FORMATS, TIFF_SUFFIXES
from medvlad.images.frames import choose_page, count_pages, split_frame
from medvlad.images.grey_levels import stretch
from medvlad.images.hashed_file import HashedFile
from medvlad.images.nifti import NIFTI_SUFFIXES, count_nifti, read_nifti
from medvlad.images.to_rgb import (
    GREY_MODES,
    as_three_channels,
    bits_a_channel,
    check_header,
    check_size,
    exif_orientation,
    to_rgb,
    too_many_pixels,
    turn_upright,
)

__all__ = ["list_frames", "load_image", "load_image_and_key"]

_MAX_FILE_BYTES = 1 << 30  # of one image; the decoders of some formats read the whole file into memory


def list_frames(path: str | os.PathLike[str]) -> list[Path]:
    """List the images of a file.

    Parameters
    ----------
    path : path

    Returns
    -------
    list of Path
        ``FILE#0``, ``FILE#1``, ... for a DICOM file of several frames, a TIFF of several pages or a NIfTI
        volume. Otherwise `path` alone; also if the file is damaged or holds more images than the environment
        variable MEDVLAD_MAX_FRAMES allows (default 10000), so that reading it reports the reason.

    Raises
    ------
    MissingExtraError
        If the file is DICOM or NIfTI and the extra medical is not installed.
    """
    given = check_local(path, "the image")
    try:
        file, frame = split_frame(given)
        name = file.name.lower()
        if frame is not None:
            return [file.with_name(f"{file.name}#{frame}")]
        if not file.is_file():  # opening a named pipe would block
            return [given]
        if name.endswith(NIFTI_SUFFIXES):
            n_frames, single = count_nifti(file), False
        elif name.endswith(TIFF_SUFFIXES):
            with Image.open(file, formats=("TIFF",)) as image:
                n_frames = count_pages(image, str(file))
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
    if single or n_frames < 1:  # a file without images: reading it reports the error
        return [given]
    return [given.with_name(f"{given.name}#{i}") for i in range(n_frames)]


def load_image(source: str | os.PathLike[str] | NDArray[Any]) -> NDArray[np.uint8]:
    """Read an image as RGB pixels.

    Parameters
    ----------
    source : path, or array of uint8 or uint16 of shape (H, W), (H, W, 1) or (H, W, 3)
        A JPEG, PNG, TIFF, BMP, GIF, WebP or PGM/PPM file, a DICOM or NIfTI file (extra medical), or grey or
        RGB pixels. ``FILE#N`` is one of several images of a DICOM, TIFF or NIfTI file, see `list_frames`.

    Returns
    -------
    ndarray of shape (H, W, 3), uint8
        RGB. An array that already has this shape and dtype is returned itself, not a copy.

    Raises
    ------
    InputError
        If the file is missing, a folder, unreadable, empty, not an image, corrupt or truncated, or exceeds a
        limit of :mod:`medvlad.images.read`. If it is an animation, or holds several images and none is named.
        If it holds colour of more than 8 bits a channel and the extra medical is not installed, NaN or
        infinity, or less than 2 x 2 pixels. If an array has another dtype or shape.
    MissingExtraError
        If the file is DICOM or NIfTI and the extra medical is not installed.

    Notes
    -----
    Grey, 1-bit, palette and CMYK images become RGB as in `PIL.Image.Image.convert`. Transparency is dropped,
    which shows the colour stored beneath it. The EXIF orientation is applied. Some cameras write several
    pictures into one JPEG; only the first, the photograph, is read.

    Images of more than 8 bits a channel (and uint16 arrays) are mapped linearly from their own minimum and
    maximum to 0 and 255. Such files claim 16 bits, but detectors deliver 10, 12 or 14, and files do not
    reliably record which. Dividing by 256 would turn a 12-bit radiograph nearly black. A constant image
    becomes zeros. A TIFF with photometric interpretation 0 (zero is white) is inverted; Pillow does this for
    8 bits but not for 16.

    Pillow keeps only the high byte of 16-bit colour in PNG and TIFF (measured with Pillow 13), which destroys
    12-bit data. Such files are read by imagecodecs and tifffile (extra medical), and all channels are
    stretched together. :mod:`medvlad.images.dicom` and :mod:`medvlad.images.nifti` describe how their files
    become grey levels.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, str | os.PathLike):
        return _from_file(source, hashed=False)[0]
    raise InputError(f"an image must be a path or a NumPy array, got {type(source).__name__}: convert it")


def load_image_and_key(source: str | os.PathLike[str]) -> tuple[NDArray[np.uint8], str]:
    """Read the image of a file, and the key of the bytes that were decoded.

    Parameters
    ----------
    source : path
        As in `load_image`.

    Returns
    -------
    pixels : ndarray of shape (H, W, 3), uint8
    key : str
        The :func:`medvlad.images.hashed_file.image_key` of the decoded bytes, even if the file has changed
        since then.

    Raises
    ------
    InputError
        If `load_image` would raise one, or if a large file changes while it is read.
    MissingExtraError
        If the file is DICOM or NIfTI and the extra medical is not installed.
    """
    return _from_file(source, hashed=True)


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
    check_size(array.shape[1], array.shape[0], "the image array")
    eight_bits = array if array.dtype == np.uint8 else stretch(array, "the image array")
    return as_three_channels(eight_bits)


def _from_file(source: str | os.PathLike[str], *, hashed: bool) -> tuple[NDArray[np.uint8], str]:
    """Return the pixels and the key of an image. The key is empty if `hashed` is false."""
    name = f"image {str(Path(source))!r}"
    try:
        path, frame = split_frame(source)
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{name} is a folder: give the path of an image file in it")
        if not stat.S_ISREG(status.st_mode):  # opening a named pipe would block
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
            f"{name} does not fit into the free memory, or is damaged: reduce it, close other programs, "
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
    check_size(pixels.shape[1], pixels.shape[0], name)
    return as_three_channels(pixels)


def _medical_reader(file: BinaryIO, path: Path) -> Callable[..., NDArray[np.uint8]] | None:
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        return read_nifti
    return read_dicom if is_dicom_file(path, file) else None


def _decode(file: BinaryIO, frame: int | None, name: str) -> NDArray[np.uint8]:
    n_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    # A TIFF of many pages may be large, because Pillow reads only the parts that it needs.
    formats = PILLOW_FORMATS if n_bytes <= _MAX_FILE_BYTES else ("TIFF",)
    try:
        with Image.open(file, formats=formats) as image:
            choose_page(image, frame, name)
            check_header(image, name)
            if bits_a_channel(image) > 8 and image.mode not in GREY_MODES:
                if image.mode == "CMYK":
                    raise InputError(f"{name} is CMYK of more than 8 bits a channel: convert it to RGB")
                colour = read_colour(file, frame or 0, str(image.format), name)
                if colour is None:
                    raise InputError(
                        f"{name} is colour (or grey with transparency) of more than 8 bits a channel, and "
                        "Pillow keeps only the high byte of it: pip install 'medvlad[medical]', or "
                        "convert it to 8 bits or to grey"
                    )
                return turn_upright(stretch(colour, name), exif_orientation(image))
            image.load()
            pixels = to_rgb(image, name)
            return turn_upright(pixels, exif_orientation(image))
    except (InputError, ImportError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_many_pixels(name) from error
    except UnidentifiedImageError as error:
        if n_bytes > _MAX_FILE_BYTES:
            raise InputError(
                f"{name} has {n_bytes} bytes, and only a TIFF may have more than {_MAX_FILE_BYTES}: reduce it"
            ) from error
        raise InputError(
            f"{name} is not an image or its beginning is damaged: replace it by a {FORMATS_IN_WORDS} file"
        ) from error
    except Exception as error:
        # Damaged files give Pillow's decoders arbitrary content. They were seen to raise SyntaxError,
        # struct.error, zlib.error, ValueError and IndexError, not only OSError.
        reason = one_line(error) or type(error).__name__
        raise InputError(f"{name} is corrupt or truncated ({reason}): copy it again or remove it") from error
