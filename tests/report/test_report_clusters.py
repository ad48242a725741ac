"""Clusters of a codebook in a report: which decide, how much, and patches from where in an image."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.pipeline import FeatureUnion
from support.evaluations import make_evaluation

from medvlad import VLAD, Descriptors, GlobalPool, WideLinearSVC
from medvlad.datasets.folders import ImageFolder
from medvlad.encoders.recipe import Recipe
from medvlad.evaluation.cross_validation import FittedFold
from medvlad.experiment import Evaluation
from medvlad.report.clusters import _patch, draw_clusters


def test_patches_come_from_their_places():
    for mirrored in (False, True):
        extractor = SimpleNamespace(grids_=((4, 4), (4, 4)), mirrored_=(False, True))
        pixels = np.zeros((40, 40, 3), np.uint8)
        pixels[:, 30:] = 255  # the last column of four
        place = (16 if mirrored else 0) + 4 * 2 + (0 if mirrored else 3)
        assert np.asarray(_patch(pixels, place, extractor)).mean() > 90
        place = (16 if mirrored else 0) + 4 * 2 + (3 if mirrored else 0)
        assert np.asarray(_patch(pixels, place, extractor)).mean() < 5


def fitted(evaluation, name):
    return evaluation.decided[name].fitted[0]


@pytest.fixture
def evaluation(rng, tmp_path):
    """Forty images of two classes, some of which are decided wrongly."""
    two = FeatureUnion([("avg", GlobalPool()), ("vlad3", VLAD(3, random_state=0))])
    encoders = {"avg": GlobalPool(), "vlad3": VLAD(3, random_state=0), "avg+vlad3": two}
    encoders["soft"] = VLAD(3, assignment="soft", random_state=0)
    encoders["power"] = Recipe(descriptor_norm=True, power=0.5).encoder("vlad3")
    return make_evaluation(rng, tmp_path, encoders=encoders)


def test_an_encoding_without_a_codebook_has_no_clusters(evaluation):
    assert draw_clusters(evaluation, fitted(evaluation, "avg")) is None


def test_descriptors_without_a_place_have_no_clusters(evaluation):
    nowhere = Evaluation(
        {}, evaluation.dataset, evaluation.descriptors, SimpleNamespace(grids_=((1, 1), (1, 1))), {}
    )
    assert draw_clusters(nowhere, fitted(evaluation, "vlad3")) is None


@pytest.mark.parametrize("name", ["vlad3", "power"])
def test_the_gaps_of_all_clusters_are_the_gap_of_the_decision_value(evaluation, name):
    found = draw_clusters(evaluation, fitted(evaluation, name))
    gaps = [cluster.gap for cluster in found.clusters]
    assert len(gaps) == 3
    np.testing.assert_allclose(sum(gaps), 1)
    assert gaps == sorted(gaps, reverse=True)
    np.testing.assert_allclose(sum(cluster.share for cluster in found.clusters), 1)
    assert "10 held-out images" in found.caption
    assert found.picture.height == 26 + 3 * 68


def test_of_several_encoders_the_largest_clusters_are_shown(evaluation):
    found = draw_clusters(evaluation, fitted(evaluation, "avg+vlad3"))
    assert [cluster.gap for cluster in found.clusters] == [None] * 3
    total = [cluster.share.sum() for cluster in found.clusters]
    assert total == sorted(total, reverse=True)
    assert found.picture.height == 3 * 68


def test_gaps_are_not_given_to_the_nearest_cluster_if_a_descriptor_is_in_several(evaluation):
    found = draw_clusters(evaluation, fitted(evaluation, "soft"))
    assert [cluster.gap for cluster in found.clusters] == [None] * 3
    assert "of the gap" not in found.caption
    assert found.picture.height == 3 * 68


def two_tissues(folder, n=24):
    """Images of eight rows: four of one tissue, four of another. One row has a marker, and is lit.

    The class is the tissue with the marker, so both classes have the same mean. Of a descriptor, the first
    number is the marker, the second the tissue.
    """
    x, paths = np.zeros((n, 8, 2), np.float32), []
    x[:, 4:, 1] = 10
    for i in range(n):
        row = 2 if i % 2 else 6
        x[i, row, 0] = 1
        pixels = np.zeros((80, 30, 3), np.uint8)
        pixels[10 * row : 10 * row + 10] = 255
        paths.append(folder / f"{i}.png")
        Image.fromarray(pixels).save(paths[-1])
    data = ImageFolder(paths, np.arange(n) % 2, ["second", "first"])
    descriptors = Descriptors.from_array(x)
    vlad = VLAD(2, centers=np.array([[0.125, 0], [0.125, 10]], np.float32)).fit(descriptors)
    svm = WideLinearSVC().fit(vlad.transform(descriptors), data.labels)
    network, every = SimpleNamespace(grids_=((8, 1),), mirrored_=(False,)), np.arange(n)
    return Evaluation({}, data, descriptors, network, {}), FittedFold(every, every, vlad, svm)


def test_both_tissues_decide_and_are_used_the_same(tmp_path):
    found = draw_clusters(*two_tissues(tmp_path))
    for cluster in found.clusters:
        np.testing.assert_allclose(cluster.gap, 0.5, atol=1e-6)
        np.testing.assert_allclose(cluster.share, 0.5)
        assert cluster.speaks_for == 1


def test_patches_for_the_class_have_the_marker_in_the_right_tissue(tmp_path):
    found = draw_clusters(*two_tissues(tmp_path))
    shown = np.asarray(found.picture)
    for line, cluster in enumerate(found.clusters):
        centre = 26 + 68 * line + 32, 150 + 32
        nearest, most_for, most_against = (shown[centre[0], centre[1] + 224 * g, 0] > 128 for g in range(3))
        assert not nearest
        assert most_for == (cluster.number == 0)
        assert most_against == (cluster.number == 1)
