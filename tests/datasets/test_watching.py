"""Files of a watched folder are named once each, when they are complete."""

import itertools
import logging
import os
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from medvlad import InputError
from medvlad.datasets.arriving import PAUSE
from medvlad.datasets.watching import FolderWatch, LocalFolder

N = 10_000


class Watching:
    """A watch of a folder with a clock that moves by hand: `SETTLE` seconds are two rounds."""

    def __init__(self, place, answered=None):
        self.now = 0.0
        self.watch = FolderWatch(place, answered, settle=2.0, clock=lambda: self.now, sleep=self.sleep)
        self.names = iter(self.watch)
        self.slept = []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def round(self, *, answer=True):
        """Return the images of one listing and the versions of their files."""
        found = list(itertools.takewhile(lambda name: name is not PAUSE, self.names))
        return [(name, self.watch.answer(name)) for name in found] if answer else found

    def until(self, n=8):
        """Return the images of several listings."""
        return [os.path.basename(name) for _ in range(n) for name, version in self.round() if version]  # noqa: PTH119


def image(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(path)
    return path


@pytest.fixture
def watching(tmp_path):
    return Watching(LocalFolder(tmp_path))


def test_present_files_are_named_once_and_in_order(tmp_path, watching):
    for name in ("b.png", "a.png", "deep/c.png", "a1/d.png"):
        image(tmp_path / name)
    assert [watching.round() for _ in range(2)] == [[], []], "they may still be written"
    named = [name for name, _ in watching.round()]
    assert named == [str(tmp_path / name) for name in ("a.png", "b.png", "a1/d.png", "deep/c.png")]
    assert watching.until() == []
    image(tmp_path / "e.png")
    assert watching.until() == ["e.png"]


def test_a_file_that_grows_is_named_when_it_is_complete(tmp_path, watching):
    image(tmp_path.parent / "whole.png")
    content = (tmp_path.parent / "whole.png").read_bytes()
    for i in range(1, len(content), len(content) // 4):
        (tmp_path / "a.png").write_bytes(content[:i])
        assert watching.until(2) == []
    (tmp_path / "a.png").write_bytes(content)
    assert watching.until() == ["a.png"]


def test_a_change_of_the_number_of_images_is_no_error(tmp_path, watching):
    """The reader counts again: it finds a.tif#0 and a.tif#1 where a.tif was named."""
    path = image(tmp_path / "a.tif")
    while not (named := watching.round(answer=False)):
        pass
    assert named == [str(path)]
    first = Image.open(path).convert("L")
    first.save(path, save_all=True, append_images=[first])
    assert [watching.watch.answer(f"{path}#{i}") for i in range(2)] == [None, None]
    assert watching.until() == ["a.tif#0", "a.tif#1"]


def test_a_change_while_a_file_is_read_gives_no_answer_yet(tmp_path, watching):
    path = image(tmp_path / "a.png")
    while not (named := watching.round(answer=False)):
        pass
    path.write_bytes(path.read_bytes() + b"more")
    assert watching.watch.answer(named[0]) is None
    assert watching.until() == ["a.png"]
    path.unlink()
    image(path, 7)
    while not (named := watching.round(answer=False)):
        pass
    path.unlink()
    assert watching.watch.answer(named[0]) is None
    assert watching.until() == [], "it is gone"


def test_a_change_between_listing_and_turn_waits_again(tmp_path, watching):
    first, second = image(tmp_path / "a.png"), image(tmp_path / "b.png")
    while (name := next(watching.names)) is PAUSE:
        pass
    assert (name, watching.watch.answer(name) is None) == (str(first), False)
    second.write_bytes(second.read_bytes() + b"more")
    assert watching.round() == []
    assert watching.until() == ["b.png"]


def test_a_new_version_is_named_again_and_a_removed_file_is_forgotten(tmp_path, watching):
    path = image(tmp_path / "a.png")
    assert watching.until() == ["a.png"]
    path.write_bytes(path.read_bytes() + b"x")
    assert watching.until() == ["a.png"]
    path.unlink()
    watching.until()
    assert not watching.watch._files


def test_temporary_names_and_empty_files_wait(tmp_path, watching):
    for name in (".a.png", "b.png.part", "c.tmp", ".hidden/d.png", "e.png~"):
        image(tmp_path / "x.png").rename((tmp_path / name).parent.mkdir(exist_ok=True) or tmp_path / name)
    (tmp_path / "f.png").touch()
    (tmp_path / "notes.txt").write_text("no image")
    assert watching.until() == []
    (tmp_path / "b.png.part").rename(tmp_path / "b.png")
    assert watching.until() == ["b.png"]


def test_a_damaged_file_is_named_because_reading_it_tells_the_reason(tmp_path, watching):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing")
    (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheic0000mif1heic")
    assert watching.until() == ["a.png", "b.heic"]


def test_answered_versions_are_left_out_after_a_restart(tmp_path, watching):
    paths = [image(tmp_path / f"{name}.png") for name in "ab"]
    answered = {name: version for _ in range(4) for name, version in watching.round()}
    assert set(answered) == set(map(str, paths))
    image(tmp_path / "c.png")
    paths[1].write_bytes(paths[1].read_bytes() + b"x")
    assert Watching(LocalFolder(tmp_path), answered).until() == ["b.png", "c.png"]


def test_images_of_a_file_are_answered_one_by_one(tmp_path, watching):
    frames = [Image.fromarray(np.full((4, 4, 3), i, np.uint8)) for i in range(3)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    answered = {name: version for _ in range(4) for name, version in watching.round()}
    assert [name.rpartition("#")[2] for name in answered] == ["0", "1", "2"]
    answered.popitem()
    assert Watching(LocalFolder(tmp_path), answered).until() == ["a.tif#2"]


def test_images_that_are_put_back_have_no_answer(tmp_path, watching):
    frames = [Image.fromarray(np.full((4, 4, 3), i, np.uint8)) for i in range(3)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    while not (named := watching.round(answer=False)):
        pass
    assert watching.watch.answer(named[0]) is not None
    watching.watch.put_back()
    watching.names = iter(watching.watch)
    watching.now += 60
    assert watching.until() == ["a.tif#1", "a.tif#2"]
    assert not watching.watch._partly


def test_a_folder_that_cannot_be_listed_for_a_while_loses_nothing(tmp_path, caplog):
    class Failing(LocalFolder):
        fails = False

        def files(self):
            if self.fails:
                raise OSError(5, "Input/output error")
            return super().files()

    place = Failing(tmp_path)
    watching = Watching(place)
    image(tmp_path / "a.png")
    assert watching.until() == ["a.png"]
    place.fails = True
    with caplog.at_level(logging.WARNING):
        assert watching.until() == []
    assert [record.getMessage() for record in caplog.records] == [
        "the watched folder cannot be listed (Input/output error): trying again"
    ]
    place.fails = False
    assert watching.until() == [], "it was answered before"


def test_a_slow_listing_takes_at_most_half_of_the_time(tmp_path):
    class Slow(LocalFolder):
        def files(self):
            watching.now += 30
            return super().files()

    watching = Watching(Slow(tmp_path))
    watching.until(3)
    assert watching.slept == [30, 30]


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"the folder to watch, .*gone.* cannot be read"):
        LocalFolder(tmp_path / "gone")


def test_links_to_folders_are_not_followed(tmp_path, watching):
    image(tmp_path / "a.png")
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    assert watching.until() == ["a.png"]


def test_memory_is_that_of_names(tmp_path):
    class Many:
        def files(self):
            return (
                (f"/data/incoming/2026/11/image{i:07d}.png", f"{i}-1764503020123456789") for i in range(N)
            )

        def version(self, name):
            return f"{int(name[-11:-4])}-1764503020123456789"

        def images(self, name):
            return [name]

    watching = Watching(Many())
    tracemalloc.start()
    n = sum(len(watching.round()) for _ in range(4))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n == N
    assert held < 400 * n, "40 MB for 100,000 files"
