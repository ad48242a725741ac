"""Counters of what long work does."""

import threading

from medvlad._util.counters import COUNTERS, count, counting, stage
from medvlad._util.read_ahead import read_ahead


def test_without_somebody_who_counts_nothing_happens():
    count("retries")
    with stage("network"):
        pass


def test_all_counters_are_there_from_the_beginning():
    with counting() as counters:
        pass
    assert counters.as_dict() == dict.fromkeys(COUNTERS, 0) | {"seconds": {}}


def test_counts_and_seconds_add_up():
    with counting() as counters:
        count("retries")
        count("bytes_read", 5)
        count("bytes_read", 7)
        for _ in range(2):
            with stage("network"):
                pass
    count("retries")  # after the end
    found = counters.as_dict()
    assert (found["retries"], found["bytes_read"]) == (1, 12)
    assert found["seconds"].keys() == {"network"}
    assert found["seconds"]["network"] >= 0


def test_outer_counters_get_everything_and_inner_ones_only_their_own():
    with counting() as outer:
        count("failures")
        with counting() as inner:
            count("failures", 2)
    assert (outer.as_dict()["failures"], inner.as_dict()["failures"]) == (3, 2)


def test_threads_that_read_ahead_count_for_their_consumer():
    def read(item):
        count("bytes_read", item)

    with counting() as counters:
        for _ in read_ahead(read, range(100), n_threads=4, n_ahead=8, name="test-ahead"):
            pass
    assert counters.as_dict()["bytes_read"] == sum(range(100))


def test_another_thread_does_not_count_here():
    with counting() as counters:
        other = threading.Thread(target=count, args=("failures",))
        other.start()
        other.join()
    assert counters.as_dict()["failures"] == 0
