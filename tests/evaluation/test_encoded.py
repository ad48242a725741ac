"""Encoded images that are larger than the limit lie in a temporary file, and nothing else changes."""

import gc
import logging
import tempfile

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from support.faults import key_of

from medvlad import VLAD, Descriptors, InputError, StoredDescriptors, WideLinearSVC
from medvlad.encoders import row_blocks
from medvlad.encoders.recipe import Recipe
from medvlad.evaluation import encoded as module
from medvlad.evaluation.calibrated_training import train_classifier
from medvlad.evaluation.encoded import encoded, fit_encoder
from medvlad.store.store import DescriptorStore


@pytest.fixture
def problem(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    y = np.arange(40) % 2
    images = Descriptors.from_array(rng.normal(size=(40, 9, 4)).astype(np.float32) + y[:, None, None])
    return images, y


def test_large_vectors_lie_in_a_file_that_goes_with_them(problem, tmp_path, caplog):
    images, _ = problem
    vlad = VLAD(3, random_state=0).fit(images)
    whole = vlad.transform(images)
    assert not isinstance(encoded(vlad, images, WideLinearSVC(memory=whole.nbytes)), np.memmap)
    assert not isinstance(encoded(vlad, images, WideLinearSVC()), np.memmap)
    with caplog.at_level(logging.INFO):
        found = encoded(vlad, images, WideLinearSVC(memory=whole.nbytes - 1))
    assert isinstance(found, np.memmap)
    assert "are written to" in caplog.text
    np.testing.assert_array_equal(found, whole)
    assert len(list(tmp_path.iterdir())) == 1
    del found
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_encoding_leaves_no_file(problem, tmp_path, monkeypatch):
    images, _ = problem
    vlad = VLAD(3, random_state=0).fit(images)
    monkeypatch.setattr(VLAD, "transform_blocks", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        encoded(vlad, images, WideLinearSVC(memory=1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_components", [None, 2])
def test_vectors_of_projected_descriptors_lie_in_a_file(problem, n_components):
    """With or without PCA of the descriptors."""
    images, _ = problem
    recipe = Recipe(descriptor_norm=True, n_components=n_components)
    steps = recipe.encoder("vlad3").fit(images)
    found = encoded(steps, images, WideLinearSVC(memory=1))
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, steps.transform(images))


def test_vectors_of_other_steps_stay_in_memory(problem):
    images, _ = problem
    for steps in (make_pipeline(VLAD(3, random_state=0), PCA(2)), Recipe().encoder("avg+vlad3")):
        steps = fit_encoder(steps, images, WideLinearSVC(memory=1))
        found = encoded(steps, images, WideLinearSVC(memory=1))
        assert not isinstance(found, np.memmap)
        np.testing.assert_array_equal(found, steps.transform(images))


N, LIMIT = 3000, 60_000  # vectors take 144,000 bytes, and the PCA 50,000


@pytest.fixture
def large(tmp_path, monkeypatch):
    """Images whose VLAD vectors are larger than the limit, and small blocks."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(row_blocks, "_BLOCK_BYTES", 64 * 4 * 12)
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    values = rng.normal(size=(N, 6, 4)) * [3, 2, 1, 0.5] + np.where(y, 1, -1)[:, None, None]
    return Descriptors.from_array(values.astype(np.float32)), y


def reduced(n=4, **settings):
    return Recipe(reduce=n, **settings).encoder("vlad3", random_state=0)


@pytest.mark.parametrize("settings", [{}, {"descriptor_norm": True, "n_components": 3}, {"whiten": True}])
def test_a_pca_by_blocks_gives_nearly_the_same_vectors(large, settings):
    images, _ = large
    in_memory = fit_encoder(reduced(**settings), images, WideLinearSVC())
    steps = fit_encoder(reduced(**settings), images, WideLinearSVC(memory=LIMIT))
    for name in ("explained_variance_", "explained_variance_ratio_"):
        one, other = (getattr(fitted.named_steps["reduce"], name) for fitted in (in_memory, steps))
        np.testing.assert_allclose(one, other, rtol=2e-2)
    assert steps.named_steps["reduce"].n_passes_ >= 2
    found = encoded(steps, images, WideLinearSVC(memory=LIMIT))
    assert found.shape == (N, 4)
    np.testing.assert_allclose(found, steps.transform(images), atol=1e-6)
    # The components may be turned among each other, which keeps products of vectors.
    whole = in_memory.transform(images)
    assert np.abs(found @ found[:50].T - whole @ whole[:50].T).max() < 0.05
    assert steps["normalise"].get_feature_names_out().shape == (4,)
    again = fit_encoder(reduced(**settings), images, WideLinearSVC(memory=LIMIT))
    np.testing.assert_array_equal(again["reduce"].components_, steps["reduce"].components_)


def test_the_vectors_before_a_pca_are_never_in_memory_as_a_whole(large, monkeypatch):
    images, _ = large
    largest = []

    def transform_blocks(vlad, given):
        for indices, rows in original(vlad, given):
            largest.append(len(rows))
            yield indices, rows

    original = VLAD.transform_blocks
    monkeypatch.setattr("medvlad.encoders.base._BLOCK_BYTES", 32 * 4 * 12)
    monkeypatch.setattr(VLAD, "transform_blocks", transform_blocks)
    monkeypatch.setattr(VLAD, "transform", lambda *_: 1 / 0)
    monkeypatch.setattr(VLAD, "fit_transform", lambda *_: 1 / 0)
    steps = fit_encoder(reduced(), images, WideLinearSVC(memory=LIMIT))
    assert encoded(steps, images, WideLinearSVC(memory=LIMIT)).shape == (N, 4)
    assert sum(largest) >= 3 * N
    assert max(largest) == 32


def test_reduced_vectors_lie_in_a_file_only_if_they_are_larger_than_the_limit(large, tmp_path):
    images, _ = large
    for n, is_file in ((4, False), (6, True)):
        steps = fit_encoder(reduced(n), images, WideLinearSVC(memory=LIMIT))
        found = encoded(steps, images, WideLinearSVC(memory=LIMIT))
        assert isinstance(found, np.memmap) == is_file
        assert len(list(tmp_path.iterdir())) == is_file
        np.testing.assert_allclose(found, steps.transform(images), atol=1e-6)
        del found
        gc.collect()
        assert list(tmp_path.iterdir()) == []


def test_vectors_within_the_limit_are_reduced_as_without_one(large):
    images, _ = large
    limited, free = (
        fit_encoder(reduced(), images, WideLinearSVC(memory=memory)).transform(images)
        for memory in (4 * 12 * N, None)
    )
    np.testing.assert_array_equal(limited, free)


def test_a_pca_that_needs_more_than_the_limit_is_told(large):
    images, _ = large
    with pytest.raises(InputError, match=r"PCA to reduce=4 components needs 0 MiB .* raise memory"):
        fit_encoder(reduced(), images, WideLinearSVC(memory=1000))


def test_a_store_is_trained_from_block_by_block(large, tmp_path, monkeypatch):
    """Training with reduce and a limit, from descriptors in a store, predicts as training in memory does."""
    images, y = large
    section = DescriptorStore(tmp_path / "store").section({})
    with section.writer() as writer:
        for i in range(N):
            writer.add(key_of(i), images[i])
    stored = StoredDescriptors(section, [key_of(i) for i in range(N)])
    scores = []
    monkeypatch.setattr(module, "check_bytes", lambda *_: LIMIT)
    for source, memory in ((images, None), (stored, "1 GiB")):
        encoder, svm, _ = train_classifier(
            source, y, None, {"vlad": reduced()}, WideLinearSVC(memory=memory), calibration=None
        )
        scores.append(svm.decision_function(encoder.transform(images)))
    assert ((scores[0] > 0) == (scores[1] > 0)).mean() > 0.99
    assert np.corrcoef(*scores)[0, 1] > 0.999


def test_training_from_a_file_gives_the_same_model(problem, tmp_path, monkeypatch):
    images, y = problem
    models, used = [], []
    for memory in (None, "1 GiB"):
        encoders = {"vlad": VLAD(3, random_state=0)}
        own = train_classifier(images, y, None, encoders, WideLinearSVC(memory=memory), penalties=[0.1, 1.0])
        models.append(own[1])
        monkeypatch.setattr(module, "check_bytes", lambda *_: used.append(1) or 1)
    assert len(used) >= 11  # five folds, two parts each, and the final fit
    np.testing.assert_array_equal(models[0].coef_, models[1].coef_)
    np.testing.assert_array_equal(
        models[0].decision_function(models[0].coef_), models[1].decision_function(models[0].coef_)
    )
    gc.collect()
    assert list(tmp_path.iterdir()) == []
