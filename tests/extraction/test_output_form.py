"""The output of a layer: its form is recognised from shapes, and a shape with two meanings is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlad import InputError
from medvlad.extraction.networks.output_form import OutputForm, form_of, is_spatial

SIDES = st.integers(2, 30)
WIDTHS = st.integers(31, 700)


@given(SIDES, WIDTHS)
def test_maps_are_told_by_their_square(side, width):
    assert form_of((1, width, side, side), "x") == OutputForm("channels first")
    assert form_of((1, side, side, width), "x") == OutputForm("channels last")


@given(SIDES, st.sampled_from([0, 1, 2, 4, 5]), WIDTHS)
def test_tokens_keep_their_square_for_any_known_number_of_others(side, n_prefix, width):
    form = form_of((1, side**2 + n_prefix, width), "x", n_prefix=n_prefix)
    assert form.shape((1, side**2 + n_prefix, width)) == (side, side, width)


@given(st.integers(7, 40), st.sampled_from([0, 1, 2, 4, 5]))
def test_the_number_of_other_tokens_is_found_for_large_grids(side, n_prefix):
    assert form_of((1, side**2 + n_prefix, 64), "x").n_prefix == n_prefix


def test_two_possible_numbers_are_refused():
    with pytest.raises(InputError, match=r"has 9 tokens, of which 0 or 5 may be .*set prefix_tokens"):
        form_of((1, 9, 64), "layer 'x'")
    assert form_of((1, 9, 64), "x", n_prefix=5).shape((1, 9, 64)) == (2, 2, 64)


def test_a_cube_is_told_by_an_image_of_another_side():
    assert form_of((1, 7, 7, 7), "x", smaller=(1, 7, 8, 8)).kind == "channels first"
    assert form_of((1, 7, 7, 7), "x", smaller=(1, 8, 8, 7)).kind == "channels last"
    assert form_of((1, 7, 7, 7), "x", channels_first=False).kind == "channels last"
    with pytest.raises(InputError, match="may have its channels first or last"):
        form_of((1, 7, 7, 7), "x")


@pytest.mark.parametrize("shape", [(1,), (1, 2, 3, 4, 5), (1, 3, 4, 5)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match=r"has shape \(.*choose"):
        form_of(shape, "layer 'x'")


@given(st.integers(1, 3), SIDES, st.integers(1, 6), st.sampled_from([0, 1, 5]))
def test_all_forms_give_the_same_rows(n, side, width, n_prefix):
    maps = np.random.default_rng(0).random((n, side, side, width), dtype=np.float32)
    tokens = np.concatenate(
        [np.full((n, n_prefix, width), np.nan, np.float32), maps.reshape(n, -1, width)], axis=1
    )
    for form, output in (
        (OutputForm("channels last"), maps),
        (OutputForm("channels first"), maps.transpose(0, 3, 1, 2)),
        (OutputForm("tokens", n_prefix), tokens),
    ):
        got = form.maps(output)
        assert got.flags.c_contiguous
        np.testing.assert_array_equal(got, maps)
        assert form.shape(output.shape) == (side, side, width)


def test_only_outputs_with_several_places_are_spatial():
    assert is_spatial((1, 512, 7, 7))
    assert is_spatial((1, 7, 7, 512))
    assert is_spatial((1, 197, 192))
    for shape in (None, (1, 512), (1, 512, 1, 1), (1, 199, 192), (1, 3, 4, 5), (1, 0, 7, 7)):
        assert not is_spatial(shape)
