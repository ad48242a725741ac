"""Run a plain network with medvlad's own convolutions. See :mod:`medvlad.extraction.engines.winograd`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad.extraction.engines.winograd import ConvNet, layers_of

__all__ = ["make"]


def make(network: Any, *, n_threads: int, **_: Any) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Make the engine. See :func:`medvlad.extraction.engines.make_engine`."""
    layers = layers_of(network)
    assert layers is not None
    net = ConvNet(layers)
    return lambda pixels: net.run(np.ascontiguousarray(pixels), n_threads=n_threads)
