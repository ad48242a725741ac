"""The descriptor store: what is in it comes out, whoever dies, writes beside or flips a bit."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import BATCH_TOLERANCE
from safetensors import safe_open
from safetensors.numpy import save
from sklearn.base import clone

import medvlad as mv
import medvlad.store.compaction
from medvlad import CNNDescriptors, InputError
from medvlad.images.hashed_file import image_key
from medvlad.store.shard import write_shard
from medvlad.store.store import DescriptorStore

SETTINGS = {"model": "vgg16", "scales": [0]}

WRITER = """
import sys, time
import numpy as np
from medvlad.store import shard, store
shard.SHARD_IMAGES = 5
rng = np.random.default_rng(int(sys.argv[2]))
section = store.DescriptorStore(sys.argv[1]).section({"model": "vgg16", "scales": [0]})
print("begun", flush=True)
with section.writer() as writer:
    for i in range(int(sys.argv[3])):
        key = f"{i:064x}"
        values = np.maximum(np.random.default_rng(i).normal(-1, 1, (49, 64)), 0).astype(np.float32)
        writer.add(key, values)
"""


def descriptors(i, shape=(49, 64)):
    return np.maximum(np.random.default_rng(i).normal(-1, 1, shape), 0).astype(np.float32)


def key_of(i):
    return f"{i:064x}"


def fill(path, n, settings=SETTINGS, **options):
    section = DescriptorStore(path).section(settings)
    with section.writer(**options) as writer:
        for i in range(n):
            writer.add(key_of(i), descriptors(i))
    return section


def test_what_goes_in_comes_out(tmp_path, monkeypatch):
    monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 7)
    fill(tmp_path / "store", 20)
    section = DescriptorStore(tmp_path / "store").section(SETTINGS)
    assert len(section) == 20
    assert set(section) == {key_of(i) for i in range(20)}
    assert len(list(section.path.glob("*.shard"))) == 3
    for i in range(20):
        np.testing.assert_array_equal(section.get(key_of(i)), descriptors(i))
    assert section.get(key_of(20)) is None
    assert section.verify() == []


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (3, 7), (49, 512)])
def test_shapes_and_odd_numbers(tmp_path, shape):
    """Nothing of the numbers is lost, the sign of zero and denormals included."""
    values = np.resize(np.array([0, -0.0, 1e-45, -3e38, 1, 0, 0], np.float32), shape)
    section = DescriptorStore(tmp_path / "s").section({})
    with section.writer() as writer:
        writer.add("a", values)
        writer.add("b", np.ones((2, 2), np.float32))
    found = DescriptorStore(tmp_path / "s").section({}).get("a")
    np.testing.assert_array_equal(found.view(np.int32), values.view(np.int32))


@pytest.mark.parametrize("where", [[0], [1], [2], [0, 1, 2]])
def test_images_of_nothing_but_zeros(tmp_path, where):
    values = {str(i): np.full((2, 3), i not in where, np.float32) for i in range(3)}
    values["none"] = np.zeros((0, 3), np.float32)
    section = DescriptorStore(tmp_path / "s").section({})
    with section.writer() as writer:
        for key, array in values.items():
            writer.add(key, array)
    assert section.verify() == []
    for key, array in values.items():
        np.testing.assert_array_equal(section.get(key), array, strict=True)


def test_half_precision_is_half_the_size(tmp_path):
    whole, half = fill(tmp_path / "a", 30), fill(tmp_path / "b", 30, dtype="float16")
    assert half.n_bytes() < 0.65 * whole.n_bytes()
    np.testing.assert_array_equal(half.get(key_of(3)), descriptors(3).astype(np.float16))
    assert half.get(key_of(3)).dtype == np.float32
    with pytest.raises(InputError, match="dtype must be one of float32, float16"):
        fill(tmp_path / "c", 1, dtype="int8")


def test_zeros_are_cheap(tmp_path):
    """At 16 % non-zero, as real descriptors are, less than a quarter of the dense size."""
    section = fill(tmp_path / "store", 40)
    assert section.n_bytes() < 0.25 * 40 * descriptors(0).nbytes


@pytest.mark.data
def test_real_descriptors_take_a_quarter(tmp_path, data_dir, vgg16_weights):
    pytest.importorskip("keras", reason="needs the extra tensorflow")
    images = sorted((data_dir / "rooms_dev").rglob("*.jp*g"))[:6]
    network = CNNDescriptors("vgg16", weights=vgg16_weights, store=tmp_path / "store")
    values = network.transform(images).values
    (section,) = DescriptorStore(tmp_path / "store").sections()
    assert section.n_bytes() < 0.25 * values.nbytes


def test_settings_do_not_meet(tmp_path):
    fill(tmp_path / "store", 3)
    other = DescriptorStore(tmp_path / "store").section(SETTINGS | {"scales": [1]})
    assert len(other) == 0
    assert [s.settings for s in DescriptorStore(tmp_path / "store").sections()] == [SETTINGS]


def test_keys_are_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"same")
    (tmp_path / "b").write_bytes(b"same")
    assert image_key(tmp_path / "a") == image_key(str(tmp_path / "b"))
    pixels = np.zeros((4, 6, 3), np.uint8)
    assert image_key(pixels) == image_key(pixels.copy(order="F"))
    assert len({image_key(pixels), image_key(pixels.reshape(6, 4, 3)), image_key(pixels.astype(int))}) == 3
    with pytest.raises(InputError, match="c cannot be read: No such file"):
        image_key(tmp_path / "c")


@pytest.mark.parametrize("byte", [0, 3, 40, 60, 300, -500, -1])
def test_a_flipped_byte_is_found(tmp_path, byte, caplog):
    """Wherever it is, the image or the shard is told and missing, the rest is right; writing mends it."""
    section = fill(tmp_path / "store", 10)
    (shard,) = section.path.glob("*.shard")
    content = bytearray(shard.read_bytes())
    content[byte] ^= 16
    shard.write_bytes(content)
    found = DescriptorStore(tmp_path / "store").section(SETTINGS)
    assert found.verify()
    a_key_was_hit = set(found) - {key_of(i) for i in range(10)}
    with caplog.at_level(logging.WARNING):
        numbers = [found.get(key_of(i)) for i in range(10)]
    missing = [i for i in range(10) if numbers[i] is None]
    # An image whose key was hit is not told but missed.
    assert "extracted again" in caplog.text or not missing or a_key_was_hit
    for i in set(range(10)) - set(missing):
        np.testing.assert_array_equal(numbers[i], descriptors(i))
    fill(tmp_path / "store", 10)
    again = DescriptorStore(tmp_path / "store").section(SETTINGS)
    again.gc()
    again = DescriptorStore(tmp_path / "store").section(SETTINGS)
    again_missing = [i for i in range(10) if again.get(key_of(i)) is None]
    with again.writer() as writer:
        for i in again_missing:
            writer.add(key_of(i), descriptors(i))
    assert DescriptorStore(tmp_path / "store").section(SETTINGS).verify() == []


@pytest.mark.parametrize("size", [-1, 2**31, 10**30, float("inf"), None, "x"])
@pytest.mark.parametrize("place", range(1, 5))
def test_sizes_that_no_image_has(tmp_path, size, place):
    section = fill(tmp_path, 3)
    (shard,) = section.path.glob("*.shard")
    with safe_open(shard, "numpy") as file:
        about = json.loads(file.metadata()["shard"])
        tensors = {name: file.get_tensor(name) for name in ("marks", "numbers")}
    assert about["section"] == section.path.name
    about["images"][1][place] = size
    shard.write_bytes(save(tensors, {"shard": json.dumps(about)}))
    found = DescriptorStore(tmp_path).section(SETTINGS)
    assert found.get(key_of(1)) is None
    assert found.verify()


def test_a_shard_that_cannot_be_opened_is_told(tmp_path):
    """As a colleague's may be; a link to nowhere cannot be opened by anybody."""
    section = fill(tmp_path, 3)
    (section.path / "x.shard").symlink_to("/nowhere/at/all")
    for use in (lambda: DescriptorStore(tmp_path).section(SETTINGS), section.refresh, section.verify):
        with pytest.raises(InputError, match=r"x\.shard cannot be opened .*permissions"):
            use()


def test_damaged_settings_are_told(tmp_path):
    section = fill(tmp_path, 3)
    (section.path / "settings.json").write_bytes(b"")
    with pytest.raises(InputError, match=r"settings\.json is damaged .* remove it"):
        DescriptorStore(tmp_path).sections()
    (section.path / "settings.json").unlink()
    fill(tmp_path, 4)
    assert [len(section) for section in DescriptorStore(tmp_path).sections()] == [4]


def test_a_shard_cut_short_is_found(tmp_path):
    section = fill(tmp_path / "store", 10)
    (shard,) = section.path.glob("*.shard")
    shard.write_bytes(shard.read_bytes()[:-100])
    assert len(DescriptorStore(tmp_path / "store").section(SETTINGS)) == 0
    assert "damaged" in section.verify()[0]


def test_kill_at_any_moment(tmp_path):
    """Twenty writers killed with no warning: nothing wrong is kept, and the last goes on to the end."""
    store, seen = tmp_path / "store", 0
    rng = np.random.default_rng(0)
    for round_ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store), "0", "1000"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "begun\n"
        time.sleep(rng.uniform(0, 0.06))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        section = DescriptorStore(store).section(SETTINGS)
        assert section.verify() == [], round_
        assert len(section) >= seen  # what was written stays
        seen = len(section)
    subprocess.run([sys.executable, "-c", WRITER, str(store), "0", "60"], check=True, capture_output=True)
    section = DescriptorStore(store).section(SETTINGS)
    for i in range(60):
        np.testing.assert_array_equal(section.get(key_of(i)), descriptors(i))
    assert seen > 0


def test_two_writers(tmp_path):
    """Processes that write the same images into the same store at once; then gc removes what is double."""
    store = tmp_path / "store"
    command = [sys.executable, "-c", WRITER, str(store), "0", "100"]
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


def test_a_store_that_another_process_is_making(tmp_path):
    """Its marker may not be there yet; the folder is not taken for something else."""
    (tmp_path / "0123.part").touch()
    assert DescriptorStore(tmp_path).sections() == []
    fill(tmp_path, 2)
    assert len(DescriptorStore(tmp_path).section(SETTINGS)) == 2


def test_gc_keeps_what_others_write(tmp_path, monkeypatch):
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


OTHER_SETTINGS = SETTINGS | {"layer": "block4_pool"}


def copied_into_another_section(path):
    """A section of two images of its own, and in its folder the shard of another, which has four others."""
    home = DescriptorStore(path).section(OTHER_SETTINGS)
    with home.writer() as writer:
        for i in range(10, 14):
            writer.add(key_of(i), descriptors(i))
    (shard,) = shards(home)
    section = fill(path, 2)
    copy = section.path / shard.name
    copy.write_bytes(shard.read_bytes())
    return section, shard, copy


def test_a_shard_of_another_section_is_not_believed(tmp_path, caplog):
    section, _, copy = copied_into_another_section(tmp_path)
    with caplog.at_level(logging.WARNING):
        found = DescriptorStore(tmp_path).section(SETTINGS)
    assert "belongs to another section" in caplog.text
    assert set(found) == {key_of(0), key_of(1)}
    assert found.get(key_of(10)) is None
    section.refresh()
    assert section.get(key_of(10)) is None
    assert [copy.name in sentence and "another section" in sentence for sentence in found.verify()] == [True]


@pytest.mark.parametrize("at_home", [True, False])
def test_gc_moves_a_shard_to_its_own_section(tmp_path, at_home, caplog):
    """Nothing is lost, whether it was copied or moved by mistake."""
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
    """Its bytes are not what its name says: it is damaged, and nothing is written outside the store."""
    section = fill(tmp_path / "a" / "store", 3)
    (shard,) = shards(section)
    shard.write_bytes(shard.read_bytes().replace(section.path.name.encode(), name))
    before = {path for path in tmp_path.rglob("*") if path != shard}
    assert section.gc() > 0
    assert {path for path in tmp_path.rglob("*") if path.name != "gc.lock"} == before


def test_edited_settings_are_found(tmp_path):
    section = fill(tmp_path, 2)
    file = section.path / "settings.json"
    file.write_text(file.read_text().replace("vgg16", "vgg19"))
    (found,) = DescriptorStore(tmp_path).sections()
    assert [f"{file} is not what the name of its folder says" in said for said in found.verify()] == [True]
    file.unlink()
    fill(tmp_path, 2)
    (found,) = DescriptorStore(tmp_path).sections()
    assert found.verify() == []


def test_gc_of_a_renamed_section_loses_nothing(tmp_path):
    section = fill(tmp_path, 3)
    section.path.rename(tmp_path / "mine")
    (renamed,) = DescriptorStore(tmp_path).sections()
    assert len(renamed) == 0
    assert len(renamed.verify()) == 2  # the folder's name, and the shard
    renamed.gc()
    holds_all_of(section, range(3))


def test_all_images_have_the_shape_of_the_settings(tmp_path, monkeypatch, caplog):
    settings = SETTINGS | {"shape": [49, 64]}
    section = fill(tmp_path, 2, settings)
    with section.writer() as writer, pytest.raises(InputError, match=r"shape \(49, 32\).* \(49, 64\)"):
        writer.add("narrow", descriptors(0, (49, 32)))
    write_shard(section.path, {"narrow": descriptors(0, (49, 32)), key_of(5): descriptors(5)})
    with caplog.at_level(logging.WARNING):
        found = DescriptorStore(tmp_path).section(settings)
    assert "image of shape (49, 32)" in caplog.text
    assert set(found) == {key_of(0), key_of(1)}
    assert [sentence.count("(49, 64)") for sentence in found.verify()] == [1]
    found.gc()
    assert found.verify() == []


def test_a_shard_made_elsewhere_for_another_section_is_refused(tmp_path):
    section, shard, copy = copied_into_another_section(tmp_path)
    copy.unlink()
    with pytest.raises(
        InputError, match=f"not of the section {section.path.name} but of {shard.parent.name}"
    ):
        section.adopt(shard.read_bytes())
    for nothing in (b"", b"abc", shard.read_bytes()[:40]):
        with pytest.raises(InputError, match="but of None"):
            section.adopt(nothing)
    assert len(shards(section)) == 1


def shards(section):
    return sorted(section.path.glob("*.shard"))


def flip(file, byte=-3):
    content = bytearray(file.read_bytes())
    content[byte] ^= 1
    file.write_bytes(content)


def holds_all_of(section, numbers):
    found = DescriptorStore(section.path.parent).section(SETTINGS)
    assert found.verify() == []
    assert set(found) == {key_of(i) for i in numbers}
    for i in numbers:
        np.testing.assert_array_equal(found.get(key_of(i)), descriptors(i))


def test_gc_keeps_the_good_images_of_a_damaged_shard(tmp_path):
    section = fill(tmp_path / "store", 10)
    flip(shards(section)[0])
    assert section.gc() > 0
    holds_all_of(section, range(9))
    assert section.gc() == 0


def test_gc_joins_small_shards(tmp_path, monkeypatch):
    """Of many interrupted runs; large ones and the last one that is left stay as they are."""
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


def test_gc_spares_a_shard_that_was_mended_meanwhile(tmp_path, monkeypatch):
    """A writer makes a damaged shard anew, under the same name, while gc looks at it."""
    section = fill(tmp_path / "store", 4)
    (file,) = shards(section)
    good = file.read_bytes()
    file.write_bytes(b"damaged")
    real = mv.compaction.Shard

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


def test_one_gc_at_a_time(tmp_path):
    section = fill(tmp_path / "store", 4)
    with (
        mv.compaction.only_one(section.path / "gc.lock"),
        pytest.raises(InputError, match=r"another gc is at work in .*: wait until it is done"),
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


def test_gc_meets_what_a_killed_gc_wrote(tmp_path):
    """The joined shard is there already, sorted before or after the small ones: neither may lose it."""
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


COLLECTOR = """
import sys
from medvlad.store import shard, store
shard.SHARD_IMAGES = 5
section = store.DescriptorStore(sys.argv[1]).section({"model": "vgg16", "scales": [0]})
print("begun", flush=True)
section.gc()
"""


def test_gc_killed_at_any_moment(tmp_path):
    """With a damaged, many small and double shards: whatever is good stays, and the next gc goes on."""
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


def test_readers_while_gc_moves_images(tmp_path, monkeypatch):
    """Sections opened before, with a shard open and without; one that is being opened; a new one."""
    monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 4)
    for n in range(1, 13):
        fill(tmp_path / "store", n)
    store = DescriptorStore(tmp_path / "store")
    early, with_one_open = store.section(SETTINGS), store.section(SETTINGS)
    assert with_one_open.get(key_of(5)) is not None
    real, calls = mv.store.Shard, []

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


def test_readers_writers_and_gc_at_once(tmp_path, monkeypatch):
    """Processes that write, and gc that joins what they write, while this one reads."""
    store = tmp_path / "store"
    fill(store, 10)
    section = DescriptorStore(store).section(SETTINGS)
    command = [sys.executable, "-c", WRITER, str(store), "0", "100"]
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
    """Each reads another shard than the others, while a gc removes what they read."""
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


def test_not_finite_is_not_stored(tmp_path):
    with (
        DescriptorStore(tmp_path / "s").section({}).writer("float16") as writer,
        pytest.raises(InputError, match="image a as float16 hold inf at row 1"),
    ):
        writer.add("a", np.array([[1], [1e5]], np.float32))
    assert not list((tmp_path / "s").glob("*/*.shard"))


def test_not_a_store(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file is not a folder"):
        DescriptorStore(tmp_path / "file")
    with pytest.raises(InputError, match="is a folder of something else"):
        DescriptorStore(tmp_path)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "format.json").write_text('{"version": 9}')
    with pytest.raises(InputError, match="store of another version"):
        DescriptorStore(tmp_path / "s")
    (tmp_path / "s" / "format.json").write_text("no")
    with pytest.raises(InputError, match="is this a descriptor store"):
        DescriptorStore(tmp_path / "s")


def same_descriptors(found, expected):
    """Assert that descriptors which other batches may have made are the same up to rounding."""
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    limit = BATCH_TOLERANCE * np.abs(expected.values).max()
    np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=limit)


class TestCNNDescriptors:
    """The network with a store."""

    @pytest.fixture
    def pictures(self, rng):
        return [rng.integers(0, 256, (60 + 9 * i, 80, 3), dtype=np.uint8) for i in range(5)]

    @pytest.fixture
    def network(self, small_weights, tmp_path):
        return CNNDescriptors("MobileNetV2", "out_relu", weights=small_weights, store=tmp_path / "store")

    def test_the_second_time_nothing_is_extracted(self, network, pictures, monkeypatch):
        plain = clone(network).set_params(store=None).transform(pictures)
        for _ in range(2):
            found = network.transform(pictures)
            np.testing.assert_array_equal(found.values, plain.values)
            np.testing.assert_array_equal(found.offsets, plain.offsets)
            monkeypatch.setattr(network._network, "predict_on_batch", None)  # called no more
        shuffled = network.transform([pictures[3], pictures[0], pictures[3]])
        np.testing.assert_array_equal(shuffled[0], plain[3])
        np.testing.assert_array_equal(shuffled[2], plain[3])

    def test_extract_counts_what_is_new(self, network, pictures):
        assert network.extract(pictures[:2]) == 2
        assert network.extract([*pictures, pictures[0]]) == 3
        assert network.extract(pictures) == 0
        with pytest.raises(InputError, match="extract needs a store"):
            clone(network).set_params(store=None).extract(pictures)

    def test_other_settings_are_extracted_anew(self, network, pictures):
        network.extract(pictures)
        assert clone(network).set_params(resize="nearest").extract(pictures) == 5
        assert clone(network).set_params(batch_size=2, progress=False).extract(pictures) == 0

    @pytest.mark.parametrize("mirror", [False, True])
    def test_scales_are_put_together_from_single_ones(self, network, pictures, mirror, monkeypatch):
        network.set_params(mirror=mirror)
        both = clone(network).set_params(scales=(1, 0))
        expected = clone(both).set_params(store=None).transform(pictures)
        network.extract(pictures)
        clone(network).set_params(scales=1).extract(pictures[1:])
        assert both.extract(pictures[:2]) == 1  # of the first there is no scale 1
        monkeypatch.setattr(both, "_extract", lambda X, wanted: iter(wanted and [1 / 0]))
        found = both.transform(pictures)
        same_descriptors(found, expected)
        assert both.n_extracted_ == 0

    def test_damage_is_mended(self, network, pictures):
        expected = network.transform(pictures)
        (shard,) = network._section().path.glob("*.shard")
        content = bytearray(shard.read_bytes())
        content[-3] ^= 1
        shard.write_bytes(content)
        found = clone(network).transform(pictures)
        same_descriptors(found, expected)

    def test_damage_is_mended_by_a_shard_of_the_same_name(self, network, pictures):
        """One image alone is written as it was before; it must be read from the new file."""
        expected = network.transform(pictures[:1])
        (shard,) = network._section().path.glob("*.shard")
        flip(shard)
        found = clone(network).transform(pictures[:1])
        np.testing.assert_array_equal(found.values, expected.values)
        assert [shard] == list(shard.parent.glob("*.shard"))

    def test_a_store_that_damages_everything_is_told(self, network, pictures, monkeypatch):
        network.transform(pictures)
        monkeypatch.setattr("medvlad.store.store.Section.get", lambda *_: None)
        with pytest.raises(InputError, match="check its disk"):
            network.transform(pictures)

    def test_skipped_images(self, network, pictures, tmp_path):
        bad = tmp_path / "bad.png"
        bad.write_bytes(b"no image")
        copy = tmp_path / "copy.png"
        copy.write_bytes(b"no image")
        network.set_params(on_error="skip")
        images = [pictures[0], bad, tmp_path / "none.png", copy, pictures[1]]
        found = network.transform(images)
        assert np.diff(found.offsets).tolist() == [49, 0, 0, 0, 49]
        assert [i for i, _ in network.skipped_] == [1, 2, 3]
        with pytest.raises(InputError, match=r"none\.png"):
            clone(network).set_params(on_error="raise").transform(images)

    def test_no_gpu_output(self, network, pictures):
        with pytest.raises(InputError, match="a store is on the host"):
            network.set_params(output="gpu").transform(pictures)

    def test_left_in_the_store(self, network, pictures, tmp_path):
        bad = tmp_path / "bad.png"
        bad.write_bytes(b"no image")
        images = [pictures[3], bad, pictures[0], pictures[3]]
        network.set_params(on_error="skip")
        expected = network.transform(images)
        stored = clone(network).set_params(output="store").transform(images)
        assert isinstance(stored, mv.StoredDescriptors)
        np.testing.assert_array_equal(stored.offsets, expected.offsets)
        np.testing.assert_array_equal(stored.load().values, expected.values)
        (shard,) = shards(network._section())
        flip(shard)
        again = clone(network).set_params(output="store")
        same_descriptors(again.transform(images).load(), expected)
        assert [i for i, _ in again.skipped_] == [1]
        assert len(again.transform([])) == 0
        with pytest.raises(InputError, match="output='store' needs a store"):
            again.set_params(store=None).transform(images)

    def test_no_images(self, network):
        assert len(network.transform([])) == 0
        assert isinstance(network.transform([]), mv.Descriptors)
