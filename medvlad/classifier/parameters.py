"""Parameters of an image classifier: those of the preset, checks, and the card of a model file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.multiclass import check_classification_targets

from medvlad._util.network_name import without_folder
from medvlad._util.validate import InputError, check_choice, check_positive_float, check_positive_int
from medvlad.decisions.calibration import AUTO, METHODS
from medvlad.encoders.recipe import PRESETS, Recipe
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.svm.targets import target_matrix

__all__ = [
    "AUGMENTATIONS",
    "OF_NETWORK",
    "Settled",
    "check_classes_left",
    "checked_columns",
    "for_card",
    "has_probabilities",
    "parameters_of",
    "settle",
]

#: Parameters that the network takes as they are.
OF_NETWORK = (
    *("model", "layer", "weights", "mirror", "resize", "batch_size", "dtype", "engine", "n_threads"),
    *("on_error", "on_damage", "colour_profile", "decode", "progress"),
    *("preprocess", "prefix_tokens", "side"),
)
#: Values of `augment`.
AUGMENTATIONS = ("none", "shift")
#: Parameters that belong to the machine, not to the model.
_OF_MACHINE = ("store", "weights", "progress", "n_threads", "backend", "batch_size", "engine", "memory")


@dataclass(frozen=True)
class Settled:
    """Values of the parameters that the preset may set. C is None if it is chosen."""

    model: Any
    layer: str | None
    weights: Any
    encode: str
    scales: Any
    recipe: Recipe
    C: float | None
    class_weight: Any
    calibration: str | None
    augment: bool


def settle(classifier: Any) -> Settled:
    """Check the parameters, and take those that are None from the preset."""
    preset = PRESETS[check_choice(classifier.preset or "paper", "preset", tuple(PRESETS))]

    def value(name: str, default: Any) -> Any:
        given = getattr(classifier, name)
        return preset.get(name, default) if given is None else given

    of_preset = classifier.model is None or classifier.model == preset.get("model")
    named = preset if of_preset else {}  # the layer of another network may not exist
    recipe = classifier.recipe
    if recipe is None:
        known = {field.name for field in fields(Recipe)}
        recipe = Recipe(**{name: one for name, one in preset.items() if name in known})
    penalty, class_weight = value("C", 1.0), value("class_weight", None)
    if isinstance(penalty, str):
        check_choice(penalty, "C", ("cv",))
    calibration = check_choice(value("calibration", AUTO), "calibration", ("none", AUTO, *METHODS))
    check_positive_int(classifier.folds, "folds")
    return Settled(
        model=named.get("model", "vgg19") if classifier.model is None else classifier.model,
        layer=named.get("layer") if classifier.layer is None else classifier.layer,
        weights=named.get("weights", "imagenet") if classifier.weights is None else classifier.weights,
        encode=value("encode", "vlad64") if classifier.preset else classifier.encode or "vlad64",
        scales=value("scales", (0,)),
        recipe=recipe,
        C=None if isinstance(penalty, str) else check_positive_float(penalty, "C"),
        class_weight=None if isinstance(class_weight, str) and class_weight == "none" else class_weight,
        calibration=None if calibration == "none" else calibration,
        augment=check_choice(classifier.augment, "augment", AUGMENTATIONS) == "shift",
    )


def has_probabilities(classifier: Any) -> bool:
    """Return whether a classifier gives probabilities, or will give them once it is fitted."""
    if hasattr(classifier, "pipeline_"):
        return hasattr(classifier.pipeline_[-1], "predict_proba")
    return settle(classifier).calibration is not None


def checked_columns(
    n: int, y: ArrayLike, groups: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return `y` and `groups` as arrays, and check their lengths. `y` must not be numbers."""
    if y is None:
        raise InputError("y must hold the class of each image, got None: give a list with one class an image")
    labels = np.asarray(y)
    if labels.ndim == 2:
        labels = target_matrix(y, "y")
    patients = None if groups is None else np.asarray(groups)
    for name, values in (("y", labels[:, 0] if labels.ndim == 2 else labels), ("groups", patients)):
        if values is not None and values.shape != (n,):
            raise InputError(f"{name} has shape {values.shape}, expected ({n},): one value an image")
    if labels.ndim == 1:
        _check_classes(labels)
    return labels, patients


def _check_classes(labels: NDArray[Any]) -> None:
    if labels.dtype.kind == "f":
        other = labels[~np.isfinite(labels) | (labels != np.floor(labels))]
        if len(other):
            raise InputError(
                f"y must hold the class of each image, and holds numbers such as {other[0]:g}: to predict "
                "numbers, use medvlad.svm.WideRidge after an encoder, or the command 'medvlad train' with "
                "--task regression"
            )
    try:
        check_classification_targets(labels)
    except ValueError as error:
        raise InputError(
            f"y must hold the class of each image, such as texts or integers: {error}"
        ) from error


def check_classes_left(labels: NDArray[Any], kept: NDArray[np.intp]) -> None:
    """Refuse a training set in which a class has lost all of its images."""
    if labels.ndim == 2:  # a label may be missing from all images that are left; that is found later
        return
    missing = [str(one) for one in np.unique(labels) if one not in labels[kept]]
    if missing:
        raise InputError(
            f"no usable training image is left of {', '.join(missing)}: add some or remove the class"
        )


def for_card(classifier: Any) -> dict[str, Any]:
    """Return the parameters as JSON values, for the card of a model file."""
    parameters = {k: v for k, v in classifier.get_params(deep=False).items() if k not in _OF_MACHINE}
    if classifier.recipe is not None:
        parameters["recipe"] = asdict(classifier.recipe)
    parameters["model"] = without_folder(settle(classifier).model)  # the header says where the file is
    if isinstance(classifier.class_weight, dict):
        parameters["class_weight"] = None  # its keys are class labels, which JSON would turn into text
    if isinstance(classifier.scales, Sequence):
        parameters["scales"] = list(classifier.scales)
    return parameters


def parameters_of(pipeline: Pipeline, card: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the parameters `names` of a loaded pipeline, from its card and its network."""
    written = card.get("parameters")
    known = {name: one for name, one in written.items() if name in names} if isinstance(written, dict) else {}
    if known.get("recipe") is not None:
        tiles = tuple((int(rows), int(columns)) for rows, columns in known["recipe"].pop("tiles", ()))
        known["recipe"] = Recipe(**known["recipe"], tiles=tiles)
    network = pipeline[0]
    if isinstance(network, CNNDescriptors):
        known |= {name: getattr(network, name) for name in OF_NETWORK} | {"scales": network.scales}
    return known
