"""Image files made by hand, and a check of refusals, for the tests of reading."""

import io
import struct
import zlib

import numpy as np
import pytest

from medvlad._util.validate import InputError
from medvlad.images.read import load_image

H, W = 6, 9


def rgb(height=H, width=W, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(image, fmt, **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def refusal(source, *parts):
    """Check that `source` is refused in one line that holds all `parts`; return the message."""
    with pytest.raises(InputError) as caught:
        load_image(source)
    message = str(caught.value)
    assert "\n" not in message
    assert ":" in message, "the sentence must say what to do, after a colon"
    for part in parts:
        assert str(part) in message
    return message


def png(pixels, colour_type, depth):
    """Write a PNG by hand: Pillow cannot write colour of 16 bits."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(pixels, sample_format=1, photometric=None):
    """Write an uncompressed little-endian TIFF by hand, for number formats that Pillow does not write."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    bits = pixels.dtype.itemsize * 8
    if photometric is None:
        photometric = 1 if channels == 1 else 2
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    extra_at = 8 + 2 + 10 * 12 + 4
    extra = b""
    entries = b""
    for tag, kind, values in (
        (256, "H", [width]),
        (257, "H", [height]),
        (258, "H", [bits] * channels),
        (259, "H", [1]),
        (262, "H", [photometric]),
        (273, "I", None),
        (277, "H", [channels]),
        (278, "H", [height]),
        (279, "I", [len(data)]),
        (339, "H", [sample_format] * channels),
    ):
        if values is None:
            values = [extra_at + (4 * channels if channels > 2 else 0) * (2 if channels > 2 else 1)]
        packed = struct.pack(f"<{len(values)}{kind}", *values)
        count = len(values)
        if len(packed) > 4:
            packed = packed.ljust(4 * channels, b"\0")
            extra, packed = extra + packed, struct.pack("<I", extra_at + len(extra))
        entries += struct.pack("<HHI", tag, {"H": 3, "I": 4}[kind], count) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, 10) + entries + b"\0" * 4 + extra + data


def pgm(values):
    """Write a PGM of 16 bits by hand: old versions of Pillow cannot."""
    height, width = values.shape
    return f"P5\n{width} {height}\n65535\n".encode() + values.astype(">u2").tobytes()


def stretched(values):
    """Map minimum..maximum to 0..255, pixel by pixel."""
    low, high = int(values.min()), int(values.max())
    return np.array([[round((int(v) - low) * 255 / (high - low)) for v in row] for row in values], np.uint8)
