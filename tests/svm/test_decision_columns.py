"""Decision values with one column for each class."""

import numpy as np
import pytest
from support.svm_problems import draw

from medvlad.svm import WideLinearSVC, decision_columns


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_largest_column_is_the_predicted_class(n_classes):
    X, y = draw((40, 10), n_classes)
    svm = WideLinearSVC().fit(X, y)
    columns = decision_columns(svm.decision_function(X))
    assert columns.shape == (40, n_classes)
    np.testing.assert_array_equal(svm.classes_[columns.argmax(axis=1)], svm.predict(X))


def test_the_first_of_two_columns_is_the_negated_second():
    columns = decision_columns(np.array([1.5, -2.0]))
    np.testing.assert_array_equal(columns, [[-1.5, 1.5], [2.0, -2.0]])
