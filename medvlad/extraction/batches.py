"""The batch loop: images go through the network in batches and come out as descriptors.

::

    images --load, resize--> squares --preprocess--> pixels --engine--> feature maps --> descriptors

Threads load and resize images ahead of the network. The number of images in a batch depends on their number
of pixels, so memory is bounded at every scale.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.counters import count, stage
from medvlad._util.object_path import location
from medvlad._util.progress import progress_bar
from medvlad._util.validate import InputError
from medvlad.descriptors.gpu_array import first_not_finite, import_cupy
from medvlad.extraction.engines import Engine
from medvlad.images.prefetch import load_squares

__all__ = ["Batch", "BatchSettings", "calibration_pixels", "extract_batches"]

_BATCH_PIXELS = 8 * 224 * 224
_BATCHES_WITHOUT_BAR = 4
_CALIBRATION_IMAGES = 128
_MAX_LOADERS = 16  # more do not make any network faster, and each holds a decoded image

Squares = list[NDArray[np.uint8]]


@dataclass(frozen=True)
class BatchSettings:
    """Settings of one run of the batch loop.

    Parameters
    ----------
    preprocess : callable
        Function from RGB pixels (b, s, s, 3), float32 in 0..255, to the input of the engine.
    sides : tuple of int
        Side of the square input in pixels, one for each scale.
    grids : tuple of (int, int)
        Height and width of the feature map, one for each scale and view, in the order of the descriptors.
    views : tuple of bool
        Views of each square: False stands for the image, True for its mirror image.
    n_features : int
        Width D of a descriptor.
    batch_size : int or None
        Number of images in a batch. None: about 400,000 pixels, at least one image.
    resize : str
        Filter that resizes images. One of :data:`medvlad.images.resize.RESIZE_FILTERS`.
    on_error : {"raise", "skip"}
        What to do with an image that cannot be read.
    on_damage : {"warn", "raise", "skip"}
        What to do with an image whose data is damaged although it can be decoded.
    colour_profile : {"ignore", "srgb"}
        What to do with ICC profiles.
    decode : {"full", "fast"}
        How JPEG files are decoded.
    n_threads : int
        Number of threads that load images. At most 16 are used.
    progress : bool or None
        Whether to show a progress bar. None: if standard error is a terminal and there are more than four
        batches.
    on_gpu : bool
        Whether the engine returns arrays on the GPU.
    """

    preprocess: Callable[..., Any]
    sides: tuple[int, ...]
    grids: tuple[tuple[int, int], ...]
    views: tuple[bool, ...]
    n_features: int
    batch_size: int | None
    resize: str
    on_error: str
    on_damage: str
    colour_profile: str
    decode: str
    n_threads: int
    progress: bool | None
    on_gpu: bool

    @property
    def n_descriptors(self) -> int:
        """Number of descriptors of an image."""
        return sum(h * w for h, w in self.grids)

    @property
    def batch_sizes(self) -> list[int]:
        """Number of images in a batch, one for each scale."""
        return [self.batch_size or max(1, _BATCH_PIXELS // side**2) for side in self.sides]

    @property
    def n_loaders(self) -> int:
        """Number of threads that load images."""
        return min(self.n_threads, _MAX_LOADERS)


@dataclass(frozen=True)
class Batch:
    """Some images after the network.

    Parameters
    ----------
    indices : list of int
        Indices of the images that were read.
    descriptors : array of float32, shape (m, n, D)
        Descriptors of these images.
    keys : list of str
        Key of the content that was decoded, one for each of these images. Empty unless keys were asked for.
    skipped : list of (int, str)
        Index and reason of each image that could not be read, or that is damaged and left out.
    damaged : dict of int to str
        Reason of each damaged image among `indices`.
    """

    indices: list[int]
    descriptors: Any
    keys: list[str]
    skipped: list[tuple[int, str]]
    damaged: dict[int, str] = field(default_factory=dict)


def extract_batches(
    images: Any,
    wanted: Sequence[int],
    engine: Engine,
    settings: BatchSettings,
    *,
    out: Any = None,
    with_keys: bool = False,
) -> Iterator[Batch]:
    """Yield the descriptors of images, batch by batch.

    Parameters
    ----------
    images : sequence of paths and arrays
        Images that :func:`medvlad.images.read.load_image` can read.
    wanted : sequence of int
        Indices of the images to extract, in order.
    engine : callable
        See :func:`medvlad.extraction.engines.make_engine`.
    settings : BatchSettings
    out : array of float32, shape (N, D), or None, default=None
        Array for the descriptors of all wanted images. Batches are written to it one after another, without
        gaps for skipped images. None: each batch has an array of its own.
    with_keys : bool, default=False
        Whether to hash the content of each image. It may differ from the content that an earlier
        :func:`medvlad.images.hashed_file.image_key` has seen.

    Yields
    ------
    Batch

    Raises
    ------
    InputError
        If an image cannot be read and ``on_error="raise"``, if one is damaged and ``on_damage="raise"``, or
        if a descriptor is NaN or infinite.
    """
    chunk = max(settings.batch_sizes)
    shown = settings.progress
    if shown is None and len(wanted) <= _BATCHES_WITHOUT_BAR * chunk:
        shown = False
    keys: dict[int, str] | None = {} if with_keys else None
    damage: dict[int, str] = {}
    n_descriptors, used = settings.n_descriptors, 0
    loaded = load_squares(
        images,
        wanted,
        settings.sides,
        settings.resize,
        n_threads=settings.n_loaders,
        keys=keys,
        damage=damage,
        colour_profile=settings.colour_profile,
        decode=settings.decode,
    )
    with closing(loaded), progress_bar(len(wanted), "descriptors", shown) as bar:
        while taken := _taken(loaded, chunk):
            readable, skipped = _separate(taken, images, damage, settings)
            indices = [index for index, _ in readable]
            n_rows = len(readable) * n_descriptors
            rows = (
                np.empty((n_rows, settings.n_features), np.float32)
                if out is None
                else out[used : used + n_rows]
            )
            block = rows.reshape(len(readable), n_descriptors, settings.n_features)
            with stage("network"):
                _compute([squares for _, squares in readable], engine, settings, block)
            _check_finite(rows, n_descriptors, indices, images)
            used += n_rows
            found = {i: damage.pop(i) for i in indices if i in damage}
            count("images_extracted", len(indices))
            count("images_damaged", len(found))
            count("failures", len(skipped))
            yield Batch(
                indices,
                block,
                [keys.pop(i) for i in indices] if keys is not None else [],
                skipped,
                found,
            )
            bar.update(len(taken))


def _taken(loaded: Iterator[Any], chunk: int) -> list[Any]:
    """Return the next images, and count the time that the network waits for them."""
    with stage("read"):
        return list(islice(loaded, chunk))


def _separate(
    taken: list[tuple[int, Squares | InputError]],
    images: Any,
    damage: dict[int, str],
    settings: BatchSettings,
) -> tuple[list[tuple[int, Squares]], list[tuple[int, str]]]:
    """Separate images that are used from images that could not be read, or are damaged and left out."""
    readable: list[tuple[int, Squares]] = []
    skipped: list[tuple[int, str]] = []
    for index, squares in taken:
        if not isinstance(squares, InputError):
            if index not in damage or settings.on_damage == "warn":
                readable.append((index, squares))
            elif settings.on_damage == "raise":
                raise InputError(damage[index])
            else:
                skipped.append((index, damage.pop(index)))
            continue
        is_path = isinstance(images[index], str | os.PathLike)
        reason = str(squares) if is_path else f"image {index}: {squares}"
        if settings.on_error == "raise":
            raise InputError(f"{reason}; on_error='skip' leaves such images out and lists them") from squares
        skipped.append((index, reason))
    return readable, skipped


def _compute(images: list[Squares], engine: Engine, settings: BatchSettings, block: Any) -> None:
    """Write the descriptors of images, at all scales and views, to `block` (m, n, D)."""
    grids, start = iter(settings.grids), 0
    for scale, size in enumerate(settings.batch_sizes):
        for mirrored in settings.views:
            h, w = next(grids)
            for at in range(0, len(images), size):
                part = np.stack([squares[scale] for squares in images[at : at + size]])
                part = part[:, :, ::-1] if mirrored else part
                maps = engine(settings.preprocess(part.astype(np.float32, order="C")))
                block[at : at + size, start : start + h * w] = maps.reshape(len(part), h * w, -1)
                if settings.on_gpu:  # Keras may reuse the memory of the maps after this line
                    import_cupy().cuda.get_current_stream().synchronize()
            start += h * w


def _check_finite(rows: Any, n_descriptors: int, indices: list[int], images: Any) -> None:
    row = first_not_finite(rows)
    if row is None:
        return
    index = indices[row // n_descriptors]
    image = images[index]
    is_path = isinstance(image, str | os.PathLike)
    name = str(location(image, "the image")) if is_path else f"image {index}"
    raise InputError(f"the network computes numbers that are not finite for {name}: check its weights")


def calibration_pixels(images: Any, settings: BatchSettings) -> Generator[NDArray[np.float32], None, None]:
    """Yield preprocessed pixels of up to 128 images, spread evenly over all of them.

    Parameters
    ----------
    images : sequence of paths and arrays
        Training images. Images that cannot be read are left out.
    settings : BatchSettings

    Yields
    ------
    ndarray of float32, shape (1, s, s, 3)
        One image at one scale.
    """
    n = min(len(images), _CALIBRATION_IMAGES)
    chosen = np.unique(np.linspace(0, len(images) - 1, n).astype(int)).tolist()
    loaded = load_squares(
        images,
        chosen,
        settings.sides,
        settings.resize,
        n_threads=settings.n_loaders,
        colour_profile=settings.colour_profile,
        decode=settings.decode,
    )
    with closing(loaded):
        for _, squares in loaded:
            if not isinstance(squares, InputError):
                for square in squares:
                    yield settings.preprocess(square[None].astype(np.float32))
