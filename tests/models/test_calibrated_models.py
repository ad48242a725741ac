"""Model files and ONNX graphs of calibrated classifiers and of logistic regression."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from medvlad import Descriptors, GlobalPool, InputError, WideLinearSVC, load_model, save_model
from medvlad.decisions import CalibratedSVC, mean_descriptors
from medvlad.decisions.operating_point import Target, operating_threshold
from medvlad.explain import evidence
from medvlad.models.model_file import _digest, model_card


def images(n_classes, n=90):
    rng = np.random.default_rng(n_classes)
    y = np.arange(n) % n_classes
    x = rng.random((n, 5, 6), dtype=np.float32)
    x[np.arange(n), :, y] += 0.5
    return Descriptors.from_array(x), np.array(list("abcd"))[y]


def calibrated_pipeline(n_classes, calibration="platt", threshold=None):
    x, y = images(n_classes)
    pool = GlobalPool().fit(x)
    last = CalibratedSVC(WideLinearSVC(3.0), calibration=calibration).fit(pool.transform(x), y)
    if threshold is not None:
        last.threshold_ = operating_threshold(
            Target("sensitivity", threshold), last.held_out_decision_, last.held_out_labels_
        )
    return Pipeline([("encode", pool), ("classify", last)]), x


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("calibration", ["platt", "isotonic"])
def test_a_loaded_model_answers_the_same(tmp_path, n_classes, calibration):
    pipeline, x = calibrated_pipeline(n_classes, calibration)
    save_model(pipeline, tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    np.testing.assert_array_equal(loaded.predict(x), pipeline.predict(x))
    np.testing.assert_array_equal(loaded.predict_proba(x), pipeline.predict_proba(x))
    encoded, (last, old) = pipeline[:-1].transform(x), (loaded[-1], pipeline[-1])
    np.testing.assert_array_equal(last.prediction_sets(encoded, 0.8), old.prediction_sets(encoded, 0.8))
    means = mean_descriptors(x)
    np.testing.assert_array_equal(last.novelty_p(means), old.novelty_p(means))
    assert last.get_params()["calibration"] == calibration
    assert last.C == 3.0


def test_an_operating_point_is_kept(tmp_path):
    pipeline, x = calibrated_pipeline(2, threshold=0.95)
    save_model(pipeline, tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert loaded[-1].threshold_ == pipeline[-1].threshold_ != 0
    np.testing.assert_array_equal(loaded.predict(x), pipeline.predict(x))


def test_saving_a_loaded_model_gives_the_same_bytes(tmp_path):
    pipeline, _ = calibrated_pipeline(3, "isotonic")
    save_model(pipeline, tmp_path / "m")
    save_model(load_model(tmp_path / "m"), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()


@pytest.mark.parametrize(("n_classes", "solver"), [(2, "lbfgs"), (3, "lbfgs"), (2, "liblinear")])
def test_logistic_regression_is_saved_and_explained(tmp_path, n_classes, solver):
    x, y = images(n_classes)
    pipeline = Pipeline([("encode", GlobalPool()), ("classify", LogisticRegression(solver=solver))]).fit(x, y)
    save_model(pipeline, tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    np.testing.assert_array_equal(loaded.predict_proba(x), pipeline.predict_proba(x))
    split = evidence(x, pipeline[0], pipeline[-1]).decision()
    np.testing.assert_allclose(split.squeeze(), pipeline.decision_function(x), atol=1e-5)


def test_evidence_of_a_calibrated_classifier_adds_up_to_its_scores():
    pipeline, x = calibrated_pipeline(3)
    split = evidence(x, pipeline[0], pipeline[-1]).decision()
    np.testing.assert_allclose(split, pipeline.decision_function(x), atol=1e-5)


@pytest.mark.parametrize("threshold", [None, 0.95])
def test_an_onnx_graph_gives_scores_and_label(tmp_path, threshold):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra test")
    pytest.importorskip("onnx", reason="needs the extra onnx")
    from medvlad.models import export_onnx

    pipeline, x = calibrated_pipeline(2, threshold=threshold)
    export_onnx(pipeline, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    descriptors = x.values.reshape(len(x), 5, 6)
    scores, label = session.run(["scores", "label"], {"descriptors": descriptors})
    np.testing.assert_allclose(scores[:, 1], pipeline.decision_function(x), atol=1e-5)
    np.testing.assert_array_equal(np.array(["a", "b"])[label], pipeline.predict(x))


@pytest.mark.parametrize(("most", "expected"), [(93, [45, 45]), (92, None), (60, None)])
def test_a_file_without_counts_tells_them_only_if_all_held_out_labels_are_in_it(
    tmp_path, monkeypatch, most, expected
):
    pipeline, _ = calibrated_pipeline(2)
    assert pipeline[-1].training_counts_.tolist() == [45, 45]
    pipeline[-1].training_counts_ = None
    save_model(pipeline, tmp_path / "m")
    monkeypatch.setattr("medvlad.models.calibrated_file.MAX_HELD_OUT", most)
    counts = load_model(tmp_path / "m")[-1].training_counts_
    assert expected == (None if counts is None else counts.tolist())


def changed(path, arrays=None, **parameters):
    """Write a model file again, with other arrays or parameters of its classifier, and a right digest."""
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["medvlad"])
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    header.pop("digest")
    header["steps"][-1] |= parameters
    held |= arrays or {}
    text = json.dumps(header | {"digest": _digest(header, held)})
    path.write_bytes(save(held, metadata={"medvlad": text}))


@pytest.mark.parametrize(
    ("arrays", "parameters", "message"),
    [
        ({}, {"method": "beta"}, "'beta' is unknown"),
        ({}, {"method": "isotonic"}, "holds no probabilities"),
        ({}, {"threshold": float("inf")}, "threshold is not finite"),
        ({}, {"classifier": {"step": "classify", "class": "CalibratedSVC"}}, "classifier"),
        ({"held_out_decision_": np.zeros((3, 2))}, {}, "held_out_decision_ has another shape"),
        ({"held_out_labels_": np.full(90, 7)}, {}, "holds unknown classes"),
        ({"held_out_labels_": np.zeros(90)}, {}, "held_out_labels_ has shape"),
        ({"training_counts_": np.array([45, 44])}, {}, "training_counts_ are too small"),
        ({"training_counts_": np.array([90])}, {}, "training_counts_ has another shape"),
        ({"calibration_spread_": np.zeros(1)}, {}, "empty curve"),
        ({"calibration_sizes_": np.array([2])}, {}, "another shape"),
        ({"calibration_curves_": np.full((1, 2), np.nan)}, {}, "not finite"),
        ({"novelty_references_": np.zeros((0, 6), np.float32)}, {}, "is empty"),
        ({"novelty_held_out_": np.array([2.0, 1.0])}, {}, "is not sorted"),
    ],
)
def test_a_wrong_calibrated_classifier_is_refused(tmp_path, arrays, parameters, message):
    pipeline, _ = calibrated_pipeline(2)
    path = tmp_path / "m"
    save_model(pipeline, path)
    changed(path, {f"classify.{name}": values for name, values in arrays.items()}, **parameters)
    with pytest.raises(InputError, match=message):
        model_card(path)
