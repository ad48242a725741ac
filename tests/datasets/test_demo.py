"""The images of the demo: both classes contain the same, and the same seed gives the same images."""

import numpy as np
import pytest

from medvlad import InputError, load_image_folder
from medvlad.datasets import tissue
from medvlad.datasets.demo import CLASSES, write_demo_images
from medvlad.images.read import load_image


@pytest.fixture
def placed(monkeypatch):
    """Return the kinds, regions and places of the cells of fields that are drawn after this."""
    found, places = [], tissue._Cells.places

    def record(cells, region, n, kind):
        result = places(cells, region, n, kind)
        found.append((kind, region, result))
        return result

    monkeypatch.setattr(tissue._Cells, "places", record)
    return found


def test_a_folder_has_a_part_and_a_class_for_each_image(tmp_path):
    root = write_demo_images(tmp_path, n_train=3, n_test=2)
    for part, n in (("train", 3), ("test", 2)):
        found = load_image_folder(root, split=part)
        assert found.class_names == sorted(CLASSES)
        assert np.bincount(found.labels).tolist() == [n, n]
        assert {load_image(path).shape for path in found.paths} == {(tissue.SIDE, tissue.SIDE, 3)}


def test_the_same_seed_writes_the_same_files_and_another_seed_others(tmp_path):
    for folder, seed, n in (("a", 0, 3), ("b", 0, 2), ("c", 1, 2)):
        write_demo_images(tmp_path / folder, n_train=n, n_test=1, random_state=seed)
    seen = [one.read_bytes() for one in sorted((tmp_path / "a").rglob("*.png"))]
    assert len(set(seen)) == 8
    for one in (tmp_path / "b").rglob("*.png"):
        place = one.relative_to(tmp_path / "b")
        assert one.read_bytes() == (tmp_path / "a" / place).read_bytes()
        assert one.read_bytes() != (tmp_path / "c" / place).read_bytes()


def test_images_of_an_earlier_version_are_not_evaluated_too(tmp_path):
    for name in ("train/scattered", "train/.cache", "test/excluded"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(InputError, match=r"scattered is no class of the demo.*: remove .*--out$"):
        write_demo_images(tmp_path, n_train=1, n_test=1)
    assert not list(tmp_path.rglob("*.png"))
    (tmp_path / "train" / "scattered").rmdir()
    write_demo_images(tmp_path, n_train=1, n_test=1)


@pytest.mark.parametrize("inside", [0.0, 1.0])
def test_lymphocytes_lie_where_they_should(placed, inside):
    tissue.draw_field(np.random.default_rng(0), inside)
    nest = next(region for kind, region, _ in placed if kind is tissue._TUMOUR_NUCLEUS)
    lymphocytes = np.concatenate([found for kind, _, found in placed if kind is tissue._LYMPHOCYTE])
    assert len(lymphocytes) >= 30
    rows, columns = lymphocytes.astype(int).T
    assert (nest[rows, columns] == bool(inside)).all()


def test_cells_do_not_overlap(placed):
    tissue.draw_field(np.random.default_rng(0), 0.5)
    places = np.concatenate([found for _, _, found in placed])
    room = np.concatenate([np.full(len(found), kind.room) for kind, _, found in placed])
    away = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(away, np.inf)
    assert (away > room[:, None] + room - np.sqrt(2)).all()  # a place varies within its pixel


def test_both_classes_have_the_same_amounts(placed):
    """Means of sixty fields a class, which have the same seeds."""
    means = []
    for inside in CLASSES.values():
        placed.clear()
        for seed in range(60):
            tissue.draw_field(np.random.default_rng(seed), inside)
        kinds = (tissue._LYMPHOCYTE, tissue._TUMOUR_NUCLEUS, tissue._STROMA_NUCLEUS)
        means.append([sum(len(found) for kind, _, found in placed if kind is one) / 60 for one in kinds])
    np.testing.assert_allclose(*means, rtol=0.01)
