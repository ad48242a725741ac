"""Limit BLAS to one thread while our own threads call it, for any number of concurrent callers.

The number of BLAS threads is one setting for the whole process. If each caller restored the value that it
found, two overlapping callers could leave it at one for good. So the first caller sets the limit and the last
one restores the old value.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["single_threaded_blas"]


class _Limit:
    """Count the callers that need single-threaded BLAS."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callers = 0
        self._libraries: list[Any] = []
        self._numbers: list[int] = []  # of threads of each library, before the first caller
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget_callers)

    def _forget_callers(self) -> None:
        """Reset the count in a forked process: the threads that were counted do not exist there."""
        self._lock = threading.Lock()
        if self._callers > 0:
            self._callers = 0
            self._restore()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Return a context in which BLAS starts no threads."""
        with self._lock:
            if self._callers == 0:
                self._limit()
            self._callers += 1
        try:
            yield
        finally:
            with self._lock:
                self._callers -= 1
                if self._callers == 0:
                    self._restore()

    def _limit(self) -> None:
        if not self._libraries:
            # Finding the libraries takes milliseconds. NumPy's and SciPy's are loaded at this point.
            self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        self._numbers = [library.get_num_threads() for library in self._libraries]
        for library in self._libraries:
            _set_num_threads(library, 1)

    def _restore(self) -> None:
        for library, number in zip(self._libraries, self._numbers, strict=True):
            _set_num_threads(library, number)


def _set_num_threads(library: Any, number: int) -> None:
    """Set the number of threads of a library, from any thread.

    Since threadpoolctl 3.8, `set_num_threads` of OpenBLAS does nothing in a thread other than the first one.
    The last caller could not restore the number then.
    """
    getattr(library, "_real_set_num_threads", library.set_num_threads)(number)


single_threaded_blas = _Limit()
