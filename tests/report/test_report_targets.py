"""The page of several labels and of numbers has a summary with caveats, and the check-lists."""

import csv
import html
import re
from dataclasses import replace

import numpy as np
import pytest
from support.target_sets import target_set

from medvlad import VLAD, GlobalPool
from medvlad.datasets.describe import describe_dataset
from medvlad.evaluation.targets import TargetRun
from medvlad.experiment import Evaluation
from medvlad.report import write_report
from medvlad.report.checklist import CLAIM, TRIPOD_AI, filled_checklist
from medvlad.report.summary import caveats

pytest.importorskip("matplotlib", reason="needs the extra report")


def evaluated(task, n=120, **changes):
    """Evaluate made-up labels or numbers; `changes` are fields of the data set."""
    data, x = target_set(task, n, splits=True)
    data = replace(data, **changes)
    encoders = {"avg": GlobalPool(), "vlad2": VLAD(2, random_state=0)}
    metrics, comparisons, held = TargetRun(data, 1.0, None, None, 3, 0).evaluate(x, encoders)
    results = {
        "task": task,
        "results": [{"encode": name, "parameters": {}} | one for name, one in metrics.items()],
        "comparisons": comparisons,
        "dataset": describe_dataset(data) | {"root": "scans"},
        "settings": {"model": "vgg16", "weights": "imagenet", "seed": 0},
        "versions": {"medvlad": "1"},
        "warnings": ["careful"],
        "skipped": [{"image": "1.png", "reason": "gone"}],
        "damaged": [],
    }
    return Evaluation(results, data, x, None, held)


@pytest.fixture(scope="module", params=["labels", "regression"])
def written(request, tmp_path_factory):
    """Task, evaluation, folder, and the text of the page."""
    folder = tmp_path_factory.mktemp(request.param)
    evaluation = evaluated(request.param)
    page = write_report(evaluation, folder)
    return request.param, evaluation, folder, html.unescape(page.read_text())


def test_the_page_begins_with_question_data_and_answer(written):
    task, evaluation, _, page = written
    card = page.partition('<section class="card">')[2].partition("</section>")[0]
    first = evaluation.results["results"][0]
    assert "120 images of 60 patients; 80 to train, 40 to test" in card
    if task == "labels":
        assert "Which of 3 labels does an image have: effusion, nodule, fracture?" in card
        value, ends = first["macro"]["auc"], first["macro"]["auc_ci95"]
        assert "avg: macro AUC" in card
    else:
        assert "How well can numbers be predicted from an image: age, weight?" in card
        value, ends = first["targets"][0]["r2"], first["targets"][0]["r2_ci95"]
        assert "avg: R2 of age" in card
    text = re.sub(r"<[^>]+>", "", card)
    assert f"{value:.3f} ({ends[0]:.3f}\u00a0to\u00a0{ends[1]:.3f})" in text
    assert "95 % intervals by patient" in card


def test_caveats_are_in_the_summary_once(written):
    _, _, _, page = written
    for sentence in (
        "careful.",
        "1 images could not be used and were left out.",
        "2 encodings were tested on",
    ):
        assert page.count(sentence) == 1
    assert "Class " not in page.partition("</section>")[0]
    assert "medvlad external" not in page


def test_check_lists_are_written_and_on_the_page(written):
    task, _, folder, page = written
    assert "Check-lists for a paper" in page
    with (folder / "checklist.csv").open(newline="") as file:
        answers = {(row["list"], row["item"]): row["from this run"] for row in csv.DictReader(file)}
    assert len(answers) == len(TRIPOD_AI) + len(CLAIM)
    assert (folder / "checklist.md").is_file()
    if task == "labels":
        assert answers["TRIPOD+AI", "8a"].startswith("Labels, any number of them at once: effusion, nodule")
        assert "a linear SVM for each label" in answers["CLAIM", "22"]
        assert "macro AUC 0." in answers["CLAIM", "35"]
        assert answers["TRIPOD+AI", "13"].startswith("Test images with each label: effusion ")
    else:
        assert answers["TRIPOD+AI", "8a"].startswith("Numbers: age, weight.")
        assert "ridge regression" in answers["CLAIM", "22"]
        assert "R2 of age 0." in answers["CLAIM", "35"]
        assert answers["TRIPOD+AI", "13"] == "Numbers have no classes."
    assert "classifier" not in answers["CLAIM", "6"]
    assert answers["CLAIM", "1"].startswith("Transfer learning: a frozen network with linear")
    assert not any("*" in answer for answer in answers.values())


def test_labels_that_few_images_have_are_a_caveat():
    evaluation = evaluated("labels")
    labels = evaluation.results["results"][0]["labels"]
    few = [one["label"] for one in labels if one["n_positive_patients"] < 20]
    assert few
    found = dict(map(reversed, caveats(evaluation.results, evaluation.dataset)))
    sentence = f"Fewer than 20 test patients have {', '.join(few)}, so these metrics are uncertain."
    assert found[sentence] == "warning"


def test_a_warning_of_few_patients_is_a_caveat_once(caplog):
    evaluation = evaluated("labels")
    evaluation.results["warnings"] = [one.getMessage() for one in caplog.records]
    found = [sentence for _, sentence in caveats(evaluation.results, evaluation.dataset)]
    assert len([one for one in found if "ewer than 20 test patients have" in one]) == 1


def test_few_patients_with_many_images_are_a_caveat_of_numbers():
    groups = np.array([f"p{i // 30}" for i in range(120)])
    splits = np.repeat(["train", "test"], 60)
    evaluation = evaluated("regression", groups=groups, splits=splits)
    found = " ".join(sentence for _, sentence in caveats(evaluation.results, evaluation.dataset))
    assert "Fewer than 20 test patients have a known value of age, weight" in found


def test_numbers_that_nothing_tells_are_a_caveat():
    rng = np.random.default_rng(1)
    evaluation = evaluated("regression", targets=rng.normal(size=(120, 2)))
    found = " ".join(sentence for _, sentence in caveats(evaluation.results, evaluation.dataset))
    assert "avg: the interval of R2 reaches 0 for age, weight." in found


def test_unknown_patients_are_a_caveat_and_intervals_are_over_images():
    evaluation = evaluated("regression", groups=None)
    kinds = [
        kind for kind, sentence in caveats(evaluation.results, evaluation.dataset) if "patient" in sentence
    ]
    assert kinds == ["warning"]
    answers = {(row[0], row[1]): row[3] for row in filled_checklist(evaluation.results)}
    assert answers["CLAIM", "29"].startswith("95 % intervals over images.")


@pytest.mark.parametrize("task", ["labels", "regression"])
def test_a_page_of_bags_without_patients_has_intervals_over_bags(task, tmp_path):
    evaluation = evaluated(task, groups=None)
    evaluation.results["dataset"]["units"] = "bags"
    page = html.unescape(write_report(evaluation, tmp_path).read_text())
    assert "95 % interval over bags" in page
    assert "over images" not in page
