"""Audits with pseudonyms: the same findings, and no order or name that tells who is who."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from support.planted import picture, save, write_set

from medvlad.audit import audit
from medvlad.datasets.folders import load_image_folder
from medvlad.datasets.pseudonyms import Pseudonyms
from medvlad.report.audit import audit_page


@pytest.fixture(scope="module")
def doubled(tmp_path_factory):
    """Six patients in each folder, sets of copies, and pairs of images that are nearly the same."""
    rng = np.random.default_rng(0)
    root = write_set(tmp_path_factory.mktemp("doubled"), rng, n=12, ending="png")
    for i in range(6):
        one = picture(rng)
        save(one, root / "train" / "a" / f"twin{i}.png")
        save(one, root / "train" / "b" / f"twin{i}.bmp")
        shutil.copy(root / "test" / "a" / f"testa{i}.png", root / "test" / "a" / f"copy{i}.png")
        two = picture(rng)
        save(two, root / "test" / "b" / f"near{i}.png")
        save(two, root / "test" / "b" / f"near{i}.jpg", quality=50)
    data = load_image_folder(root)
    numbers = [int(re.sub("[a-z]", "", path.stem)) % 6 for path in data.paths]
    groups = [f"{path.parent.name}{number}" for path, number in zip(data.paths, numbers, strict=True)]
    return replace(data, groups=np.array(groups))


@pytest.fixture(scope="module")
def plain(doubled):
    return audit(doubled)


@pytest.fixture(scope="module")
def anonymous(doubled):
    """Pseudonyms and the audit with them."""
    names = Pseudonyms()
    return names, audit(doubled, names=names)


def test_an_audit_does_not_depend_on_the_key_of_pseudonyms(doubled, plain, anonymous):
    for found in (anonymous[1], audit(doubled, names=Pseudonyms())):
        for part in ("shortcuts", "parts", "counts", "sizes", "n_patients"):
            assert found[part] == plain[part]
        assert [one["sentence"] for one in found["findings"]] == [
            one["sentence"] for one in plain["findings"]
        ]


def test_lists_of_pseudonyms_do_not_reveal_the_order_of_files(anonymous):
    listed = anonymous[1]["duplicates"]
    sets = [listed[kind]["listed"] for kind in ("identical_files", "identical_pixels")]
    sets.append([one["images"] for one in listed["near_duplicates"]["listed"]])
    for names in sets:
        assert len(names) == 6
        assert names == sorted(sorted(one) for one in names)


def test_examples_of_pseudonyms_do_not_reveal_the_order_of_files(anonymous):
    pairs = [one["examples"] for one in anonymous[1]["findings"] if "identical" in one["kind"]]
    assert len(pairs) >= 3
    for examples in pairs:
        assert examples == sorted(sorted(pair) for pair in examples)


def test_the_page_of_an_anonymised_audit_shows_the_same_pictures_without_names(plain, anonymous):
    names, found = anonymous
    shown = audit_page(found, names=names).html()
    assert shown.count("<img") == audit_page(plain).html().count("<img") > 3
    assert "twin" not in shown


def test_the_page_of_an_audit_leaves_pictures_out_if_asked(anonymous):
    names, found = anonymous
    assert audit_page(found, names=names, pictures=False).html().count("<img") == 0
