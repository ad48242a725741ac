"""Skip tests of instruction sets that this machine or build does not have."""

import importlib
from importlib.util import find_spec

import pytest
from conftest import REQUIRED

from medvlad.backends import native


def is_here(level):
    if level == native.EMULATED:
        return find_spec(f"medvlad.backends._native_{level}") is not None
    return level in native.available_levels()


def skip_unless_here(level):
    if not is_here(level):
        if level in importlib.import_module("medvlad.backends._native_portable").supported_levels():
            message = f"level {level} can run here and was not built"
            pytest.fail(message) if "native" in REQUIRED else pytest.skip(message)
        pytest.skip(f"this processor has no {level}")
