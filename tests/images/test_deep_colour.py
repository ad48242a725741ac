"""Colour of 16 bits in PNG and TIFF, read by imagecodecs and tifffile."""

import numpy as np
import pytest

from medvlad import InputError
from medvlad.images.read import list_frames, load_image

tifffile = pytest.importorskip("tifffile", reason="needs the extra medical")
imagecodecs = pytest.importorskip("imagecodecs", reason="needs the extra medical")


@pytest.fixture
def deep(rng):
    """Colour of 12 bits."""
    pixels = rng.integers(0, 4096, (6, 5, 3), dtype=np.uint16)
    pixels[0, 0, 0], pixels[1, 1, 2] = 0, 4095
    return pixels


@pytest.mark.parametrize("kind", ["png", "tiff", "planar"])
def test_colour_of_16_bits_is_stretched_over_all_channels(tmp_path, deep, kind):
    path = tmp_path / f"a.{'png' if kind == 'png' else 'tif'}"
    if kind == "png":
        path.write_bytes(imagecodecs.png_encode(deep))
    elif kind == "tiff":
        tifffile.imwrite(path, deep, photometric="rgb")
    else:
        tifffile.imwrite(path, deep.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(load_image(path), np.rint(deep * (255 / 4095)))


def test_transparency_of_16_bits_is_dropped(tmp_path, deep):
    both = np.dstack([deep, np.full(deep.shape[:2], 65535, np.uint16)])
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(both))
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), np.rint(deep * (255 / 4095)))


@pytest.fixture
def pages(rng):
    return rng.integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)


def test_the_pages_of_a_tiff_are_listed_and_read_one_by_one(tmp_path, pages):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pages, photometric="rgb")
    assert [str(f) for f in list_frames(path)] == [f"{path}#{i}" for i in range(3)]
    for i, frame in enumerate(list_frames(path)):
        np.testing.assert_array_equal(load_image(frame), pages[i])


def test_a_tiff_of_several_pages_is_refused_if_none_is_named(tmp_path, pages):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pages, photometric="rgb")
    with pytest.raises(InputError, match="holds 3 images"):
        load_image(path)


def test_a_page_of_16_bit_colour_is_stretched_over_its_own_range(tmp_path, pages):
    path = tmp_path / "a.tif"
    deep = (pages.astype(np.uint16) << 4) + 3
    tifffile.imwrite(path, deep, photometric="rgb")
    expected = np.rint((deep[2] - float(deep[2].min())) * (255 / (float(deep[2].max()) - deep[2].min())))
    np.testing.assert_array_equal(load_image(f"{path}#2"), expected)


def test_damaged_colour_is_refused(tmp_path, deep):
    content = imagecodecs.png_encode(deep)
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"a\.png' is corrupt or truncated"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize("largest", [300, 1023, 4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_ppm_of_16_bits_keeps_its_bits(tmp_path, deep, largest, plain):
    """Linear over its own range, as PNG and TIFF are, whatever maximum the header claims."""
    values = np.minimum(deep, largest)
    values[1, 1, 2] = min(largest, 4095)
    head = f"P{3 if plain else 6}\n# made by hand\n5 6\n{largest}\n".encode()
    text = b"\n# a row\n".join(b" ".join(b"%d" % value for value in row.ravel()) for row in values)
    (tmp_path / "a.ppm").write_bytes(head + (text if plain else values.astype(">u2").tobytes()))
    expected = np.rint(values * (255 / float(values.max())))
    np.testing.assert_array_equal(load_image(tmp_path / "a.ppm"), expected)


@pytest.mark.parametrize(
    "content", [b"P6 2 2 4095\n" + bytes(23), b"P3 2 2 4095\n1 2 3", b"P3 2 2 4095\n" + b"x " * 12]
)
def test_damaged_ppm_is_refused(tmp_path, content):
    (tmp_path / "a.ppm").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.ppm' is corrupt or truncated"):
        load_image(tmp_path / "a.ppm")
