"""A URL is not a folder: every function that takes a path refuses one by name, and nothing is made."""

from pathlib import Path

import numpy as np
import pytest

import medvlad as mv
from medvlad import InputError
from medvlad._util.validate import check_local, check_output_file, check_outside, make_output_folder
from medvlad.datasets.download import fetch
from medvlad.datasets.folders import list_images
from medvlad.datasets.pseudonyms import Pseudonyms
from medvlad.evaluation.compare_runs import compare_runs
from medvlad.experiment import Experiment
from medvlad.extraction.weights import weights_source
from medvlad.images import list_frames, load_image
from medvlad.images.hashed_file import image_key
from medvlad.models.model_file import check_readable, model_card
from medvlad.store.store import DescriptorStore


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    ["s3://bucket/x", "gs://b", "https://host/a.png", "file:///data", "S3://b", "my-fs+v1://x"],
)
def test_a_url_is_refused(url):
    with pytest.raises(InputError, match=r"^the store '.*://.*' is a URL, .*: copy the data to a folder"):
        check_local(url, "the store")


def test_a_url_is_refused_although_path_takes_a_slash():
    with pytest.raises(InputError, match="'s3:/bucket/x' is a URL"):
        check_local(Path("s3://bucket/x"), "the store")


@pytest.mark.parametrize(
    "path", ["images", "/data/a", "a:b", "scan:/x", "C:/data", "C://data", "./s3://x", "x/s3://y", "a#3", ""]
)
def test_other_paths_stay(path):
    assert check_local(path, "the store") == Path(path)


#: No function reads this kind. Some read s3://, see test_object_path.py.
URL = "hdfs://bucket/x"
CALLS = {
    "load_image_folder": lambda url: mv.load_image_folder(url),
    "list_images": list_images,
    "Experiment": lambda url: Experiment().load(url),
    "Experiment of a layout": lambda url: Experiment(layout="kvasir-v2").load(url),
    "load_image": lambda url: load_image(f"{url}.png") if isinstance(url, str) else load_image(url),
    "list_frames": list_frames,
    "image_key": image_key,
    "DescriptorStore": DescriptorStore,
    "weights": weights_source,
    "load_model": mv.load_model,
    "model_card": model_card,
    "check_readable": check_readable,
    "compare_runs": lambda url: compare_runs(url, url),
    "Pseudonyms.read": Pseudonyms.read,
    "Pseudonyms.write": lambda url: Pseudonyms().write(url),
    "an output file": lambda url: check_output_file(url, "model"),
    "an output folder": lambda url: make_output_folder(url, "out"),
    "a folder outside": lambda url: check_outside(url, "store", "images"),
    "transform_to_file": lambda url: mv.GlobalPool().fit(np.eye(3)).transform_to_file(np.eye(3), url),
    "fetch": lambda url: fetch("chest-xray", url),
}


@pytest.mark.parametrize("kind", [str, Path], ids=["text", "Path"])
@pytest.mark.parametrize("call", CALLS)
def test_a_function_that_takes_a_path_refuses_a_url(call, kind):
    with pytest.raises(
        InputError,
        match=r"is a URL(, and must be a file or folder of this machine| of a kind that is not read)",
    ):
        CALLS[call](kind(URL))


@pytest.mark.parametrize(
    "words",
    [
        "evaluate {} --model vgg16",
        "evaluate images --store {}",
        "evaluate images --out {}",
        "evaluate images --weights {}",
        "evaluate images --anonymise-key {}",
        "extract {} --store store",
        "extract images --store {}",
        "train {} -o model",
        "train images -o {}",
        "train images --store {} -o model",
        "predict {} a.png",
        "predict model {}",
        "predict model a.png {} --explain maps",
        "predict model a.png --explain {}",
        "audit {}",
        "audit images --out {}",
        "compare {} run",
        "compare run {}",
        "show {}",
        "export {} m.onnx",
        "export model {}",
        "store ls {}",
        "store verify {}",
        "store verify store --recompute 2 --images {}",
        "store gc {}",
        "fetch kvasir-v2 --to {}",
        "fetch kvasir-v2 --archive {}",
        "paper --chest-xray {}",
        "paper --chest-xray images --out {}",
        "demo --out {}",
    ],
)
def test_a_command_refuses_a_url_by_name(run, words):
    status, printed, error = run(*words.format(URL).split())
    assert (status, printed) == (2, "")
    assert f"{URL!r} is a URL" in error
    assert error.count("\n") == 1
