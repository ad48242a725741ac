"""Extract images one batch after another, so that memory does not depend on the number of images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from medvlad.datasets.arriving import PAUSE
from medvlad.descriptors.ragged import Descriptors
from medvlad.extraction.batches import Batch
from medvlad.extraction.cnn_descriptors import CNNDescriptors, batches_of

__all__ = ["Extracted", "extract_stream"]

_AT_ONCE = 512  # images whose names are in memory
_BYTES = 64 << 20  # of the descriptors that are read from a store at once


@dataclass(frozen=True)
class Extracted:
    """Some images after the network, in their order.

    Parameters
    ----------
    images : list
        The images, as they were given.
    used : list of int
        Indices of the images that were read.
    descriptors : Descriptors
        Descriptors of the images `used`.
    skipped, damaged : dict of int to str
        Reason for each image that was skipped, and for each one that was used although it is damaged.
    """

    images: list[Any]
    used: list[int]
    descriptors: Descriptors
    skipped: dict[int, str]
    damaged: dict[int, str]


def extract_stream(extractor: CNNDescriptors, images: Iterable[Any]) -> Iterator[Extracted]:
    """Yield the descriptors of images as soon as they are computed.

    Parameters
    ----------
    extractor : CNNDescriptors
        Its parameters `on_error`, `on_damage` and `store` apply. No progress bar is shown.
    images : iterable
        Images as for :meth:`medvlad.CNNDescriptors.transform`. They are taken when they are needed, at most
        512 at once. :data:`medvlad.datasets.arriving.PAUSE` among them means that the images before it are
        not to wait for more.

    Yields
    ------
    Extracted
        A few images, one batch of the network unless they come from a store.

    Raises
    ------
    InputError, MissingExtraError
        As :meth:`medvlad.CNNDescriptors.transform`.
    """
    extractor = extractor.build().with_parameters(progress=False, output="host")
    if extractor.store is None:
        for chunk in _chunks(images, _AT_ONCE):
            yield from _by_batch(extractor, chunk)
        return
    per_image = 4 * extractor.n_features_out_ * sum(h * w for h, w in extractor.grids_)
    for chunk in _chunks(images, min(_AT_ONCE, max(1, _BYTES // per_image))):
        descriptors, report = extractor.transform_with_report(chunk)
        skipped = dict(report.skipped)
        used = [i for i in range(len(chunk)) if i not in skipped]
        kept = cast(Descriptors, descriptors).take(np.array(used, np.intp))
        yield Extracted(chunk, used, kept, skipped, dict(report.damaged))


def _chunks(images: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield at most `size` images at once, and what is there at a pause."""
    chunk: list[Any] = []
    for image in images:
        if image is not PAUSE:
            chunk.append(image)
        if len(chunk) == size or (image is PAUSE and chunk):
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _by_batch(extractor: CNNDescriptors, chunk: list[Any]) -> Iterator[Extracted]:
    batches = cast("Any", batches_of(extractor, chunk, range(len(chunk))))
    with closing(batches):
        for batch in batches:
            yield _moved(batch, chunk)


def _moved(batch: Batch, chunk: list[Any]) -> Extracted:
    """Return a batch with indices into its own images."""
    taken = sorted([*batch.indices, *(i for i, _ in batch.skipped)])
    place = {index: i for i, index in enumerate(taken)}
    return Extracted(
        [chunk[i] for i in taken],
        [place[i] for i in batch.indices],
        Descriptors.from_array(batch.descriptors),
        {place[i]: reason for i, reason in batch.skipped},
        {place[i]: reason for i, reason in batch.damaged.items()},
    )
