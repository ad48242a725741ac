"""Arrays of other libraries in and out, where scikit-learn's array-API dispatch is on.

With ``sklearn.set_config(array_api_dispatch=True)`` (and SCIPY_ARRAY_API=1 in the environment, on which SciPy
and scikit-learn insist) estimators give back arrays of the library, and on the device, that their input came
from. Without it, what is in host memory gives NumPy arrays, as everywhere in scikit-learn. Arrays on a GPU of
CUDA go their own way, :mod:`medvlad.descriptors.gpu_array`, with dispatch or without.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.utils._array_api import _convert_to_numpy, get_namespace, get_namespace_and_device

from medvlad.descriptors.checks import as_array
from medvlad.descriptors.gpu_array import GpuArray, on_gpu

__all__ = ["like_input", "on_host", "on_host_from_anywhere"]


def on_host(x: Any, name: str) -> Any:
    """Return an array of another library as NumPy's, from another device where dispatch is on; else `x`.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    if not _is_foreign(x):
        return x
    if get_config()["array_api_dispatch"]:
        if hasattr(x, "detach"):  # torch, whose bfloat16 and gradients are not scikit-learn's to convert
            x = x.detach().cpu()
        elif (xp := _namespace(x)) is not None:
            x = _convert_to_numpy(x, xp)
    return as_array(x, name)


def on_host_from_anywhere(x: Any, name: str) -> Any:
    """As `on_host`, from a GPU of CUDA as well: for what is small, such as centres."""
    return GpuArray.read(x, name).to_host() if on_gpu(x) else on_host(x, name)


def like_input(result: Any, x: Any) -> Any:
    """Return `result`, a NumPy array, as the library of `x` has it, where dispatch is on and knows that."""
    if not get_config()["array_api_dispatch"] or not _is_foreign(x) or _namespace(x) is None:
        return result
    xp, _, device = get_namespace_and_device(x)
    return xp.asarray(result, device=device)


def _namespace(x: Any) -> Any:
    """Return the functions for `x`; None where scikit-learn does not know its library, such as TensorFlow."""
    try:
        return get_namespace(x)[0]
    except TypeError:
        return None


def _is_foreign(x: Any) -> bool:
    """Whether `x` is an array, neither NumPy's nor on a GPU of CUDA."""
    return not isinstance(x, np.ndarray) and hasattr(x, "__dlpack__") and not on_gpu(x)
