"""One suite for all backends: exact on integers, within the tolerance otherwise, and labels always equal."""

import itertools
import threading
from fractions import Fraction

import numpy as np
import pytest
from conftest import TOLERANCE
from hypothesis import given
from hypothesis import strategies as st
from support.batches import batch, bits

import medvlad as mv
from medvlad import InputError
from medvlad.backends import get_backend, reference

SIZES = [1, 31, 32, 33, 255, 256, 257]
# Each large size with a small one, and with a large one, because an emulated GPU is slow.
SMALL, LARGE = SIZES[:4], SIZES[4:]
WIDTHS = [
    *itertools.product(SMALL, SMALL),
    *zip(LARGE, SMALL, strict=False),
    *zip(SMALL[1:], LARGE, strict=True),
    *[(256, 255), (257, 256), (257, 257)],
]
#: All combinations of power, intra-normalisation and L2 normalisation, and two halves of them. In each half,
#: any two values still meet.
OPTIONS = list(itertools.product((1.0, 0.5, 0.3), (False, True), (False, True)))
HALVES = [[(p, i, l2) for p, i, l2 in OPTIONS if (p == 0.5) ^ i ^ l2 == odd] for odd in (False, True)]
#: A problem with so many numbers in its descriptors and centres takes one half: an emulated GPU is slow.
MANY = 10_000


def check_against_reference(name, x, offsets, c, n_threads=1):
    own = get_backend(name)
    residuals, counts = own.aggregate(x, offsets, c, n_threads=n_threads)
    expected, expected_counts = reference.aggregate(x, offsets, c)
    np.testing.assert_array_equal(own.assign(x, c, n_threads=n_threads), reference.assign(x, c))
    np.testing.assert_array_equal(counts, expected_counts)
    scale = np.abs(expected).max(initial=1.0)
    np.testing.assert_allclose(residuals, expected, rtol=0, atol=scale * TOLERANCE["residuals", "float32"])
    # Neighbours, such as 256 and 257 rows, take different halves.
    for power, intra, l2 in OPTIONS if x.size + c.size < MANY else HALVES[(len(x) + len(c)) % 2]:
        options = {"power": power, "intra_norm": intra, "l2_norm": l2}
        encoded = own.encode(x, offsets, c, n_threads=n_threads, **options)
        wanted = reference.encode(x, offsets, c, **options)
        scale = np.abs(wanted).max(initial=1.0)
        np.testing.assert_allclose(encoded, wanted, rtol=0, atol=scale * TOLERANCE["encode", "float32"])
        assert np.isfinite(encoded).all()


def test_the_reference_agrees_with_numbers_by_hand():
    x = np.array([[0, 0], [1, 0], [4, 0], [4, 3]], np.float32)
    c = np.array([[0, 0], [4, 0]], np.float32)
    residuals, counts = reference.aggregate(x, np.array([0, 2, 4]), c)
    assert residuals.tolist() == [[[1, 0], [0, 0]], [[0, 0], [0, 3]]]
    assert counts.tolist() == [[2, 0], [0, 2]]
    encoded = reference.encode(x, np.array([0, 4]), c)
    np.testing.assert_allclose(encoded[0], np.array([1, 0, 0, 3]) / np.sqrt(10), rtol=1e-7)


@pytest.mark.parametrize(("k", "d"), WIDTHS)
def test_awkward_widths_agree_with_the_reference(backend, rng, k, d):
    check_against_reference(backend, *batch(rng, [0, 3, 40, 0, 1, 0], k, d))


@pytest.mark.parametrize("n", [0, *SIZES, 1000])
@pytest.mark.parametrize("n_images", [1, 33])
def test_awkward_lengths_agree_with_the_reference(backend, rng, n, n_images):
    check_against_reference(backend, *batch(rng, [n] * n_images, 7, 5), n_threads=2)


def test_no_images_give_empty_results(backend, rng):
    x, _, c = batch(rng, [], 4, 3)
    own = get_backend(backend)
    offsets = np.zeros(1, np.int64)
    assert own.encode(x, offsets, c, power=1.0, intra_norm=False, l2_norm=True, n_threads=2).shape == (0, 12)
    assert own.aggregate(x, offsets, c, n_threads=2)[0].shape == (0, 4, 3)
    assert own.assign(x, c, n_threads=2).shape == (0,)


@pytest.mark.parametrize("d", [1, 33, 512])
@pytest.mark.parametrize("lengths", [[0, 5, 0, 300, 1, 0], [9000]])
def test_results_of_integers_are_exact(backend, rng, lengths, d):
    x, offsets, c = batch(rng, lengths, 64, d, integers=True)
    residuals, counts = get_backend(backend).aggregate(x, offsets, c, n_threads=2)
    expected, expected_counts = reference.aggregate(x, offsets, c)
    np.testing.assert_array_equal(bits(residuals), bits(expected))
    np.testing.assert_array_equal(counts, expected_counts)
    options = {"power": 1.0, "intra_norm": False, "l2_norm": False, "n_threads": 2}
    encoded = get_backend(backend).encode(x, offsets, c, **options)
    np.testing.assert_array_equal(bits(encoded), bits(expected.reshape(len(lengths), -1)))


def test_labels_of_integers_agree_with_integer_arithmetic(backend, rng):
    """Many labels are ties, and integer arithmetic has no rounding."""
    x, _, c = batch(rng, [2000], 40, 6, integers=True)
    xi, ci = x.astype(np.int64), c.astype(np.int64)
    twice_scores = 2 * xi @ ci.T - (ci**2).sum(axis=1)
    assert (np.sort(twice_scores, axis=1)[:, -1] == np.sort(twice_scores, axis=1)[:, -2]).sum() > 100
    np.testing.assert_array_equal(get_backend(backend).assign(x, c, n_threads=2), twice_scores.argmax(axis=1))


def test_duplicated_centers_go_to_the_lowest_index(backend, rng):
    x, _, c = batch(rng, [500], 100, 512)
    labels = get_backend(backend).assign(x, np.concatenate([c, c, c]), n_threads=2)
    assert labels.max() < 100
    np.testing.assert_array_equal(labels, get_backend(backend).assign(x, c, n_threads=1))


@pytest.fixture(scope="module")
def near_ties():
    """Descriptors, centres that differ in the last bit of one coordinate, and the exact labels."""
    rng, d = np.random.default_rng(20261122), 64
    base = rng.normal(size=(1, d)).astype(np.float32)
    c = np.repeat(base, 8, axis=0)
    for k in range(8):
        c[k, k] = np.nextafter(c[k, k], np.float32(np.inf if k % 2 else -np.inf))
    x = (base + rng.normal(scale=1e-3, size=(300, d))).astype(np.float32)
    return x, c, exact_labels(x, c)


def test_near_ties_are_decided_exactly(backend, near_ties):
    """Float32 scores cannot distinguish the centres."""
    x, c, expected = near_ties
    assert len(set(expected)) > 1
    assert get_backend(backend).assign(x, c, n_threads=2).tolist() == expected


def exact_labels(x, c):
    """Return the nearest centres by rational arithmetic. The lowest index wins a tie."""

    def distance(row, center):
        return sum((Fraction(float(a)) - Fraction(float(b))) ** 2 for a, b in zip(row, center, strict=True))

    return [min(range(len(c)), key=lambda k, row=row: distance(row, c[k])) for row in x]


def test_cancelling_parts_do_not_hide_the_rest(backend):
    """The large terms of a score difference cancel, and a small term decides."""
    x = np.array([[1e-10, 0]], np.float32)
    c = np.array([[0, -1], [1e-10, 1]], np.float32)
    assert get_backend(backend).assign(x, c, n_threads=1).tolist() == [1]


@pytest.mark.parametrize("seed", range(3))
def test_mixed_magnitudes_are_exact(backend, seed):
    """With coordinates of very different size, most rows are ties in float64 and few are true ties."""
    rng = np.random.default_rng(seed)
    values = np.array([0, 1, -1, 1e-9, -1e-9, 3e-9, 1e-20, -2e-20, 1e15], np.float32)
    x, c = rng.choice(values, (300, 3)), rng.choice(values, (12, 3))
    assert get_backend(backend).assign(x, c, n_threads=2).tolist() == exact_labels(x, c)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-19, 1e19, 1e30, 1e38])
def test_extreme_scales_give_exact_labels_and_finite_vectors(backend, rng, scale):
    x = (rng.uniform(-1, 1, (200, 17)) * scale).astype(np.float32)
    c = x[::20].copy()
    np.testing.assert_array_equal(get_backend(backend).assign(x, c, n_threads=2), reference.assign(x, c))
    options = {"power": 0.5, "intra_norm": True, "l2_norm": True, "n_threads": 1}
    assert np.isfinite(get_backend(backend).encode(x, np.array([0, 120, 200]), c, **options)).all()


@pytest.mark.parametrize("lengths", [[49] * 60, [0, 9000, 3, 0, 20_000, 1], [8192, 8193, 8191, 16_384]])
def test_threads_and_cuts_change_no_bit(backend, rng, lengths):
    x, offsets, c = batch(rng, lengths, 16, 24)
    own = get_backend(backend)
    options = {"power": 0.5, "intra_norm": True, "l2_norm": True}
    whole = own.encode(x, offsets, c, n_threads=1, **options)
    residuals, counts = own.aggregate(x, offsets, c, n_threads=1)
    for n_threads in (2, 3, 7):
        np.testing.assert_array_equal(
            bits(own.encode(x, offsets, c, n_threads=n_threads, **options)), bits(whole)
        )
        again, counts_again = own.aggregate(x, offsets, c, n_threads=n_threads)
        np.testing.assert_array_equal(bits(again), bits(residuals))
        np.testing.assert_array_equal(counts_again, counts)
    d = mv.Descriptors(x, offsets)
    for cut in (1, 2, 5):
        parts = [d[i : i + cut] for i in range(0, len(d), cut)]
        pieces = [own.encode(p.values, p.offsets, c, n_threads=2, **options) for p in parts]
        np.testing.assert_array_equal(bits(np.concatenate(pieces)), bits(whole))


finite = st.floats(-100, 100, width=16)


@st.composite
def problems(draw):
    """Draw a few images of a few small descriptors, and centres."""
    d, k = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    lengths = draw(st.lists(st.integers(0, 6), min_size=1, max_size=4))
    rows = st.lists(finite, min_size=d, max_size=d)
    x = draw(st.lists(rows, min_size=sum(lengths), max_size=sum(lengths)))
    c = draw(st.lists(rows, min_size=k, max_size=k))
    return (
        np.array(x, np.float32).reshape(-1, d),
        np.cumsum([0, *lengths], dtype=np.int64),
        np.array(c, np.float32),
    )


class TestInvariants:
    """Properties that hold for all numbers. Coordinates with float16 values make every sum exact."""

    @given(problem=problems())
    def test_matches_the_reference(self, own_backend, problem):
        check_against_reference(own_backend, *problem)

    @given(problem=problems(), seed=st.integers(0, 100))
    def test_the_order_of_descriptors_does_not_matter(self, own_backend, problem, seed):
        x, offsets, c = problem
        shuffled = x.copy()
        for first, last in itertools.pairwise(offsets):
            np.random.default_rng(seed).shuffle(shuffled[first:last])
        a, b = (get_backend(own_backend).aggregate(v, offsets, c, n_threads=1)[0] for v in (x, shuffled))
        np.testing.assert_array_equal(a, b)

    @given(problem=problems())
    def test_residuals_of_images_add_up_to_those_of_their_union(self, own_backend, problem):
        """Summed over cells, residuals are sum x - sum n_k c_k."""
        x, offsets, c = problem
        own = get_backend(own_backend)
        parts, _ = own.aggregate(x, offsets, c, n_threads=1)
        whole, counts = own.aggregate(x, offsets[[0, -1]], c, n_threads=1)
        scale = 1 + np.abs(x).sum() + np.abs(c).sum() * len(x)
        np.testing.assert_allclose(parts.sum(axis=0), whole[0], atol=1e-6 * scale)
        total = x.sum(axis=0, dtype=np.float64) - counts[0] @ c.astype(np.float64)
        np.testing.assert_allclose(whole[0].sum(axis=0), total, atol=1e-6 * scale)

    @given(problem=problems())
    def test_a_common_shift_changes_nothing(self, own_backend, problem):
        """Descriptors and centres are shifted together, and the shift is exact in float32."""
        x, offsets, c = problem
        a, n = get_backend(own_backend).aggregate(x, offsets, c, n_threads=1)
        b, m = get_backend(own_backend).aggregate(x + np.float32(1), offsets, c + np.float32(1), n_threads=1)
        if (x + np.float32(1) - np.float32(1) == x).all() and (c + np.float32(1) - np.float32(1) == c).all():
            np.testing.assert_array_equal(n, m)
            np.testing.assert_array_equal(a, b)

    @given(problem=problems())
    def test_permuted_centers_permute_the_labels(self, own_backend, problem):
        x, _, c = problem
        c = np.unique(c, axis=0)
        order = np.random.default_rng(0).permutation(len(c))
        own = get_backend(own_backend)
        labels, permuted = (own.assign(x, v, n_threads=1) for v in (c, c[order]))
        # Coordinates are multiples of 2^-24 below 2^7: float64 holds these distances exactly.
        distances = ((x[:, None].astype(np.float64) - c) ** 2).sum(axis=2)
        alone = (distances == distances.min(axis=1, keepdims=True)).sum(axis=1) == 1
        np.testing.assert_array_equal(order[permuted][alone], labels[alone])

    @given(problem=problems())
    def test_one_center_at_zero_is_sum_pooling(self, own_backend, problem):
        x, offsets, c = problem
        residuals, _ = get_backend(own_backend).aggregate(x, offsets, np.zeros_like(c[:1]), n_threads=1)
        sums = [x[a:b].sum(axis=0, dtype=np.float64) for a, b in itertools.pairwise(offsets)]
        np.testing.assert_allclose(residuals[:, 0], np.array(sums), rtol=1e-6, atol=1e-6)

    @given(problem=problems())
    def test_the_norm_of_a_vector_is_one_or_zero(self, own_backend, problem):
        x, offsets, c = problem
        encoded = mv.vlad_encode(mv.Descriptors(x, offsets), c, backend=own_backend)
        norms = np.linalg.norm(encoded.astype(np.float64), axis=1)
        assert all(norm == 0 or abs(norm - 1) < 1e-6 for norm in norms)
        assert all(norms[b] == 0 for b in range(len(norms)) if offsets[b] == offsets[b + 1])

    @given(problem=problems())
    def test_every_descriptor_twice_gives_the_same_vector(self, own_backend, problem):
        x, offsets, c = problem
        twice = np.concatenate([np.tile(x[a:b], (2, 1)) for a, b in itertools.pairwise(offsets)])
        a = mv.vlad_encode(mv.Descriptors(x, offsets), c, backend=own_backend)
        b = mv.vlad_encode(mv.Descriptors(twice, 2 * offsets), c, backend=own_backend)
        np.testing.assert_allclose(a, b, atol=2 * TOLERANCE["encode", "float32"])


def test_a_rotation_of_descriptors_and_centers_rotates_each_block(backend, rng):
    x, offsets, c = batch(rng, [50, 70], 5, 12)
    q, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    own = get_backend(backend)
    plain, _ = own.aggregate(x, offsets, c, n_threads=1)
    rotated, _ = own.aggregate((x @ q).astype(np.float32), offsets, (c @ q).astype(np.float32), n_threads=1)
    np.testing.assert_allclose(rotated, plain @ q, atol=2e-4)


def test_the_number_of_threads_may_exceed_the_work(rng):
    x, offsets, c = batch(rng, [10], 2000, 4)
    many = mv.vlad_encode(mv.Descriptors(x, offsets), c, n_threads=1000)
    np.testing.assert_array_equal(many, mv.vlad_encode(mv.Descriptors(x, offsets), c, n_threads=1))


def test_an_absurd_number_of_threads_is_refused():
    with pytest.raises(InputError, match="n_threads must be at most 1024, got 1099511627776"):
        mv.assign(np.eye(3), np.eye(2, 3), n_threads=2**40)


def test_concurrent_callers_leave_blas_as_it_was(rng):
    """After overlapping calls, BLAS has its own number of threads again."""
    from threadpoolctl import threadpool_info, threadpool_limits

    x, _, c = batch(rng, [4000], 64, 64)
    expected = mv.assign(x, c, backend="reference")
    failures = []

    def work():
        for _ in range(20):
            if not np.array_equal(mv.assign(x, c, n_threads=2), expected):
                failures.append("labels differ")

    with threadpool_limits(2, user_api="blas"):
        before = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        after = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    assert not failures
    assert after == before


@pytest.fixture
def huge(rng):
    """Descriptors whose sums are beyond float32."""
    return (rng.uniform(0.5, 1, size=(2000, 4)) * 3e38).astype(np.float32)


def test_vectors_too_large_for_float32_are_refused(backend, huge):
    with pytest.raises(InputError, match="too large for float32"):
        mv.vlad_encode([huge], huge[:3] / 7, l2_norm=False, backend=backend)


def test_normalised_vectors_of_huge_descriptors_are_finite(backend, huge):
    assert np.isfinite(mv.vlad_encode([huge], huge[:3] / 7, backend=backend)).all()


def test_kmeans_refuses_sums_too_large_for_float32(backend, huge):
    with pytest.raises(InputError, match="add up to more than float32"):
        mv.KMeansCodebook(3, random_state=0, backend=backend).fit(huge)
