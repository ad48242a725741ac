"""Turn a MemoryError into a message that says what needed the memory and what the user can do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["OutOfMemory", "memory_for"]


class OutOfMemory(MemoryError):
    """Too little memory. The message says what needed it and what to do."""


@contextmanager
def memory_for(what: str, advice: str) -> Iterator[None]:
    """Return a context, or a decorator, that raises OutOfMemory instead of MemoryError.

    Parameters
    ----------
    what : str
        Work that needs the memory, such as "k-means".
    advice : str
        What the user can do, in the imperative.

    Raises
    ------
    OutOfMemory
        If the code inside raises MemoryError. An OutOfMemory from inside keeps its message.
    """
    try:
        yield
    except OutOfMemory:
        raise
    except MemoryError as error:
        raise OutOfMemory(f"not enough memory for {what} ({error}): {advice}") from error
