"""The time of MultiLabelSVC: 14 labels take at most twice the time of one, as they share the Gram matrix.

This holds if vectors have about eight times as many numbers as there are images, or more. For shorter vectors
the matrix is a smaller part of the work.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from medvlad import WideLinearSVC
from medvlad.svm.multi_label import MultiLabelSVC

N_LABELS = 14


def problem(n, d):
    rng = np.random.default_rng(0)
    facts = rng.normal(size=(n, N_LABELS))
    x = facts @ rng.normal(size=(N_LABELS, d)) / np.sqrt(N_LABELS) + rng.normal(size=(n, d))
    noisy = facts + rng.normal(size=facts.shape)
    y = noisy > np.quantile(noisy, 1 - np.linspace(0.02, 0.4, N_LABELS), axis=0).diagonal()
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), y


def seconds(x, y):
    """Return the processor time of a fit, which other processes disturb less than the clock."""
    start = time.process_time()
    MultiLabelSVC().fit(x, y)
    return time.process_time() - start


@pytest.mark.parametrize("shape", [(600, 20_000), (1000, 32_768), (2000, 16_384)], ids=str)
def test_fourteen_labels_take_at_most_twice_the_time_of_one(shape, timing, record_property):
    n, d = shape if timing else (60, 400)
    x, y = problem(n, d)
    fitted = MultiLabelSVC().fit(x, y)
    for k in (0, N_LABELS - 1):
        alone = WideLinearSVC().fit(x, y[:, k])
        np.testing.assert_allclose(fitted.coef_[k], alone.coef_[0], rtol=0, atol=1e-9)
    if not timing:
        return
    with threadpool_limits(1):
        one, all_of_them = (min(seconds(x, labels) for _ in range(2)) for labels in (y[:, 7:8], y))
    record_property("seconds", {1: one, N_LABELS: all_of_them})
    assert all_of_them <= 2 * one, f"{n} x {d}: 1 label {one:.2f} s, {N_LABELS} labels {all_of_them:.2f} s"
