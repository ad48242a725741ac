"""Save a fitted pipeline as one file and load it again. Opening a stranger's file runs no code.

The file is in the safetensors format: named arrays, and one text named "medvlad" in its metadata. The text is
JSON::

    header          format, format_version, parameters of the network and of every other step, class names,
                    fingerprint of the network's weights, versions,
                    card: what the model was trained on,
                    digest: SHA-256 of everything else, which detects damaged files
    STEP.ATTRIBUTE  a fitted attribute of a step: "encode.cluster_centers_", "classify.coef_", ...

Parallel encoders are the steps "encode.avg", "encode.vlad64", and so on. The network's weights are not in the
file, because they are large and the fingerprint identifies them. They are read from where they were at
training time, or from `weights`, and refused if the fingerprint differs. A model that was trained on
descriptors names no network.
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
from safetensors.numpy import load, save
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils.validation import check_is_fitted

from medvlad._util.loaded_class import is_instance_of
from medvlad._util.object_path import ObjectPath, location, save_bytes
from medvlad._util.validate import InputError
from medvlad._util.versions import versions
from medvlad.encoders.spatial_tiles import SpatialTiles
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.models.heads import check_names, name_head, names_of_head, task_of_head
from medvlad.models.model_steps import Arrays, describe, fit_together, learnt_of, make_step, step_name
from medvlad.models.network_entry import check_network_file, network_entries, network_from

__all__ = [
    "FORMAT_VERSION",
    "check_readable",
    "digest_of",
    "load_model",
    "model_card",
    "model_of",
    "network_and_steps",
    "network_of_file",
    "save_model",
    "task_of_file",
]

FORMAT = "medvlad-model"
FORMAT_VERSION = 5

#: Versions that can be read. For version 3 see :func:`_refuse_other_arithmetic`.
_READABLE = (3, 4, FORMAT_VERSION)

_BEGINNING = 4096  # bytes that tell a model file
#: Exceptions that an invalid header can cause.
_INVALID = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)

#: All keys that a header may have.
_HEADER = {
    *("format", "format_version", "features", "weights_fingerprint", "ranges", "n_features", "steps"),
    *("classes", "versions", "card", "digest"),
}

Steps = list[tuple[str, Any]]


def save_model(
    pipeline: Pipeline,
    path: str | os.PathLike[str],
    *,
    card: Mapping[str, Any] | None = None,
    anonymise: bool = False,
) -> None:
    """Save a fitted pipeline to one file. The write is atomic: an existing file stays until it is complete.

    Parameters
    ----------
    pipeline : sklearn.pipeline.Pipeline
        Fitted pipeline: CNNDescriptors (not if the input is descriptors), then the steps of
        :meth:`medvlad.encoders.recipe.Recipe.encoder`, then WideLinearSVC, CalibratedSVC, MultiLabelSVC,
        WideRidge or scikit-learn's LogisticRegression.
    path : path-like or URL
        File to write, on this machine or in object storage, such as ``s3://bucket/xray.model``.
    card : dict, optional
        Notes on the model as JSON values, such as the training data and the accuracy. Read them with
        :func:`medvlad.models.model_file.model_card`. None: no notes.
    anonymise : bool, default=False
        Whether to leave out the folders of the network's files. Their names stay. The model is then loaded
        from their folder, or with `weights`.

    Raises
    ------
    InputError
        If the pipeline has other steps, a value is not JSON, or the file cannot be written.
    """
    features, steps = _checked(pipeline)
    names = names_of_head(steps[-1][1])
    header: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **network_entries(features, anonymise=anonymise),
        "n_features": int(steps[0][1].n_features_in_),
        "steps": [describe(name, step) for name, step in steps],
        "classes": names.tolist(),
        "versions": versions(),
        "card": dict(card or {}),
    }
    if names.dtype.kind not in "Uiub":
        raise InputError(
            f"class labels have dtype {names.dtype}, but a model file holds text or integers: "
            "convert y and fit again"
        )
    arrays = {name: _little_endian(values) for named in steps for name, values in learnt_of(*named).items()}
    try:
        header = json.loads(json.dumps(header, default=_as_json))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the card or a parameter of the model cannot be written as JSON ({error}): "
            "use text, numbers, lists and dicts with text keys"
        ) from error
    try:
        _build(header, arrays, None)
    except _INVALID as error:
        raise InputError(
            f"the saved pipeline could not be loaded again, so nothing was written: {error}"
        ) from error
    text = json.dumps(header | {"digest": _digest(header, arrays)})
    save_bytes(path, save(arrays, metadata={"medvlad": text}), "model")


def check_readable(path: str | os.PathLike[str]) -> None:
    """Raise InputError if a file is not a valid model file. The network is not started."""
    model_card(path)


def task_of_file(path: str | os.PathLike[str]) -> str:
    """Return what the model in a file predicts: "classes", "labels" or "regression".

    It raises as :func:`model_card`. The network is not started.
    """
    header, arrays = _read(location(path, "the model"))
    return task_of_head(_assembled(header, arrays, path, None)[1][-1][1])


def is_model_file(path: Path) -> bool:
    """Return whether a file begins like a model file. It may be damaged."""
    with path.open_ranges() if isinstance(path, ObjectPath) else path.open("rb") as file:
        beginning = file.read(_BEGINNING)
    return beginning[8:9] == b"{" and b"medvlad" in beginning


def model_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a model file says about itself, without starting the network.

    Parameters
    ----------
    path : path-like
        Model file.

    Returns
    -------
    dict
        Keys: features and steps (their parameters), classes, weights_fingerprint, versions, card, and others.

    Raises
    ------
    InputError
        As :func:`medvlad.load_model`, except that the network's weights are not checked.
    """
    header, arrays = _read(location(path, "the model"))
    _assembled(header, arrays, path, None)
    return header


def network_of_file(path: str | os.PathLike[str], *, weights: str | None = None) -> CNNDescriptors | None:
    """Return the network of a model file, not built yet. None: the model was trained on descriptors.

    See :func:`load_model` for `weights`. They are not checked.
    """
    header, arrays = _read(location(path, "the model"))
    return _assembled(header, arrays, path, weights)[0]


def digest_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of everything in a model file, in a fixed order. It raises as :func:`model_card`."""
    return _digest(*_read(location(path, "the model")))


def model_of(path: str | os.PathLike[str]) -> str:
    """Return the name of the network of a model file, such as "vgg16". "" if it has none."""
    features = model_card(path)["features"]
    return "" if features is None else str(features["model"])


def load_model(path: str | os.PathLike[str], *, weights: str | None = None) -> Pipeline:
    """Load a pipeline that :func:`save_model` wrote.

    Parameters
    ----------
    path : path-like or URL
        Model file.
    weights : str or None
        File with the network's weights, or the ONNX file. None: where it was when the model was trained.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Predicts class names from image paths or arrays, or from descriptors if it was trained on them.

    Raises
    ------
    InputError
        If the file is missing, damaged, not a model or of another format version, or if the weights are
        missing or differ from those of the training.
    """
    header, arrays = _read(location(path, "the model"))
    features, steps = _assembled(header, arrays, path, weights)
    if features is None:
        return Pipeline(steps)
    if weights is None:
        check_network_file(features, path)
    features.build()
    if features.weights_fingerprint_ != str(header["weights_fingerprint"]):
        raise InputError(
            f"the {features.model} weights {features.weights!r} are not those that {path} was trained with: "
            "give the same weights (weights='FILE') or train the model again"
        )
    return Pipeline([("features", features), *steps])


def network_and_steps(pipeline: Pipeline) -> tuple[CNNDescriptors | None, Steps]:
    """Split a pipeline into its network and its other steps. The network is None if X is descriptors."""
    if not isinstance(pipeline, Pipeline) or not pipeline.steps:
        hint = ", such as its best_estimator_" if hasattr(pipeline, "best_estimator_") else ""
        raise InputError(f"a model is a fitted Pipeline, not {type(pipeline).__name__}: give one{hint}")
    (_, first), *others = pipeline.steps
    return (first, others) if isinstance(first, CNNDescriptors) else (None, list(pipeline.steps))


def _assembled(
    header: dict[str, Any], arrays: Arrays, path: str | os.PathLike[str], weights: str | None
) -> tuple[CNNDescriptors | None, Steps]:
    """Make the network (not built yet, or None) and the other steps. InputError names `path`."""
    try:
        return _build(header, arrays, weights)
    except _INVALID as error:
        raise InputError(
            f"{path} is not a valid model file ({error}): copy it again, or train the model again"
        ) from error


def _build(
    header: dict[str, Any], arrays: Arrays, weights: str | None
) -> tuple[CNNDescriptors | None, Steps]:
    """Do the work of `_assembled`. Raise one of `_INVALID` if the header or the arrays are invalid."""
    features = None if header["features"] is None else network_from(header, weights)
    classes = np.array(header["classes"])
    if classes.ndim != 1:
        raise ValueError("its classes are not a list of labels")
    if not fit_together([str(described["step"]) for described in header["steps"]]):
        raise ValueError("its steps do not form a pipeline")
    steps = _steps_from(header, arrays, len(classes))
    check_names(steps[-1][1], classes)
    name_head(steps[-1][1], classes)
    return features, steps


def _steps_from(header: dict[str, Any], arrays: Arrays, n_classes: int) -> Steps:
    """Make the fitted steps after the network. Steps "encode.NAME" become one FeatureUnion."""
    steps: Steps = []
    width = int(header["n_features"])
    union: Steps = []
    union_width = 0
    for described in header["steps"]:
        kind, _, part = str(described["step"]).partition(".")
        if union and not part:
            steps.append(("encode", FeatureUnion(union)))
            width, union, union_width = union_width, [], 0
        step, out = make_step(described, arrays, width, n_classes)
        if part:
            union.append((part, step))
            union_width += out
        else:
            steps.append((kind, step))
            width = out
    if union or step_name(steps[-1][1]) != "classify":
        raise ValueError("its last step is not a classifier")
    return steps


def _checked(pipeline: Pipeline) -> tuple[CNNDescriptors | None, Steps]:
    """Return the network, and the other steps under their names in the file.

    Parallel encoders become one step each.

    Raises
    ------
    InputError
        If the pipeline has a step that a model file cannot hold, or the steps are in another order.
    NotFittedError
        If a step is not fitted.
    """
    features, others = network_and_steps(pipeline)
    steps: Steps = [named for _, step in others for named in _named(step)]
    is_model = all(step_name(step) for _, step in steps) and fit_together([name for name, _ in steps])
    has_nested_tiles = False
    if is_model:
        for _, step in steps:
            check_is_fitted(step)
        inner = [step.encoder_ for _, step in steps if isinstance(step, SpatialTiles)]
        has_nested_tiles = any(step_name(e) != "encode" or isinstance(e, SpatialTiles) for e in inner)
    if has_nested_tiles:
        raise InputError(
            "a model file holds tiles of one encoder, not of several encoders or of other tiles: "
            "give SpatialTiles a single encoder"
        )
    if not is_model:
        names = ", ".join(type(step).__name__ for _, step in pipeline.steps)
        raise InputError(
            f"a model file cannot hold the steps {names}: use CNNDescriptors (not for descriptors as input), "
            "then the steps of a Recipe (DescriptorProjection, VLAD or another encoder, PCA, Normalizer), "
            "then WideLinearSVC, CalibratedSVC, MultiLabelSVC, WideRidge or LogisticRegression, in this order"
        )
    return features, steps


def _named(step: Any) -> Steps:
    """Return a step under its name in the file, or the parts of a FeatureUnion under theirs."""
    is_pca = is_instance_of(step, "sklearn.decomposition", "PCA")
    if is_pca and not isinstance(step.n_components, int | np.integer):
        raise InputError(
            f"PCA has n_components={step.n_components!r}, but a model file needs an integer: "
            "set one and fit again"
        )
    if not isinstance(step, FeatureUnion):
        return [(step_name(step), step)]
    if step.transformer_weights:
        raise InputError("a model file cannot hold transformer_weights of a FeatureUnion: leave them out")
    return [(f"encode.{name}", part) for name, part in step.transformer_list]


def _read(path: Path) -> tuple[dict[str, Any], Arrays]:
    """Read the header and the arrays of a model file, and check format, version and digest."""
    if not isinstance(path, ObjectPath) and path.is_dir():
        raise InputError(f"{path} is a folder: give the path of a model file that 'medvlad train' wrote")
    try:
        if isinstance(path, ObjectPath):
            header, arrays = _of_object(path)
        else:
            with safe_open(path, framework="numpy") as file:
                header = json.loads((file.metadata() or {})["medvlad"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"there is no model file {path}: make one with 'medvlad train'") from error
    except MemoryError:
        raise
    except Exception as error:  # safetensors and json raise many kinds of errors on arbitrary bytes
        raise InputError(
            f"{path} is damaged or not a model file: give the model first, copy it again, or make one with "
            "'medvlad train'"
        ) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path} is not a medvlad model: give a file that 'medvlad train' wrote")
    if header.get("format_version") not in _READABLE:
        raise InputError(
            f"{path} has model format {header.get('format_version')}, but this version of medvlad reads "
            f"formats {_READABLE[0]} to {FORMAT_VERSION}: update medvlad or train the model again"
        )
    # A damaged key, such as "eigest", would hide that the file had a digest.
    if not header.keys() <= _HEADER:
        raise InputError(f"{path} is damaged, its header has unknown keys: copy it again")
    digest = header.pop("digest", None)  # older files have no digest
    if digest is not None and digest != _digest(header, arrays):
        raise InputError(
            f"{path} is damaged, its content does not match its digest: copy it again, "
            "or train the model again"
        )
    if header["format_version"] == 3:
        _refuse_other_arithmetic(header, path)
    return header, arrays


def _of_object(path: ObjectPath) -> tuple[Any, Arrays]:
    """Return the header and the arrays of a model in object storage."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(
            f"the model {path} cannot be read ({error.strerror}): check its address and the network"
        ) from None
    length = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["medvlad"]), load(content)


def _refuse_other_arithmetic(header: dict[str, Any], path: Path) -> None:
    """Raise InputError for a model of format 3 whose vectors are computed otherwise today.

    The mass of unit residuals was a sum of inverse lengths then. The classifier was trained on such vectors.
    """
    steps = header.get("steps")
    described = [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    described += [step["encoder"] for step in described if isinstance(step.get("encoder"), dict)]
    if any(step.get("residual_norm") and step.get("mass_norm") for step in described):
        raise InputError(
            f"{path} was trained with residual_norm and mass_norm together by a version of medvlad that "
            "computed them otherwise: train the model again"
        )


def _digest(header: dict[str, Any], arrays: Arrays) -> str:
    """Return the SHA-256 of the header and of each array's name, dtype, shape and numbers, sorted by name."""
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, values in sorted(arrays.items()):
        content = _little_endian(values)
        found.update(f"\n{name} {content.dtype.str} {values.shape}\n".encode())
        found.update(content.view(np.uint8).data)
    return found.hexdigest()


def _little_endian(values: NDArray[Any]) -> NDArray[Any]:
    """Return `values` as the file stores them: little-endian, contiguous, at least one dimension."""
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<"))


def _as_json(value: Any) -> Any:
    """Convert a path or a NumPy scalar to a JSON value."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} of {type(value).__name__}")
