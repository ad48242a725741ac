"""Read image files and arrays as RGB pixels.

Everything downstream gets (H, W, 3) uint8 RGB, whatever the image was stored as::

    JPEG, PNG, BMP, GIF, WebP, PGM/PPM (8 bit) --convert---+
    PNG, TIFF, PGM/PPM of more than 8 bits     --stretch---+--orient--> (H, W, 3) uint8 --resize--> square
    DICOM (medvlad.images.dicom), NIfTI (medvlad.images.nifti) ----------+
    uint8 or uint16 array                      ------------+

:mod:`medvlad.images.tiff` decides which decoder reads a TIFF. JPEG 2000 and AVIF are read if Pillow was built
with them.

The content of a file tells its format, except that NIfTI is known by its name. A file that cannot be read
faithfully is refused with its name: a wrong pixel is worse than a missing one.

A file may hold several images: frames of DICOM, pages of TIFF, slices of NIfTI. ``FILE#N`` is image N of a
file, counted from 0, and may be used wherever the path of an image is expected. If another file has the
literal name ``FILE#N``, a warning is logged. Use ``FILE#N#0`` for that other file.
:mod:`medvlad.images.tiff_pages` says which pages of a TIFF are images.

A small file can be made to fill the memory when it is decoded. These limits are checked before decoding:

==========================  ==========================================================================
Pixels of an image          ``PIL.Image.MAX_IMAGE_PIXELS``: 89 million by default, None for no limit
Images in a file            environment variable ``MEDVLAD_MAX_FRAMES``: 10000 by default
Bytes of a file             1 GiB for PNG, JPEG, GIF, WebP, BMP and PGM/PPM
Bytes after decompression   512 MiB for deflated DICOM; 4 GiB for .nii.gz, 64 MiB of them header
==========================  ==========================================================================
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from medvlad._util.choices import ColourProfile
from medvlad._util.counters import count
from medvlad._util.library_warnings import reads_file
from medvlad._util.object_path import check_reached, failure_of, location
from medvlad._util.validate import InputError, check_choice, one_line
from medvlad.images.colour_profile import COLOUR_PROFILES, to_srgb
from medvlad.images.damage import damage_sentence, find_damage
from medvlad.images.dicom import count_dicom, is_dicom_file, read_dicom
from medvlad.images.formats import FORMATS_IN_WORDS, PILLOW_FORMATS, unsupported
from medvlad.images.frames import check_frame, frame_name, split_frame, warn_of_namesake
from medvlad.images.given import array_of, content_of, is_content, opened, pixels_of_array, pixels_of_pillow
from medvlad.images.hashed_file import HashedFile
from medvlad.images.nifti import NIFTI_SUFFIXES, count_nifti, read_nifti
from medvlad.images.picture import Picture, decode_with_pillow, one_for_each
from medvlad.images.signatures import SIGNATURE_BYTES, image_kind, unusual_jpeg
from medvlad.images.tiff import pillow_reads, read_tiff_image
from medvlad.images.tiff_pages import count_tiff_images, find_tiff_image, with_first_page
from medvlad.images.to_rgb import as_three_channels, check_size, too_many_pixels

__all__ = ["ReadImage", "frames_of_file", "list_frames", "load_image", "read_image"]

logger = logging.getLogger(__name__)

_MAX_FILE_BYTES = 1 << 30  # of one image; the decoders of some formats read the whole file into memory


@reads_file
def list_frames(path: str | os.PathLike[str]) -> list[Path]:
    """List the images of a file.

    Parameters
    ----------
    path : path

    Returns
    -------
    list of Path
        ``FILE#0``, ``FILE#1``, ... for a DICOM file of several frames, a TIFF of several images or a NIfTI
        volume, recognised by their content (NIfTI by its name). Otherwise `path` alone; also if the file is
        damaged or holds more images than the environment variable MEDVLAD_MAX_FRAMES allows (default 10000),
        so that reading it reports the reason.

        Reduced copies, thumbnails and masks in a TIFF are not counted, see
        :mod:`medvlad.images.tiff_pages`.

    Raises
    ------
    MissingExtraError
        If the file is DICOM or NIfTI and the extra medical is not installed.
    """
    given = location(path, "the image")
    try:
        file, frame = split_frame(given)
    except (OSError, ValueError):  # a name that no file can have; reading it reports the error
        return [given]
    if frame is None:
        return frames_of_file(given)
    warn_of_namesake(file, frame)
    return [frame_name(file, frame)]


@reads_file
def frames_of_file(file: Path) -> list[Path]:
    """List the images of a file whose own name may end in ``#N``.

    `list_frames` takes such a name for image N of another file, if that exists. This function is for files
    that were found in a folder.

    Parameters
    ----------
    file : Path

    Returns
    -------
    list of Path
        As `list_frames`. ``NAME#N#0`` instead of ``NAME#N`` if that would be image N of a file ``NAME``.

    Raises
    ------
    MissingExtraError, InputError
        If the file is DICOM or NIfTI and the extra medical is not installed; if the storage fails.
    """
    alone = [file]
    try:
        if not file.is_file():  # opening a named pipe would block
            return alone
        if split_frame(file)[1] is not None:
            alone = [frame_name(file, 0)]
        with file.open("rb") as opened:
            kind = _kind(opened, file)
            n_frames = count_tiff_images(opened, str(file)) if kind == "TIFF" else 1
        if kind == "DICOM":
            n_frames = count_dicom(file)
        elif kind == "NIfTI":
            n_frames = count_nifti(file)
    except ImportError:
        raise
    except Exception as error:
        check_reached(file, error)
        return alone
    if n_frames < 1 or (n_frames == 1 and kind != "NIfTI"):  # reading a file without images reports the error
        return alone
    for frame in range(n_frames):
        warn_of_namesake(file, frame)
    return [frame_name(file, frame) for frame in range(n_frames)]


@dataclass(frozen=True)
class ReadImage:
    """An image that was read.

    Attributes
    ----------
    pictures : tuple of Picture
        One picture, or one for each side that was asked for.
    key : str
        The :func:`medvlad.images.hashed_file.image_key` of the bytes that were decoded, even if the file has
        changed since then. Empty if it was not asked for.
    damage : str
        Sentence about damage of its JPEG data, see :mod:`medvlad.images.damage`. Empty if none was found.
    """

    pictures: tuple[Picture, ...]
    key: str = ""
    damage: str = ""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Pixels of shape (H, W, 3), uint8."""
        return self.pictures[0].array()

    def squares(self, sides: Sequence[int], method: str) -> list[NDArray[np.uint8]]:
        """Return a square for each side. The sides are those that were asked for, if there were any."""
        pictures = self.pictures if len(self.pictures) == len(sides) else self.pictures[:1] * len(sides)
        return [one.square(side, method) for one, side in zip(pictures, sides, strict=True)]


@dataclass(frozen=True)
class _How:
    """How a file is read: two parameters of `read_image`."""

    colour_profile: str
    sides: tuple[int, ...]


def load_image(
    source: Any,
    *,
    on_damage: Literal["warn", "raise", "ignore"] = "warn",
    colour_profile: ColourProfile = "ignore",
) -> NDArray[np.uint8]:
    """Read an image as RGB pixels.

    Parameters
    ----------
    source : path, URL, bytes, binary file, PIL.Image.Image, or array
        A JPEG, PNG, TIFF, BMP, GIF, WebP, PGM/PPM, JPEG 2000 or AVIF file, or a DICOM or NIfTI file (extra
        medical). ``FILE#N`` is one of several images of a DICOM, TIFF or NIfTI file, see `list_frames`. Or
        grey or RGB pixels: an array of uint8 or uint16 of shape (H, W), (H, W, 1) or (H, W, 3), see
        `medvlad.images.given`.
    on_damage : {"warn", "raise", "ignore"}, default="warn"
        What to do with an image whose JPEG data is damaged although it can be decoded, see
        :mod:`medvlad.images.damage`. "warn": log a warning and return the pixels. "raise": raise an
        InputError. "ignore": return the pixels, for pictures that a person looks at.
    colour_profile : {"ignore", "srgb"}, default="ignore"
        What to do with the ICC profile of a file. "srgb": convert the colours to sRGB, see
        :mod:`medvlad.images.colour_profile`.

    Returns
    -------
    ndarray of shape (H, W, 3), uint8
        RGB. An array that already has this shape and dtype is returned itself, not a copy.

    Raises
    ------
    InputError
        If the file is missing, a folder, unreadable, empty, not an image, corrupt or truncated, or exceeds a
        limit of :mod:`medvlad.images.read`. If it is an animation, or holds several images and none is named.
        If it is of a format or encoding that is not read, or that needs the extra medical; the message names
        it. If it holds NaN or infinity, or less than 2 x 2 pixels. If an array has another dtype or shape.
        If JPEG data is damaged and ``on_damage="raise"``. If a colour profile cannot be used and
        ``colour_profile="srgb"``.
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
    becomes zeros.

    Pillow keeps only the high byte of 16-bit colour in PNG, PPM, TIFF and JPEG 2000 (measured with Pillow
    13), which destroys 12-bit data. Such files are read by imagecodecs and tifffile (extra medical; not
    needed for PPM), and all channels are stretched together. :mod:`medvlad.images.tiff`,
    :mod:`medvlad.images.dicom` and :mod:`medvlad.images.nifti` describe how their files become grey levels.
    """
    check_choice(on_damage, "on_damage", ("warn", "raise", "ignore"))
    if isinstance(source, Image.Image):
        return pixels_of_pillow(source)
    if not (isinstance(source, str | os.PathLike) or is_content(source)):
        array = array_of(source)
        if array is not None:
            return pixels_of_array(array)
        raise InputError(
            f"an image must be a path, bytes, a binary file, a Pillow image or an array, got "
            f"{type(source).__name__}: convert it"
        )
    image = read_image(source, hashed=False, colour_profile=colour_profile)
    if image.damage and on_damage == "raise":
        raise InputError(image.damage)
    if image.damage and on_damage == "warn":
        logger.warning("%s", image.damage)
    return image.pixels


def read_image(
    source: Any, *, hashed: bool, colour_profile: str = "ignore", sides: Sequence[int] = ()
) -> ReadImage:
    """Read the image of a file, the key of the bytes that were decoded, and what is wrong with them.

    Parameters
    ----------
    source : path, bytes or binary file
        As in `load_image`.
    hashed : bool
        Whether to compute the key.
    colour_profile : {"ignore", "srgb"}, default="ignore"
        As in `load_image`.
    sides : sequence of int, default=()
        Sides of the squares that will be made of the image. JPEG files are then decoded at reduced size, see
        :mod:`medvlad.images.picture`. Empty: at full size.

    Returns
    -------
    ReadImage

    Raises
    ------
    InputError
        If `load_image` would raise one, except for damage; or if a large file changes while it is read and
        `hashed` is true. StorageFailure if object storage fails.
    MissingExtraError
        If the file is DICOM or NIfTI and the extra medical is not installed.
    """
    check_choice(colour_profile, "colour_profile", COLOUR_PROFILES)
    how = _How(colour_profile, tuple(sides))
    if not is_content(source):
        return _from_file(source, hashed=hashed, how=how)
    content, given = content_of(source)
    file, path, name = opened(content, given)
    if not content:
        raise InputError(f"{name} is empty (0 bytes): give the content of an image file")
    key = hashlib.sha256(content).hexdigest() if hashed else ""
    return replace(_decoded(file, path, None, name, how), key=key)


@reads_file
def _from_file(source: str | os.PathLike[str], *, hashed: bool, how: _How) -> ReadImage:
    name = f"image {str(given := location(source, 'the image'))!r}"
    try:
        path, frame = split_frame(source)
        if frame is not None:
            warn_of_namesake(path, frame)
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{name} is a folder: give the path of an image file in it")
        if not stat.S_ISREG(status.st_mode):  # opening a named pipe would block
            raise InputError(f"{name} is not a regular file: give the path of an image file")
        if status.st_size == 0:
            raise InputError(f"{name} is empty (0 bytes): copy it again or remove it")
        count("bytes_read", max(status.st_size, 0))
        with path.open("rb") as opened:
            content = HashedFile(opened) if hashed else None
            file = opened if content is None else content.file
            try:
                image = _decoded(file, path, frame, name, how)
            except Exception:
                check_reached(given, failure_of(opened))
                if content is not None:
                    content.check_unchanged(name)  # half of a new content often looks damaged
                raise
            if content is None:
                return image
            content.check_unchanged(name)
            return replace(image, key=content.digest if frame is None else f"{content.digest}#{frame}")
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(
            f"{name} does not fit into the free memory, or is damaged: reduce it, close other programs, "
            "or copy it again"
        ) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{name} does not exist: check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        check_reached(given, error)
        denied = f"{name} may not be read by this user: change its permissions"
        unopened = f"{name} cannot be opened ({one_line(error)}): check the path"
        raise InputError(denied if isinstance(error, PermissionError) else unopened) from error


def _decoded(file: BinaryIO, path: Path, frame: int | None, name: str, how: _How) -> ReadImage:
    """Return the image of an open file, without its key."""
    kind = _kind(file, path)
    pictures = one_for_each(how.sides or (0,), partial(_from_open_file, file, path, kind, frame, name))
    reason = find_damage(file, path, frame)
    if how.colour_profile == "srgb" and kind not in ("DICOM", "NIfTI"):
        pictures = tuple(
            replace(one, content=to_srgb(file, frame, one.array(), name, divisor=one.divisor))
            for one in pictures
        )
    return ReadImage(pictures, damage=damage_sentence(name, reason) if reason else "")


def _from_open_file(
    file: BinaryIO, path: Path, kind: str | None, frame: int | None, name: str, side: int
) -> Picture:
    if kind == "DICOM":
        pixels = read_dicom(file, path, frame, name, max_pixels=Image.MAX_IMAGE_PIXELS)
    elif kind == "NIfTI":
        pixels = read_nifti(file, frame, name, max_pixels=Image.MAX_IMAGE_PIXELS)
    else:
        return _decode(file, kind, frame, name, side)
    check_size(pixels.shape[1], pixels.shape[0], name)
    return Picture(as_three_channels(pixels))


def _kind(file: BinaryIO, path: Path) -> str | None:
    """Return the format of an open file: "DICOM", "NIfTI", or that of `image_kind`."""
    if is_dicom_file(path, file):
        return "DICOM"
    file.seek(0)
    kind = image_kind(file.read(SIGNATURE_BYTES))
    return "NIfTI" if kind is None and path.name.lower().endswith(NIFTI_SUFFIXES) else kind


def _decode(file: BinaryIO, kind: str | None, frame: int | None, name: str, side: int) -> Picture:
    reason = unsupported(kind)
    if reason is not None:
        raise InputError(f"{name} {reason}")
    n_bytes = file.seek(0, os.SEEK_END)
    # A TIFF of many pages may be large, because only the parts that are needed are read.
    if n_bytes > _MAX_FILE_BYTES and kind != "TIFF":
        raise InputError(
            f"{name} has {n_bytes} bytes, and only a TIFF may have more than {_MAX_FILE_BYTES}: reduce it"
        )
    try:
        if kind == "TIFF":
            return _decode_tiff(file, frame, name)
        file.seek(0)
        with Image.open(file, formats=PILLOW_FORMATS) as image:
            _check_single(image, frame, name)
            return decode_with_pillow(image, file, name, side)
    except (InputError, ImportError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_many_pixels(name) from error
    except UnidentifiedImageError as error:
        unusual = unusual_jpeg(file) if kind == "JPEG" else None
        if unusual is not None:
            raise InputError(
                f"{name} is {unusual}, which is read inside DICOM only: convert it to a 16-bit PNG"
            ) from error
        if kind == "TIFF":
            raise InputError(
                f"{name} is a TIFF that Pillow does not read, or its header is damaged: convert it, or copy "
                "it again"
            ) from error
        raise InputError(
            f"{name} is not an image or its beginning is damaged: replace it by a {FORMATS_IN_WORDS} file"
        ) from error
    except Exception as error:
        # Damaged files give Pillow's decoders arbitrary content. They were seen to raise SyntaxError,
        # struct.error, zlib.error, ValueError and IndexError, not only OSError.
        reason = one_line(error) or type(error).__name__
        raise InputError(f"{name} is corrupt or truncated ({reason}): copy it again or remove it") from error


def _decode_tiff(file: BinaryIO, frame: int | None, name: str) -> Picture:
    found = find_tiff_image(file, frame, name)
    if found.position is not None or not pillow_reads(found.page):
        return Picture(read_tiff_image(file, found, name, max_pixels=Image.MAX_IMAGE_PIXELS))
    with Image.open(with_first_page(file, found.page), formats=("TIFF",)) as image:
        return decode_with_pillow(image, file, name, 0)


def _check_single(image: Image.Image, frame: int | None, name: str) -> None:
    """Refuse an animation, and the number of an image in a file that holds only one."""
    check_frame(frame, 1, name)
    # is_animated stops at the second frame; n_frames would read a GIF to its end. The further pictures of an
    # MPO are previews, not frames.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise InputError(
            f"{name} holds several frames of an animation: save the frame that you need as a file of its own"
        )
