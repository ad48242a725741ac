"""One picture has the same grey levels in every encoding of DICOM, and its padding is black."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.dicom_encodings import ENCODINGS, UNUSED, big_endian, implicit, shown
from support.medical_files import grey

REWRITTEN = {"explicit": lambda path: path, "implicit": implicit, "big endian": big_endian}

LEVELS = st.integers(0, 255).filter(lambda level: level != UNUSED)


@st.composite
def pictures(draw):
    """Draw grey levels, of which the first two are 0 and 255, and which of the others are padding."""
    shape = draw(st.tuples(st.integers(2, 4), st.integers(2, 4)))
    picture = draw(hnp.arrays(np.int64, shape, elements=LEVELS))
    padding = draw(hnp.arrays(np.bool_, shape))
    picture.flat[:2], padding.flat[:2] = (0, 255), False
    return picture, padding


PICTURE = np.array([[0, 255, 100], [7, 128, 254]])
PADDING = np.array([[False, False, True], [False, True, False]])


def check(folder, name, order, picture, padding):
    path = REWRITTEN[order](ENCODINGS[name](folder / "a.dcm", picture, padding))
    np.testing.assert_array_equal(grey(path), shown(picture, padding))


@pytest.mark.parametrize("order", REWRITTEN)
@pytest.mark.parametrize("name", ENCODINGS)
def test_a_picture_has_the_same_levels_in_this_encoding(tmp_path, name, order):
    check(tmp_path, name, order, PICTURE, PADDING)


ANY = given(drawn=pictures(), name=st.sampled_from([*ENCODINGS]), order=st.sampled_from([*REWRITTEN]))
QUIET = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=60, derandomize=True, **QUIET)
@ANY
def test_any_picture_has_the_same_levels_in_any_encoding(tmp_path_factory, drawn, name, order):
    check(tmp_path_factory.mktemp("encoding"), name, order, *drawn)


@pytest.mark.slow
@settings(max_examples=1000, **QUIET)
@ANY
def test_many_pictures_have_the_same_levels_in_any_encoding(tmp_path_factory, drawn, name, order):
    check(tmp_path_factory.mktemp("encoding"), name, order, *drawn)
