"""Words that parameters of public functions take, as types.

An editor completes them, and mypy refuses other words. Code that checks a value at run time reads the words
from these types, so the two cannot differ.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

__all__ = [
    "Arithmetic",
    "Assignment",
    "BackendName",
    "ColourProfile",
    "Decode",
    "Dtype",
    "EngineName",
    "MatrixMode",
    "OnDamage",
    "OnError",
    "Output",
    "PoolMode",
    "ResizeFilter",
    "words_of",
]

Arithmetic: TypeAlias = Literal["float32", "bfloat16", "int8"]
Assignment: TypeAlias = Literal["hard", "soft"]
BackendName: TypeAlias = Literal["auto", "reference", "native", "cuda"]
ColourProfile: TypeAlias = Literal["ignore", "srgb"]
Decode: TypeAlias = Literal["full", "fast"]
Dtype: TypeAlias = Literal["auto", "float32", "bfloat16", "int8"]
EngineName: TypeAlias = Literal["auto", "keras", "native", "openvino", "onnxruntime", "torch"]
MatrixMode: TypeAlias = Literal["sqrt", "log"]
OnDamage: TypeAlias = Literal["warn", "raise", "skip"]
OnError: TypeAlias = Literal["raise", "skip"]
Output: TypeAlias = Literal["host", "gpu", "store"]
PoolMode: TypeAlias = Literal["avg", "sum", "max", "gem"]
ResizeFilter: TypeAlias = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


def words_of(choices: Any) -> tuple[str, ...]:
    """Return the words of one of these types.

    Examples
    --------
    >>> words_of(OnError)
    ('raise', 'skip')
    """
    return get_args(choices)
