"""Repaired tables: groups stay together, classes stay balanced, and decisions count."""

import csv
import json

import numpy as np
import pytest
from support.folders import refusal
from support.planted import picture, save, write_set

from medvlad import load_manifest
from medvlad.audit import audit, run_audit
from medvlad.audit.decisions import Decisions, read_decisions
from medvlad.audit.descriptor_pairs import ScenePairs
from medvlad.audit.duplicates import Copies
from medvlad.audit.finding import ReadImages
from medvlad.audit.questions import pair_questions
from medvlad.audit.repair import repaired
from medvlad.datasets.folders import load_image_folder

PAIR = '{"medvlad_decisions": 1, "pairs": [{"images": %s}]}'


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """A set with parts, of which four pictures are in both parts, and one twice in the training part."""
    rng = np.random.default_rng(0)
    root = write_set(tmp_path_factory.mktemp("leaky"), rng, n=12, ending="png")
    for i, (one, other) in enumerate(["aa", "ab", "bb", "ba"]):
        image = picture(rng)
        save(image, root / "train" / one / f"leak{i}.png")
        save(image, root / "test" / other / f"leak{i}.jpg", quality=60)
    twice = picture(rng)
    save(twice, root / "train" / "a" / "twice1.png")
    save(twice, root / "train" / "a" / "twice2.png")
    return root


@pytest.fixture(scope="module")
def done(leaky):
    return run_audit(load_image_folder(leaky), n_threads=2)


def rows_of(repair):
    return [dict(zip(repair.table.columns, row, strict=True)) for row in repair.table.rows]


def splits_of(repair, part):
    return {row["image"]: row["split"] for row in rows_of(repair) if part in row["image"]}


def test_a_repaired_table_has_no_leak(done, leaky, tmp_path):
    assert [one for one in done.found["findings"] if one["kind"] == "near_duplicates_across_parts"]
    repaired(done, leaky).table.write(tmp_path / "repaired.csv")
    again = audit(load_manifest(tmp_path / "repaired.csv", image_root=leaky), n_threads=2)
    kinds = {one["kind"] for one in again["findings"]}
    assert not {kind for kind in kinds if kind.endswith("across_parts")} | {"patient_in_both_parts"} & kinds


def test_groups_move_as_a_whole_and_classes_stay_balanced(done, leaky):
    repair = repaired(done, leaky)
    assert (repair.n_groups, repair.n_grouped, repair.n_moved) == (5, 10, 4)
    for i in range(4):
        assert len(set(splits_of(repair, f"leak{i}").values())) == 1
    rows = rows_of(repair)
    n_test = {name: sum(r["split"] == "test" and r["label"] == name for r in rows) for name in "ab"}
    assert max(abs(n - 14) for n in n_test.values()) <= 1


def test_images_without_leaks_keep_their_part_and_have_no_group(done, leaky):
    own = [row for row in rows_of(repaired(done, leaky)) if "leak" not in row["image"]]
    assert all(row["image"].startswith(row["split"]) for row in own)
    assert {row["patient"] for row in own if "twice" not in row["image"]} == {""}
    [group] = {row["patient"] for row in own if "twice" in row["image"]}
    assert group


def test_the_answer_no_separates_a_pair(done, leaky):
    names = ("test/a/leak0.jpg", "train/a/leak0.png")
    repair = repaired(done, leaky, Decisions({names: "no"}))
    assert splits_of(repair, "leak0") == {names[0]: "test", names[1]: "train"}
    assert repair.n_groups == 4


def test_the_answer_yes_joins_any_pair(done, leaky):
    names = ("test/a/testa0.png", "train/b/trainb0.png")
    repair = repaired(done, leaky, Decisions({names: "yes"}))
    patients = {row["image"]: row["patient"] for row in rows_of(repair)}
    assert patients[names[0]] == patients[names[1]] != ""


def test_the_answer_unsure_changes_nothing(done, leaky):
    names = ("test/a/leak0.jpg", "train/a/leak0.png")
    assert rows_of(repaired(done, leaky, Decisions({names: "unsure"}))) == rows_of(repaired(done, leaky))


def test_images_with_a_wrong_label_are_left_out(done, leaky):
    labels = {"train/a/traina3.png": "wrong", "train/a/traina4.png": "right"}
    repair = repaired(done, leaky, Decisions({}, labels))
    images = {row["image"] for row in rows_of(repair)}
    assert "train/a/traina3.png" not in images
    assert "train/a/traina4.png" in images
    assert repair.n_left_out == 1


def test_a_decision_about_another_image_is_refused(done, leaky):
    refusal(lambda: repaired(done, leaky, Decisions({("a.png", "b.png"): "no"})), "a.png", "does not have")


def test_an_image_outside_the_root_is_refused(done, leaky):
    refusal(lambda: repaired(done, leaky / "train"), "outside", "image_root")


def test_a_set_without_parts_gets_folds(rng, tmp_path):
    root = write_set(tmp_path, rng, n=10, parts=("",), ending="png")
    one = picture(rng)
    for name in ("a/x1.png", "a/x2.png", "b/x3.png"):
        save(one, root / name)
    repair = repaired(run_audit(load_image_folder(root), n_threads=2), root)
    assert repair.n_folds == 5
    assert len(set(splits_of(repair, "x").values())) == 1
    counts = np.unique([row["split"] for row in rows_of(repair)], return_counts=True)[1]
    assert counts.min() >= 3


def test_known_patients_keep_their_name_and_stay_together(leaky):
    data = load_image_folder(leaky, group_pattern=r"(\d)\.png|(?P<other>x)\.none")
    done = run_audit(data, n_threads=2)
    repair = repaired(done, leaky)
    by_patient = {}
    for row in rows_of(repair):
        by_patient.setdefault(row["patient"], set()).add(row["split"])
    assert all(len(parts) == 1 for name, parts in by_patient.items() if name)


def test_decisions_of_a_file_are_read(tmp_path):
    file = tmp_path / "decisions.json"
    given = {
        "medvlad_decisions": 1,
        "pairs": [{"images": ["b", "a"], "same_patient": "no"}],
        "labels": [{"image": "c", "label": "x", "answer": "wrong"}],
    }
    file.write_text(json.dumps(given))
    assert read_decisions(file) == Decisions({("a", "b"): "no"}, {"c": "wrong"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no json", ["cannot be read"]),
        ("[]", ["no file of decisions"]),
        ('{"medvlad_decisions": 2}', ["no file of decisions"]),
        ('{"medvlad_decisions": 1, "pairs": 3}', ["pairs", "list"]),
        (PAIR % '["a"], "same_patient": "no"', ["two images"]),
        (PAIR % '["a", "b"], "same_patient": "maybe"', ["yes, no, unsure"]),
        ('{"medvlad_decisions": 1, "labels": [{"image": "a"}]}', ["right, wrong, unsure"]),
    ],
)
def test_other_files_are_refused(tmp_path, text, words):
    file = tmp_path / "decisions.json"
    file.write_text(text)
    refusal(lambda: read_decisions(file), "decisions", *words)


def test_a_table_can_be_read_by_any_program(done, leaky, tmp_path):
    repaired(done, leaky).table.write(tmp_path / "repaired.csv")
    with (tmp_path / "repaired.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert list(rows[0]) == ["image", "label", "patient", "split"]
    assert len(rows) == 4 * 12 + 8 + 2


def test_uncertain_pairs_are_asked_until_they_connect_all(rng):
    """Pairs of three images are three questions if copies connect none, and only two of them are asked."""
    n = 6
    units = [np.array([i], np.intp) for i in range(n)]
    nothing = np.empty((0, 2), np.intp)
    family = np.array([0, 1, 2, 3, 4, 4])
    copies = Copies([], [], units, nothing, np.empty(0, bool), np.empty(0), family, True)
    pairs = np.array([[0, 1], [4, 5], [1, 2], [0, 2]])
    uncertain = ScenePairs(pairs, np.array([0.8, 0.75, 0.7, 0.65]), np.zeros(4, bool))
    images = ReadImages(list("abcdef"), np.zeros(n, int), ["x"], None, None)
    asked = pair_questions(images, copies, uncertain)
    assert [one["images"] for one in asked["listed"]] == [["a", "b"], ["b", "c"]]
    assert not any(one["same"] for one in asked["listed"])
    same_patient = ReadImages(list("abcdef"), np.zeros(n, int), ["x"], None, np.array(["p"] * n))
    assert pair_questions(same_patient, copies, uncertain)["listed"] == []
