"""Run a network of timm or a torch.nn.Module with torch, in float32 on the CPU.

Gradients, autocast and reduced precision are off during a call. The number of threads is set for the call and
restored. One call runs at a time in a process. See :mod:`medvlad.extraction.networks.torch_cut`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["make"]


def make(network: Any, *, n_threads: int, **_: Any) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Make the engine. See :func:`medvlad.extraction.engines.make_engine`."""
    return lambda pixels: network.run(pixels, n_threads)
