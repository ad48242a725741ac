"""Run a network from an ONNX file with onnxruntime, in float32 on the CPU.

The session belongs to :class:`medvlad.extraction.networks.onnx_network.OnnxCut`. The number of its threads is
fixed when it is made, so no setting of the process changes.
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
