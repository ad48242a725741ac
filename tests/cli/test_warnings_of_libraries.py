"""The command line names the file that a library warns about, once for each file."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image


def odd_tiff(path, rng):
    """Write a TIFF with two resolutions, about which Pillow warns."""
    image = Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8))
    image.save(path, tiffinfo={282: (72.0,)})
    content = bytearray(path.read_bytes())
    at = content.index((282).to_bytes(2, "little") + b"\x05\0" + (1).to_bytes(4, "little"))
    content[at + 4] = 2
    path.write_bytes(content)


@pytest.fixture
def folder(tmp_path, rng):
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(2):
            odd_tiff(tmp_path / "images" / name / f"{i}.tif", rng)
    return tmp_path / "images"


def test_each_file_is_named_once(folder):
    done = subprocess.run(
        [sys.executable, "-m", "medvlad", "audit", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "default"},
    )
    about = [line for line in done.stderr.splitlines() if "tag 282" in line]
    files = [folder / name / f"{i}.tif" for name in ("a", "b") for i in range(2)]
    starts = sorted(line.partition(": Metadata")[0] for line in about)
    assert starts == [f"medvlad: {file}" for file in files], done.stderr
