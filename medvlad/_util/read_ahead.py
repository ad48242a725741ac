"""Threads that work ahead of a consumer, in order and with bounded memory.

They have the context variables of the consumer, so that its counters count what they do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

__all__ = ["read_ahead"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, n_threads: int, n_ahead: int, name: str
) -> Generator[tuple[Item, Result], None, None]:
    """Yield each item with its result, in order, while threads compute the next results.

    Parameters
    ----------
    function : callable
        What the threads call with one item.
    items : iterable
        Taken one at a time, at most `n_ahead` before the result that is yielded.
    n_threads : int
        Number of threads.
    n_ahead : int
        Maximum number of results that wait for the consumer. It bounds the memory.
    name : str
        Beginning of the names of the threads.

    Yields
    ------
    item : object
    result : object
        What `function` returned. An error that it raised is raised here.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    threads = ThreadPoolExecutor(n_threads, name)
    try:
        for item in items:
            waiting.append((item, threads.submit(copy_context().run, function, item)))
            if len(waiting) > n_ahead:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
    finally:  # also if the consumer stops early, or on Ctrl-C
        threads.shutdown(wait=True, cancel_futures=True)
