"""The pictures of a report: which errors, what for, from where."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from medvlad import VLAD, Descriptors, GlobalPool, WideLinearSVC
from medvlad.datasets.folders import ImageFolder
from medvlad.evaluation.cross_validation import held_out
from medvlad.experiment import Evaluation
from medvlad.explain import evidence_map, evidence_picture, largest_evidence
from medvlad.report.evaluation import _patch, cluster_patches, confident_errors

GRID = SimpleNamespace(grids_=((2, 2),), mirrored_=(False,))


def quarters(place, value=255):
    """An image whose quarter `place` is lit."""
    pixels = np.zeros((40, 40, 3), np.uint8)
    row, column = divmod(place, 2)
    pixels[20 * row : 20 * row + 20, 20 * column : 20 * column + 20] = value
    return pixels


@pytest.mark.parametrize("label", [0, 1])
def test_evidence_is_red_for_the_label_that_is_asked_for(label):
    """Class 1 is told by the second number of a descriptor, class 0 by the first."""
    kinds = [0, 1] * 6
    images = []
    for kind in kinds:
        x = np.zeros((4, 2), np.float32)
        x[0, kind] = 1.0
        images.append(x)
    descriptors = Descriptors.from_list(images)
    pool = GlobalPool().fit(descriptors)
    svm = WideLinearSVC().fit(pool.transform(descriptors), kinds)
    pixels = quarters(0, 100)
    own = evidence_map(GRID, [pool, svm], descriptors[label : label + 1], label)
    picture = evidence_picture(pixels, own, largest_evidence([own]))
    colour = np.asarray(picture)[60, 8 + 448 + 60].astype(int)  # the first quarter of the right half
    assert colour[0] > colour[2] + 50, "red: its place speaks for its own class"
    against = evidence_map(GRID, [pool, svm], descriptors[label : label + 1], 1 - label)
    other = evidence_picture(pixels, against, largest_evidence([against]))
    colour = np.asarray(other)[60, 8 + 448 + 60].astype(int)
    assert colour[2] > colour[0] + 50, "blue: and against the other"


def test_patches_come_from_their_places():
    for mirrored in (False, True):
        extractor = SimpleNamespace(grids_=((4, 4), (4, 4)), mirrored_=(False, True))
        pixels = np.zeros((40, 40, 3), np.uint8)
        pixels[:, 30:] = 255  # the last column of four
        place = (16 if mirrored else 0) + 4 * 2 + (0 if mirrored else 3)
        assert np.asarray(_patch(pixels, place, extractor)).mean() > 90
        place = (16 if mirrored else 0) + 4 * 2 + (3 if mirrored else 0)
        assert np.asarray(_patch(pixels, place, extractor)).mean() < 5


@pytest.fixture
def evaluation(rng, tmp_path):
    """Forty images of two classes, some of which are decided wrongly."""
    labels = np.arange(40) % 2
    x = rng.normal(0, 1, (40, 4, 6)).astype(np.float32) + np.eye(6, dtype=np.float32)[labels][:, None] * 0.3
    paths = []
    for i in range(40):
        paths.append(tmp_path / f"image {i}.png")
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(paths[-1])
    data = ImageFolder(paths, labels, ["a", "b"])
    descriptors = Descriptors.from_array(x)
    decided = {
        name: held_out(descriptors, data, encoder, WideLinearSVC(), folds=4)
        for name, encoder in (
            ("avg", GlobalPool()),
            ("vlad3", VLAD(3, random_state=0)),
            ("gem", GlobalPool("gem")),
        )
    }
    return Evaluation({}, data, descriptors, GRID, decided)


def test_the_surest_errors_come_first(evaluation):
    one = evaluation.decided["avg"]
    labels = evaluation.dataset.labels[one.tested]
    lead = one.decision[np.arange(40), 1 - labels]  # of two classes, what stands in predictions.csv
    wrong = np.flatnonzero(lead > 0)
    expected = wrong[np.argsort(-lead[wrong])][:6]
    assert len(wrong) > 6
    errors = list(confident_errors(evaluation, one))
    assert len(errors) == 6
    for row, (picture, caption) in zip(expected, errors, strict=True):
        truth, decided = "ab"[labels[row]], "ab"[1 - labels[row]]
        assert caption == f"image {one.tested[row]}.png: {truth}, decided {decided} by {lead[row]:.2f}"
        fold = next(fold for fold in one.fitted if one.tested[row] in fold.test)
        steps = [fold.encoder, fold.classifier]
        image = int(one.tested[row])
        own_map = evidence_map(GRID, steps, evaluation.descriptors[image : image + 1], 1 - labels[row])
        own = evidence_picture(evaluation.dataset.paths[image], own_map, largest_evidence([own_map]))
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(own))
    assert list(confident_errors(evaluation, evaluation.decided["gem"])) == []


def test_clusters(evaluation):
    assert cluster_patches(evaluation, evaluation.decided["avg"].fitted[0]) is None
    picture, caption = cluster_patches(evaluation, evaluation.decided["vlad3"].fitted[0])
    assert picture.height == 3 * 68
    assert "30 training images" in caption
    nowhere = Evaluation(
        {}, evaluation.dataset, evaluation.descriptors, SimpleNamespace(grids_=((1, 1), (1, 1))), {}
    )
    assert cluster_patches(nowhere, evaluation.decided["vlad3"].fitted[0]) is None
