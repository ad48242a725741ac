"""The bindings check again every argument that could make the core read foreign memory."""

import importlib

import numpy as np
import pytest


@pytest.fixture
def module():
    return pytest.importorskip("medvlad.backends._native_portable", reason="native was not built")


@pytest.fixture
def arrays():
    x = np.ones((2, 3), np.float32)
    return {
        "sgemm": importlib.import_module("medvlad.backends._blas").sgemm_capsule(),
        "x": x,
        "offsets": np.array([0, 2]),
        "centers": x,
        "vectors": np.empty((1, 6), np.float32),
        "zeroed": False,
        "labels": None,
        "counts": None,
        "power": 1.0,
        "intra_norm": False,
        "l2_norm": True,
        "n_threads": 1,
    }


def test_right_arguments_are_taken(module, arrays):
    module.encode(**arrays)
    assert np.isfinite(arrays["vectors"]).all()


@pytest.mark.parametrize("offsets", [[0, 9], [1, 2], [0, 2, 1, 2], []])
def test_offsets_outside_the_rows_are_refused(module, arrays, offsets):
    with pytest.raises(ValueError, match="offsets"):
        module.encode(**{**arrays, "offsets": np.array(offsets, np.int64)})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("x", np.ones((2, 3))),
        ("x", np.ones((2, 6), np.float32)[:, ::2]),
        ("x", np.ones(6, np.float32)),
        ("centers", np.ones((2, 4), np.float32)),
        ("vectors", np.empty((1, 5), np.float32)),
        ("vectors", np.empty((1, 6))),
        ("vectors", np.frombuffer(bytes(24), np.float32)),
        ("labels", np.empty(1, np.int32)),
        ("labels", np.empty(2, np.int64)),
        ("counts", np.empty((1, 3), np.int64)),
        ("n_threads", 0),
        ("method", "guess"),
    ],
)
def test_wrong_arguments_are_refused(module, arrays, name, wrong):
    with pytest.raises((TypeError, ValueError)):
        module.encode(**{**arrays, name: wrong})
