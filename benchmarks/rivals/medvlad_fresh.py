"""medvlad.VLAD.transform, which returns a new array. It is compared with the call that writes into `out`."""

from __future__ import annotations

from rivals import medvlad_calls
from rivals.medvlad_calls import assign, describe

__all__ = ["assign", "describe", "prepare"]


def prepare(x, offsets, centers, n_threads):
    encode = medvlad_calls.prepare(x, offsets, centers, n_threads)
    return lambda out: encode(None)
