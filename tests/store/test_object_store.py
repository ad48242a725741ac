"""A store in object storage: the bits of a local one, and nothing lost when the storage fails."""

import itertools
import logging
import time
import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.object_storage import (
    SECRET,
    busy,
    cut_put,
    cut_read,
    faulty,
    no_waits,
    put_without_answer,
    silent_cut_put,
    slow,
)
from support.store_content import SETTINGS, descriptors, fill, key_of

from medvlad import InputError
from medvlad._util import object_storage
from medvlad.store.folder import ObjectFolder
from medvlad.store.shard import write_shard
from medvlad.store.store import DescriptorStore
from medvlad.store.stored_descriptors import StoredDescriptors

pytest.importorskip("fsspec", reason="needs the extra cloud")


@pytest.fixture
def url():
    return f"memory://{uuid.uuid4().hex}/store"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    no_waits(monkeypatch)


def names(section):
    return {file.name for file in section._folder.shards()}


def holds(section, n):
    """Check that a section has the images 0 to n - 1, and nothing wrong."""
    for i in range(n):
        np.testing.assert_array_equal(section.get(key_of(i)), descriptors(i))


def opened(url):
    return DescriptorStore(url).section(SETTINGS)


def damage(file, position=-3):
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


# --------------------------------------------------------------------------------------------- the same store


def test_the_files_are_those_of_a_local_store(url, tmp_path, monkeypatch):
    monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 7)
    local, remote = fill(tmp_path / "store", 20), fill(url, 20)
    assert names(remote) == names(local)
    for file in local.path.iterdir():
        assert (remote.path / file.name).read_bytes() == file.read_bytes()
    assert (remote.path.parent / "format.json").read_bytes() == (tmp_path / "store/format.json").read_bytes()
    holds(opened(url), 20)
    assert set(opened(url)) == {key_of(i) for i in range(20)}
    assert remote.verify() == []
    assert remote.n_bytes() == local.n_bytes()
    assert [one.settings for one in DescriptorStore(url).sections()] == [SETTINGS]


def test_descriptors_are_read_block_by_block(url, monkeypatch):
    monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 4)
    section = fill(url, 10)
    stored = StoredDescriptors(section, [key_of(i) for i in range(10)])
    for images, block in stored.blocks(1000):
        for i, image in enumerate(images):
            np.testing.assert_array_equal(block[i], descriptors(image))
    assert str(section.path) in repr(stored)


def test_an_image_costs_few_requests(url):
    section = fill(url, 60)
    with faulty() as system:
        holds(section, 60)
        assert len(system.calls) <= 6, system.calls


def test_a_folder_of_something_else_is_refused(url):
    object_storage.put(f"{url}/image.png", b"x")
    with pytest.raises(InputError, match="is a folder of something else"):
        DescriptorStore(url)


def test_a_store_of_another_version_is_refused(url):
    object_storage.put(f"{url}/format.json", b'{"version": 9}')
    with pytest.raises(InputError, match="is a store of another version"):
        DescriptorStore(url)


# ----------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("fault", [busy, slow, cut_put, silent_cut_put, put_without_answer])
def test_a_put_that_fails_once_leaves_whole_shards(url, fault, caplog):
    with faulty() as system:
        for _ in range(3):  # format.json, settings.json and the shard
            system.faults.append(("pipe_file", fault))
        fill(url, 5)
        assert not system.faults
    section = opened(url)
    holds(section, 5)
    assert section.verify() == []
    assert SECRET not in caplog.text


@pytest.mark.parametrize("fault", [busy, slow, cut_read])
def test_a_read_that_fails_is_tried_again(url, fault, caplog):
    fill(url, 5)
    with faulty() as system:
        system.faults += [("cat_file", fault)] * 3
        holds(opened(url), 5)
        assert not system.faults
    assert "try 2 of 6" in caplog.text
    assert SECRET not in caplog.text
    assert "X-Amz-Signature=***" in caplog.text or fault is not busy


def test_a_listing_that_fails_is_tried_again(url):
    fill(url, 5)
    with faulty() as system:
        system.faults += [("ls", busy)] * 3
        holds(opened(url), 5)


@pytest.mark.parametrize("method", ["ls", "cat_file", "info", "pipe_file"])
def test_a_storage_that_stays_away_is_an_error_without_secrets(url, method):
    section = fill(url, 3)
    with faulty() as system:
        system.faults += [(method, busy)] * 1000
        with pytest.raises(InputError, match="rate") as raised:
            opened(url).get(key_of(0)) if method == "cat_file" else fill(url, 6)
    assert SECRET not in str(raised.value)
    assert url in str(raised.value)
    holds(section, 3)
    assert section.verify() == []


def test_a_cut_shard_is_found_and_written_again(url):
    section = fill(url, 5)
    (file,) = section._folder.shards()
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    assert "cut short" in section.verify()[0]
    assert opened(url).get(key_of(4)) is None
    fill(url, 5)  # the same images, so the same name: the whole one replaces the cut one
    assert file.read_bytes() == whole
    holds(opened(url), 5)


def test_settings_that_were_cut_are_written_again(url):
    section = fill(url, 2)
    file = section.path / "settings.json"
    whole = file.read_bytes()
    file.write_bytes(whole[:7])
    fill(url, 2)
    assert file.read_bytes() == whole


def test_two_writers_of_the_same_images_make_one_shard(url):
    first, second = opened(url), opened(url)
    with first.writer() as one, second.writer() as other:
        for i in range(5):
            one.add(key_of(i), descriptors(i))
            other.add(key_of(i), descriptors(i))
    assert len(names(first)) == 1
    holds(first, 5)
    holds(second, 5)


# ------------------------------------------------------------------------------------------ eventual listings


def test_a_late_listing_does_not_hide_own_shards(url):
    section = fill(url, 3)
    with faulty() as system:
        system.stale.append(lambda _: [])
        with section.writer() as writer:
            writer.add(key_of(3), descriptors(3))
        section.refresh()
        holds(section, 4)


def test_a_listing_that_names_removed_shards_is_no_endless_loop(url):
    section = fill(url, 3)
    old = object_storage._filesystem("memory", 0).ls(section.path.url, detail=True)
    for file in section._folder.shards():
        object_storage.remove(file.url)
    with faulty() as system:
        system.stale.append(lambda _: old)
        assert len(opened(url)) == 0


def test_a_reader_of_a_removed_shard_that_stays_listed_ends(url):
    section = fill(url, 3)
    old = object_storage._filesystem("memory", 0).ls(section.path.url, detail=True)
    for file in section._folder.shards():
        object_storage.remove(file.url)
    with faulty() as system:

        def listing(_):
            assert len(system.calls) < 200, "an endless loop"
            return old

        system.stale.append(listing)
        assert section.get(key_of(0)) is None


def test_a_reader_finds_what_a_gc_has_moved_although_the_listing_is_late(url, monkeypatch):
    for i in range(4):
        fill(url, i + 1)
    reader = opened(url)
    old = object_storage._filesystem("memory", 0).ls(reader.path.url, detail=True)
    assert len(names(reader)) == 4
    opened(url).gc()
    assert len(names(opened(url))) == 1
    with faulty() as system:
        late = [lambda _: old] * 3
        system.stale += [*late, lambda found: found]
        holds(reader, 4)


def test_gc_keeps_the_old_shards_until_the_new_one_is_listed(url):
    for i in range(4):
        fill(url, i + 1)
    section = opened(url)
    before = names(section)
    old = object_storage._filesystem("memory", 0).ls(section.path.url, detail=True)
    with faulty() as system:
        system.stale.append(lambda _: old)
        section.gc()
    assert before < names(opened(url))
    opened(url).gc()
    assert len(names(opened(url))) == 1
    holds(opened(url), 4)


# --------------------------------------------------------------------------------------------------------- gc


def test_gc_removes_damage_and_second_copies_and_joins(url):
    section = opened(url)
    for images in ([0, 1], [1, 2], [3], [4], [4, 3]):
        write_shard(section.path, {key_of(i): descriptors(i) for i in images})
    section.prepare()
    broken = write_shard(section.path, {key_of(i): descriptors(i) for i in (5, 6)})
    damage(broken)
    object_storage.put(f"{section.path.url}/{'0' * 64}.shard", b"nothing")
    assert len(opened(url).verify()) >= 2
    before = section.n_bytes()
    assert section.gc() == before - section.n_bytes()
    assert section.verify() == []
    assert len(names(section)) == 1
    holds(opened(url), 6)  # 6 was damaged
    assert opened(url).get(key_of(6)) is None


def test_gc_removes_what_a_killed_client_left_after_a_day(url, monkeypatch):
    section = fill(url, 1)
    (section.path / "a.part").write_bytes(b"probe")
    assert section.gc() == 0
    monkeypatch.setattr("medvlad.store.object_gc.time.time", lambda: time.time_ns() / 1e9 + 25 * 3600)
    assert section.gc() == 5
    assert not (section.path / "a.part").exists()


def test_a_shard_of_another_section_goes_home(url, caplog):
    section = fill(url, 3)
    (file,) = section._folder.shards()
    other = DescriptorStore(url).section({"layer": "other"})
    other.prepare()
    (other.path / file.name).write_bytes(file.read_bytes())
    object_storage.remove(file.url)
    other.gc()
    assert names(other) == set()
    holds(opened(url), 3)
    assert "moved to" in caplog.text


def test_a_shard_that_was_mended_meanwhile_is_not_removed(url, monkeypatch):
    section = fill(url, 3)
    (file,) = section._folder.shards()
    whole = file.read_bytes()
    file.write_bytes(b"x" * len(whole))
    real = object_storage.entry_of
    asked = itertools.count()

    def mended(address):
        found = real(address)
        if address == file.url and next(asked) == 1:  # gc has examined it
            file.write_bytes(whole)
        return found

    monkeypatch.setattr("medvlad._util.object_path.entry_of", mended)
    section.gc()
    monkeypatch.undo()
    holds(opened(url), 3)


def small(i):
    return descriptors(i, (2, 3))


def gc_interrupted_by_another(url, at, old=None):
    """Run a gc. Before its removal number `at` another one runs, with an old listing if one is given."""
    real, calls = object_storage.remove, itertools.count()

    def remove(address):
        if next(calls) == at:
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(object_storage, "remove", real)
                if old is not None:
                    inner.setattr(ObjectFolder, "shards", lambda self, known=(): old | set(known))
                opened(url).gc()
        real(address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_storage, "remove", remove)
        opened(url).gc()


@pytest.mark.parametrize("at", [0, 1])
def test_two_gc_at_once_lose_no_image(url, at):
    """Without an order of the shards, one gc would keep those that the other one removes."""
    for n in range(10):  # the names of the shards come in all orders
        section = opened(f"{url}-{n}")
        section.prepare()
        for i in (2 * n, 2 * n + 1):
            write_shard(section.path, {key_of(i): small(i)})
        gc_interrupted_by_another(f"{url}-{n}", at)
        for i in (2 * n, 2 * n + 1):
            np.testing.assert_array_equal(opened(f"{url}-{n}").get(key_of(i)), small(i))


STATES = st.sampled_from(["whole", "whole", "whole", "damaged", "cut"])
IMAGES = st.lists(st.integers(0, 7), min_size=1, max_size=4, unique=True)


@given(
    shards=st.lists(st.tuples(IMAGES, STATES), min_size=2, max_size=6),
    at=st.integers(0, 4),
    is_stale=st.booleans(),
)
@settings(max_examples=15)
def test_gc_of_any_shards_loses_no_image(shards, at, is_stale):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medvlad.store.shard.SHARD_IMAGES", 6)
        no_waits(patch)
        url = f"memory://{uuid.uuid4().hex}/store"
        section = opened(url)
        section.prepare()
        for images, state in shards:
            file = write_shard(section.path, {key_of(i): small(i) for i in images})
            if state == "damaged":
                damage(file)
            elif state == "cut":
                file.write_bytes(file.read_bytes()[:-5])
        before = opened(url)
        sound = {i for i in range(8) if before.get(key_of(i)) is not None}
        gc_interrupted_by_another(url, at, section._folder.shards() if is_stale else None)
        for _ in range(2):
            after = opened(url)
            for i in sound:
                np.testing.assert_array_equal(after.get(key_of(i)), small(i))
            after.gc()
        assert after.verify() == []


def test_a_reader_sees_every_image_while_gc_removes_shards(url, monkeypatch):
    for i in range(6):
        fill(url, i + 1)
    reader, real = opened(url), object_storage.remove

    def remove(address):
        real(address)
        holds(reader, 6)

    monkeypatch.setattr(object_storage, "remove", remove)
    opened(url).gc()
    holds(reader, 6)


def test_messages_and_logs_name_the_store(url, caplog):
    with caplog.at_level(logging.WARNING), faulty() as system:
        system.faults.append(("ls", busy))
        fill(url, 2)
    assert url in caplog.text
