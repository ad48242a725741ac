"""Encode images outside memory as jobs, which a runner carries out in this process or on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad.descriptors.block_jobs import BlockJobs
from medvlad.descriptors.blocks import BLOCK_BYTES, DescriptorBlocks

__all__ = ["EncodingJob", "encode_by_jobs"]

_VECTOR_BYTES = 16 << 20  # of the vectors of a job


@dataclass(frozen=True, eq=False)
class EncodingJob:
    """Job: the vectors of some images.

    Attributes
    ----------
    source : DescriptorBlocks
        The images.
    n_threads : int or None, default=None
        Number of threads, unless the encoder sets it. None: all processors that the process may use.
    """

    source: DescriptorBlocks
    n_threads: int | None = None
    stage: str = "encoding"

    @property
    def n_images(self) -> int:
        """Number of images, for a progress bar."""
        return len(self.source)

    def run(self, encoder: Any, /) -> NDArray[np.float32]:
        """Return the vectors (b, n_features_out) of a fitted encoder."""
        if self.n_threads is not None and getattr(encoder, "n_threads", self.n_threads) is None:
            encoder = copy(encoder)
            encoder.n_threads = self.n_threads
        vectors: NDArray[np.float32] = encoder.transform(self.source)
        return vectors


class _Jobs(BlockJobs[EncodingJob]):
    def make(self, number: int) -> EncodingJob:
        return EncodingJob(self._source.excerpt(self.parts[number]))


def encode_by_jobs(
    encoder: Any, X: DescriptorBlocks, n_columns: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield the indices of some images and their vectors (b, n_columns), computed by ``X.runner``."""
    assert X.runner is not None
    parts = list(X.cut(BLOCK_BYTES, max(1, _VECTOR_BYTES // (4 * n_columns))))
    with closing(X.runner(encoder, _Jobs(X, parts))) as results:  # type: ignore[type-var]
        yield from zip(parts, results, strict=True)
