"""VLAD as a transformer, with hard assignment."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from support.groups import ragged_groups

import medvlad as mv
from medvlad import VLAD, Descriptors, InputError


@pytest.fixture
def ragged(rng):
    return ragged_groups(rng)


def test_all_kinds_of_input_give_the_same_vectors(rng):
    x = rng.normal(size=(6, 10, 8)).astype(np.float32)
    vlad = VLAD(3, random_state=0).fit(x)
    for other in (list(x), Descriptors.from_array(x), x.astype(np.float64), tuple(x)):
        np.testing.assert_array_equal(vlad.transform(other), vlad.transform(x))


@pytest.fixture
def centers(rng):
    return rng.normal(scale=10, size=(3, 8)).astype(np.float32)


def test_given_centres_are_used_as_they_are(ragged, centers):
    vlad = VLAD(3, centers=centers, power=0.5).fit(ragged)
    expected = mv.vlad_encode(ragged, centers, power=0.5)
    np.testing.assert_array_equal(vlad.transform(ragged), expected)
    np.testing.assert_array_equal(clone(vlad).fit_transform(ragged), expected)
    assert vlad.n_iter_ == 0


def test_given_centres_are_copied(ragged, centers):
    assert not np.shares_memory(VLAD(3, centers=centers).fit(ragged).cluster_centers_, centers)


def test_alpha_and_axes_are_learnt_for_given_centres(ragged, centers):
    soft = VLAD(3, centers=centers, assignment="soft", local_axes=True).fit(ragged)
    assert np.isfinite(soft.transform(ragged)).all()
    assert soft.alpha_ > 0


def test_another_number_of_given_centres_is_refused(ragged, centers):
    with pytest.raises(InputError, match="centers holds 3 centres and n_clusters is 64"):
        VLAD(centers=centers).fit(ragged)


def test_given_centres_cannot_be_moved(ragged, centers):
    with pytest.raises(InputError, match="none to move"):
        VLAD(3, centers=centers).partial_fit(ragged)


def test_alpha_cannot_be_learnt_without_descriptors(ragged, centers):
    with pytest.raises(InputError, match=r"no descriptors \(n_samples=0\) to learn alpha"):
        VLAD(3, centers=centers, assignment="soft").fit(ragged[1:2])


def test_transform_is_vlad_encode_of_its_centres(ragged, backend):
    vlad = VLAD(4, power=0.5, intra_norm=True, backend=backend, random_state=0).fit(ragged)
    encoded = vlad.transform(ragged)
    expected = mv.vlad_encode(ragged, vlad.cluster_centers_, power=0.5, intra_norm=True, backend=backend)
    np.testing.assert_array_equal(encoded, expected)
    assert encoded.shape == (5, 32)
    assert encoded.dtype == np.float32
    assert not encoded[1].any()
    assert len(vlad.get_feature_names_out()) == 32


def test_partial_fit_counts_batches_and_shares_the_centres_of_its_codebook(ragged):
    vlad = VLAD(4, random_state=0).partial_fit(ragged).partial_fit(ragged)
    assert vlad.n_iter_ == 2
    np.testing.assert_array_equal(vlad.cluster_centers_, vlad.codebook_.cluster_centers_)


def test_a_batch_of_another_width_is_refused(ragged):
    vlad = VLAD(4, random_state=0).partial_fit(ragged)
    with pytest.raises(InputError, match="3 features, those that VLAD was fitted on have 8"):
        vlad.partial_fit([np.ones((4, 3))])


def test_descriptors_of_another_width_are_refused(ragged):
    vlad = VLAD(2, random_state=0).fit(ragged)
    with pytest.raises(InputError, match="descriptors have 3 features, those that VLAD was fitted on have 8"):
        vlad.transform([np.ones((4, 3))])


def test_an_unfitted_vlad_is_refused(ragged):
    with pytest.raises(NotFittedError):
        VLAD().transform(ragged)


def test_a_clone_keeps_the_parameters():
    vlad = VLAD(7, power=0.5, intra_norm=True, random_state=3)
    assert clone(vlad).get_params() == vlad.get_params()
