"""Read arrays of other libraries and return results of the same library (array-API dispatch of scikit-learn).

If dispatch is on, estimators return arrays of the library and on the device of their input. Turn it on with
``sklearn.set_config(array_api_dispatch=True)`` and SCIPY_ARRAY_API=1 in the environment, which SciPy and
scikit-learn require. If dispatch is off, input in host memory gives NumPy arrays, as everywhere in
scikit-learn. Arrays on a CUDA GPU are handled by :mod:`medvlad.descriptors.gpu_array` in both cases.
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
    """Convert an array of another library to NumPy. Anything else is returned unchanged.

    Parameters
    ----------
    x : object
        An array on another device than the host is converted only if dispatch is on.
    name : str
        What error messages call it.

    Raises
    ------
    InputError
        If it cannot be converted.
    """
    if not _is_foreign(x):
        return x
    if get_config()["array_api_dispatch"]:
        if hasattr(x, "detach"):  # torch: scikit-learn converts neither bfloat16 nor tensors with gradients
            x = x.detach().cpu()
        elif (xp := _namespace(x)) is not None:
            x = _convert_to_numpy(x, xp)
    return as_array(x, name)


def on_host_from_anywhere(x: Any, name: str) -> Any:
    """Convert like `on_host`, and from a CUDA GPU as well. Use it for small arrays, such as centres."""
    return GpuArray.read(x, name).to_host() if on_gpu(x) else on_host(x, name)


def like_input(result: Any, x: Any) -> Any:
    """Convert `result` from NumPy to the library and device of `x`, if dispatch is on and supports it."""
    if not get_config()["array_api_dispatch"] or not _is_foreign(x) or _namespace(x) is None:
        return result
    xp, _, device = get_namespace_and_device(x)
    return xp.asarray(result, device=device)


def _namespace(x: Any) -> Any:
    """Return the array namespace of `x`. None: scikit-learn does not support its library."""
    try:
        return get_namespace(x)[0]
    except TypeError:
        return None


def _is_foreign(x: Any) -> bool:
    """Return whether `x` is an array of another library than NumPy, and not on a CUDA GPU."""
    return not isinstance(x, np.ndarray) and hasattr(x, "__dlpack__") and not on_gpu(x)
