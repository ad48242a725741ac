"""Descriptors hold ragged batches, share memory, and refuse wrong input with its image and row."""

import numpy as np
import pytest

import medvlad as mv
from medvlad import Descriptors, InputError
from medvlad.descriptors.ragged import as_descriptors


@pytest.fixture
def three():
    """Return three images with 2, 0 and 1 descriptors."""
    return Descriptors.from_list([np.ones((2, 3)), np.empty((0, 3)), 2 * np.ones((1, 3))])


def test_a_list_becomes_one_matrix_and_offsets(three):
    assert (len(three), three.n_features) == (3, 3)
    assert (three.values.dtype, three.offsets.dtype) == (np.float32, np.int64)
    assert three.offsets.tolist() == [0, 2, 2, 3]
    assert [len(image) for image in three] == [2, 0, 1]


def test_an_image_is_a_view(three):
    assert three[-1].tolist() == [[2, 2, 2]]
    assert np.shares_memory(three[0], three.values)


def test_an_index_beyond_the_images_is_an_error(three):
    with pytest.raises(IndexError):
        three[3]


@pytest.mark.parametrize(
    "cut", [slice(0, 2), slice(1, 3), slice(2, 1), slice(None), slice(-1, None), slice(None, None, 2)]
)
def test_slices_are_like_list_slices(cut):
    arrays = [np.full((i, 2), i, np.float32) for i in range(4)]
    part = Descriptors.from_list(arrays)[cut]
    assert [a.tolist() for a in part] == [a.tolist() for a in arrays[cut]]


def test_take_selects_by_index_or_mask():
    d = Descriptors.from_list([np.full((i, 2), i) for i in range(4)])
    assert [a.tolist() for a in d.take([3, 0, 1])] == [d[3].tolist(), [], d[1].tolist()]
    assert len(d.take([])) == 0
    assert [a.tolist() for a in d.take([True, False, False, True])] == [[], d[3].tolist()]


def test_take_from_the_end_keeps_weights():
    d = Descriptors.from_list([np.full((i, 2), i) for i in range(4)]).weighted([1.0, 2, 3, 4, 5, 6])
    taken = d.take([-1, -3])
    assert taken.values[:, 0].tolist() == [3, 3, 3, 1]
    assert taken.weights.tolist() == [4, 5, 6, 1]


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        ([0.5], "of float64"),
        ([True, False], "got shape \\(2,\\) of bool"),
        ([[0]], "got shape \\(1, 1\\)"),
        ([[0], [1, 2]], "a one-dimensional list of integers"),
        (["a"], "of <U1"),
        (1, "got shape \\(\\)"),
        ([0, 4], "image index 4 is out of range for 4 images: use 0 to 3, or -4 to -1"),
        ([-5], "image index -5 is out of range for 4 images"),
        (np.array([2**63], np.uint64), "image index 9223372036854775808"),
    ],
)
def test_take_refuses_wrong_indices(indices, words):
    with pytest.raises(InputError, match=words):
        Descriptors.from_list([np.full((i, 2), i) for i in range(4)]).take(indices)


def test_an_array_is_not_copied(rng):
    x = rng.random((4, 5, 6), dtype=np.float32)
    d = Descriptors.from_array(x)
    assert np.shares_memory(d.values, x)
    np.testing.assert_array_equal(d[2], x[2])


@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8", "int64", "bool"])
def test_real_dtypes_become_float32(dtype):
    d = Descriptors(np.ones((2, 2), dtype), [0, 2])
    assert d.values.dtype == np.float32


@pytest.mark.parametrize(
    ("values", "offsets", "message"),
    [
        (np.ones((2, 2)), [0, 1], r"from 0 to the number of descriptors \(2\), got 0 to 1"),
        (np.ones((2, 2)), [1, 2], "got 1 to 2"),
        (np.ones((2, 2)), [0, 2, 1, 2], "must not decrease, got 2 then 1 at image 1"),
        (np.ones((2, 2)), [0.0, 2.0], "float64"),
        (np.ones((2, 2)), [], "offsets"),
        (np.ones((2, 2)), [[0], [1, 2]], "offsets must be a list of n_images"),
        (np.ones(2), [0, 2], r"shape \(n, n_features\)"),
        (np.ones((2, 0)), [0, 2], "n_features >= 1"),
        (np.ones((2, 2), complex), [0, 2], "complex128"),
        (np.array([["a"]]), [0, 1], "real numbers"),
        (np.array([[None]]), [0, 1], "object"),
        (np.array([[1e300]]), [0, 1], r"1e\+300 at row 0"),
    ],
)
def test_wrong_values_and_offsets_are_refused(values, offsets, message):
    with pytest.raises(InputError, match=message):
        Descriptors(values, offsets)


def test_lists_of_other_widths_name_the_image():
    with pytest.raises(InputError, match="descriptors of image 1 have 2 features, those of image 0 have 3"):
        Descriptors.from_list([np.ones((1, 3)), np.ones((1, 2))])


def test_lists_of_other_shapes_name_the_image():
    with pytest.raises(InputError, match="descriptors of image 1 must have shape"):
        mv.VLAD(2).fit([np.ones((2, 3)), np.ones(3)])


def test_from_list_needs_a_list_with_an_image():
    with pytest.raises(InputError, match="from_list needs a list of arrays, one per image, got NoneType"):
        Descriptors.from_list(None)
    with pytest.raises(InputError, match="empty list"):
        Descriptors.from_list([])


def test_from_array_needs_three_or_four_dimensions():
    with pytest.raises(InputError, match="from_array needs shape"):
        Descriptors.from_array(np.ones((2, 2)))


def test_as_descriptors_reads_rows_as_images():
    assert [a.tolist() for a in as_descriptors([[1, 2], [3, 4]])] == [[[1, 2]], [[3, 4]]]
    assert len(as_descriptors(np.ones((3, 4, 2)))) == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("call", ["assign", "vlad_encode", "fit"])
def test_non_finite_names_image_and_row(bad, call):
    x = np.ones((5000, 3), np.float32)
    x[4321, 1] = bad
    offsets = [0, 4300, 4300, 5000]
    calls = {
        "assign": lambda: mv.assign(x, np.ones((1, 3))),
        "vlad_encode": lambda: mv.vlad_encode(Descriptors(x, offsets), np.ones((1, 3))),
        "fit": lambda: mv.VLAD(2).fit(Descriptors(x, offsets)),
    }
    where = "row 4321" if call == "assign" else "image 2, row 21"
    kind = "NaN" if np.isnan(bad) else str(bad)
    with pytest.raises(InputError, match=f"descriptors hold {kind} at {where}"):
        calls[call]()


def test_large_finite_values_are_not_called_infinite():
    x = np.full((4096, 8), 3e38, np.float32)
    assert mv.assign(x, x[:1]).tolist() == [0] * 4096


@pytest.mark.parametrize(
    ("centers", "message"),
    [
        (np.ones((1, 4)), "centers have 4 features, descriptors have 3"),
        (np.ones((0, 3)), r"at least one cluster centre, got shape \(0, 3\)"),
        ([[1, 1, 1], [1, np.nan, 1]], "centers hold NaN at row 1"),
    ],
)
def test_wrong_centres_are_refused(centers, message):
    x = np.ones((2, 3), np.float32)
    for function in (mv.assign, mv.vlad_encode):
        with pytest.raises(InputError, match=message):
            function(x, centers)


def test_wrong_options_are_refused():
    x = np.ones((2, 3), np.float32)
    with pytest.raises(InputError, match="n_threads"):
        mv.assign(x, x, n_threads=0)
    with pytest.raises(InputError, match=r"power must lie in \(0, 1\], got 0"):
        mv.vlad_encode(x, x, power=0)


def test_the_layout_in_host_memory_changes_no_label(rng, backend):
    x = rng.random((64, 16), dtype=np.float32)
    c = x[:4].copy()
    expected = mv.assign(x, c, backend=backend)
    read_only = x.copy()
    read_only.flags.writeable = False
    for view in (
        np.asfortranarray(x),
        np.repeat(x, 2, axis=0)[::2],
        x[::-1][::-1],
        x.astype(np.float64),
        read_only,
    ):
        np.testing.assert_array_equal(mv.assign(view, c, backend=backend), expected)


class TestArraysOfOtherLibraries:
    """In host memory. The tests of torch need torch."""

    def test_lists_of_maps_and_of_foreign_arrays_are_joined(self, rng):
        maps = [rng.random((h, 3, 4), dtype=np.float32) for h in (2, 5)]
        expected = Descriptors.from_list([m.reshape(-1, 4) for m in maps])
        xp = pytest.importorskip("array_api_strict", reason="array_api_strict is not installed")
        flat = [xp.asarray(m.reshape(-1, 4)) for m in maps]
        for given in (maps, [xp.asarray(m) for m in maps], flat, tuple(flat)):
            found = as_descriptors(given)
            np.testing.assert_array_equal(found.values, expected.values)
            np.testing.assert_array_equal(found.offsets, expected.offsets)
        np.testing.assert_array_equal(
            mv.GlobalPool().fit_transform(flat), mv.GlobalPool().fit_transform(maps)
        )

    def test_bfloat16_arrays_of_numpy_are_read(self, rng):
        bfloat16 = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
        x = rng.integers(-8, 8, (3, 5, 4)).astype(np.float32)
        for shaped in (x, x[:, 0], list(x)):
            given = [a.astype(bfloat16) for a in x] if isinstance(shaped, list) else shaped.astype(bfloat16)
            np.testing.assert_array_equal(as_descriptors(given).values, as_descriptors(shaped).values)

    def test_torch_tensors_are_read_without_gradients(self, rng):
        torch = pytest.importorskip("torch", reason="torch is not installed")
        x = rng.integers(-8, 8, (3, 4, 4)).astype(np.float32)
        expected = mv.VLAD(2, random_state=0).fit_transform(x)
        learnt = torch.nn.Parameter(torch.tensor(x))
        for given in (
            learnt,
            learnt.bfloat16(),
            learnt.half(),
            list(learnt),
            learnt.transpose(1, 2).transpose(1, 2),
        ):
            np.testing.assert_array_equal(mv.VLAD(2, random_state=0).fit_transform(given), expected)
        two = mv.WideLinearSVC().fit(learnt[:, 0], [0, 1, 1])
        assert two.decision_function(learnt[:, 0]).shape == (3,)

    def test_a_tensor_without_memory_is_refused(self):
        torch = pytest.importorskip("torch", reason="torch is not installed")
        with pytest.raises(InputError, match="descriptors cannot be read as a NumPy array"):
            mv.GlobalPool().fit(torch.empty(2, 3, device="meta"))


@pytest.mark.parametrize("shape", [(2, 512, 7, 7), (1, 64, 32, 32), (3, 2048, 1, 1)])
def test_maps_with_channels_first_are_noticed_and_read(shape):
    with pytest.warns(UserWarning, match=r"give maps.permute\(0, 2, 3, 1\)"):
        read = Descriptors.from_array(np.zeros(shape, np.float32))
    assert (len(read), read.n_features) == (shape[0], shape[3])


@pytest.mark.parametrize(
    "shape", [(2, 7, 7, 512), (2, 32, 32, 32), (2, 64, 17, 13), (2, 65, 7, 7), (2, 8, 3, 3)]
)
def test_other_maps_are_read_without_a_word(shape):
    assert Descriptors.from_array(np.zeros(shape, np.float32)).n_features == shape[3]
