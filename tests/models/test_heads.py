"""Models of several labels and of numbers: saved, loaded, exported to ONNX, and their answers."""

import json

import numpy as np
import pytest
from sklearn.pipeline import Pipeline
from support.target_sets import NAMES, target_set

from medvlad import WideLinearSVC, load_model, save_model
from medvlad.decisions.target_answers import predictions_of
from medvlad.encoders.recipe import Recipe, encoder_steps
from medvlad.evaluation.targets import TargetRun
from medvlad.models.heads import check_names
from medvlad.models.model_file import model_card
from medvlad.models.onnx_export import export_onnx
from medvlad.svm.multi_label import MultiLabelSVC
from medvlad.svm.wide_ridge import WideRidge


def fitted(task, n_targets=None):
    """Return a fitted pipeline of descriptors, and its descriptors."""
    data, x = target_set(task)
    if n_targets is not None:
        data = data.__class__(
            **{**vars(data), "targets": data.targets[:, :n_targets], "class_names": NAMES[task][:n_targets]}
        )
    encoder, head, _ = TargetRun(data, folds=3).train(x, {"vlad3": Recipe().encoder("vlad3", random_state=0)})
    return Pipeline([*encoder_steps(encoder), ("classify", head)]), x


CASES = [("labels", None), ("labels", 2), ("labels", 1), ("regression", None), ("regression", 1)]


@pytest.mark.parametrize(("task", "n_targets"), CASES)
def test_a_loaded_model_predicts_the_same(task, n_targets, tmp_path):
    pipeline, x = fitted(task, n_targets)
    save_model(pipeline, tmp_path / "model")
    back = load_model(tmp_path / "model")
    np.testing.assert_array_equal(back.predict(x), pipeline.predict(x))
    assert model_card(tmp_path / "model")["classes"] == NAMES[task][:n_targets]
    if task == "labels":
        np.testing.assert_array_equal(back.predict_proba(x), pipeline.predict_proba(x))
        np.testing.assert_array_equal(back[-1].thresholds_, pipeline[-1].thresholds_)


def test_a_model_of_one_number_keeps_the_shape_of_its_predictions(tmp_path):
    data, x = target_set("regression")
    encoder = Recipe().encoder("avg").fit(x)
    ridge = WideRidge().fit(encoder.transform(x), data.targets[:, 1])
    save_model(Pipeline([*encoder_steps(encoder), ("classify", ridge)]), tmp_path / "model")
    assert load_model(tmp_path / "model").predict(x).shape == (120,)


def test_labels_without_calibration_are_saved(tmp_path):
    data, x = target_set("labels")
    encoder = Recipe().encoder("avg").fit(x)
    head = MultiLabelSVC().fit(encoder.transform(x), data.targets)
    save_model(Pipeline([*encoder_steps(encoder), ("classify", head)]), tmp_path / "model")
    assert not hasattr(load_model(tmp_path / "model")[-1], "predict_proba")


def test_one_label_is_enough_but_not_one_class():
    check_names(MultiLabelSVC(), np.array(["a"]))
    with pytest.raises(ValueError, match="not one or more different labels"):
        check_names(MultiLabelSVC(), np.array(["a", "a"]))
    with pytest.raises(ValueError, match="not two or more different labels"):
        check_names(WideLinearSVC(), np.array(["a"]))


@pytest.mark.parametrize(("task", "n_targets"), CASES)
def test_the_onnx_graph_predicts_the_same(task, n_targets, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra test")
    pytest.importorskip("onnx", reason="needs the extra onnx")
    pipeline, x = fitted(task, n_targets)
    export_onnx(pipeline, tmp_path / "graph.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx", providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert about["task"] == task
    assert json.loads(about["classes"]) == NAMES[task][:n_targets]
    inputs = {"descriptors": x.values.reshape(120, 4, 8)}
    if task == "regression":
        (values,) = session.run(["values"], inputs)
        np.testing.assert_allclose(values, pipeline.predict(x), rtol=1e-4)
        return
    scores, label, probability = session.run(["scores", "label", "probability"], inputs)
    expected = pipeline.decision_function(x)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    np.testing.assert_allclose(probability, pipeline.predict_proba(x), atol=1e-4)
    clear = np.abs(expected - pipeline[-1].thresholds_) > 1e-4
    np.testing.assert_array_equal(label[clear], pipeline.predict(x)[clear])


def test_answers_of_labels_name_labels_scores_and_probabilities():
    pipeline, x = fitted("labels")
    vectors, head = pipeline[:-1].transform(x), pipeline[-1]
    answers = predictions_of(head, vectors)
    for one, has, probability in zip(
        answers, head.predict(vectors), head.predict_proba(vectors), strict=True
    ):
        assert one["labels"] == [name for name, flag in zip(NAMES["labels"], has, strict=True) if flag]
        assert list(one["scores"]) == NAMES["labels"]
        np.testing.assert_allclose(list(one["probabilities"].values()), probability)
    json.dumps(answers, allow_nan=False)


@pytest.mark.parametrize("n_targets", [1, 2])
def test_answers_of_numbers_name_their_targets(n_targets):
    pipeline, x = fitted("regression", n_targets)
    vectors = pipeline[:-1].transform(x)
    answers = predictions_of(pipeline[-1], vectors)
    expected = pipeline[-1].predict(vectors)
    assert [one["values"]["age"] for one in answers] == expected[:, 0].tolist()
    assert [one.get("value") for one in answers] == (
        expected[:, 0].tolist() if n_targets == 1 else [None] * 120
    )


def test_a_model_of_classes_has_no_such_answers():
    head = WideLinearSVC().fit(np.eye(2), [0, 1])
    assert predictions_of(head, np.eye(2)) is None
