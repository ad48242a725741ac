"""Preprocessing of networks that Keras does not define: the numbers, and what is refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlad import InputError
from medvlad.extraction.networks.preprocessing import (
    PREPROCESSING,
    Preprocessing,
    as_preprocessing,
    read_configuration,
)

NUMBERS = st.floats(-300, 300)
POSITIVE = st.floats(1e-3, 300)
ANY = st.builds(
    Preprocessing,
    POSITIVE,
    st.tuples(NUMBERS, NUMBERS, NUMBERS),
    st.tuples(POSITIVE, POSITIVE, POSITIVE),
    st.sampled_from(["rgb", "bgr"]),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("imagenet", [(10 / 255 - 0.485) / 0.229, (20 / 255 - 0.456) / 0.224, (30 / 255 - 0.406) / 0.225]),
        ("scale", [10 / 255, 20 / 255, 30 / 255]),
        ("minus1_1", [10 / 127.5 - 1, 20 / 127.5 - 1, 30 / 127.5 - 1]),
        ("caffe", [30 - 103.939, 20 - 116.779, 10 - 123.68]),
        ("raw", [10, 20, 30]),
    ],
)
def test_a_pixel_by_hand(name, expected):
    pixels = np.array([10, 20, 30], np.float32).reshape(1, 1, 1, 3)
    got = PREPROCESSING[name](pixels)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.ravel(), expected, rtol=0, atol=2e-5)


def test_caffe_is_the_preprocessing_of_keras():
    vgg16 = pytest.importorskip("keras", reason="needs the extra tensorflow").applications.vgg16
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        PREPROCESSING["caffe"](pixels.copy()), vgg16.preprocess_input(pixels.copy())
    )


@given(ANY)
def test_settings_are_read_back(given_one):
    settings = json.loads(json.dumps(given_one.settings()))
    assert as_preprocessing(settings) == given_one
    assert as_preprocessing(given_one) is given_one


def test_a_known_preprocessing_has_its_name():
    for name, known in PREPROCESSING.items():
        assert known.settings()["name"] == name
        assert as_preprocessing(name) is known


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("vgg", "preprocess must be one of imagenet, scale, minus1_1, caffe, raw, got 'vgg'"),
        (3, "preprocess must be one of"),
        ({"factor": "x"}, "factor must be 1 finite number, got 'x'"),
        ({"mean": [1, 2, float("nan")]}, "mean must be 3 finite numbers"),
        ({"std": [1, 2, -1]}, "must be above 0"),
        ({"factor": 0}, "must be above 0"),
        ({"order": "hsv"}, "order must be one of rgb, bgr"),
        ({"size": 3}, "has the key 'size'"),
    ],
)
def test_others_are_refused(value, message):
    with pytest.raises(InputError, match=message):
        as_preprocessing(value)


def configuration(tmp_path, content):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    return read_configuration(tmp_path / "x.onnx", {})


def test_configurations_of_transformers(tmp_path):
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    assert configuration(tmp_path, half)[0] == Preprocessing(1 / 255, (0.5,) * 3, (0.5,) * 3)
    unscaled = configuration(tmp_path, half | {"do_rescale": False})[0]
    assert unscaled == Preprocessing(1.0, (0.5,) * 3, (0.5,) * 3)
    plain = configuration(tmp_path, half | {"do_normalize": False, "do_rescale": True})[0]
    assert plain == PREPROCESSING["scale"]
    assert configuration(tmp_path, {"size": 224}) is None
    with pytest.raises(InputError, match="has a mean or a std but not both"):
        configuration(tmp_path, {"image_mean": [0.5] * 3})
    with pytest.raises(InputError, match=r"preprocessor_config.json: std must be 3 finite numbers"):
        configuration(tmp_path, {"image_mean": [0.5] * 3, "image_std": "x"})
