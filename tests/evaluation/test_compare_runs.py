"""compare_runs reads two folders of results, and names file, row and value of a mistake."""

import re

import numpy as np
import pytest

from medvlad import InputError
from medvlad.evaluation.compare_runs import compare_runs
from medvlad.evaluation.comparison import compare

HEADER = "encode,image,patient,truth,decided,decision a,decision b\n"


def run(folder, values, *, encode="avg", patients=True):
    """Write the predictions of a run: images of class a and b in turn, with these values for b."""
    folder.mkdir(exist_ok=True)
    lines = []
    for i, value in enumerate(values.tolist()):
        patient = f"p{i // 2}" if patients else ""
        decided = "b" if value > 0 else "a"
        lines.append(f"{encode},{i}.png,{patient},{'ab'[i % 2]},{decided},{-value},{value}\n")
    (folder / "predictions.csv").write_text(HEADER + "".join(lines))
    return folder


@pytest.fixture
def values(rng):
    """Decision values of two classifiers for forty images, each right for most of them."""
    return rng.normal(size=(2, 40)) + np.tile([-1, 1], 20)


@pytest.fixture
def runs(tmp_path, values):
    return run(tmp_path / "first", values[0]), run(tmp_path / "second", values[1])


def table(runs):
    """Path of the second run's predictions."""
    return runs[1] / "predictions.csv"


def refused(runs, *parts):
    """Check that the comparison is refused in one line that holds all `parts`."""
    with pytest.raises(InputError) as caught:
        compare_runs(*runs)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


def edit(path, old, new):
    """Replace one piece of text in a file."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("patients", [True, False])
def test_two_runs_are_compared_as_their_decisions_are(tmp_path, values, patients):
    folders = [run(tmp_path / name, v, patients=patients) for name, v in zip("ab", values, strict=True)]
    found = compare_runs(*folders)
    order = np.argsort([f"{i}.png" for i in range(40)])
    columns = [np.column_stack([-v, v])[order] for v in values]
    groups = np.array([f"p{i // 2}" for i in range(40)])[order] if patients else None
    n = 20 if patients else None
    assert found == {"n_images": 40, "n_patients": n, "n_known_patients": n} | compare(
        order % 2, *columns, groups=groups
    )


def test_patients_of_either_run_count(tmp_path, values):
    known, unknown = (run(tmp_path / str(i), v, patients=i == 0) for i, v in enumerate(values))
    assert compare_runs(known, unknown)["n_known_patients"] == 20
    assert compare_runs(unknown, known)["n_known_patients"] == 20


def test_other_patients_of_an_image_are_refused(runs):
    edit(table(runs), ",0.png,p0,", ",0.png,p7,")
    refused(runs, "another patient", "'0.png'")


def test_an_image_without_a_patient_is_a_patient_of_its_own(tmp_path, values):
    """The patients of the others stay known, and so do their intervals."""
    folders = [run(tmp_path / name, v) for name, v in zip("ab", values, strict=True)]
    for folder in folders:
        edit(folder / "predictions.csv", ",38.png,p19,", ",38.png,,")
    found = compare_runs(*folders)
    assert found["n_patients"] == 21
    apart = compare_runs(*(run(tmp_path / n, v, patients=False) for n, v in zip("cd", values, strict=True)))
    assert found["difference_ci95"] != apart["difference_ci95"]


def test_few_patients_are_a_warning(tmp_path, values, caplog):
    compare_runs(*(run(tmp_path / name, v[:20]) for name, v in zip("ab", values, strict=True)))
    assert "class a has only 10 patients among the test images" in caplog.text


def test_the_order_of_rows_does_not_matter(runs):
    expected = compare_runs(*runs)
    header, *lines = table(runs).read_text().splitlines(keepends=True)
    table(runs).write_text("".join([header, *reversed(lines)]))
    assert compare_runs(*runs) == expected


def test_a_byte_order_mark_and_empty_lines_do_not_matter(runs):
    """Spreadsheet programs write them."""
    expected = compare_runs(*runs)
    table(runs).write_bytes(b"\xef\xbb\xbf" + table(runs).read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert compare_runs(*runs) == expected


def test_a_folder_without_predictions_is_refused(runs, tmp_path):
    refused((runs[0], tmp_path), f"{tmp_path} holds no predictions.csv", "medvlad evaluate --out")


def test_one_of_several_encodings_must_be_named(runs):
    _, *lines = (runs[0] / "predictions.csv").read_text().splitlines(keepends=True)
    with table(runs).open("a") as file:
        file.writelines(line.replace("avg,", "max,") for line in lines)
    refused(runs, "holds several encodings, avg, max")
    assert compare_runs(*runs, encodings=("avg", "max"))["difference"]["accuracy"] == 0


def test_an_encoding_that_is_not_there_is_refused(runs):
    with pytest.raises(InputError, match="holds no encoding 'vlad4', only avg"):
        compare_runs(*runs, encodings=("avg", "vlad4"))


def test_an_unknown_true_class_is_named_with_its_row(runs):
    edit(table(runs), "1.png,p0,b,", "1.png,p0,c,")
    refused(runs, table(runs), "row 3 has the truth 'c'", "the classes a, b", "again")


@pytest.mark.parametrize("content", ["", "\n", "\ufeff"])
def test_an_empty_file_is_refused(runs, content):
    table(runs).write_text(content)
    refused(runs, table(runs), "has no column 'encode'", "again")


def test_a_file_with_a_header_only_is_refused(runs):
    table(runs).write_text(HEADER)
    refused(runs, table(runs), "has no predictions, only a header", "again")


@pytest.mark.parametrize("column", ["encode", "image", "patient", "truth"])
def test_a_missing_column_is_named(runs, column):
    edit(table(runs), column, "other")
    refused(runs, table(runs), f"has no column '{column}'")


def test_missing_decision_values_are_named(runs):
    edit(table(runs), "decision a,decision b", "a,b")
    refused(runs, table(runs), "has no column 'decision CLASS'")


def test_another_separator_than_a_comma_is_refused(runs):
    table(runs).write_text(table(runs).read_text().replace(",", ";"))
    refused(runs, table(runs), "separated by commas")


def test_a_column_that_stands_twice_is_refused(runs):
    edit(table(runs), "decision b", "decision a")
    refused(runs, table(runs), "has the column 'decision a' twice")


@pytest.mark.parametrize("value", ["", "nan", "inf", "much", "1,5"])
def test_a_decision_value_that_is_no_finite_number_is_named_with_its_row(runs, value):
    lines = table(runs).read_text().splitlines(keepends=True)
    cells = lines[2].rstrip("\n").split(",")
    lines[2] = ",".join([*cells[:-1], f'"{value}"']) + "\n"
    table(runs).write_text("".join(lines))
    refused(runs, table(runs), f"row 3 has '{value}' in column 'decision b'", "finite number")


@pytest.mark.parametrize("change", [lambda line: line + ",1", lambda line: line.rpartition(",")[0]])
def test_a_row_of_another_length_is_named(runs, change):
    lines = table(runs).read_text().splitlines()
    lines[5] = change(lines[5])
    table(runs).write_text("\n".join(lines))
    refused(runs, table(runs), "row 6 has", "the header has 7")


def test_an_image_that_stands_twice_is_named(runs):
    edit(table(runs), "avg,1.png", "avg,0.png")
    refused(runs, table(runs), "row 3 repeats image '0.png' of row 2")


def test_other_images_are_named(runs):
    edit(table(runs), "avg,1.png", "avg,other.png")
    refused(runs, *runs, "has other test images", "'1.png'", "same split")


def test_other_classes_are_named(runs):
    text = table(runs).read_text().replace("decision b", "decision c").replace(",b,", ",c,")
    table(runs).write_text(text)
    refused(runs, "has the classes a, b and", "has a, c", "same data set")


def test_a_truth_that_differs_between_runs_is_named(runs):
    edit(table(runs), "1.png,p0,b,", "1.png,p0,a,")
    refused(runs, "image '1.png' has the true class 'b' in", "'a' in")


def test_pseudonyms_of_different_keys_are_explained(runs):
    for k, folder in enumerate(runs):
        text = (folder / "predictions.csv").read_text()
        text = re.sub(r"avg,(\d+)\.png", lambda found, k=k: f"avg,image-{k:08d}{int(found[1]):08d}", text)
        (folder / "predictions.csv").write_text(text)
    refused(runs, "do not name the same images alike", "--anonymise-key")


def test_a_folder_in_place_of_the_file_is_refused(runs):
    table(runs).unlink()
    table(runs).mkdir()
    refused(runs, "holds no predictions.csv")


def test_a_field_beyond_the_limit_of_csv_is_refused(runs):
    edit(table(runs), "avg,1.png", f"avg,{'x' * 200_000}.png")
    refused(runs, table(runs), "cannot be read (field larger than field limit")
