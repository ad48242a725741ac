"""The steps of a model as parameters and arrays, and back: what of each is kept, and what may be believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import Normalizer

from medvlad.encoders.bag_of_words import BagOfWords
from medvlad.encoders.base import Encoder
from medvlad.encoders.fisher import FisherVector
from medvlad.encoders.pooling import GlobalPool
from medvlad.encoders.projection import DescriptorProjection
from medvlad.encoders.recipe import VectorPCA
from medvlad.encoders.second_order import SecondOrderPool
from medvlad.encoders.spatial_tiles import SpatialTiles
from medvlad.encoders.vlad import VLAD
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = ["Arrays", "describe", "fit_together", "learnt_of", "make_step", "step_name"]

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class _Kind:
    """What of an estimator is saved.

    Attributes
    ----------
    step : str
        The step that it is.
    make : type
    parameters : tuple of str
        Of its constructor.
    arrays : dict of str to tuple of str
        What it has learnt, and its shape: of parameters, "in" (the width it is given), "rows" (of weights).
    """

    step: str
    make: type[Any]
    parameters: tuple[str, ...]
    arrays: dict[str, tuple[str, ...]]


_COMPONENTS = {
    "mean_": ("in",),
    "components_": ("n_components", "in"),
    "explained_variance_": ("n_components",),
}
_KINDS = {
    kind.make.__name__: kind
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
        _Kind("reduce", VectorPCA, ("n_components", "whiten"), _COMPONENTS),
        _Kind("normalise", Normalizer, ("norm",), {}),
        _Kind(
            "classify",
            WideLinearSVC,
            ("C", "fit_intercept", "intercept_scaling"),
            {"coef_": ("rows", "in"), "intercept_": ("rows",)},
        ),
    )
}
#: What is learnt with some parameters only.
_LEARNT_IF: dict[str, Callable[[dict[str, Any]], bool]] = {
    **dict.fromkeys(_COMPONENTS, lambda parameters: parameters["n_components"] is not None),
    "alpha_": lambda parameters: parameters["assignment"] == "soft",
    "rotations_": lambda parameters: bool(parameters["local_axes"]),
}
#: What the backends take as it is, and what is divided by or a rate.
_FLOAT32 = ("cluster_centers_", "rotations_", "residual_centers_")
_POSITIVE = ("alpha_", "weights_", "variances_")
#: Beyond these, sums become infinite and then NaN. Rows of rotations are of length 1.
_LARGEST = {"rotations_": 1.001}
_LARGEST_OF_ALL = 1e100
_ORDER = ("descriptors", "encode", "reduce", "normalise", "classify")


def _class_of(step: Any) -> str:
    """Name of an estimator's class; scikit-learn's PCA is read back as the recipe's."""
    return VectorPCA.__name__ if isinstance(step, PCA) else type(step).__name__


def step_name(step: Any) -> str:
    """Name the step that an estimator is; "" for one that is not kept."""
    kind = _KINDS.get(_class_of(step))
    return "" if kind is None else kind.step


def describe(name: str, step: Any) -> dict[str, Any]:
    """Name, class and parameters of a step."""
    kind = _KINDS[_class_of(step)]
    tiled = {"encoder": describe(name, step.encoder_)} if isinstance(step, SpatialTiles) else {}
    return {"step": name, "class": _class_of(step), **tiled} | {
        parameter: getattr(step, parameter) for parameter in kind.parameters
    }


def learnt_of(name: str, step: Any) -> Arrays:
    """Return what a step has learnt, by its names in the file."""
    learner = step.encoder_ if isinstance(step, SpatialTiles) else step
    return {
        f"{name}.{learnt}": np.atleast_1d(getattr(learner, learnt))
        for learnt in _KINDS[_class_of(learner)].arrays
        if hasattr(learner, learnt)
    }


def make_step(described: dict[str, Any], arrays: Arrays, width: int, n_classes: int) -> tuple[Any, int]:
    """Estimator of a step that is given `width` numbers, and how many it gives."""
    parameters = dict(described)
    name, kind = str(parameters.pop("step")), _KINDS[parameters.pop("class")]
    if name.split(".")[0] != kind.step:
        raise ValueError(f"a step {name} of another kind")
    if kind.make is SpatialTiles:
        return _tiled(parameters, arrays, width, n_classes)
    step = kind.make(**{parameter: parameters[parameter] for parameter in kind.parameters})
    step.n_features_in_ = width
    sizes = {"in": width, "one": 1, "rows": 1 if n_classes == 2 else n_classes, **parameters}
    for learnt, shape in kind.arrays.items():
        if learnt in _LEARNT_IF and not _LEARNT_IF[learnt](parameters):
            continue
        if learnt == "residual_centers_" and f"{name}.{learnt}" not in arrays:  # not adapted
            continue
        values = arrays[f"{name}.{learnt}"]
        if values.dtype not in (np.float32, np.float64):
            raise ValueError(f"{name}.{learnt} of dtype {values.dtype}")
        if values.shape != tuple(int(sizes[size]) for size in shape):
            raise ValueError(f"{name}.{learnt} of another shape")
        if learnt in _FLOAT32:
            with np.errstate(over="ignore"):
                values = np.ascontiguousarray(values, np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"numbers of {name}.{learnt} that are not finite")
        if float(np.abs(values).max(initial=0)) > _LARGEST.get(learnt, _LARGEST_OF_ALL):
            raise ValueError(f"numbers of {name}.{learnt} that are too large")
        if learnt == "explained_variance_" and (values < 0).any():
            raise ValueError(f"numbers of {name}.{learnt} below 0")
        if learnt in _POSITIVE and not (values > 0).all():
            raise ValueError(f"numbers of {name}.{learnt} that are not above 0")
        setattr(step, learnt, float(values[0]) if shape == ("one",) else values)
    return step, _width(step, width)


def _tiled(
    parameters: dict[str, Any], arrays: Arrays, width: int, n_classes: int
) -> tuple[SpatialTiles, int]:
    """Tiles and their encoder, and how many numbers those give."""
    encoder, _ = make_step(parameters["encoder"], arrays, width, n_classes)
    if not isinstance(encoder, Encoder) or isinstance(encoder, SpatialTiles):
        raise ValueError("tiles of something else than an encoder")
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
    """How many numbers a step that is given `width` gives."""
    if isinstance(step, Encoder):
        return int(step._n_features_out)
    components = getattr(step, "components_", None)
    return width if components is None else len(components)


def fit_together(names: list[str]) -> bool:
    """Whether steps of these names are a model: one encoder or several side by side, then a classifier."""
    kinds = [name.partition(".")[0] for name in names]
    if not {"encode", "classify"} <= set(kinds) <= set(_ORDER) or len(set(names)) != len(names):
        return False
    side_by_side = "encode" not in names or kinds.count("encode") == 1
    return side_by_side and kinds == sorted(kinds, key=_ORDER.index)
