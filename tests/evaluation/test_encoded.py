"""Encoded images that are larger than the limit lie in a temporary file, and nothing else changes."""

import gc
import logging
import tempfile

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from medvlad import VLAD, Descriptors, WideLinearSVC
from medvlad.encoders.recipe import Recipe
from medvlad.evaluation import encoded as module
from medvlad.evaluation.calibrated_training import train_classifier
from medvlad.evaluation.encoded import encoded


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
    """The preset best gives descriptors unit length."""
    images, _ = problem
    recipe = Recipe(descriptor_norm=True, n_components=n_components)
    steps = recipe.encoder("vlad3").fit(images)
    found = encoded(steps, images, WideLinearSVC(memory=1))
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, steps.transform(images))


def test_vectors_of_a_pca_stay_in_memory(problem):
    images, _ = problem
    steps = make_pipeline(VLAD(3, random_state=0), PCA(2)).fit(images)
    assert not isinstance(encoded(steps, images, WideLinearSVC(memory=1)), np.memmap)


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
