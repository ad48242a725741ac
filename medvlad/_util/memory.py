"""What a user can do about too little memory, in the error itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["OutOfMemory", "memory_for"]


class OutOfMemory(MemoryError):
    """Too little memory: one sentence that says for what, and what to do."""


@contextmanager
def memory_for(what: str, advice: str) -> Iterator[None]:
    """Context, or decorator, in which too little memory is told as that for `what`, with `advice`."""
    try:
        yield
    except OutOfMemory:
        raise
    except MemoryError as error:
        raise OutOfMemory(f"not enough memory for {what} ({error}): {advice}") from error
