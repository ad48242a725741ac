"""Repaired tables: groups stay together, classes stay balanced, and decisions count."""

import csv
import json

import numpy as np
import pytest
from support.folders import refusal
from support.planted import picture, save, write_set

from medvlad import load_manifest
from medvlad.audit import audit, questions, run_audit
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


def test_the_answer_no_counts_for_images_with_the_same_pixels(rng, tmp_path):
    root = write_set(tmp_path, rng, n=4, ending="png")
    image = picture(rng)
    for name in ("train/a/copy.png", "train/a/other.png"):
        save(image, root / name)
    save(image, root / "test/a/near.jpg", quality=60)
    done = run_audit(load_image_folder(root), n_threads=2)
    names = ("test/a/near.jpg", "train/a/other.png")
    repair = repaired(done, root, Decisions({names: "no"}))
    patients = {row["image"]: row["patient"] for row in rows_of(repair)}
    assert patients["train/a/copy.png"] == patients["train/a/other.png"] != patients["test/a/near.jpg"]


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


def test_an_answer_about_an_earlier_label_does_not_count(done, leaky):
    name = "train/a/traina3.png"
    of_other_label = Decisions({}, {name: "wrong"}, {name: "b"})
    assert name in {row["image"] for row in rows_of(repaired(done, leaky, of_other_label))}


def test_images_of_one_file_stay_together(rng, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(5):
            pages = [picture(rng) for _ in range(3)]
            pages[0].save(tmp_path / name / f"{i}.tif", save_all=True, append_images=pages[1:])
    rows = rows_of(repaired(run_audit(load_image_folder(tmp_path), n_threads=2), tmp_path))
    folds = {}
    for row in rows:
        folds.setdefault(row["image"].partition("#")[0], set()).add(row["split"])
    assert len(rows) == 30
    assert [len(found) for found in folds.values()] == [1] * 10


def test_a_class_keeps_a_training_image(rng, tmp_path):
    """All images of a class are one group, most of them in the test part."""
    root = write_set(tmp_path, rng, n=6, ending="png")
    image = picture(rng)
    (root / "train" / "rare").mkdir()
    (root / "test" / "rare").mkdir()
    save(image, root / "train" / "rare" / "0.png")
    for i in range(5):
        save(image, root / "test" / "rare" / f"{i}.jpg", quality=60 + i)
    repair = repaired(run_audit(load_image_folder(root), n_threads=2), root)
    assert set(splits_of(repair, "rare").values()) == {"train"}


def test_a_decision_about_another_image_is_refused(done, leaky):
    refusal(lambda: repaired(done, leaky, Decisions({("a.png", "b.png"): "no"})), "a.png", "does not have")


def test_a_decision_about_an_unreadable_image_is_no_mistake(rng, tmp_path):
    root = write_set(tmp_path, rng, n=4, ending="png")
    (root / "train" / "a" / "bad.png").write_bytes(b"no image")
    done = run_audit(load_image_folder(root), n_threads=2)
    repair = repaired(done, root, Decisions({("test/a/testa0.png", "train/a/bad.png"): "no"}))
    assert "train/a/bad.png" not in {row["image"] for row in rows_of(repair)}


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
    assert read_decisions(file) == Decisions({("a", "b"): "no"}, {"c": "wrong"}, {"c": "x"})


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


@pytest.fixture
def asked():
    """Questions about images of which the last two have the same pixels, as pairs of names."""
    units = [np.array(one, np.intp) for one in ([0], [1], [2], [3], [4, 5])]
    nothing = np.empty((0, 2), np.intp)
    family = np.array([0, 1, 2, 3, 4, 4])
    copies = Copies([], [], units, nothing, np.empty(0, bool), np.empty(0), family, True)
    pairs = np.array([[0, 1], [4, 5], [1, 2], [0, 2]])
    uncertain = ScenePairs(pairs, np.array([0.8, 0.75, 0.7, 0.65]), np.zeros(4, bool))

    def ask(patients=None, answers=None):
        images = ReadImages(list("abcdef"), np.zeros(6, int), ["x"], None, patients)
        listed = pair_questions(images, copies, uncertain, answers)["listed"]
        assert not any(one["same"] for one in listed)
        assert [one["answer"] for one in listed if one["answer"]] == list((answers or {}).values())
        return ["".join(one["images"]) for one in listed]

    return ask


def test_uncertain_pairs_are_asked_until_they_connect_all(asked):
    """Pairs of three images are three questions if copies connect none, and only two of them are asked."""
    assert asked() == ["ab", "bc"]


def test_one_patient_is_not_asked_about(asked):
    assert asked(np.array(["p"] * 6)) == []


def test_after_the_answer_no_the_next_pair_is_asked(asked):
    assert asked(answers={(1, 2): "no"}) == ["ab", "bc", "ac"]


def test_answers_do_not_take_the_place_of_new_questions(asked, monkeypatch):
    monkeypatch.setattr(questions, "_LISTED", 1)
    assert asked() == ["ab"]
    assert asked(answers={(0, 1): "unsure"}) == ["ab", "bc"]
