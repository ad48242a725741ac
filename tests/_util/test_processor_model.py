"""The model of the processor and its instructions."""

import sys
from pathlib import Path

import pytest

from medvlad._util.processor_model import ProcessorModel, processor_model

TWO_PROCESSORS = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 207
model name\t: A: B
flags\t\t: sse2 amx_bf16

processor\t: 1
model\t\t: 1
flags\t\t: sse2
"""


def reported(tmp_path, text):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_bytes(text)
    return processor_model(tmp_path)


def test_the_first_processor_is_read(tmp_path):
    expected = ProcessorModel("GenuineIntel 6 207 A: B", frozenset({"sse2", "amx_bf16"}))
    assert reported(tmp_path, TWO_PROCESSORS.encode()) == expected


@pytest.mark.parametrize("text", [b"", b"\xff\x00\n:\n", b"flags"])
def test_a_file_without_these_fields_says_nothing(tmp_path, text):
    assert reported(tmp_path, text) == ProcessorModel("", frozenset())


def test_other_systems_say_nothing(tmp_path):
    assert processor_model(tmp_path / "missing") == ProcessorModel("", frozenset())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
def test_this_machine_is_read():
    if "\nflags" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor is described in another way")
    assert {"fpu", "sse2"} <= processor_model().instructions
