"""Parts of a list of images for the tasks of a batch system."""

import unicodedata
from pathlib import Path

import pytest

from medvlad._util.validate import InputError
from medvlad.datasets import ArrayPart, read_part, take_part

SLURM = {
    "SLURM_ARRAY_TASK_ID": "5",
    "SLURM_ARRAY_TASK_MIN": "0",
    "SLURM_ARRAY_TASK_MAX": "15",
    "SLURM_ARRAY_TASK_STEP": "1",
    "SLURM_ARRAY_TASK_COUNT": "16",
}
SGE = {"SGE_TASK_ID": "7", "SGE_TASK_FIRST": "1", "SGE_TASK_LAST": "10", "SGE_TASK_STEPSIZE": "3"}


def parts_of(images, n, root="."):
    return [take_part(images, f"{i}/{n}", root=root) for i in range(1, n + 1)]


def test_parts_are_disjoint_complete_and_even():
    images = [f"class{i % 7}/image{i:06}.jpeg" for i in range(32_000)]
    parts = parts_of(images, 16)
    assert sorted(name for part in parts for name in part) == sorted(images)
    # Binomial: 2,000 images with a standard deviation of 43; 16 parts within 4 of these are expected.
    assert all(abs(len(part) - 2000) < 4 * 43.3 for part in parts)


def test_a_part_keeps_the_order_of_the_images():
    images = [f"{i}.png" for i in range(100, 0, -1)]
    part = take_part(images, "1/3")
    assert part == [name for name in images if name in part]


def test_other_images_do_not_move_an_image_to_another_part():
    images = [f"{i}.png" for i in range(200)]
    for whole, half in zip(parts_of(images, 4), parts_of(images[::2], 4), strict=True):
        assert half == [name for name in whole if name in images[::2]]


@pytest.mark.parametrize("root", [".", "./data/", "/mnt/a", "/mnt/b/c/", "s3://bucket/folder"])
def test_the_folder_may_be_mounted_elsewhere(root):
    names = [f"x/{i}.png" for i in range(50)]
    inside = root.rstrip("/") if "://" in root else str(Path(root))
    found = take_part([name if root == "." else f"{inside}/{name}" for name in names], "2/3", root=root)
    assert [name[-len(own) :] for name, own in zip(found, take_part(names, "2/3"), strict=True)] == take_part(
        names, "2/3"
    )


def test_paths_and_texts_are_the_same():
    names = [f"data/{i}.png" for i in range(20)]
    paths = take_part([Path(name) for name in names], "1/2", root=Path("data"))
    assert [path.as_posix() for path in paths] == take_part(names, "1/2", root="data")


def test_the_spelling_of_an_accent_does_not_matter():
    names = [f"Zürich-é-{i}.png" for i in range(50)]
    apart = [unicodedata.normalize("NFD", name) for name in names]
    part = ArrayPart(1, 2)
    assert [part.holds(name) for name in names] == [part.holds(name) for name in apart]


def test_all_images_of_a_file_are_in_one_part():
    slices = [f"volume.nii#{i}" for i in range(64)]
    assert sorted(map(len, parts_of(slices, 8))) == [0] * 7 + [64]


def test_names_that_are_no_text_have_a_part():
    names = [b"\xe9-1.png".decode("utf-8", "surrogateescape")]
    assert sum(map(len, parts_of(names, 3))) == 1


# ------------------------------------------------------------------------------------ batch systems


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("3/16", {}, (3, 16)),
        ("auto", SLURM, (5, 16)),
        ("auto", SLURM | {"SLURM_ARRAY_TASK_ID": "0"}, (16, 16)),
        ("auto", SLURM | {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "15"}, (5, 15)),
        ("auto", SGE, (3, 4)),
        ("auto", {"AWS_BATCH_JOB_ARRAY_INDEX": "0", "AWS_BATCH_JOB_ARRAY_SIZE": "8"}, (1, 8)),
        ("auto/16", SLURM, (5, 16)),
        ("auto/16", SLURM | {"SLURM_ARRAY_TASK_ID": "0"}, (16, 16)),
        ("auto/16", {"SLURM_ARRAY_TASK_ID": "16"}, (16, 16)),
        ("auto/4", {"JOB_COMPLETION_INDEX": "0"}, (1, 4)),
        ("auto/4", {"JOB_COMPLETION_INDEX": "3"}, (4, 4)),
        ("auto/4", {"PBS_ARRAY_INDEX": "2", "LSB_JOBINDEX": "0", "SGE_TASK_ID": "undefined"}, (2, 4)),
        ("auto/4", {"PBS_ARRAYID": "2"}, (2, 4)),
        ("auto/4", {"LSB_JOBINDEX": "1"}, (1, 4)),
    ],
)
def test_the_part_of_a_task(text, environment, expected):
    part = read_part(text, environment)
    assert (part.number, part.total) == expected


@pytest.mark.parametrize("indices", [range(16), range(1, 17)], ids=["from 0", "from 1"])
def test_a_repeated_task_has_the_part_that_it_had_in_the_whole_array(indices):
    """A task that is submitted again alone has other variables for the range, and the same index."""
    alone = [
        read_part(
            "auto/16",
            SLURM | dict.fromkeys([f"SLURM_ARRAY_TASK_{word}" for word in ("ID", "MIN", "MAX")], str(i)),
        )
        for i in indices
    ]
    assert sorted(part.number for part in alone) == list(range(1, 17))
    assert alone == [read_part("auto/16", SLURM | {"SLURM_ARRAY_TASK_ID": str(i)}) for i in indices]


@pytest.mark.parametrize(
    ("text", "environment", "told"),
    [
        ("0/16", {}, "part='0/16' does not exist: parts are numbered from 1"),
        ("17/16", {}, "does not exist"),
        ("3", {}, "must be a number of several such as 3/16, auto or auto/16, got '3'"),
        ("1/0", {}, "does not exist"),
        ("auto/0", SLURM, "has no part"),
        ("-1/3", {}, "got '-1/3'"),
        ("auto", {}, "none of these variables is set: SLURM_ARRAY_TASK_ID (Slurm), "),
        ("auto", {"JOB_COMPLETION_INDEX": "3"}, "Kubernetes does not tell how many tasks"),
        ("auto", {"LSB_JOBINDEX": "3"}, "such as part='auto/16'"),
        ("auto/4", {"JOB_COMPLETION_INDEX": "4"}, "number the array from 0 to 3"),
        ("auto/4", {"PBS_ARRAY_INDEX": "5"}, "number the array from 1 to 4"),
        ("auto/4", {"PBS_ARRAY_INDEX": "x"}, "needs a whole number in PBS_ARRAY_INDEX, got 'x'"),
        ("auto", SLURM | {"JOB_COMPLETION_INDEX": "1"}, "SLURM_ARRAY_TASK_ID and JOB_COMPLETION_INDEX"),
        # sbatch --array=3,7,11, as Slurm 22.05 sets it
        (
            "auto",
            SLURM
            | {
                "SLURM_ARRAY_TASK_ID": "7",
                "SLURM_ARRAY_TASK_MIN": "3",
                "SLURM_ARRAY_TASK_MAX": "11",
                "SLURM_ARRAY_TASK_COUNT": "3",
            },
            "3 tasks between 3 and 11, and they are no range",
        ),
    ],
)
def test_what_is_no_part_is_told(text, environment, told):
    with pytest.raises(InputError) as error:
        read_part(text, environment)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_the_environment_of_the_process_is_the_default(monkeypatch):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    assert str(read_part("auto/2")) == "part 2 of 2"
