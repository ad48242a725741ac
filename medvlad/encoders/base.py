"""What encoders of images have in common: the input they take, blocks of images in a store, float32 out."""

from __future__ import annotations

import math
import os
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
from medvlad.descriptors.checks import check_finite, check_width
from medvlad.descriptors.ragged import Descriptors, as_descriptors, draw_rows, validate_input
from medvlad.store.stored_descriptors import StoredDescriptors
from medvlad.store.vector_file import new_vector_file

__all__ = ["Encoder", "blocks", "drawn_rows", "in_host_memory", "validated"]

_BLOCK_BYTES = 16 << 20  # of encoded images at a time
_CONVERTED_BYTES = 4 << 20  # of descriptors that become float32 at a time


class Encoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What all encoders have in common: any input, float32 out, and images that are in a store."""

    _learnt = "n_features_in_"  # what only a fitted one has

    @memory_for("encoded images", "encode fewer at a time, or into a file (transform_to_file)")
    def transform(self, X: Any) -> Any:
        """Encode each image.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or (B, H, W, D), or array (B, D)
            In host memory, in a store or on a GPU.

        Returns
        -------
        ndarray of float32, shape (B, n_features_out)
            An image without descriptors gives zeros. Of the library and on the device of `X` where the class
            says so, and where scikit-learn's ``array_api_dispatch`` is on.

        Raises
        ------
        InputError
            If `X` is not finite numbers of the width that was fitted on.
        """
        check_is_fitted(self)
        given = X if _is_converted_in_blocks(X) else validated(self, X, reset=False)
        if not isinstance(given, Descriptors):
            return self._transform_in_blocks(given)
        return like_input(self._encode_images(given), X)

    @abstractmethod
    def _encode_images(self, given: Descriptors) -> Any:
        """Vectors (B, n_features_out) of images that :func:`validated` returned."""

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, self._learnt)

    def transform_blocks(self, X: Any) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Encode images block by block, in memory for a block; see :meth:`medvlad.StoredDescriptors.blocks`.

        Parameters
        ----------
        X : StoredDescriptors, or what `transform` takes, in host memory

        Yields
        ------
        indices : ndarray of int64, shape (b,)
            Which images these are.
        vectors : ndarray of float32, shape (b, n_features_out)
            Rows `indices` of what `transform` returns, to the bit.
        """
        check_is_fitted(self)
        step = max(1, _BLOCK_BYTES // (4 * self._n_features_out))
        for indices, block in blocks(X):
            for start in range(0, len(block), step):
                part = validate_input(self, block[start : start + step], reset=False)
                yield indices[start : start + step], self._encode_images(part)

    def transform_to_file(self, X: Any, path: str | os.PathLike[str]) -> NDArray[np.float32]:
        """Encode images into a ``.npy`` file, in memory for a block, however many there are.

        Parameters
        ----------
        X : StoredDescriptors, or what `transform` takes, in host memory
        path : path
            Replaced once the new file is whole.

        Returns
        -------
        memmap of float32, shape (B, n_features_out)
            The file, for reading; later, ``numpy.load(path, mmap_mode="r")``.

        Raises
        ------
        InputError
            If the file cannot be written, the disk is too small for it, or an image in the store is damaged.
        """
        check_is_fitted(self)
        X = on_host(X, "descriptors")
        in_blocks = isinstance(X, StoredDescriptors) or _is_converted_in_blocks(X)
        images = X if in_blocks else as_descriptors(X)
        with new_vector_file(path, len(images), self._n_features_out) as write:
            for indices, vectors in self.transform_blocks(images):
                write(indices, vectors)
        mapped: NDArray[np.float32] = np.load(Path(path), mmap_mode="r")
        return mapped

    def _transform_in_blocks(self, X: Any) -> NDArray[np.float32]:
        encoded = np.empty((len(X), self._n_features_out), np.float32)
        for indices, vectors in self.transform_blocks(X):
            encoded[indices] = vectors
        return encoded

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def drawn_rows(
    X: Descriptors | StoredDescriptors, max_samples: int | None, random_state: Any
) -> NDArray[np.float32]:
    """Draw at most `max_samples` descriptors (n, D) of what :func:`validated` returned, in host memory."""
    n_rows = int(X.offsets[-1])
    most = n_rows if max_samples is None else check_positive_int(max_samples, "max_samples")
    if isinstance(X, StoredDescriptors):
        return X.sample(max(1, min(most, n_rows)), random_state)
    values: NDArray[np.float32] = X.counted().to_host().values
    n_rows = len(values)
    return values[draw_rows(n_rows, max(1, most), random_state)] if most < n_rows else values


def in_host_memory(given: Descriptors) -> Descriptors:
    """Return what :func:`validated` returned in host memory, and looked at."""
    descriptors = given.to_host()
    if descriptors is not given:  # what is on a GPU was not looked at
        check_finite(descriptors.values, descriptors.offsets)
    return descriptors


def blocks(X: Any) -> Iterator[tuple[NDArray[np.int64], Descriptors]]:
    """Blocks of images in a store, or of a large array that is to be converted; others are one block."""
    X = on_host(X, "descriptors")
    if isinstance(X, StoredDescriptors):
        yield from X.blocks()
    elif _is_converted_in_blocks(X):
        step = max(1, _CONVERTED_BYTES // (4 * math.prod(X.shape[1:])))
        for start in range(0, len(X), step):
            try:
                part = as_descriptors(X[start : start + step])
            except InputError as error:
                raise InputError(f"of the images from {start} on, {error}") from error
            check_finite(part.values, part.offsets, first_image=start)
            yield np.arange(start, start + len(part)), part
    else:
        descriptors = as_descriptors(X).to_host()
        yield np.arange(len(descriptors)), descriptors


def _is_converted_in_blocks(X: Any) -> bool:
    """Whether `X` is an array of images so large that a float32 copy of it is not made as a whole."""
    if not isinstance(X, np.ndarray) or X.ndim not in (3, 4) or X.dtype.kind not in "fiub":
        return False
    return X.nbytes > 2 * _BLOCK_BYTES and not (X.dtype == np.float32 and X.flags.c_contiguous)


def validated(encoder: Any, X: Any, *, reset: bool) -> Descriptors | StoredDescriptors:
    """Like `validate_input`; of images in a store only the width is looked at, numbers when they are read."""
    if not isinstance(X, StoredDescriptors):
        return validate_input(encoder, X, reset=reset)
    if reset:
        encoder.n_features_in_ = X.n_features
    check_width(
        X.n_features,
        encoder.n_features_in_,
        "descriptors",
        f"those that {type(encoder).__name__} was fitted on",
    )
    return X
