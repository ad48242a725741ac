"""Parts of a PNG that its pixels do not need cannot make libpng print to standard error."""

import struct
import zlib

import numpy as np
import pytest
from support.image_bytes import png

from medvlad.images.png_chunks import essential_png
from medvlad.images.read import load_image


def with_doubtful_parts(content):
    """Add parts that libpng complains about, after the header."""
    added = b""
    for kind, data in (
        (b"iCCP", b"x\0\0" + zlib.compress(b"no profile")),
        (b"sBIT", b"\1"),
        (b"tIME", b"\0"),
    ):
        checksum = zlib.crc32(kind + data)
        added += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
    return content[:33] + added + content[33:]


@pytest.fixture
def content(rng):
    return png(rng.integers(0, 65536, (6, 9, 3)), 2, 16)


def test_only_the_essential_parts_are_left(content):
    assert essential_png(with_doubtful_parts(content)) == content


@pytest.mark.parametrize("size", [0, 7, 8, 20, 40, 60])
def test_a_cut_file_stays_as_it_is(content, size):
    assert essential_png(content[:size]) == content[:size]


def test_deep_colour_with_doubtful_parts_is_read_in_silence(tmp_path, content, capfd):
    pytest.importorskip("imagecodecs", reason="the extra medical is not installed")
    (tmp_path / "plain.png").write_bytes(content)
    (tmp_path / "doubtful.png").write_bytes(with_doubtful_parts(content))
    found = load_image(tmp_path / "doubtful.png")
    assert capfd.readouterr() == ("", "")
    np.testing.assert_array_equal(found, load_image(tmp_path / "plain.png"))
