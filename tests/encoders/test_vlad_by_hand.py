"""VLAD on three descriptors whose lengths are whole numbers: every pair of switches, worked out by hand.

The centres are (0, 0) and (6, 0). The residuals to them and their lengths are

    descriptor   to centre 0     to centre 1     nearest   soft weights
    (3, 4)       (3, 4), 5       (-3, 4), 5      0, a tie  1/2, 1/2
    (6, 8)       (6, 8), 10      (0, 8), 8       1         1/3, 2/3
    (0, -8)      (0, -8), 8      (-6, -8), 10    0         2/3, 1/3
"""

from itertools import combinations
from math import log, sqrt

import numpy as np
import pytest
from sklearn.pipeline import Pipeline

from medvlad import VLAD, Descriptors, WideLinearSVC
from medvlad.models.onnx_export import export_onnx

X = np.array([[3, 4], [6, 8], [0, -8]], np.float32)
CENTERS = np.array([[0, 0], [6, 0]], np.float32)
ROTATIONS = np.array([[[0.6, 0.8], [-0.8, 0.6]], [[0, 1], [1, 0]]], np.float32)

SWITCHES = {
    "residual": {"residual_norm": True},
    "mass": {"mass_norm": True},
    "axes": {"local_axes": True},
    "intra": {"intra_norm": True},
    "power": {"power": 0.5},
    "soft": {"assignment": "soft", "alpha": log(2) / 36},
    "l2": {"l2_norm": True},
}

#: Names of the switches that are on -> V_0, V_1. All others are off.
BY_HAND = {
    "": (3, -4, 0, 8),
    "residual": (0.6, -0.2, 0, 1),
    "mass": (1.5, -2, 0, 8),
    "axes": (-1.4, -4.8, 8, 0),
    "intra": (0.6, -0.8, 0, 1),
    "power": (sqrt(3), -2, 0, sqrt(8)),
    "soft": (3.5, -2 / 3, -3.5, 14 / 3),
    "l2": (3 / sqrt(89), -4 / sqrt(89), 0, 8 / sqrt(89)),
    "residual, mass": (0.3, -0.1, 0, 1),
    "residual, axes": (0.2, -0.6, 1, 0),
    "residual, intra": (0.6 / sqrt(0.4), -0.2 / sqrt(0.4), 0, 1),
    "residual, power": (sqrt(0.6), -sqrt(0.2), 0, 1),
    "residual, soft": (0.5, 0, -0.5, 0.8),
    "residual, l2": (0.6 / sqrt(1.4), -0.2 / sqrt(1.4), 0, 1 / sqrt(1.4)),
    "mass, axes": (-0.7, -2.4, 8, 0),
    "mass, intra": (0.6, -0.8, 0, 1),
    "mass, power": (sqrt(1.5), -sqrt(2), 0, sqrt(8)),
    "mass, soft": (7 / 3, -4 / 9, -7 / 3, 28 / 9),
    "mass, l2": (1.5 / sqrt(70.25), -2 / sqrt(70.25), 0, 8 / sqrt(70.25)),
    "axes, intra": (-0.28, -0.96, 1, 0),
    "axes, power": (-sqrt(1.4), -sqrt(4.8), sqrt(8), 0),
    "axes, soft": (47 / 30, -3.2, 14 / 3, -3.5),
    "axes, l2": (-1.4 / sqrt(89), -4.8 / sqrt(89), 8 / sqrt(89), 0),
    "intra, power": (sqrt(3 / 7), -2 / sqrt(7), 0, 1),
    "intra, soft": (21 / sqrt(457), -4 / sqrt(457), -0.6, 0.8),
    "intra, l2": (0.6 / sqrt(2), -0.8 / sqrt(2), 0, 1 / sqrt(2)),
    "power, soft": (sqrt(3.5), -sqrt(2 / 3), -sqrt(3.5), sqrt(14 / 3)),
    "power, l2": (sqrt(3 / 15), -2 / sqrt(15), 0, sqrt(8 / 15)),
    "soft, l2": (21 / sqrt(1682), -4 / sqrt(1682), -21 / sqrt(1682), 28 / sqrt(1682)),
}


def vlad(switches, **others):
    """Return a VLAD with the centres and axes above, as if it had been fitted."""
    settings = {"l2_norm": False, **others}
    for name in filter(None, switches.split(", ")):
        settings |= SWITCHES[name]
    fitted = VLAD(2, centers=CENTERS, random_state=0, **settings).fit(X[None])
    if fitted.local_axes:
        fitted.rotations_ = ROTATIONS
    return fitted


def onnx_vector(tmp_path, encoder, x):
    """Return the vectors (B, 4) of an exported encoder. The classifier has the unit matrix as its weights."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra test")
    classifier = WideLinearSVC()
    classifier.coef_, classifier.intercept_ = np.eye(encoder.cluster_centers_.size), np.zeros(1)
    classifier.classes_, classifier.n_features_in_ = np.arange(4), 4
    export_onnx(Pipeline([("encode", encoder), ("classify", classifier)]), tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    return session.run(["scores"], {"descriptors": x})[0]


def test_every_pair_of_switches_is_worked_out():
    pairs = {", ".join(pair) for pair in combinations(SWITCHES, 2)}
    assert BY_HAND.keys() == {"", *SWITCHES, *pairs}


@pytest.mark.parametrize("switches", BY_HAND)
def test_the_vector_is_the_one_worked_out_by_hand(backend, switches):
    found = vlad(switches, backend=backend).transform(Descriptors.from_array(X[None]))
    np.testing.assert_allclose(found[0], BY_HAND[switches], rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("switches", BY_HAND)
def test_the_vector_in_onnx_is_the_one_worked_out_by_hand(tmp_path, switches):
    found = onnx_vector(tmp_path, vlad(switches), np.stack([X, X[::-1]]))
    np.testing.assert_allclose(found, [BY_HAND[switches]] * 2, rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize(("x", "expected"), [((3, 1), 1), ((1e-6, 1), 1), ((0, 2), 0.5), ((-3, 1), 0)])
def test_mass_and_residual_norm_give_the_mean_unit_residual(backend, x, expected):
    """A descriptor at the centre counts, although its residual is zero."""
    one = VLAD(1, centers=[[0.0]], residual_norm=True, mass_norm=True, l2_norm=False, backend=backend)
    found = one.fit(np.ones((1, 1), np.float32)).transform(np.array(x, np.float32).reshape(1, 2, 1))
    assert found[0, 0] == pytest.approx(expected)


def test_weights_of_descriptors_weigh_the_mean_unit_residual(backend):
    one = VLAD(1, centers=[[0.0]], residual_norm=True, mass_norm=True, l2_norm=False, backend=backend)
    x = Descriptors(np.array([[3], [-5], [9]], np.float32), [0, 3], [1.0, 0.5, 0.0])
    assert one.fit(x).transform(x)[0, 0] == pytest.approx((1 - 0.5) / 1.5)
