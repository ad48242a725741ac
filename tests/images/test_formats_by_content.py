"""The content of a file decides how it is read. What is not supported is named, with what helps."""

import io

import numpy as np
import pytest
from PIL import Image, features
from support.image_bytes import encode, refusal, rgb, write
from support.tiff_files import page, tiff_of

from medvlad.images.dicom import is_dicom
from medvlad.images.formats import is_image_name
from medvlad.images.read import list_frames, load_image
from medvlad.images.signatures import image_kind


@pytest.mark.parametrize("name", ["a.dcm", "a.DICOM", "a.nii", "a.nii.gz", "a.tif", "a.gif", "a"])
def test_a_png_is_a_png_under_any_name(tmp_path, name):
    path = write(tmp_path, name, encode(Image.fromarray(rgb()), "PNG"))
    assert list_frames(path) == [path]
    assert not is_dicom(path)
    np.testing.assert_array_equal(load_image(path), rgb())


@pytest.mark.parametrize("name", ["a", "a.png", "a.dcm", "a.nii"])
def test_the_pages_of_a_tiff_are_listed_under_any_name(tmp_path, name):
    path = write(tmp_path, name, tiff_of(page(rgb()), page(rgb(seed=1))))
    assert [str(frame) for frame in list_frames(path)] == [f"{path}#0", f"{path}#1"]
    np.testing.assert_array_equal(load_image(f"{path}#1"), rgb(seed=1))


def test_dicom_whose_preamble_is_a_tiff_is_dicom(tmp_path):
    pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")
    from support.medical_files import RAMP, write_dicom

    path = write_dicom(tmp_path / "a.tif", RAMP, bits=12)
    content = path.read_bytes()
    path.write_bytes(tiff_of(page(rgb(2, 2)))[:128].ljust(128, b"\0") + content[128:])
    assert pydicom.dcmread(path).Rows == RAMP.shape[0]
    assert load_image(path).shape == (*RAMP.shape, 3)


@pytest.mark.parametrize("fmt", ["JPEG2000", "AVIF", "WEBP", "JPEG", "GIF", "BMP", "PNG", "TIFF", "PPM"])
def test_formats_are_recognised_by_their_first_bytes(fmt):
    kind = image_kind(encode(Image.fromarray(rgb(16, 16)), fmt)[:32])
    assert kind == {"JPEG2000": "JPEG 2000"}.get(fmt, fmt)


@pytest.mark.parametrize(
    "content", [b"", b"P", b"Plain text", b"\0" * 32, b"BIG", b"P5x", b"\0\0\0\x18ftypmp42"]
)
def test_other_content_has_no_kind(content):
    assert image_kind(content) is None


# --------------------------------------------------------------------------- JPEG 2000 and AVIF


@pytest.mark.parametrize("suffix", [".jp2", ".j2k", ".avif"])
def test_jpeg_2000_and_avif_are_images_of_a_folder(suffix):
    assert is_image_name(f"a{suffix}")


def test_jpeg_2000_is_read(tmp_path):
    if not features.check("jpg_2000"):
        pytest.skip("this build of Pillow does not read it")
    content = encode(Image.fromarray(rgb(20, 30)), "JPEG2000")
    np.testing.assert_array_equal(load_image(write(tmp_path, "a.jp2", content)), rgb(20, 30))


def test_avif_is_read(tmp_path):
    if not features.check("avif"):
        pytest.skip("this build of Pillow does not read it")
    y, x = np.mgrid[0:32, 0:40]
    smooth = np.stack([x * 6, y * 7, (x + y) * 3], -1).astype(np.uint8)
    content = encode(Image.fromarray(smooth), "AVIF", quality=100, subsampling="4:4:4")
    loaded = load_image(write(tmp_path, "a.avif", content))
    assert np.abs(loaded.astype(int) - smooth).max() <= 5


@pytest.mark.parametrize("fmt", ["JPEG2000", "AVIF"])
def test_what_this_pillow_cannot_read_is_named(tmp_path, monkeypatch, fmt):
    content = encode(Image.fromarray(rgb(16, 16)), fmt)
    monkeypatch.setattr(features, "check", lambda _: False)
    message = refusal(write(tmp_path, "a", content), fmt.replace("G2", "G 2"), "Pillow", "convert it to PNG")
    assert "corrupt" not in message


@pytest.mark.parametrize("bits", [2, 4, 6, 8, 10, 12, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("stream", ["jp2", "j2k"])
def test_jpeg_2000_of_every_depth(tmp_path, bits, channels, stream):
    codecs = pytest.importorskip("imagecodecs", reason="needs the extra medical")
    top = 2**bits - 1
    values = np.random.default_rng(0).integers(0, top, (20, 24, channels), endpoint=True)
    values[0, 0], values[1, 1] = 0, top
    stored = (values[..., 0] if channels == 1 else values).astype("u1" if bits <= 8 else "u2")
    content = codecs.jpeg2k_encode(stored, level=0, bitspersample=bits, codecformat=stream)
    expected = np.rint(values[..., :3] * (255 / top))
    loaded = load_image(write(tmp_path, "a", content))
    np.testing.assert_array_equal(loaded, np.repeat(expected, 3, axis=2) if channels == 1 else expected)


def test_deep_colour_of_jpeg_2000_needs_the_extra(tmp_path, monkeypatch):
    import importlib.util

    codecs = pytest.importorskip("imagecodecs", reason="needs the extra medical")
    content = codecs.jpeg2k_encode(rgb(20, 24).astype("u2") * 16, level=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    refusal(write(tmp_path, "a.jp2", content), "more than 8 bits", "medvlad[medical]")


# --------------------------------------------------------------------------- formats that are not read


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ["HEIC", "heif-convert"]),
        (b"\xff\x0a" + bytes(40), ["JPEG XL", "djxl"]),
        (b"II\xbc\x01" + bytes(40), ["JPEG XR", "PNG"]),
        (b"8BPS\0\1" + bytes(40), ["Photoshop", "save it as"]),
        (b"\x76\x2f\x31\x01" + bytes(40), ["OpenEXR", "TIFF"]),
        (b"SIMPLE  =                    T" + bytes(40), ["FITS"]),
        (b"NRRD0005\n" + bytes(40), ["NRRD", "NIfTI"]),
        (b"ObjectType = Image\n" + bytes(40), ["MetaImage", "NIfTI"]),
        (b"%PDF-1.4\n" + bytes(40), ["PDF"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_unsupported_formats_are_named(tmp_path, content, words):
    message = refusal(write(tmp_path, "a.jpg", content), "a.jpg", "does not read", *words)
    assert "corrupt" not in message
    assert "not an image" not in message


@pytest.mark.parametrize(
    ("options", "words"),
    [({"bitspersample": 12}, "12 bits"), ({"bitspersample": 16, "lossless": True}, "16 bits")],
)
def test_jpeg_of_more_than_8_bits_is_named(tmp_path, options, words):
    codecs = pytest.importorskip("imagecodecs", reason="needs the extra medical")
    content = codecs.jpeg8_encode(rgb(20, 24).astype("u2") * 16, **options)
    message = refusal(write(tmp_path, "a.jpg", content), words, "convert it to a 16-bit PNG")
    assert "damaged" not in message


def test_jpeg_ls_is_named(tmp_path):
    codecs = pytest.importorskip("imagecodecs", reason="needs the extra medical")
    refusal(write(tmp_path, "a.jls", codecs.jpegls_encode(rgb(20, 24))), "JPEG-LS", "convert it")


def test_a_damaged_jpeg_is_not_called_unsupported(tmp_path):
    content = io.BytesIO(encode(Image.fromarray(rgb(20, 24)), "JPEG")).getvalue()
    refusal(write(tmp_path, "a.jpg", content[:20]), "is damaged")
