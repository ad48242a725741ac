"""Choose and make the engine that runs the network. No other module makes this choice.

An engine is a callable from preprocessed pixels (b, s, s, 3), float32, to feature maps (b, h, w, D)::

    keras        the Keras model itself on TensorFlow, JAX or PyTorch, also on a GPU; any network of Keras
    native       networks of 3x3 convolutions and 2x2 pooling (VGG) in C++, with Winograd's algorithm
    openvino     networks of convolutions, sums and pooling (VGG, ResNet, MobileNet, EfficientNet-Lite) as
                 a graph of OpenVINO (extra openvino); bfloat16, and int8 for VGG
    onnxruntime  networks of ONNX files, in float32 on the CPU (extra onnx)
    torch        networks of timm and PyTorch, in float32 on the CPU (extra torch)

A network that Keras does not define has one engine, which ``engine="auto"`` takes. For a network of Keras,
``engine="auto"`` takes keras if Keras computes on a GPU. Otherwise it takes the fastest engine on this
machine whose results agree with the Keras model. In float32 they differ by less than 1e-4 of the largest
number.

`dtype` says how exact the arithmetic must be. "float32" is the most exact. "bfloat16" allows the engine to
round factors to 8 bits if this processor is faster with them. "int8" rounds weights and activations to 256
steps. Training images determine the size of the steps (calibration).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from medvlad._util.choices import Arithmetic, EngineName, words_of
from medvlad._util.validate import InputError, MissingExtraError, check_choice
from medvlad.backends import backend_state
from medvlad.extraction.engines.accelerators import may_have_gpu
from medvlad.extraction.engines.keras_graph import unreadable_layer
from medvlad.extraction.engines.openvino_import import import_openvino
from medvlad.extraction.engines.winograd import is_plain

__all__ = ["DTYPES", "ENGINES", "calibrate", "choose_engine", "make_engine"]

Engine = Callable[[Any], Any]

ENGINES = words_of(EngineName)
DTYPES = words_of(Arithmetic)


class LastEngine:
    """The engine that was made last, kept until another one is needed.

    Copies of an estimator share it, so that none of them makes the engine again.
    """

    def __init__(self) -> None:
        self._kept: tuple[object, Engine] | None = None

    def get(self, key: object, make: Callable[[], Engine]) -> Engine:
        """Return the kept engine if it was made for `key`; otherwise make one and keep it."""
        kept = self._kept
        if kept is None or kept[0] != key:
            kept = self._kept = (key, make())
        return kept[1]


def choose_engine(network: Any, *, engine: str, dtype: str, output: str) -> str:
    """Return the name of the engine that runs `network`. No weights are read.

    Parameters
    ----------
    network : keras.Model, PlainModel, OnnxCut or TorchCut
        See :class:`medvlad.extraction.networks.FrozenNetwork`.
    engine : {"auto", "keras", "native", "openvino", "onnxruntime", "torch"}
        Wanted engine. "auto": the fastest one on this machine.
    dtype : {"float32", "bfloat16", "int8"}
        Arithmetic of the network.
    output : {"host", "gpu", "store"}
        Place of the descriptors.

    Returns
    -------
    {"keras", "native", "openvino", "onnxruntime", "torch"}

    Raises
    ------
    InputError
        If the engine cannot run this network or does not have this arithmetic.
    MissingExtraError
        If the engine is not installed.
    """
    check_choice(engine, "engine", ENGINES)
    check_choice(dtype, "dtype", DTYPES)
    only = getattr(network, "own_engine", None)
    if only is not None:
        return _only_engine(network, str(only), engine=engine, dtype=dtype, output=output)
    if engine in ("onnxruntime", "torch"):
        raise InputError(
            f"engine={engine!r} runs networks of ONNX files, timm and PyTorch, and {network.name} is a "
            "network of Keras: use engine='auto'"
        )
    if output == "gpu" and (engine not in ("auto", "keras") or dtype == "int8"):
        raise InputError(
            f"output='gpu' works with engine='keras' only, not with engine={engine!r} and dtype={dtype!r}"
        )
    plain = is_plain(network)
    unreadable = None if plain else unreadable_layer(network)
    if dtype == "int8" and engine not in ("auto", "openvino"):
        raise InputError(f"engine={engine!r} does not compute in int8: use engine='openvino'")
    if not plain and engine == "native":
        raise InputError(
            "engine='native' needs a network of 3x3 convolutions and 2x2 pooling, such as vgg16 or vgg19 up "
            f"to block5_pool, and {network.name} is another: use engine='auto'"
        )
    if not plain and dtype == "int8":  # rounding changes the descriptors of other networks too much
        raise InputError(
            "dtype='int8' needs a network of 3x3 convolutions and 2x2 pooling, such as vgg16 or vgg19 up "
            f"to block5_pool, and {network.name} is another: use dtype='float32'"
        )
    if unreadable is not None and engine == "openvino":
        raise InputError(
            "engine='openvino' needs a network of convolutions, batch normalisation, ReLU, sums and pooling, "
            f"and {network.name} has {unreadable}: use engine='keras'"
        )
    if engine == "auto":
        engine = _fastest(plain, unreadable is None, dtype, output)
    if engine == "openvino":
        import_openvino("dtype='int8'" if dtype == "int8" else "engine='openvino'")
    if engine == "native" and not (state := backend_state("native")).startswith("ok"):
        raise InputError(f"engine='native' {state}; use engine='keras'")
    return engine


def _only_engine(network: Any, only: str, *, engine: str, dtype: str, output: str) -> str:
    """Return the engine of a network that Keras does not define. It computes in float32 on the CPU."""
    wrong = [
        f"{name}={value!r}"
        for name, value, allowed in (
            ("engine", engine, ("auto", only)),
            ("dtype", dtype, ("float32",)),
            ("output", output, ("host", "store")),
        )
        if value not in allowed
    ]
    if wrong:
        raise InputError(
            f"{' and '.join(wrong)} does not work here, because {network.name} runs on {only} in float32 "
            "on the CPU only: leave it out"
        )
    return only


def _has_openvino() -> bool:
    """Return whether OpenVINO can be imported."""
    try:
        import_openvino("engine='openvino'")
    except MissingExtraError:
        return False
    return True


def _fastest(plain: bool, readable: bool, dtype: str, output: str) -> str:
    if dtype == "int8":
        return "openvino"
    keras_engine = importlib.import_module("medvlad.extraction.engines.keras_engine")
    if output == "gpu" or not readable or (may_have_gpu() and keras_engine.on_gpu()):
        return "keras"
    if not plain:
        return "openvino" if _has_openvino() else "keras"
    if dtype == "bfloat16" and keras_engine.has_fast_bfloat16() and _has_openvino():
        return "openvino"
    # Without vector instructions the native engine is slower than Keras' backends.
    state = backend_state("native")
    return "native" if state.startswith("ok") and "portable" not in state else "keras"


def make_engine(
    network: Any,
    *,
    engine: str,
    dtype: str,
    output: str,
    n_threads: int,
    ranges: Mapping[str, float] | None = None,
) -> Engine:
    """Make the engine that :func:`choose_engine` has named.

    Parameters
    ----------
    network : keras.Model, OnnxCut or TorchCut
    engine : {"keras", "native", "openvino", "onnxruntime", "torch"}
    dtype, output
        See :func:`choose_engine`.
    n_threads : int
        Number of threads of all engines but "keras". Keras' backends have their own settings.
    ranges : dict of str to float, or None, default=None
        Result of :func:`calibrate`. Used by "int8" only.

    Returns
    -------
    callable
        Function from pixels (b, s, s, 3), float32, to feature maps (b, h, w, D) or (b, D), float32. The
        result is a NumPy array, or the array of a :class:`medvlad.descriptors.gpu_array.GpuArray` for
        ``output="gpu"``.
    """
    if engine == getattr(network, "own_engine", None):
        return lambda pixels: network.run(pixels, n_threads)
    module = importlib.import_module(f"medvlad.extraction.engines.{engine}_engine")
    made: Engine = module.make(network, dtype=dtype, output=output, n_threads=n_threads, ranges=ranges)
    return made


def calibrate(network: Any, batches: Any, *, n_threads: int) -> dict[str, float]:
    """Measure the ranges of a network's activations for int8.

    Parameters
    ----------
    network : keras.Model
    batches : iterable of ndarray (b, s, s, 3), float32
        Preprocessed pixels of training images.
    n_threads : int
        Number of threads.

    Returns
    -------
    dict of str to float
        Largest magnitude in the input and in the output of each convolution, by name, as a mean over images.

    Raises
    ------
    InputError
        If `batches` is empty.
    """
    module = importlib.import_module("medvlad.extraction.engines.openvino_engine")
    ranges: dict[str, float] = module.calibrate(network, batches, n_threads=n_threads)
    return ranges
