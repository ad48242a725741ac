"""TIFF files written by hand, byte by byte, so that the stored numbers are known without a library."""

import struct

import numpy as np

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, ROWS, SAMPLES = 256, 257, 258, 259, 262, 278, 277
DESCRIPTION, PLANAR, FORMAT = 270, 284, 339
NEW_SUBFILE_TYPE, OLD_SUBFILE_TYPE, SUB_DIRECTORIES = 254, 255, 330
OFFSETS, BYTE_COUNTS = 273, 279

_FORMATS = {"u": 1, "i": 2, "f": 3}


def page(pixels, photometric=None, *, bits=None, in_planes=False, **tags):
    """Return the tags and the data of a page of shape (H, W) or (H, W, channels).

    `bits`: the numbers are packed. `tags` are written as ``t254=[1]``, text as bytes.
    """
    height, width = pixels.shape[:2]
    channels = pixels.size // (height * width)
    found = {
        WIDTH: [width],
        HEIGHT: [height],
        BITS: [bits or 8 * pixels.dtype.itemsize] * channels,
        COMPRESSION: [1],
        PHOTOMETRIC: [(2 if channels >= 3 else 1) if photometric is None else photometric],
        SAMPLES: [channels],
        ROWS: [height],
        FORMAT: [_FORMATS[pixels.dtype.kind]] * channels,
    }
    found |= {int(name[1:]): value for name, value in tags.items()}
    if in_planes:
        found[PLANAR] = [2]
        pixels = pixels.transpose(2, 0, 1)
    return found, pixels if bits is None else pack(pixels, bits)


def pack(pixels, bits):
    """Return the numbers as rows of `bits` bits, the highest bit first. Rows begin at a byte."""
    rows = pixels.reshape(len(pixels), -1).astype(np.int64)
    places = np.arange(bits - 1, -1, -1)
    return np.packbits(((rows[:, :, None] >> places) & 1).reshape(len(rows), -1).astype(np.uint8), axis=1)


def tiff_of(*pages, order="<", big=False, below=(), packed=None, further=b""):
    """Return a TIFF file.

    Parameters
    ----------
    *pages : tuples of tags and data
        From `page`. The next page follows each.
    order : {"<", ">"}
        Byte order.
    big : bool
        Whether to write a BigTIFF.
    below : sequence of pages
        Sub-directories of the first page.
    packed : callable, optional
        Compresses the bytes of a page.
    further : bytes
        Written behind the pixels of the last page.
    """
    number, entry, count = ("Q", "HHQ", "Q") if big else ("I", "HHI", "H")
    size = struct.calcsize("=" + number)
    magic = b"II" if order == "<" else b"MM"
    head = magic + struct.pack(order + ("HHH" if big else "H"), *((43, 8, 0) if big else (42,)))
    body = bytearray(head + bytes(size))  # the offset of the first directory comes last

    def add(data):
        body.extend(bytes(-len(body) % 8))
        at = len(body)
        body.extend(data)
        return at

    def add_directory(tags, data, subs=()):
        raw = np.asarray(data)
        raw = raw.astype(raw.dtype.newbyteorder(order))
        strips = [strip.tobytes() for strip in (raw if PLANAR in tags else [raw])]
        strips = [packed(strip) for strip in strips] if packed else strips
        tags = {**tags, OFFSETS: [add(strip) for strip in strips], BYTE_COUNTS: list(map(len, strips))}
        if subs:
            tags[SUB_DIRECTORIES] = subs
        entries = b""
        for tag in sorted(tags):
            values = tags[tag]
            if isinstance(values, bytes):
                kind, n, value = 2, len(values), values
            else:
                wide = tag in (OFFSETS, BYTE_COUNTS, SUB_DIRECTORIES) or max(values) > 65535
                kind, n = (4, len(values)) if wide else (3, len(values))
                value = struct.pack(f"{order}{n}{'I' if wide else 'H'}", *values)
            if len(value) > size:
                value = struct.pack(order + number, add(value))
            entries += struct.pack(order + entry, tag, kind, n) + value.ljust(size, b"\0")
        return add(struct.pack(order + count, len(tags)) + entries + bytes(size)), len(tags)

    subs = [add_directory(*one)[0] for one in below]
    link = len(head)  # where the offset of the next directory is to be written
    for i, (tags, data) in enumerate(pages):
        at, n_tags = add_directory(tags, data, subs if i == 0 else ())
        struct.pack_into(order + number, body, link, at)
        link = at + struct.calcsize("=" + count) + n_tags * (struct.calcsize("=" + entry) + size)
    return bytes(body) + further
