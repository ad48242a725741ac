"""The commands evaluate, train, predict and similar on feature files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from support.feature_files import write_features
from support.in_this_process import run_command
from support.striped_images import write_striped_images

from medvlad import InputError, load_model
from medvlad.bags import open_bags
from medvlad.models.cases_file import load_cases
from medvlad.predict import SimilarTo

WIDTH = 6


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Two slides of each of twelve patients. Tumours have tiles with a larger first number."""
    root, rng = tmp_path_factory.mktemp("slides") / "features", np.random.default_rng(0)
    rows = ["slide,label,patient,site"]
    for i in range(12):
        for part in "ab":
            kind = "tumour" if i % 2 else "benign"
            n = 12 + i
            values = rng.random((n, WIDTH)).astype(np.float32)
            values[: n // 2, 0] += 2 * (i % 2)
            coords = np.stack([np.arange(n) % 5, np.arange(n) // 5], axis=1) * 224
            name = f"{kind}/p{i}_{part}.npz"
            write_features(root / name, values, coords=coords)
            rows.append(f"{name},{kind},p{i},{'AB'[i // 6]}")
    (root.parent / "slides.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def model(run, slides, tmp_path):
    path = tmp_path / "slides.model"
    status, printed, error = run("train", slides, "--patient", "(p[0-9]+)_", "--encode", "avg", "-o", path)
    assert status == 0, error
    assert f"trained on 24 bags; wrote {path}" in printed
    return path


def test_folders_of_feature_files_are_evaluated_without_a_network(run, slides, tmp_path):
    out = tmp_path / "out"
    status, printed, error = run(
        "evaluate", slides, "--patient", "(p[0-9]+)_", "--encode", "avg,vlad2", "--folds", "3", "--out", out
    )
    assert status == 0, error
    assert "24 bags of 12 patients" in printed
    found = json.loads((out / "results.json").read_text())
    assert found["results"][0]["accuracy"] == 1.0
    assert found["results"][0]["scales"] == []
    assert found["settings"]["model"] == "feature files"
    assert found["settings"]["n_features"] == WIDTH
    assert found["settings"]["weights"] is None
    assert found["dataset"]["units"] == "bags"
    assert "fitted on training bags only" in printed
    page = (out / "report.html").read_text()
    assert "Which of 2 classes does a bag show" in page
    assert "24 bags of 12 patients" in page
    assert "has only 6 patients among the test bags" in page
    assert "24 images" not in page + (out / "checklist.md").read_text()


@pytest.fixture(scope="module")
def evaluated(slides, tmp_path_factory):
    """Folder of the results of evaluate with pseudonyms."""
    out = tmp_path_factory.mktemp("anonymous") / "out"
    given = [slides, "--patient", "(p[0-9]+)_", "--encode", "avg", "--folds", "3", "--anonymise"]
    status, _, error = run_command("evaluate", *given, "--out", out)
    assert status == 0, error
    return out


def test_results_of_feature_files_can_be_anonymised(evaluated, slides):
    found = json.loads((evaluated / "results.json").read_text())
    assert found["settings"]["weights"] is None
    for path in evaluated.rglob("*"):
        if path.suffix in {".json", ".html", ".csv", ".md"}:
            assert str(slides) not in path.read_text(), path
            assert "p1_a" not in path.read_text(), path


def test_the_checklist_of_feature_files_asks_for_the_network_that_made_them(evaluated):
    with (evaluated / "checklist.csv").open(newline="") as file:
        answers = {(row["list"], row["item"]): row["from this run"] for row in csv.DictReader(file)}
    assert answers["TRIPOD+AI", "7"].startswith("Feature files from elsewhere. Add how the images")
    assert answers["TRIPOD+AI", "9a"].startswith(f"Descriptors of {WIDTH} numbers from feature files.")
    assert answers["CLAIM", "22"].startswith("Feature files, encoding avg, linear SVM")
    assert answers["CLAIM", "24"] == (
        "Feature files from elsewhere. Add the network that made them, and its weights."
    )


def test_a_model_card_of_feature_files_has_their_results(run, model, evaluated, tmp_path):
    status, _, error = run("show", model, "--card", tmp_path / "hub", "--results", evaluated)
    assert status == 0, error
    assert "| balanced accuracy | 1.000 |" in (tmp_path / "hub" / "README.md").read_text()


def test_a_table_names_feature_files_and_pools_patients(run, slides):
    arguments = ["evaluate", slides.parent / "slides.csv", "--image-root", slides, "--image-column", "slide"]
    status, printed, error = run(*arguments, "--encode", "avg", "--folds", "3", "--pool-by", "patient")
    assert status == 0, error
    assert "12 bags of 12 patients" in printed


def test_predictions_are_those_of_the_library(run, slides, model):
    files = [slides / "tumour" / "p1_a.npz", slides / "benign" / "p0_b.npz"]
    status, printed, error = run("predict", model, *files, "--json")
    assert status == 0, error
    found = json.loads(printed)["predictions"]
    expected = load_model(model).decision_function(open_bags(files))
    assert [one["label"] for one in found] == ["tumour", "benign"]
    np.testing.assert_allclose([one["scores"]["tumour"] for one in found], expected, atol=1e-6)


def test_a_folder_of_feature_files_is_predicted(run, slides, model):
    status, printed, error = run("predict", model, slides / "tumour", "--format", "jsonl")
    assert status == 0, error
    assert {json.loads(line)["label"] for line in printed.splitlines()} == {"tumour"}
    assert len(printed.splitlines()) == 12


def test_one_bag_is_one_answer(run, slides, model):
    files = [slides / "tumour" / f"p1_{part}.npz" for part in "ab"]
    status, printed, error = run("predict", model, *files, "--one-bag", "--json")
    assert status == 0, error
    (found,) = json.loads(printed)["predictions"]
    assert found["files"] == list(map(str, files))
    expected = load_model(model).decision_function(open_bags([files]))
    np.testing.assert_allclose(found["scores"]["tumour"], expected[0], atol=1e-6)


def test_evidence_of_tiles_adds_up_to_the_score(run, slides, model, tmp_path):
    files = [slides / "tumour" / "p1_a.npz", slides / "benign" / "p0_b.npz"]
    status, printed, error = run("predict", model, *files, "--explain", tmp_path / "maps", "--json")
    assert status == 0, error
    for one in json.loads(printed)["predictions"]:
        with (tmp_path / "maps" / one["evidence_table"]).open() as table:
            terms = [float(row["evidence"]) for row in csv.DictReader(table)]
        total = sum(terms) + one["evidence_constant"]
        assert total == pytest.approx(one["scores"][one["label"]], abs=1e-6)
        assert (tmp_path / "maps" / one["evidence"]).is_file()
    assert "p1_a.npz: tumour" in (tmp_path / "maps" / "explain.html").read_text()


def test_the_page_of_evidence_names_similar_slides(run, slides, model, tmp_path):
    file = slides / "tumour" / "p1_a.npz"
    status, _, error = run("predict", model, file, "--explain", tmp_path / "maps", "--similar", "2")
    assert status == 0, error
    page = (tmp_path / "maps" / "explain.html").read_text()
    assert "Similar training images" in page
    near = SimilarTo(load_cases(model), 2)
    steps = [step for _, step in load_model(model).steps]
    vectors = steps[0].transform(open_bags([file]))
    found = near.find(steps, vectors, [str(file)])[0]["similar"]
    assert all(Path(one["image"]).name in page for one in found)


def test_pseudonyms_hide_the_names_of_slides(run, slides, model, tmp_path):
    file = slides / "tumour" / "p1_a.npz"
    status, printed, error = run("predict", model, file, "--explain", tmp_path / "maps", "--anonymise")
    assert status == 0, error
    written = [path.name for path in (tmp_path / "maps").iterdir()]
    texts = [path.read_text() for path in (tmp_path / "maps").iterdir() if path.suffix != ".png"]
    assert not any("p1_a" in text for text in [printed, *written, *texts])


def test_damaged_files_are_skipped_if_wished(run, slides, model, tmp_path):
    good, bad = slides / "tumour" / "p1_a.npz", tmp_path / "bad.npz"
    bad.write_bytes(good.read_bytes()[:-40])
    status, printed, _ = run("predict", model, bad, good, "--on-error", "skip", "--json")
    found = json.loads(printed)
    assert status == 1
    assert [one["image"] for one in found["skipped"]] == [str(bad)]
    assert [one["image"] for one in found["predictions"]] == [str(good)]
    status, _, error = run("predict", model, bad)
    assert status == 2
    assert "bad.npz is damaged" in error


def test_similar_slides_are_found(run, slides, model):
    file = slides / "tumour" / "p1_a.npz"
    status, printed, error = run("similar", model, file, "--top", "2", "--json")
    assert status == 0, error
    found = json.loads(printed)["images"][0]["similar"]
    assert found[0]["image"] == str(file)
    assert found[0]["distance"] == pytest.approx(0, abs=1e-6)
    assert found[1]["label"] == "tumour"


@pytest.mark.parametrize("pooled", [False, True])
def test_a_model_of_feature_files_is_tested_on_a_table_from_elsewhere(run, slides, tmp_path, pooled):
    pytest.importorskip("matplotlib", reason="needs the extra report")
    table = [slides.parent / "slides.csv", "--image-root", slides, "--image-column", "slide"]
    table += ["--pool-by", "patient"] if pooled else []
    status, _, error = run("train", *table, "--encode", "avg", "-o", tmp_path / "model")
    assert status == 0, error
    status, printed, error = run("external", tmp_path / "model", *table, "--out", tmp_path / "out")
    assert status == 0, error
    assert f"{12 if pooled else 24} bags, nothing is fitted on them; 95 % intervals by patient" in printed
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (found["results"][0]["n_test"], found["results"][0]["n_train"]) == (12 if pooled else 24, 0)
    assert found["settings"]["model"] == "feature files"
    assert found["settings"]["n_features"] == WIDTH
    pipeline = load_model(tmp_path / "model")
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    one = slides / "tumour" / "p1_a.npz"
    bag = (one, slides / "tumour" / "p1_b.npz") if pooled else one
    assert float(rows[str(one)]["decision tumour"]) == pytest.approx(
        pipeline.decision_function(open_bags([bag]))[0], abs=1e-4
    )
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("ending", [".h5", ".npy", ".npz", ".pt", ".safetensors"])
def test_each_format_is_tested_from_elsewhere(run, model, tmp_path, ending):
    rng = np.random.default_rng(1)
    for kind in ("benign", "tumour"):
        write_features(tmp_path / "new" / kind / f"a{ending}", rng.random((5, WIDTH)))
    status, printed, error = run("external", model, tmp_path / "new", "--json")
    assert status == 0, error
    assert json.loads(printed)["results"][0]["n_test"] == 2


def test_a_file_of_another_width_is_skipped_if_wished(run, slides, model, tmp_path):
    good = slides / "tumour" / "p1_a.npz"
    other = write_features(tmp_path / "new" / "tumour" / "other.npy", np.ones((3, WIDTH + 1)))
    status, printed, _ = run("predict", model, other, good, "--on-error", "skip", "--json")
    assert (status, [one["image"] for one in json.loads(printed)["skipped"]]) == (1, [str(other)])
    (tmp_path / "new" / "tumour" / "good.npz").write_bytes(good.read_bytes())
    write_features(tmp_path / "new" / "benign" / "a.npy", np.ones((3, WIDTH)))
    status, printed, _ = run("external", model, tmp_path / "new", "--on-error", "skip", "--json")
    assert (status, [one["image"] for one in json.loads(printed)["skipped"]]) == (1, [str(other)])


class TestMistakes:
    """Each ends in one sentence and status 2."""

    def refused(self, run, *arguments):
        status, _, error = run(*arguments)
        lines = [line for line in error.splitlines() if not line.startswith("medvlad: file names tell")]
        assert status == 2
        assert len(lines) == 1, error
        return lines[0]

    def test_options_of_networks_are_refused(self, run, slides):
        assert "--model is for images" in self.refused(run, "evaluate", slides, "--model", "vgg16")

    def test_tiles_are_refused(self, run, slides):
        error = self.refused(run, "evaluate", slides, "--tiles", "2x2")
        assert "feature files are no images" in error

    def test_files_of_another_width_are_refused(self, run, model, tmp_path):
        other = write_features(tmp_path / "other.npy", np.ones((3, WIDTH + 1)))
        told = (
            f"{other} has {WIDTH + 1} features in a row, and those that the model was trained on have "
            f"{WIDTH}: give feature files of the same network"
        )
        for command in ("predict", "similar"):
            assert told in self.refused(run, command, model, other)
        write_features(tmp_path / "benign" / "other.npy", np.ones((3, WIDTH + 1)))
        write_features(tmp_path / "tumour" / "b.npy", np.ones((3, WIDTH + 1)))
        other.unlink()
        told = told.replace(str(other), str(tmp_path / "benign" / "other.npy"))
        assert told in self.refused(run, "external", model, tmp_path)

    def test_missing_files_of_a_table_are_counted(self, run, slides, model):
        status, _, error = run("predict", model, slides.parent / "slides.csv", "--image-column", "slide")
        assert (status, "24 of the 24 feature files of" in error.splitlines()[-1]) == (2, True)

    def test_the_library_names_a_file_of_another_width(self, model, tmp_path):
        other = write_features(tmp_path / "other.npy", np.ones((3, WIDTH + 1)))
        with pytest.raises(InputError, match=rf"other\.npy has {WIDTH + 1} features .* have {WIDTH}: give"):
            load_model(model).predict(open_bags([other]))

    def test_images_are_refused_by_a_model_of_feature_files(self, run, model, tmp_path):
        image = tmp_path / "a.png"
        image.touch()
        assert "is an image: give feature files" in self.refused(run, "predict", model, image)

    def test_patients_that_are_not_known_cannot_be_pooled(self, run, tmp_path):
        for name in ("x/a.npy", "x/b.npy", "y/c.npy", "y/d.npy"):
            write_features(tmp_path / "features" / name, np.ones((3, 2)))
        error = self.refused(run, "evaluate", tmp_path / "features", "--pool-by", "patient")
        assert "needs patients" in error

    def test_slides_without_places_have_no_evidence(self, run, model, tmp_path):
        file = write_features(tmp_path / "a.npy", np.ones((3, WIDTH)))
        assert "no 'coords'" in self.refused(run, "predict", model, file, "--explain", tmp_path / "maps")

    def test_external_validation_refuses_images_for_a_model_of_feature_files(self, run, model, tmp_path):
        write_striped_images(tmp_path / "images", np.random.default_rng(0))
        error = self.refused(run, "external", model, tmp_path / "images" / "test")
        assert "is an image: give feature files of the same network" in error

    def test_external_validation_of_feature_files_has_no_store(self, run, slides, model, tmp_path):
        error = self.refused(run, "external", model, slides, "--store", tmp_path / "store")
        assert "--store is for images" in error

    def test_weights_of_a_network_are_refused(self, run, slides, model, tmp_path):
        weights = tmp_path / "w.h5"
        weights.touch()
        error = self.refused(run, "predict", model, slides / "tumour" / "p1_a.npz", "--weights", weights)
        assert "was trained on descriptors: leave it out" in error

    def test_thumbnails_without_evidence_are_refused(self, run, slides, model, tmp_path):
        given = ["predict", model, slides / "tumour" / "p1_a.npz", "--thumbnails", tmp_path]
        assert "add --explain FOLDER" in self.refused(run, *given)
