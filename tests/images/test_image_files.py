"""Files that cannot be read are refused in one sentence, however they are damaged."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from support.image_bytes import H, W, encode, pgm, refusal, rgb, write

from medvlad._util.validate import InputError
from medvlad.images.read import load_image


def test_a_missing_file_is_refused(tmp_path):
    refusal(tmp_path / "no.jpg", tmp_path / "no.jpg", "does not exist")


def test_a_file_below_a_file_does_not_exist(tmp_path):
    write(tmp_path, "file", b"x")
    refusal(tmp_path / "file" / "no.jpg", tmp_path / "file" / "no.jpg", "does not exist")


def test_a_broken_link_does_not_exist(tmp_path):
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    refusal(tmp_path / "broken.jpg", "broken.jpg", "does not exist")


def test_a_folder_is_refused(tmp_path):
    refusal(tmp_path, tmp_path, "is a folder")


def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    refusal(tmp_path / "a.jpg", tmp_path / "a.jpg", "not a regular file")


def test_an_empty_file_is_refused(tmp_path):
    refusal(write(tmp_path, "a.jpg", b""), "a.jpg", "empty")


@pytest.mark.parametrize("name", ["a\0b.jpg", "x" * 5000 + ".jpg"])
def test_an_impossible_name_is_refused(tmp_path, name):
    refusal(tmp_path / name, "cannot be opened", "check the path")


def test_a_name_with_a_line_break_stays_on_one_line(tmp_path):
    refusal(write(tmp_path, "a\nb.jpg", b"no image"), "a\\nb.jpg")


def test_a_file_without_permission_is_refused(tmp_path):
    path = write(tmp_path, "a.png", encode(Image.fromarray(rgb()), "PNG"))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user (root?) may read everything: see the next test")
    refusal(path, path, "may not be read")


def test_a_permission_error_of_open_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path, "a.png", encode(Image.fromarray(rgb()), "PNG"))

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    refusal(path, path, "may not be read", "permissions")


def test_a_disk_error_while_reading_is_told(tmp_path, monkeypatch):
    path = write(tmp_path, "a.png", encode(Image.fromarray(rgb()), "PNG"))

    def fail(*_args, **_kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    refusal(path, path, "Input/output error")


@pytest.mark.parametrize(
    "content",
    [b"this is no image", b"\0" * 200, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\xff\xd8\xff"],
    ids=["text", "zeros", "eps", "head of a jpeg"],
)
def test_a_file_that_is_not_an_image_is_refused(tmp_path, content):
    path = write(tmp_path, "a.jpg", content)
    refusal(path, path, "is not an image", "JPEG, PNG")


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_truncated_file_is_refused(tmp_path, fmt, kept):
    content = encode(Image.fromarray(rgb(40, 40)), fmt)
    path = write(tmp_path, "a.img", content[: int(len(content) * kept)])
    refusal(path, path)


def test_corrupt_png_is_told_apart_from_no_image(tmp_path):
    content = bytearray(encode(Image.fromarray(rgb(40, 40)), "PNG"))
    content[60:90] = bytes(30)
    path = write(tmp_path, "a.png", bytes(content))
    refusal(path, path, "corrupt or truncated", "copy it again or remove it")


@pytest.mark.parametrize("fmt", ["PNG", "GIF", "WEBP", "TIFF"])
def test_animations_and_pages_are_refused(tmp_path, fmt):
    frames = [Image.fromarray(rgb(seed=s)) for s in range(3)]
    path = write(tmp_path, "a", encode(frames[0], fmt, save_all=True, append_images=frames[1:]))
    refusal(
        path,
        path,
        *(("holds 3 images", "FILE#0") if fmt == "TIFF" else ("frames of an animation", "save the frame")),
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1)])
@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_a_side_of_one_pixel_is_refused(tmp_path, size, mode):
    path = write(tmp_path, "a.png", encode(Image.new(mode, size), "PNG"))
    refusal(path, path, f"{size[0]} x {size[1]} pixels", "2 x 2")


def test_two_by_two_is_enough(tmp_path):
    assert load_image(write(tmp_path, "a.png", encode(Image.fromarray(rgb(2, 2)), "PNG"))).shape == (2, 2, 3)


@pytest.mark.parametrize("action", ["error", "ignore"])
@pytest.mark.parametrize("limit", [H * W - 1, H * W // 3], ids=["Pillow warns", "Pillow raises"])
def test_the_limit_of_pixels_does_not_depend_on_warning_filters(tmp_path, monkeypatch, action, limit):
    path = write(tmp_path, "a.png", encode(Image.fromarray(rgb()), "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        filters = list(warnings.filters)
        refusal(path, path, "safe to decode", limit, "MAX_IMAGE_PIXELS")
        assert warnings.filters == filters
    assert limit == Image.MAX_IMAGE_PIXELS


def test_without_a_limit_of_pixels_nothing_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path, "a.png", encode(Image.fromarray(rgb()), "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(path).shape == (H, W, 3)


def _samples():
    picture = Image.fromarray(rgb(12, 10))
    frames = {"save_all": True, "append_images": [Image.fromarray(rgb(12, 10, seed=1))]}
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.arange(120, dtype=np.uint16).reshape(12, 10) * 9)
    return [
        encode(picture, "JPEG", exif=exif),
        encode(picture, "JPEG", progressive=True),
        encode(picture.convert("CMYK"), "JPEG"),
        encode(picture, "PNG", exif=exif),
        encode(deep, "PNG"),
        encode(picture.quantize(7), "PNG", transparency=bytes(7)),
        encode(picture, "TIFF", exif=exif),
        encode(picture, "TIFF", compression="tiff_lzw"),
        encode(picture, "TIFF", compression="jpeg"),
        encode(deep, "TIFF", compression="tiff_adobe_deflate"),
        encode(picture, "TIFF", **frames),
        encode(Image.fromarray(np.linspace(-1, 1, 120, dtype=np.float32).reshape(12, 10)), "TIFF"),
        encode(picture, "BMP"),
        encode(picture.convert("1"), "BMP"),
        encode(picture.quantize(9), "GIF"),
        encode(picture, "GIF", **frames),
        encode(picture, "WEBP", exif=exif),
        encode(picture, "WEBP", lossless=True),
        pgm(np.asarray(deep)),
        encode(picture, "PPM"),
    ]


_SAMPLES = _samples()


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_damaged_files_load_or_are_refused_and_nothing_else(data, tmp_path_factory):
    content = bytearray(data.draw(st.sampled_from(_SAMPLES)))
    for _ in range(data.draw(st.integers(0, 6))):
        # Headers are short and the pixels long: half of the changes go to the first 64 bytes.
        end = data.draw(st.sampled_from([min(64, len(content)), len(content)]))
        content[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path_factory.getbasetemp() / "mutated.img"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)  # a damaged size must not cost seconds
        try:
            loaded = load_image(path)
        except InputError as error:
            loaded, message = None, str(error)
    if loaded is None:
        assert "mutated.img" in message
        assert "\n" not in message
    else:
        assert loaded.dtype == np.uint8
        assert loaded.ndim == 3
        assert loaded.shape[2] == 3
        assert min(loaded.shape) >= 2


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=300))
def test_random_bytes_are_refused(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "random.img"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"random\.img"):
        load_image(path)
