"""Files made to fill memory or time are refused in one sentence, with little memory."""

import gzip
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image
from support.image_bytes import encode, refusal, rgb, tiff, write

from medvlad._util.validate import InputError
from medvlad.images.read import list_frames, load_image

MEGABYTES = 100  # memory for reading any of these, in addition to that of the package itself

READ = """
import re, sys, warnings
from pathlib import Path
from medvlad import InputError
from medvlad.images import list_frames, load_image
try:
    import nibabel, pydicom.pixels, tifffile, imagecodecs
except ImportError:
    pass
def peak():  # of this process alone: getrusage would count the parent
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
def read(path):
    try:
        return str(load_image(path).shape)
    except InputError as error:
        return str(error)
warnings.simplefilter("ignore")
read(sys.argv[1])
before = peak()
for path in sys.argv[2:]:
    print(len(list_frames(path)), read(path), peak() - before, sep="\\t", flush=True)
"""


def read_apart(folder, *paths):
    """Return for each path: the number of images, the result of reading, and the peak of memory in MB."""
    if not os.path.exists("/proc/self/status"):  # noqa: PTH110
        pytest.skip("needs /proc to measure the peak of memory")
    small = write(folder, "small.png", encode(Image.fromarray(rgb()), "PNG"))
    command = [sys.executable, "-c", READ, str(small), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(found) == len(paths)
    return [(int(n), said, int(megabytes)) for n, said, megabytes in found]


def deflated(megabytes, wbits=zlib.MAX_WBITS):
    """Return compressed zeros, quickly: one independent block is repeated. The checksum is wrong."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    first, block = (packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + block * (megabytes - 1) + packer.flush()


def gzipped(content, megabytes):
    """Return `content`, followed by zeros, as gzip."""
    return gzip.compress(content) + gzip.compress(bytes(1 << 20)) * megabytes


def png_chunks(width, height, *chunks, depth=8):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, 0 if depth == 8 else 2, 0, 0, 0)
    written = [chunk(kind, data) for kind, data in ((b"IHDR", header), *chunks, (b"IEND", b""))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def with_tags(content, **changes):
    """Return a little-endian TIFF with changed tags, as numbers of 32 bits."""
    content = bytearray(content)
    for tag, value in changes.items():
        for at in range(10, 10 + 12 * 10, 12):
            if struct.unpack_from("<H", content, at)[0] == int(tag[1:]):
                struct.pack_into("<HII", content, at + 2, 4, 1, value)
    return bytes(content)


def chained_tiff(n_pages):
    """Return a TIFF of `n_pages` pages of 4 x 4 pixels, which share their pixels."""
    tags = ((256, 4), (257, 4), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 4), (279, 16))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    size = 2 + len(entries) + 4
    pages = [
        struct.pack("<H", len(tags))
        + entries
        + struct.pack("<I", 24 + (i + 1) * size if i + 1 < n_pages else 0)
        for i in range(n_pages)
    ]
    return b"II*\0" + struct.pack("<I", 24) + bytes(16) + b"".join(pages)


def long_gif(n_frames):
    head = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0x80, 0, 0) + bytes(6)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * n_frames + b";"


def test_bombs_of_the_usual_formats_take_little_memory(tmp_path):
    """Each is small on the disk; decoded, the largest would take 2.5 GB."""
    text = deflated(200)
    flat = tiff(np.zeros((4, 4), np.uint8))
    files = {
        "zeros.png": (png_chunks(50_000, 50_000, (b"IDAT", deflated(64))), "more pixels than are safe"),
        "huge.tif": (with_tags(flat, t256=2**31 - 1, t257=2**31 - 1), "more pixels than are safe"),
        "text.png": (png_chunks(4, 4, (b"zTXt", b"k\0\0" + text), (b"IDAT", b"")), "corrupt"),
        "profile.png": (png_chunks(4, 4, (b"iCCP", b"k\0\0" + text), (b"IDAT", b"")), "corrupt"),
        "much.png": (png_chunks(4, 4, (b"IDAT", text)), "(4, 4, 3)"),
        "much16.png": (png_chunks(4, 4, (b"IDAT", text), depth=16), ""),
        "frames.gif": (long_gif(100_000), "several frames of an animation"),
        "pages.tif": (chained_tiff(100_000), "more than 10000 images"),
    }
    paths = [write(tmp_path, name, content) for name, (content, _) in files.items()]
    for (name, (_, expected)), (n, said, megabytes) in zip(
        files.items(), read_apart(tmp_path, *paths), strict=True
    ):
        assert n == 1, name
        assert expected in said, name
        assert megabytes < MEGABYTES, name


def test_deflated_strips_are_decoded_as_far_as_there_are_pixels(tmp_path):
    data = deflated(200)
    grey = with_tags(tiff(np.zeros((4, 4), np.uint8)), t259=8, t279=len(data))[:-16] + data
    colour = tiff(np.zeros((4, 4, 3), np.uint16))
    colour = with_tags(colour, t259=8, t279=len(data))[: -4 * 4 * 6] + data
    paths = [write(tmp_path, "grey.tif", grey), write(tmp_path, "colour.tif", colour)]
    for _, said, megabytes in read_apart(tmp_path, *paths):
        assert said.startswith("(4, 4, 3)") or "corrupt" in said or "pip install" in said
        assert megabytes < MEGABYTES


@pytest.mark.parametrize("name", ["a" * 300, "a" * 300 + "#1", "b\0c", "b\0c#1"])
def test_names_that_no_file_can_have_are_refused(name):
    assert list(map(str, list_frames(name))) == [name]
    refusal(name, "cannot be opened", "check the path")


def test_pages_up_to_the_limit_are_read(tmp_path, monkeypatch):
    path = write(tmp_path, "a.tif", chained_tiff(5))
    assert len(list_frames(path)) == 5
    monkeypatch.setenv("MEDVLAD_MAX_FRAMES", "5")
    assert len(list_frames(path)) == 5
    assert load_image(f"{path}#4").shape == (4, 4, 3)
    refusal(f"{path}#5", "does not exist", "the last is #4")


def test_a_file_of_more_pages_than_the_limit_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path, "a.tif", chained_tiff(5))
    monkeypatch.setenv("MEDVLAD_MAX_FRAMES", "4")
    assert list_frames(path) == [path]
    refusal(path, "more than 4 images", "MEDVLAD_MAX_FRAMES")
    refusal(f"{path}#4", "more than 4 images", "MEDVLAD_MAX_FRAMES")


@pytest.mark.parametrize("value", ["0", "-3", "many", "1.5"])
def test_a_limit_that_is_not_a_positive_integer_is_refused(tmp_path, monkeypatch, value):
    monkeypatch.setenv("MEDVLAD_MAX_FRAMES", value)
    refusal(write(tmp_path, "a.tif", chained_tiff(2)), "MEDVLAD_MAX_FRAMES must be", value)


def test_a_page_that_leads_back_to_itself_ends_the_list(tmp_path):
    content = bytearray(chained_tiff(2))
    content[-4:] = struct.pack("<I", 24)
    path = write(tmp_path, "a.tif", bytes(content))
    assert len(list_frames(path)) == 2


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a"])
def test_a_file_too_large_for_one_image_is_refused(tmp_path, name):
    path = write(tmp_path, name, encode(Image.fromarray(rgb()), "PNG"))
    os.truncate(path, (1 << 30) + 1)  # a sparse file, which takes no room on the disk
    refusal(path, name, "1073741825 bytes", "reduce it")


def test_a_large_tiff_is_read(tmp_path):
    path = write(tmp_path, "a.tif", tiff(np.full((4, 4), 7, np.uint8)))
    os.truncate(path, (1 << 30) + 1)
    assert load_image(path).shape == (4, 4, 3)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floating_point_that_is_not_finite_is_refused(tmp_path, wrong, dtype):
    values = np.ones((4, 4), dtype)
    values[2, 1] = wrong
    path = write(tmp_path, "a.tif", tiff(values, sample_format=3))
    refusal(path, "a.tif", "NaN or infinite" if dtype is np.float32 else "")


@pytest.mark.parametrize(("width", "height"), [(0, 4), (4, 0), (0, 0)])
def test_an_image_without_pixels_is_refused(tmp_path, width, height):
    flat = tiff(np.zeros((4, 4), np.uint8))
    refusal(write(tmp_path, "a.tif", with_tags(flat, t256=width, t257=height)), "a.tif")
    refusal(write(tmp_path, "a.png", png_chunks(width, height, (b"IDAT", zlib.compress(b"")))), "a.png")
    refusal(write(tmp_path, "a.pgm", f"P5\n{width} {height}\n255\n".encode() + bytes(16)), "a.pgm")


# ------------------------------------------------------------------------------- DICOM and NIfTI


def dicom(folder, name, *, n_frames=1, data=b"", jpeg=False, inflated=None):
    """Write a DICOM file of 4 x 4 pixels of 8 bits. `inflated`: deflated content of the data set."""
    pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")
    content = pydicom.Dataset()
    content.file_meta = pydicom.dataset.FileMetaDataset()
    syntax = pydicom.uid.JPEGBaseline8Bit if jpeg else pydicom.uid.ExplicitVRLittleEndian
    content.file_meta.TransferSyntaxUID = syntax
    content.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    content.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    content.SOPClassUID, content.SOPInstanceUID = pydicom.uid.SecondaryCaptureImageStorage, "1.2.3"
    content.Rows = content.Columns = 4
    content.SamplesPerPixel, content.PhotometricInterpretation = 1, "MONOCHROME2"
    content.BitsAllocated = content.BitsStored = 8
    content.HighBit, content.PixelRepresentation = 7, 0
    content.NumberOfFrames = n_frames
    content.PixelData = pydicom.encaps.encapsulate([data]) if jpeg else data
    content["PixelData"].VR = "OB"
    if inflated is not None:
        content.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        del content.PixelData
    path = folder / name
    content.save_as(path, enforce_file_format=True)
    if inflated is not None:
        head = path.read_bytes()
        with path.open("rb") as file:
            pydicom.filereader.read_preamble(file, force=False)
            pydicom.filereader.read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
            path.write_bytes(head[: file.tell()] + inflated)
    return path


def nifti(shape, *, order="<", two=False, vox_offset=352, extension=None):
    """Return the header of a NIfTI volume of 8 bits. `extension`: the length that its extension claims."""
    if two:
        head = bytearray(544)
        struct.pack_into(f"{order}i8s", head, 0, 540, b"n+2\0\r\n\x1a\n")
        struct.pack_into(f"{order}HH8q", head, 12, 2, 8, 3, *shape, 1, 1, 1, 1)
        struct.pack_into(f"{order}8d", head, 104, *[1.0] * 8)
        struct.pack_into(f"{order}q", head, 168, max(vox_offset, 544))
    else:
        head = bytearray(352)
        struct.pack_into(f"{order}i", head, 0, 348)
        struct.pack_into(f"{order}8h", head, 40, 3, *shape, 1, 1, 1, 1)
        struct.pack_into(f"{order}HH", head, 70, 2, 8)
        struct.pack_into(f"{order}8f", head, 76, *[1.0] * 8)
        struct.pack_into(f"{order}f", head, 108, vox_offset)
        head[344:348] = b"n+1\0"
    if extension is not None:
        head[-4] = 1
        head += struct.pack(f"{order}ii", extension, 4)
    return bytes(head)


def test_more_frames_than_the_file_holds_are_refused(tmp_path):
    """The headers claim as many frames as 32 bits allow, or more than the limit."""
    plain = dicom(tmp_path, "plain.dcm", n_frames=2**31 - 1, data=bytes(16))
    packed = dicom(tmp_path, "packed.dcm", n_frames=2**31 - 1, data=b"\xff\xd8\xff\xd9", jpeg=True)
    many = dicom(tmp_path, "many.dcm", n_frames=10_001, data=bytes(8 * 10_001), jpeg=True)
    for path, words in ((plain, "room for"), (packed, "room for"), (many, "more than 10000 images")):
        assert list_frames(path) == [path]
        refusal(path, path.name, words)
        refusal(f"{path}#7", path.name, words)


def test_a_volume_of_too_many_slices_is_refused(tmp_path):
    pytest.importorskip("nibabel", reason="needs the extra medical")
    long = write(tmp_path, "long.nii", nifti((4, 4, 2**40), two=True))
    assert list_frames(long) == [long]
    refusal(f"{long}#3", "long.nii", "more than 10000 images")


def test_a_volume_of_too_many_pixels_is_refused(tmp_path):
    pytest.importorskip("nibabel", reason="needs the extra medical")
    wide = write(tmp_path, "wide.nii", nifti((32000, 32000, 3)))
    refusal(f"{wide}#1", "wide.nii", "more pixels than are safe")


def test_a_volume_without_its_voxels_is_refused(tmp_path):
    pytest.importorskip("nibabel", reason="needs the extra medical")
    none = write(tmp_path, "none.nii", nifti((9000, 9000, 9000)))
    refusal(f"{none}#1", "none.nii", "damaged")


@pytest.mark.parametrize("shape", [(0, 4, 4), (4, 0, 4), (4, 4, 0)])
def test_a_volume_of_no_size_is_listed_and_refused(tmp_path, shape):
    pytest.importorskip("nibabel", reason="needs the extra medical")
    flat = write(tmp_path, "flat.nii", nifti(shape))
    assert list_frames(flat)  # so that reading it reports the error
    refusal(list_frames(flat)[0], "flat.nii", "of shape", "three axes")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("length", [2**31 - 1, 100 << 20, 0, -8])
def test_an_extension_of_impossible_length_is_refused(tmp_path, order, two, length):
    pytest.importorskip("nibabel", reason="needs the extra medical")
    content = nifti((4, 4, 4), order=order, two=two, vox_offset=2**30, extension=length)
    path = write(tmp_path, "a.nii.gz", gzip.compress(content + bytes(1 << 20)))
    refusal(f"{path}#1", "a.nii.gz", "an extension of")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("two", [False, True])
def test_extensions_of_ordinary_length_are_passed_over(tmp_path, order, two):
    pytest.importorskip("nibabel", reason="needs the extra medical")
    begin = 544 if two else 352
    content = nifti((4, 4, 2), order=order, two=two, vox_offset=begin + 32, extension=32)
    path = write(tmp_path, "a.nii.gz", gzip.compress(content + bytes(24) + bytes(range(32))))
    assert load_image(f"{path}#1").max() == 255


def test_medical_bombs_take_little_memory(tmp_path):
    """A DICOM file that inflates to 1 GB, an extension of 2 GB, and a slice across a volume of 32 GB."""
    pytest.importorskip("nibabel", reason="needs the extra medical")
    gigabyte = deflated(1024, -zlib.MAX_WBITS)
    bomb = dicom(tmp_path, "bomb.dcm", inflated=gigabyte)
    head = nifti((4, 4, 4), vox_offset=2**31, extension=2**31 - 1024)
    extension = write(tmp_path, "extension.nii.gz", gzipped(head, 300))
    head = bytearray(nifti((4000, 2000, 4000)))
    struct.pack_into("<hh", head, 252, 0, 1)  # the first axis of the array leads to the head
    struct.pack_into("<12f", head, 280, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0)
    across = write(tmp_path, "across.nii.gz", gzipped(bytes(head), 300))
    small = write(tmp_path, "slices.nii.gz", gzipped(nifti((4, 4, 4)), 300))
    paths = [bomb, extension, f"{across}#1", f"{small}#1"]
    words = ["more than 536870912 bytes", "an extension of", "unpack it first", "(4, 4, 3)"]
    for path, expected, (_, said, megabytes) in zip(paths, words, read_apart(tmp_path, *paths), strict=True):
        assert expected in said, path
        assert megabytes < MEGABYTES, path


def test_deflated_files_within_the_limit_are_read(tmp_path, monkeypatch):
    pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")
    sample = pydicom.data.get_testdata_file("image_dfl.dcm", download=False)
    assert load_image(sample).shape == (512, 512, 3)
    monkeypatch.setattr("medvlad.images.dicom_file._MAX_INFLATED", 100_000)
    with pytest.raises(InputError, match="more than 100000 bytes"):
        load_image(sample)
