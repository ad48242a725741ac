"""What a paper needs from a report: a summary with caveats, figures as SVG and CSV, and check-lists."""

import csv
import html
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from support.evaluations import make_evaluation

from medvlad import GlobalPool
from medvlad.evaluation.held_out_metrics import held_out_metrics
from medvlad.evaluation.learning_curve import add_learning_curves
from medvlad.evaluation.subgroups import anonymise_subgroups
from medvlad.report.checklist import CLAIM, TRIPOD_AI, filled_checklist
from medvlad.report.evaluation import write_report
from medvlad.report.html import Page
from medvlad.report.summary import caveats

pytest.importorskip("matplotlib", reason="needs the extra report")

DRAWN = ["confusion", "roc", "precision", "decisions", "confidence", "calibration", "benefit"]
DRAWN += ["learning", "subgroups"]


def make(folder, n=60, **changes):
    """Evaluate random images with probabilities; `changes` are fields of the data set."""
    evaluation = make_evaluation(np.random.default_rng(0), folder, n=n, calibration="platt")
    dataset = replace(evaluation.dataset, **changes)
    for result, one in zip(evaluation.results["results"], evaluation.decided.values(), strict=True):
        result |= held_out_metrics(dataset, one)
    evaluation.results["dataset"] |= {"n_known_patients": None, "left_out": {}}
    return replace(evaluation, dataset=dataset)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("paper")
    sites = np.array(["Oslo", "Bergen", "Oslo"] * 20)
    evaluation = make(path, sites=sites, covariates={"MRN": np.array([str(i) for i in range(60)])})
    add_learning_curves(
        evaluation.results, evaluation.descriptors, evaluation.dataset, evaluation.decided, random_state=0
    )
    write_report(evaluation, path, pictures=False)
    (path / "results.json").write_text(json.dumps(evaluation.results))
    return path


@pytest.fixture(scope="module")
def page(folder):
    return html.unescape((folder / "report.html").read_text())


def numbers(folder, name):
    with (folder / "figures" / f"avg-{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# -------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_also_svg_and_csv(folder, name):
    svg = ElementTree.parse(folder / "figures" / f"avg-{name}.svg")
    assert svg.getroot().tag.endswith("svg")
    assert len(numbers(folder, name)) > 0
    assert (folder / "figures" / f"avg-{name}.png").is_file()


def test_the_numbers_of_a_figure_are_those_of_the_results(folder):
    result = json.loads((folder / "results.json").read_text())["results"][0]
    curve = numbers(folder, "benefit")
    assert [float(row["net benefit"]) for row in curve] == result["decision_curve"]["net_benefit"]
    matrix = [[int(row[name]) for name in ("a", "b")] for row in numbers(folder, "confusion")]
    assert matrix == result["confusion_matrix"]
    bins = result["calibration"]["by_class"]["b"]["bins"]
    assert [float(row["observed"]) for row in numbers(folder, "calibration")] == [b["observed"] for b in bins]
    assert [row["value"] for row in numbers(folder, "subgroups")] == ["Bergen", "Oslo"]
    assert len(numbers(folder, "learning")) == len(result["learning_curve"])


def test_the_histogram_counts_every_test_image(folder):
    assert sum(int(row["images"] or 0) for row in numbers(folder, "decisions")) == 60


def test_svg_is_the_same_in_every_run(tmp_path):
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_report(make(tmp_path / name), tmp_path / name, pictures=False)
        written.append((tmp_path / name / "figures" / "avg-roc.svg").read_bytes())
    assert written[0] == written[1]


def test_a_second_report_removes_svg_and_csv_of_the_first(tmp_path):
    write_report(make(tmp_path), tmp_path, pictures=False)
    again = make_evaluation(np.random.default_rng(0), tmp_path, encoders={"max": GlobalPool("max")})
    write_report(again, tmp_path, pictures=False)
    assert {path.name.partition("-")[0] for path in (tmp_path / "figures").iterdir()} == {"max"}


# -------------------------------------------------------------------------------------------- summary


def test_the_page_begins_with_question_data_answer_and_caveats(page, folder):
    card = page[page.index('<section class="card">') : page.index("</section>")]
    value = json.loads((folder / "results.json").read_text())["results"][0]["balanced_accuracy"]
    assert re.findall("<dt>(.*?)</dt>", card) == ["Question", "Data", "Answer", "Caveats"]
    assert "Which of 2 classes does an image show: a, b?" in card
    assert f"<strong>{value:.3f}</strong>" in card


def test_figures_come_before_tables_and_settings_last(page):
    places = [page.index(f"<h2>{name}") for name in ("Figures", "Tables", "Check-lists", "Settings")]
    assert places == sorted(places)


def said(results, dataset):
    return " ".join(text for _, text in caveats(results, dataset))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return make(tmp_path_factory.mktemp("plain"), n=80)


def test_unknown_patients_and_sites_are_caveats(plain):
    found = said(plain.results, plain.dataset)
    assert "No patients are known" in found
    assert "The sites of the images are not known" in found
    assert "internal validation" in found


def test_one_site_is_a_caveat_and_two_are_not(plain):
    one, two = (replace(plain.dataset, sites=np.array(sites * 40)) for sites in (["x", "x"], ["x", "y"]))
    assert "from one site" in said(plain.results, one)
    assert "site" not in said(plain.results, two)


def test_few_patients_are_a_caveat(plain):
    few = replace(plain.dataset, groups=np.array([f"p{i % 6}" for i in range(80)]))
    assert "Class a has only 3 patients in the test" in said(plain.results, few)
    assert "has only" not in said(plain.results, plain.dataset)


def test_imbalance_is_a_caveat(plain):
    rare = replace(plain.dataset, labels=(np.arange(80) < 10).astype(np.int64))
    assert "Always answering a would have accuracy 0.875" in said(plain.results, rare)
    assert "imbalanced" not in said(plain.results, plain.dataset)


def test_other_shares_in_the_test_part_are_a_caveat(plain):
    splits = np.where(np.arange(80) < 40, "train", "test")
    labels = np.where(np.arange(80) < 40, np.arange(80) % 4 == 0, np.arange(80) % 2).astype(np.int64)
    shifted = replace(plain.dataset, splits=splits, labels=labels)
    assert "Class a is 75% of the training and 50% of the test images" in said(plain.results, shifted)


@pytest.mark.parametrize(("ends", "word"), [([0.3, 0.8], "too extreme"), ([1.2, 1.9], "too cautious")])
def test_a_slope_unlike_one_is_a_caveat(plain, ends, word):
    results = json.loads(json.dumps(plain.results))
    results["results"][0]["calibration"]["by_class"]["b"] |= {"slope": sum(ends) / 2, "slope_ci95": ends}
    assert word in said(results, plain.dataset)


def test_a_worse_subgroup_is_a_caveat_unless_it_is_small(plain):
    results = json.loads(json.dumps(plain.results))
    row = {"value": "M", "balanced_accuracy_ci95": [0.0, 0.1], "warning": None}
    results["results"][0]["subgroups"] = {"tables": {"sex": [row]}, "left_out": {}}
    assert "lower in sex M" in said(results, plain.dataset)
    row["warning"] = "only 3 images of a"
    assert "lower in" not in said(results, plain.dataset)


# ------------------------------------------------------------------------------------------ subgroups


def test_a_covariate_that_identifies_is_named_as_left_out_without_its_values(page):
    assert "MRN has no table: its name suggests that it may identify patients." in page


def test_with_pseudonyms_no_site_is_named(tmp_path):
    evaluation = make(tmp_path, sites=np.array(["Oslo", "Bergen"] * 30))
    anonymise_subgroups(evaluation.results)
    evaluation.results["dataset"]["root"] = None
    write_report(evaluation, tmp_path, pictures=False)
    for path in [tmp_path / "report.html", *tmp_path.glob("checklist.*"), *(tmp_path / "figures").iterdir()]:
        assert b"Oslo" not in path.read_bytes(), path


# ----------------------------------------------------------------------------------------- check-lists


def test_the_lists_have_the_official_items():
    assert len({number for number, _, _ in TRIPOD_AI}) == len(TRIPOD_AI) == 52
    assert [number for number, _, _ in CLAIM] == [str(i) for i in range(1, 43)]
    assert {re.sub("[a-g]$", "", number) for number, _, _ in TRIPOD_AI} == {str(i) for i in range(1, 28)}


def test_a_run_answers_what_it_knows_and_leaves_the_others_empty(folder):
    results = json.loads((folder / "results.json").read_text())
    answers = {(title, number): answer for title, number, _, answer in filled_checklist(results)}
    assert "vgg16" in answers["TRIPOD+AI", "12c"]
    assert "Oslo" not in answers["TRIPOD+AI", "6a"]
    assert "2 sites" in answers["TRIPOD+AI", "6a"]
    assert answers["CLAIM", "21"] == "Images. The patients are not known."
    assert [answers["TRIPOD+AI", one] for one in ("2", "17", "18a", "19")] == [""] * 4


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"augment": "none", "mirror": False}, "(no augmentation)"),
        ({"augment": "none", "mirror": True}, "(mirrored copies too)"),
        ({"augment": "shift"}, "(a shifted copy of each training image too)"),
        (
            {"augment": "shift", "mirror": True},
            "(mirrored copies and a shifted copy of each training image too)",
        ),
    ],
)
def test_the_lists_name_the_copies_that_were_trained_on(folder, settings, told):
    results = json.loads((folder / "results.json").read_text())
    results["settings"] |= settings
    answers = {(title, number): answer for title, number, _, answer in filled_checklist(results)}
    assert told in answers["CLAIM", "25"]


def test_an_external_validation_does_not_know_how_the_model_was_trained(folder):
    results = json.loads((folder / "results.json").read_text()) | {"external": {}}
    answers = {(title, number): answer for title, number, _, answer in filled_checklist(results)}
    assert "(augmentation: see the model file)" in answers["CLAIM", "25"]


def test_the_files_of_the_list_hold_every_item(folder):
    with (folder / "checklist.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + len(TRIPOD_AI) + len(CLAIM)
    lines = (folder / "checklist.md").read_text().splitlines()
    assert len([line for line in lines if re.match(r"\| \d", line)]) == len(TRIPOD_AI) + len(CLAIM)


def test_a_name_with_a_bar_stays_in_its_cell(tmp_path):
    evaluation = make_evaluation(np.random.default_rng(0), tmp_path, ("a|b", "c"))
    write_report(evaluation, tmp_path, pictures=False)
    [line] = [one for one in (tmp_path / "checklist.md").read_text().splitlines() if one.startswith("| 8a |")]
    assert "a\\|b" in line


# ----------------------------------------------------------------------------------------------- page


def test_a_card_shows_asterisks_of_names_and_escapes_them():
    page = Page("t")
    page.card([("Answer", ["a * b", "x *0.5* y", "<b> *1*"])], [("warning", "<i>")])
    text = page.html()
    assert "<p>a * b</p>" in text
    assert "<p>x <strong>0.5</strong> y</p>" in text
    assert "<p>&lt;b&gt; <strong>1</strong></p>" in text
    assert '<li class="warning">&lt;i&gt;</li>' in text
