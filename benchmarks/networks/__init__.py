"""The timed implementations of VGG19 up to block5_pool: name -> module, settings, environment.

Every module has the same two functions::

    describe() -> dict
        Versions of the packages it uses. Raises ImportError or OSError with the reason if one is missing.
    prepare(layers, side, n_threads, **settings) -> run
        `layers` are ("conv", kernel (3, 3, in, out), bias (out,)) and ("pool",). ``run(pixels)`` takes
        preprocessed pixels (b, side, side, 3) float32 and returns maps (b, h, w, D) float32, in host memory.

Each module is imported in a separate process only.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Network(NamedTuple):
    """Module, settings and environment of an implementation."""

    module: str
    settings: dict[str, Any] = {}  # noqa: RUF012  never written to
    environment: dict[str, str] = {}  # noqa: RUF012
    dtype: str = "float32"
    whole: bool = False
    """From JPEG files to stored descriptors, rather than from pixels in memory to maps."""
    public: bool = False
    """A call of CNNDescriptors, which needs all layers of VGG19."""
    rounds: int | None = None
    tuned: str | None = None


def _keras(backend, **settings):
    environment = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"}
    return Network("keras_network", settings, environment)


#: A matrix product, which shows the rate that the machine can reach.
PRODUCT = "sgemm"
#: The implementation with which the others are compared.
BASE = "keras predict"

#: The engine of this package on preprocessed pixels: an internal call, without reading, resizing and checks.
ALONE = "network alone"
#: Large files with the option that decodes them at reduced size.
FAST_FILES = "1-megapixel JPEGs, fast decoding"

NETWORKS = {
    PRODUCT: Network("sgemm_network"),
    BASE: _keras("tensorflow", how="predict"),
    "keras tf.function": _keras("tensorflow", how="function"),
    "keras XLA": _keras("tensorflow", how="xla"),
    "keras on jax": _keras("jax", how="predict"),
    "keras on torch": _keras("torch", how="predict"),
    "torch": Network("torch_network"),
    "torch bfloat16": Network("torch_network", {"bfloat16": True}, dtype="bfloat16"),
    "onnxruntime": Network("onnx_network"),
    "openvino": Network("openvino_network", {"precision": "f32"}),
    "openvino bfloat16": Network("openvino_network", {"precision": "bf16"}, dtype="bfloat16"),
}
for _dtype in ("float32", "bfloat16", "int8"):
    _name = "medvlad" if _dtype == "float32" else f"medvlad {_dtype}"
    _public = Network("medvlad_network", {"dtype": _dtype, "how": "memory"}, dtype=_dtype, public=True)
    NETWORKS[_name] = _public  # CNNDescriptors.transform of images in memory
    NETWORKS[f"{_name}, {ALONE}"] = Network("medvlad_network", {"dtype": _dtype, "how": ALONE}, dtype=_dtype)
    for _files in ("224-pixel JPEGs", "1-megapixel JPEGs", FAST_FILES):
        NETWORKS[f"{_name}, {_files}"] = _public._replace(
            settings={"dtype": _dtype, "how": _files}, whole=True
        )
