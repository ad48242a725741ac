"""What runs the network: the only place that chooses.

An engine is a callable from preprocessed pixels (b, s, s, 3) float32 to feature maps (b, h, w, D)::

    keras      the Keras model as it is, on tensorflow, jax or torch, on a GPU too; any network
    native     networks of 3x3 convolutions and 2x2 pooling (VGG) in C++, by Winograd's algorithm
    openvino   OpenVINO's graph of such a network (extra openvino); bfloat16, and the only one for int8

"auto" takes keras where Keras computes on a GPU, and else the fastest on this machine whose numbers are those
of the Keras model: within 1e-4 of the largest descriptor in float32 (tests/test_engines.py).

dtype says how exact the arithmetic must be: "float32"; "bfloat16" may round factors to 8 bits (about 1 % of
the largest descriptor) where that is faster on this processor; "int8" rounds weights and activations to 256
steps, whose size comes from images (calibration).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from medvlad._util.validate import InputError, check_choice, import_extra
from medvlad.backends import available_backends
from medvlad.extraction.engines.winograd import layers_of

__all__ = ["DTYPES", "ENGINES", "calibrate", "choose_engine", "make_engine"]

Engine = Callable[[Any], Any]

ENGINES = ("auto", "keras", "native", "openvino")
DTYPES = ("float32", "bfloat16", "int8")


def choose_engine(network: Any, *, engine: str, dtype: str, output: str) -> str:
    """Name of the engine that runs `network`.

    Parameters
    ----------
    network : keras.Model
    engine : {"auto", "keras", "native", "openvino"}
    dtype : {"float32", "bfloat16", "int8"}
    output : {"host", "gpu", "store"}

    Raises
    ------
    InputError
        If the engine cannot run this network, or not in this arithmetic.
    MissingExtraError
        If it is not installed.
    """
    check_choice(engine, "engine", ENGINES)
    check_choice(dtype, "dtype", DTYPES)
    if output == "gpu" and (engine not in ("auto", "keras") or dtype == "int8"):
        raise InputError(f"output='gpu' is for engine='keras', not for {engine!r} with dtype={dtype!r}")
    plain = layers_of(network) is not None
    if dtype == "int8" and engine not in ("auto", "openvino"):
        raise InputError(f"engine={engine!r} does not compute in int8: use engine='openvino'")
    if not plain and (engine in ("native", "openvino") or dtype == "int8"):
        what = "dtype='int8'" if dtype == "int8" else f"engine={engine!r}"
        raise InputError(
            f"{what} is for networks of 3x3 convolutions and 2x2 pooling, such as vgg16 and vgg19 up to "
            f"block5_pool, not for {network.name}: use engine='keras'"
        )
    if engine == "auto":
        engine = _fastest(plain, dtype, output)
    if engine == "openvino":
        import_extra("openvino", "openvino", "dtype='int8'" if dtype == "int8" else "engine='openvino'")
    if engine == "native" and not (state := available_backends()["native"]).startswith("ok"):
        raise InputError(f"engine='native' cannot run: {state}; use engine='keras'")
    return engine


def _fastest(plain: bool, dtype: str, output: str) -> str:
    if dtype == "int8":
        return "openvino"
    keras_engine = importlib.import_module("medvlad.extraction.engines.keras_engine")
    if output == "gpu" or not plain or keras_engine.on_gpu():
        return "keras"
    if dtype == "bfloat16" and keras_engine.has_fast_bfloat16() and find_spec("openvino") is not None:
        return "openvino"
    # Without vectors of its own, Winograd's way is no match for what Keras' backends have for a processor.
    state = available_backends()["native"]
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
    """Make the engine that :func:`choose_engine` named.

    Parameters
    ----------
    network : keras.Model
    engine : {"keras", "native", "openvino"}
    dtype, output
        See :func:`choose_engine`.
    n_threads : int
        Of "native" and "openvino"; Keras' backends have settings of their own.
    ranges : dict of str to float, or None
        For int8: see :func:`calibrate`.

    Returns
    -------
    callable
        From pixels (b, s, s, 3) float32 to feature maps (b, h, w, D) or (b, D), float32: a NumPy array, or a
        :class:`medvlad.descriptors.gpu_array.GpuArray`'s for ``output="gpu"``.
    """
    module = importlib.import_module(f"medvlad.extraction.engines.{engine}_engine")
    made: Engine = module.make(network, dtype=dtype, output=output, n_threads=n_threads, ranges=ranges)
    return made


def calibrate(network: Any, batches: Any, *, n_threads: int) -> dict[str, float]:
    """Ranges of a network's activations, for int8.

    Parameters
    ----------
    network : keras.Model
    batches : iterable of ndarray (b, s, s, 3), float32
        Preprocessed pixels of training images.
    n_threads : int

    Returns
    -------
    dict of str to float
        For the input and each convolution, by name: the mean over images of the largest magnitude.
    """
    module = importlib.import_module("medvlad.extraction.engines.openvino_engine")
    ranges: dict[str, float] = module.calibrate(network, batches, n_threads=n_threads)
    return ranges
