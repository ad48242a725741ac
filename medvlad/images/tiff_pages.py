"""Find the images of a TIFF file, from its directories alone.

A directory is the header of a page. Not every page is an image, and not every image has a page:

- Reduced copies (bit 0 of NewSubfileType, or 2 in the old SubfileType) and masks (bit 2) are not images. Nor
  are thumbnails in sub-directories. If a file has no other pages, the full-size images of its sub-directories
  are its images (camera files begin with a preview), or else the reduced copies.
- ImageJ writes a stack of more than 4 GiB with one directory, and tifffile does the same on demand. The
  description tells the number of images, which follow each other without compression. MetaMorph's stacks have
  a tag for it.
- A page may be a volume (ImageDepth). Each of its slices is an image.

Pillow refuses the header of an image that it cannot decode, and tifffile is an extra. So the directories are
read here, in one pass: Pillow's own pass takes a time that grows with the square of the number of pages.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from medvlad._util.validate import InputError
from medvlad.images.frames import check_frame, max_frames, too_many_frames

__all__ = ["TiffDirectory", "TiffImage", "count_tiff_images", "find_tiff_image", "with_first_page"]

_log = logging.getLogger(__name__)

NEW_SUBFILE_TYPE, OLD_SUBFILE_TYPE, SUB_DIRECTORIES = 254, 255, 330
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
DESCRIPTION, STRIP_OFFSETS, SAMPLES, STRIP_BYTES, PLANAR = 270, 273, 277, 279, 284
DEPTH, METAMORPH_PLANES = 32997, 33629

_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_OLD_REDUCED = 2
_MASK_PHOTOMETRIC = 4
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_TEXT = (1, 2, 7)  # types that hold bytes
_MAX_VALUES = 1 << 20  # of one tag
_MAX_ENTRIES = 4096  # of one directory
_DIRECTORIES_AN_IMAGE = 8  # a pyramid has several directories for each image


@dataclass(frozen=True)
class _Layout:
    """Sizes and byte order of the numbers in a directory."""

    order: str
    n_entries: struct.Struct
    entry: struct.Struct
    offset: struct.Struct

    @classmethod
    def of(cls, beginning: bytes) -> _Layout:
        order = "<" if beginning[:2] == b"II" else ">"
        if b"+" in beginning[2:4]:  # BigTIFF
            return cls(order, *(struct.Struct(order + code) for code in ("Q", "HHQ8s", "Q")))
        return cls(order, *(struct.Struct(order + code) for code in ("H", "HHI4s", "I")))

    @property
    def first_at(self) -> int:
        """Position of the first directory's offset in the file."""
        return self.offset.size


class TiffDirectory:
    """Tags of one page.

    Parameters
    ----------
    file : binary file
    layout : _Layout
    offset : int
        Position in the file.

    Attributes
    ----------
    order : {"<", ">"}
        Byte order of the file.
    is_big : bool
        Whether the file is a BigTIFF.
    offset : int
    next : int
        Position of the next directory. 0: this is the last.

    Raises
    ------
    ValueError
        If the file ends before the directory does.
    """

    def __init__(self, file: BinaryIO, layout: _Layout, offset: int) -> None:
        self._file, self._layout = file, layout
        self.order, self.offset = layout.order, offset
        self.is_big = layout.offset.size == 8
        file.seek(offset)
        head = file.read(layout.n_entries.size)
        if len(head) < layout.n_entries.size:
            raise ValueError(f"a directory at byte {offset} lies behind the end of the file")
        n_entries = layout.n_entries.unpack(head)[0]
        if n_entries > _MAX_ENTRIES:
            raise ValueError(f"the directory at byte {offset} claims {n_entries} tags")
        body = file.read(n_entries * layout.entry.size + layout.offset.size)
        end = n_entries * layout.entry.size
        if len(body) < end:
            raise ValueError(f"the directory at byte {offset} is cut off")
        self._entries = {entry[0]: entry[1:] for entry in layout.entry.iter_unpack(body[:end])}
        # Some programs leave the offset of the next directory out at the end of the file.
        self.next = layout.offset.unpack(body[end:])[0] if len(body) > end + layout.offset.size - 1 else 0

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return the integers of a tag. Empty if it is missing or of another type."""
        kind, count, _ = self._entries.get(tag, (0, 0, b""))
        code = _INTEGERS.get(kind)
        if code is None or count == 0:
            return ()
        if count > _MAX_VALUES:
            raise ValueError(f"tag {tag} claims {count} values")
        values = struct.Struct(f"{self.order}{count}{code}")
        return values.unpack(self._bytes(tag, values.size))

    def number(self, tag: int, default: int) -> int:
        """Return the first integer of a tag."""
        found = self.numbers(tag)
        return found[0] if found else default

    def count(self, tag: int) -> int:
        """Return the number of values of a tag, 0 if it is missing."""
        return int(self._entries.get(tag, (0, 0, b""))[1])

    def text(self, tag: int) -> bytes:
        """Return the bytes of a tag. Empty if it is missing or holds numbers."""
        kind, count, _ = self._entries.get(tag, (0, 0, b""))
        if kind not in _TEXT or count > _MAX_VALUES:
            return b""
        return self._bytes(tag, count)

    def _bytes(self, tag: int, size: int) -> bytes:
        inline: bytes = self._entries[tag][2]
        if size <= len(inline):
            return inline[:size]
        self._file.seek(self._layout.offset.unpack(inline)[0])
        found = self._file.read(size)
        if len(found) < size:
            raise ValueError(f"the values of tag {tag} lie behind the end of the file")
        return found

    @property
    def is_mask(self) -> bool:
        """Whether the page is a transparency mask of another."""
        kind = self.number(NEW_SUBFILE_TYPE, 0)
        return bool(kind & _MASK) or self.number(PHOTOMETRIC, 0) == _MASK_PHOTOMETRIC

    @property
    def is_full_size(self) -> bool:
        """Whether the page is an image, and no mask or reduced copy of another."""
        reduced = self.number(NEW_SUBFILE_TYPE, 0) & _REDUCED
        return not (reduced or self.number(OLD_SUBFILE_TYPE, 0) == _OLD_REDUCED or self.is_mask)


@dataclass(frozen=True)
class TiffImage:
    """One image of a TIFF file.

    Attributes
    ----------
    page : TiffDirectory
    position : int or None
        Number of the image in a stack without pages or in a volume, from 0. None: the page is the image.
    """

    page: TiffDirectory
    position: int | None = None


def count_tiff_images(file: BinaryIO, name: str) -> int:
    """Return the number of images in an open TIFF file.

    Raises
    ------
    InputError
        If it exceeds :func:`medvlad.images.frames.max_frames`.
    ValueError
        If a directory is damaged.
    """
    n_images = 0
    for _ in _images(file, name):
        n_images += 1
        if n_images > max_frames():
            raise too_many_frames(name)
    return n_images


def find_tiff_image(file: BinaryIO, frame: int | None, name: str) -> TiffImage:
    """Return an image of an open TIFF file.

    Parameters
    ----------
    file : binary file
    frame : int or None
        Number of the image, from 0. None: the only image.
    name : str
        How errors name the image.

    Raises
    ------
    InputError
        If there is no image, if the image does not exist, or if `frame` is None and there are several.
    ValueError
        If a directory is damaged.
    """
    n_images, found = 0, None
    for image in _images(file, name):
        if n_images == (frame or 0):
            found = image
            if frame is not None and frame < max_frames():
                return image
        n_images += 1
        if n_images > max_frames():
            raise too_many_frames(name)
    check_frame(frame, n_images, name)
    if found is None:
        raise InputError(f"{name} is a TIFF without an image (only masks, or no page): remove it")
    return found


def _images(file: BinaryIO, name: str) -> Iterator[TiffImage]:
    others: list[int] = []
    found = False
    for number, page in enumerate(_directories(file, name)):
        if page.is_full_size:
            found = True
            n_images = _stack_size(page, file, name, is_alone=number == 0 and page.next == 0)
            if n_images == 1:
                yield TiffImage(page)
            else:
                yield from (TiffImage(page, position) for position in range(n_images))
            if number == 0 and page.text(DESCRIPTION).startswith(b"Aperio"):
                return  # slide scanners: its reduced copies are not marked as such
        elif not found:
            others.append(page.offset)
    if not found:
        yield from _images_without_full_page(file, others, name)


def _images_without_full_page(file: BinaryIO, offsets: list[int], name: str) -> Iterator[TiffImage]:
    """Yield the full-size images below some pages, or else the pages that are no masks."""
    layout = _Layout.of(_beginning(file))
    found, n_read = False, 0
    for offset in offsets:
        for below in TiffDirectory(file, layout, offset).numbers(SUB_DIRECTORIES):
            n_read += 1
            if n_read > _DIRECTORIES_AN_IMAGE * max_frames():
                raise too_many_frames(name)
            page = TiffDirectory(file, layout, below)
            if page.is_full_size:
                found = True
                yield TiffImage(page)
    if found:
        return
    for offset in offsets:
        page = TiffDirectory(file, layout, offset)
        if not page.is_mask:
            yield TiffImage(page)


def _beginning(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(16)


def _directories(file: BinaryIO, name: str) -> Iterator[TiffDirectory]:
    """Yield the directories of the pages. A directory that leads back to an earlier one is the last."""
    beginning = _beginning(file)
    layout = _Layout.of(beginning)
    if len(beginning) < 2 * layout.first_at:
        raise ValueError("its header is cut off")
    offset = layout.offset.unpack_from(beginning, layout.first_at)[0]
    seen: set[int] = set()
    while offset and offset not in seen:
        if len(seen) > _DIRECTORIES_AN_IMAGE * max_frames():
            raise too_many_frames(name)
        seen.add(offset)
        page = TiffDirectory(file, layout, offset)
        offset = page.next
        yield page


def _stack_size(page: TiffDirectory, file: BinaryIO, name: str, *, is_alone: bool) -> int:
    """Return the number of images that share a directory.

    `is_alone`: it is the only one in the file, as in stacks of ImageJ and MetaMorph.
    """
    depth = page.number(DEPTH, 1)
    if depth > 1:
        return depth
    n_images = (page.count(METAMORPH_PLANES) if is_alone else 0) or _described_images(page, is_alone)
    place = stack_place(page) if n_images > 1 else None
    if place is None:
        return 1
    start, size = place
    end = page.offset if page.offset > start else file.seek(0, os.SEEK_END)
    room = (end - start) // size
    if room >= n_images:
        return n_images
    if room > 1:
        raise ValueError(f"its header says {n_images} images, and it has room for {room}")
    _log.warning("%s: its header says %d images, but it has room for one; only that is read", name, n_images)
    return 1


_MOST_DESCRIBED = 1 << 16  # bytes


def _described_images(page: TiffDirectory, is_alone: bool) -> int:
    """Return the number of images that the description of ImageJ or tifffile claims."""
    text = page.text(DESCRIPTION).rstrip(b"\0")
    if text.startswith(b"ImageJ=") and is_alone:
        found = re.search(rb"^images=(\d{1,12})\s*$", text, re.MULTILINE)
        return int(found[1]) if found else 1
    # Many pages may share one long description, so only a short one is parsed.
    if not text.startswith(b"{") or len(text) > _MOST_DESCRIBED:
        return 1
    try:
        described: Any = json.loads(text)
        if described.get("truncated") is not True:
            return 1
        n_values = math.prod(int(side) for side in described["shape"])
        a_page = page.number(WIDTH, 0) * page.number(HEIGHT, 0) * page.number(SAMPLES, 1)
        return n_values // a_page if n_values and n_values % a_page == 0 else 1
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError, ZeroDivisionError):
        return 1  # a description of another program


def stack_place(page: TiffDirectory) -> tuple[int, int] | None:
    """Return the position and the size in bytes of the first image of a stack without pages.

    None: it is compressed, or not stored in one piece, so that no other image can follow it.
    """
    bits = page.numbers(BITS) or (1,)
    starts, sizes = page.numbers(STRIP_OFFSETS), page.numbers(STRIP_BYTES)
    n_values = page.number(WIDTH, 0) * page.number(HEIGHT, 0) * page.number(SAMPLES, 1)
    if page.number(COMPRESSION, 1) != 1 or len(set(bits)) != 1 or bits[0] % 8 or not starts or not n_values:
        return None
    ends = [start + size for start, size in zip(starts, sizes, strict=False)]
    if len(starts) > 1 and (len(starts) != len(sizes) or list(starts[1:]) != ends[:-1]):
        return None
    return starts[0], n_values * (bits[0] // 8)


class _FirstPage(io.RawIOBase):
    """A view of a TIFF file whose header leads to another directory."""

    def __init__(self, file: BinaryIO, header: bytes) -> None:
        super().__init__()
        self._file, self._header = file, header

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()

    def readinto(self, buffer: Any) -> int:
        at = self._file.tell()
        found = self._file.read(len(buffer))
        buffer[: len(found)] = found
        changed = self._header[at : at + len(found)]
        buffer[: len(changed)] = changed
        return len(found)


def with_first_page(file: BinaryIO, page: TiffDirectory) -> BinaryIO:
    """Return a view of a TIFF file in which `page` is the first page.

    Pillow and tifffile then read it, whatever the pages before it hold. Closing the view does not close the
    file.
    """
    beginning = _beginning(file)
    layout = _Layout.of(beginning)
    header = beginning[: layout.first_at] + layout.offset.pack(page.offset)
    file.seek(0)
    return file if beginning.startswith(header) else io.BufferedReader(_FirstPage(file, header))
