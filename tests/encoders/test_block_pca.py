"""Principal components of vectors outside memory: those of scikit-learn, within bounds that hold."""

import functools

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline
from support.faults import fill, key_of

from medvlad import VLAD, InputError, StoredDescriptors
from medvlad.encoders import row_blocks
from medvlad.encoders.block_pca import components_of_blocks
from medvlad.encoders.row_blocks import EncodedVectors, MappedVectors, RowBlocks, equal_blocks
from medvlad.encoders.vector_pca import VectorPCA

N, P, K = 330, 90, 8


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Blocks of 64 rows, and tiles that cut them."""
    monkeypatch.setattr(row_blocks, "_BLOCK_BYTES", 64 * 4 * P)
    monkeypatch.setattr("medvlad.encoders.zero_tiles._TILE_ROWS", 24)
    monkeypatch.setattr("medvlad.encoders.zero_tiles._TILE_FEATURES", 40)


@functools.cache
def _matrix(decay, offset, dtype):
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=(size, P)))[0] for size in (N, P))
    u = np.linalg.qr(u - u.mean(axis=0))[0]
    values = 100 * decay ** np.arange(P) if decay < 1 else np.linspace(2, 1, P)
    return (u * values @ v.T + offset * rng.normal(size=P)).astype(dtype)


def matrix(decay, offset=0.0, dtype=np.float32):
    """Rows with known singular values: ``decay ** i``, or a flat end."""
    return _matrix(decay, offset, dtype).copy()


def exact(x):
    return np.linalg.svd(x.astype(np.float64) - x.mean(axis=0, dtype=np.float64), full_matrices=False)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_components_are_those_of_a_full_decomposition(dtype, offset):
    x = matrix(0.7, offset, dtype)
    found = VectorPCA(K, random_state=0).fit_blocks(MappedVectors(x), tol=1e-9, max_passes=6)
    full = PCA(K, svd_solver="full").fit(x.astype(np.float64))
    close = {"rtol": 1e-4} if dtype == np.float32 else {"rtol": 1e-9}
    for name in ("singular_values_", "explained_variance_", "explained_variance_ratio_"):
        np.testing.assert_allclose(getattr(found, name), getattr(full, name), **close)
    np.testing.assert_allclose(found.mean_, full.mean_, atol=1e-5)
    np.testing.assert_allclose(found.components_, full.components_, atol=2e-4)
    assert found.noise_variance_ == pytest.approx(full.noise_variance_, rel=1e-2)
    assert found.components_.dtype == found.mean_.dtype == dtype
    np.testing.assert_allclose(found.transform(x), full.transform(x), atol=1e-2)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.97, 1.0])
@pytest.mark.parametrize("max_passes", [2, 4])
def test_bounds_hold_for_any_spectrum(decay, max_passes):
    x = matrix(decay, 5.0, np.float64)
    found = components_of_blocks(MappedVectors(x), K, random_state=1, tol=0, max_passes=max_passes)
    centred = x - x.mean(axis=0)
    v = found.components.T
    np.testing.assert_allclose(v.T @ v, np.eye(K), atol=1e-12)
    left = centred - centred @ v @ v.T
    truth = exact(x)[1]
    assert truth[K] <= np.linalg.norm(left, 2) * (1 + 1e-9) <= found.error_bound * (1 + 1e-9)
    assert found.error_bound < 8 * np.linalg.norm(left, 2), "it says something"
    assert found.error_bound <= np.linalg.norm(left) * (1 + 1e-8), "never more than the lost variance"
    assert found.total - found.eigenvalues.sum() == pytest.approx(np.linalg.norm(left) ** 2, rel=1e-8)
    for value, residual in zip(found.eigenvalues, found.residuals, strict=True):
        assert np.abs(truth**2 - value).min() <= residual + 1e-9 * truth[0] ** 2
    assert (found.eigenvalues <= truth[:K] ** 2 * (1 + 1e-9)).all(), "no more variance than there is"
    assert len(found.gains) <= max_passes - 1


def test_each_pass_keeps_more_and_the_last_one_adds_little():
    x = matrix(0.97)
    found = components_of_blocks(MappedVectors(x), K, random_state=0, tol=1e-4, max_passes=30)
    steps = np.diff(found.gains)
    assert (steps > -1e-6).all()
    assert steps[-1] <= 1e-4
    assert len(found.gains) < 29
    best = (exact(x)[1][:K] ** 2).sum() / found.total
    assert best - found.gains[-1] < 5e-4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_and_cuts_of_the_source_change_no_bit(dtype):
    x = matrix(0.9, 1.0, dtype)

    class Cut(MappedVectors):
        def blocks(self):
            for start in range(0, N, 37):
                yield np.arange(start, min(start + 37, N)), x[start : start + 37]

    pcas = [
        VectorPCA(K, random_state=3).fit_blocks(source, n_threads=n)
        for source, n in ((MappedVectors(x), 1), (MappedVectors(x), 3), (Cut(x), 2))
    ]
    for other in pcas[1:]:
        assert np.array_equal(other.components_, pcas[0].components_)
        assert np.array_equal(other.explained_variance_, pcas[0].explained_variance_)
        assert other.error_bound_ == pcas[0].error_bound_


def test_a_file_is_read_as_a_memory_map(tmp_path):
    x = matrix(0.8)
    np.save(tmp_path / "x.npy", x)
    source = MappedVectors(tmp_path / "x.npy")
    assert isinstance(source, RowBlocks)
    assert source.shape == (N, P)
    assert [len(rows) for _, rows in source.blocks()] == [64] * 5 + [10]
    one, other = (VectorPCA(K, random_state=0).fit_blocks(rows) for rows in (source, MappedVectors(x)))
    assert np.array_equal(one.components_, other.components_)
    assert np.array_equal(x, matrix(0.8)), "the caller's array is left alone"


def test_a_store_is_encoded_block_by_block(tmp_path):
    section = fill(tmp_path / "store", 40)
    stored = StoredDescriptors(section, [key_of(i) for i in range(40)])
    vlad = VLAD(3, random_state=0).fit(stored)
    vectors = vlad.transform(stored)
    found = VectorPCA(5, random_state=0).fit_blocks(EncodedVectors(vlad, stored), tol=1e-8)
    full = PCA(5, svd_solver="full").fit(vectors)
    np.testing.assert_allclose(found.singular_values_, full.singular_values_, rtol=1e-3)
    steps = Pipeline([("encode", vlad), ("reduce", found)])
    np.testing.assert_allclose(steps.transform(stored), found.transform(vectors), atol=1e-6)


def test_whitening_keeps_the_components_that_vary():
    x = matrix(0.5)
    x[:, 1:] = 0
    x[:, 1] = np.linspace(-1, 1, N)
    with pytest.warns(UserWarning, match="only 2 of reduce=8 components vary"):
        found = VectorPCA(K, whiten=True, random_state=0).fit_blocks(MappedVectors(x))
    scaled = found.transform(x)
    assert scaled.shape == (N, 2)
    np.testing.assert_allclose(np.cov(scaled.T), np.eye(2), atol=1e-3)
    with pytest.raises(InputError, match="are equal, so they cannot be whitened"):
        VectorPCA(K, whiten=True, random_state=0).fit_blocks(MappedVectors(np.full((N, P), 0.1, np.float32)))


def test_equal_blocks_hold_each_row_once():
    x = matrix(0.9)
    blocks = [(indices.copy(), rows.copy()) for indices, rows in equal_blocks(MappedVectors(x))]
    assert np.array_equal(np.concatenate([rows for _, rows in blocks]), x)
    assert np.array_equal(np.concatenate([indices for indices, _ in blocks]), np.arange(N))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda x: x[: K - 1], {}, "reduce=8 is more than the number of training images"),
        (lambda x: np.where(x == x[3, 4], np.nan, x), {}, "a vector holds NaN"),
        (lambda x: x, {"max_passes": 1}, "max_passes=1 is too few"),
        (lambda x: x, {"tol": 2}, "tol=2 must be a share"),
        (lambda x: x.astype(np.int64), {}, "must be a matrix of float32 or float64"),
        (lambda x: x[0], {}, "must be a matrix of float32 or float64"),
    ],
)
def test_mistakes_are_told(change, options, message):
    with pytest.raises(InputError, match=message):
        VectorPCA(K, random_state=0).fit_blocks(MappedVectors(change(matrix(0.9))), **options)


def test_a_file_that_is_none_is_told(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"cannot be read as a \.npy file"):
        MappedVectors(tmp_path / "x.npy")
