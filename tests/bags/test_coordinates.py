"""Places of tiles: coordinates, the side of a tile, and the size of the slide."""

import numpy as np
import pytest
from support.feature_files import write_features
from support.folders import refusal

from medvlad.bags import read_places

CORNERS = np.array([[0, 0], [512, 0], [1024, 512]])


def places_of(tmp_path, ending=".h5", coords=CORNERS, **attributes):
    path = write_features(
        tmp_path / f"a{ending}", np.ones((len(coords), 4)), coords=coords, attributes=attributes
    )
    return read_places(path, len(coords))


def test_trident_tells_side_and_slide(tmp_path):
    found = places_of(tmp_path, patch_size_level0=1024, patch_size=256, level0_width=5000, level0_height=4000)
    assert (found.side, found.extent) == (1024.0, (5000.0, 4000.0))
    np.testing.assert_array_equal(found.corners, CORNERS)


def test_clam_tells_patch_size_at_a_level(tmp_path):
    assert places_of(tmp_path, patch_size=256, downsample=[4.0, 4.0]).side == 1024.0


def test_torch_dicts_tell_the_side_as_a_number(tmp_path):
    assert places_of(tmp_path, ".pt", patch_size_level0=224).side == 224.0


@pytest.mark.parametrize("ending", [".h5", ".npz", ".pt", ".safetensors"])
def test_without_attributes_the_side_is_the_smallest_step(tmp_path, ending):
    found = places_of(tmp_path, ending)
    assert (found.side, found.extent) == (512.0, None)


def test_one_tile_has_a_side(tmp_path):
    assert places_of(tmp_path, coords=CORNERS[:1]).side == 1.0


def test_a_batch_of_one_is_its_rows(tmp_path):
    path = write_features(tmp_path / "a.h5", np.ones((1, 3, 4)), coords=CORNERS[None])
    np.testing.assert_array_equal(read_places(path, 3).corners, CORNERS)


def test_files_without_places_are_refused(tmp_path):
    path = write_features(tmp_path / "a.npz", np.ones((3, 4)))
    refusal(lambda: read_places(path, 3), path, "has no 'coords'")
    path = write_features(tmp_path / "b.npz", np.ones((3, 4)), coords=CORNERS[:2])
    refusal(lambda: read_places(path, 3), path, "(2, 2)", "(3, 2)")
    path = write_features(tmp_path / "c.npz", np.ones((3, 4)), coords=np.full((3, 2), np.nan))
    refusal(lambda: read_places(path, 3), path, "not finite in row 0")
