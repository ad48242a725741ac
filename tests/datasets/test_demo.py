"""The demo's images: no pixel of the training part in the test part, the same each time."""

import numpy as np
import pytest
from PIL import Image

from medvlad import load_image_folder
from medvlad.datasets.demo import CLASSES, write_demo_images

data = pytest.importorskip("skimage.data", reason="needs the extra demo")


def contains(photograph, patch):
    """Whether `patch` stands somewhere in `photograph`."""
    windows = np.lib.stride_tricks.sliding_window_view(photograph, patch.shape[:2], axis=(0, 1))
    corner = (windows[..., :1, :1] == patch[:1, :1].reshape(1, 1, -1, 1, 1)).reshape(*windows.shape[:2], -1)
    for top, left in np.argwhere(corner.all(axis=2)):
        if np.array_equal(photograph[top : top + len(patch), left : left + patch.shape[1]], patch):
            return True
    return False


def test_halves_do_not_meet(tmp_path):
    write_demo_images(tmp_path)
    for part in ("train", "test"):
        found = load_image_folder(tmp_path, split=part)
        assert found.class_names == sorted(CLASSES)
        assert np.bincount(found.labels).tolist() == [20] * len(CLASSES)
    for name in ("brick", "moon"):
        pixels = np.asarray(getattr(data, CLASSES[name])())
        middle = pixels.shape[1] // 2
        for part, half in (("train", pixels[:, :middle]), ("test", pixels[:, middle:])):
            patch = np.asarray(Image.open(tmp_path / part / name / f"{name}_00.png"))
            assert contains(half, patch)


def test_seeded(tmp_path):
    for folder in ("a", "b"):
        write_demo_images(tmp_path / folder)
    for one in sorted((tmp_path / "a").rglob("*.png")):
        assert one.read_bytes() == (tmp_path / "b" / one.relative_to(tmp_path / "a")).read_bytes()
