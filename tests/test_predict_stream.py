"""iter_predictions answers image after image; similar training images are named, and the patient is told."""

import io
import itertools
import json
import re

import numpy as np
import pytest
from support.faults import light_network, write_images
from support.in_this_process import run_command

from medvlad import CNNDescriptors, InputError
from medvlad.datasets.pseudonyms import Pseudonyms
from medvlad.datasets.query_patient import possible_patients
from medvlad.experiment import Experiment
from medvlad.models.cases_file import load_cases
from medvlad.predict import SimilarTo, iter_predictions, predict_images

NETWORK = ["--model", "light", "--layer", "x", "--weights", "imagenet"]


@pytest.fixture(autouse=True)
def _light(monkeypatch):
    light_network(monkeypatch.setattr)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("stream") / "images", 4)


@pytest.fixture
def files(folder):
    return sorted(map(str, folder.rglob("*.png")))


@pytest.fixture
def pipeline(folder):
    experiment = Experiment(model="light", layer="x")
    return experiment.train(experiment.load(folder), "avg")[0]


@pytest.fixture
def model(folder, tmp_path):
    status, _, error = run_command("train", folder, *NETWORK, "--encode", "vlad2", "-o", tmp_path / "model")
    assert status == 0, error
    return tmp_path / "model"


def test_answers_come_before_the_last_image_is_named(pipeline, files):
    taken = []

    def named():
        for i in itertools.count():
            taken.append(i)
            yield files[i % len(files)]

    stream = iter_predictions(pipeline, named())
    first = list(itertools.islice(stream, 20))
    stream.close()
    assert [one.path for one in first] == [files[i % len(files)] for i in range(20)]
    assert len(taken) < 2000


@pytest.mark.parametrize("with_store", [False, True])
def test_many_images_and_duplicates_keep_their_order(pipeline, files, tmp_path, monkeypatch, with_store):
    monkeypatch.setattr("medvlad.extraction.stream._AT_ONCE", 5)
    bad = str(tmp_path / "gone.png")
    asked = [*files, bad, *files[::-1], bad, files[0]]
    store = str(tmp_path / "store") if with_store else None
    found = list(iter_predictions(pipeline, asked, on_error="skip", store=store))
    assert [one.path for one in found] == asked
    assert [one.path for one in found if one.skipped] == [bad, bad]
    expected = dict(zip(files, pipeline.decision_function(files), strict=True))
    for one in found:
        if one.prediction:
            assert one.prediction["scores"]["light"] == pytest.approx(expected[one.path], rel=1e-9)
    assert (tmp_path / "store").exists() == with_store


def test_what_came_before_an_unreadable_image_was_answered(pipeline, files, tmp_path, monkeypatch):
    monkeypatch.setattr("medvlad.extraction.stream._AT_ONCE", 2)
    stream = iter_predictions(pipeline, [*files[:4], str(tmp_path / "gone.png")])
    assert [one.path for one in itertools.islice(stream, 4)] == files[:4]
    with pytest.raises(InputError, match="gone"):
        next(stream)


def test_what_else_is_said_is_asked_of_the_caller(pipeline, files):
    def answers(classifier, decision, vectors, descriptors):
        assert len(decision) == len(vectors) == len(descriptors)
        return [{"label": "?", "scores": {}, "more": i} for i in range(len(decision))]

    predictions, _ = predict_images(pipeline, files[:3], answers=answers)
    assert [one["more"] for one in predictions] == [0, 1, 2]


def test_each_format_is_written_to_a_file(model, files, tmp_path):
    for name in ("a.csv", "a.jsonl", "a.json", "a.txt"):
        assert run_command("predict", model, *files, "--out", tmp_path / name)[0:2] == (0, "")
        assert all(file in (tmp_path / name).read_text() for file in files)
    status, _, error = run_command("predict", model, files[0], "--out", tmp_path / "a.csv")
    assert (status, "exists: name another file, or give --overwrite" in error) == (2, True)
    assert run_command("predict", model, files[0], "--out", tmp_path / "a.csv", "--overwrite")[0] == 0
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 2


def test_folders_lists_and_tables_are_predicted(model, folder, files, tmp_path):
    (tmp_path / "list.txt").write_text("\n".join(files))
    (tmp_path / "t.csv").write_text("image\n" + "".join(f"{file}\n" for file in files))
    answers = [
        run_command("predict", model, one)[1] for one in (folder, f"@{tmp_path}/list.txt", tmp_path / "t.csv")
    ]
    assert answers[0].count("\n") == len(files)
    assert answers[0] == answers[1] == answers[2]


def test_a_table_is_read_as_evaluate_reads_it(model, folder, files, tmp_path):
    """Semicolons, a byte order mark, an odd column of images, and columns that the answers leave out."""
    inside = [file[len(str(folder)) + 1 :] for file in files]
    rows = [f"{name};yes;7" for name in inside]
    (tmp_path / "t.csv").write_text("\n".join(["Scan;label;age", *rows]), encoding="utf-8-sig")
    words = [tmp_path / "t.csv", "--image-root", folder, "--image-column", "scan", "--format", "csv"]
    status, printed, error = run_command("predict", model, *words)
    assert status == 0, error
    assert error == f"medvlad: '{tmp_path / 't.csv'}': images from 'Scan'\n"
    header, *lines = printed.splitlines()
    assert header.startswith("image,label,score_")
    assert "age" not in header.split(",")
    assert [line.split(",")[0] for line in lines] == files


def test_missing_images_of_a_table_stop_before_the_first_answer(model, files, tmp_path):
    (tmp_path / "t.csv").write_text(f"image\n{files[0]}\ngone.png\n")
    status, printed, error = run_command("predict", model, tmp_path / "t.csv")
    assert (status, printed) == (2, "")
    assert "1 of the 2 images of" in error.splitlines()[-1]
    status, printed, error = run_command("predict", model, tmp_path / "t.csv", "--on-error", "skip")
    assert (status, printed.count("\n")) == (1, 1)
    assert f"{tmp_path / 'gone.png'}" in error


def test_nothing_on_standard_input_is_an_error(model, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    out = tmp_path / "out.csv"
    status, printed, error = run_command("predict", model, "-", "--out", out)
    assert (status, printed) == (2, "")
    assert error == "medvlad: standard input names no image: write one name a line\n"
    assert not out.exists()


def test_similar_cases_can_have_pseudonyms(model, folder, files, tmp_path):
    (tmp_path / "t.csv").write_text(
        "\n".join(["image", *(file[len(str(folder)) + 1 :] for file in files[:2])])
    )
    words = ["similar", model, tmp_path / "t.csv", "--image-root", folder, "--top", "2"]
    plain = json.loads(run_command(*words, "--json")[1])["images"]
    assert [one["image"] for one in plain] == files[:2]
    key = tmp_path / "key.json"
    status, printed, error = run_command(*words, "--json", "--anonymise-key", key)
    assert status == 0, error
    names = Pseudonyms.read(key)
    for shown, one in zip(json.loads(printed)["images"], plain, strict=True):
        assert shown["image"] == names.image(one["image"])
        assert [near["image"] for near in shown["similar"]] == [
            names.image(near["image"]) for near in one["similar"]
        ]
    status, printed, error = run_command(*words, "--anonymise")
    assert status == 0, error
    assert printed.count("image-") == 6
    assert ".png" not in printed


def test_skipped_images_set_the_status(model, files, tmp_path):
    status, printed, error = run_command(
        "predict", model, files[0], "gone.png", "--on-error", "skip", "--format", "jsonl"
    )
    lines = [json.loads(line) for line in printed.splitlines()]
    assert (status, [one["image"] for one in lines]) == (1, [files[0], "gone.png"])
    assert "skipped" in lines[1]
    assert error.startswith("medvlad: skipped: ")


def test_similar_names_the_training_images(model, files):
    status, printed, error = run_command("similar", model, files[0], files[5], "--top", "3", "--json")
    assert (status, error) == (0, "")
    images = json.loads(printed)["images"]
    assert [one["image"] for one in images] == [files[0], files[5]]
    for one in images:
        assert [case["image"] for case in one["similar"]][:1] == [one["image"]], (
            "it is a training image itself"
        )
        assert one["similar"][0]["distance"] == pytest.approx(0, abs=1e-6)
        assert len(one["similar"]) == 3
        for case in one["similar"]:
            assert case["label"] in case["image"]
            assert {cell["cell"] for cell in case["cells"]} <= {0, 1}
    status, text, _ = run_command("similar", model, files[0])
    assert (status, len(text.splitlines())) == (0, 6)


def test_predictions_and_their_page_name_similar_images(model, files, tmp_path):
    words = ["--similar", "2", "--json", "--explain", tmp_path / "maps"]
    status, printed, error = run_command("predict", model, files[0], *words)
    assert status == 0, error
    (one,) = json.loads(printed)["predictions"]
    assert next(case["image"] for case in one["similar"]) == files[0]
    page = (tmp_path / "maps" / "explain.html").read_text()
    assert "Similar training images" in page
    assert page.count("<figure") == 3


def test_anonymised_training_images_are_digests(folder, files, tmp_path):
    words = [folder, *NETWORK, "--encode", "avg", "--anonymise", "--patient", "([0-9]+)[.]png"]
    assert run_command("train", *words, "-o", tmp_path / "model")[0] == 0
    cases = load_cases(tmp_path / "model")
    assert all(re.fullmatch("[0-9a-f]{16}", name) for name in cases.index.names_)
    assert (set(cases.index.patients_), cases.pattern) == ({None}, None)
    assert b"png" not in (tmp_path / "model.cases").read_bytes()


def test_training_images_may_be_left_out(folder, tmp_path, monkeypatch):
    words = ["train", folder, *NETWORK, "--encode", "avg", "-o", tmp_path / "model", "--overwrite"]
    assert run_command(*words)[0] == 0
    assert (tmp_path / "model.cases").exists()
    assert run_command(*words, "--no-similar")[0] == 0
    assert not (tmp_path / "model.cases").exists(), "those of the earlier model are of no use"
    status, _, error = run_command("similar", tmp_path / "model", next(folder.rglob("*.png")))
    assert (status, "there is no file" in error) == (2, True)
    monkeypatch.setattr("medvlad.models.cases_file.MAX_BYTES", 10)
    printed = run_command(*words)[1]
    assert "so they are not kept for 'medvlad similar': --similar keeps them" in printed
    assert run_command(*words, "--similar")[0] == 0
    assert (tmp_path / "model.cases").exists()


def test_the_patient_of_an_image_among_the_training_images_is_told(folder, files, tmp_path):
    words = [folder, *NETWORK, "--encode", "avg", "--patient", "([0-9]+)[.]png"]
    assert run_command("train", *words, "-o", tmp_path / "model")[0] == 0
    _status, text, _ = run_command("similar", tmp_path / "model", files[1], "--top", "1")
    assert "(2 training images are of the same patient)" in text
    stranger = tmp_path / "99.png"
    stranger.write_bytes((folder / "dark" / "0.png").read_bytes())
    assert "same patient" not in run_command("similar", tmp_path / "model", stranger)[1]


def test_pseudonyms_replace_training_images_and_patients(pipeline, folder, files, tmp_path):
    words = [folder, *NETWORK, "--encode", "avg", "--patient", "([0-9]+)[.]png"]
    run_command("train", *words, "-o", tmp_path / "model")
    names = Pseudonyms(bytes(32))
    similar = SimilarTo(load_cases(tmp_path / "model"), 2)
    (one,), _ = predict_images(pipeline, files[:1], names=names, similar=similar)
    assert one["similar"][0]["image"] == names.image(files[0])
    assert one["similar"][0]["patient"].startswith("patient-")
    assert str(folder) not in json.dumps(one)


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("person7_virus_3.png", None, {"person7_virus"}),
        ("a.png", None, set()),
        ("k12_3.png", "(k[0-9]+)_", {"k12"}),
        ("x.png", "(k[0-9]+)_", set()),
    ],
)
def test_the_patients_that_an_image_may_be_of(tmp_path, name, pattern, expected):
    (tmp_path / name).write_bytes(b"")
    found = possible_patients(tmp_path / name, None if pattern is None else re.compile(pattern))
    assert found == expected


def test_the_extractor_keeps_its_parameters(pipeline, files, tmp_path):
    before = pipeline.get_params(deep=True)
    list(iter_predictions(pipeline, files, store=str(tmp_path / "store")))
    assert pipeline.get_params(deep=True) == before
    assert isinstance(pipeline[0], CNNDescriptors)
    assert np.isfinite(pipeline.decision_function(files)).all()
