"""Skip tests of instruction sets that this machine or build does not have."""

import importlib

import pytest
from conftest import REQUIRED

from medvlad.backends import native


def skip_unless_here(level):
    if level not in native.available_levels():
        if level in importlib.import_module("medvlad.backends._native_portable").supported_levels():
            message = f"level {level} can run here and was not built"
            pytest.fail(message) if "native" in REQUIRED else pytest.skip(message)
        pytest.skip(f"this processor has no {level}")
