"""Tell whether Keras could compute on a GPU, without importing Keras unless there is reason to."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["may_have_gpu"]

_DEV = Path("/dev")
_DEVICES = ("nvidiactl", "nvidia0", "nvmap", "dxg", "kfd", "vfio/vfio")


def may_have_gpu() -> bool:
    """Return whether this machine may have a GPU or another accelerator that Keras' backends can use.

    Only Linux tells without importing a backend: by the device files of NVIDIA, WSL, AMD and TPU drivers.
    """
    if not sys.platform.startswith("linux"):
        return True
    return any((_DEV / name).exists() for name in _DEVICES) or any(_DEV.glob("accel*"))
