"""Objects below a watched prefix are named once each, also if listings are old or fail."""

import io
import itertools
import logging
import uuid

import numpy as np
import pytest
from PIL import Image
from support.image_bytes import encode, rgb
from support.object_storage import SECRET, busy, faulty, no_waits

from medvlad import InputError
from medvlad._util.object_path import location
from medvlad._util.object_storage import remove
from medvlad.datasets.arriving import PAUSE
from medvlad.datasets.watched_prefix import FORGET_AFTER, ObjectPrefix
from medvlad.datasets.watching import FolderWatch
from medvlad.images.read import load_image

pytest.importorskip("fsspec", reason="needs the extra cloud")

PNG = encode(Image.fromarray(rgb()), "PNG")


@pytest.fixture
def prefix(monkeypatch):
    no_waits(monkeypatch)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return location(f"memory://{uuid.uuid4().hex}/incoming", "a prefix")


def write(prefix, *names, content=None):
    for name in names:
        (prefix / name).write_bytes(PNG if content is None else content)


class Watching:
    """A watch with a clock that moves by hand, five seconds a round."""

    def __init__(self, prefix, answered=None, **settings):
        self.now, self.prefix = 0.0, prefix
        place = ObjectPrefix(prefix, **settings)
        self.watch = FolderWatch(
            place,
            answered,
            settle=0.0,
            interval=5.0,
            forget=FORGET_AFTER,
            clock=lambda: self.now,
            sleep=self.sleep,
        )
        self.names = iter(self.watch)

    def sleep(self, seconds):
        self.now += seconds

    def named(self):
        """Return what one listing names, before it is answered."""
        return list(itertools.takewhile(lambda name: name is not PAUSE, self.names))

    def round(self):
        """Return the names of images below the prefix that one listing names and that are answered."""
        named = map(str, self.named())
        return [n.removeprefix(f"{self.prefix}/") for n in named if self.watch.answer(n) is not None]


def test_objects_are_named_once_when_they_are_listed(prefix, caplog):
    watching = Watching(prefix)
    assert "no object below" in caplog.text
    assert watching.round() == []
    write(prefix, "b.png", "a.png", "deep/c.png", ".hidden.png", "d.png.part")
    write(prefix, "notes.txt", content=b"text")
    write(prefix, "empty.png", content=b"")
    assert watching.round() == ["a.png", "b.png", "deep/c.png"]
    assert watching.round() == []
    write(prefix, "e.png")
    assert watching.round() == ["e.png"]
    assert watching.now == 15.0, "the interval lies between listings"


def test_a_replaced_object_is_named_again(prefix):
    watching = Watching(prefix)
    write(prefix, "a.png")
    assert watching.round() == ["a.png"]
    write(prefix, "a.png", content=PNG + b"more")
    assert watching.round() == ["a.png"]


def test_an_object_that_is_replaced_while_it_is_read_gets_no_answer(prefix):
    watching = Watching(prefix)
    write(prefix, "a.png")
    (name,) = watching.named()
    write(prefix, "a.png", content=PNG + b"more")
    assert watching.watch.answer(name) is None
    assert watching.round() == ["a.png"]


@pytest.mark.parametrize("old", [0, 1], ids=["without the object", "with its old content"])
def test_an_old_listing_names_nothing_twice(prefix, old):
    """Objects may be missing from a listing, or be shown as they were before they were replaced."""
    seen = []
    with faulty() as system:
        system.stale = [lambda found: seen.append(list(found)) or found]
        watching = Watching(prefix)
        write(prefix, "z.png")
        assert watching.round() == ["z.png"]
        write(prefix, "a.png")
        assert watching.round() == ["a.png"]
        write(prefix, "a.png", content=PNG + b"more")
        assert watching.round() == ["a.png"]
        system.stale = [lambda found: seen[1 + old]]
        assert watching.round() == []
        system.stale = [lambda found: found]
        assert watching.round() == []


def test_an_object_is_forgotten_some_minutes_after_it_is_gone(prefix):
    watching = Watching(prefix)
    write(prefix, "keep.png", "a.png")
    watching.round()
    content = (prefix / "a.png").read_bytes()
    assert content
    with faulty() as system:
        system.stale = [lambda found: [one for one in found if not one["name"].endswith("a.png")]]
        watching.round()
        assert len(watching.watch._past) == 1
        watching.now += FORGET_AFTER + 1
        watching.round()
    assert not watching.watch._past


def test_a_listing_that_fails_is_survived(prefix, caplog):
    watching = Watching(prefix)
    write(prefix, "a.png")
    assert watching.round() == ["a.png"]
    with faulty() as system:
        system.faults += [("ls", busy)] * 12  # two listings, six tries each
        assert watching.round() == []
        assert watching.round() == []
        assert not system.faults
    assert caplog.text.count("cannot be listed") == 1
    assert SECRET not in caplog.text
    write(prefix, "b.png")
    assert watching.round() == ["b.png"]


def test_after_an_outage_images_without_an_answer_are_named_one_by_one(prefix):
    write(prefix, "a.png", "b.png", "c.png")
    watching = Watching(prefix)
    first, *_ = watching.named()
    assert watching.watch.answer(first) is not None
    watching.watch.put_back()
    watching.names = iter(watching.watch)
    assert watching.named() == [f"{prefix}/b.png"]
    watching.watch.put_back()  # it fails alone, so it waits for a minute
    watching.names = iter(watching.watch)
    assert watching.round() == ["c.png"]
    assert watching.round() == []
    watching.now += 60
    assert watching.round() == ["b.png"]


def test_after_a_restart_answered_objects_are_left_out(prefix):
    write(prefix, "a.png", "b.png")
    version = ObjectPrefix(prefix).version(f"{prefix}/a.png")
    assert Watching(prefix, {f"{prefix}/a.png": version}).round() == ["b.png"]


def test_feature_files_are_named_instead_of_images(prefix):
    write(prefix, "a.png", "b.npy", "c.h5")
    assert Watching(prefix, of_features=True).round() == ["b.npy", "c.h5"]


def test_versions_of_listings_and_look_ups_agree_although_times_do_not(prefix):
    """Some servers round times differently in the two answers, and have the same ETag."""
    write(prefix, "a.png")

    def rounded(found):
        return [one | {"ETag": "x", "LastModified": "2026-01-01T00:00:00.123"} for one in found]

    def looked_up(real, path, **_):
        return real(path) | {"ETag": "x", "LastModified": "2026-01-01T00:00:00"}

    with faulty() as system:
        system.stale = [rounded]
        watching = Watching(prefix)
        system.faults += [("info", looked_up)] * 2
        assert watching.round() == ["a.png"]


def test_what_cannot_be_watched_is_told(prefix, caplog):
    with pytest.raises(InputError, match="https:// has no listings"):
        ObjectPrefix(location("https://host/incoming", "a prefix"))
    write(prefix, "a.png")
    with pytest.raises(InputError, match=r"a.png, cannot be listed \(.*it is an object"):
        ObjectPrefix(prefix / "a.png")
    with faulty() as system, caplog.at_level(logging.WARNING):
        system.faults += [("ls", busy)] * 6
        with pytest.raises(InputError, match="after 6 tries") as raised:
            ObjectPrefix(prefix)
    assert SECRET not in str(raised.value) + caplog.text


def pages(n):
    content = io.BytesIO()
    first, *others = (Image.fromarray(rgb(8, 8) // (i + 1)) for i in range(n))
    first.save(content, "TIFF", save_all=True, append_images=others)
    return content.getvalue()


def test_a_file_that_cannot_be_inspected_is_named_later_and_with_all_its_images(prefix, caplog):
    write(prefix, "a.png", "z.png")
    write(prefix, "pages.tif", content=pages(2))
    watching = Watching(prefix)
    with faulty() as system:

        def away(real, path, *args, **kwargs):
            return busy(real, path) if path.endswith(".tif") else real(path, *args, **kwargs)

        system.faults += [("cat_file", away)] * 6
        assert watching.round() == ["a.png", "z.png"]
    assert "pages.tif cannot be read, because its storage fails" in caplog.text
    assert "trying again in a minute" in caplog.text
    assert watching.round() == []
    watching.now += 60
    assert watching.round() == ["pages.tif#0", "pages.tif#1"]
    assert watching.round() == []


def test_after_an_outage_answered_images_of_a_file_are_not_named_again(prefix):
    write(prefix, "pages.tif", content=pages(3))
    watching = Watching(prefix)
    first, *_ = watching.named()
    assert watching.watch.answer(first) is not None
    watching.watch.put_back()
    watching.names = iter(watching.watch)
    watching.now += 60
    with faulty() as system:  # one listing lacks the file
        system.stale = [lambda found: [], lambda found: found]
        assert watching.round() == []
        assert watching.round() == ["pages.tif#1", "pages.tif#2"]
    assert not watching.watch._partly, "nothing is kept of a file whose images all have answers"
    write(prefix, "pages.tif", content=pages(2))
    assert watching.round() == ["pages.tif#0", "pages.tif#1"]


def test_what_is_known_of_a_file_is_forgotten_after_it_is_gone(prefix):
    write(prefix, "pages.tif", content=pages(2))
    watching = Watching(prefix)
    first, _ = watching.named()
    assert watching.watch.answer(first) is not None
    watching.watch.put_back()
    assert watching.watch._partly
    remove((prefix / "pages.tif").url)
    watching.names = iter(watching.watch)
    watching.now += FORGET_AFTER + 1
    assert watching.round() == []
    assert not watching.watch._partly


def test_names_that_hide_secrets_are_answered(prefix):
    """Text that looks like a secret is not shown, and the object is opened all the same."""
    hidden = SECRET.replace("/", "-")
    write(prefix, "a.png", "token=abc.png", f"{hidden}/password=b.png")
    watching = Watching(prefix)
    named = watching.named()
    assert [str(name) for name in named] == [
        f"{prefix}/{name}" for name in ("a.png", "token=***", f"{hidden}/password=***")
    ]
    for name in named:
        np.testing.assert_array_equal(load_image(name), rgb())
        assert watching.watch.answer(str(name)) is not None
    assert watching.round() == []
    write(prefix, "token=abc.png", content=PNG + b"more")
    assert watching.round() == ["token=***"]


def test_names_that_cannot_be_used_are_told_once(prefix, caplog):
    write(prefix, "a.png", "what?.png", "token=abc.png", "token=def.png")
    watching = Watching(prefix)
    assert watching.round() == ["a.png", "token=***"]
    assert watching.round() == []
    assert caplog.text.count("begins the query of a URL") == 1
    assert caplog.text.count("is the name of several objects after secrets are hidden") == 1
    assert "abc" not in caplog.text


def test_hidden_numbers_of_images_are_told(prefix, caplog):
    write(prefix, "token=abc.tif", content=pages(2))
    assert Watching(prefix).round() == []
    assert "whose numbers are hidden" in caplog.text
