"""The command paper, with other images in place of the paper's."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from support.in_this_process import run_command
from support.striped_images import NETWORK, write_striped_images


def run_paper(folder, tiny_weights, *options, broken=False):
    """Run the command on 12 images; return status, output, errors, results and page."""
    images = write_striped_images(folder / "many", np.random.default_rng(0), train=3, test=3)
    if broken:
        (images / "train" / "lying" / "smith.png").write_bytes(b"no image")
    arguments = ["paper", "--like-chest-xray", images, *NETWORK, "--weights", tiny_weights]
    arguments += ["--scale", "0", "--out", folder / "out", *options]
    status, printed, error = run_command(*arguments)
    written = [(folder / "out" / name).read_text() for name in ("paper.json", "paper.html")]
    everything = "\n".join([printed, error, *written]).replace(str(folder / "out"), "")
    return SimpleNamespace(
        status=status,
        printed=printed,
        error=error,
        found=json.loads(written[0]),
        page=written[1],
        everything=everything,
        folder=folder,
        arguments=arguments,
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_weights):
    return run_paper(tmp_path_factory.mktemp("paper"), tiny_weights)


@pytest.fixture(scope="module")
def anonymous(tmp_path_factory, tiny_weights):
    """The same images and a broken one, anonymised."""
    folder = tmp_path_factory.mktemp("anonymous")
    return run_paper(folder, tiny_weights, "--on-error", "skip", "--anonymise", broken=True)


def test_paper_fills_the_cells_of_a_data_set(done):
    assert done.status == 0, done.error
    assert [(cell["encode"], cell["paper"]) for cell in done.found["cells"]] == [
        ("avg", 0.8),
        ("vlad64", 0.77),
        ("vlad256", 0.78),
    ]


def test_paper_says_that_images_are_others_than_the_papers(done):
    assert all(cell["stands_in"] for cell in done.found["cells"])
    assert "many, for Chest X-ray" in done.printed
    assert "stand-in" in done.page


def test_paper_says_that_the_network_is_another(done):
    assert "not the paper's VGG19" in done.printed


def test_anonymised_paper_wants_an_empty_folder(run, done):
    status, _, error = run(*done.arguments, "--on-error", "skip", "--anonymise")
    assert (status, "give a new or an empty folder" in error) == (2, True)


def test_anonymised_paper_lists_what_it_skips(anonymous):
    assert anonymous.status == 1
    assert "skipped: image image-" in anonymous.error


def test_anonymised_paper_names_no_file_and_no_folder(anonymous):
    for name in ("many, for", "smith", str(anonymous.folder)):
        assert name not in anonymous.everything


def test_anonymised_paper_has_the_same_numbers(done, anonymous):
    expected = done.found["cells"][0] | {"data": "other images, for Chest X-ray"}
    assert anonymous.found["cells"][0] == expected


def test_paper_repeats_each_cell_with_other_seeds(done, tiny_weights, tmp_path):
    found = run_paper(tmp_path, tiny_weights, "--n-seeds", "3")
    assert found.status == 0, found.error
    for one, first in zip(found.found["cells"], done.found["cells"], strict=True):
        over = one["over_seeds"]["accuracy"]
        assert len(over["values"]) == 3
        assert over["values"][0] == one["accuracy"] == first["accuracy"]
        assert f"{over['mean']:.3f} ({over['std']:.3f})" in found.printed
    assert "over seeds" in found.page
    assert "over seeds" not in done.page


def test_paper_needs_a_data_set(run, tmp_path):
    assert run("paper", *NETWORK, "--scale", "0", "--out", tmp_path / "out")[0] == 2


def test_paper_refuses_another_layout(run, done, tmp_path):
    arguments = ["paper", "--chest-xray", done.folder / "many", *NETWORK, "--out", tmp_path / "out"]
    status, _, error = run(*arguments)
    assert status == 2
    assert "Traceback" not in error
