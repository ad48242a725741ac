"""Encode images into memory, or into a temporary file if their vectors are larger than a limit."""

from __future__ import annotations

import logging
import os
import tempfile
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from medvlad._util.byte_sizes import check_bytes, in_words

__all__ = ["encoded"]

logger = logging.getLogger(__name__)


def encoded(encoder: Any, images: Any, head: Any) -> NDArray[Any]:
    """Return the vectors of images for a classifier.

    Parameters
    ----------
    encoder : estimator
        Fitted; from descriptors to vectors.
    images : Descriptors or DescriptorBlocks, n
    head : estimator
        The classifier. If it has a limit, `memory`, larger vectors are written to a file in the folder for
        temporary files (TMPDIR). It is removed with the array. Vectors of a PCA and of several encoders side
        by side are made in memory in any case.

    Returns
    -------
    ndarray of float32, shape (n, width)
        A read-only memory map if the vectors are in a file.
    """
    memory = getattr(head, "memory", None)
    first, last = _first_and_last(encoder)
    limit = None if memory is None else check_bytes(memory, "memory")
    is_encoder = hasattr(last, "transform_to_file")
    size = 4 * len(images) * int(last._n_features_out) if is_encoder else 0
    if limit is None or not is_encoder or size <= limit:
        vectors: NDArray[Any] = encoder.transform(images)
        return vectors
    descriptor, name = tempfile.mkstemp(prefix="medvlad-", suffix=".npy")
    os.close(descriptor)
    path = Path(name)
    logger.info("%s of encoded images are written to %s", in_words(size), path)
    try:
        mapped: NDArray[Any] = last.transform_to_file(first(images), path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    weakref.finalize(mapped, _remove, path)
    return mapped


def _first_and_last(encoder: Any) -> tuple[Callable[[Any], Any], Any]:
    """Return what projects the descriptors, and the last step, which gives the vectors."""
    if not isinstance(encoder, Pipeline):
        return lambda images: images, encoder
    return encoder[:-1].transform, encoder[-1]


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
