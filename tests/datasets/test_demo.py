"""The images of the demo: no training pixel in the test part, and the same images each time."""

import numpy as np
import pytest
from PIL import Image

from medvlad import load_image_folder
from medvlad.datasets.demo import CLASSES, write_demo_images

data = pytest.importorskip("skimage.data", reason="needs the extra demo")


def contains(photograph, patch):
    """Return whether `photograph` contains `patch`."""
    windows = np.lib.stride_tricks.sliding_window_view(photograph, patch.shape[:2], axis=(0, 1))
    corner = (windows[..., :1, :1] == patch[:1, :1].reshape(1, 1, -1, 1, 1)).reshape(*windows.shape[:2], -1)
    for top, left in np.argwhere(corner.all(axis=2)):
        if np.array_equal(photograph[top : top + len(patch), left : left + patch.shape[1]], patch):
            return True
    return False


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return write_demo_images(tmp_path_factory.mktemp("demo"))


@pytest.mark.parametrize("part", ["train", "test"])
def test_each_part_has_20_patches_of_each_class(demo, part):
    found = load_image_folder(demo, split=part)
    assert found.class_names == sorted(CLASSES)
    assert np.bincount(found.labels).tolist() == [20] * len(CLASSES)


def test_train_and_test_come_from_different_halves(demo):
    for name in ("brick", "moon"):
        pixels = np.asarray(getattr(data, CLASSES[name])())
        middle = pixels.shape[1] // 2
        for part, half in (("train", pixels[:, :middle]), ("test", pixels[:, middle:])):
            patch = np.asarray(Image.open(demo / part / name / f"{name}_00.png"))
            assert contains(half, patch)


def test_the_same_seed_writes_the_same_files(tmp_path):
    for folder in ("a", "b"):
        write_demo_images(tmp_path / folder)
    for one in sorted((tmp_path / "a").rglob("*.png")):
        assert one.read_bytes() == (tmp_path / "b" / one.relative_to(tmp_path / "a")).read_bytes()
