"""Recognise objects of large packages without importing these packages."""

from __future__ import annotations

import sys

__all__ = ["is_instance_of"]


def is_instance_of(value: object, module: str, name: str) -> bool:
    """Return whether `value` is an instance of the class `name` of `module`.

    An object of a class exists only after the module of the class was imported. So the answer is False
    without an import if it was not.

    Parameters
    ----------
    value : object
    module : str
        Public module of the class, such as "sklearn.decomposition".
    name : str
        Name of the class, such as "PCA".
    """
    made = getattr(sys.modules.get(module), name, None)
    return made is not None and isinstance(value, made)
