"""A fitted pipeline as one file that holds numbers and text only, so opening a stranger's file runs no code.

The file is in the safetensors format: named arrays, and one text "medvlad" among its metadata, JSON::

    header          format, format_version, parameters of the network and of each other step, class names,
                    fingerprint of the network's weights, versions, card: what it was trained on,
                    digest: SHA-256 of the rest, by which a file that was damaged on its way is known
    STEP.ATTRIBUTE  what a step has learnt: "encode.cluster_centers_", "classify.coef_", ...

Encoders side by side are the steps "encode.avg", "encode.vlad64", and so on. The network's
weights are not in the file (60 MB, and known by their fingerprint): they are found again where they were, or
where `weights` says, and refused if they are others. A model of descriptors from elsewhere names no network.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save
from sklearn.decomposition import PCA
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils.validation import check_is_fitted

from medvlad._util.atomic_file import write_file
from medvlad._util.validate import InputError
from medvlad._util.versions import versions
from medvlad.encoders.spatial_tiles import SpatialTiles
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.weights import weights_source
from medvlad.models.model_steps import Arrays, describe, fit_together, learnt_of, make_step, step_name
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = ["FORMAT_VERSION", "check_readable", "load_model", "model_card", "network_and_steps", "save_model"]

FORMAT = "medvlad-model"
FORMAT_VERSION = 3

#: Parameters of the network that travel with the model; the others belong to the machine that runs it.
_NETWORK = ("model", "layer", "scales", "mirror", "weights", "resize", "dtype")

#: What comes of a header that is none of a model.
_WRONG = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)

#: All that a header may hold.
_HEADER = {
    *("format", "format_version", "features", "weights_fingerprint", "ranges", "n_features", "steps"),
    *("classes", "versions", "card", "digest"),
}


def save_model(
    pipeline: Pipeline, path: str | os.PathLike[str], *, card: Mapping[str, Any] | None = None
) -> None:
    """Write a fitted pipeline to one file; a file of that name is replaced only once the new one is whole.

    Parameters
    ----------
    pipeline : sklearn.pipeline.Pipeline
        Fitted: CNNDescriptors, unless descriptors come from elsewhere, then the steps of
        :meth:`medvlad.encoders.recipe.Recipe.encoder`, then WideLinearSVC.
    path : path-like
    card : dict, optional
        What is to be known of the model, JSON values: what it was trained on, how well it does. See
        :func:`medvlad.models.model_file.model_card`.

    Raises
    ------
    InputError
        If the steps are others, or the file cannot be written.
    """
    features, steps = _checked(pipeline)
    classifier = steps[-1][1]
    header: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **_network_of(features),
        "n_features": int(steps[0][1].n_features_in_),
        "steps": [describe(name, step) for name, step in steps],
        "classes": classifier.classes_.tolist(),
        "versions": versions(),
        "card": dict(card or {}),
    }
    if classifier.classes_.dtype.kind not in "Uiub":
        raise InputError(
            f"a model file holds class labels that are text or integers, not {classifier.classes_.dtype}"
        )
    arrays = {name: _little_endian(values) for named in steps for name, values in learnt_of(*named).items()}
    try:
        header = json.loads(json.dumps(header, default=_as_json))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the card or a parameter of the model is nothing that JSON holds: {error}"
        ) from error
    try:
        _parts(header, arrays, None)
    except _WRONG as error:
        raise InputError(f"the pipeline would not be read back from a model file: {error}") from error
    text = json.dumps(header | {"digest": _digest(header, arrays)})
    write_file(path, save(arrays, metadata={"medvlad": text}), "model")


def check_readable(path: str | os.PathLike[str], *, of_images: bool = False) -> None:
    """Raise InputError, before the network is started, if `path` holds no model, or none `of_images`."""
    if model_card(path)["features"] is None and of_images:
        raise InputError(
            f"the model {path} is of descriptors from elsewhere and takes no images: load it in Python "
            "(medvlad.load_model) and give it theirs"
        )


def model_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Say what a model file holds, without the network.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    dict
        features and steps (their parameters), classes, weights_fingerprint, versions, card, ...

    Raises
    ------
    InputError
        As :func:`medvlad.load_model`, but for the network's weights.
    """
    header, arrays = _read(Path(path))
    _assembled(header, arrays, path, None)
    return header


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
        Ready to predict class names from image paths or arrays, or from descriptors, where the model was
        trained on such from elsewhere.

    Raises
    ------
    InputError
        If the file is missing, damaged, not a model, of another format version, or the network's weights
        are not those it was trained with.
    """
    header, arrays = _read(Path(path))
    features, steps = _assembled(header, arrays, path, weights)
    if features is None:
        return Pipeline(steps)
    expected = str(header["weights_fingerprint"])
    features.build()
    if features.weights_fingerprint_ != expected:
        raise InputError(
            f"the {features.model} weights {features.weights!r} are not those that {path} was trained with: "
            "give the same weights (--weights FILE) or train the model again"
        )
    return Pipeline([("features", features), *steps])


def _assembled(
    header: dict[str, Any], arrays: Arrays, path: str | os.PathLike[str], weights: str | None
) -> tuple[CNNDescriptors | None, list[tuple[str, Any]]]:
    """Network, not yet built, where the model has one, and the other steps; InputError names `path`."""
    try:
        return _parts(header, arrays, weights)
    except _WRONG as error:
        raise InputError(
            f"{path} is no model that 'medvlad train' wrote, or damaged ({error}): train it again"
        ) from error


def _parts(
    header: dict[str, Any], arrays: Arrays, weights: str | None
) -> tuple[CNNDescriptors | None, list[tuple[str, Any]]]:
    """Do the work of `_assembled`; one of `_WRONG` where header and arrays are none of a model."""
    features = None
    if header["features"] is not None:
        # Nothing else of what the network takes, such as a folder to write into, is a stranger's to say.
        settings = {name: header["features"][name] for name in _NETWORK}
        settings |= {"scales": tuple(settings["scales"])} | ({"weights": weights} if weights else {})
        features = CNNDescriptors(**settings)
        if header.get("ranges") is not None:
            features.ranges_ = {str(name): float(value) for name, value in header["ranges"].items()}
        str(header["weights_fingerprint"])
    classes = np.array(header["classes"])
    if classes.ndim != 1 or not 2 <= len(classes) == len(set(classes.tolist())):
        raise ValueError("classes that are not two or more different ones")
    if not fit_together([str(described["step"]) for described in header["steps"]]):
        raise ValueError("steps that do not follow on each other")
    steps, width = [], int(header["n_features"])
    union: list[tuple[str, Any]] = []
    union_width = 0
    for described in header["steps"]:
        kind, _, part = str(described["step"]).partition(".")
        if union and not part:
            steps.append(("encode", FeatureUnion(union)))
            width, union, union_width = union_width, [], 0
        step, out = make_step(described, arrays, width, len(classes))
        if part:
            union.append((part, step))
            union_width += out
        else:
            steps.append((kind, step))
            width = out
    if union or not isinstance(steps[-1][1], WideLinearSVC):
        raise ValueError("no classifier at the end")
    steps[-1][1].classes_ = classes
    return features, steps


def _network_of(features: CNNDescriptors | None) -> dict[str, Any]:
    """Describe the network; nulls where descriptors come from elsewhere."""
    if features is None:
        return {"features": None, "weights_fingerprint": None, "ranges": None}
    return {
        "features": {name: getattr(features, name) for name in _NETWORK}
        | {"weights": weights_source(features.weights)},
        "weights_fingerprint": features.weights_fingerprint_,
        "ranges": getattr(features, "ranges_", None) if features.dtype == "int8" else None,
    }


def _checked(pipeline: Pipeline) -> tuple[CNNDescriptors | None, list[tuple[str, Any]]]:
    """Return the network, and the steps by their names in the file, encoders side by side one by one."""
    features, rest = network_and_steps(pipeline)
    steps: list[tuple[str, Any]] = []
    for _, step in rest:
        if isinstance(step, PCA) and not isinstance(step.n_components, int | np.integer):
            raise InputError(
                f"a model file holds PCA of a number of components, not of {step.n_components!r}"
            )
        if isinstance(step, FeatureUnion):
            if step.transformer_weights:
                raise InputError(
                    "a model file holds no transformer_weights of a FeatureUnion: leave them out"
                )
            steps += [(f"encode.{name}", part) for name, part in step.transformer_list]
        else:
            steps.append((step_name(step), step))
    fits = all(step_name(step) for _, step in steps) and fit_together([name for name, _ in steps])
    if fits:
        for _, step in steps:
            check_is_fitted(step)
    tiled = [step.encoder_ for _, step in steps if isinstance(step, SpatialTiles) and fits]
    fits = fits and all(step_name(one) == "encode" and not isinstance(one, SpatialTiles) for one in tiled)
    if not fits:
        names = ", ".join(type(step).__name__ for _, step in pipeline.steps)
        raise InputError(
            "a model is CNNDescriptors, unless descriptors come from elsewhere, then what a recipe makes "
            "(DescriptorProjection, VLAD or another encoder, PCA, Normalizer), then WideLinearSVC, in this "
            f"order, not {names}" + ("; tiles are of one encoder" if tiled else "")
        )
    return features, steps


def network_and_steps(pipeline: Pipeline) -> tuple[CNNDescriptors | None, list[tuple[str, Any]]]:
    """Return a pipeline's network, None where descriptors come from elsewhere, and its other steps."""
    if not isinstance(pipeline, Pipeline) or not pipeline.steps:
        hint = ", such as its best_estimator_" if hasattr(pipeline, "best_estimator_") else ""
        raise InputError(f"a model is a fitted Pipeline, not {type(pipeline).__name__}: give one{hint}")
    (_, first), *rest = pipeline.steps
    return (first, rest) if isinstance(first, CNNDescriptors) else (None, list(pipeline.steps))


def _read(path: Path) -> tuple[dict[str, Any], Arrays]:
    """Header and arrays of a model file."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a model file that 'medvlad train' wrote")
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})["medvlad"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except FileNotFoundError as error:
        raise InputError(f"there is no model file {path}: make one with 'medvlad train'") from error
    except MemoryError:
        raise
    except Exception as error:  # what safetensors and json raise on a stranger's bytes has no end
        raise InputError(
            f"{path} is no model that 'medvlad train' wrote, or damaged: name one, or train it again"
        ) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path} is not a medvlad model: name a file that 'medvlad train' wrote")
    if header.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} has model format {header.get('format_version')}, this medvlad reads {FORMAT_VERSION}: "
            "update medvlad or train the model again"
        )
    if not header.keys() <= _HEADER:  # a digest under another name would be none
        raise InputError(f"{path} is damaged, its header holds more than a model's: copy it again")
    # Files from before there was a digest have none.
    digest = header.pop("digest", None)
    if digest is not None and digest != _digest(header, arrays):
        raise InputError(f"{path} is damaged, its digest is another: copy it again, or train the model again")
    return header, arrays


def _digest(header: dict[str, Any], arrays: Arrays) -> str:
    """SHA-256 of the header and of each array's name, dtype, shape and numbers, in the order of names."""
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, values in sorted(arrays.items()):
        content = _little_endian(values)
        found.update(f"\n{name} {content.dtype.str} {values.shape}\n".encode())
        found.update(content.view(np.uint8).data)
    return found.hexdigest()


def _little_endian(values: NDArray[Any]) -> NDArray[Any]:
    """Return `values` as they lie in the file, contiguous and of at least one dimension."""
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<"))


def _as_json(value: Any) -> Any:
    """Turn what JSON does not hold into what it holds."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} of {type(value).__name__}")
