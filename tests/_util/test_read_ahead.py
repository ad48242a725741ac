"""Threads that work ahead of a consumer."""

import threading
import time

import pytest

from medvlad._util.read_ahead import read_ahead


def running():
    return [thread for thread in threading.enumerate() if thread.name.startswith("test-ahead")]


def ahead(function, items, n_threads=3, n_ahead=4):
    return read_ahead(function, items, n_threads=n_threads, n_ahead=n_ahead, name="test-ahead")


def test_results_come_in_the_order_of_the_items():
    def slow_first(item):
        time.sleep(0.05 if item == 0 else 0)
        return item * item

    assert list(ahead(slow_first, range(9))) == [(i, i * i) for i in range(9)]


@pytest.mark.parametrize("n_ahead", [1, 4])
def test_no_more_items_are_taken_than_allowed(n_ahead):
    taken = []

    def items():
        for i in range(20):
            taken.append(i)
            yield i

    for n, _ in enumerate(ahead(str, items(), n_ahead=n_ahead), 1):
        assert len(taken) <= n + n_ahead
    assert len(taken) == 20


def test_an_error_is_raised_at_its_item():
    results = ahead(lambda item: 1 // item, [2, 1, 0])
    assert [next(results), next(results)] == [(2, 0), (1, 1)]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_no_thread_is_left_if_the_consumer_stops_early():
    results = ahead(str, range(100))
    next(results)
    assert running()
    results.close()
    assert not running()
