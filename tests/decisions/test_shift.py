"""Batches whose scores have shifted are noticed, and others are not."""

import numpy as np
import pytest

from medvlad.decisions import Answering, CalibratedSVC
from medvlad.decisions.shift import ShiftWatch, find_shift
from medvlad.svm.decision import decision_columns


@pytest.fixture(scope="module", params=[2, 3])
def classifier(request):
    rng = np.random.default_rng(0)
    y = np.arange(300) % request.param
    x = rng.normal(size=(300, 4))
    x[np.arange(300), y] += 2.0
    return CalibratedSVC().fit(x, y)


def decision(classifier, rng, n, offset=0.0):
    """Decision values of new images; `offset` is added to the first feature."""
    y = np.arange(n) % len(classifier.classes_)
    x = rng.normal(size=(n, 4))
    x[np.arange(n), y] += 2.0
    x[:, 0] += offset
    return decision_columns(classifier.decision_function(x))


def test_images_like_the_training_images_are_no_shift(classifier):
    rng = np.random.default_rng(1)
    assert not any(find_shift(classifier, decision(classifier, rng, 60)) for _ in range(50))


def test_a_shift_is_told_with_its_size(classifier, rng):
    found = find_shift(classifier, decision(classifier, rng, 60, offset=3.0))
    assert found is not None
    assert found.p_value < 0.001
    assert 0.2 <= found.difference <= 1
    assert "the scores of these 60 images have shifted" in str(found)
    assert ("adapt_threshold=True" in str(found)) == (len(classifier.classes_) == 2)


def test_fewer_than_30_images_are_never_a_shift(classifier, rng):
    values = decision(classifier, rng, 30, offset=5.0)
    assert find_shift(classifier, values) is not None
    assert find_shift(classifier, values[:29]) is None


def test_a_stream_is_compared_as_a_whole_in_bounded_memory(classifier, rng):
    watch = ShiftWatch()
    for _ in range(30):
        watch.add(decision(classifier, rng, 1000, offset=3.0))
    found = watch.find(classifier)
    assert found is not None
    assert found.n_images == 10_000


def test_answers_remember_the_scores(classifier, rng):
    answering = Answering()
    values = decision(classifier, rng, 40, offset=5.0)
    descriptors = rng.random((20, 1, 4), dtype=np.float32)
    for part in (values[:20], values[20:]):
        answering(classifier, part, None, descriptors)
    assert answering.shift() is not None
