"""Change a setting of the whole process for a time, from any number of threads.

Keras' floatx is such a setting, and TensorFlow's permission to use TF32 is another. If each thread saved the
setting, changed it and restored it, then two threads that overlap could leave it changed for good: the second
thread would save the value that the first one has set. Here the first thread to enter saves the value, and
the last thread to leave restores it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

__all__ = ["ProcessSetting"]

T = TypeVar("T")


class ProcessSetting(Generic[T]):
    """A setting of the process that keeps one value for as long as any thread needs it.

    Parameters
    ----------
    value : object
        Value that the setting has while it is held.
    """

    def __init__(self, value: T) -> None:
        self._value = value
        self._lock = threading.Lock()
        self._n_holders = 0
        self._before = value
        self._write: Callable[[T], object] | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget_holders)

    def _forget_holders(self) -> None:
        """Restore the setting in a forked process: the threads that hold it do not exist there."""
        self._lock = threading.Lock()
        if self._n_holders > 0 and self._write is not None:
            self._n_holders = 0
            self._write(self._before)

    @contextmanager
    def held(self, read: Callable[[], T], write: Callable[[T], object]) -> Iterator[None]:
        """Hold the setting at the value until the context ends.

        Parameters
        ----------
        read : callable
            Returns the setting of the process.
        write : callable
            Changes the setting of the process.
        """
        with self._lock:
            if self._n_holders == 0:
                self._before, self._write = read(), write
                write(self._value)
            self._n_holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_holders = max(0, self._n_holders - 1)  # 0 already in a process forked meanwhile
                if self._n_holders == 0:
                    write(self._before)
