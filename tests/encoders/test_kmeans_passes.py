"""k-means by passes over descriptors outside memory, against k-means in memory."""

import pickle
import tracemalloc

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from medvlad import (
    VLAD,
    BagOfWords,
    DescriptorProjection,
    Descriptors,
    GlobalPool,
    InputError,
    KMeansCodebook,
    StoredDescriptors,
)
from medvlad._util.passes import run_here
from medvlad.bags import BagFiles
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.encoders import kmeans_passes
from medvlad.store.store import DescriptorStore

pytestmark = pytest.mark.filterwarnings("ignore:k-means has not come to rest")

LENGTHS = [0, 40, 3, 25, 0, 31, 60, 12, 1, 28]


@pytest.fixture(autouse=True)
def small_slices(monkeypatch):
    """Cut a few images a job, and a few blocks a job."""
    monkeypatch.setattr(kmeans_passes, "_SLICE_BYTES", 4 * 6 * 70)
    monkeypatch.setattr("medvlad.descriptors.blocks.DescriptorBlocks.cut.__defaults__", (4 * 6 * 32, None))


def stored(folder, arrays, order=None):
    section = DescriptorStore(folder / "store").section({"of": "tests"})
    with section.writer() as writer:
        for i, values in enumerate(arrays):
            writer.add(f"key {i}", values)
    return StoredDescriptors(section, [f"key {i}" for i in (order or range(len(arrays)))])


def groups(rng, centers=4):
    middles = rng.normal(scale=4, size=(centers, 6))
    return [
        (middles[rng.integers(centers, size=n)] + rng.normal(size=(n, 6))).astype(np.float32) for n in LENGTHS
    ]


def by_passes(n_clusters, **settings):
    return KMeansCodebook(n_clusters, max_samples=None, **settings)


def test_passes_find_the_centres_of_the_fit_in_memory(rng, tmp_path, backend):
    arrays = groups(rng)
    order = rng.permutation(len(arrays)).tolist()
    images, x = stored(tmp_path, arrays, order), np.concatenate([arrays[i] for i in order])
    settings = {"random_state": 1, "n_init": 2, "backend": backend}
    found, expected = by_passes(5, **settings).fit(images), by_passes(5, **settings).fit(x)
    np.testing.assert_allclose(found.cluster_centers_, expected.cluster_centers_, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found.counts_, expected.counts_)
    assert found.n_iter_ == expected.n_iter_
    assert found.inertia_ == pytest.approx(expected.inertia_, rel=1e-6)
    assert found.inertia_path_.shape == (found.n_iter_ + 1,)
    assert (np.diff(found.inertia_path_) <= 0).all()
    assert found.inertia_path_[-1] == found.inertia_
    assert not hasattr(found, "labels_")
    assert not hasattr(found.fit(x), "inertia_path_")


@pytest.mark.parametrize("max_iter", [1, 2, 30])
def test_integers_are_summed_without_rounding(rng, tmp_path, max_iter):
    """Each cell has a number of rows that is a power of two, so means are exact as well."""
    middles = np.array([[0, 0], [64, 0], [0, 64], [64, 64]])
    rows = np.repeat(middles, 32, axis=0) + np.tile(rng.integers(-8, 9, (32, 2)), (4, 1))
    x = rows[rng.permutation(len(rows))].astype(np.float32)
    images = stored(tmp_path, np.split(x, [5, 40, 41, 90]))
    settings = {"init": middles + 3, "max_iter": max_iter, "tol": 0.0}
    found, expected = by_passes(4, **settings).fit(images), by_passes(4, **settings).fit(x)
    np.testing.assert_array_equal(found.cluster_centers_, expected.cluster_centers_)
    assert found.inertia_ == expected.inertia_


def test_the_stopping_rule_is_that_of_the_fit_in_memory(rng, tmp_path):
    """Far from the origin as well, where a careless variance would lose its digits."""
    arrays = [rng.normal(100, 1, (n, 6)).astype(np.float32) for n in LENGTHS]
    images, x = stored(tmp_path, arrays), np.concatenate(arrays)
    steps = set()
    for tol in (0.0, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0):
        found = by_passes(9, init=x[:9], tol=tol).fit(images)
        assert found.n_iter_ == by_passes(9, init=x[:9], tol=tol).fit(x).n_iter_
        steps.add(found.n_iter_)
    assert len(steps) > 3


@pytest.mark.filterwarnings("ignore:.*clusters are empty")
def test_empty_cells_move_to_the_farthest_rows(rng, tmp_path):
    arrays = groups(rng)
    x = np.concatenate(arrays)
    x[[17, 90]] = 50  # two equal rows: the first one is taken first
    images = stored(tmp_path, np.split(x, np.cumsum(LENGTHS)[:-1]))
    init = np.concatenate([x[:2], np.full((3, 6), 1000)])
    for max_iter in (1, 2, 50):
        found = by_passes(5, init=init, max_iter=max_iter).fit(images)
        expected = by_passes(5, init=init, max_iter=max_iter).fit(x)
        np.testing.assert_allclose(found.cluster_centers_, expected.cluster_centers_, rtol=1e-6, atol=1e-6)


def test_fewer_distinct_descriptors_than_clusters_give_a_warning(tmp_path):
    images = stored(tmp_path, [np.ones((4, 2)), np.zeros((1, 2))])
    with pytest.warns(ConvergenceWarning, match="1 of n_clusters=3 clusters are empty"):
        few = by_passes(3, random_state=0).fit(images)
    assert sorted(few.counts_) == [0, 1, 4]


def test_bits_do_not_depend_on_threads_or_on_the_runner(rng, tmp_path):
    images = stored(tmp_path, groups(rng))

    def through_pickle(shared, jobs):
        """Run the last job first, on copies, as another process would."""
        results = [pickle.loads(pickle.dumps(job)).run(shared) for job in reversed(jobs)]
        return iter(reversed(results))

    expected = by_passes(5, random_state=1, n_threads=1).fit(images)
    for n_threads, runner in ((3, None), (1, run_here), (2, through_pickle)):
        found = by_passes(5, random_state=1, n_threads=n_threads).fit(images.on(runner))
        assert found.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
        assert found.inertia_path_.tobytes() == expected.inertia_path_.tobytes()


def test_encoders_use_passes_and_the_runner(rng, tmp_path):
    """Fitted and encoded by a runner: the same vectors, also after a projection and in feature files."""
    arrays = [a for a in groups(rng) if len(a)]
    ran = []

    def watched(shared, jobs):
        ran.extend(job.stage for job in jobs)
        return run_here(shared, [pickle.loads(pickle.dumps(job)) for job in jobs])

    images = stored(tmp_path, arrays)
    for i, values in enumerate(arrays):
        np.save(tmp_path / f"{i}.npy", values)
    bags = BagFiles([tmp_path / f"{i}.npy" for i in range(len(arrays))])
    vlad = VLAD(4, random_state=0, max_samples=None, assignment="soft")
    expected = vlad.fit(images).transform(images)
    assert not ran
    for source in (images, bags):
        found = vlad.fit(source.on(watched)).transform(source.on(watched)[:5])
        np.testing.assert_array_equal(found, expected[:5])
        assert set(ran) == {"k-means", "encoding"}
        ran.clear()
    written = vlad.transform_to_file(images.on(watched), tmp_path / "vectors.npy")
    np.testing.assert_array_equal(written, expected)
    assert ran
    projection = DescriptorProjection(3, random_state=0).fit(images)
    projected = projection.transform(images.on(watched))
    assert projected.runner is watched
    for encoder in (GlobalPool(), BagOfWords(3, max_samples=None, random_state=0)):
        found = encoder.fit(projected).transform(projected)
        near = encoder.transform(projection.transform(images))
        np.testing.assert_allclose(found, near, rtol=1e-5, atol=1e-6)


def test_memory_is_bounded(rng, tmp_path, monkeypatch):
    """Descriptors of 13 MB, read in parts of 160 kB."""
    monkeypatch.undo()
    monkeypatch.setattr(kmeans_passes, "_SLICE_BYTES", 640_000)
    monkeypatch.setattr("medvlad.descriptors.blocks.DescriptorBlocks.cut.__defaults__", (160_000, None))
    monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 32)
    images = stored(tmp_path, [rng.random((100, 64), np.float32) for _ in range(512)])
    codebook = by_passes(4, random_state=0, max_iter=2, backend="native", n_threads=1)
    tracemalloc.start()
    codebook.fit(images)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert images.nbytes > 13_000_000
    assert peak < 2_000_000


def test_a_number_that_is_not_finite_is_named(rng):
    arrays = groups(rng)
    arrays[6][45, 2] = np.nan

    class Unchecked(DescriptorBlocks):
        def __init__(self, numbers):
            self.numbers, self.n_features = numbers, 6
            self.offsets = Descriptors.from_list([arrays[i] for i in numbers]).offsets

        def _taken(self, index):
            return Unchecked(self.numbers[index])

        def _read_into(self, i, out):
            out[...] = arrays[self.numbers[i]]

    with pytest.raises(InputError, match=r"image 6, row 45"):
        by_passes(2, init=np.zeros((2, 6))).fit(Unchecked(np.arange(len(arrays))))
