"""A residual that is only the rounding of its centre is not scaled to unit length."""

import numpy as np
import pytest
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer

from medvlad import VLAD, Descriptors, WideLinearSVC, vlad_encode
from medvlad.backends.normalise import CENTER_ROUNDING
from medvlad.explain.split import evidence
from medvlad.models.onnx_export import export_onnx

SETTINGS = [
    {},
    {"power": 0.5},
    {"mass_norm": True},
    {"local_axes": True},
    {"local_axes": True, "mass_norm": True},
]


@pytest.fixture
def images(rng):
    """Five images. A group of descriptors far from all others occurs in the first image only."""
    near = [rng.normal(size=(20, 6)) for _ in range(5)]
    near[0] = np.concatenate([near[0], rng.normal(size=(9, 6)) + 300])
    return Descriptors.from_list([x.astype(np.float32) for x in near])


def cell_norms(vlad, images):
    return np.linalg.norm(vlad.transform(images).reshape(len(images), vlad.n_clusters, -1), axis=2)


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_cell_of_one_training_image_is_zero_there(images, backend, settings):
    vlad = VLAD(2, intra_norm=True, l2_norm=False, random_state=0, backend=backend, **settings).fit(images)
    far = int(vlad.cluster_centers_.mean(axis=1).argmax())
    expected = np.ones((5, 2))
    expected[:, far] = 0
    np.testing.assert_allclose(cell_norms(vlad, images), expected, atol=1e-6)


@pytest.mark.parametrize("settings", SETTINGS)
def test_another_image_has_unit_length_in_that_cell(images, rng, backend, settings):
    vlad = VLAD(2, intra_norm=True, l2_norm=False, random_state=0, backend=backend, **settings).fit(images)
    other = [(rng.normal(size=(4, 6)) + 300).astype(np.float32)]
    assert sorted(cell_norms(vlad, other)[0].tolist()) == pytest.approx([0, 1])


def test_without_intra_norm_nothing_is_cleared(backend):
    x = np.array([[[2**24 + 2, 1]]], np.float32)
    centers = np.array([[2**24, 1]], np.float32)
    raw = vlad_encode(x, centers, l2_norm=False, backend=backend)
    assert raw.tolist() == [[2, 0]]
    assert vlad_encode(x, centers, backend=backend).tolist() == [[1, 0]]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize(("step", "expected"), [(4, 0), (5, 1)])
def test_the_limit_grows_with_the_centre_and_with_the_descriptors(backend, n, power, step, expected):
    """The centre has length 2^24, so 4 a descriptor is its rounding."""
    centers = np.zeros((2, 300), np.float32)
    centers[0, 7] = 2**24
    x = np.tile(centers[:1], (n, 1))
    x[:, 200] = step
    assert CENTER_ROUNDING * 2**24 == 4
    found = vlad_encode(x[None], centers, power=power, intra_norm=True, l2_norm=False, backend=backend)
    assert np.linalg.norm(found) == expected


def test_many_images_in_one_launch_agree_with_native(rng, cuda_on_host):
    """The second sequence of kernels."""
    images = [(rng.normal(size=(7, 5)) + 100).astype(np.float32) for _ in range(300)]
    vlad = VLAD(40, intra_norm=True, power=0.5, random_state=0).fit(images[:20])
    expected = vlad.transform(images)
    assert (cell_norms(vlad, images)[:20] > 0).sum() < sum(
        len(np.unique(vlad.codebook_.predict(x))) for x in images[:20]
    )
    np.testing.assert_allclose(vlad.set_params(backend="cuda").transform(images), expected, atol=6e-8)


@pytest.mark.parametrize("assignment", ["hard", "soft"])
def test_a_descriptor_that_is_its_centre_has_no_unit_residual(backend, assignment):
    """Its residual is one rounding of a number of 100."""
    settings = {"assignment": assignment} | ({"alpha": 1.0} if assignment == "soft" else {})
    vlad = VLAD(1, centers=[[100.0, 0.0]], residual_norm=True, l2_norm=False, backend=backend, **settings)
    x = np.array([[[np.nextafter(np.float32(100), np.float32(200)), 0], [100, 3]]], np.float32)
    assert vlad.fit(x).transform(x).tolist() == [[0, 1]]


def test_the_graph_clears_such_cells_too(images, rng, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra test")
    x = np.stack([images[0][9:], *(image for image in list(images)[1:])])
    vlad = VLAD(2, intra_norm=True, random_state=0)
    pipeline = Pipeline([("encode", vlad), ("classify", WideLinearSVC())]).fit(x, [0, 1, 0, 1, 0])
    export_onnx(pipeline, tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    found = session.run(["scores"], {"descriptors": x})[0]
    np.testing.assert_allclose(found[:, 1], pipeline.decision_function(x), atol=1e-3)


@pytest.mark.parametrize("settings", SETTINGS[:1] + SETTINGS[2:])
def test_evidence_stays_complete(images, settings):
    steps = [VLAD(2, intra_norm=True, random_state=0, **settings), Normalizer(), WideLinearSVC()]
    pipeline = Pipeline([(str(i), step) for i, step in enumerate(steps)]).fit(images, [0, 1, 0, 1, 0])
    found = evidence(images, *steps)
    np.testing.assert_allclose(found.decision()[:, 0], pipeline.decision_function(images), atol=1e-6)
