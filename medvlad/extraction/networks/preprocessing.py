r"""Preprocessing of networks that Keras does not define: from RGB pixels to the input of the network.

.. math::

    x = \frac{\text{factor} \cdot p - \text{mean}}{\text{std}}

p is a pixel value from 0 to 255. Mean and std have one number for each channel. `PREPROCESSING` has the
usual choices by name. A network's own numbers are read from its configuration:

- ``preprocessor_config.json`` (transformers) or ``config.json`` (timm) in the folder of an ONNX file,
- the metadata of an ONNX file: "image_mean" and "image_std", or "mean" and "std", as lists,
- the data configuration of a timm network.

The filter that resizes images is a parameter of :class:`medvlad.CNNDescriptors`. It is not read from here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, check_choice

__all__ = ["PREPROCESSING", "Preprocessing", "as_preprocessing", "read_configuration"]

_SIDE_FILES = ("preprocessor_config.json", "config.json")
_BYTE = 1 / 255


@dataclass(frozen=True)
class Preprocessing:
    """Multiply, subtract a mean, divide by a standard deviation.

    Parameters
    ----------
    factor : float
        Factor of pixel values.
    mean, std : tuple of three floats
        Subtracted from each channel after the factor, and then divided by. In the order of the channels that
        the network takes.
    order : {"rgb", "bgr"}
        Order of the channels that the network takes.
    """

    factor: float
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    order: str = "rgb"

    def __call__(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Preprocess RGB pixels (B, s, s, 3), float32. The argument may change."""
        if self.order == "bgr":
            pixels = np.ascontiguousarray(pixels[..., ::-1])
        pixels *= np.float32(self.factor)
        pixels -= np.asarray(self.mean, np.float32)
        pixels /= np.asarray(self.std, np.float32)
        return pixels

    def settings(self) -> dict[str, Any]:
        """Return the numbers as JSON values, with "name" if `PREPROCESSING` has them."""
        numbers = {
            "factor": self.factor,
            "mean": list(self.mean),
            "std": list(self.std),
            "order": self.order,
        }
        names = [name for name, known in PREPROCESSING.items() if known == self]
        return ({"name": names[0]} if names else {}) | numbers


#: Preprocessing by name. "imagenet": mean and standard deviation of ImageNet after scaling to 0..1. "scale":
#: 0..1. "minus1_1": -1..1. "caffe": BGR minus the mean of ImageNet. "raw": 0..255, unchanged.
PREPROCESSING = {
    "imagenet": Preprocessing(_BYTE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "scale": Preprocessing(_BYTE),
    "minus1_1": Preprocessing(1 / 127.5, (1.0, 1.0, 1.0)),
    "caffe": Preprocessing(1.0, (103.939, 116.779, 123.68), order="bgr"),
    "raw": Preprocessing(1.0),
}


def as_preprocessing(value: Any, name: str = "preprocess") -> Preprocessing:
    """Return the preprocessing that a user named or wrote as a dict.

    Parameters
    ----------
    value : str, Mapping or Preprocessing
        A key of :data:`PREPROCESSING`, or a dict with the keys factor, mean, std and order, as
        :meth:`Preprocessing.settings` returns it. Missing keys have the values of "raw".
    name : str
        What the error message calls it.

    Returns
    -------
    Preprocessing

    Raises
    ------
    InputError
        If there is no such name, or a number is missing, not finite or not positive.
    """
    if isinstance(value, Preprocessing):
        return value
    if not isinstance(value, Mapping):
        return PREPROCESSING[check_choice(value, name, tuple(PREPROCESSING))]
    unknown = value.keys() - {"name", "factor", "mean", "std", "order"}
    if unknown:
        raise InputError(
            f"{name} has the key {min(map(str, unknown))!r}: use the keys factor, mean, std and order"
        )
    (factor,) = _numbers(value.get("factor", 1.0), f"{name}: factor", 1)
    mean = _numbers(value.get("mean", 0.0), f"{name}: mean", 3)
    std = _numbers(value.get("std", 1.0), f"{name}: std", 3)
    if factor <= 0 or min(std) <= 0:
        raise InputError(f"{name}: factor and std must be above 0, got {factor!r} and {list(std)!r}")
    order = check_choice(value.get("order", "rgb"), f"{name}: order", ("rgb", "bgr"))
    return Preprocessing(factor, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), order)


def read_configuration(path: Path, metadata: Mapping[str, str]) -> tuple[Preprocessing, str] | None:
    """Return the preprocessing that is written in or beside an ONNX file.

    Parameters
    ----------
    path : Path
        ONNX file.
    metadata : dict of str to str
        Metadata of the file.

    Returns
    -------
    (Preprocessing, str) or None
        The preprocessing and where it was found. None: nowhere.

    Raises
    ------
    InputError
        If a configuration cannot be read. The message names its file.
    """
    found = {key: _as_json(metadata[key]) for key in metadata if key in _KEYS}
    if found and (read := _from(found, f"the metadata of {path}")):
        return read, "metadata"
    for name in _SIDE_FILES:
        beside = path.with_name(name)
        if not beside.is_file():
            continue
        try:
            content = json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{beside} cannot be read as JSON ({error}): repair it, or set preprocess"
            ) from error
        if isinstance(content, dict) and (read := _from(content, str(beside))):
            return read, name
    return None


_KEYS = {"image_mean", "image_std", "mean", "std", "do_rescale", "rescale_factor", "do_normalize"}


def _from(content: Mapping[str, Any], where: str) -> Preprocessing | None:
    """Read the keys of transformers, or those of timm. None if there are none."""
    timm = content.get("pretrained_cfg")
    content = timm if isinstance(timm, dict) else content
    mean, std = content.get("image_mean", content.get("mean")), content.get("image_std", content.get("std"))
    if mean is None and std is None and "do_rescale" not in content:
        return None
    factor = content.get("rescale_factor", _BYTE) if content.get("do_rescale", True) else 1.0
    read: dict[str, Any] = {"factor": factor}
    if content.get("do_normalize", True):
        if mean is None or std is None:
            raise InputError(
                f"{where} has a mean or a std but not both: give preprocess='imagenet' or another"
            )
        read |= {"mean": mean, "std": std}
    return as_preprocessing(read, where)


def _as_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        parts = text.strip("[]() ").split(",")
        return [part.strip() for part in parts] if len(parts) > 1 else text


def _numbers(value: Any, name: str, n: int) -> tuple[float, ...]:
    """Return n finite numbers. One number stands for n equal ones."""
    try:
        numbers = tuple(float(one) for one in np.atleast_1d(np.asarray(value, np.float64)).ravel().tolist())
    except (TypeError, ValueError):
        numbers = ()
    numbers = numbers * n if len(numbers) == 1 else numbers
    if len(numbers) != n or not all(map(math.isfinite, numbers)):
        raise InputError(f"{name} must be {n} finite number{'s' if n > 1 else ''}, got {value!r}")
    return numbers
