"""What other decoders make of an image file: imagecodecs, tifffile, and ITK with GDCM.

They give stored numbers. Grey levels follow from these by the formulas of `medvlad.images`, written once more
here. None: no other decoder reads this encoding, or its rules for grey levels are too long to write twice.
"""

import io
import re

import numpy as np
from PIL import Image

_SIGNATURES = {
    b"\0\0\0\x0cjP": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_NETPBM = {b"P1": 1, b"P2": 1, b"P3": 3, b"P4": 1, b"P5": 1, b"P6": 3, b"Pf": 1, b"PF": 3}
"""How a file begins -> number of channels."""


def kind_of(path):
    """Return the format of a file by its content, of those that medvlad reads. None: another one."""
    with path.open("rb") as file:
        head = file.read(400)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:2] in _NETPBM and head[2:3].isspace():
        return "PGM/PPM"
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return "AVIF"
    if head[128:132] == b"DICM":
        return "DICOM"
    if head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0":
        return "NIfTI"
    return next((kind for start, kind in _SIGNATURES.items() if head.startswith(start)), None)


def stretched(values):
    """Return grey levels: the smallest and the largest number become 0 and 255."""
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    if low == high:
        return np.zeros(values.shape, np.uint8)
    return np.rint((values - low) * (255 / (high - low))).astype(np.uint8)


def _rgb(values, *, alpha=True):
    """Return RGB of 8 bits; the last of two or four channels is dropped."""
    if alpha and values.ndim == 3 and values.shape[2] in (2, 4):
        values = values[..., :-1]
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    if values.dtype != np.uint8:
        values = stretched(values)
    return np.repeat(values[..., None], 3, axis=2) if values.ndim == 2 else values


def _upright(pixels, content):
    """Turn pixels upright by the EXIF orientation, with Pillow."""
    with Image.open(io.BytesIO(content)) as image:
        orientation = image.getexif().get(0x0112, 1)
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    if orientation not in turns:
        return pixels
    return np.asarray(Image.fromarray(pixels).transpose(turns[orientation]))


def _netpbm(content):
    """Return the numbers of a PBM, PGM, PPM or PFM file, by its description in netpbm's manual."""
    magic, channels = content[:2], _NETPBM[content[:2]]
    words = re.compile(rb"(?:\s|#[^\n]*\n)*([^\s#]+)")
    position, header = 2, []
    for _ in range(2 if magic in (b"P1", b"P4") else 3):
        match = words.match(content, position)
        header.append(float(match[1]))
        position = match.end()
    width, height, *rest = header
    width, height, largest = int(width), int(height), rest[0] if rest else 1
    body, n = content[position + 1 :], width * height * channels
    if magic in (b"P1", b"P2", b"P3"):
        text = re.sub(rb"#[^\n]*\n", b" ", content[position:])
        pieces = re.findall(rb"[01]", text) if magic == b"P1" else text.split()
        values = np.array(list(map(int, pieces[:n])))
    elif magic == b"P4":
        rows = np.frombuffer(body, np.uint8)[: (width + 7) // 8 * height].reshape(height, -1)
        values = np.unpackbits(rows, axis=1)[:, :width]
    elif magic in (b"Pf", b"PF"):
        values = np.frombuffer(body, "<f4" if largest < 0 else ">f4", n)
        return values.reshape(height, width, channels)[::-1]
    else:
        values = np.frombuffer(body, np.uint8 if largest < 256 else ">u2", n)
    values = values.reshape(height, width, channels).astype(np.float64)
    if magic in (b"P1", b"P4"):
        values = 1 - values
    if largest > 255 and channels == 1:
        return values  # grey of more than 8 bits is stretched
    return np.floor(values * 255 / largest + 0.5).astype(np.uint8)


def decode_pixels(path, kind, frame):
    """Return (H, W, 3) uint8 of any format but DICOM and NIfTI. Raise what the decoder raises."""
    import imagecodecs
    import tifffile

    content = path.read_bytes()
    if kind in ("GIF", "JPEG"):
        with Image.open(path) as image:
            if "transparency" in image.info or image.mode == "CMYK":
                return None  # shown without transparency; CMYK has no exact formula
    decoders = {
        "PNG": imagecodecs.png_decode,
        "JPEG": imagecodecs.jpeg8_decode,
        "GIF": lambda content: imagecodecs.gif_decode(content, index=0),
        "BMP": imagecodecs.bmp_decode,
        "WebP": imagecodecs.webp_decode,
        "AVIF": imagecodecs.avif_decode,
        "JPEG 2000": imagecodecs.jpeg2k_decode,
        "PGM/PPM": _netpbm,
    }
    if kind in decoders:
        return _upright(_rgb(decoders[kind](content)), content)
    if kind != "TIFF":
        return None
    with tifffile.TiffFile(path) as file:
        page = file.pages[frame or 0]
        values = page.asarray()
        tag = page.tags.get("Orientation")
        usual = tag is None or tag.value == 1
        plain = page.photometric.name in ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE")
        if not usual or not plain or page.extrasamples:
            return None
        if page.photometric.name == "PALETTE":
            if page.colormap.max() < 256:
                return None
            return (page.colormap.T[values] >> 8).astype(np.uint8)
        if page.planarconfig == 2 and values.ndim == 3:
            values = np.moveaxis(values, 0, -1)
        if values.ndim == 3 and values.shape[2] > 3:
            return None  # the header does not say what the further channels are
        if page.bitspersample < 8 and values.dtype == np.uint8:
            values = np.rint(values * (255 / (2**page.bitspersample - 1))).astype(np.uint8)
        pixels = _rgb(values, alpha=False)
        return 255 - pixels if page.photometric.name == "MINISWHITE" else pixels


def _window(values, center, width, function):
    """Return grey levels by a window of PS3.3 C.11.2."""
    if function == "LINEAR_EXACT":
        levels = (values - center) / width + 0.5
    elif function == "SIGMOID":
        levels = 1 / (1 + np.exp(-4 * (values - center) / width))
    else:
        levels = (values - (center - 0.5)) / (width - 1) + 0.5
    return np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8)


def _first(value):
    return float(value) if isinstance(value, int | float | str) else float(value[0])


def decode_dicom(path, frame):
    """Return (H, W, 3) uint8 by ITK and GDCM, or None."""
    import pydicom
    import SimpleITK

    header = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    photometric = str(header.get("PhotometricInterpretation")).upper()
    functional = any(f"{kind}FunctionalGroupsSequence" in header for kind in ("Shared", "PerFrame"))
    compressed = header.file_meta.get("TransferSyntaxUID")
    wide_rle = getattr(compressed, "name", "") == "RLE Lossless" and header.get("BitsAllocated", 8) > 8
    big_endian = getattr(compressed, "is_little_endian", True) is False
    if header.get("VOILUTSequence") or functional or photometric == "PALETTE COLOR":
        return None
    if header.get("PixelPaddingValue") is not None or (wide_rle and header.SamplesPerPixel == 3):
        return None  # GDCM swaps the bytes of the latter
    if big_endian and header.BitsAllocated == 32:
        return None  # GDCM does not swap these
    image = SimpleITK.ReadImage(str(path))
    values = SimpleITK.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        return _rgb(values[frame or 0] if values.ndim == 4 else values)
    values = values[frame or 0].astype(np.float64) if values.ndim == 3 else values.astype(np.float64)
    if photometric == "MONOCHROME1":  # ITK inverts the stored numbers
        slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
        stored = (1 << header.BitsStored) - 1 - (values - intercept) / slope
        values = stored * slope + intercept
    center, width = header.get("WindowCenter"), header.get("WindowWidth")
    grey = stretched(values)
    if center not in (None, "") and width not in (None, "") and _first(width) > 1:
        function = str(header.get("VOILUTFunction") or "LINEAR").upper()
        windowed = _window(values, _first(center), _first(width), function)
        if windowed.min() < windowed.max():  # a window that is not of these data is ignored
            grey = windowed
    return _rgb(255 - grey if photometric == "MONOCHROME1" else grey)


def decode_nifti(path, frame):
    """Return (H, W, 3) uint8 of one axial slice by ITK: rows from front to back, columns from the right."""
    import SimpleITK

    volume = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(path)), "LPS")
    return _rgb(stretched(SimpleITK.GetArrayFromImage(volume)[frame or 0]))
