"""The preset best: what it sets, what an option overrides, and everything that such a run writes."""

import json
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
from support.in_this_process import run_command
from support.striped_images import NETWORK, write_striped_images

from medvlad.encoders.recipe import PRESETS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def preset_best(tmp_path_factory, tiny_weights):
    """Arguments, output folder and standard output of a run with the preset best and an option of its own."""
    folder = tmp_path_factory.mktemp("preset")
    images = write_striped_images(folder / "images", np.random.default_rng(2))
    arguments = ["evaluate", images, *NETWORK, "--weights", tiny_weights, "--preset", "best", "--encode"]
    status, printed, error = run_command(
        *arguments, "vlad3,avg", "--class-weight", "none", "--out", folder / "out"
    )
    assert status == 0, error
    return arguments, folder / "out", printed


@pytest.fixture(scope="module")
def best_results(preset_best):
    """results.json of that run, and the results of VLAD in it."""
    report = json.loads((preset_best[1] / "results.json").read_text())
    return report, report["results"][0]


def test_preset_best_sets_the_encoding(best_results):
    report, vlad = best_results
    assert report["settings"]["preset"] == "best"
    wanted = PRESETS["best"]
    assert vlad["parameters"]["encode"]["power"] == wanted.get("power", 1.0)
    assert ("descriptors" in vlad["parameters"]) == wanted.get("descriptor_norm", False)


def test_preset_best_sets_the_scales(best_results):
    report, vlad = best_results
    assert vlad["scales"] == report["settings"]["scales"] == list(PRESETS["best"]["scales"])


def test_preset_best_chooses_c_inside_the_training_images(best_results):
    report, vlad = best_results
    assert vlad["parameters"]["classify"]["C"] == report["settings"]["C"] == "cv"
    assert len(vlad["C"]) == len(vlad["inner_balanced_accuracy"]) == 1


def test_an_option_overrides_the_preset(best_results):
    assert best_results[1]["parameters"]["classify"]["class_weight"] is None


@pytest.mark.parametrize("metric", ["sensitivity", "specificity"])
def test_metrics_of_the_positive_class_lie_in_their_intervals(best_results, metric):
    low, high = best_results[1][f"{metric}_ci95"]
    assert low <= best_results[1][metric] <= high


def test_preset_best_calibrates_and_adapts_the_threshold(best_results):
    assert 0 <= best_results[1]["calibration"]["brier"] <= 2
    assert best_results[1]["adapted"].keys() >= {"threshold"}


def test_the_table_of_predictions_has_a_row_for_each_encoding_and_image(preset_best):
    rows = (preset_best[1] / "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 8
    assert rows[0].startswith("encode,image,patient,truth,decided,decision lying")


@pytest.mark.skipif(find_spec("matplotlib") is not None, reason="matplotlib is installed")
def test_without_matplotlib_there_is_no_report_and_a_line_says_so(preset_best):
    assert "No report.html was written" in preset_best[2]


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs the extra report")
class TestReportOfPresetBest:
    @pytest.mark.parametrize(
        "part", ["Confusion matrix", "ROC", "Calibration", "What the clusters look like", "Versions"]
    )
    def test_the_page_has_every_part(self, preset_best, part):
        assert part in (preset_best[1] / "report.html").read_text()

    def test_figures_are_files_as_well(self, preset_best):
        names = {path.name for path in (preset_best[1] / "figures").iterdir()}
        assert names >= {"vlad3-roc.png", "vlad3-clusters.png", "avg-roc.png"}

    def test_figures_of_an_earlier_run_are_removed(self, preset_best, run, tmp_path):
        arguments, out, _ = preset_best
        shutil.copytree(out, tmp_path / "out")
        assert run(*arguments, "max", "--out", tmp_path / "out", "--overwrite")[0] == 0
        assert all(path.name.startswith("max-") for path in (tmp_path / "out" / "figures").iterdir())
