"""Fit encoders, and encode images, within a limit on the memory of their vectors.

Without a limit, or if the vectors fit into it, this is what the encoder itself does. Otherwise the vectors
are made block by block:

- A PCA finds its components by blocks (:meth:`medvlad.encoders.vector_pca.VectorPCA.fit_blocks`). Images are
  encoded again at each pass. That takes a small part of a pass, and a file would need 131 KB for each image
  with 64 centres. docs/scale.md has the figures.
- The classifier gets the reduced vectors. These are in memory if they fit into the limit. Otherwise they are
  in a temporary file.

The file lies in the folder for temporary files (TMPDIR). If the images have the workers of a cluster, it lies
in the folder of the store, which the workers see: then they carry out the passes of the SVM.

Several encoders side by side are made in memory in any case.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvlad._util.byte_sizes import check_bytes, in_words
from medvlad._util.passes import ClusterOfWorkers, Runner
from medvlad._util.temporary_folder import temporary_folder
from medvlad._util.validate import InputError
from medvlad.encoders.base import Encoder
from medvlad.encoders.recipe import encoder_steps
from medvlad.encoders.row_blocks import EncodedVectors
from medvlad.store.vector_file import new_vector_file

__all__ = ["encoded", "encoded_blocks", "fit_encoder", "runner_for"]

logger = logging.getLogger(__name__)


class _Steps(NamedTuple):
    """The steps of a recipe with one encoder: projection of descriptors, the encoder, PCA and unit length."""

    before: list[Any]
    encode: Encoder
    after: list[Any]

    @property
    def width(self) -> int:
        """Width of the vectors that the classifier gets."""
        return int(self.after[0].n_components_ if self.after else self.encode._n_features_out)

    def projected(self, images: Any) -> Any:
        """Return the images with projected descriptors."""
        for step in self.before:
            images = step.transform(images)
        return images

    def n_bytes(self, images: Any) -> int:
        """Return the size of the vectors before a PCA."""
        return 4 * len(images) * int(self.encode._n_features_out)


def fit_encoder(encoder: Any, images: Any, head: Any) -> Any:
    """Fit an encoder for a classifier, and return it.

    Parameters
    ----------
    encoder : estimator
        From descriptors to vectors.
    images : Descriptors or DescriptorBlocks, n
        Training images.
    head : estimator
        The classifier. If it has a limit, `memory`, and the vectors are larger, a PCA is fitted by blocks.

    Raises
    ------
    InputError
        If a PCA by blocks needs more memory than the limit.
    """
    limit, steps = _limit(head), _steps(encoder)
    if limit is None or steps is None or not steps.after:
        return encoder.fit(images)
    for step in steps.before:
        images = step.fit(images).transform(images)
    steps.encode.fit(images)
    size, pca = steps.n_bytes(images), steps.after[0]
    if size <= limit:
        pca.fit(steps.encode.transform(images))
    else:
        from medvlad.encoders.block_pca import memory_of_components  # takes long, as VectorPCA does

        vectors = EncodedVectors(steps.encode, images)
        needed = memory_of_components(*vectors.shape, pca.n_components)
        if needed > limit:
            raise InputError(
                f"PCA to reduce={pca.n_components} components needs {in_words(needed)} for vectors of "
                f"{vectors.shape[1]} features, and memory allows {in_words(limit)}: raise memory, or choose "
                "fewer components or centres"
            )
        logger.info("PCA by blocks: %s of vectors are encoded again at each pass", in_words(size))
        pca.fit_blocks(vectors, n_threads=_threads_of(steps))
    for step in steps.after[1:]:
        step.fit(np.zeros((1, steps.width), np.float32))
    return encoder


def encoded(encoder: Any, images: Any, head: Any) -> NDArray[Any]:
    """Return the vectors of images for a classifier.

    Parameters
    ----------
    encoder : estimator
        Fitted; from descriptors to vectors.
    images : Descriptors or DescriptorBlocks, n
    head : estimator
        The classifier. If it has a limit, `memory`, and the vectors are larger, also after a PCA, they are
        written to a file. It is removed with the array, or by the next run if the process is killed.

    Returns
    -------
    ndarray of float32, shape (n, width)
        A read-only memory map if the vectors are in a file.
    """
    limit, steps = _limit(head), _steps(encoder)
    if limit is None or steps is None or steps.n_bytes(images) <= limit:
        vectors: NDArray[Any] = encoder.transform(images)
        return vectors
    size = 4 * len(images) * steps.width
    if size <= limit:
        vectors = np.empty((len(images), steps.width), np.float32)
        for indices, rows in encoded_blocks(encoder, images):
            vectors[indices] = rows
        return vectors
    runner = getattr(images, "runner", None)
    shared = runner.folder if isinstance(runner, ClusterOfWorkers) else None
    if shared is not None and not os.access(shared, os.W_OK):
        shared = None
    folder, remove = temporary_folder(shared)
    path = folder / "vectors.npy"
    logger.info("%s of encoded images are written to %s", in_words(size), path)
    try:
        with new_vector_file(path, len(images), steps.width) as write:
            for indices, rows in encoded_blocks(encoder, images):
                write(indices, rows)
        mapped: NDArray[Any] = np.load(path, mmap_mode="r")
    except BaseException:
        remove()
        raise
    weakref.finalize(mapped, remove)
    return mapped


def runner_for(vectors: NDArray[Any], images: Any) -> Runner | None:
    """Return what carries out the passes of an SVM over the vectors of images. None: this process.

    It is the cluster of the images, if the vectors lie in a file that all its workers see. The rows of an
    array in memory are not sent to workers, because that takes longer than the products.
    """
    runner, file = getattr(images, "runner", None), getattr(vectors, "filename", None)
    if not isinstance(runner, ClusterOfWorkers) or file is None:
        return None
    blind = runner.blind_to(Path(file))
    if blind is None:
        return runner
    logger.info("the SVM runs on this machine, because the worker %s does not see %s", blind, file)
    return None


def encoded_blocks(encoder: Any, images: Any) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Encode images block by block, with memory for a few blocks.

    Parameters
    ----------
    encoder : estimator
        Fitted recipe with one encoder.
    images : Descriptors or DescriptorBlocks

    Yields
    ------
    indices : ndarray of int64, shape (b,)
        Indices of the images of the block.
    vectors : ndarray of float32, shape (b, width)
        Their vectors. Without a PCA they equal those of `transform` to the bit.
    """
    steps = _steps(encoder)
    assert steps is not None
    source = EncodedVectors(steps.encode, steps.projected(images))
    if not steps.after:
        yield from source.blocks()
        return
    pca, *rest = steps.after
    for indices, rows in pca.transform_blocks(source, n_threads=_threads_of(steps)):
        for step in rest:
            rows = step.transform(rows)
        yield indices, rows


def _limit(head: Any) -> int | None:
    memory = getattr(head, "memory", None)
    return None if memory is None else check_bytes(memory, "memory")


def _threads_of(steps: _Steps) -> int | None:
    return getattr(steps.encode, "n_threads", None)


def _steps(encoder: Any) -> _Steps | None:
    """Return the steps of a recipe. None: its vectors are made in memory."""
    steps = [step for _, step in encoder_steps(encoder)]
    at = next((i for i, step in enumerate(steps) if isinstance(step, Encoder)), None)
    if at is None:
        return None
    after = steps[at + 1 :]
    if after and not hasattr(after[0], "fit_blocks"):
        return None
    return _Steps(steps[:at], steps[at], after)
