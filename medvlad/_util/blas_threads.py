"""One BLAS thread while our own threads each call BLAS, for any number of concurrent callers.

BLAS keeps its number of threads for the whole process. Were each caller to restore what it found, two that
overlap would leave it at one for good; so the first in limits and the last out restores.
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
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callers = 0
        self._controller: ThreadpoolController | None = None
        self._limit: Any = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget_callers)

    def _forget_callers(self) -> None:
        """Begin anew in a forked process, which has none of the threads that were inside."""
        self._lock = threading.Lock()
        if self._callers > 0:
            self._callers = 0
            self._limit.restore_original_limits()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Context in which BLAS starts no threads of its own."""
        with self._lock:
            if self._callers == 0:
                # Looking the libraries up takes milliseconds; NumPy's and SciPy's are loaded by now.
                self._controller = self._controller or ThreadpoolController()
                self._limit = self._controller.limit(limits=1, user_api="blas")
            self._callers += 1
        try:
            yield
        finally:
            with self._lock:
                self._callers -= 1
                if self._callers == 0:
                    self._limit.restore_original_limits()


single_threaded_blas = _Limit()
