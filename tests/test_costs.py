"""The section on cost in docs/scale.md: its arithmetic, and its numbers of requests."""

import itertools
import re
import uuid
from collections import Counter

import pytest
from support.documents import ROOT
from support.faults import light_network, write_images
from support.in_this_process import run_command
from support.object_storage import faulty

from medvlad._util.object_path import location
from medvlad.datasets.arriving import PAUSE
from medvlad.datasets.watched_prefix import ObjectPrefix
from medvlad.datasets.watching import FolderWatch
from medvlad.images.prefetch import load_squares

pytest.importorskip("fsspec", reason="needs the extra cloud")

SECTION = (ROOT / "docs/scale.md").read_text(encoding="utf-8").partition("## Cost")[2].partition("\n## ")[0]


def test_dollars_follow_from_images_a_second():
    rows = re.findall(r"^\| [^|]+ \| ([0-9.]+) \| ([0-9.]+) P \|$", SECTION, re.MULTILINE)
    assert rows
    for rate, hours in rows:
        assert hours == f"{1e6 / float(rate) / 3600:.1f}"


def test_no_price_is_named():
    assert "$" not in SECTION


def requests_of_images(command):
    """Return how many requests to images read and write."""
    with faulty() as system:
        assert run_command(*command)[0] == 0
    calls = Counter(method for method, path in system.calls if path.endswith(".png"))
    return calls["info"] + calls["cat_file"], calls["pipe_file"]


def test_requests_are_counted(tmp_path, monkeypatch):
    """Those of the listing and of the store do not grow with each image."""
    light_network(monkeypatch.setattr)
    stated = dict(
        re.findall(r"^\| an image, (\w+) runs? with (?:a|the) store \| ([0-9]+) \| 0 \|", SECTION, re.M)
    )
    write_images(tmp_path / "images", 6)
    url, n_images = f"memory://{uuid.uuid4().hex}", 0
    for file in (tmp_path / "images").rglob("*.png"):
        location(f"{url}/i/{file.parent.name}/{file.name}", "an image").write_bytes(file.read_bytes())
        n_images += 1
    words = ["extract", f"{url}/i", "--model", "light", "--layer", "x", "--weights", "imagenet"]
    for run in ("first", "later"):
        assert requests_of_images([*words, "--store", f"{url}/s"]) == (int(stated[run]) * n_images, 0)


def test_requests_of_a_watched_image_are_counted(tmp_path):
    (stated,) = re.findall(r"^\| an image of `predict --watch` \| ([0-9]+) \| 0 \|", SECTION, re.M)
    write_images(tmp_path / "images", 1)
    url, files = f"memory://{uuid.uuid4().hex}", list((tmp_path / "images").rglob("*.png"))
    for i, file in enumerate(files):
        location(f"{url}/{i}.png", "an image").write_bytes(file.read_bytes())
    with faulty() as system:
        watch = FolderWatch(ObjectPrefix(location(url, "a prefix")), settle=0.0, sleep=lambda _: None)
        names = list(itertools.takewhile(lambda name: name is not PAUSE, watch))
        list(load_squares(names, range(len(names)), (16,), "nearest", n_threads=1))
        assert all(watch.answer(name) for name in names)
    calls = Counter(method for method, path in system.calls if path.endswith(".png"))
    assert len(names) == len(files)
    assert calls["info"] + calls["cat_file"] == int(stated) * len(names)
    assert not calls["pipe_file"]
