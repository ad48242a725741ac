"""Log the warnings of the libraries that read images, with the name of the file, once for each file.

Pillow warns through Python's warnings, tifffile and nibabel through loggers of their own. None of them names
the file, because they get an open file. So the functions that read a file record its path::

    @reads_file
    def read(path, ...): ...

    handler.addFilter(LibraryWarnings())

Only a process that belongs to medvlad changes where warnings go: the command line. In other programs Python's
warnings stay as they are. Warnings of pydicom are never logged, because they quote headers, see
:func:`medvlad.images.dicom.quiet_pydicom`.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

__all__ = ["LibraryWarnings", "hear_every_file", "is_reading", "log_warning", "reads_file"]

_LIBRARIES = ("PIL", "tifffile", "nibabel")
_FRAME = re.compile(r"#[0-9]+\Z")  # at the end of the name of one of several images in a file
_PYTHON = "py.warnings"  # the logger that logging.captureWarnings uses

_file: ContextVar[str | None] = ContextVar("file", default=None)

P = ParamSpec("P")
R = TypeVar("R")


def reads_file(function: Callable[P, R]) -> Callable[P, R]:
    """Make warnings name the path that is the first argument, while `function` runs."""

    @functools.wraps(function)
    def named(*args: P.args, **kwargs: P.kwargs) -> R:
        path: Any = args[0] if args else None
        if not isinstance(path, str | os.PathLike):
            return function(*args, **kwargs)
        token = _file.set(_FRAME.sub("", os.fspath(path)))
        try:
            return function(*args, **kwargs)
        finally:
            _file.reset(token)

    return named


def is_reading() -> bool:
    """Return whether this thread is reading a file."""
    return _file.get() is not None


def hear_every_file() -> None:
    """Let Python pass on each warning of these libraries. By default it drops a text that it has seen."""
    libraries = "|".join(_LIBRARIES)
    warnings.filterwarnings("always", category=UserWarning, module=rf"({libraries})\b")


def log_warning(message: Warning | str) -> None:
    """Write one of Python's warnings to the log."""
    logging.getLogger(_PYTHON).warning("%s", message)


class LibraryWarnings(logging.Filter):
    """Filter of a log handler: put the name of the file before a library's message, and drop repetitions.

    A repetition is the same text about the same file, also about another image in it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[tuple[str, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record."""
        file = _file.get()
        if file is None or not record.name.startswith((*_LIBRARIES, _PYTHON)):
            return True
        text = " ".join(record.getMessage().split())
        if (file, text) in self._seen:
            return False
        self._seen.add((file, text))
        record.msg, record.args = "%s: %s", (file, text)
        return True
