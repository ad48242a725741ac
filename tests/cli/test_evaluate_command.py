"""The command evaluate: its results, its settings, and what it refuses."""

import json
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
from support.in_this_process import run_command
from support.small_sets import without_size_warning
from support.striped_images import NETWORK, stripes, write_striped_images


@pytest.fixture
def images(tmp_path, rng):
    return write_striped_images(tmp_path / "images", rng)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, tiny_weights):
    """The command that the tests of its results share, without --out."""
    images = write_striped_images(tmp_path_factory.mktemp("evaluate") / "images", np.random.default_rng(0))
    arguments = ["evaluate", images, *NETWORK, "--weights", tiny_weights, "--encode", "avg,vlad4"]
    return [*arguments, "--scale", "0", "--seed", "3", "--positive", "upright"]


@pytest.fixture(scope="module")
def evaluated(arguments, tmp_path_factory):
    """Results and standard output of a run."""
    out = tmp_path_factory.mktemp("results") / "out"
    status, printed, error = run_command(*arguments, "--out", out)
    assert status == 0
    assert without_size_warning(error) == ""
    return json.loads((out / "results.json").read_text()), printed


@pytest.fixture(scope="module", params=[0, 1], ids=["avg", "vlad4"])
def result(evaluated, request):
    """The result of each encoding."""
    return evaluated[0]["results"][request.param]


def test_each_encoding_has_a_result(evaluated):
    assert [one["encode"] for one in evaluated[0]["results"]] == ["avg", "vlad4"]


def test_a_result_has_its_parameters(result):
    assert result["scales"] == [0]
    assert result["parameters"]["classify"]["C"] == 1.0
    assert ("tol" in result["parameters"]["encode"]) == (result["encode"] == "vlad4")


def test_a_result_has_metrics_between_0_and_1(result):
    for name in ("balanced_accuracy", "auc", "sensitivity", "specificity"):
        assert 0 <= result[name] <= 1
    assert result["per_class"].keys() == {"lying", "upright"}


def test_the_interval_of_the_accuracy_holds_the_accuracy(result):
    low, high = result["accuracy_ci95"]
    assert 0 <= low <= result["accuracy"] <= high <= 1


def test_intervals_hold_their_metrics(result):
    assert result["ci95_of"] == "images"
    for name in ("accuracy", "balanced_accuracy", "auc", "sensitivity", "specificity"):
        low, high = result[f"{name}_ci95"]
        assert low <= result[name] <= high


def test_a_result_has_counts_and_times(result):
    assert (result["n_train"], result["n_test"]) == (12, 8)
    assert result["seconds"]["extract"] > 0


def test_the_printed_table_has_each_accuracy(evaluated, result):
    assert f"{result['accuracy']:.3f}" in evaluated[1]


def test_each_encoding_is_compared_with_the_first(evaluated):
    (pair,) = evaluated[0]["comparisons"]
    assert (pair["first"], pair["second"]) == ("avg", "vlad4")
    assert f"McNemar's p {pair['mcnemar_p']:.2g}" in evaluated[1]


def test_the_output_says_what_its_numbers_are_of(evaluated):
    assert "No patients were found" in evaluated[1]
    assert "Sensitivity is that of upright" in evaluated[1]


def test_the_settings_are_in_the_results(evaluated):
    settings = evaluated[0]["settings"]
    assert settings["seed"] == 3
    assert settings["model"] == "mobilenetv2"
    assert settings["resize"] == "bilinear"
    assert settings["preset"] == "paper"
    assert len(settings["weights_fingerprint"]) == 64


def test_versions_and_warnings_are_in_the_results(evaluated):
    assert evaluated[0]["versions"]["medvlad"]
    [warning] = evaluated[0]["warnings"]
    assert warning.startswith("class lying has only 4 test images")


def test_the_same_command_gives_the_same_results(run, arguments, evaluated, tmp_path):
    run(*arguments, "--out", tmp_path)
    again = json.loads((tmp_path / "results.json").read_text())
    first, second = (
        report
        | {"results": [one | {"seconds": None} for one in report["results"]]}
        | {"counters": report["counters"] | {"seconds": None}}
        for report in (evaluated[0], again)
    )
    assert first == second


def test_a_threshold_that_cannot_be_adapted_is_told(run, images, tiny_weights):
    arguments = ["evaluate", images, *NETWORK, "--weights", tiny_weights, "--encode", "avg"]
    status, printed, _ = run(*arguments, "--adapt-threshold")
    assert status == 0
    assert "avg: no threshold found in the unlabelled test images: 8 images are too few" in printed


def test_a_threshold_is_adapted_to_a_test_part_only(run, images):
    arguments = ["evaluate", images / "train", *NETWORK, "--folds", "3"]
    status, _, error = run(*arguments, "--adapt-threshold")
    assert status == 2
    assert "adapt-threshold" in error


@pytest.fixture(scope="module")
def runs_with_patients(tmp_path_factory, tiny_weights):
    """Results, output and page of two runs: the pattern of patients is unknown, then given."""
    folder = tmp_path_factory.mktemp("patients")
    images = write_striped_images(folder / "images", np.random.default_rng(1))
    for path in list(images.rglob("*.png")):
        path.rename(path.with_name(f"case{int(path.stem) // 2}x{path.parent.parent.name}_{path.name}"))
    arguments = ["evaluate", images, *NETWORK, "--weights", tiny_weights, "--encode", "avg"]
    arguments += ["--store", folder / "store", "--out", folder / "out", "--overwrite"]
    runs = []
    for pattern in ([], ["--patient", "(case[0-9]+)x"]):
        status, printed, _ = run_command(*arguments, *pattern)
        assert status == 0
        results = json.loads((folder / "out" / "results.json").read_text())
        page = folder / "out" / "report.html"
        runs.append((results, printed, page.read_text() if page.exists() else None))
    return runs


def test_patients_are_unknown_without_a_pattern(runs_with_patients):
    results, _, _ = runs_with_patients[0]
    assert results["dataset"]["n_groups"] is None


def test_a_pattern_names_the_patients(runs_with_patients):
    results, printed, _ = runs_with_patients[1]
    assert "of 3 patients" in printed
    assert results["dataset"]["n_groups"] == 3
    assert results["settings"]["group_pattern"] == "(case[0-9]+)x"


def test_patients_from_names_are_shown_by_three_examples(runs_with_patients):
    results, _, _ = runs_with_patients[1]
    examples = results["dataset"]["patient_examples"]
    assert [one["patient"] for one in examples] == ["case0", "case1", "case2"]
    assert all(f"/{one['patient']}x" in one["image"] for one in examples)


@pytest.fixture(scope="module")
def run_with_unknown_patients(tmp_path_factory, tiny_weights):
    """Results, page and standard error of a run in which half of the training patients are unknown."""
    folder = tmp_path_factory.mktemp("unknown")
    images = write_striped_images(folder / "images", np.random.default_rng(1))
    for path in list(images.rglob("*.png")):
        if path.parent.name == "upright":
            path.rename(path.with_name(f"patient{path.parent.parent.name == 'test':d}{path.name}"))
    (images / "train" / "lying" / "slide.svs").touch()
    arguments = ["evaluate", images, *NETWORK, "--weights", tiny_weights, "--encode", "avg"]
    out = folder / "out"
    status, _, error = run_command(*arguments, "--out", out, "--anonymise")
    assert status == 0
    page = out / "report.html"
    return json.loads((out / "results.json").read_text()), page.read_text() if page.exists() else None, error


def test_unknown_patients_are_in_the_results_and_the_report(run_with_unknown_patients):
    results, page, _ = run_with_unknown_patients
    counts = results["dataset"]["patients"]
    assert counts["lying"][".png"] == {"known": 0, "unknown": 10}
    assert counts["upright"][".png"] == {"known": 10, "unknown": 0}
    told = "the patient of 10 of 20 images is not known (lying: 10 of 10 .png; upright: 0 of 10 .png)"
    assert any(told in warning for warning in results["warnings"])
    if page is not None:
        assert "images of known patients" in page
        assert told in page


def test_unknown_patients_are_not_counted_as_known(run_with_unknown_patients):
    results, page, _ = run_with_unknown_patients
    assert (results["dataset"]["n_groups"], results["dataset"]["n_known_patients"]) == (20, 10)
    assert page is None or "20 images of 10 patients and 10 files of unknown patients" in page


def test_files_left_out_are_in_the_results_and_the_report(run_with_unknown_patients):
    results, page, _ = run_with_unknown_patients
    assert results["dataset"]["left_out"] == {"lying": {".svs": 1}}
    assert any("formats are not read (lying: 1 .svs)" in warning for warning in results["warnings"])
    if page is not None:
        assert ".svs" in page


def test_examples_of_patients_are_shown_by_pseudonyms_only(run_with_unknown_patients):
    results, page, error = run_with_unknown_patients
    assert "patients were read from file names, such as" not in error
    assert "patient0" not in error
    assert all(one["patient"].startswith("patient-") for one in results["dataset"]["patient_examples"])
    assert all(one["image"].startswith("image-") for one in results["dataset"]["patient_examples"])
    assert "patient0" not in json.dumps(results) + (page or "")


def test_unknown_patients_can_be_refused(run, images):
    status, _, error = run("evaluate", images, *NETWORK, "--unknown-patients", "refuse")
    assert status == 2
    assert "--unknown-patients refuse" in error
    assert "--patient REGEX" in error


def test_known_patients_have_every_interval_by_patient(runs_with_patients):
    """The same images and decisions: only what is independent differs."""
    (by_image, printed_by_image, _), (by_patient, printed, page) = runs_with_patients
    apart, together = by_image["results"][0], by_patient["results"][0]
    assert (apart["ci95_of"], together["ci95_of"]) == ("images", "patients")
    assert apart["accuracy"] == together["accuracy"]
    assert apart["accuracy_ci95"] != together["accuracy_ci95"]
    assert "Intervals are over images" in printed_by_image
    assert "Intervals are by patient" in printed
    low, high = together["accuracy_ci95"]
    assert f"{low:.3f} to {high:.3f}" in printed
    if page is not None:
        assert f"{low:.3f} to {high:.3f}" in page
        assert "95 % interval by patient" in page


def test_few_patients_are_a_warning_in_the_results(runs_with_patients):
    results, _, page = runs_with_patients[1]
    [told] = [one for one in results["warnings"] if "metrics are uncertain" in one]
    assert told.startswith("class lying has only 2 patients among the test images")
    assert page is None or "metrics are uncertain" in page


def test_patients_in_both_parts_are_a_warning_in_the_results(runs_with_patients):
    results, _, page = runs_with_patients[1]
    assert any("too optimistic" in warning for warning in results["warnings"])
    if find_spec("matplotlib") is not None:
        assert "too optimistic" in page


@pytest.mark.parametrize(
    ("pattern", "layout", "told"),
    [
        ("(case", "folder", "not a regular expression"),
        ("(case)", "chest-xray", "already defines the patients"),
    ],
)
def test_a_wrong_pattern_of_patients_is_told(run, images, pattern, layout, told):
    status, _, error = run("evaluate", images, "--patient", pattern, "--layout", layout)
    assert (status, told in error) == (2, True)


def test_a_class_without_test_images_is_told(run, images, tiny_weights, caplog):
    shutil.rmtree(images / "test" / "upright")
    assert run("evaluate", images, *NETWORK, "--weights", tiny_weights, "--encode", "avg")[0] == 0
    assert "the test part has no image of upright" in caplog.text


def test_without_a_test_part_there_is_cross_validation(run, images, tiny_weights):
    status, printed, _ = run(
        "evaluate", images / "train", *NETWORK, "--weights", tiny_weights, "--encode", "avg", "--folds", 3
    )
    assert status == 0
    assert "3-fold cross-validation" in printed


def test_a_train_part_needs_a_test_part(run, images, monkeypatch):
    pytest.importorskip("keras", reason="needs the extra tensorflow")
    monkeypatch.setattr("medvlad.experiment.evaluation.extract_data_set", None)
    shutil.rmtree(images / "test")
    status, _, error = run("evaluate", images, *NETWORK)
    assert status == 2
    assert "there is a train part but no test part" in error


def test_positive_needs_two_classes(run, images, rng, monkeypatch):
    stripes(rng, True).save(images / "train" / "lying" / "x.png")
    for part in ("train", "test"):
        shutil.copytree(images / part / "lying", images / part / "third")
    status, _, error = run("evaluate", images, "--positive", "third")
    assert status == 2
    assert "needs a data set with two classes, this one has 3" in error


@pytest.mark.parametrize(
    "option", ["--C=0", "--backend=gpu", "--threads=0", "--power=2", "--folds=0", "--seed=-1"]
)
def test_settings_are_checked_before_the_long_work(run, images, monkeypatch, option):
    def too_late(*args):
        raise AssertionError("extraction began")

    monkeypatch.setattr("medvlad.experiment.evaluation.extract_data_set", too_late)
    status, _, error = run("evaluate", images, *NETWORK, option)
    assert status == 2
    assert error.startswith("medvlad: ")


def test_results_that_cannot_be_written_are_told_first(run, images, tmp_path, monkeypatch):
    (tmp_path / "out" / "results.json").mkdir(parents=True)
    monkeypatch.setattr("medvlad.experiment.Experiment.load", None)
    status, _, error = run("evaluate", images, "--out", tmp_path / "out")
    assert status == 2
    assert "results.json is a folder" in error


def test_out_must_not_be_a_file(run, images, tiny_weights, tmp_path):
    blocker = tmp_path / "taken"
    blocker.write_text("")
    status, _, error = run(
        "evaluate", images, *NETWORK, "--weights", tiny_weights, "--encode", "avg", "--out", blocker
    )
    assert status == 2
    assert "taken" in error
