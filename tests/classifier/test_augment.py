"""Training on shifted copies: in ImageClassifier, in an experiment, and in files."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.colour_profiles import WIDE
from support.faults import light_network
from support.striped_images import write_striped_images

import medvlad as mv
from medvlad.classifier.training_copies import add_copies
from medvlad.datasets.manifest_columns import TableSettings
from medvlad.decisions import calibration
from medvlad.decisions.calibration import calibrator, fit_calibration
from medvlad.decisions.novelty import mean_descriptors
from medvlad.decisions.operating_point import operating_threshold, read_target
from medvlad.encoders.recipe import Recipe
from medvlad.evaluation import cross_validation
from medvlad.evaluation.cross_validation import held_out
from medvlad.experiment import Experiment
from medvlad.extraction.data_set import Workers
from medvlad.images.look import looks_of
from medvlad.images.read import load_image
from medvlad.images.shifted_copies import ShiftedCopies, shifted_copy
from medvlad.svm.invariance import Nuisance, invariant_map

SETTINGS = {"model": "vgg16", "encode": "avg", "class_weight": "balanced", "calibration": "none"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("augment") / "images"
    return write_striped_images(folder, np.random.default_rng(0), train=6, test=3)


@pytest.fixture(scope="module")
def train(root):
    return mv.load_image_folder(root, split="train")


@pytest.fixture(scope="module", autouse=True)
def _light():
    """Means of blocks instead of a network."""
    with pytest.MonkeyPatch.context() as patch:
        light_network(patch.setattr)
        yield


@pytest.fixture(scope="module")
def fitted(train, _light):
    return mv.ImageClassifier(augment="shift", **SETTINGS).fit(train.paths, train.y)


def refuse_to_extract(*arguments):
    raise AssertionError("images were extracted")


def vectors_of(images):
    return mv.GlobalPool().fit_transform(mv.CNNDescriptors("vgg16").transform(images))


def test_it_is_the_svm_of_images_and_copies_after_the_map(fitted, train):
    x = np.vstack([vectors_of(train.paths), vectors_of(ShiftedCopies(train.paths))])
    n = len(train.paths)
    looks = np.vstack([looks_of(train.paths), np.zeros((n, 3))])
    nuisance = Nuisance(np.tile(np.arange(n), 2), np.repeat([False, True], n), looks)
    y = np.tile(train.y, 2)
    mapped = (x @ invariant_map(x, y, nuisance)).astype(np.float32)
    expected = mv.WideLinearSVC(class_weight="balanced").fit(mapped, y).decision_function(mapped[:n])
    np.testing.assert_allclose(fitted.decision_function(train.paths), expected, atol=1e-4)


def test_a_store_changes_nothing(fitted, train, tmp_path):
    stored = mv.ImageClassifier(augment="shift", store=tmp_path / "store", **SETTINGS)
    stored.fit(train.paths, train.y)
    np.testing.assert_allclose(stored.pipeline_[-1].coef_, fitted.pipeline_[-1].coef_, rtol=1e-6)


def test_the_seed_decides_the_copies(fitted, train):
    other = mv.ImageClassifier(augment="shift", random_state=1, **SETTINGS).fit(train.paths, train.y)
    assert not np.allclose(other.pipeline_[-1].coef_, fitted.pipeline_[-1].coef_, rtol=1e-3)


def test_a_saved_classifier_decides_the_same(fitted, train, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = mv.ImageClassifier.load(tmp_path / "model")
    assert loaded.augment == "shift"
    np.testing.assert_array_equal(
        loaded.decision_function(train.paths), fitted.decision_function(train.paths)
    )


def test_probabilities_are_learnt_from_images_and_copies(train):
    settings = SETTINGS | {"calibration": "platt", "C": "cv", "folds": 2}
    for groups in (None, np.arange(len(train.y)) // 2):
        one = mv.ImageClassifier(augment="shift", **settings).fit(train.paths, train.y, groups)
        inner, labels = one.choice_.inner, np.tile(np.unique(train.y, return_inverse=True)[1], 2)
        assert len(inner.decision) == 2 * len(train.y)
        expected = fit_calibration("platt", inner.decision, labels)
        decision = one.pipeline_[-1].held_out_decision_
        found = one.pipeline_[-1].calibration_.probabilities(decision)
        np.testing.assert_allclose(found, expected.probabilities(decision))


def test_thresholds_prediction_sets_and_novelty_are_learnt_from_images_only(train):
    settings = SETTINGS | {"calibration": "platt", "folds": 2, "threshold": "sensitivity=0.8"}
    one = mv.ImageClassifier(augment="shift", **settings).fit(train.paths, train.y)
    svm, inner, n = one.pipeline_[-1], one.choice_.inner, len(train.y)
    labels = np.unique(train.y, return_inverse=True)[1]
    np.testing.assert_array_equal(svm.held_out_decision_, inner.decision[:n])
    np.testing.assert_array_equal(svm.held_out_labels_, labels)
    np.testing.assert_array_equal(svm.training_counts_, [n // 2, n // 2])
    target = read_target("sensitivity=0.8")
    assert svm.threshold_ == operating_threshold(target, inner.decision[:n], labels)
    np.testing.assert_array_equal(svm.novelty_.held_out, np.sort(inner.novelty[:n]))
    means = mean_descriptors(mv.CNNDescriptors("vgg16").transform(train.paths))
    assert {row.tobytes() for row in svm.novelty_.references} <= {row.tobytes() for row in means}


def test_held_out_thresholds_are_learnt_from_images_only(root, monkeypatch):
    seen = []

    def counted(target, decision, labels, **options):
        seen.append(len(labels))
        return operating_threshold(target, decision, labels, **options)

    monkeypatch.setattr(cross_validation, "operating_threshold", counted)
    settings = {"augment": "shift", "threshold": "sensitivity=0.8", "folds": 2}
    experiment = Experiment(model="vgg16", **settings)
    experiment.evaluate(experiment.load(root), ["avg"])
    assert seen == [12]


@pytest.mark.parametrize(("least", "expected"), [(12, "isotonic"), (13, "platt")])
def test_held_out_probabilities_are_chosen_by_the_number_of_images(root, monkeypatch, least, expected):
    seen = []

    def noted(method, *values):
        seen.append(fit_calibration(method, *values).method)
        return calibrator(method, *values)

    monkeypatch.setattr(calibration, "_ISOTONIC_FROM", least)
    monkeypatch.setattr(cross_validation, "calibrator", noted)
    experiment = Experiment(model="vgg16", augment="shift", calibration="auto", folds=2)
    experiment.evaluate(experiment.load(root), ["avg"])
    assert seen == [expected]


def test_copies_and_looks_have_the_colour_profile_of_the_network(train, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, source in zip(paths, train.paths, strict=False):
        Image.fromarray(255 - load_image(source) // 2).save(path, icc_profile=WIDE)
    network = mv.CNNDescriptors("vgg16", colour_profile="srgb").build()
    both, nuisance = add_copies(network, paths, network.transform(paths), np.arange(3))
    converted = [load_image(path, colour_profile="srgb") for path in paths]
    plain = mv.CNNDescriptors("vgg16").transform([shifted_copy(one) for one in converted])
    np.testing.assert_array_equal(both.values[len(both.values) // 2 :], plain.values)
    np.testing.assert_array_equal(nuisance.looks[:3], looks_of(converted))


def test_unreadable_images_have_no_copy(train, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths, y = [tmp_path / "broken.png", *train.paths], ["lying", *train.y]
    one = mv.ImageClassifier(augment="shift", on_error="skip", **SETTINGS).fit(paths, y)
    plain = mv.ImageClassifier(augment="shift", **SETTINGS).fit(train.paths, train.y)
    assert [i for i, _ in one.skipped_] == [0]
    np.testing.assert_array_equal(one.pipeline_[-1].coef_, plain.pipeline_[-1].coef_)


def test_only_training_images_have_copies(root):
    experiment = Experiment(model="vgg16", augment="shift", class_weight="balanced")
    data = experiment.load(root)
    evaluation = experiment.evaluate(data, ["avg"])
    (result,) = evaluation.results["results"]
    assert (result["n_train"], result["n_test"]) == (12, 6)
    assert evaluation.results["settings"]["augment"] == "shift"
    assert len(evaluation.descriptors) == len(data) == 18
    training = data.take(np.flatnonzero(data.splits == "train"))
    classifier = mv.ImageClassifier(augment="shift", **SETTINGS).fit(training.paths, training.labels)
    tested = [path for path, part in zip(data.paths, data.splits, strict=True) if part == "test"]
    expected = classifier.decision_function(tested)
    np.testing.assert_allclose(evaluation.decided["avg"].decision[:, 1], expected, atol=1e-5)


def test_copies_of_held_out_images_are_not_trained_on(train):
    """A copy of a held-out image with absurd numbers changes no decision on it."""
    network = mv.CNNDescriptors("vgg16").build()
    data, n = replace(train, splits=None), len(train.paths)
    every = np.arange(n)
    descriptors = network.transform(train.paths)
    both, nuisance = add_copies(network, train.paths, descriptors, every)
    svm = mv.WideLinearSVC()
    options = {"folds": 2, "penalties": [0.1, 1.0], "nuisance": nuisance}
    before = held_out(both, data, mv.GlobalPool(l2_norm=False), svm, **options)
    tested = before.fitted[0].test
    spoilt = mv.Descriptors(both.values.copy(), both.offsets)
    for i in n + tested:
        spoilt[i][:] = 1000.0
    after = held_out(spoilt, data, mv.GlobalPool(l2_norm=False), svm, **options)
    of_first = np.isin(before.tested, tested)
    np.testing.assert_array_equal(before.decision[of_first], after.decision[of_first])
    assert not np.allclose(before.decision[~of_first], after.decision[~of_first])


def test_experiment_and_estimator_train_the_same_model(root, fitted):
    experiment = Experiment(model="vgg16", augment="shift", class_weight="balanced")
    kept = []
    classifier, _, n = experiment.train_best(
        experiment.load(root), ["avg"], keep=lambda encoded, data: kept.append((len(encoded), len(data)))
    )
    assert (n, kept) == (12, [(12, 12)])
    np.testing.assert_allclose(classifier.pipeline_[-1].coef_, fitted.pipeline_[-1].coef_, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory": "1 GiB"}, "augment='shift' is for data sets in main memory"),
        ({"recipe": Recipe(codebook_samples=None)}, "augment='shift' is for data sets in main memory"),
        ({"augment": "crop"}, "augment must be one of none, shift, got 'crop'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(root, settings, message):
    with pytest.raises(mv.InputError, match=message):
        Experiment(**({"model": "vgg16", "augment": "shift"} | settings)).load(root)


def test_several_labels_are_refused(train, tmp_path):
    y = np.eye(2)[np.arange(len(train.paths)) % 2]
    with pytest.raises(mv.InputError, match="augment='shift' is for one class an image, and y holds labels"):
        mv.ImageClassifier(augment="shift", **SETTINGS).fit(train.paths, y)
    rows = [f"{path},{i % 2},{(i + 1) % 2}" for i, path in enumerate(train.paths)]
    (tmp_path / "two.csv").write_text("path,a,b\n" + "\n".join(rows), "utf-8")
    table = TableSettings(label_columns=("a", "b"))
    with pytest.raises(mv.InputError, match="is for one class an image, and this data set has labels"):
        Experiment(model="vgg16", augment="shift", table=table).load(tmp_path / "two.csv")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory": "1 GiB"}, "augment='shift' is for data sets in main memory: leave out the memory limit"),
        ({"recipe": Recipe(codebook_samples=None)}, "augment='shift' is for data sets in main memory"),
    ],
)
def test_the_estimator_refuses_settings_before_it_extracts(train, monkeypatch, settings, message):
    monkeypatch.setattr(mv.CNNDescriptors, "transform_with_report", refuse_to_extract)
    with pytest.raises(mv.InputError, match=message):
        mv.ImageClassifier(augment="shift", **(SETTINGS | settings)).fit(train.paths, train.y)


def test_the_estimator_refuses_descriptors(train):
    descriptors = mv.CNNDescriptors("vgg16").transform(train.paths)
    for bags in (descriptors, [np.array(one) for one in descriptors]):
        with pytest.raises(mv.InputError, match="augment='shift' is for images, and there are only descript"):
            mv.ImageClassifier(augment="shift", **SETTINGS).fit(bags, train.y)


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(tiles=((1, 1),)), Recipe(vocabularies=2)])
def test_wide_encodings_are_refused_before_the_extraction(root, train, monkeypatch, recipe):
    monkeypatch.setattr(mv.CNNDescriptors, "transform_with_report", refuse_to_extract)
    n = 8192 // 12 + 1
    settings = SETTINGS | {"encode": f"avg,vlad{n}", "recipe": recipe}
    width = f"{12 * n:,}" if recipe.vocabularies == 1 else f"{24 * n:,}"
    message = rf"at most 8,192 numbers, those of vlad{n} have {width}: use average pooling \(encode='avg'\)"
    with pytest.raises(mv.InputError, match=message):
        mv.ImageClassifier(augment="shift", **settings).fit(train.paths, train.y)
    experiment = Experiment(model="vgg16", augment="shift", recipe=recipe)
    data = experiment.load(root)
    for work in (experiment.evaluate, experiment.train_best):
        with pytest.raises(mv.InputError, match=message):
            work(data, ["avg", f"vlad{n}"])


def test_the_commands_refuse_wide_encodings_before_the_extraction(run, root, tmp_path, monkeypatch):
    monkeypatch.setattr(mv.CNNDescriptors, "transform_with_report", refuse_to_extract)
    options = ["--model", "vgg16", "--augment", "shift", "--encode", "avg,vlad700"]
    for command in (["evaluate", root], ["train", root, "-o", tmp_path / "model"]):
        status, printed, error = run(*command, *options)
        assert (status, printed) == (2, "")
        assert "those of vlad700 have 8,400: use average pooling (--encode avg), or reduce" in error


def test_wide_encodings_may_be_reduced(train):
    settings = SETTINGS | {"encode": f"vlad{8192 // 12 + 1}", "recipe": Recipe(reduce=3)}
    encoders = mv.ImageClassifier(augment="shift", **settings).make_encoders(mv.CNNDescriptors("vgg16"))
    assert len(encoders) == 1


def test_workers_and_scored_layers_are_refused(root):
    experiment = Experiment(model="vgg16", augment="shift")
    data = experiment.load(root)
    with pytest.raises(mv.InputError, match="extracted by this process only"):
        experiment.evaluate(data, ["avg"], workers=Workers(None))
    with pytest.raises(mv.InputError, match="layers are scored without shifted copies"):
        experiment.sweep_layers(data, ["avg"])
