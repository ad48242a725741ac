"""Convert the steps of a model to parameters and arrays, and back.

A table lists the parameters and the fitted arrays of each estimator that a model file can hold. Arrays from a
file are checked before they become part of an estimator: dtype, shape, finite, within range.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import Normalizer

from medvlad._util.loaded_class import is_instance_of
from medvlad.decisions.calibrated_svc import CalibratedSVC
from medvlad.encoders.bag_of_words import BagOfWords
from medvlad.encoders.base import Encoder
from medvlad.encoders.fisher import FisherVector
from medvlad.encoders.pooling import GlobalPool
from medvlad.encoders.projection import DescriptorProjection
from medvlad.encoders.second_order import SecondOrderPool
from medvlad.encoders.spatial_tiles import SpatialTiles
from medvlad.encoders.vlad import VLAD
from medvlad.models.calibrated_file import calibrated_arrays, describe_calibrated, make_calibrated
from medvlad.svm.multi_label import MultiLabelSVC
from medvlad.svm.wide_linear_svc import WideLinearSVC
from medvlad.svm.wide_ridge import WideRidge

__all__ = ["Arrays", "describe", "fit_together", "learnt_of", "make_step", "step_name"]

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class _Kind:
    """What a model file holds of an estimator.

    Attributes
    ----------
    step : str
        Name of the step in which the estimator can stand.
    make : type or str
        Class of the estimator. A class whose import takes long is a name, such as "sklearn.svm.SVC", and is
        imported at its first use.
    parameters : tuple of str
        Names of the constructor's parameters that are saved.
    arrays : dict of str to tuple of str
        Names of the fitted arrays, and their shapes. A size is the name of a parameter, or "in" (width of the
        input), "rows" (number of rows of the classifier's weights), "targets" (number of labels or numbers),
        "one" or "two".
    """

    step: str
    make: type[Any] | str
    parameters: tuple[str, ...]
    arrays: dict[str, tuple[str, ...]]

    @property
    def name(self) -> str:
        return self.make.rpartition(".")[2] if isinstance(self.make, str) else self.make.__name__

    def new(self, **parameters: Any) -> Any:
        """Return an estimator that is not fitted."""
        if not isinstance(self.make, str):
            return self.make(**parameters)
        module, _, name = self.make.rpartition(".")
        return getattr(import_module(module), name)(**parameters)


_COMPONENTS = {
    "mean_": ("in",),
    "components_": ("n_components", "in"),
    "explained_variance_": ("n_components",),
}
_LINEAR = {"coef_": ("rows", "in"), "intercept_": ("rows",)}
_KINDS = {
    kind.name: kind
    for kind in (
        _Kind("descriptors", DescriptorProjection, ("n_components", "l2_norm", "whiten"), _COMPONENTS),
        _Kind(
            "encode",
            VLAD,
            (
                "n_clusters",
                "assignment",
                "n_nearest",
                "power",
                "residual_norm",
                "mass_norm",
                "local_axes",
                "intra_norm",
                "l2_norm",
            ),
            {
                "cluster_centers_": ("n_clusters", "in"),
                "alpha_": ("one",),
                "rotations_": ("n_clusters", "in", "in"),
                "residual_centers_": ("n_clusters", "in"),
            },
        ),
        _Kind("encode", GlobalPool, ("mode", "l2_norm", "p"), {}),
        _Kind(
            "encode",
            FisherVector,
            ("n_components", "power", "l2_norm"),
            {
                "weights_": ("n_components",),
                "means_": ("n_components", "in"),
                "variances_": ("n_components", "in"),
            },
        ),
        _Kind(
            "encode",
            BagOfWords,
            ("n_clusters", "tf_idf", "l2_norm"),
            {"cluster_centers_": ("n_clusters", "in"), "idf_": ("n_clusters",)},
        ),
        _Kind("encode", SecondOrderPool, ("mode", "power", "l2_norm", "epsilon"), {}),
        _Kind("encode", SpatialTiles, ("grids", "mirrored", "tiles", "l2_norm"), {}),
        _Kind("reduce", "medvlad.encoders.vector_pca.VectorPCA", ("n_components", "whiten"), _COMPONENTS),
        _Kind("normalise", Normalizer, ("norm",), {}),
        _Kind(
            "classify",
            WideLinearSVC,
            ("C", "fit_intercept", "intercept_scaling"),
            _LINEAR,
        ),
        _Kind(
            "classify",
            "sklearn.linear_model.LogisticRegression",
            ("C", "fit_intercept", "solver"),
            _LINEAR,
        ),
        _Kind("classify", CalibratedSVC, (), {}),
        _Kind(
            "classify",
            MultiLabelSVC,
            ("C", "fit_intercept", "intercept_scaling"),
            {
                "coef_": ("targets", "in"),
                "intercept_": ("targets",),
                "thresholds_": ("targets",),
                "platt_": ("targets", "two"),
            },
        ),
        _Kind(
            "classify",
            WideRidge,
            ("alpha", "fit_intercept"),
            {"coef_": ("targets", "in"), "intercept_": ("targets",), "alpha_": ("targets",)},
        ),
    )
}
#: Arrays that exist only with some parameters.
_LEARNT_IF: dict[str, Callable[[dict[str, Any]], bool]] = {
    **dict.fromkeys(_COMPONENTS, lambda parameters: parameters["n_components"] is not None),
    "alpha_": lambda parameters: parameters.get("assignment", "soft") == "soft",
    "rotations_": lambda parameters: bool(parameters["local_axes"]),
}
#: Arrays that only some fitted estimators have: an adapted VLAD, calibrated labels.
_OPTIONAL = ("residual_centers_", "platt_")
#: Arrays that the backends use as float32.
_FLOAT32 = ("cluster_centers_", "rotations_", "residual_centers_")
#: Arrays that later steps divide by or use as rates, so they must be above 0.
_POSITIVE = ("alpha_", "weights_", "variances_")
#: Largest absolute values. Beyond these, sums overflow and become NaN. The rows of a rotation have length 1.
_LARGEST = {"rotations_": 1.001}
_LARGEST_OF_ALL = 1e100
_ORDER = ("descriptors", "encode", "reduce", "normalise", "classify")


def _class_of(step: Any) -> str:
    """Return the name of an estimator's class. scikit-learn's PCA is loaded as the recipe's VectorPCA."""
    return "VectorPCA" if _is_pca(step) else type(step).__name__


def _is_pca(step: Any) -> bool:
    return is_instance_of(step, "sklearn.decomposition", "PCA")


def step_name(step: Any) -> str:
    """Return the name of the step in which an estimator stands, or "" if a model file cannot hold it."""
    kind = _KINDS.get(_class_of(step))
    return "" if kind is None else kind.step


def describe(name: str, step: Any) -> dict[str, Any]:
    """Return the name, the class and the parameters of a step as they stand in the header."""
    kind = _KINDS[_class_of(step)]
    inner: dict[str, Any] = {}
    if isinstance(step, SpatialTiles):
        inner = {"encoder": describe(name, step.encoder_)}
    elif isinstance(step, CalibratedSVC):
        inner = {"classifier": describe(name, step.classifier_), **describe_calibrated(step)}
    described = {parameter: getattr(step, parameter) for parameter in kind.parameters}
    if _is_pca(step):  # whitening may have kept fewer components than it was asked for
        described["n_components"] = len(step.components_)
    if isinstance(step, WideRidge):  # y had one dimension, and so have predictions
        described["one_dimension"] = step.coef_.ndim == 1
    return {"step": name, "class": _class_of(step), **inner, **described}


def learnt_of(name: str, step: Any) -> Arrays:
    """Return the fitted arrays of a step under their names in the file."""
    if isinstance(step, CalibratedSVC):
        return learnt_of(name, step.classifier_) | calibrated_arrays(name, step)
    learner = step.encoder_ if isinstance(step, SpatialTiles) else step
    at_least = {"coef_": np.atleast_2d} if isinstance(step, WideRidge) else {}
    return {
        f"{name}.{learnt}": at_least.get(learnt, np.atleast_1d)(getattr(learner, learnt))
        for learnt in _KINDS[_class_of(learner)].arrays
        if hasattr(learner, learnt)
    }


def make_step(described: dict[str, Any], arrays: Arrays, width: int, n_classes: int) -> tuple[Any, int]:
    """Make the fitted estimator of a step.

    Parameters
    ----------
    described : dict
        Name, class and parameters of the step, as :func:`describe` returns them.
    arrays : dict of str to ndarray
        All arrays of the file.
    width : int
        Width of the step's input.
    n_classes : int
        Number of classes of the model.

    Returns
    -------
    estimator
        The fitted step.
    int
        Width of its output.

    Raises
    ------
    KeyError, TypeError, ValueError
        If a parameter or an array is missing or invalid.
    """
    parameters = dict(described)
    name, kind = str(parameters.pop("step")), _KINDS[parameters.pop("class")]
    if name.split(".")[0] != kind.step:
        raise ValueError(f"{kind.name} cannot be the step {name}")
    if kind.make is SpatialTiles:
        return _tiled(parameters, arrays, width, n_classes)
    if kind.make is CalibratedSVC:
        svm, _ = make_step(parameters["classifier"], arrays, width, n_classes)
        if not isinstance(svm, WideLinearSVC):
            raise ValueError("its calibrated classifier is not a WideLinearSVC")
        return make_calibrated(parameters, arrays, name, svm, n_classes), width
    step = kind.new(**{parameter: parameters[parameter] for parameter in kind.parameters})
    step.n_features_in_ = width
    rows = 1 if n_classes == 2 else n_classes
    sizes = {"in": width, "one": 1, "two": 2, "rows": rows, "targets": n_classes, **parameters}
    for learnt, shape in kind.arrays.items():
        if learnt in _LEARNT_IF and not _LEARNT_IF[learnt](parameters):
            continue
        if learnt in _OPTIONAL and f"{name}.{learnt}" not in arrays:
            continue
        expected = tuple(int(sizes[size]) for size in shape)
        values = _checked_array(arrays[f"{name}.{learnt}"], f"{name}.{learnt}", learnt, expected)
        setattr(step, learnt, float(values[0]) if shape == ("one",) else values)
    if kind.make is WideRidge and parameters["one_dimension"]:
        step.coef_, step.intercept_ = step.coef_[0], float(step.intercept_[0])
    return step, _width(step, width)


def _checked_array(values: NDArray[Any], name: str, learnt: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return an array of a file, or raise ValueError if it cannot be the fitted attribute `learnt`."""
    if values.dtype not in (np.float32, np.float64):
        raise ValueError(f"{name} has dtype {values.dtype} instead of float32 or float64")
    if values.shape != shape:
        raise ValueError(f"{name} has shape {values.shape} instead of {shape}")
    if learnt in _FLOAT32:
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds numbers that are not finite")
    if float(np.abs(values).max(initial=0)) > _LARGEST.get(learnt, _LARGEST_OF_ALL):
        raise ValueError(f"{name} holds numbers that are too large")
    if learnt == "explained_variance_" and (values < 0).any():
        raise ValueError(f"{name} holds numbers below 0")
    if learnt in _POSITIVE and not (values > 0).all():
        raise ValueError(f"{name} holds numbers that are not above 0")
    return values


def _tiled(
    parameters: dict[str, Any], arrays: Arrays, width: int, n_classes: int
) -> tuple[SpatialTiles, int]:
    """Make SpatialTiles with its fitted encoder, and return the width of its output as well."""
    encoder, _ = make_step(parameters["encoder"], arrays, width, n_classes)
    if not isinstance(encoder, Encoder) or isinstance(encoder, SpatialTiles):
        raise ValueError("its tiles hold a step that is not an encoder")
    pairs = {name: tuple((int(h), int(w)) for h, w in parameters[name]) for name in ("grids", "tiles")}
    mirrored = parameters["mirrored"]
    step = SpatialTiles(
        encoder,
        **pairs,
        mirrored=None if mirrored is None else tuple(map(bool, mirrored)),
        l2_norm=bool(parameters["l2_norm"]),
    )
    step.encoder_, step.n_features_in_ = encoder, width
    return step, _width(step, width)


def _width(step: Any, width: int) -> int:
    """Return the width of a step's output if its input has the width `width`."""
    if isinstance(step, Encoder):
        return int(step._n_features_out)
    components = getattr(step, "components_", None)
    return width if components is None else len(components)


def fit_together(names: list[str]) -> bool:
    """Return whether steps of these names form a model.

    A model has one encoder or several parallel ones, then a classifier, and optional steps in a fixed order.
    """
    kinds = [name.partition(".")[0] for name in names]
    if not {"encode", "classify"} <= set(kinds) <= set(_ORDER) or len(set(names)) != len(names):
        return False
    one_or_parallel = "encode" not in names or kinds.count("encode") == 1
    return one_or_parallel and kinds == sorted(kinds, key=_ORDER.index)
