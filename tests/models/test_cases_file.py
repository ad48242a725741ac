"""MODEL.cases holds the training images of one model, and is refused with another or if it is damaged."""

import numpy as np
import pytest
from sklearn.pipeline import Pipeline

from medvlad import Descriptors, GlobalPool, InputError, WideLinearSVC, save_model
from medvlad.decisions.similar import SimilarCases
from medvlad.models.cases_file import (
    Cases,
    cases_path,
    digest_names,
    load_cases,
    remove_cases,
    save_cases,
)


@pytest.fixture
def model(tmp_path, rng):
    """A model file, and another one."""
    for name in ("model", "other"):
        x = Descriptors.from_array(rng.normal(size=(6, 3, 4)).astype(np.float32))
        steps = [("encode", GlobalPool()), ("classify", WideLinearSVC())]
        save_model(Pipeline(steps).fit(x, ["a", "b"] * 3), tmp_path / name)
    return tmp_path / "model"


@pytest.fixture
def cases(rng):
    vectors = rng.normal(size=(6, 4)).astype(np.float32)
    names = ["a b.png", "ä.png", "x\udcff.png", "d", "e", "f#3"]
    return Cases(SimilarCases().fit(vectors, names, list("ababab"), ["p", None] * 3), "(p[0-9]+)")


def test_training_images_are_read_as_they_were_written(model, cases):
    assert save_cases(cases, model) == cases_path(model)
    back = load_cases(model)
    assert back.pattern == cases.pattern
    index = back.index
    np.testing.assert_array_equal(index.vectors_, cases.index.vectors_)
    assert (index.names_, index.labels_) == (cases.index.names_, cases.index.labels_)
    assert index.patients_ == ["p", None] * 3
    found = index.similar(cases.index.vectors_[2:3], 1)
    assert found == cases.index.similar(cases.index.vectors_[2:3], 1)


def test_the_vectors_stay_in_the_file(model, cases):
    save_cases(cases, model)
    vectors = load_cases(model).index.vectors_
    assert isinstance(vectors if isinstance(vectors, np.memmap) else vectors.base, np.memmap)


def test_the_cases_of_another_model_are_refused(model, cases):
    save_cases(cases, model)
    cases_path(model).rename(cases_path(model.with_name("other")))
    with pytest.raises(InputError, match=r"other\.cases belongs to another model than"):
        load_cases(model.with_name("other"))


def test_a_missing_file_is_told(model):
    with pytest.raises(InputError, match=r"there is no file .*model\.cases of training images"):
        load_cases(model)


@pytest.mark.parametrize("cut", [0, 5, 8, 100, -1, -40])
def test_a_file_that_is_cut_is_refused(model, cases, cut):
    path = save_cases(cases, model)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match="is damaged or no file of training images"):
        load_cases(model)


@pytest.mark.parametrize("at", range(0, 460, 13))
def test_a_damaged_header_is_refused_or_changes_no_number(model, cases, at):
    path = save_cases(cases, model)
    content = bytearray(path.read_bytes())
    content[at] ^= 0x55
    path.write_bytes(content)
    try:
        loaded = load_cases(model)
    except InputError:
        return
    np.testing.assert_array_equal(loaded.index.vectors_, cases.index.vectors_)


def test_only_a_file_of_training_images_is_removed(model, cases):
    path = cases_path(model)
    path.write_text("my notes")
    remove_cases(model)
    assert path.exists()
    save_cases(cases, model)
    remove_cases(model)
    assert not path.exists()
    remove_cases(model)


def test_digest_names_tell_the_content_only(tmp_path):
    (tmp_path / "smith.png").write_bytes(b"1")
    (tmp_path / "jones.png").write_bytes(b"1")
    first, second = digest_names([tmp_path / "smith.png", tmp_path / "jones.png"])
    assert first == second == "6b86b273ff34fce1"
