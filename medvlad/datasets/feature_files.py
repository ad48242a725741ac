"""Names of feature files: descriptors that were extracted elsewhere. :mod:`medvlad.bags` reads them."""

from __future__ import annotations

import os
from pathlib import PurePath

__all__ = ["FEATURE_SUFFIXES", "feature_ending"]

FEATURE_SUFFIXES = (".h5", ".hdf5", ".npy", ".npz", ".pt", ".pth", ".safetensors")
"""Endings of feature files, in lower case."""


def feature_ending(path: str | os.PathLike[str]) -> str | None:
    """Return the ending of a feature file in lower case. None: the name is not that of a feature file."""
    ending = PurePath(path).suffix.lower()
    return ending if ending in FEATURE_SUFFIXES else None
