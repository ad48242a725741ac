"""Read a number of bytes that a user gives, such as "2 GiB"."""

from __future__ import annotations

import re
from typing import Any

from medvlad._util.validate import InputError

__all__ = ["check_bytes", "in_words"]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?\s*", re.IGNORECASE)


def check_bytes(value: Any, name: str) -> int:
    """Return a number of bytes.

    Parameters
    ----------
    value : int or str
        Bytes, or a text such as "2 GiB", "512M" or "1.5 GB". Units are powers of 1024.
    name : str
        What error messages call it.

    Raises
    ------
    InputError
        If `value` is neither, or is not above 0.

    Examples
    --------
    >>> check_bytes("1.5 GiB", "memory")
    1610612736
    """
    found = _TEXT.fullmatch(value) if isinstance(value, str) else None
    number = float(found[1]) * _UNITS[found[2].upper()] if found else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not 1 <= number < 1 << 62:
        raise InputError(f"{name} must be a number of bytes or a text such as '2 GiB', got {value!r}")
    return int(number)


def in_words(n_bytes: float) -> str:
    """Return a number of bytes in MiB or GiB, for messages.

    Examples
    --------
    >>> in_words(3 << 30)
    '3.0 GiB'
    """
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 1 << 30 else f"{n_bytes / 2**20:.0f} MiB"
