"""Descriptors that stay in the store are the same bits as in memory, in whatever order they are read."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import medvlad.store.store
from medvlad import VLAD, Descriptors, GlobalPool, InputError, KMeansCodebook, StoredDescriptors
from medvlad.descriptors.gpu_array import GpuArray
from medvlad.descriptors.ragged import draw_rows
from medvlad.store.store import DescriptorStore

WIDTH = 16
LENGTHS = [7, 0, 12, 30, 1, 0, 9, 49, 3, 20, 20, 5, 0, 17, 8]


def images():
    rng = np.random.default_rng(3)
    return [np.maximum(rng.normal(-1, 2, (n, WIDTH)), 0).astype(np.float32) for n in LENGTHS]


@pytest.fixture
def section(tmp_path, monkeypatch):
    """Fifteen images of several lengths, four a shard."""
    monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 4)
    section = DescriptorStore(tmp_path / "store").section({"of": "tests"})
    with section.writer() as writer:
        for i, values in enumerate(images()):
            writer.add(f"key {i}", values)
    return section


#: As extracted; shuffled with copies; some without a key.
LISTS = [
    list(range(len(LENGTHS))),
    [9, 3, 3, 14, 0, 7, 2, 9, 11, 1, 5, 13],
    [None, 2, 3, None, 8, 7, None, None, 4, 12, 14, 0, None],
]


@pytest.fixture(params=LISTS, ids=["in order", "shuffled", "without key"])
def both(request, section):
    """The same images in the store and in memory."""
    known = images()
    keys = [None if i is None else f"key {i}" for i in request.param]
    arrays = [np.empty((0, WIDTH), np.float32) if i is None else known[i] for i in request.param]
    return StoredDescriptors(section, keys), Descriptors.from_list(arrays)


def equal(a, b):
    np.testing.assert_array_equal(a, b, strict=True)


class TestReading:
    def test_sizes_are_those_in_memory(self, both):
        stored, inside = both
        assert len(stored) == len(inside)
        assert stored.n_features == inside.n_features
        assert stored.nbytes == inside.values.nbytes
        equal(stored.offsets, inside.offsets)

    def test_each_image_is_read_by_its_index(self, both):
        stored, inside = both
        for a, b in zip(stored, inside, strict=True):
            equal(a, b)
        equal(stored[-1], inside[-1])
        with pytest.raises(IndexError):
            stored[len(inside)]

    def test_all_images_are_loaded(self, both):
        stored, inside = both
        equal(stored.load().values, inside.values)

    def test_a_range_of_images_is_loaded(self, both):
        stored, inside = both
        equal(stored[2:9].load().values, inside[2:9].values)

    def test_chosen_images_are_loaded(self, both):
        stored, inside = both
        some = np.arange(len(inside)) % 2 == 0
        equal(stored.take([4, 0, 4]).load().values, inside.take([4, 0, 4]).values)
        equal(stored.take(some).load().values, inside.take(some).values)
        equal(stored.take([-1]).load().values, inside[-1])

    @pytest.mark.parametrize("max_bytes", [1, 4 * WIDTH * 40, 1 << 30])
    def test_blocks_hold_every_image_once(self, both, max_bytes):
        stored, inside = both
        seen = []
        for indices, block in stored.blocks(max_bytes):
            assert block.values.nbytes <= max_bytes or np.count_nonzero(np.diff(block.offsets)) == 1
            for i, values in zip(indices, block, strict=True):
                equal(values, inside[i])
            seen += indices.tolist()
        assert sorted(seen) == list(range(len(inside)))

    def test_each_shard_is_opened_once(self, both, monkeypatch):
        """In any order of the images. Images that are listed as they were written come in that order."""
        stored, inside = both
        stored = pickle.loads(pickle.dumps(stored))  # no shard is open
        opened = []
        real = medvlad.store.store.Shard

        class Counted(real):
            def __init__(self, file):
                opened.append(file)
                super().__init__(file)

        monkeypatch.setattr("medvlad.store.store.Shard", Counted)
        order = np.concatenate([indices for indices, _ in stored.blocks(1)])
        assert len(opened) == len(set(opened))
        if len(inside) == len(LENGTHS):
            assert order.tolist() == list(range(len(inside)))

    def test_a_pickled_excerpt_opens_the_shards_of_its_images_only(self, section, monkeypatch):
        stored = StoredDescriptors(section, [f"key {i}" for i in (14, 2, 13)])
        sent = pickle.dumps(stored.excerpt(np.array([2, 0])))
        opened = []

        class Counted(medvlad.store.store.Shard):
            def __init__(self, file):
                opened.append(file)
                super().__init__(file)

        monkeypatch.setattr("medvlad.store.store.Shard", Counted)
        part = pickle.loads(sent)
        assert opened == []
        equal(part.load().values, np.concatenate([images()[13], images()[14]]))
        assert len(opened) == 1
        assert len(section._shards) == 4

    def test_an_excerpt_finds_images_that_gc_has_moved(self, section, monkeypatch):
        part = StoredDescriptors(section, [f"key {i}" for i in range(15)]).excerpt(np.arange(3, 9))
        sent = pickle.dumps(part)
        monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 100)
        before = set(section.path.glob("*.shard"))
        section.gc()
        assert before.isdisjoint(section.path.glob("*.shard"))
        equal(pickle.loads(sent).load().values, np.concatenate(images()[3:9]))

    def test_an_excerpt_names_a_store_that_this_machine_does_not_see(self, section, tmp_path):
        sent = pickle.dumps(StoredDescriptors(section, ["key 0"]).excerpt(np.array([0])))
        (tmp_path / "store").rename(tmp_path / "elsewhere")
        with pytest.raises(InputError, match=r"there is no folder .*store here: give every machine"):
            pickle.loads(sent).load()

    def test_a_pickled_copy_reads_the_same_descriptors(self, both):
        stored, inside = both
        equal(pickle.loads(pickle.dumps(stored)).load().values, inside.values)

    def test_gc_of_another_process_changes_nothing(self, both, section, monkeypatch):
        """The other process joins and removes the shards after the list was made."""
        stored, inside = both
        blocks = stored.blocks(1)
        first, _ = next(blocks)
        monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 64)
        before = set(section.path.glob("*.shard"))
        DescriptorStore(section.path.parent).section(section.settings).gc()
        assert not before & set(section.path.glob("*.shard"))
        rest = [indices for indices, _ in blocks]
        assert sorted(np.concatenate([first, *rest])) == list(range(len(inside)))
        equal(stored.load().values, inside.values)

    def test_an_image_that_the_store_lacks_is_named(self, section):
        with pytest.raises(InputError, match=r"no descriptors of image 1 \(other\): extract it first"):
            StoredDescriptors(section, ["key 0", "other"])

    def test_without_descriptors_the_width_must_be_given(self, section):
        with pytest.raises(InputError, match="width is unknown: give n_features"):
            StoredDescriptors(section, [None])
        assert StoredDescriptors(section, [None], n_features=3).load().values.shape == (0, 3)
        assert list(StoredDescriptors(section, [], n_features=3).blocks()) == []

    def test_images_of_another_width_are_refused(self, section):
        with section.writer() as writer:
            writer.add("narrow", np.ones((2, 3), np.float32))
        with pytest.raises(InputError, match="must come from the same layer"):
            StoredDescriptors(section, ["key 0", "narrow"])

    def test_damage_is_an_error(self, section):
        stored = StoredDescriptors(section, [f"key {i}" for i in range(len(LENGTHS))])
        for shard in section.path.glob("*.shard"):
            content = bytearray(shard.read_bytes())
            content[-1] ^= 1
            shard.write_bytes(content)
        with pytest.raises(InputError, match=r"of image \d+ are damaged or gone: run 'medvlad store gc "):
            stored.load()


class TestSample:
    def test_a_large_sample_is_everything(self, both):
        stored, inside = both
        equal(stored.sample(10_000, 0), inside.values)

    def test_a_sample_is_the_same_as_in_memory(self, both):
        stored, inside = both
        n = len(inside.values)
        for wanted in (1, 5, n // 2, n - 1):
            equal(stored.sample(wanted, 7), inside.values[draw_rows(n, wanted, 7)])

    @pytest.mark.parametrize(("n_rows", "n"), [(20, 3), (20, 10), (20, 15)])
    def test_rows_are_equally_likely(self, n_rows, n):
        rng = np.random.RandomState(0)
        pairs = np.zeros((n_rows, n_rows))
        trials = 20_000
        for _ in range(trials):
            rows = draw_rows(n_rows, n, rng)
            assert len(rows) == n
            assert (np.diff(rows) > 0).all()
            pairs[np.ix_(rows, rows)] += 1
        alone, together = n / n_rows, n * (n - 1) / (n_rows * (n_rows - 1))
        off = ~np.eye(n_rows, dtype=bool)
        assert np.abs(np.diag(pairs) / trials - alone).max() < 4 * np.sqrt(alone / trials)
        assert np.abs(pairs[off] / trials - together).max() < 5 * np.sqrt(together / trials)

    def test_few_of_very_many_rows_are_drawn(self):
        rows = draw_rows(10**12, 1000, 0)
        assert len(np.unique(rows)) == 1000
        assert rows.max() > 9 * 10**11
        equal(rows, draw_rows(10**12, 1000, 0))

    def test_all_rows_are_drawn_in_order(self):
        equal(draw_rows(5, 5, 0), np.arange(5))

    def test_no_rows_cannot_be_drawn(self):
        with pytest.raises(InputError, match="must be an integer of at least 1, got 0"):
            draw_rows(5, 0, 0)


ENCODERS = [
    VLAD(4, random_state=0),
    VLAD(3, power=0.5, intra_norm=True, l2_norm=False, random_state=1, max_samples=20),
    GlobalPool(),
    GlobalPool("max", l2_norm=False),
    GlobalPool("gem"),
]


@pytest.mark.parametrize("encoder", ENCODERS, ids=str)
class TestEncoders:
    def test_encodings_are_the_same_bits_as_in_memory(self, encoder, both, monkeypatch, tmp_path):
        stored, inside = both
        expected = encoder.fit_transform(inside)
        for block_bytes, vector_bytes in ((1, 1), (4 * WIDTH * 40, 1000), (1 << 25, 1 << 25)):
            monkeypatch.setattr(
                StoredDescriptors.blocks, "__defaults__", (block_bytes,)
            )  # the default of max_bytes
            monkeypatch.setattr("medvlad.encoders.base._BLOCK_BYTES", vector_bytes)
            equal(encoder.fit_transform(stored), expected)
            for given in (stored, inside):
                written = encoder.transform_to_file(given, tmp_path / "encoded.npy")
                assert isinstance(written, np.memmap)
                equal(np.asarray(written), expected)
                equal(np.load(tmp_path / "encoded.npy"), expected)
        assert [file.name for file in tmp_path.iterdir() if file.name != "store"] == ["encoded.npy"]

    def test_another_width_is_refused(self, encoder, section):
        encoder.fit(np.ones((40, 3), np.float32) * np.arange(40)[:, None])
        with pytest.raises(InputError, match="descriptors have 16 features"):
            encoder.transform(StoredDescriptors(section, ["key 0"]))


class TestCodebook:
    def test_a_codebook_is_the_same_as_in_memory(self, both):
        stored, inside = both
        for options in ({}, {"max_samples": 30}):
            a = KMeansCodebook(3, random_state=2, **options).fit(stored)
            b = KMeansCodebook(3, random_state=2, **options).fit(inside)
            equal(a.cluster_centers_, b.cluster_centers_)
            equal(a.labels_, b.labels_)
            assert len(a.labels_) == min(len(inside.values), options.get("max_samples", 10_000))

    def test_a_codebook_of_a_sample_is_the_same_on_every_backend(self, both, backend):
        _, inside = both
        expected = KMeansCodebook(3, random_state=2, max_samples=30, backend="reference").fit(inside)
        found = KMeansCodebook(3, random_state=2, max_samples=30, backend=backend).fit(inside)
        equal(found.cluster_centers_, expected.cluster_centers_)

    def test_a_codebook_of_a_sample_on_the_gpu_is_the_same(self, both, cuda_on_host):
        _, inside = both
        on_gpu = Descriptors(GpuArray(cuda_on_host.asarray(inside.values)), inside.offsets)
        expected = KMeansCodebook(3, random_state=2, max_samples=30).fit(inside)
        found = KMeansCodebook(3, random_state=2, max_samples=30).fit(on_gpu)
        equal(found.cluster_centers_, expected.cluster_centers_)

    def test_partial_fit_takes_one_block_after_another(self, both, monkeypatch):
        stored, inside = both
        monkeypatch.setattr(StoredDescriptors.blocks, "__defaults__", (4 * WIDTH * 40,))
        stored_fit, by_hand = KMeansCodebook(3, random_state=2), KMeansCodebook(3, random_state=2)
        stored_fit.partial_fit(stored)
        blocks = [indices for indices, _ in stored.blocks()]
        for indices in blocks:
            if len(inside.take(indices).values):
                by_hand.partial_fit(inside.take(indices))
        equal(stored_fit.cluster_centers_, by_hand.cluster_centers_)
        equal(VLAD(3, random_state=2).partial_fit(stored).cluster_centers_, by_hand.cluster_centers_)
        assert stored_fit.n_iter_ > 1

    def test_too_few_descriptors_are_refused(self, section):
        with pytest.raises(InputError, match="n_clusters=3 is more than the number of descriptors"):
            KMeansCodebook(3).fit(StoredDescriptors(section, [None, None], n_features=4))

    @pytest.mark.parametrize("bad", [0, 2.5, "all"])
    def test_a_wrong_size_of_the_sample_is_refused(self, bad):
        with pytest.raises(InputError, match="max_samples must be an integer of at least 1"):
            KMeansCodebook(3, max_samples=bad).fit(np.eye(5))


class TestFile:
    def test_an_error_leaves_the_old_file(self, section, tmp_path):
        pool = GlobalPool().fit(StoredDescriptors(section, ["key 0"]))
        target = tmp_path / "out.npy"
        target.write_text("old")
        stored = StoredDescriptors(section, ["key 0", "key 6"])
        for shard in section.path.glob("*.shard"):
            shard.write_bytes(b"damaged")
        stored = pickle.loads(pickle.dumps(stored))  # no shard is open
        with pytest.raises(InputError, match="damaged or gone"):
            pool.transform_to_file(stored, target)
        assert target.read_text() == "old"
        assert not list(tmp_path.glob("*.part"))

    def test_a_folder_that_does_not_exist_is_an_error(self, section, tmp_path):
        pool = GlobalPool().fit(StoredDescriptors(section, ["key 0"]))
        with pytest.raises(InputError, match=r"the folder .* does not exist"):
            pool.transform_to_file(StoredDescriptors(section, ["key 0"]), tmp_path / "none" / "out.npy")

    def test_a_disk_that_is_too_small_is_an_error_before_the_work(self, section, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.posix_fallocate", full)
        monkeypatch.setattr(StoredDescriptors, "_read", None)
        pool = GlobalPool().fit(StoredDescriptors(section, ["key 0"]))
        with pytest.raises(InputError, match=r"out\.npy cannot be written: No space left on device"):
            pool.transform_to_file(StoredDescriptors(section, ["key 0"]), tmp_path / "out.npy")
        assert not list(tmp_path.glob(".*.part"))

    def test_no_images_give_an_empty_file(self, section, tmp_path):
        stored = StoredDescriptors(section, [], n_features=WIDTH)
        pool = GlobalPool().fit(stored)
        assert pool.transform(stored).shape == (0, WIDTH)
        assert pool.transform_to_file(stored, tmp_path / "out.npy").shape == (0, WIDTH)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(tmp_path):
    """Other processes make, open, fit and encode stores of which one has four times the images."""
    script = Path(__file__).parents[2] / "benchmarks" / "scale.py"
    options = ["--images", "600,2400", "--max-samples", "20000", "--folder", tmp_path]
    done = subprocess.run([sys.executable, script, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
