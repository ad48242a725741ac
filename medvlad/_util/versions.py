"""Versions of the packages that a result depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """Versions of what a result depends on; packages that are not installed are left out."""
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
