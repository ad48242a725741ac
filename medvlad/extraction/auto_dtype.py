"""Choose the dtype of the network's arithmetic for ``dtype="auto"``.

::

    accuracy      dtypes that are as accurate as float32 on the published sets, for this network
    processor     those of them for which it reports instructions, and that have an engine here
    training      int8 only with at least 4,096 training images
    trial         images per second of each, measured once per machine, see dtype_trial.py
    choice        the most exact dtype, unless the next one is at least 1.2 times as fast; and so on

Accuracy was measured with `medvlad evaluate` at scale 0, on chest X-rays, HyperKvasir and rooms:
docs/howto/network.md has the paired differences and their intervals. A network that is not in
`_AS_ACCURATE` keeps float32. VGG19 is not measured. It has the layers of VGG16, and three more of their kind.

int8 needs the ranges of activations on 128 training images, which a float32 engine measures at each `fit`.
This takes as long as int8 saves on about 2,500 images, so int8 pays only for large data sets.

The choice is the same on every run of a machine whose cache folder can be written: accuracy, processor and
number of images do not vary, and the trial is kept. Neither the number of threads nor the weights matter. An
estimator keeps its choice until `fit` is called again or its network changes. Another `engine` or `output`
does not change it, because a model needs descriptors of the dtype that it was trained on. The choice is
written into the store, results and models as if it had been given, so numbers of different dtypes stay apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from medvlad._util.processor_model import processor_model
from medvlad._util.validate import InputError, MissingExtraError
from medvlad._util.versions import versions
from medvlad.backends import backend_state
from medvlad.extraction.dtype_trial import kept_rates, measured_rates
from medvlad.extraction.engines import choose_engine
from medvlad.extraction.engines.accelerators import may_have_gpu
from medvlad.extraction.networks import FrozenNetwork
from medvlad.extraction.plain_network import LAST_LAYER, PlainModel, random_vgg16

__all__ = ["arithmetic_in_words", "auto_dtype", "settled_dtype", "trial_in_words", "try_vgg16"]

#: Dtypes that are as accurate as float32 on the published sets, by network, the most exact first.
_AS_ACCURATE = {
    "vgg16": ("bfloat16", "int8"),
    "vgg19": ("bfloat16", "int8"),
    "efficientnet-lite2": ("bfloat16",),
}
#: Instructions that make a dtype fast. One of them is enough.
_INSTRUCTIONS = {
    "bfloat16": ("amx_bf16", "avx512_bf16"),
    "int8": ("amx_int8", "avx512_vnni", "avx_vnni"),
}
#: Engines that are compared. Each computes in a dtype of its own, and does not start a GPU.
_ENGINES = {"float32": ("native", "openvino"), "bfloat16": ("openvino",), "int8": ("openvino",)}
#: A less exact dtype must be so many times as fast.
_GAIN = 1.2
#: Least number of training images for int8.
_INT8_IMAGES = 4096


class _Trial(NamedTuple):
    """Engine of each dtype that is worth a trial, and the key of the trial. `why`: why there is no trial."""

    engines: dict[str, str]
    key: dict[str, Any]
    why: str


def settled_dtype(features: Any, network: FrozenNetwork, n_images: int | None = None) -> str:
    """Return the dtype that a CNNDescriptors computes in.

    Parameters
    ----------
    features : CNNDescriptors
    network : FrozenNetwork
    n_images : int or None, default=None
        Number of training images, if `fit` was called. None: keep what was settled before for the same
        network, so that a model predicts in the dtype that it was trained in.

    Returns
    -------
    {"float32", "bfloat16", "int8"}
    """
    if features.dtype != "auto":
        return str(features.dtype)
    key = (network.fingerprint, network.layer)
    settled: tuple[Any, str] = getattr(features, "_settled_dtype", (None, ""))
    if n_images is None and settled[0] == key:
        return settled[1]
    chosen = auto_dtype(
        network.cut,
        _name(network),
        network.layer,
        engine=features.engine,
        output=features.output,
        n_images=n_images or 0,
    )
    features._settled_dtype = key, chosen
    return chosen


def auto_dtype(
    cut: Any,
    name: str | None,
    layer: str,
    *,
    engine: str = "auto",
    output: str = "host",
    n_images: int = 0,
) -> str:
    """Return the dtype that "auto" stands for. The first call on a machine takes some seconds.

    Parameters
    ----------
    cut : keras.Model, PlainModel, OnnxCut or TorchCut
        The network.
    name : str or None
        Name of the network. None: Keras does not define it.
    layer : str
        Layer of the descriptors.
    engine, output
        Parameters of :class:`medvlad.CNNDescriptors`.
    n_images : int, default=0
        Number of training images.

    Returns
    -------
    {"float32", "bfloat16", "int8"}
    """
    trial = _trial(cut, name, layer, engine, output)
    return "float32" if trial.why else _fastest(measured_rates(cut, trial.key), n_images)


def _fastest(rates: Mapping[str, float], n_images: int) -> str:
    """Return the dtype to use: a less exact one only if it is clearly faster."""
    chosen = "float32"
    for dtype in ("bfloat16", "int8"):
        is_allowed = dtype != "int8" or n_images >= _INT8_IMAGES
        if is_allowed and rates.get(dtype, 0) >= _GAIN * rates[chosen]:
            chosen = dtype
    return chosen


def _name(network: FrozenNetwork) -> str | None:
    return network.model.lower() if network.kind == "keras" else None


def _trial(cut: Any, name: str | None, layer: str, engine: str, output: str) -> _Trial:
    """Return what to try for a network."""
    as_accurate = _AS_ACCURATE.get(name or "")
    if as_accurate is None:
        known = ", ".join(_AS_ACCURATE)
        return _Trial({}, {}, f"other dtypes are known to be as accurate for {known} only")
    reported = processor_model().instructions
    useful = {dtype: [one for one in _INSTRUCTIONS[dtype] if one in reported] for dtype in as_accurate}
    if not any(useful.values()):
        wanted = ", ".join(one for dtype in as_accurate for one in _INSTRUCTIONS[dtype])
        return _Trial({}, {}, f"this processor reports none of the instructions {wanted}")
    engines = {}
    lacking = ""
    for dtype in ("float32", *(dtype for dtype in as_accurate if useful[dtype])):
        try:
            chosen = choose_engine(cut, engine=engine, dtype=dtype, output=output)
        except MissingExtraError as error:
            lacking = str(error)
            continue
        except InputError:
            continue
        if chosen in _ENGINES[dtype]:
            engines[dtype] = chosen
    if "float32" not in engines or len(engines) == 1:
        return _Trial({}, {}, lacking or "the engine computes in float32 only here")
    installed = versions()
    key = {
        "network": name,
        "layer": layer,
        "engines": engines,
        "processor": processor_model().name,
        "instructions": sorted(one for dtype in useful for one in useful[dtype]),
        "native": backend_state("native"),
        "packages": {one: installed[one] for one in ("medvlad", "numpy", "openvino") if one in installed},
    }
    return _Trial(engines, key, "")


def arithmetic_in_words(features: Any) -> str:
    """Return one line about the dtype of a built CNNDescriptors, and what others would bring."""
    network = features.network_
    asked = " (auto)" if features.dtype == "auto" else ""
    line = f"dtype {features.dtype_}{asked} on {features.engine_}"
    trial = _trial(network.cut, _name(network), network.layer, features.engine, features.output)
    if trial.why:
        return f"{line}: {trial.why}" if asked else line
    rates = kept_rates(trial.key)
    if rates is None:
        return f"{line}; --dtype auto would also try {' and '.join(list(trial.engines)[1:])}"
    return f"{line}; trial: {trial_in_words(rates)}"


def trial_in_words(rates: Mapping[str, float]) -> str:
    """Return the result of a trial, the fastest dtype first."""
    ordered = sorted(rates.items(), key=lambda one: -one[1])
    return ", ".join(f"{dtype} {rate:.3g} images/s" for dtype, rate in ordered)


def try_vgg16() -> str:
    """Return what ``dtype="auto"`` takes for VGG16 on this machine, and why. The weights are random.

    The rates do not depend on the weights, so the trial is the one that real weights would use.
    """
    if may_have_gpu():  # whether Keras computes on it is known only after importing Keras
        return "not tried, because this machine may have a GPU for Keras"
    trial = _trial(PlainModel("vgg16", []), "vgg16", LAST_LAYER, "auto", "host")
    if trial.why:
        return f"float32, because {trial.why}"
    rates = kept_rates(trial.key)
    if rates is None:
        rates = measured_rates(random_vgg16(), trial.key)
    small, large = _fastest(rates, 0), _fastest(rates, _INT8_IMAGES)
    chosen = small if small == large else f"{small}, with {_INT8_IMAGES} training images or more {large}"
    return f"{chosen} ({trial_in_words(rates)})"
