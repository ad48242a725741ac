"""Checks of arguments return the value, or raise an error that says what was expected."""

import os
import sys

import numpy as np
import pytest

from medvlad import InputError, MissingExtraError
from medvlad._util.validate import (
    MAX_THREADS,
    check_choice,
    check_indices,
    check_n_threads,
    check_output_file,
    check_positive_float,
    check_positive_int,
    check_seed,
    further_seed,
    import_extra,
    make_output_folder,
    one_line,
)


@pytest.mark.parametrize("value", [1, 7, np.int64(3), np.uint8(255)])
def test_positive_integers_become_int(value):
    assert check_positive_int(value, "n") == value
    assert type(check_positive_int(value, "n")) is int


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None, np.float64(2), np.array([1])])
def test_other_values_are_no_positive_integer(value):
    with pytest.raises(InputError, match=r"^n must be an integer of at least 1, got "):
        check_positive_int(value, "n")


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.25), np.int64(3), 5e-324])
def test_positive_numbers_become_float(value):
    assert type(check_positive_float(value, "C")) is float
    assert check_positive_float(value, "C") == value


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), True, "1", None])
def test_other_values_are_no_positive_number(value):
    with pytest.raises(InputError, match=r"^C must be a finite number above 0, got "):
        check_positive_float(value, "C")


@pytest.mark.parametrize("value", [0, 2**32 - 1, np.int64(5)])
def test_seeds_are_those_of_numpy(value):
    np.random.RandomState(check_seed(value))


@pytest.mark.parametrize("value", [-1, 2**32, 1.0, False, None, "0"])
def test_other_values_are_no_seed(value):
    with pytest.raises(InputError, match=r"^random_state must be an integer from 0 to 4294967295, got "):
        check_seed(value, "random_state")


def test_further_seeds_start_over_after_the_largest():
    assert [further_seed(2**32 - 2, i) for i in range(3)] == [2**32 - 2, 2**32 - 1, 0]


def test_a_choice_must_be_listed():
    assert check_choice("b", "mode", ["a", "b"]) == "b"
    with pytest.raises(InputError, match=r"^mode must be one of a, b, got 'c'$"):
        check_choice("c", "mode", ["a", "b"])


def test_the_default_number_of_threads_is_that_of_the_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert check_n_threads(None) == 3


def test_without_affinity_all_processors_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert check_n_threads(None) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert check_n_threads(None) == 1


def test_threads_have_an_upper_limit():
    assert check_n_threads(MAX_THREADS) == MAX_THREADS
    with pytest.raises(InputError, match=f"n_threads must be at most {MAX_THREADS}, got {MAX_THREADS + 1}"):
        check_n_threads(MAX_THREADS + 1)


@pytest.mark.parametrize(
    ("indices", "expected"),
    [([2, 0, -1], [2, 0, 2]), ([True, False, True], [0, 2]), ([], []), (np.array([1], np.uint8), [1])],
)
def test_indices_and_masks_become_row_numbers(indices, expected):
    found = check_indices(indices, 3)
    assert found.dtype == np.int64
    assert found.tolist() == expected


def test_no_index_is_in_range_of_no_images():
    with pytest.raises(InputError, match="image index 0 is out of range: there are no images"):
        check_indices([0], 0)


def test_an_error_is_told_on_one_line():
    assert one_line(ValueError("two\n  lines ")) == "two lines"


# ------------------------------------------------------------------------------------- optional modules


def test_an_installed_module_is_imported():
    assert import_extra("json", "demo", "the demo") is sys.modules["json"]


def test_a_missing_module_names_the_extra():
    with pytest.raises(
        MissingExtraError,
        match=r"^the demo needs the Python module 'no_such_module' .*: pip install 'medvlad\[demo\]'$",
    ):
        import_extra("no_such_module", "demo", "the demo")


@pytest.mark.parametrize(
    ("failure", "reason", "advice"),
    [
        (PermissionError(13, "Permission denied", "/home/.cupy"), "PermissionError: .*home/.cupy", "repair"),
        (ImportError("libcc.so.2: failed to map segment from shared object"), "libcc.so.2", "ulimit -v"),
        (OSError(12, "Cannot allocate memory"), "Cannot allocate", "ulimit -v"),
        (MemoryError(), r"\(MemoryError\)", "ulimit -v"),
        (RuntimeError("two\nlines"), "two lines", "repair"),
        (AttributeError("no attribute 'x'"), "no attribute", "repair"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_import_that_fails_gives_the_reason_and_does_not_say_install(monkeypatch, failure, reason, advice):
    def failing(_):
        raise failure

    monkeypatch.setattr("importlib.import_module", failing)
    message = f"^the demo needs the Python module 'cupy', whose import fails .*{reason}.*: .*{advice}"
    with pytest.raises(MissingExtraError, match=message) as error:
        import_extra("cupy", "cuda12", "the demo")
    assert "pip install" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_package_that_lacks_another_one_names_the_extra(monkeypatch):
    def failing(_):
        raise ModuleNotFoundError("No module named 'absl'", name="absl")

    monkeypatch.setattr("importlib.import_module", failing)
    with pytest.raises(MissingExtraError, match=r"'absl'.*pip install 'medvlad\[tensorflow\]'"):
        import_extra("keras", "tensorflow", "a network")


def test_ctrl_c_during_an_import_stays_an_interrupt(monkeypatch):
    """Extension modules raise an ImportError from it."""

    def interrupted(_):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("initialisation failed") from error

    monkeypatch.setattr("importlib.import_module", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_extra("json", "demo", "the demo")


# ------------------------------------------------------------------------------------------------ files


def test_a_file_may_be_written_anew_or_over_another(tmp_path):
    assert check_output_file(tmp_path / "new", "model") == tmp_path / "new"
    (tmp_path / "old").touch()
    assert check_output_file(str(tmp_path / "old"), "model") == tmp_path / "old"


def test_a_folder_is_no_output_file(tmp_path):
    with pytest.raises(InputError, match=r"^the model .* is a folder: give the path of a file$"):
        check_output_file(tmp_path, "model")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_a_pipe_is_no_output_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"is a device or pipe: give the path of a regular file$"):
        check_output_file(tmp_path / "pipe", "model")


def test_the_folder_of_an_output_file_must_exist(tmp_path):
    with pytest.raises(InputError, match=r"^the folder .*none for the model does not exist: create it first"):
        check_output_file(tmp_path / "none" / "m", "model")


def test_an_output_file_must_be_writeable(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(InputError, match=r"^the model .* cannot be written: check permissions"):
        check_output_file(tmp_path / "m", "model")


def test_an_output_folder_is_created_with_its_parents(tmp_path):
    assert make_output_folder(tmp_path / "a" / "b", "out") == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()
    make_output_folder(tmp_path / "a" / "b", "out")


@pytest.mark.parametrize("inside", [".", "class_a", "class_a/.."])
def test_an_output_folder_among_the_images_is_refused(tmp_path, inside):
    with pytest.raises(InputError, match=r"^out .* lies in the image folder .*: choose a folder outside$"):
        make_output_folder(tmp_path / inside, "out", tmp_path)


def test_an_output_folder_beside_the_images_is_created(tmp_path):
    (tmp_path / "images").mkdir()
    assert make_output_folder(tmp_path / "images2", "out", tmp_path / "images").is_dir()


def test_a_file_is_no_output_folder(tmp_path):
    (tmp_path / "f").touch()
    with pytest.raises(InputError, match=r"^out .*f is a file: give the path of a folder$"):
        make_output_folder(tmp_path / "f", "out")


def test_a_folder_below_a_file_cannot_be_created(tmp_path):
    (tmp_path / "f").touch()
    with pytest.raises(InputError, match=r"^out .* cannot be created: .*; choose another place$"):
        make_output_folder(tmp_path / "f" / "g", "out")
