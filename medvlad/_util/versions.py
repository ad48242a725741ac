"""Collect the versions of the packages that a result depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """Return the version of Python and of each installed package that a result can depend on."""
    found = {"python": platform.python_version()}
    for name in (
        "medvlad",
        "numpy",
        "scipy",
        "scikit-learn",
        "pillow",
        "keras",
        "tensorflow",
        "jax",
        "torch",
        "timm",
        "onnxruntime",
        "openvino",
        "pydicom",
        "nibabel",
        "tifffile",
        "imagecodecs",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
