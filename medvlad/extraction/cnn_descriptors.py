"""CNNDescriptors: a frozen ImageNet network, cut at a layer, turns images into local descriptors.

::

    image --load--> (H, W, 3) --resize--> (s, s, 3) --preprocess, network--> (h, w, D) --> h * w descriptors

    scale  0    1    2    ...      s = 224 + 320 * scale
    VGG at block5_pool:  7 x 7, 17 x 17, 27 x 27 descriptors of 512 numbers

The network is any Keras application with its own preprocessing; what runs it is chosen in
:mod:`medvlad.extraction.engines`. Threads read and resize ahead of it. Batches are cut by pixels, so
memory is bounded at every scale.

With ``output="gpu"`` descriptors stay on the GPU that Keras computes on: only the pixels go there, and only
what is made of the descriptors comes back.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import closing
from itertools import islice, product
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from medvlad._util.progress import progress_bar
from medvlad._util.validate import InputError, check_choice, check_n_threads, check_positive_int
from medvlad.descriptors.gpu_array import GpuArray, empty, first_not_finite, import_cupy
from medvlad.descriptors.ragged import Descriptors
from medvlad.extraction.engines import calibrate, choose_engine, make_engine
from medvlad.extraction.network import build_network, import_keras
from medvlad.extraction.weights import fingerprint, weights_source
from medvlad.images.hashed_file import image_key
from medvlad.images.prefetch import as_sequence, load_squares
from medvlad.images.read import RESIZE_FILTERS
from medvlad.store.store import DescriptorStore, Section, ShardWriter
from medvlad.store.stored_descriptors import StoredDescriptors

__all__ = ["CNNDescriptors", "input_side"]

# Goes up when the same image and settings would give other descriptors.
_PREPROCESSING = 1
_BATCH_PIXELS = 8 * 224 * 224
_BATCHES_WITHOUT_BAR = 4
_CALIBRATION_IMAGES = 128
_LOADERS = 16  # more than enough for any network, and each holds a decoded image


def input_side(scale: int) -> int:
    """Side in pixels of the square input of a scale: 224, 544, 864, ..."""
    return 224 + 320 * scale


_NOT_PICKLED = ("_network", "_preprocess", "_key", "_choice", "_made")


class CNNDescriptors(TransformerMixin, BaseEstimator):
    """Local descriptors of images by a frozen convolutional network.

    Parameters
    ----------
    model : str, default="vgg19"
        Any network of ``keras.applications``, in any case: "vgg16", "resnet50", "EfficientNetB0", ...
    layer : str, default="block5_pool"
        Where the network is cut. A layer of shape (h, w, D) gives h * w descriptors of D numbers, row by row;
        one of shape (D,), such as "fc1", gives one descriptor and needs ``scales=(0,)``.
    scales : int or sequence of int, default=(0,)
        Scale s means a square input of 224 + 320 s pixels. With several, an image's descriptors are those of
        all its scales, in the order given.
    mirror : bool, default=False
        Whether an image's descriptors are also those of its left-right mirror image: at each scale, its own
        and then the mirror's. It doubles the time. A mean over descriptors is then the mean over both.
    weights : str or path, default="imagenet"
        "imagenet", "bundled" or a file; see :mod:`medvlad.extraction.weights`.
    batch_size : int or None, default=None
        Images a batch; None: as many as make about 400,000 pixels (8 at scale 0, 1 at the others).
    dtype : {"float32", "bfloat16", "int8"}, default="float32"
        How exact the network's arithmetic must be; descriptors are float32. "bfloat16" may round factors to
        8 bits where this processor is faster with them. "int8" rounds weights and activations to 256 steps,
        needs `fit` with training images, and the extra openvino; see :mod:`medvlad.extraction.engines`.
    engine : {"auto", "keras", "native", "openvino"}, default="auto"
        What runs the network; "auto": the fastest here, see :mod:`medvlad.extraction.engines`.
    n_threads : int or None, default=None
        Threads of reading and of the engines "native" and "openvino"; None: all processors.
    output : {"host", "gpu", "store"}, default="host"
        Where the descriptors are wanted. "gpu" leaves them where Keras computed them, for VLAD to go on from
        there; all of them must fit into the GPU's memory. "store" leaves them in the `store`, to be read
        block by block, however many there are.
    store : path or None, default=None
        Folder of a :class:`medvlad.store.store.DescriptorStore`: images that went through the same network
        before are read from it, others are added. Several scales are put together from what it has of each.
    resize : str, default="bilinear"
        Pillow's filter, antialiased: one of :data:`medvlad.images.read.RESIZE_FILTERS`.
    on_error : {"raise", "skip"}, default="raise"
        What an unreadable image does. With "skip" it gets no descriptors and is listed in `skipped_`.
    progress : bool or None, default=None
        Progress bar on standard error; None: where that is a terminal and there are more than a few batches.

    Attributes
    ----------
    skipped_ : list of (int, str)
        Index and reason of each image that the last `transform` skipped.
    n_extracted_ : int
        Images that the last call with a `store` put through the network.
    n_features_out_ : int
        Width D of a descriptor.
    input_sides_ : tuple of int
        Sides in pixels, one a scale.
    grids_ : tuple of (int, int)
        Height and width of the descriptors' grids in turn: one a scale, with `mirror` two; (1, 1) for a layer
        without places.
    mirrored_ : tuple of bool
        Which of the grids are of the mirror image.
    weights_fingerprint_ : str
        SHA-256 of the weights in use.
    engine_ : str
        The engine in use.
    ranges_ : dict of str to float
        For "int8": the largest activations of training images, by layer.

    Notes
    -----
    The network is built when first needed and is not pickled.

    References
    ----------
    Farhat, Sicre: CNNs for medical image transfer learning + VLAD aggregation.
    """

    def __init__(
        self,
        model: str = "vgg19",
        layer: str = "block5_pool",
        *,
        scales: int | Sequence[int] = (0,),
        mirror: bool = False,
        weights: str | os.PathLike[str] = "imagenet",
        batch_size: int | None = None,
        dtype: str = "float32",
        engine: str = "auto",
        n_threads: int | None = None,
        output: str = "host",
        store: str | os.PathLike[str] | None = None,
        resize: str = "bilinear",
        on_error: str = "raise",
        progress: bool | None = None,
    ) -> None:
        self.model = model
        self.layer = layer
        self.scales = scales
        self.mirror = mirror
        self.weights = weights
        self.batch_size = batch_size
        self.dtype = dtype
        self.engine = engine
        self.n_threads = n_threads
        self.output = output
        self.store = store
        self.resize = resize
        self.on_error = on_error
        self.progress = progress

    def build(self) -> Self:
        """Check the parameters and build the network, unless there is one for them.

        Returns
        -------
        self

        Raises
        ------
        InputError
            If a parameter or the weights do not fit.
        MissingExtraError
            If Keras, its backend or the engine is not installed.
        """
        scales = _check_scales(self.scales)
        check_choice(self.output, "output", ("host", "gpu", "store"))
        if self.store is not None and self.output == "gpu":
            raise InputError("a store is on the host: use output='host' or 'store', or no store")
        if self.store is None and self.output == "store":
            raise InputError("output='store' needs a store: CNNDescriptors(..., store='FOLDER')")
        check_choice(self.resize, "resize", RESIZE_FILTERS)
        check_choice(self.on_error, "on_error", ("raise", "skip"))
        if self.batch_size is not None:
            check_positive_int(self.batch_size, "batch_size")
        key = (self.model, self.layer, weights_source(self.weights))
        if getattr(self, "_key", None) != key:
            self._network, self._preprocess = build_network(self.model, self.layer, self.weights)
            self._key = key
            self.__dict__.pop("_made", None)
            self.weights_fingerprint_ = fingerprint(self._network)
        self.n_features_out_ = int(self._network.output_shape[-1])
        self.input_sides_ = tuple(input_side(scale) for scale in scales)
        own_side = self._network.input_shape[1]
        if own_side is not None and self.input_sides_ != (own_side,):
            raise InputError(
                f"layer {self.layer!r} of {self.model} comes after its fully connected part, which takes "
                f"{own_side} x {own_side} pixels only: use scales=(0,) where that is 224, or another layer"
            )
        self.grids_ = tuple(self._grid(side) for side in self.input_sides_ for _ in self._views())
        self.mirrored_ = self._views() * len(scales)
        choice = (key, self.engine, self.dtype, self.output)
        if getattr(self, "_choice", None) != choice:  # to look at a network takes time
            self.engine_ = choose_engine(
                self._network, engine=self.engine, dtype=self.dtype, output=self.output
            )
            self._choice = choice
        return self

    def fit(self, X: object = None, y: object = None) -> Self:
        """Build the network; images are looked at for ``dtype="int8"`` only.

        Parameters
        ----------
        X : sequence of paths and arrays, or array (B, H, W, 3)
            Training images; up to 128 of them, evenly spread, give the range of numbers for int8.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        InputError, MissingExtraError
            As :meth:`build`, or if there is no usable image for "int8".
        """
        self.build()
        if self.dtype == "int8":
            self.ranges_ = self._calibrate(X)
            self._ranges_of = self._what_is_calibrated()
        return self

    def transform(self, X: Any) -> Descriptors | StoredDescriptors:
        """Descriptors of each image.

        Parameters
        ----------
        X : sequence of paths and arrays, or array (B, H, W, 3)
            Files, or pixels that :func:`medvlad.images.read.load_image` takes.

        Returns
        -------
        Descriptors or, with ``output="store"``, StoredDescriptors
            Of as many images as given, in their order.

        Raises
        ------
        InputError
            If `X` is a single image, an image cannot be read (and ``on_error="raise"``), a descriptor is
            not finite, or the GPU that is asked for is not there or too small.
        """
        X = as_sequence(X)
        self.build()
        self.skipped_: list[tuple[int, str]] = []
        if self.output == "store":
            section = self._section()
            section.forget_damaged()  # so that no damage turns up halfway through reading
            _, keys = self._fill_store(X, section)
            return StoredDescriptors(section, keys, n_features=self.n_features_out_)
        if self.store is not None:
            return self._from_store(X, self._fill_store(X))
        an_image = self._descriptors_an_image()
        values = empty((len(X) * an_image, self.n_features_out_), self.output)
        lengths = np.zeros(len(X), np.int64)
        used = 0
        for indices, block in self._extract(X, range(len(X)), values):
            lengths[indices] = an_image
            used += len(block) * an_image
        used_values = values[:used]
        if self.output == "gpu":
            used_values = GpuArray(used_values, origin=import_keras().config.backend())
        return Descriptors(used_values, np.concatenate([[0], np.cumsum(lengths)]))

    def extract(self, X: Any) -> int:
        """Make sure that the store holds the descriptors of each image, intact; what it holds is left alone.

        However many the images, one batch of them is in memory. Stopped at any moment, it goes on from there
        when called again.

        Parameters
        ----------
        X : sequence of paths and arrays, or array (B, H, W, 3)

        Returns
        -------
        int
            Images that had to go through the network.

        Raises
        ------
        InputError
            If there is no `store`, and as `transform`.
        """
        if self.store is None:
            raise InputError("extract needs a store: CNNDescriptors(..., store='FOLDER')")
        X = as_sequence(X)
        self.build()
        self.skipped_ = []
        section = self._section()
        section.forget_damaged()
        self._fill_store(X, section)
        return self.n_extracted_

    def _section(self, scales: Sequence[int] | None = None) -> Section:
        """Return the part of the store for these parameters, or for some of the scales alone."""
        listed = _check_scales(self.scales if scales is None else scales)
        settings: dict[str, Any] = {
            "model": self.model.lower(),
            "layer": self.layer,
            "weights": self.weights_fingerprint_,
            "scales": list(listed),
            "resize": self.resize,
            "preprocessing": _PREPROCESSING,
            "dtype": self.dtype,
        }
        if self.dtype == "int8":
            settings["ranges"] = self._ranges()
        if self.mirror:
            settings["mirror"] = True
        settings["shape"] = [self._descriptors_an_image(listed), self.n_features_out_]
        assert self.store is not None
        return DescriptorStore(self.store).section(settings)

    def _fill_store(self, X: Any, section: Section | None = None) -> tuple[Section, list[str | None]]:
        """Extract what the store has not; return its section and each image's key, None if it is skipped.

        Keys are needed to know what is missing, which may be hours before an image is decoded. A file that
        has changed meanwhile is filed under the key of the bytes that were decoded, and has that key.
        """
        section = self._section() if section is None else section
        digests: dict[Path, str] = {}
        keys: list[str | None] = [self._key_of(X[i], i, digests) for i in range(len(X))]
        self.n_extracted_ = 0
        section.prepare()
        done: set[int] = set()
        # Once, and again for the copies of a file that has changed meanwhile.
        while missing := _first_of_each(keys, section, done):
            with section.writer() as writer:
                absent = self._join_scales(writer, keys, missing)
                decoded: dict[int, str] = {}
                for indices, block in self._extract(X, absent, keys=decoded) if absent else ():
                    self.n_extracted_ += len(indices)
                    for i, values in zip(indices, block, strict=True):
                        keys[i] = decoded[i]
                        writer.add(decoded[i], values)
            done.update(missing)
            self._leave_out_skipped(keys)
        self._leave_out_skipped(keys)
        return section, keys

    def _leave_out_skipped(self, keys: list[str | None]) -> None:
        """Set the keys of skipped images and of their copies to None, and list the copies as well."""
        reasons = {keys[i]: reason for i, reason in self.skipped_ if keys[i] is not None}
        told = {i for i, _ in self.skipped_}
        for i, key in enumerate(keys):
            if key in reasons:
                keys[i] = None
                if i not in told:  # a copy of one that cannot be read
                    self.skipped_.append((i, reasons[key]))
        self.skipped_.sort()

    def _join_scales(
        self, writer: ShardWriter, keys: Sequence[str | None], missing: Sequence[int]
    ) -> Sequence[int]:
        """Write images of several scales whose scales the store has one by one; return the others."""
        scales = _check_scales(self.scales)
        if len(scales) == 1 or not missing:
            return missing
        sections = [self._section((scale,)) for scale in scales]
        left = []
        for i in missing:
            parts = [section.get(str(keys[i])) for section in sections]
            found = [part for part in parts if part is not None]
            if len(found) == len(parts):
                writer.add(str(keys[i]), np.concatenate(found))
            else:
                left.append(i)
        return left

    def _from_store(
        self, X: Any, found: tuple[Section, list[str | None]], *, is_second: bool = False
    ) -> Descriptors:
        section, keys = found
        an_image = self._descriptors_an_image()
        values = np.empty((len(keys) * an_image, self.n_features_out_), np.float32)
        lengths = np.zeros(len(keys), np.int64)
        used = 0
        damaged = False
        for i, key in enumerate(keys):
            if key is None:
                continue
            stored = section.get(key)
            if stored is None:
                damaged = True
                continue
            values[used : used + an_image] = stored
            lengths[i] = an_image
            used += an_image
        if damaged:  # found out while reading: the store has forgotten them, so they are made again
            if is_second:
                raise InputError(f"the store {self.store} damages what is written into it: check its disk")
            self.skipped_ = []
            return self._from_store(X, self._fill_store(X, section), is_second=True)
        return Descriptors(values[:used], np.concatenate([[0], np.cumsum(lengths)]))

    def _key_of(self, image: Any, index: int, digests: dict[Path, str]) -> str | None:
        try:
            return image_key(image, digests)
        except InputError as error:
            if self.on_error == "raise":
                raise
            self.skipped_.append((index, str(error)))
            return None

    def _extract(
        self, X: Any, wanted: Sequence[int], values: Any = None, keys: dict[int, str] | None = None
    ) -> Iterator[tuple[list[int], Any]]:
        """Yield indices of images and their descriptors (m, n, D), batch by batch, without the unreadable.

        They are made in `values` (at least the images' rows, D), one after another, where it is given. `keys`
        gets the keys of what was decoded.
        """
        scales = _check_scales(self.scales)
        sides = [input_side(scale) for scale in scales]
        views = self._views()
        batches = [self.batch_size or max(1, _BATCH_PIXELS // side**2) for side in sides]
        n_images, an_image, d = len(wanted), self._descriptors_an_image(), self.n_features_out_
        if not n_images:
            return
        compute = self._engine()
        used, chunk = 0, max(batches)
        shown = self.progress
        if shown is None and n_images <= _BATCHES_WITHOUT_BAR * chunk:
            shown = False
        n_threads = check_n_threads(self.n_threads)
        n_loaders = min(n_threads, _LOADERS)
        loaded = load_squares(X, wanted, sides, self.resize, n_threads=n_loaders, keys=keys)
        with (
            closing(loaded),
            progress_bar(n_images, "descriptors", shown) as bar,
        ):
            while taken := list(islice(loaded, chunk)):
                indices, images = [], []
                for index, squares in taken:
                    if isinstance(squares, InputError):
                        self._skip(X[index], index, squares)
                    else:
                        indices.append(index)
                        images.append(squares)
                rows = len(indices) * an_image
                own = np.empty((rows, d), np.float32) if values is None else values[used : used + rows]
                block = own.reshape(len(indices), an_image, d)
                start = 0
                for (k, batch), mirrored in product(enumerate(batches), views):
                    h, w = self.grids_[k * len(views)]
                    for at in range(0, len(indices), batch):
                        part = np.stack([squares[k] for squares in images[at : at + batch]])
                        part = part[:, :, ::-1] if mirrored else part
                        maps = compute(self._preprocess(part.astype(np.float32, order="C")))
                        block[at : at + batch, start : start + h * w] = maps.reshape(len(part), h * w, -1)
                        if self.output == "gpu":  # the maps' memory is Keras' again after this
                            import_cupy().cuda.get_current_stream().synchronize()
                    start += h * w
                row = first_not_finite(own)
                if row is not None:
                    index = indices[row // an_image]
                    raise InputError(
                        f"the network gives numbers that are not finite for {_name(X[index], index)}: "
                        "check its weights"
                    )
                used += rows
                yield indices, block
                bar.update(len(taken))

    def _skip(self, image: Any, index: int, error: InputError) -> None:
        """Note an image that cannot be read, or raise where that is wanted."""
        reason = str(error) if isinstance(image, str | os.PathLike) else f"image {index}: {error}"
        if self.on_error == "raise":
            raise InputError(reason) from error
        self.skipped_.append((index, reason))

    def _engine(self) -> Callable[[NDArray[np.float32]], Any]:
        """Return what runs the network, made when first needed."""
        settings = (self.engine_, self.dtype, self.output, check_n_threads(self.n_threads))
        key = (*settings, tuple(self._ranges().items()))
        if "_made" not in self.__dict__ or self._made[0] != key:
            engine, dtype, output, n_threads = settings
            made = make_engine(
                self._network,
                engine=engine,
                dtype=dtype,
                output=output,
                n_threads=n_threads,
                ranges=self._ranges() or None,
            )
            self._made: tuple[Any, Callable[[Any], Any]] = key, made
        return self._made[1]

    def _ranges(self) -> dict[str, float]:
        if self.dtype != "int8":
            return {}
        if getattr(self, "_ranges_of", None) not in (None, self._what_is_calibrated()):
            raise InputError(
                "the network or the scales are not those that int8 was calibrated for: call fit again"
            )
        return getattr(self, "ranges_", {})

    def _what_is_calibrated(self) -> tuple[Any, ...]:
        return self.model, self.layer, self.weights_fingerprint_, _check_scales(self.scales), self.resize

    def _calibrate(self, X: Any) -> dict[str, float]:
        """Ranges of activations on images spread evenly over `X`."""
        X = as_sequence(X)
        chosen = np.unique(np.linspace(0, len(X) - 1, min(len(X), _CALIBRATION_IMAGES)).astype(int))
        n_threads = check_n_threads(self.n_threads)
        sides = self.input_sides_
        loaded = load_squares(X, chosen.tolist(), sides, self.resize, n_threads=min(n_threads, _LOADERS))

        def batches() -> Iterator[NDArray[np.float32]]:
            for _, squares in loaded:
                if not isinstance(squares, InputError):
                    for square in squares:
                        yield self._preprocess(square[None].astype(np.float32))

        with closing(loaded):
            return calibrate(self._network, batches(), n_threads=n_threads)

    def _descriptors_an_image(self, scales: Sequence[int] | None = None) -> int:
        """Return how many descriptors an image has, at some of the scales or at all."""
        if scales is None:
            return sum(h * w for h, w in self.grids_)
        return sum(math.prod(self._grid(input_side(scale))) for scale in scales) * len(self._views())

    def _views(self) -> tuple[bool, ...]:
        """Whether each view of a square is mirrored."""
        return (False, True) if self.mirror else (False,)

    def _grid(self, side: int) -> tuple[int, int]:
        shape = self._network.compute_output_shape((1, side, side, 3))
        return (int(shape[1]), int(shape[2])) if len(shape) == 4 else (1, 1)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.requires_fit = False
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: not the network, which is built again when needed."""
        state: dict[str, Any] = super().__getstate__()
        return {k: v for k, v in state.items() if k not in _NOT_PICKLED}


def _check_scales(scales: int | Sequence[int]) -> tuple[int, ...]:
    listed = tuple(scales) if np.iterable(scales) else (scales,)
    for scale in listed:
        if isinstance(scale, bool) or not isinstance(scale, int | np.integer) or not 0 <= scale <= 10:
            raise InputError(f"scales must be integers from 0 to 10, got {scale!r}")
    if not listed or len(set(listed)) != len(listed):
        raise InputError(f"scales must be at least one integer, none of them twice, got {scales!r}")
    return tuple(int(scale) for scale in listed)


def _first_of_each(keys: Sequence[str | None], section: Section, done: Set[int]) -> list[int]:
    """Return the first image of each key that the section lacks, without those that are done."""
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        if key is not None and i not in done and key not in section:
            first.setdefault(key, i)
    return list(first.values())


def _name(image: Any, index: int) -> str:
    return str(Path(image)) if isinstance(image, str | os.PathLike) else f"image {index}"
