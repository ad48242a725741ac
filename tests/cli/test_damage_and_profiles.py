"""Damaged images and colour profiles at the command line, from training to prediction."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageCms
from support.in_this_process import run_command
from support.jpegs import jpeg, surely_damaged
from support.striped_images import NETWORK, stripes, write_striped_images

from medvlad import load_model
from medvlad.models.model_file import model_card
from medvlad.models.network_entry import network_from

pytest.importorskip("medvlad.images._jpeg", reason="the package was not built")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, tiny_weights):
    """Images of which one is damaged."""
    folder = tmp_path_factory.mktemp("damaged")
    rng = np.random.default_rng(4)
    images = write_striped_images(folder / "images", rng)
    bad = images / "train" / "lying" / "damaged.jpg"
    bad.write_bytes(surely_damaged(np.asarray(stripes(rng, False).convert("RGB")), rng))
    arguments = [images, *NETWORK, "--weights", tiny_weights, "--encode", "avg"]
    model = folder / "model"
    trained = run_command("train", *arguments, "-o", model)
    return SimpleNamespace(images=images, bad=bad, arguments=arguments, model=model, trained=trained)


def test_a_damaged_image_is_used_and_named(damaged, tmp_path):
    out = tmp_path / "out"
    status, _, error = run_command("evaluate", *damaged.arguments, "--out", out)
    assert status == 0
    assert f"medvlad: damaged: image {str(damaged.bad)!r} has damaged JPEG data" in error
    results = json.loads((out / "results.json").read_text())
    ((one),) = results["damaged"]
    assert one["image"] == str(damaged.bad)
    assert results["skipped"] == []
    assert "Damaged images that were used" in (out / "report.html").read_text()


def test_training_names_it_and_the_model_counts_it(damaged):
    status, _, error = damaged.trained
    assert status == 0
    assert "medvlad: damaged: " in error
    assert str(damaged.bad) in error
    assert model_card(damaged.model)["card"]["n_damaged"] == 1


def test_stop_ends_the_run_with_a_sentence(damaged):
    status, _, error = run_command("evaluate", *damaged.arguments, "--on-damage", "stop")
    assert status == 2
    assert error.splitlines()[-1].startswith(f"medvlad: image {str(damaged.bad)!r} has damaged JPEG data (")


def test_skip_leaves_it_out(damaged, tmp_path):
    out = tmp_path / "out"
    status, _, error = run_command("evaluate", *damaged.arguments, "--on-damage", "skip", "--out", out)
    assert status == 1
    assert "medvlad: skipped: " in error
    results = json.loads((out / "results.json").read_text())
    assert [one["image"] for one in results["skipped"]] == [str(damaged.bad)]
    assert results["damaged"] == []


def test_a_prediction_says_that_its_image_is_damaged(damaged):
    sound = damaged.images / "test" / "lying" / "0.png"
    status, out, error = run_command("predict", damaged.model, damaged.bad, sound, "--json")
    assert status == 0
    first, second = json.loads(out)["predictions"]
    assert "has damaged JPEG data" in first["damaged"]
    assert "damaged" not in second
    assert "medvlad: damaged: " in error


def test_extract_names_it_in_every_run(damaged, tmp_path):
    arguments = [damaged.images, *damaged.arguments[1:-2], "--store", tmp_path / "store"]
    for _ in range(2):
        status, _, error = run_command("extract", *arguments)
        assert status == 0
        assert f"medvlad: damaged: image {str(damaged.bad)!r}" in error


def test_a_pseudonym_stands_for_it_in_anonymised_results(damaged, tmp_path):
    run_command("evaluate", *damaged.arguments, "--anonymise", "--out", tmp_path / "out")
    text = (tmp_path / "out" / "results.json").read_text()
    assert len(json.loads(text)["damaged"]) == 1
    assert "damaged.jpg" not in text
    assert str(damaged.images) not in json.dumps(json.loads(text)["damaged"])


# ------------------------------------------------------------------------------------ colour profiles


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """Images whose profile is that of Lab-like, strongly different colours."""
    folder = tmp_path_factory.mktemp("profiled")
    rng = np.random.default_rng(5)
    images = write_striped_images(folder / "images", rng)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    for path in images.rglob("*.png"):
        with Image.open(path) as image:
            image.convert("RGB").save(path, icc_profile=profile)
    return images


def test_a_profile_that_cannot_be_used_is_reported_with_the_option(profiled, tiny_weights):
    arguments = [profiled, *NETWORK, "--weights", tiny_weights, "--encode", "avg"]
    status, _, _ = run_command("evaluate", *arguments)
    assert status == 0
    status, _, error = run_command("evaluate", *arguments, "--colour-profile", "srgb")
    assert status == 2
    assert "--colour-profile ignore" in error


def test_a_model_predicts_with_the_setting_of_its_training(tmp_path, tiny_weights):
    rng = np.random.default_rng(6)
    images = write_striped_images(tmp_path / "images", rng)
    arguments = [images, *NETWORK, "--weights", tiny_weights, "--encode", "avg"]
    assert run_command("train", *arguments, "--colour-profile", "srgb", "-o", tmp_path / "model")[0] == 0
    assert model_card(tmp_path / "model")["features"]["colour_profile"] == "srgb"
    odd = tmp_path / "odd.png"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    stripes(rng, True).convert("RGB").save(odd, icc_profile=profile)
    status, _, error = run_command("predict", tmp_path / "model", odd)
    assert status == 2, "predict must look at the profile, as training did"
    assert "has a colour profile that cannot be used" in error


def test_a_model_decodes_as_in_its_training(tmp_path, tiny_weights):
    images = write_striped_images(tmp_path / "images", np.random.default_rng(8))
    arguments = [images, *NETWORK, "--weights", tiny_weights, "--encode", "avg"]
    for decode in ("fast", "full"):
        model = tmp_path / decode
        assert run_command("train", *arguments, "--decode", decode, "-o", model)[0] == 0
        assert model_card(model)["features"]["decode"] == decode
        assert load_model(model).named_steps["features"].decode == decode


@pytest.mark.parametrize("version", [3, 4, 5])
def test_models_of_older_versions_decode_all_pixels(version):
    old = Path(__file__).parents[1] / "support" / f"model_format_{version}.medvlad"
    header = model_card(old)
    assert "decode" not in header["features"]
    assert network_from(header, None).decode == "full"


def test_results_name_the_setting(tmp_path, tiny_weights):
    images = write_striped_images(tmp_path / "images", np.random.default_rng(7))
    arguments = [images, *NETWORK, "--weights", tiny_weights, "--encode", "avg", "--out", tmp_path / "out"]
    assert run_command("evaluate", *arguments, "--colour-profile", "srgb")[0] == 0
    settings = json.loads((tmp_path / "out" / "results.json").read_text())["settings"]
    assert settings["colour_profile"] == "srgb"
    assert settings["on_damage"] == "warn"


def test_jpeg_is_not_suspected_at_the_command_line(tmp_path, tiny_weights):
    rng = np.random.default_rng(8)
    images = write_striped_images(tmp_path / "images", rng)
    for path in sorted(images.rglob("*.png")):
        with Image.open(path) as image:
            path.with_suffix(".jpg").write_bytes(jpeg(np.asarray(image.convert("RGB"))))
        path.unlink()
    arguments = [images, *NETWORK, "--weights", tiny_weights, "--encode", "avg"]
    status, _, error = run_command("evaluate", *arguments, "--on-damage", "stop")
    assert (status, error) == (0, "")
