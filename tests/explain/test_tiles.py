"""Evidence of tiles: it adds up to the decision, and is drawn where the tiles lie."""

import csv
import io

import numpy as np
import pytest
from PIL import Image
from support.feature_files import write_features
from support.folders import refusal

import medvlad as mv
from medvlad.bags import BagFiles
from medvlad.bags.coordinates import TilePlaces
from medvlad.encoders.recipe import Recipe, encoder_steps
from medvlad.explain.tiles import (
    BagEvidence,
    TileEvidence,
    bag_evidence,
    find_thumbnail,
    tile_picture,
    tile_table,
)
from medvlad.svm.decision import decision_columns

SIDE = 256


def slide(path, rng, n=20, width=6, **attributes):
    places = rng.permutation(100)[:n]
    corners = np.stack([places % 10, places // 10], axis=1) * SIDE
    values = rng.random((n, width)).astype(np.float32)
    return write_features(path, values, coords=corners, attributes=attributes)


@pytest.fixture
def bags(tmp_path, rng):
    """Six bags; the last has two files."""
    paths = [slide(tmp_path / f"{i}.npz", rng, n=10 + i) for i in range(7)]
    return BagFiles([*paths[:5], paths[5:]])


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(
    ("name", "settings"),
    [("avg", {}), ("vlad3", {}), ("avg+vlad3", {"descriptor_norm": True}), ("bow4", {"n_components": 3})],
)
def test_terms_and_constant_add_up_to_the_decision(bags, name, settings, n_classes):
    encoder = Recipe(**settings).encoder(name)
    vectors = encoder.fit_transform(bags)
    svm = mv.WideLinearSVC().fit(vectors, np.arange(6) % n_classes)
    steps = [*(step for _, step in encoder_steps(encoder)), svm]
    decision = decision_columns(svm.decision_function(vectors))
    for i in range(len(bags)):
        for label in range(n_classes):
            own = bags.take([i])
            found = bag_evidence(steps, own, own.load(), label)
            assert [one.path for one in found.files] == bags.files(i)
            assert [len(one.terms) for one in found.files] == bags.lengths(i)
            np.testing.assert_allclose(found.decision(), decision[i, label], atol=1e-6)


def test_files_without_places_are_refused(tmp_path, rng):
    bag = BagFiles([write_features(tmp_path / "a.npy", rng.random((9, 4)))])
    pool = mv.GlobalPool().fit(bag)
    svm = mv.WideLinearSVC().fit(pool.transform(rng.random((4, 3, 4))), [0, 1, 0, 1])
    refusal(lambda: bag_evidence([pool, svm], bag, bag.load(), 0), "a.npy", "no 'coords'")


def tiles(corners, terms, extent=None, path="a.h5"):
    return TileEvidence(path, TilePlaces(np.array(corners, float), 10.0, extent), np.array(terms, float))


class TestTable:
    def test_every_tile_has_a_row_that_holds_its_exact_term(self):
        bag = BagEvidence([tiles([[0, 10], [10.5, 0]], [0.1, -1 / 3]), tiles([[5, 5]], [2])], 0.5)
        rows = list(csv.DictReader(io.StringIO(tile_table(bag, ["one", "two"]).decode())))
        assert [row["file"] for row in rows] == ["one", "one", "two"]
        assert [(row["x"], row["y"], row["side"]) for row in rows] == [
            ("0", "10", "10"),
            ("10.5", "0", "10"),
            ("5", "5", "10"),
        ]
        assert [float(row["evidence"]) for row in rows] == [0.1, -1 / 3, 2.0]
        assert bag.decision() == 0.1 - 1 / 3 + 2 + 0.5


def pixels(picture):
    return np.asarray(picture.convert("RGB")).astype(int)


class TestPicture:
    def test_tiles_are_drawn_at_their_places(self):
        bag = BagEvidence([tiles([[0, 0], [20, 0], [0, 20]], [1, -1, 0], extent=(30.0, 30.0))], 0.0)
        drawn = pixels(tile_picture(bag))
        red, _, blue = drawn[100, 100]
        assert red > blue + 50
        red, _, blue = drawn[100, 800]
        assert blue > red + 50
        assert len(set(drawn[800, 100])) == 1
        assert drawn[800, 100, 0] < 250
        assert (drawn[800, 800] == 255).all()

    def test_where_tiles_overlap_their_mean_is_drawn(self):
        both = BagEvidence([tiles([[0, 0], [0, 0]], [1, -1], extent=(20.0, 20.0))], 0.0)
        none = BagEvidence([tiles([[0, 0]], [0], extent=(20.0, 20.0))], 0.0)
        np.testing.assert_array_equal(pixels(tile_picture(both, 1.0)), pixels(tile_picture(none, 1.0)))

    def test_without_the_size_of_the_slide_all_tiles_are_seen(self):
        bag = BagEvidence([tiles([[1000, 1000], [1020, 1010]], [1, 1])], 0.0)
        drawn = pixels(tile_picture(bag))[:, :900]
        red = drawn[..., 0] > drawn[..., 2] + 50
        columns, rows = np.flatnonzero(red.any(axis=0)), np.flatnonzero(red.any(axis=1))
        assert 0 < columns[0] < 30
        assert 870 < columns[-1] < 899
        assert rows[-1] - rows[0] == pytest.approx((columns[-1] - columns[0]) * 2 / 3, abs=2)

    def test_files_of_a_bag_stand_side_by_side(self):
        one = BagEvidence([tiles([[0, 0]], [1], extent=(10.0, 10.0))], 0.0)
        two = BagEvidence(one.files * 2, 0.0)
        assert tile_picture(two).width == tile_picture(one).width + 900 + 12

    def test_a_thumbnail_lies_below_the_tiles(self):
        thumbnail = np.full((30, 30, 3), 80, np.uint8)
        bag = BagEvidence([tiles([[0, 0]], [1], extent=(30.0, 30.0))], 0.0)
        drawn = pixels(tile_picture(bag, thumbnails=[thumbnail]))
        assert (drawn[800, 800] == 80).all()
        assert drawn[100, 100, 0] > drawn[100, 100, 2] + 50

    def test_a_thumbnail_needs_the_size_of_the_slide(self):
        bag = BagEvidence([tiles([[0, 0]], [1])], 0.0)
        refusal(lambda: tile_picture(bag, thumbnails=[np.zeros((3, 3, 3), np.uint8)]), "a.h5", "level0_width")

    def test_no_evidence_at_all_is_drawn(self):
        bag = BagEvidence([tiles([[0, 0]], [0], extent=(10.0, 10.0))], 0.0)
        assert len({tuple(one) for one in pixels(tile_picture(bag))[:, :900].reshape(-1, 3).tolist()}) == 1

    def test_a_thumbnail_is_found_by_the_name_of_the_slide(self, tmp_path):
        Image.new("RGB", (3, 3)).save(tmp_path / "a[1].png")
        (tmp_path / "a[1].txt").touch()
        assert find_thumbnail(tmp_path, tmp_path / "a[1].h5").name == "a[1].png"
        refusal(lambda: find_thumbnail(tmp_path, tmp_path / "b.h5"), "no thumbnail of b.h5", "b.jpg")
