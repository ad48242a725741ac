"""gc removes damaged and double entries, joins small shards, and loses no image."""

import logging
import os
import shutil
import time

import numpy as np
import pytest
from support.store_content import (
    OTHER_SETTINGS,
    SETTINGS,
    copied_into_another_section,
    descriptors,
    fill,
    flip,
    holds_all_of,
    key_of,
    shards,
)

import medvlad.store.compaction
from medvlad import InputError
from medvlad.store.compaction import only_one
from medvlad.store.store import DescriptorStore


def test_gc_keeps_a_file_that_another_process_writes(tmp_path, monkeypatch):
    section = fill(tmp_path / "store", 3)
    young, old = section.path / "young.part", section.path / "old.part"
    young.write_bytes(b"1")
    old.write_bytes(b"22")
    monkeypatch.setattr("medvlad._util.atomic_file.STALE_SECONDS", 1000)
    past = time.time() - 2000
    os.utime(old, (past, past))
    assert section.gc() == 2
    assert young.exists()
    assert not old.exists()
    assert len(DescriptorStore(tmp_path / "store").section(SETTINGS)) == 3


@pytest.mark.parametrize("at_home", [True, False])
def test_gc_moves_a_shard_to_its_own_section(tmp_path, at_home, caplog):
    """No image is lost, whether the shard was copied or moved by mistake."""
    section, shard, copy = copied_into_another_section(tmp_path)
    if not at_home:
        shutil.rmtree(shard.parent)
    with caplog.at_level(logging.WARNING):
        section.gc()
    assert f"moved to {shard.parent}" in caplog.text
    assert not copy.exists()
    holds_all_of(section, range(2))
    home = DescriptorStore(tmp_path).section(OTHER_SETTINGS)
    assert home.verify() == []
    for i in range(10, 14):
        np.testing.assert_array_equal(home.get(key_of(i)), descriptors(i))


@pytest.mark.parametrize("name", [b"../../elsewhere_", b"0123456789abcdef"])
def test_gc_removes_a_shard_whose_section_was_changed(tmp_path, name):
    """Its content does not match its name: it is damaged, and nothing is written outside the store."""
    section = fill(tmp_path / "a" / "store", 3)
    (shard,) = shards(section)
    shard.write_bytes(shard.read_bytes().replace(section.path.name.encode(), name))
    before = {path for path in tmp_path.rglob("*") if path != shard}
    assert section.gc() > 0
    assert {path for path in tmp_path.rglob("*") if path.name != "gc.lock"} == before


def test_gc_of_a_renamed_section_loses_nothing(tmp_path):
    section = fill(tmp_path, 3)
    section.path.rename(tmp_path / "mine")
    (renamed,) = DescriptorStore(tmp_path).sections()
    assert len(renamed) == 0
    assert len(renamed.verify()) == 2  # the folder's name, and the shard
    renamed.gc()
    holds_all_of(section, range(3))


def test_gc_keeps_the_good_images_of_a_damaged_shard(tmp_path):
    section = fill(tmp_path / "store", 10)
    flip(shards(section)[0])
    assert section.gc() > 0
    holds_all_of(section, range(9))
    assert section.gc() == 0


def test_gc_joins_small_shards(tmp_path, monkeypatch):
    """Large shards, and the last small one, stay as they are."""
    monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 8)
    section = fill(tmp_path / "store", 6)
    large = shards(section)
    for i in range(6, 20):
        fill(tmp_path / "store", i + 1)
    assert len(shards(section)) == 15
    section.gc()
    assert len(shards(section)) == 3
    assert set(large) < set(shards(section))
    holds_all_of(section, range(20))
    assert section.get(key_of(19)) is not None
    after = {file: file.stat().st_mtime_ns for file in shards(section)}
    section.gc()
    assert {file: file.stat().st_mtime_ns for file in shards(section)} == after


def test_gc_removes_doubles_inside_shards(tmp_path, monkeypatch):
    section = DescriptorStore(tmp_path / "store").section(SETTINGS)
    for numbers in (range(5), range(3, 9), range(9)):
        other = DescriptorStore(tmp_path / "other").section(SETTINGS)
        with other.writer() as writer:
            for i in numbers:
                writer.add(key_of(i), descriptors(i))
        section.writer()
        for file in shards(other):
            file.replace(section.path / file.name)
    before = section.n_bytes()
    freed = section.gc()
    assert section.n_bytes() == before - freed < before
    assert len(shards(section)) == 1
    holds_all_of(section, range(9))


def test_gc_does_not_mix_precisions(tmp_path):
    fill(tmp_path / "store", 3)
    section = fill(tmp_path / "store", 6, dtype="float16")
    flip(shards(section)[0])
    flip(shards(section)[1])
    section.gc()
    assert len(shards(section)) == 2
    section = DescriptorStore(tmp_path / "store").section(SETTINGS)
    assert section.verify() == []
    np.testing.assert_array_equal(section.get(key_of(0)), descriptors(0))
    np.testing.assert_array_equal(section.get(key_of(3)), descriptors(3).astype(np.float16))
    assert section.get(key_of(2)) is None


def test_gc_spares_a_shard_that_was_repaired_meanwhile(tmp_path, monkeypatch):
    """A writer replaces a damaged shard, under the same name, while gc looks at it."""
    section = fill(tmp_path / "store", 4)
    (file,) = shards(section)
    good = file.read_bytes()
    file.write_bytes(b"damaged")
    real = medvlad.store.compaction.Shard

    def mended(path):
        try:
            return real(path)
        finally:
            part = path.with_suffix(".part")
            part.write_bytes(good)
            part.replace(path)

    with monkeypatch.context() as patch:
        patch.setattr("medvlad.store.compaction.Shard", mended)
        section.gc()
    holds_all_of(section, range(4))


def test_a_second_gc_is_refused(tmp_path):
    section = fill(tmp_path / "store", 4)
    with (
        only_one(section.path / "gc.lock"),
        pytest.raises(InputError, match=r"another gc is running in .*: wait until it has ended"),
    ):
        section.gc()
    assert section.gc() == 0


def test_gc_on_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    section = fill(tmp_path / "store", 4)
    fill(tmp_path / "store", 8)
    before = shards(section)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(InputError, match="cannot be written: No space left on device"):
            section.gc()
    assert shards(section) == before
    assert not list(section.path.glob("*.part"))
    holds_all_of(section, range(8))


def test_gc_accepts_the_shard_that_a_killed_gc_wrote(tmp_path):
    """The joined shard may come before or after the small ones."""
    for first in range(12):
        section = DescriptorStore(tmp_path / str(first)).section(SETTINGS)
        images = range(first, first + 3)
        for i in images:
            with section.writer() as writer:
                writer.add(key_of(i), descriptors(i))
        small = {file: file.read_bytes() for file in shards(section)}
        section.gc()
        for file, content in small.items():
            file.write_bytes(content)
        section.gc()
        again = DescriptorStore(tmp_path / str(first)).section(SETTINGS)
        holds_all_of(again, images)
        assert len(shards(again)) == 1
