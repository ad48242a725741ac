"""Processes and threads that are killed, write, read and run gc at the same time lose and damage nothing."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from support.store_content import (
    COLLECTOR,
    SETTINGS,
    WRITER,
    descriptors,
    fill,
    holds_all_of,
    key_of,
    shards,
)

import medvlad.store.store
from medvlad.store.store import DescriptorStore


def test_a_writer_killed_at_any_moment_leaves_a_good_store(tmp_path):
    """Twenty writers are killed. The store holds nothing wrong, and the last writer completes it."""
    store, seen = tmp_path / "store", 0
    rng = np.random.default_rng(0)
    for round_ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store), "1000"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "begun\n"
        time.sleep(rng.uniform(0, 0.06))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        section = DescriptorStore(store).section(SETTINGS)
        assert section.verify() == [], round_
        assert len(section) >= seen  # what was written stays
        seen = len(section)
    subprocess.run([sys.executable, "-c", WRITER, str(store), "60"], check=True, capture_output=True)
    section = DescriptorStore(store).section(SETTINGS)
    for i in range(60):
        np.testing.assert_array_equal(section.get(key_of(i)), descriptors(i))
    assert seen > 0


def test_writers_of_the_same_images_do_not_disturb_each_other(tmp_path):
    """Three processes write the same images at the same time. Then gc removes the copies."""
    store = tmp_path / "store"
    command = [sys.executable, "-c", WRITER, str(store), "100"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    for process in running:
        process.stdout.close()
    section = DescriptorStore(store).section(SETTINGS)
    assert section.verify() == []
    assert len(section) == 100
    section.gc()
    section = DescriptorStore(store).section(SETTINGS)
    assert len(section) == 100
    for i in range(100):
        np.testing.assert_array_equal(section.get(key_of(i)), descriptors(i))


def test_gc_killed_at_any_moment(tmp_path):
    """The store has many small shards and copies. All images stay, and the next gc continues."""
    store = tmp_path / "store"
    rng = np.random.default_rng(1)
    section = DescriptorStore(store).section(SETTINGS)
    n_images, unfinished = 40, 0
    for round_ in range(8):
        for i in range(n_images):  # a shard each, those that were joined before a second time
            with DescriptorStore(store / str(round_)).section(SETTINGS).writer() as writer:
                writer.add(key_of(i), descriptors(i, (3, 8)))
            section.path.mkdir(parents=True, exist_ok=True)
            if i == 0:
                section.writer()
        for file in (store / str(round_)).glob("*/*.shard"):
            file.replace(section.path / file.name)
        process = subprocess.Popen(
            [sys.executable, "-c", COLLECTOR, str(store)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "begun\n"
        time.sleep(rng.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = DescriptorStore(store).section(SETTINGS)
        assert found.verify() == [], round_
        assert len(found) == n_images
        unfinished += len(shards(found)) > n_images // 5
    section.gc()
    assert len(shards(section)) == 1
    for i in range(n_images):
        np.testing.assert_array_equal(section.get(key_of(i)), descriptors(i, (3, 8)))
    assert unfinished > 0


def test_readers_find_images_that_gc_moves(tmp_path, monkeypatch):
    """Sections with and without an open shard, one that is being opened, and a new one."""
    monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 4)
    for n in range(1, 13):
        fill(tmp_path / "store", n)
    store = DescriptorStore(tmp_path / "store")
    early, with_one_open = store.section(SETTINGS), store.section(SETTINGS)
    assert with_one_open.get(key_of(5)) is not None
    real, calls = medvlad.store.store.Shard, []

    def moved_meanwhile(file):
        calls.append(file)
        if len(calls) == 3:
            monkeypatch.setattr("medvlad.store.store.Shard", real)
            store.section(SETTINGS).gc()
        return real(file)

    monkeypatch.setattr("medvlad.store.store.Shard", moved_meanwhile)
    for section in (store.section(SETTINGS), early, with_one_open, store.section(SETTINGS)):
        assert len(section) == 12
        for i in range(12):
            np.testing.assert_array_equal(section.get(key_of(i)), descriptors(i))


def test_readers_writers_and_gc_may_run_at_the_same_time(tmp_path, monkeypatch):
    """Processes write and gc joins their shards while this process reads."""
    store = tmp_path / "store"
    fill(store, 10)
    section = DescriptorStore(store).section(SETTINGS)
    command = [sys.executable, "-c", WRITER, str(store), "100"]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    rng = np.random.default_rng(0)
    while any(process.poll() is None for process in running):
        DescriptorStore(store).section(SETTINGS).gc()
        for i in rng.integers(0, 10, 20):
            np.testing.assert_array_equal(section.get(key_of(i)), descriptors(i))
    assert [process.wait() for process in running] == [0, 0]
    section.gc()
    holds_all_of(section, range(100))


def test_threads_may_share_a_section(tmp_path, monkeypatch):
    """Threads read different shards while gc removes them."""
    monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 2)
    section = fill(tmp_path / "store", 40)
    section = DescriptorStore(tmp_path / "store").section(SETTINGS)
    expected = [descriptors(i) for i in range(40)]

    def read(seed):
        numbers = np.random.default_rng(seed).integers(0, 40, 300)
        return all(np.array_equal(section.get(key_of(i)), expected[i]) for i in numbers)

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(read, seed) for seed in range(8)]
        monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 100)
        DescriptorStore(tmp_path / "store").section(SETTINGS).gc()
        assert all(one.result() for one in running)
    assert len(shards(section)) == 1
