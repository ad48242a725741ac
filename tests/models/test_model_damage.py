"""A damaged model file is an error that names the file, whatever is damaged."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from sklearn.pipeline import Pipeline
from support.model_bytes import (
    altered,
    centers_of,
    contents,
    fitted_model,
    images,
    longer,
    network,
    steps_of,
    with_header,
    with_text,
)

from medvlad import VLAD, DescriptorProjection, GlobalPool, InputError, WideLinearSVC, load_model, save_model
from medvlad.models.model_file import model_card

pytest.importorskip("keras", reason="needs the extra tensorflow")

FIXTURE = Path(__file__).parents[1] / "support" / "model_format_3.medvlad"


@pytest.fixture(params=["vlad", "all of it"], scope="module")
def fitted(request, tiny_weights):
    return fitted_model(request.param, network(tiny_weights), images())


DAMAGE = {
    "empty": lambda path: b"",
    "text": lambda path: b"not a model",
    "truncated": lambda path: path.read_bytes()[:-200],
    "pickle": lambda path: pickle.dumps({"header": 1}),
    "no metadata": lambda path: with_text(path, None),
    "metadata of others": lambda path: with_text(path, {"format": "pt"}),
    "header is no JSON": lambda path: with_text(path, {"medvlad": "{"}),
    "header is a list": lambda path: with_text(path, {"medvlad": "[]"}),
    "an endless width": lambda path: with_header(path, n_features=float("inf")),
    "classes twice": lambda path: with_header(path, classes=["a", "a", "b"]),
    "classes of two dimensions": lambda path: with_header(path, classes=[["a", "b"], ["c", "d"], ["e", "f"]]),
    "no classifier": lambda path: with_header(
        path, steps=json.loads(contents(path)[0]["medvlad"])["steps"][:-1]
    ),
    "centres that float32 does not hold": lambda path: altered(
        path, **dict.fromkeys(centers_of(path), np.full((2, 5), 1e300))
    ),
    "another format": lambda path: with_header(path, format="other"),
    "a newer format": lambda path: with_header(path, format_version=99),
    "no coefficients": lambda path: altered(path, **{"classify.coef_": None}),
    "coefficients of another shape": lambda path: altered(path, **{"classify.coef_": np.zeros((3, 5))}),
    "coefficients not finite": lambda path: altered(path, **{"classify.intercept_": np.full(3, np.nan)}),
    "unknown encoder": lambda path: with_header(path, steps=[{"step": "encode", "class": "Fisher"}]),
    "no parameters": lambda path: with_header(path, steps=[{"step": "classify", "class": "WideLinearSVC"}]),
    "tiles of a classifier": lambda path: with_header(
        path,
        steps=[
            *steps_of(path)[:-1],
            steps_of(path)[-1]
            | {"step": "encode", "class": "SpatialTiles", "encoder": steps_of(path)[-1]}
            | {"grids": [[7, 7]], "tiles": [[2, 2]], "mirrored": None, "l2_norm": True},
        ],
    ),
    "two classifiers": lambda path: with_header(path, steps=[*steps_of(path), steps_of(path)[-1]]),
    "the classifier first": lambda path: with_header(path, steps=[steps_of(path)[-1], *steps_of(path)]),
    "no steps": lambda path: with_header(path, steps=[]),
    "coefficients of integers": lambda path: altered(path, **{"classify.intercept_": np.arange(3)}),
    "unknown network": lambda path: with_header(path, features={"model": "vgg99", "scales": [0]}),
    "deep JSON": lambda path: with_text(path, {"medvlad": "[" * 100_000}),
    "shapes beyond the file": longer,
    "header beyond the file": lambda path: b"\xff" * 8 + path.read_bytes()[8:],
    "array of NumPy": lambda path: (buffer := io.BytesIO(), np.save(buffer, np.zeros(3)), buffer.getvalue())[
        2
    ],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_with_its_name(fitted, tmp_path, damage):
    path = tmp_path / "model"
    save_model(fitted, path)
    path.write_bytes(DAMAGE[damage](path))
    with pytest.raises(InputError) as refused:
        load_model(path)
    assert "\n" not in str(refused.value)
    if damage != "unknown network":
        assert str(path) in str(refused.value)


def test_every_flipped_bit_is_detected(rng, tmp_path):
    """A flipped bit is refused, or it changes a digit of the text that does not change the number."""
    x = rng.normal(size=(12, 9, 5)).astype(np.float32)
    fitted = Pipeline([("vlad", VLAD(2, random_state=0)), ("svm", WideLinearSVC())]).fit(x, ["a", "b"] * 6)
    path = tmp_path / "m"
    save_model(fitted, path, card={"network": "ViT"})
    card, expected, sound = model_card(path), fitted.decision_function(x), path.read_bytes()
    taken = 0
    for place, bit in np.ndindex(len(sound), 8):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            back = load_model(path)
        except InputError:
            continue
        assert model_card(path) == card
        np.testing.assert_array_equal(back.decision_function(x), expected)
        taken += 1
    assert taken < 20


@pytest.mark.parametrize("fitted", ["vlad"], indirect=True)
@pytest.mark.parametrize("key", ["eigest", "more"])
def test_an_unknown_key_in_the_header_is_refused(fitted, tmp_path, key):
    path = tmp_path / "model"
    save_model(fitted, path)
    path.write_bytes(with_header(path, **{key: "0"}))
    with pytest.raises(InputError, match="its header has unknown keys"):
        load_model(path)


def test_the_digest_detects_a_changed_number(rng, tmp_path):
    """The number is finite and the shape is right, so nothing else detects it."""
    x = rng.normal(size=(12, 9, 5)).astype(np.float32)
    fitted = Pipeline([("vlad", VLAD(3, random_state=0)), ("svm", WideLinearSVC())]).fit(x, ["a", "b"] * 6)
    path = tmp_path / "m"
    save_model(fitted, path)
    coefficients = fitted["svm"].coef_.astype("<f8").tobytes()
    sound = path.read_bytes()
    assert sound.count(coefficients) == 1
    path.write_bytes(sound.replace(coefficients, (fitted["svm"].coef_ * 1.5).astype("<f8").tobytes()))
    with pytest.raises(InputError, match="is damaged, its content does not match its digest: copy it again"):
        load_model(path)


@pytest.mark.parametrize("fitted", ["vlad"], indirect=True)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 3)])
def test_arrays_of_strange_shapes_have_digests_too(fitted, tmp_path, shape):
    path = tmp_path / "model"
    save_model(fitted, path)
    metadata, arrays = contents(path)
    header = json.loads(metadata["medvlad"]) | {"digest": "0"}
    path.write_bytes(save(arrays | {"more": np.zeros(shape)}, metadata={"medvlad": json.dumps(header)}))
    with pytest.raises(InputError, match="does not match its digest"):
        load_model(path)


@pytest.mark.parametrize(
    "name", ["encode.vlad3.alpha_", "encode.fisher2.variances_", "encode.fisher2.weights_"]
)
def test_rates_weights_and_variances_must_be_above_zero(tmp_path, name):
    path = tmp_path / "model"
    path.write_bytes(FIXTURE.read_bytes())
    path.write_bytes(altered(path, **{name: -contents(path)[1][name]}))
    with pytest.raises(InputError, match="not above 0"):
        model_card(path)


@pytest.mark.parametrize(
    ("step", "name", "factor", "words"),
    [
        (VLAD(2, random_state=0, local_axes=True), "encode.rotations_", 2, "too large"),
        (GlobalPool(), "classify.coef_", 1e200, "too large"),
        (DescriptorProjection(2, whiten=True), "descriptors.explained_variance_", -1, "below 0"),
    ],
)
def test_numbers_that_would_become_nan_are_refused(rng, tmp_path, step, name, factor, words):
    x = rng.normal(size=(12, 9, 5))
    encoder = [] if step.__class__ in (VLAD, GlobalPool) else [("encode", GlobalPool())]
    fitted = Pipeline([("first", step), *encoder, ("svm", WideLinearSVC())]).fit(x, ["a", "b"] * 6)
    path = tmp_path / "m"
    save_model(fitted, path)
    load_model(path)
    path.write_bytes(altered(path, **{name: contents(path)[1][name] * factor}))
    with pytest.raises(InputError, match=words):
        load_model(path)
