"""A fitted pipeline as one file that holds numbers and text only, so opening a stranger's file runs no code.

The file is a NumPy .npz archive, read with ``allow_pickle=False``::

    header     JSON text: format, format_version, medvlad version, parameters of each step, class names,
               fingerprint of the network's weights
    centers    (K, D) float32           of VLAD; absent for pooling
    coef       (n_classes or 1, width)  float64
    intercept  (n_classes or 1,)        float64

The network's weights are not in it (60 MB, and known by their fingerprint): they are found again where
they were, or where `weights` says, and refused if they are others.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from medvlad._validate import InputError, check_finite, check_output_file
from medvlad.classify import WideLinearSVC
from medvlad.encoding import VLAD
from medvlad.features import CNNDescriptors
from medvlad.pooling import GlobalPool
from medvlad.weights import weights_source

__all__ = ["FORMAT_VERSION", "check_readable", "load_model", "save_model"]

FORMAT = "medvlad-model"
FORMAT_VERSION = 1

#: Constructor parameters that travel with the model; the others belong to the machine that runs it.
_SAVED = {
    CNNDescriptors: ("model", "layer", "scales", "weights", "resize", "dtype"),
    VLAD: ("n_clusters", "power", "intra_norm", "l2_norm"),
    GlobalPool: ("mode", "l2_norm", "p"),
    WideLinearSVC: ("C", "fit_intercept", "intercept_scaling"),
}
_ENCODERS = {"VLAD": VLAD, "GlobalPool": GlobalPool}


def save_model(pipeline: Pipeline, path: str | os.PathLike[str]) -> None:
    """Write a fitted pipeline to one file; a file of that name is replaced only once the new one is whole.

    Parameters
    ----------
    pipeline : sklearn.pipeline.Pipeline
        Fitted, of three steps: CNNDescriptors, VLAD or GlobalPool, WideLinearSVC.
    path : path-like

    Raises
    ------
    InputError
        If the steps are others, or the file cannot be written.
    """
    features, encoder, classifier = _steps(pipeline)
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "features": {name: _plain(getattr(features, name)) for name in _SAVED[CNNDescriptors]}
        | {"weights": weights_source(features.weights)},
        "weights_fingerprint": features.weights_fingerprint_,
        "ranges": getattr(features, "ranges_", None) if features.dtype == "int8" else None,
        "n_features": int(encoder.n_features_in_),
        "encoder": {"class": type(encoder).__name__}
        | {name: _plain(getattr(encoder, name)) for name in _SAVED[type(encoder)]},
        "classifier": {name: _plain(getattr(classifier, name)) for name in _SAVED[WideLinearSVC]},
        "classes": classifier.classes_.tolist(),
    }
    if classifier.classes_.dtype.kind not in "Uiub":
        raise InputError(
            f"a model file holds class labels that are text or integers, not {classifier.classes_.dtype}"
        )
    arrays: dict[str, Any] = {"coef": classifier.coef_, "intercept": np.atleast_1d(classifier.intercept_)}
    if isinstance(encoder, VLAD):
        arrays["centers"] = encoder.cluster_centers_
    # A link is followed, not replaced; a device never becomes a file.
    target = check_output_file(path, "model").resolve()
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        try:
            with unfinished.open("xb") as file:
                np.savez(file, header=np.array(json.dumps(header)), **arrays)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write the model {target}: {error.strerror or error}") from error


def check_readable(path: str | os.PathLike[str]) -> None:
    """Raise InputError, before the network is started, if `path` holds no model."""
    _read(Path(path))


def load_model(path: str | os.PathLike[str], *, weights: str | None = None) -> Pipeline:
    """Read a pipeline that :func:`save_model` wrote.

    Parameters
    ----------
    path : path-like
    weights : str or None
        Where the network's weights are on this machine; None: where they were when the model was trained.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Ready to predict class names from image paths or arrays.

    Raises
    ------
    InputError
        If the file is missing, damaged, not a model, of another format version, or the network's weights
        are not those it was trained with.
    """
    header, arrays = _read(Path(path))
    try:
        settings = header["features"] | ({"weights": weights} if weights else {})
        features = CNNDescriptors(**{**settings, "scales": tuple(settings["scales"])})
        if header.get("ranges") is not None:
            features.ranges_ = {str(name): float(value) for name, value in header["ranges"].items()}
        expected = str(header["weights_fingerprint"])
        parameters = dict(header["encoder"])
        encoder = _ENCODERS[parameters.pop("class")](**parameters)
        encoder.n_features_in_ = header["n_features"]
        width = header["n_features"]
        if isinstance(encoder, VLAD):
            encoder.cluster_centers_ = np.ascontiguousarray(arrays["centers"], np.float32)
            check_finite(encoder.cluster_centers_, name="centers")
            if encoder.cluster_centers_.shape != (encoder.n_clusters, encoder.n_features_in_):
                raise ValueError("centers of another shape")
            width = encoder.cluster_centers_.size
        classifier = WideLinearSVC(**header["classifier"])
        classifier.classes_ = np.array(header["classes"])
        classifier.coef_, classifier.intercept_ = arrays["coef"], arrays["intercept"]
        classifier.n_features_in_ = width
        rows = 1 if len(classifier.classes_) == 2 else len(classifier.classes_)
        if classifier.coef_.shape != (rows, width) or classifier.intercept_.shape != (rows,):
            raise ValueError("coefficients of another shape")
        if not (np.isfinite(classifier.coef_).all() and np.isfinite(classifier.intercept_).all()):
            raise ValueError("coefficients that are not finite")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged, or not a medvlad model ({error}): train it again") from error
    features.build()
    if features.weights_fingerprint_ != expected:
        raise InputError(
            f"the {features.model} weights {features.weights!r} are not those that {path} was trained with: "
            "give the same weights (--weights FILE) or train the model again"
        )
    return Pipeline([("features", features), ("encode", encoder), ("classify", classifier)])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """Header and arrays of a model file."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a model file that 'medvlad train' wrote")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            header = json.loads(str(archive["header"]))
            arrays = {name: archive[name] for name in archive.files if name != "header"}
    except FileNotFoundError as error:
        raise InputError(f"there is no model file {path}: make one with 'medvlad train'") from error
    except Exception as error:  # what zipfile, zlib and json raise on a stranger's bytes has no end
        raise InputError(f"{path} is damaged, or not a medvlad model: train it again") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path} is not a medvlad model: name a file that 'medvlad train' wrote")
    if header.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} has model format {header.get('format_version')}, this medvlad reads {FORMAT_VERSION}: "
            "update medvlad or train the model again"
        )
    return header, arrays


def _steps(pipeline: Pipeline) -> tuple[CNNDescriptors, VLAD | GlobalPool, WideLinearSVC]:
    steps = [step for _, step in pipeline.steps]
    kinds = [type(step) for step in steps]
    if kinds not in [[CNNDescriptors, encoder, WideLinearSVC] for encoder in _ENCODERS.values()]:
        names = ", ".join(kind.__name__ for kind in kinds)
        raise InputError(
            f"a model is CNNDescriptors, VLAD or GlobalPool, WideLinearSVC in this order, not {names}"
        )
    return steps[0], steps[1], steps[2]


def _plain(value: Any) -> Any:
    """Turn `value` into what JSON can hold."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    return list(value) if isinstance(value, tuple) else value
