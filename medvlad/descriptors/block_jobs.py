"""The jobs of a pass over descriptors outside memory: one for each part of the images."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medvlad._util.passes import Job, JobSequence
from medvlad.descriptors.blocks import DescriptorBlocks

__all__ = ["BlockJobs"]

AnyJob = TypeVar("AnyJob", bound=Job)


class BlockJobs(JobSequence[AnyJob]):
    """Jobs on parts of the images. A subclass implements `make`, with :meth:`DescriptorBlocks.excerpt`.

    Parameters
    ----------
    source : DescriptorBlocks
    parts : list of ndarray of int64
        Numbers of the images of each job.
    """

    def __init__(self, source: DescriptorBlocks, parts: list[NDArray[np.int64]]) -> None:
        self._source, self.parts = source, parts

    def __len__(self) -> int:
        return len(self.parts)

    def n_images_of(self, number: int) -> int:
        """Return the number of images of a job."""
        return len(self.parts[number])

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: it finds the descriptors without reading any other header."""
        return {**self.__dict__, "_source": self._source.excerpt(np.arange(len(self._source)))}
