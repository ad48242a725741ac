"""Encode images into memory, or into a temporary file if their vectors are larger than a limit."""

from __future__ import annotations

import logging
import os
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

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
        temporary files (TMPDIR). It is removed with the array.

    Returns
    -------
    ndarray of float32, shape (n, width)
        A read-only memory map if the vectors are in a file.
    """
    memory = getattr(head, "memory", None)
    if memory is None or not hasattr(encoder, "transform_to_file"):
        vectors: NDArray[Any] = encoder.transform(images)
        return vectors
    size = 4 * len(images) * int(encoder._n_features_out)
    if size <= check_bytes(memory, "memory"):
        return encoder.transform(images)  # type: ignore[no-any-return]
    descriptor, name = tempfile.mkstemp(prefix="medvlad-", suffix=".npy")
    os.close(descriptor)
    path = Path(name)
    logger.info("%s of encoded images are written to %s", in_words(size), path)
    try:
        mapped: NDArray[Any] = encoder.transform_to_file(images, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    weakref.finalize(mapped, _remove, path)
    return mapped


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
