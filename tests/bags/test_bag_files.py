"""Feature files are the same bits as the arrays that were written, in whatever part they are read."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.feature_files import FORMATS, write_features
from support.folders import refusal

import medvlad as mv
from medvlad.bags import BagFiles, is_bag_file, open_bags
from medvlad.bags.array_file import READERS
from medvlad.datasets.feature_files import FEATURE_SUFFIXES

WIDTH = 8
LENGTHS = [7, 1, 30, 12, 3]


def arrays(seed=3, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, WIDTH)).astype(dtype) for n in LENGTHS]


@pytest.fixture(autouse=True)
def blocks_of_five_rows(monkeypatch):
    monkeypatch.setattr("medvlad.bags.feature_file._BLOCK_BYTES", 5 * 4 * WIDTH)


def equal(a, b):
    np.testing.assert_array_equal(a, b, strict=True)


def written(folder, ending, values, **options):
    return [write_features(folder / f"{i}{ending}", one, **options) for i, one in enumerate(values)]


@pytest.mark.parametrize("ending", FORMATS)
class TestFormats:
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_every_number_type_becomes_float32(self, tmp_path, ending, dtype):
        values = arrays(dtype=dtype)
        bags = BagFiles(written(tmp_path, ending, values))
        assert (len(bags), bags.n_features, bags.nbytes) == (5, WIDTH, 4 * WIDTH * sum(LENGTHS))
        for own, expected in zip(bags, values, strict=True):
            equal(own, expected.astype(np.float32))

    def test_a_batch_of_one_is_its_rows(self, tmp_path, ending):
        values = arrays()
        bags = BagFiles(written(tmp_path, ending, [one[None] for one in values]))
        equal(bags.load().values, np.concatenate(values))

    def test_a_sample_is_the_one_drawn_in_memory(self, tmp_path, ending):
        bags = BagFiles(written(tmp_path, ending, arrays()))
        inside = bags.load().values
        for n in (1, 9, 40, 1000):
            equal(bags.sample(n, 5), inside[_rows(len(inside), n, 5)])

    def test_nan_is_reported_with_file_and_row(self, tmp_path, ending):
        values = arrays()
        values[2][17, 3] = np.nan
        bags = BagFiles(written(tmp_path, ending, values))
        refusal(bags.load, f"2{ending} holds NaN in row 17")

    def test_a_file_that_is_cut_is_reported(self, tmp_path, ending):
        path = write_features(tmp_path / f"a{ending}", arrays()[2])
        whole = path.read_bytes()
        for size in (0, 5, len(whole) // 2, len(whole) - 7):
            path.write_bytes(whole[:size])
            refusal(lambda: BagFiles([path]).load(), path)

    def test_a_file_without_rows_is_refused(self, tmp_path, ending):
        path = write_features(tmp_path / f"a{ending}", np.empty((0, WIDTH), np.float32))
        refusal(lambda: BagFiles([path]), path, "no rows")

    @pytest.mark.parametrize("shape", [(6,), (2, 3, 4), (2, 2, 2, 2), (3, 0)])
    def test_another_shape_is_refused(self, tmp_path, ending, shape):
        path = write_features(tmp_path / f"a{ending}", np.zeros(shape, np.float32))
        refusal(lambda: BagFiles([path]), path, str(shape), "(n, D)")

    def test_a_file_that_changes_is_reported(self, tmp_path, ending):
        path = write_features(tmp_path / f"a{ending}", np.zeros((4, WIDTH), np.float32))
        bags = BagFiles([path])
        write_features(path, np.zeros((3, WIDTH), np.float32))
        refusal(bags.load, path, "has changed")


@pytest.mark.parametrize("ending", [one for one in FORMATS if one != ".npy"])
class TestNames:
    @pytest.mark.parametrize("name", ["features", "feats", "descriptors"])
    def test_usual_names_of_the_features_are_found(self, tmp_path, ending, name):
        path = write_features(tmp_path / f"a{ending}", arrays()[0], name=name, coords=np.zeros((7, 2)))
        equal(BagFiles([path])[0], arrays()[0])

    def test_a_file_without_features_is_refused_with_what_it_holds(self, tmp_path, ending):
        path = write_features(tmp_path / f"a{ending}", arrays()[0], name="logits", coords=np.zeros((7, 2)))
        refusal(lambda: BagFiles([path]), f"{path} has no 'features'", "'logits'", "'coords'")


@pytest.mark.parametrize(
    ("ending", "options"),
    [
        (".h5", {"chunks": (1, 3), "compression": "gzip"}),
        (".npz", {"compressed": True}),
        (".pt", {"legacy": True}),
        (".pt", {"bare": True}),
    ],
)
def test_other_layouts_of_a_format_hold_the_same_numbers(tmp_path, ending, options):
    bags = BagFiles(written(tmp_path, ending, arrays(), **options))
    equal(bags.load().values, np.concatenate(arrays()))
    equal(bags.sample(11, 2), bags.load().values[np.sort(_rows(sum(LENGTHS), 11, 2))])


def _rows(n_rows, n, seed):
    from medvlad.descriptors.ragged import draw_rows

    return draw_rows(n_rows, n, seed)


@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_fortran_order_is_read(tmp_path, ending):
    path = write_features(tmp_path / f"a{ending}", np.asfortranarray(arrays()[2]))
    equal(BagFiles([path])[0], arrays()[2])


def test_bfloat16_is_read_exactly(tmp_path):
    values = [(one.view(np.uint32) & 0xFFFF0000).view(np.float32) for one in arrays()]
    bags = BagFiles(written(tmp_path, ".safetensors", values, bfloat16=True))
    equal(bags.load().values, np.concatenate(values))


def test_a_pickle_that_holds_code_is_refused(tmp_path):
    ran = tmp_path / "ran"

    class Code:
        def __reduce__(self):
            return open, (str(ran), "w")

    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps(Code()))
    refusal(lambda: BagFiles([path]), path)
    assert not ran.exists()


def test_an_external_link_of_hdf5_is_not_followed(tmp_path):
    h5py = pytest.importorskip("h5py", reason="HDF5 needs h5py")
    write_features(tmp_path / "other.h5", arrays()[0])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = h5py.ExternalLink("other.h5", "/features")
    refusal(lambda: BagFiles([tmp_path / "a.h5"]), "has no 'features', it holds no arrays")


class TestBags:
    def test_several_files_are_one_bag(self, tmp_path):
        paths = written(tmp_path, ".npy", arrays())
        bags = BagFiles([paths[0], (paths[1], paths[2]), [paths[3], paths[4]]])
        assert np.diff(bags.offsets).tolist() == [7, 31, 15]
        assert bags.files(1) == paths[1:3]
        assert bags.lengths(1) == [1, 30]
        equal(bags[1], np.concatenate(arrays()[1:3]))
        equal(bags.sample(20, 0), bags.load().values[_rows(53, 20, 0)])

    def test_images_are_taken_without_reading(self, tmp_path):
        paths = written(tmp_path, ".npy", arrays())
        taken = BagFiles(paths).take([4, 0, 4])
        assert [taken.files(i)[0].name for i in range(3)] == ["4.npy", "0.npy", "4.npy"]
        equal(taken.load().values, np.concatenate([arrays()[i] for i in (4, 0, 4)]))
        equal(pickle.loads(pickle.dumps(taken)).load().values, taken.load().values)

    def test_blocks_hold_whole_bags_in_order(self, tmp_path):
        bags = BagFiles(written(tmp_path, ".npy", arrays()))
        parts = list(bags.blocks(10 * 4 * WIDTH))
        assert [indices.tolist() for indices, _ in parts] == [[0, 1], [2], [3], [4]]
        equal(np.concatenate([part.values for _, part in parts]), bags.load().values)

    def test_widths_that_differ_are_refused_with_both_files(self, tmp_path):
        paths = [write_features(tmp_path / f"{d}.npy", np.ones((2, d))) for d in (4, 5)]
        refusal(lambda: BagFiles(paths), f"{paths[1]} has 5 features in a row, {paths[0]} has 4")

    def test_numbers_beyond_float32_are_refused(self, tmp_path):
        path = write_features(tmp_path / "a.npy", np.full((7, 2), 1e300))
        refusal(lambda: BagFiles([path]).load(), path, "beyond float32")

    def test_what_is_no_feature_file_is_refused(self, tmp_path):
        refusal(lambda: BagFiles([]), "no feature file")
        refusal(lambda: BagFiles([[]]), "names no feature file")
        refusal(lambda: BagFiles([tmp_path / "a.png"]), "a.png' is not a feature file", ".h5")
        refusal(lambda: BagFiles([tmp_path / "a.npy"]), "there is no feature file", "a.npy")
        (tmp_path / "b.npy").mkdir()
        refusal(lambda: BagFiles([tmp_path / "b.npy"]), "is not a file")
        np.save(tmp_path / "c.npy", np.array([{}], object))
        refusal(lambda: BagFiles([tmp_path / "c.npy"]), "c.npy")
        write_features(tmp_path / "d.npy", np.full((2, 2), "text"))
        refusal(lambda: BagFiles([tmp_path / "d.npy"]).load(), "d.npy", "real numbers")

    def test_endings_tell_feature_files(self):
        assert is_bag_file("a/b.H5")
        assert not is_bag_file("a/b.png")
        assert set(READERS) == set(FEATURE_SUFFIXES)


class TestEncoders:
    @pytest.mark.parametrize(
        "encoder",
        [
            mv.GlobalPool(),
            mv.VLAD(3, random_state=0),
            mv.VLAD(3, random_state=0, assignment="soft", local_axes=False),
            mv.FisherVector(2, random_state=0),
            mv.BagOfWords(3, random_state=0),
            mv.SecondOrderPool(),
        ],
        ids=lambda one: type(one).__name__,
    )
    def test_bags_encode_to_the_bits_of_memory(self, tmp_path, encoder):
        bags = open_bags(written(tmp_path, ".npz", arrays()))
        inside = bags.load()
        equal(encoder.fit(bags).transform(bags), encoder.transform(inside))

    def test_kmeans_goes_on_block_by_block(self, tmp_path):
        bags = open_bags(written(tmp_path, ".npy", arrays()))
        in_blocks, in_memory = (mv.KMeansCodebook(3, random_state=0) for _ in range(2))
        in_blocks.partial_fit(bags)
        for _, part in bags.blocks():
            in_memory.partial_fit(part)
        equal(in_blocks.cluster_centers_, in_memory.cluster_centers_)

    def test_bags_of_another_width_are_refused(self, tmp_path):
        bags = open_bags(written(tmp_path, ".npy", arrays()))
        with pytest.raises(mv.InputError, match="8 features"):
            mv.GlobalPool().fit(np.ones((2, 3))).transform(bags)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=3), min_size=1, max_size=4),
    ending=st.sampled_from(FORMATS),
    data=st.data(),
)
def test_any_cut_into_files_holds_the_same_descriptors(tmp_path_factory, lengths, ending, data):
    folder = tmp_path_factory.mktemp("bags")
    rng = np.random.default_rng(0)
    values = [[rng.normal(size=(n, 3)).astype(np.float32) for n in bag] for bag in lengths]
    paths = [
        [write_features(folder / f"{b}-{f}{ending}", one) for f, one in enumerate(bag)]
        for b, bag in enumerate(values)
    ]
    index = data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=5))
    bags = BagFiles(paths).take(index)
    expected = mv.Descriptors.from_list([np.concatenate(values[i]) for i in index])
    equal(bags.load().values, expected.values)
    equal(bags.offsets, expected.offsets)
    n = data.draw(st.integers(1, len(expected.values)))
    equal(bags.sample(n, 1), expected.values[_rows(len(expected.values), n, 1)])
