"""Images are read ahead of the network: in order, not too far, and not after the caller has stopped."""

import threading
import time

import numpy as np
import pytest
from PIL import Image
from support.at_a_time import AtATime

from medvlad import InputError
from medvlad.images import large_files
from medvlad.images import prefetch as loading
from medvlad.images.prefetch import load_squares
from medvlad.images.read import load_image, read_image
from medvlad.images.resize import resize_square


@pytest.fixture
def pictures(rng):
    return [rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8) for i in range(40)]


@pytest.mark.parametrize("n_threads", [1, 2, 7])
def test_squares_come_in_order_and_as_if_read_one_by_one(pictures, n_threads):
    wanted = [5, 0, 39, 3, 3, *range(10, 20)]
    found = list(load_squares(pictures, wanted, (16, 24), "bilinear", n_threads=n_threads))
    assert [i for i, _ in found] == wanted
    for i, (small, large) in found:
        np.testing.assert_array_equal(small, resize_square(load_image(pictures[i]), 16))
        np.testing.assert_array_equal(large, resize_square(load_image(pictures[i]), 24))


def test_an_image_that_cannot_be_read_gives_its_error_in_order(pictures):
    images = [pictures[0], np.zeros((4, 4)), pictures[1], "nowhere.png"]
    found = list(load_squares(images, range(4), (16,), "nearest", n_threads=2))
    assert [isinstance(squares, InputError) for _, squares in found] == [False, True, False, True]
    assert "float64" in str(found[1][1])
    assert "nowhere.png" in str(found[3][1])


def test_other_errors_are_raised(pictures, monkeypatch):
    def broken(image):
        raise MemoryError("no room")

    monkeypatch.setattr(loading, "load_image", broken)
    with pytest.raises(MemoryError, match="no room"):
        list(load_squares(pictures, range(3), (16,), "nearest", n_threads=2))


class Asked:
    """A sequence of images that counts the accesses."""

    def __init__(self, images):
        self.images, self.count = images, 0

    def __getitem__(self, index):
        self.count += 1
        return self.images[index]


def test_images_are_read_ahead_up_to_the_limit(pictures, monkeypatch):
    monkeypatch.setattr(loading, "_PIXELS_AHEAD", 10 * 16 * 16)
    asked = Asked(pictures)
    squares = load_squares(asked, range(40), (16,), "nearest", n_threads=2)
    next(squares)
    time.sleep(0.2)
    assert asked.count <= 12
    assert asked.count >= 8  # and ahead at all
    squares.close()


def test_no_thread_is_left_after_closing(pictures):
    def loaders():
        return [t for t in threading.enumerate() if t.name.startswith("medvlad-load")]

    squares = load_squares(pictures, range(40), (16,), "nearest", n_threads=3)
    next(squares)
    assert loaders()
    squares.close()
    assert not loaders()


def test_reading_is_concurrent(monkeypatch):
    """Three images wait for each other. They only can in three threads."""
    barrier = threading.Barrier(3, timeout=20)

    def meet(image):
        barrier.wait()
        return image

    monkeypatch.setattr(loading, "load_image", meet)
    images = [np.full((16, 16, 3), i, np.uint8) for i in range(3)]
    found = list(load_squares(images, range(3), (16,), "nearest", n_threads=3))
    assert [int(squares[0][0, 0, 0]) for _, squares in found] == [0, 1, 2]


def test_only_two_large_files_are_decoded_at_a_time(pictures, tmp_path, monkeypatch):
    """A decoded radiograph takes many times the memory of its square."""
    paths = []
    for i, picture in enumerate(pictures[:8]):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(picture).save(paths[-1])
    for size, expected in ((0, 2), (1 << 30, 6)):
        monkeypatch.setattr(large_files, "_LARGE_FILE", size)
        slow = AtATime(read_image)
        monkeypatch.setattr(loading, "read_image", slow)
        assert len(list(load_squares(paths, range(8), (16,), "nearest", n_threads=6))) == 8
        assert slow.most <= expected
        assert slow.most > 2 or size == 0
