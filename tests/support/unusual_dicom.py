"""DICOM files in unusual encodings, written by hand or with pydicom, and compressed pictures for them."""

import io
import struct

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")
imagecodecs = pytest.importorskip("imagecodecs", reason="needs the extra medical")

IMPLICIT, EXPLICIT, BIG = (True, True), (False, True), (False, False)
"""Implicit VR or not, little-endian or not."""

SYNTAXES = {
    IMPLICIT: pydicom.uid.ImplicitVRLittleEndian,
    EXPLICIT: pydicom.uid.ExplicitVRLittleEndian,
    BIG: pydicom.uid.ExplicitVRBigEndian,
}


def image_of(pixels, *, bits=None, photometric=None, value_type=None, encoding=EXPLICIT, **tags):
    """Return a data set with these pixels, whose words have the byte order of `encoding`."""
    pixels = np.asarray(pixels)
    data = pydicom.Dataset()
    data.SOPClassUID, data.SOPInstanceUID = pydicom.uid.SecondaryCaptureImageStorage, "1.2.3"
    data.Modality = "CR"
    colour = pixels.ndim == 3 and "NumberOfFrames" not in tags and pixels.shape[2] == 3
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = photometric or ("RGB" if colour else "MONOCHROME2")
    if colour:
        data.PlanarConfiguration = 0
    data.Rows, data.Columns = pixels.shape[1:3] if pixels.ndim == 3 and not colour else pixels.shape[:2]
    data.BitsAllocated = 8 * pixels.itemsize
    data.BitsStored = bits or data.BitsAllocated
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = pixels.astype(pixels.dtype.newbyteorder("<" if encoding[1] else ">")).tobytes()
    data["PixelData"].VR = value_type or ("OB" if pixels.itemsize == 1 else "OW")
    return data


def body(data, encoding=EXPLICIT):
    """Return a data set as bytes, without a preamble and file meta information."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, implicit_vr=encoding[0], little_endian=encoding[1])
    return buffer.getvalue()


def meta(syntax=None):
    """Return a preamble and file meta information, which names a transfer syntax or none."""
    version = b"\2\0\1\0OB\0\0\2\0\0\0\0\1"
    named = b""
    if syntax is not None:
        text = str(syntax).encode()
        text += b"\0" * (len(text) % 2)
        named = b"\2\0\x10\0UI" + struct.pack("<H", len(text)) + text
    length = b"\2\0\0\0UL\4\0" + struct.pack("<I", len(version + named))
    return bytes(128) + b"DICM" + length + version + named


def write(path, data, encoding=EXPLICIT):
    """Write a data set in an encoding, with file meta information that names it."""
    path.write_bytes(meta(SYNTAXES[encoding]) + body(data, encoding))
    return path


def write_frames(path, frames, syntax, data):
    """Write compressed frames. `data` describes them, and its pixels are replaced."""
    path.write_bytes(meta(syntax) + encapsulated(frames, data))
    return path


def encapsulated(frames, data):
    """Return a data set of compressed frames as bytes."""
    data.PixelData = pydicom.encaps.encapsulate(frames, has_bot=False)
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    return body(data)


def jpeg(rgb, stored, *, marker=None, ids=None, subsampling="444"):
    """Return RGB as JPEG.

    `stored`: RGB or YBR, the colours of the components. `marker`: JFIF, Adobe, or no marker. `ids`: three
    letters or bytes by which the components are known.
    """
    space = "YCBCR" if stored == "YBR" else "RGB"
    content = imagecodecs.jpeg8_encode(rgb, level=100, outcolorspace=space, subsampling=subsampling)
    assert content[2:4] in (b"\xff\xe0", b"\xff\xee")
    content = content[:2] + content[4 + struct.unpack_from(">H", content, 4)[0] :]
    ids = bytes(ids or b"\1\2\3")
    frame, scan = content.index(b"\xff\xc0"), content.index(b"\xff\xda")
    changed = bytearray(content)
    changed[frame + 10 : frame + 19 : 3] = ids
    changed[scan + 5 : scan + 11 : 2] = ids
    segment = b""
    if marker == "JFIF":
        segment = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
    elif marker == "Adobe":
        segment = b"\xff\xee\0\x0eAdobe\0d\0\0\0\0" + bytes([stored == "YBR"])
    return bytes(changed[:2]) + segment + bytes(changed[2:])


def rle(pixels):
    """Return pixels as RLE: a segment for each byte of a pixel, the high byte first. All runs are literal."""
    channels = pixels.reshape(*pixels.shape[:2], -1)
    segments = []
    for channel in np.moveaxis(channels, 2, 0):
        for plane in np.moveaxis(
            channel.astype(f">u{pixels.itemsize}").view(np.uint8).reshape(-1, pixels.itemsize), 1, 0
        ):
            content = plane.tobytes()
            runs = [content[i : i + 128] for i in range(0, len(content), 128)]
            segment = b"".join(bytes([len(run) - 1]) + run for run in runs)
            segments.append(segment + bytes(len(segment) % 2))
    starts = np.cumsum([64, *(len(segment) for segment in segments)])[:-1]
    return struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(segments))) + b"".join(segments)


def smooth_colours():
    """Return RGB of 24 x 16 pixels whose three channels differ. JPEG keeps it nearly."""
    y, x = np.mgrid[:24, :16]
    return np.stack([40 + 8 * y, 220 - 9 * x, 60 + 4 * y + 4 * x], axis=-1).astype(np.uint8)
