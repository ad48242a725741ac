"""WideLinearSVC.fit_path: one classifier for each C."""

import numpy as np
import pytest
from support.svm_problems import SHAPES, draw

from medvlad import InputError, WideLinearSVC


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_each_classifier_is_that_of_fit(shape, n_classes):
    X, y = draw(shape, n_classes)
    for model in WideLinearSVC(class_weight="balanced").fit_path(X, y, [0.1, 30.0, 1.0]):
        alone = WideLinearSVC(model.C, class_weight="balanced").fit(X, y)
        scale = np.abs(alone.coef_).max()
        np.testing.assert_allclose(model.coef_, alone.coef_, rtol=0, atol=1e-9 * scale)
        np.testing.assert_allclose(model.intercept_, alone.intercept_, rtol=0, atol=1e-9 * scale)


def test_the_order_of_c_is_kept():
    path = WideLinearSVC().fit_path(*draw((20, 30), 2), [3.0, 0.1, 1.0])
    assert [model.C for model in path] == [3.0, 0.1, 1.0]


def test_without_c_there_is_no_classifier():
    assert WideLinearSVC().fit_path(*draw((20, 30), 2), []) == []


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("inf"), float("nan")])
def test_a_c_out_of_range_is_refused(wrong):
    with pytest.raises(InputError, match="C must be a finite number above 0"):
        WideLinearSVC().fit_path(*draw((20, 30), 2), [1.0, wrong])


def test_every_classifier_knows_the_columns_of_a_data_frame():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, y = draw((20, 3), 2)
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    for model in WideLinearSVC().fit_path(frame, y, [0.1, 1.0, 10.0]):
        assert model.feature_names_in_.tolist() == ["a", "b", "c"]
        with pytest.raises(ValueError, match="feature names should match"):
            model.predict(frame.rename(columns={"a": "z"}))


def test_without_column_names_no_classifier_has_any():
    for model in WideLinearSVC().fit_path(*draw((20, 3), 2), [0.1, 1.0]):
        assert not hasattr(model, "feature_names_in_")
