"""Warnings of the encoders point at the line that called `fit`."""

import inspect
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline

from medvlad import VLAD, BagOfWords, DescriptorProjection, KMeansCodebook

X = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)  # 3 distinct descriptors


def line_here():
    return inspect.currentframe().f_back.f_lineno


def kmeans_fit():
    return line_here(), KMeansCodebook(5, random_state=0).fit(X)


def kmeans_fit_predict():
    return line_here(), KMeansCodebook(5, random_state=0).fit_predict(X)


def kmeans_fit_transform():
    return line_here(), KMeansCodebook(5, random_state=0).fit_transform(X)


def vlad_fit():
    return line_here(), VLAD(5, random_state=0).fit(X)


def vlad_fit_transform():
    return line_here(), VLAD(5, random_state=0).fit_transform(X)


def words_fit():
    return line_here(), BagOfWords(5, random_state=0).fit(X)


def pipeline_fit():
    return line_here(), make_pipeline(DescriptorProjection(), VLAD(5, random_state=0)).fit(X)


@pytest.mark.parametrize(
    "call",
    [
        kmeans_fit,
        kmeans_fit_predict,
        kmeans_fit_transform,
        vlad_fit,
        vlad_fit_transform,
        words_fit,
        pipeline_fit,
    ],
)
def test_empty_clusters_are_warned_about_at_the_line_of_the_call(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line, _ = call()
    (warning,) = [one for one in caught if one.category is ConvergenceWarning]
    assert (warning.filename, warning.lineno) == (__file__, line)
