"""torch and timm for tests, or a skip with the reason."""

import sys
import types

import pytest


def torch_and_timm():
    """Return torch and timm.

    The CPU build of torch comes without the operators of torchvision, and torchvision fails when it declares
    their shapes. timm needs its transforms only, so this part of torchvision is left out.
    """
    torch = pytest.importorskip("torch", reason="needs the extra torch")
    if "+cpu" in torch.__version__:
        name = "torchvision._meta_registrations"
        sys.modules.setdefault(name, types.ModuleType(name))
    return torch, pytest.importorskip("timm", reason="needs the extra torch")
