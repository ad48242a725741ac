"""The pages of an evaluation and of predictions: what a reader sees, and what stays out."""

import html
import re

import numpy as np
import pytest
from PIL import Image
from support.evaluations import SETTINGS, make_evaluation

from medvlad import VLAD, GlobalPool
from medvlad.backends import get_backend
from medvlad.report import plots
from medvlad.report.evaluation import explain_page, write_report
from medvlad.report.sections import missing_intervals
from medvlad.report.settings import penalties_in_words, shown_settings

LONG = [f"ulcerative-colitis-grade-{i}-of-the-colon" for i in range(12)]


def write(folder, class_names=("a", "b"), pictures=True, **options):
    pytest.importorskip("matplotlib", reason="needs the extra report")
    evaluation = make_evaluation(np.random.default_rng(0), folder, class_names, **options)
    return write_report(evaluation, folder, pictures=pictures).read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of a report of two classes and three encodings, of which gem has no evidence maps."""
    path = tmp_path_factory.mktemp("report")
    encoders = {"avg": GlobalPool(), "vlad3": VLAD(3, random_state=0), "gem": GlobalPool("gem")}
    write(path, encoders=encoders)
    return path


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def page_of_many(tmp_path_factory):
    """Report of twelve classes with long names."""
    return write(tmp_path_factory.mktemp("many"), LONG, pictures=False, n=120)


def cells(page):
    """The text of each cell of all tables."""
    found = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", page, re.DOTALL)
    return [html.unescape(re.sub("<[^>]+>", " ", cell)).strip() for cell in found]


# ---------------------------------------------------------------------------------------- settings


def test_a_report_shows_no_python_dictionary(page):
    page = re.sub(r"<style>.*</style>", "", page, flags=re.DOTALL)
    assert not re.search(r"[{}]|&#x27;: ", page)
    assert "<li>power: 1</li>" in page
    assert "<li>whiten: no</li>" in page


def test_weights_are_shown_without_their_folder(page):
    assert "vgg16.weights.h5" in page
    assert "0123456789abcdef" in page
    assert "/home/someone" not in page


def test_a_report_shows_the_backend_that_ran_and_no_other(page):
    assert "native (avx2)" in page
    assert "CUDA driver" not in page
    assert "available_backends" not in page


def test_settings_of_the_results_stay_as_they_are():
    before = dict(SETTINGS)
    shown_settings(SETTINGS)
    assert before == SETTINGS


def test_the_backend_auto_is_shown_by_the_name_of_the_one_that_ran():
    shown = shown_settings({"backend": "auto", "available_backends": {}})["backend"]
    assert get_backend("auto").__name__ == f"medvlad.backends.{shown}"


@pytest.mark.parametrize("weights", ["imagenet", "bundled"])
def test_names_of_weights_are_kept(weights):
    assert shown_settings({"weights": weights}) == {"weights": weights}


@pytest.mark.parametrize(
    ("penalties", "text"),
    [
        ([1.0], "1"),
        ([1.0] * 5, "1 in all 5 folds"),
        ([0.1, 1.0, 10.0], "fold 1: 0.1, fold 2: 1, fold 3: 10"),
    ],
)
def test_the_same_penalty_of_all_folds_is_told_once(penalties, text):
    assert penalties_in_words(penalties) == text


def test_a_report_tells_the_penalty_of_all_folds_once(page):
    assert "C of the SVM: 1 in all 4 folds." in page
    assert "1, 1, 1" not in page


@pytest.mark.parametrize("positive", ["a", "b"])
def test_figures_and_captions_speak_of_the_positive_class(tmp_path, monkeypatch, positive):
    drawn = {}
    for name in ("roc", "precision_recall", "decision_values"):
        monkeypatch.setattr(plots, name, lambda *given, name=name: drawn.setdefault(name, given) and b"")
    page = write(tmp_path, pictures=False, positive=positive)
    at = "ab".index(positive)
    assert [drawn[name][-1] for name in drawn] == [at, at, at]
    assert f"ROC of {positive}, AUC" in page
    assert f"Precision over recall of {positive}, average precision" in page
    assert f"a value above the threshold means {positive}" in page
    assert f"Sensitivity and specificity are those of {positive}" in page


def test_a_page_tells_why_an_interval_is_missing():
    """All images of a class are of one patient."""
    result = {"encode": "avg", "ci95_missing": {"auc_ci95": "it needs two patients of each class"}}
    assert list(missing_intervals([result])) == [
        "avg has no interval of the auc: it needs two patients of each class."
    ]


# ------------------------------------------------------------------------------------ many classes


def test_a_matrix_of_many_classes_has_its_own_size(page_of_many):
    [block] = re.findall(r'<div class="pictures natural">.*?</figure>', page_of_many, re.DOTALL)
    assert block.count("<img") == 1
    assert "Confusion matrix" in block


def test_a_matrix_of_few_classes_stands_beside_the_curves(page):
    assert '<div class="pictures natural">' not in page


def test_shortened_names_are_explained_by_the_table(page_of_many):
    found = cells(page_of_many)
    assert "in figures" in found
    for name in LONG:
        assert len(found[found.index(name) + 1]) < len(name)
    assert "Long class names are shortened" in page_of_many


def test_short_names_need_no_explanation(page):
    assert "in figures" not in cells(page)
    assert "are shortened" not in page


# ----------------------------------------------------------------------------------- evidence maps


def bars(folder, names):
    """Colour bars and labels of the pictures of errors."""
    found = []
    for path in sorted(path for name in names for path in (folder / "figures").glob(f"{name}-error*.png")):
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        found.append(pixels[:, 2 * 448 + 8 :].tobytes())
    return found


def test_all_evidence_maps_of_a_report_share_one_scale(folder):
    found = bars(folder, ["avg", "vlad3"])
    assert len(found) == 12
    assert len(set(found)) == 1


def test_a_report_says_that_a_map_is_a_grid(page):
    assert "A map is a 2 x 2 grid, stretched over the image" in page
    assert "share one colour scale" in page


def test_a_report_says_why_an_encoding_has_no_maps(page):
    assert "This encoding has no evidence maps." in page


def test_a_report_without_pictures_shows_no_image_of_the_data_set(page, page_of_many):
    assert "data:image/png" in page_of_many
    assert "data:image/jpeg" not in page_of_many
    assert "data:image/jpeg" in page


def test_a_second_report_removes_the_figures_of_the_first(tmp_path):
    write(tmp_path, pictures=False)
    (tmp_path / "figures" / "mine.png").touch()
    write(tmp_path, pictures=False, encoders={"max": GlobalPool("max")})
    left = {path.name.partition("-")[0] for path in (tmp_path / "figures").iterdir()}
    assert left == {"max", "mine.png"}


def prediction(folder, n_classes):
    Image.new("RGB", (40, 20)).save(folder / "0.png")
    scores = {f"class {k}": k / 100 for k in range(n_classes)}
    return {"image": "0.png", "label": "class 0", "scores": scores, "evidence": "0.png"}


def test_predictions_say_that_a_map_is_a_grid(tmp_path):
    page = explain_page([prediction(tmp_path, 2)], tmp_path, "split exactly", grids=((7, 7),)).read_text()
    assert "A map is a 7 x 7 grid, stretched over the image" in page
    assert "share one colour scale" in page


def test_a_caption_holds_the_scores_of_few_classes(tmp_path):
    page = explain_page([prediction(tmp_path, 2)], tmp_path, "split exactly").read_text()
    assert "(class 0 +0.00, class 1 +0.01)" in page


def test_a_caption_holds_the_highest_scores_of_many_classes(tmp_path):
    page = explain_page([prediction(tmp_path, 50)], tmp_path, "split exactly").read_text()
    assert "(highest of 50: class 49 +0.49, class 48 +0.48, class 47 +0.47)" in page
