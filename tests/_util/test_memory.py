"""A lack of memory says what needed it and what to do."""

import pytest

from medvlad._util.memory import OutOfMemory, memory_for


def test_a_memory_error_says_for_what_and_what_to_do():
    with (
        pytest.raises(OutOfMemory, match=r"^not enough memory for k-means \(8 GiB\): use fewer images$"),
        memory_for("k-means", "use fewer images"),
    ):
        raise MemoryError("8 GiB")


def test_it_is_a_memory_error_with_its_cause():
    with pytest.raises(MemoryError) as raised, memory_for("k-means", "use fewer images"):
        raise MemoryError("8 GiB")
    assert type(raised.value.__cause__) is MemoryError


def test_the_innermost_message_stays():
    with (
        pytest.raises(OutOfMemory, match="for the inside"),
        memory_for("the outside", "a"),
        memory_for("the inside", "b"),
    ):
        raise MemoryError


def test_it_decorates_functions():
    @memory_for("work", "work less")
    def work(value):
        if value is None:
            raise MemoryError
        return value

    assert work(3) == 3
    with pytest.raises(OutOfMemory, match="for work"):
        work(None)


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), memory_for("k-means", "use fewer images"):
        raise ZeroDivisionError
