"""Base class of the encoders: accepted inputs, encoding in blocks, float32 output."""

from __future__ import annotations

import math
import os
import sys
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from medvlad._util.memory import memory_for
from medvlad._util.validate import InputError, check_positive_int
from medvlad.descriptors.array_api import like_input, on_host
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.checks import check_finite
from medvlad.descriptors.gpu_array import GpuArray
from medvlad.descriptors.ragged import Descriptors, as_descriptors, draw_rows, rows_of, validate_input
from medvlad.encoders.encoding_jobs import encode_by_jobs
from medvlad.store.vector_file import new_vector_file

__all__ = ["Encoder", "blocks", "counted_in_host_memory", "drawn_rows", "validated"]

_BLOCK_BYTES = 16 << 20  # of encoded images in memory at a time
_CONVERTED_BYTES = 4 << 20  # of descriptors converted to float32 at a time


class Encoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Base class: encode images in memory, in a store or on a GPU, as a whole or block by block.

    A subclass implements `fit`, `_encode_images` and `_n_features_out`.
    """

    _learnt = "n_features_in_"  # an attribute that exists after `fit` only

    @property
    def _finds_not_finite(self) -> bool:
        """Whether `_encode_images` itself finds numbers that are not finite. `transform` does not look then.

        Looking takes a pass over all descriptors. A sum over them that is not finite shows it for nothing.
        """
        return False

    @memory_for("encoded images", "encode fewer at a time, or into a file (transform_to_file)")
    def transform(self, X: Any) -> Any:
        """Encode each image.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or (B, H, W, D), or array (B, D)
            Descriptors in host memory, in a store or on a GPU.

        Returns
        -------
        ndarray of float32, shape (B, n_features_out)
            An image without descriptors gives zeros. The array has the library and device of `X` if the
            class says so, or if scikit-learn's ``array_api_dispatch`` is on.

        Raises
        ------
        InputError
            If `X` is not finite, or its width is not that of `fit`.
        """
        check_is_fitted(self)
        finite = not self._finds_not_finite
        given = X if _is_converted_in_blocks(X) else validated(self, X, reset=False, finite=finite)
        if not isinstance(given, Descriptors):
            return self._transform_in_blocks(given)
        return like_input(self._encode_images(given), X)

    @abstractmethod
    def _encode_images(self, given: Descriptors) -> Any:
        """Return the vectors (B, n_features_out) of images that :func:`validated` returned."""

    def _encode_into(self, given: Descriptors, out: NDArray[np.float32]) -> None:
        """Write the vectors of images in host memory to `out` (B, n_features_out)."""
        out[...] = self._encode_images(given)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, self._learnt)

    def transform_blocks(self, X: Any) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Encode images block by block, with memory for one block.

        Parameters
        ----------
        X : StoredDescriptors, or any input of `transform` in host memory
            A store gives its :meth:`medvlad.descriptors.blocks.DescriptorBlocks.blocks`.

        Yields
        ------
        indices : ndarray of int64, shape (b,)
            Indices of the images of the block.
        vectors : ndarray of float32, shape (b, n_features_out)
            Rows `indices` of the result of `transform`, equal to the bit.
        """
        check_is_fitted(self)
        if isinstance(X, DescriptorBlocks) and X.runner is not None:
            validated(self, X, reset=False)
            yield from encode_by_jobs(self, X, self._n_features_out)
            return
        memory = ReusedArray(self._n_features_out)
        for indices, part in self._parts(X):
            vectors = memory.rows(len(part))
            self._encode_into(part, vectors)
            del part
            yield indices, vectors
            del vectors  # so that its memory is free for the next part, unless the caller keeps it

    def _parts(self, X: Any) -> Iterator[tuple[NDArray[np.int64], Descriptors]]:
        """Yield parts of images, whose vectors have about _BLOCK_BYTES, and their indices."""
        step, finite = max(1, _BLOCK_BYTES // (4 * self._n_features_out)), not self._finds_not_finite
        for indices, block in blocks(X):
            for start in range(0, len(block), step):
                part = validate_input(self, block[start : start + step], reset=False, finite=finite)
                yield indices[start : start + step], part
                del part
            del block  # before the next one is read: a block can be one image of several hundred MiB

    def transform_to_file(self, X: Any, path: str | os.PathLike[str]) -> NDArray[np.float32]:
        """Encode any number of images into a ``.npy`` file, with memory for one block.

        Parameters
        ----------
        X : StoredDescriptors, or any input of `transform` in host memory
        path : path
            An existing file is replaced once the new one is complete.

        Returns
        -------
        memmap of float32, shape (B, n_features_out)
            The file, opened for reading. To open it later: ``numpy.load(path, mmap_mode="r")``.

        Raises
        ------
        InputError
            If the file cannot be written, the disk is too small, or an image in the store is damaged.
        """
        check_is_fitted(self)
        X = on_host(X, "descriptors")
        in_blocks = isinstance(X, DescriptorBlocks) or _is_converted_in_blocks(X)
        images = X if in_blocks else as_descriptors(X)
        with new_vector_file(path, len(images), self._n_features_out) as write:
            for indices, vectors in self.transform_blocks(images):
                write(indices, vectors)
        mapped: NDArray[np.float32] = np.load(Path(path), mmap_mode="r")
        return mapped

    def _transform_in_blocks(self, X: Any) -> NDArray[np.float32]:
        encoded = np.empty((len(X), self._n_features_out), np.float32)
        if isinstance(X, DescriptorBlocks) and X.runner is not None:
            for indices, vectors in encode_by_jobs(self, X, self._n_features_out):
                encoded[indices] = vectors
            return encoded
        memory = ReusedArray(self._n_features_out)
        for indices, part in self._parts(X):
            first, last = int(indices[0]), int(indices[-1]) + 1
            if last - first == len(indices) and (np.diff(indices) == 1).all():
                self._encode_into(part, encoded[first:last])
            else:
                vectors = memory.rows(len(part))
                self._encode_into(part, vectors)
                encoded[indices] = vectors
                del vectors
            del part
        return encoded

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


class ReusedArray:
    """Memory for one array after another. New pages cost more than to encode the images that fill them.

    A loop keeps its last array until it has the next one, so there are two pieces of memory.

    Parameters
    ----------
    n_columns : int
    """

    def __init__(self, n_columns: int) -> None:
        self._n_columns = n_columns
        self._memories = [np.empty((0, n_columns), np.float32)]
        self._alone = sys.getrefcount(self._memories[0])  # references to memory that nobody else uses

    def rows(self, n: int) -> NDArray[np.float32]:
        """Return an array (n, n_columns) of float32 whose memory nobody else uses."""
        for i in range(len(self._memories)):
            if len(self._memories[i]) >= n and sys.getrefcount(self._memories[i]) <= self._alone:
                return self._memories[i][:n]
        self._memories = [*self._memories[-1:], np.empty((n, self._n_columns), np.float32)]
        return self._memories[-1][:n]


def drawn_rows(
    X: Descriptors | DescriptorBlocks, max_samples: int | None, random_state: Any
) -> NDArray[np.float32]:
    """Return the descriptors (n, D) that :func:`validated` returned, in host memory.

    More than `max_samples` are subsampled. None: return all.
    """
    n_rows = int(X.offsets[-1])
    most = n_rows if max_samples is None else check_positive_int(max_samples, "max_samples")
    if isinstance(X, DescriptorBlocks):
        return X.sample(max(1, min(most, n_rows)), random_state)
    values = X.counted().values
    if most < len(values):
        values = rows_of(values, draw_rows(len(values), max(1, most), random_state))
    drawn: NDArray[np.float32] = values.to_host() if isinstance(values, GpuArray) else values
    return drawn


def counted_in_host_memory(given: Descriptors) -> Descriptors:
    """Return the descriptors whose weight is not 0, in host memory. The others must be finite too."""
    descriptors = given.to_host()
    counted = descriptors.counted()
    if counted is not descriptors:  # nobody reads the others
        check_finite(descriptors.values, descriptors.offsets)
    return counted


def blocks(X: Any) -> Iterator[tuple[NDArray[np.int64], Descriptors]]:
    """Yield blocks of images and their indices.

    Images in a store, and a large array that needs conversion, come in several blocks, others in one.
    """
    X = on_host(X, "descriptors")
    if isinstance(X, DescriptorBlocks):
        yield from X.blocks()
    elif _is_converted_in_blocks(X):
        step = max(1, _CONVERTED_BYTES // (4 * math.prod(X.shape[1:])))
        for start in range(0, len(X), step):
            try:
                part = as_descriptors(X[start : start + step])
            except InputError as error:
                raise InputError(f"among the images from {start} on, {error}") from error
            check_finite(part.values, part.offsets, first_image=start)
            yield np.arange(start, start + len(part)), part
    else:
        descriptors = as_descriptors(X).to_host()
        yield np.arange(len(descriptors)), descriptors


def _is_converted_in_blocks(X: Any) -> bool:
    """Return whether `X` is an array of images that is too large to convert to float32 at once."""
    if not isinstance(X, np.ndarray) or X.ndim not in (3, 4) or X.dtype.kind not in "fiub":
        return False
    return X.nbytes > 2 * _BLOCK_BYTES and not (X.dtype == np.float32 and X.flags.c_contiguous)


def validated(encoder: Any, X: Any, *, reset: bool, finite: bool = True) -> Descriptors | DescriptorBlocks:
    """Check input as `validate_input` does.

    Of images in a store only the width is checked here. Their numbers are checked when they are read.
    """
    if not isinstance(X, DescriptorBlocks):
        return validate_input(encoder, X, reset=reset, finite=finite)
    if reset:
        encoder.n_features_in_ = X.n_features
    X.check_width(encoder.n_features_in_, f"those that {type(encoder).__name__} was fitted on")
    return X
