"""Products that skip zero tiles are those of the differences from the shift."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from medvlad import InputError
from medvlad.encoders import row_blocks, zero_tiles
from medvlad.encoders.block_pca import components_of_blocks
from medvlad.encoders.row_blocks import MappedVectors
from medvlad.encoders.vector_pca import VectorPCA
from medvlad.encoders.zero_tiles import ZeroTiles

B, P, L = 50, 70, 5


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    """Tiles that cut the rows and the columns, the last one shorter."""
    monkeypatch.setattr(zero_tiles, "_TILE_ROWS", 16)
    monkeypatch.setattr(zero_tiles, "_TILE_FEATURES", 20)
    monkeypatch.setattr(row_blocks, "_BLOCK_BYTES", 64 * 4 * P)


def here(function, numbers):
    for number in numbers:
        function(number)


def vectors(n=B, share=0.4, seed=0):
    """Rows whose parts of 10 columns are zero with probability 1 - share."""
    rng = np.random.default_rng(seed)
    x = rng.normal(1.0, 1.0, (n, P)) * (rng.random((n, P // 10)) < share).repeat(10, axis=1)
    return x * np.linspace(2, 0.1, P)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 1.0])
def test_products_are_those_of_the_differences(share):
    x, shift = vectors(share=share), np.random.default_rng(1).normal(size=P)
    q, y = (np.random.default_rng(2).normal(size=(size, L)) for size in (P, B))
    tiles = ZeroTiles(x.copy(), shift, here)
    dense = x - shift
    assert tiles.squares() == pytest.approx((dense**2).sum())
    np.testing.assert_allclose(tiles.sums(), dense.sum(axis=0), atol=1e-12)
    np.testing.assert_allclose(tiles.times(q), dense @ q, atol=1e-12)
    out = np.ones((P, L))
    tiles.add_transposed_times(y, out)
    np.testing.assert_allclose(out, 1 + dense.T @ y, atol=1e-12)


def test_zero_parts_take_no_part_in_a_product(monkeypatch):
    x, multiplied, original = vectors(share=0.2), [], ZeroTiles._with_row

    def with_row(rows, row):
        multiplied.append(len(rows))
        return original(rows, row)

    monkeypatch.setattr(ZeroTiles, "_with_row", staticmethod(with_row))
    ZeroTiles(x.copy(), np.zeros(P), here).times(np.ones((P, L)))
    reached = [x[:, start : start + 20].any(axis=1) for start in range(0, P, 20)]
    assert sum(multiplied) == sum(int(rows.sum()) for rows in reached)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_pca_of_sparse_vectors(share):
    x = vectors(400, share).astype(np.float32)
    found = VectorPCA(6, whiten=True, random_state=0).fit_blocks(MappedVectors(x), tol=1e-9, max_passes=12)
    full = PCA(6, whiten=True, svd_solver="full").fit(x.astype(np.float64))
    np.testing.assert_allclose(found.explained_variance_, full.explained_variance_, rtol=1e-4)
    components = found.components_.copy()
    for n_threads in (1, 3):
        blocks = list(found.transform_blocks(MappedVectors(x), n_threads=n_threads))
        reduced = np.concatenate([rows for _, rows in blocks])
        np.testing.assert_allclose(reduced, found.transform(x), atol=1e-4)
        if n_threads == 1:
            first = reduced
    np.testing.assert_array_equal(first, reduced)
    np.testing.assert_array_equal(found.components_, components)


def test_a_vector_that_is_not_finite_is_told():
    x = vectors().astype(np.float32)
    pca = VectorPCA(3, random_state=0).fit_blocks(MappedVectors(x))
    x[3, 4] = np.nan
    with pytest.raises(InputError, match="a vector holds NaN"):
        list(pca.transform_blocks(MappedVectors(x)))


def test_a_shift_of_the_spectrum_keeps_more_variance_than_plain_iteration():
    x = vectors(400, 0.3)
    x *= np.linspace(1, 0.8, P) / x.std(axis=0)  # eigenvalues that fall slowly
    passes, k = 5, 8
    found = components_of_blocks(MappedVectors(x), k, random_state=0, tol=0, max_passes=passes)
    centred = x - x.mean(axis=0)
    c = centred.T @ centred
    q = np.random.default_rng(0).normal(size=(P, k + 16))
    for _ in range(passes - 1):
        q = np.linalg.qr(c @ q)[0]
    plain = np.linalg.eigvalsh(q.T @ c @ q)[-k:].sum() / np.trace(c)
    best = np.linalg.eigvalsh(c)[-k:].sum() / np.trace(c)
    assert best - found.gains[-1] < 0.7 * (best - plain)
