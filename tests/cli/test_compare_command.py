"""X."""

import json

import pytest
from support.striped_images import NETWORK, write_striped_images


@pytest.fixture
def images(tmp_path, rng):
    return write_striped_images(tmp_path / "images", rng)


@pytest.mark.slow
def test_compare_runs(run, images, small_weights, tmp_path):
    """Two runs compared afterwards are what one run says of both."""
    arguments = ["evaluate", images, *NETWORK, "--weights", small_weights]
    for encode in ("avg", "max", "avg,max"):
        assert run(*arguments, "--encode", encode, "--out", tmp_path / encode)[0] == 0
    (inside,) = json.loads((tmp_path / "avg,max" / "results.json").read_text())["comparisons"]
    status, printed, _ = run("compare", tmp_path / "avg", tmp_path / "max", "--json")
    assert status == 0
    found = json.loads(printed)
    for name in ("only_first", "only_second", "mcnemar_p", "difference", "difference_ci95"):
        assert found[name] == inside[name]
    for both in ("max,max", "max"):
        status, printed, _ = run("compare", tmp_path / "avg,max", tmp_path / "max", "--encode", both)
        assert status == 0
        assert "8 images, 95 % intervals by images" in printed
        for name in ("accuracy", "balanced accuracy", "auc"):
            assert f"{name} +0.000 (+0.000 to +0.000)" in printed
    for wrong, told in (
        ([tmp_path / "avg,max", tmp_path / "max"], "holds several encodings"),
        ([tmp_path, tmp_path / "max"], "no predictions.csv"),
        ([tmp_path / "avg,max", tmp_path], f"{tmp_path} holds no predictions.csv"),
        ([tmp_path / "avg", tmp_path / "max", "--encode", "vlad4,max"], "holds no encoding"),
    ):
        status, _, error = run("compare", *wrong)
        assert status == 2
        assert told in error
    table = tmp_path / "max" / "predictions.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    status, _, error = run("compare", tmp_path / "avg", tmp_path / "max")
    assert status == 2
    assert "other test images" in error
