"""Layers are scored inside the training images, and one is taken."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.feature_files import write_features

from medvlad import VLAD, CNNDescriptors, GlobalPool, InputError, WideLinearSVC, load_image_folder
from medvlad.evaluation import layer_sweep
from medvlad.evaluation.layer_sweep import sweep_layers
from medvlad.experiment import Experiment
from medvlad.extraction import keras_startup

pytest.importorskip("keras", reason="needs the extra tensorflow")

ENCODERS = {"avg": GlobalPool(), "vlad2": VLAD(2, random_state=0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes that differ in brightness, with a test part of files that are no images."""
    root, rng = tmp_path_factory.mktemp("layers"), np.random.default_rng(0)
    for k, name in enumerate("ab"):
        for part in ("train", "test"):
            (root / part / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 100, (40, 40, 3), dtype=np.uint8) + np.uint8(150 * k)
            Image.fromarray(pixels).save(root / "train" / name / f"{i}.png")
        (root / "test" / name / "0.png").write_bytes(b"not an image")
    return root


@pytest.fixture
def extractor(tiny_weights):
    return CNNDescriptors("mobilenetv2", "out_relu", weights=tiny_weights)


def test_every_layer_is_scored_with_every_encoding(folder, extractor):
    sweep = sweep_layers(extractor, load_image_folder(folder), ENCODERS, WideLinearSVC(), folds=3, n_layers=2)
    assert [(one.layer, one.encoding) for one in sweep.scores] == [
        (layer, encoding) for layer in ("depthwise", "out_relu") for encoding in ENCODERS
    ]
    assert (sweep.n_images, sweep.n_folds) == (12, 3)  # no test image was read
    assert sweep.scores[0].grid == (14, 14)
    assert sweep.scores[0].balanced_accuracy == 1.0
    assert sweep.encoding == "avg"
    table = sweep.table()
    assert table.count("*") == 1
    assert f"{sweep.layer} *" in table
    assert extractor.store is None


def test_the_scores_are_those_of_the_layer_alone(folder, extractor):
    """The same folds with descriptors that were extracted for this layer only."""
    from medvlad.evaluation.cross_validation import inner_folds

    dataset = load_image_folder(folder)
    noise = np.random.default_rng(1).permutation(12) % 2  # labels that cannot be learnt have varied scores
    dataset = dataset.take(np.flatnonzero(dataset.splits == "train"))
    dataset = type(dataset)(dataset.paths, noise.astype(np.int64), dataset.class_names)
    sweep = sweep_layers(extractor, dataset, ENCODERS, WideLinearSVC(), folds=3, n_layers=1)
    descriptors = extractor.transform(dataset.paths)
    for one in sweep.scores:
        wanted = inner_folds(
            descriptors, noise, None, ENCODERS[one.encoding], WideLinearSVC(), [1.0], folds=3
        )
        assert one.balanced_accuracy == pytest.approx(wanted.mean_score)
        error = wanted.scores.std(ddof=1) / np.sqrt(3)
        assert one.standard_error == pytest.approx(error)


def test_the_narrowest_of_equally_good_layers_is_taken(folder, extractor):
    sweep = sweep_layers(extractor, load_image_folder(folder), ENCODERS, WideLinearSVC(), folds=3, n_layers=4)
    equal = [one for one in sweep.scores if one.encoding == "avg" and one.balanced_accuracy == 1.0]
    assert sweep.layer == min(equal, key=lambda one: one.n_features).layer


def test_large_descriptors_stay_in_the_store(folder, extractor, monkeypatch):
    monkeypatch.setattr(layer_sweep, "_IN_MEMORY", 0)
    sweep = sweep_layers(extractor, load_image_folder(folder), ENCODERS, WideLinearSVC(), folds=3, n_layers=1)
    assert sweep.scores[0].balanced_accuracy == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"n_layers": 0}, "n_layers"), ({"encoders": {}}, "no encoding to score layers with")],
)
def test_wrong_settings_are_refused(folder, extractor, settings, message):
    arguments = {"encoders": ENCODERS, "classifier": WideLinearSVC()} | settings
    with pytest.raises(InputError, match=message):
        sweep_layers(extractor, load_image_folder(folder), **arguments)


def refuse_to_start(*arguments, **options):
    raise AssertionError("a network was started")


@pytest.mark.parametrize("task", ["labels", "regression"])
def test_labels_and_numbers_are_refused_before_the_network_starts(folder, task, monkeypatch):
    dataset = load_image_folder(folder)
    data = replace(dataset, task=task, targets=np.zeros((len(dataset), 2)), labels=dataset.labels * 0)
    monkeypatch.setattr(layer_sweep, "candidate_layers", refuse_to_start)
    with pytest.raises(InputError, match=f"one class an image, and the data set has the task '{task}'"):
        Experiment().sweep_layers(data, ["avg"])


def test_several_seeds_are_refused_before_the_network_starts(folder, monkeypatch):
    monkeypatch.setattr(layer_sweep, "candidate_layers", refuse_to_start)
    with pytest.raises(InputError, match="n_seeds=5: layers are scored with one seed"):
        Experiment(n_seeds=5).sweep_layers(load_image_folder(folder), ["avg"])


def test_the_command_refuses_feature_files_before_the_network_starts(run, tmp_path, monkeypatch):
    for k, name in enumerate("ab"):
        for i in range(3):
            write_features(tmp_path / "slides" / name / f"{i}.npz", np.full((4, 5), k, np.float32))
    monkeypatch.setattr(keras_startup, "start_keras", refuse_to_start)
    status, printed, error = run("evaluate", tmp_path / "slides", "--encode", "avg", "--sweep-layers")
    assert (status, printed) == (2, "")
    assert "layers are scored on images" in error


def test_the_command_prints_a_table_and_what_to_take(run, folder, tiny_weights):
    network = ["--model", "mobilenetv2", "--layer", "out_relu", "--weights", tiny_weights]
    status, printed, errors = run(
        "evaluate", folder, *network, "--encode", "vlad2", "--folds", "3", "--sweep-layers"
    )
    assert status == 0, errors
    assert "depthwise" in printed
    assert "Use --layer bn_Conv1 --encode avg." in printed
    assert "3 folds inside 12 training images" in printed
    assert "optimistic" not in printed


def test_the_command_refuses_tiles_and_several_scales(run, folder, tiny_weights):
    network = [
        "--model",
        "mobilenetv2",
        "--layer",
        "out_relu",
        "--weights",
        tiny_weights,
        "--sweep-layers",
    ]
    for options, message in ((["--tiles", "2x2"], "leave tiles out"), (["--scale", "0,1"], "one scale")):
        status, printed, errors = run("evaluate", folder, *network, *options)
        assert (status, printed) == (2, "")
        assert message in errors
        assert "Traceback" not in errors
