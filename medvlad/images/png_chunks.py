"""The parts of a PNG file that its pixels need.

libpng prints a warning about each doubtful part to standard error: colour profiles, gamma, times. imagecodecs
offers no way to stop it or to name the file. None of these parts changes the stored numbers, so they are left
out before the file is decoded. Pillow has read them before, and its warnings go the usual way.
"""

from __future__ import annotations

__all__ = ["essential_png"]

_SIGNATURE = 8  # bytes
_FRAME = 12  # bytes of a chunk besides its content: length, name, checksum
_ANCILLARY = 0x20  # this bit of the first letter of a chunk's name


def essential_png(data: bytes) -> bytes:
    """Return a PNG file without its ancillary chunks. What cannot be followed stays as it is.

    Parameters
    ----------
    data : bytes
        Content of a PNG file.
    """
    kept, at = [data[:_SIGNATURE]], _SIGNATURE
    while at + _FRAME <= len(data):
        end = at + _FRAME + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            break
        if not data[at + 4] & _ANCILLARY:
            kept.append(data[at:end])
        at = end
    return b"".join(kept) + data[at:]
