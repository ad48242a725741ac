"""medvlad extract --part: each part alone, and all of them together."""

import pytest
from support.faults import light_network, write_images

from medvlad.store.store import DescriptorStore

LIGHT = ["--model", "light", "--layer", "x"]


@pytest.fixture
def images(tmp_path, monkeypatch):
    light_network(monkeypatch.setattr)
    return write_images(tmp_path / "images", 10)


def content(store):
    """What a store of one section holds, by key."""
    (section,) = DescriptorStore(store).sections()
    return {key: section.get(key).tobytes() for key in section}


def test_all_parts_together_are_the_whole(run, images, tmp_path):
    said = []
    for i in (1, 2, 3):
        status, printed, error = run(
            "extract", images, *LIGHT, "--store", tmp_path / "parts", "--part", f"{i}/3"
        )
        assert (status, error) == (0, "")
        said.append(printed.splitlines()[0])
    run("extract", images, *LIGHT, "--store", tmp_path / "whole")
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    sizes = [int(line.split(": ")[1].split()[0]) for line in said]
    assert said == [f"part {i} of 3: {n} of 20 images" for i, n in enumerate(sizes, 1)]
    assert sum(sizes) == 20


def test_a_part_is_the_same_from_another_mount_point_and_has_nothing_to_do_again(run, images, tmp_path):
    (tmp_path / "other").symlink_to(images)
    arguments = [*LIGHT, "--store", tmp_path / "store", "--part", "2/3"]
    first = run("extract", images, *arguments)[1].splitlines()
    again = run("extract", tmp_path / "other", *arguments)[1].splitlines()
    assert again[0] == first[0]
    assert " 0 of them extracted now" in again[-1]


def test_rows_of_a_table_are_in_the_parts_of_the_folder(run, images, tmp_path):
    names = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    (tmp_path / "data.csv").write_text("\n".join(["image", *names]))
    arguments = [*LIGHT, "--store", tmp_path / "store", "--part", "1/4"]
    run("extract", images, *arguments)
    printed = run("extract", tmp_path / "data.csv", "--image-root", images, *arguments)[1]
    assert " 0 of them extracted now" in printed


def test_auto_takes_the_part_of_the_task(run, images, tmp_path, monkeypatch):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    arguments = ["extract", images, *LIGHT, "--store", tmp_path / "store"]
    assert run(*arguments, "--part", "auto/3")[1].startswith("part 2 of 3: ")
    status, _, error = run(*arguments, "--part", "auto")
    assert (status, error) == (
        2,
        "medvlad: Kubernetes does not tell how many tasks the array has: write their number, such as --part "
        "auto/16\n",
    )


def test_an_empty_part_is_done(run, images, tmp_path):
    for part in range(1, 200):
        status, printed, _ = run(
            "extract", images, *LIGHT, "--store", tmp_path / "store", "--part", f"{part}/1000"
        )
        assert status == 0
        if printed == f"part {part} of 1000: 0 of 20 images; nothing to do\n":
            return
    pytest.fail("199 of 1,000 parts of 20 images all hold some")


def test_types_that_machines_may_choose_differently_are_refused(run, images, tmp_path):
    arguments = ["extract", images, "--store", tmp_path / "store", "--part", "1/2"]
    status, _, error = run(*arguments, "--dtype", "auto")
    assert status == 2
    assert "run 'medvlad doctor' on one of the machines" in error


@pytest.mark.parametrize(("part", "told"), [("3", "got '3'"), ("0/4", "--part 0/4 does not exist")])
def test_a_wrong_part_is_told_as_an_option(run, images, tmp_path, part, told):
    status, _, error = run("extract", images, "--store", tmp_path / "store", "--part", part)
    assert status == 2
    assert told in error
    assert error.startswith("medvlad: --part ")
