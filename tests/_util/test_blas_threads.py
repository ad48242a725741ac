"""BLAS has one thread while a caller needs that, and its former number afterwards."""

import os
import threading

import numpy as np  # noqa: F401, loads a BLAS
import pytest
import scipy.linalg  # noqa: F401, loads another
from threadpoolctl import threadpool_info, threadpool_limits

from medvlad._util.blas_threads import single_threaded_blas


def n_threads():
    """Return the numbers of threads of all BLAS libraries."""
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.fixture(autouse=True)
def three_threads():
    with threadpool_limits(3, user_api="blas"):
        if set(n_threads()) != {3}:
            pytest.skip(f"BLAS takes no number of threads here: {n_threads()}")
        yield


def test_blas_has_one_thread_inside_and_its_number_afterwards():
    with single_threaded_blas():
        assert set(n_threads()) == {1}
    assert set(n_threads()) == {3}


def test_an_error_restores_the_number():
    with pytest.raises(ZeroDivisionError), single_threaded_blas():
        raise ZeroDivisionError
    assert set(n_threads()) == {3}


def test_callers_that_overlap_restore_the_number():
    """The first leaves before the second, so the second must not restore what it found."""
    first_is_in, second_is_in, first_is_out = threading.Event(), threading.Event(), threading.Event()
    seen = []

    def first():
        with single_threaded_blas():
            first_is_in.set()
            second_is_in.wait(30)
        first_is_out.set()

    def second():
        first_is_in.wait(30)
        with single_threaded_blas():
            second_is_in.set()
            first_is_out.wait(30)
            seen.append(set(n_threads()))

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [{1}]
    assert set(n_threads()) == {3}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_starts_with_the_former_number():
    """The callers that were inside exist only in the parent."""
    with single_threaded_blas():
        process = os.fork()
        if process == 0:
            correct = set(n_threads()) == {3}
            with single_threaded_blas():
                correct = correct and set(n_threads()) == {1}
            os._exit(0 if correct and set(n_threads()) == {3} else 1)
        _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0
