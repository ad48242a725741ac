"""Lookup tables and palettes of DICOM, read by what they hold (extra medical).

A table is stored as a descriptor and a list of entries. The descriptor has three numbers: the number of
entries, the number that the first entry belongs to, and the bits of an entry. Devices often write the second
and the third wrongly, so they are not believed:

- *The bits of an entry.* A table may claim 16 bits and hold numbers of 12, or claim 8 and store each number
  in 16 bits, in the low or the high byte. The largest entry decides.
- *The sign of the first number.* It has 16 bits and is signed only if the numbers that are looked up can be
  negative. The value representation that a file states, or that a reader of implicit files guesses, can be
  wrong. The numbers that the step before can put out decide.

The entries of a table of 8 bits may be packed, two to a word of 16 bits. Numbers below the first one belong
to the first entry, and numbers above the last one to the last.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["LookupTable", "find_table", "palette_colours", "read_table"]

_COLOURS = ("Red", "Green", "Blue")
_LARGEST_OF_12_BITS = 4095


class LookupTable(NamedTuple):
    """Entries of a lookup table.

    Attributes
    ----------
    entries : ndarray of shape (n_entries,), unsigned
    first : int
        The number that the first entry belongs to.
    """

    entries: NDArray[Any]
    first: int

    def look_up(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the entries that belong to `values`, which are rounded to integers."""
        positions = values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
        if values.dtype.kind == "f":
            np.rint(positions, out=positions)
        positions -= self.first
        np.clip(positions, 0, len(self.entries) - 1, out=positions)
        found: NDArray[Any] = self.entries[positions.astype(np.intp, copy=False)]
        return found

    def as_levels(self) -> LookupTable:
        """Return the table with entries from 0 to 255, by the number of bits that the largest one needs."""
        entries, top = _without_empty_byte(self.entries)
        return LookupTable(entries.astype(np.float64) * 255 / top, self.first)


def _without_empty_byte(entries: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Return entries and the largest number of their bits, at least 255.

    Numbers of 8 bits in the high byte of 16 bits are moved to the low byte.
    """
    if entries.max() > 255 and not (entries & 255).any():
        entries = entries >> 8
    return entries, (1 << max(8, int(entries.max()).bit_length())) - 1


def find_table(place: Any, sequence: str) -> Any:
    """Return the item of a lookup table.

    Parameters
    ----------
    place : pydicom.Dataset
    sequence : {"ModalityLUTSequence", "VOILUTSequence"}

    Returns
    -------
    pydicom.Dataset or None
        The first item. None: there is none, or it holds no table.
    """
    items = place.get(sequence) or [{}]
    return None if items[0].get("LUTDescriptor") is None or not items[0].get("LUTData") else items[0]


def read_table(item: Any, low: float, high: float, *, little_endian: bool) -> LookupTable:
    """Read the lookup table of an item of ModalityLUTSequence or VOILUTSequence.

    Parameters
    ----------
    item : pydicom.Dataset
    low, high : float
        Range of the numbers that can be looked up. It decides the sign of the first number.
    little_endian : bool
        Order of the bytes in the file.

    Returns
    -------
    LookupTable

    Raises
    ------
    ValueError
        If the table has fewer entries than its descriptor says, or none.
    """
    descriptor = _words(item.get("LUTDescriptor"), little_endian)
    return _table(descriptor, item.get("LUTData"), low, high, little_endian)


def _table(
    descriptor: list[int], data: Any, low: float, high: float, little_endian: bool, *, is_ob: bool = False
) -> LookupTable:
    n_entries = descriptor[0] or 1 << 16
    if not isinstance(data, bytes):  # numbers of 16 bits, which pydicom has read
        numbers = [data] if isinstance(data, int) else list(data or [])
        data, little_endian = np.asarray(numbers, "<u2").tobytes(), True
    entries = _entries(data, n_entries, little_endian, is_ob=is_ob)
    if descriptor[2] <= 8:
        entries, _ = _without_empty_byte(entries)
    return LookupTable(entries, _first(descriptor[1], n_entries, low, high))


def _entries(data: bytes, n_entries: int, little_endian: bool, *, is_ob: bool) -> NDArray[Any]:
    """Return the entries of a table, which have 16 bits, or 8 bits and are packed."""
    if len(data) >= 2 * n_entries:
        return np.frombuffer(data, "<u2" if little_endian else ">u2", n_entries).astype(np.uint16)
    if len(data) not in (n_entries, n_entries + 1):
        raise ValueError(f"a lookup table of {len(data)} bytes; its descriptor says {n_entries} entries")
    packed = np.frombuffer(data, np.uint8)
    if not (little_endian or is_ob) and len(packed) % 2 == 0:  # the first of a pair is the low byte of a word
        packed = packed.reshape(-1, 2)[:, ::-1].ravel()
    return packed[:n_entries]


def _first(number: int, n_entries: int, low: float, high: float) -> int:
    """Return the first number of a table with its sign: the one with which more inputs can be looked up."""

    def n_reached(first: int) -> float:
        return min(high, first + n_entries - 1) - max(low, first)

    unsigned, signed = number & 0xFFFF, (number & 0xFFFF) - (1 << 16)
    if unsigned < 1 << 15:
        return unsigned
    if n_reached(signed) == n_reached(unsigned):
        return signed if low < 0 else unsigned
    return max(signed, unsigned, key=n_reached)


def _words(value: Any, little_endian: bool) -> list[int]:
    """Return numbers of 16 bits. pydicom gives bytes if it does not know their value representation."""
    if isinstance(value, bytes):
        return [int(word) for word in np.frombuffer(value, "<u2" if little_endian else ">u2")]
    if value is None:
        raise ValueError("a lookup table without a descriptor")
    return [int(number) & 0xFFFF for number in value]


def palette_colours(
    pydicom: ModuleType, header: Any, stored: NDArray[Any], *, little_endian: bool
) -> NDArray[np.uint8]:
    """Look up the colours of an image with a palette.

    Parameters
    ----------
    pydicom : module
        The module, which is an optional dependency.
    header : pydicom.Dataset
    stored : ndarray of shape (H, W)
        Numbers of colours.
    little_endian : bool
        Order of the bytes in the file.

    Returns
    -------
    ndarray of shape (H, W, 3), uint8

    Raises
    ------
    ValueError
        If a table has fewer entries than its descriptor says.
    """
    tables = _palette(pydicom, header, stored, little_endian)
    # All colours have the same number of bits, also if one of them is never bright.
    levels = _palette_levels(np.concatenate([table.entries for table in tables]))
    ends = np.cumsum([len(table.entries) for table in tables])[:-1]
    return np.stack(
        [
            LookupTable(part.astype(np.uint8), table.first).look_up(stored)
            for part, table in zip(np.split(levels, ends), tables, strict=True)
        ],
        axis=-1,
    )


def _palette_levels(entries: NDArray[Any]) -> NDArray[Any]:
    """Return the entries of a palette as levels from 0 to 255.

    The standard knows entries of 8 and 16 bits. If none is above 4,095, 16 bits would make all colours nearly
    black, so the entries have the bits that the largest one needs. Entries whose two bytes are equal are
    levels of 8 bits, also if none of them is bright.
    """
    entries, top = _without_empty_byte(entries)
    if top == 255:
        return entries
    if top > _LARGEST_OF_12_BITS or (entries >> 8 == entries & 255).all():
        return entries >> 8
    return np.rint(entries * (255 / top))


def _palette(
    pydicom: ModuleType, header: Any, stored: NDArray[Any], little_endian: bool
) -> list[LookupTable]:
    """Return the tables of red, green and blue."""
    low, high = float(stored.min()), float(stored.max())
    descriptors = [
        _words(header.get(f"{colour}PaletteColorLookupTableDescriptor"), little_endian) for colour in _COLOURS
    ]
    if "RedPaletteColorLookupTableData" not in header:  # segments, which pydicom expands
        n_entries, first = descriptors[0][0] or 1 << 16, header.RedPaletteColorLookupTableDescriptor[1]
        entries = pydicom.pixels.apply_color_lut(np.arange(n_entries) + first, header)
        return [
            LookupTable(entries[:, channel], _first(descriptor[1], n_entries, low, high))
            for channel, descriptor in enumerate(descriptors)
        ]
    elements = [header[f"{colour}PaletteColorLookupTableData"] for colour in _COLOURS]
    return [
        _table(descriptor, element.value, low, high, little_endian, is_ob=element.VR == "OB")
        for descriptor, element in zip(descriptors, elements, strict=True)
    ]
