"""The page of decisions: one question for each pair and label, its script, and what it saves."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from support.planted import picture, save, write_set

from medvlad.audit import run_audit
from medvlad.audit.decisions import Decisions, read_decisions
from medvlad.datasets.folders import load_image_folder
from medvlad.report import decisions as decisions_page
from medvlad.report.decisions import decision_page, has_questions


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """An audit with two near pairs, one of them with an odd name, and a list of suspicious labels."""
    rng = np.random.default_rng(0)
    root = write_set(tmp_path_factory.mktemp("asked"), rng, n=4, ending="png")
    for name in ("one", 'it\'s <b>&."two"'):
        image = picture(rng)
        save(image, root / "train" / "a" / f"{name}.png")
        save(image, root / "test" / "a" / f"{name}.jpg", quality=60)
    found = run_audit(load_image_folder(root), n_threads=2).found
    doubtful = {
        "label": "a",
        "suggested": "b",
        "suspicion": 2.0,
        "margin": -1.0,
        "neighbours": -0.5,
        "reported": True,
    }
    sure = doubtful | {"margin": 1.0, "reported": False}
    images = [f"{root}/train/a/traina{i}.png" for i in range(2)]
    found["labels"] = {
        "listed": [{"image": images[0], **doubtful}, {"image": images[1], **sure}],
        "n_ranked": 2,
    }
    return found


@pytest.fixture(scope="module")
def page(found):
    return decision_page(found).html()


def questions(page):
    """Return kind and images of each question."""
    pairs = re.findall(r'<fieldset data-kind="(\w+)" data-images="([^"]*)"', page)
    return [(kind, json.loads(unescape(images))) for kind, images in pairs]


def test_each_pair_and_each_doubtful_label_is_one_question(page):
    assert sorted(questions(page)) == [
        ("label", ["train/a/traina0.png"]),
        ("pair", ['test/a/it\'s <b>&."two".jpg', 'train/a/it\'s <b>&."two".png']),
        ("pair", ["test/a/one.jpg", "train/a/one.png"]),
    ]


def test_names_of_files_are_escaped(page):
    assert "<b>" not in page


def test_each_question_has_a_picture_and_three_answers(page):
    assert page.count("<fieldset") == page.count("<img") == 3
    assert page.count('type="radio"') == 9
    assert len(set(re.findall(r'type="radio" name="(\w+)"', page))) == 3
    assert " checked" not in page


def test_earlier_answers_are_filled_in(found):
    decisions = Decisions({("test/a/one.jpg", "train/a/one.png"): "no"}, {"train/a/traina0.png": "wrong"})
    page = decision_page(found, decisions=decisions).html()
    assert re.findall(r'value="(\w+)" checked', page) == ["no", "wrong"]


def test_the_policy_allows_the_script_of_the_page_and_no_other(page):
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page
    assert "unsafe-inline" not in page.partition("script-src")[2].partition('"')[0]


def test_the_script_saves_what_is_read(page):
    """The names in the script are those that read_decisions expects."""
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    for name in (
        "medvlad_decisions: 1",
        "pairs",
        "labels",
        "same_patient: answer",
        "image: images[0]",
        "answer: answer",
    ):
        assert name in script
    for element in re.findall(r'getElementById\("(\w+)"\)', script):
        assert f'id="{element}"' in page


def test_pictures_may_be_left_out(found):
    assert "<img" not in decision_page(found, pictures=False).html()


def test_an_answer_about_a_copy_is_filled_in(found):
    """The audit knows it by the pixels, and the page would know it by the names only."""
    listed = [one | {"answer": "no"} for one in found["questions"]["listed"][:1]]
    page = decision_page(found | {"questions": {"listed": listed, "n_left_out": 0}}).html()
    assert re.findall(r'value="(\w+)" checked', page) == ["no"]


def test_an_answer_about_another_label_is_not_filled_in(found):
    decisions = Decisions({}, {"train/a/traina0.png": "wrong"}, {"train/a/traina0.png": "b"})
    assert " checked" not in decision_page(found, decisions=decisions).html()


def test_labels_beyond_the_limit_are_counted(found, monkeypatch):
    monkeypatch.setattr(decisions_page, "_LABELS", 0)
    assert "1 label with little doubt not shown" in decision_page(found).html()


def test_an_audit_without_doubts_has_no_questions(rng, tmp_path):
    root = write_set(tmp_path, rng, n=3)
    assert not has_questions(run_audit(load_image_folder(root), n_threads=2).found)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_what_the_script_saves_is_read_back(page, tmp_path):
    (tmp_path / "page.html").write_text(page)
    script = Path(__file__).parents[1] / "support" / "decision_page.js"
    command = ["node", script, tmp_path / "page.html", "no", "wrong"]
    answer = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    )
    assert answer["answered"] == "2 of 3 answered"
    (tmp_path / "decisions.json").write_text(answer["saved"])
    first = next(images for kind, images in questions(page) if kind == "pair")
    expected = Decisions(
        {(first[0], first[1]): "no"}, {"train/a/traina0.png": "wrong"}, {"train/a/traina0.png": "a"}
    )
    assert read_decisions(tmp_path / "decisions.json") == expected
