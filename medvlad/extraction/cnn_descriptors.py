"""CNNDescriptors: a frozen ImageNet network turns images into local descriptors.

::

    image --load--> (H, W, 3) --resize--> (side, side, 3) --network--> (h, w, D) --> h * w descriptors

    scale                 0        1         2
    side of the input     224      544       864        side = 224 + 320 * scale
    VGG, block5_pool      7 x 7    17 x 17   27 x 27    descriptors of 512 numbers

The network can be a Keras application, an ONNX file, or a network of timm or PyTorch, see
:mod:`medvlad.extraction.networks`. Its output at one layer is a grid of h * w descriptors. See Farhat and
Sicre, CNNs for medical image transfer learning + VLAD aggregation.

The first call that needs the network builds it. A pickled estimator does not contain the network.

Several threads may share one estimator. Its attributes describe the call that ended last. A thread gets the
report of its own call from `transform_with_report` and `extract_with_report`.

:mod:`medvlad.extraction.engines` chooses the engine that runs the network. The modules `batches` and
`store_filling` form batches of images and write descriptors to the store.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any, Self

import numpy as np

from medvlad._util.choices import ColourProfile, Dtype, EngineName, OnDamage, OnError, Output, ResizeFilter
from medvlad._util.validate import InputError, check_n_threads
from medvlad.descriptors.gpu_array import GpuArray, empty
from medvlad.descriptors.ragged import Descriptors
from medvlad.extraction.auto_dtype import settled_dtype
from medvlad.extraction.batches import Batch, BatchSettings, calibration_pixels, extract_batches
from medvlad.extraction.engines import Engine, LastEngine, calibrate, choose_engine, make_engine
from medvlad.extraction.image_transformer import ExtractionReport, ImageTransformer, log_damage
from medvlad.extraction.int8_ranges import calibration_key, ranges_of
from medvlad.extraction.networks import FrozenNetwork, build_network, network_key
from medvlad.extraction.networks.keras_network import import_keras
from medvlad.extraction.parameters import check_parameters
from medvlad.extraction.plain_network import plain_network, runs_in
from medvlad.extraction.scales import check_scales, input_side, input_sides
from medvlad.extraction.store_filling import Filled, fill_and_read, fill_section, section_settings
from medvlad.images.picture import Decode
from medvlad.images.prefetch import as_sequence
from medvlad.store.store import DescriptorStore, Section
from medvlad.store.stored_descriptors import StoredDescriptors

__all__ = ["CNNDescriptors", "ExtractionReport", "batches_of", "input_side"]


class CNNDescriptors(ImageTransformer):
    """Extract local descriptors from images with a frozen network.

    Parameters
    ----------
    model : str or torch.nn.Module, default="vgg19"
        Name of a network of ``keras.applications`` in upper or lower case, "onnx:FILE", "timm:NAME" or an
        object. See :mod:`medvlad.extraction.networks`.
    layer : str or None, default=None
        Name of the layer whose output becomes the descriptors. A layer of shape (h, w, D) gives h * w
        descriptors of D numbers, row by row; so do patch tokens (T, D). A layer of shape (D,), such as "fc1",
        gives one descriptor. None: block5_pool of VGG, otherwise the last feature map or patch tokens.
    scales : int or sequence of int, default=(0,)
        Scales of the input, different integers from 0 to 10. The module docstring gives the side in pixels.
        An image has the descriptors of all scales, in the given order. A network with a single side takes
        ``scales=(0,)`` only, which stands for that side.
    mirror : bool, default=False
        Whether to add the descriptors of the left-right mirror image, at each scale after the image's own.
    weights : str or path, default="imagenet"
        Weights of the network: "imagenet" (downloaded), "bundled" (VGG16, EfficientNet-Lite2) or a file. See
        :mod:`medvlad.extraction.weights` and :mod:`medvlad.extraction.networks.timm_network`.
    batch_size : int or None, default=None
        Number of images in a batch. None: 8 at scale 0, 1 at larger scales.
    dtype : {"auto", "float32", "bfloat16", "int8"}, default="float32"
        Arithmetic of the network. Descriptors are always float32. "bfloat16" is less exact and faster on some
        processors. "int8" is the least exact. It works with VGG16 and VGG19, and needs `fit` with images.
        "auto": the fastest one here that is as accurate, see :mod:`medvlad.extraction.auto_dtype`. It is
        chosen by the first call, and again by each `fit` and for another `model`, `layer` or `weights`.
    engine : {"auto", "keras", "native", "openvino", "onnxruntime", "torch"}, default="auto"
        Engine that runs the network. "auto": the fastest one here. See :mod:`medvlad.extraction.engines`.
    n_threads : int or None, default=None
        Number of threads that read images and run all engines but "keras". None: all usable processors.
    output : {"host", "gpu", "store"}, default="host"
        Where the descriptors are kept. "host": main memory. "gpu": memory of the GPU that Keras uses; all
        descriptors must fit, and `store` must be None. "store": the folder `store`, which is required;
        descriptors are read in blocks when they are needed.
    store : path or None, default=None
        Folder that keeps descriptors on disk. See :class:`medvlad.store.store.DescriptorStore`. Images that
        it holds do not go through the network again, even if separate runs stored their scales.
    resize : str, default="bilinear"
        Filter that resizes images. One of :data:`medvlad.images.resize.RESIZE_FILTERS`.
    on_error : {"raise", "skip"}, default="raise"
        What to do with an image that cannot be read. "raise": raise an InputError. "skip": the image keeps
        its place, has no descriptors, and is listed in `skipped_`.
    on_damage : {"warn", "raise", "skip"}, default="warn"
        What to do with a damaged image, see :mod:`medvlad.images.damage`. "warn": use it, warn, and list it.
    colour_profile : {"ignore", "srgb"}, default="ignore"
        What to do with ICC profiles, see :mod:`medvlad.images.colour_profile`.
    decode : {"full", "fast"}, default="full"
        "fast": decode large JPEG files at reduced size, see :mod:`medvlad.images.picture`.
    progress : bool or None, default=None
        Whether to show a progress bar. None: on a terminal, if there are more than 4 batches.
    preprocess : str, dict or None, default=None
        Preprocessing of a network that is not of Keras. See :mod:`medvlad.extraction.networks.preprocessing`.
        None: what the network's own configuration says, otherwise "imagenet".
    prefix_tokens : int or None, default=None
        Number of class and register tokens, which are left out. None: found.
    side : int or None, default=None
        Side of the input in pixels, for networks that are not of Keras. None: as `scales` says.

    Attributes
    ----------
    report_ : ExtractionReport
        Report of the last call of `transform` or `extract`. Its parts are also `skipped_`, `damaged_` and
        `n_extracted_`.
    n_features_out_ : int
        Width D of a descriptor.
    input_sides_ : tuple of int
        Side of the square input in pixels, one for each scale.
    grids_ : tuple of (int, int)
        Height and width of the grids of descriptors. With ``mirror=True`` two for each scale, first
        the image's own. (1, 1) for a layer of shape (D,).
    mirrored_ : tuple of bool
        Whether each grid belongs to the mirror image.
    network_ : FrozenNetwork
        The network. See :class:`medvlad.extraction.networks.frozen.FrozenNetwork`.
    weights_fingerprint_, engine_, dtype_ : str
        SHA-256 of the weights, name of the engine that runs the network, and dtype that it computes in.
    ranges_ : dict of str to float
        Largest activation of each layer on training images. Set by `fit` for int8.
    """

    _not_pickled = ("network_", "_network_key", "_last_engine")

    def __init__(
        self,
        model: Any = "vgg19",
        layer: str | None = None,
        *,
        scales: int | Sequence[int] = (0,),
        mirror: bool = False,
        weights: str | os.PathLike[str] = "imagenet",
        batch_size: int | None = None,
        dtype: Dtype = "float32",
        engine: EngineName = "auto",
        n_threads: int | None = None,
        output: Output = "host",
        store: str | os.PathLike[str] | None = None,
        resize: ResizeFilter = "bilinear",
        on_error: OnError = "raise",
        on_damage: OnDamage = "warn",
        colour_profile: ColourProfile = "ignore",
        decode: Decode = "full",
        progress: bool | None = None,
        preprocess: str | Mapping[str, Any] | None = None,
        prefix_tokens: int | None = None,
        side: int | None = None,
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
        self.on_damage = on_damage
        self.colour_profile = colour_profile
        self.decode = decode
        self.progress = progress
        self.preprocess = preprocess
        self.prefix_tokens = prefix_tokens
        self.side = side

    def build(self) -> Self:
        """Check the parameters, and build the network unless it was built with the same parameters.

        Returns
        -------
        self

        Raises
        ------
        InputError
            If a parameter is wrong or the weights do not fit the network.
        MissingExtraError
            If a package of the network or of the engine is not installed.
        """
        _build(self, None)
        return self

    def fit(self, X: object = None, y: object = None) -> Self:
        """Build the network. For int8, also measure ranges of activations on images.

        Parameters
        ----------
        X : sequence of paths and arrays, array (B, H, W, 3) or None, default=None
            Training images. int8 needs them, and uses up to 128 of them, spread evenly. "auto" never
            takes int8 without them.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        InputError, MissingExtraError
            For the reasons given in :meth:`build`, or if "int8" gets no image that can be read.
        """
        _build(self, len(as_sequence(X)) if self.dtype == "auto" and X is not None else 0)
        if self.dtype_ == "int8":
            self.ranges_ = _calibrate(self, as_sequence(X))
            self._calibrated_for = calibration_key(self)
        return self

    def transform(self, X: Any) -> Descriptors | StoredDescriptors:
        """Return the descriptors of each image.

        Parameters
        ----------
        X : sequence of paths and arrays, or array (B, H, W, 3)
            Files, or pixels: uint8 or uint16 of shape (H, W), (H, W, 1) or (H, W, 3).

        Returns
        -------
        Descriptors, or StoredDescriptors if ``output="store"``
            Descriptors of each image, in the order of `X`. A skipped image has none.

        Raises
        ------
        InputError, MissingExtraError
            For the reasons given in :meth:`build`. Also if `X` is a single image; if an image cannot be read
            and ``on_error="raise"``; if one is damaged and ``on_damage="raise"``; if a descriptor is not
            finite; or if ``output="gpu"`` finds no GPU or too little GPU memory.
        """
        descriptors, report = self.transform_with_report(X)
        log_damage(report, len(X))
        return descriptors

    def transform_with_report(self, X: Any) -> tuple[Descriptors | StoredDescriptors, ExtractionReport]:
        """Return what :meth:`transform` returns, and the report of this call. Damage is not logged."""
        images = as_sequence(X)
        self.build()
        descriptors, report = _transform(self, images)
        self.report_ = report
        return descriptors, report

    def extract(self, X: Any) -> int:
        """Make sure that the store holds undamaged descriptors of each image.

        One batch of images is in memory at a time. After an interruption the next call continues.

        Parameters
        ----------
        X : sequence of paths and arrays, or array (B, H, W, 3)
            Images as for :meth:`transform`.

        Returns
        -------
        int
            Number of images that went through the network.

        Raises
        ------
        InputError
            For the reasons given in :meth:`transform`, or if there is no `store`.
        """
        report = self.extract_with_report(X)
        log_damage(report, len(X))
        return report.n_extracted

    def extract_with_report(self, X: Any) -> ExtractionReport:
        """Fill the store as :meth:`extract` does, and return the report. Damage is not logged."""
        if self.store is None:
            raise InputError("extract needs a store: CNNDescriptors(..., store='FOLDER')")
        images = as_sequence(X)
        filled = _fill(self, images, self.store_section(), check=True)
        self.report_ = report = ExtractionReport(
            filled.skipped, filled.n_extracted, filled.damaged, filled.n_stored
        )
        return report

    def store_section(self) -> Section:
        """Return the section of the `store` for these parameters. The network is built if necessary."""
        if self.store is None:
            raise InputError("there is no store: CNNDescriptors(..., store='FOLDER')")
        return DescriptorStore(self.store).section(_settings_of(self.build()))


def _build(features: CNNDescriptors, n_images: int | None) -> None:
    """Do the work of `build`. `n_images` is the number of training images, if `fit` was called."""
    scales = check_parameters(features)
    network = _network_of(features)
    sides = input_sides(network, scales, features.side)
    views = _views(features.mirror)
    features.weights_fingerprint_ = network.fingerprint
    features.n_features_out_ = network.n_features
    features.input_sides_ = sides
    features.grids_ = tuple(network.grid(side) for side in sides for _ in views)
    features.mirrored_ = views * len(sides)
    dtype = features.dtype_ = settled_dtype(features, network, n_images)
    features.engine_ = choose_engine(network.cut, engine=features.engine, dtype=dtype, output=features.output)


def _network_of(features: CNNDescriptors) -> FrozenNetwork:
    """Return the network. It is built unless it was built with the same parameters."""
    options: dict[str, Any] = {"preprocess": features.preprocess, "prefix_tokens": features.prefix_tokens}
    key = network_key(features.model, features.layer, features.weights, **options)
    if getattr(features, "_network_key", None) != key or not runs_in(features.network_, features):
        features._last_engine = LastEngine()
        features.network_ = plain_network(features) or build_network(
            features.model, features.layer, features.weights, **options
        )
        features._network_key = key
    network: FrozenNetwork = features.network_
    return network


def _views(mirror: bool) -> tuple[bool, ...]:
    """Return whether each view of a square is mirrored."""
    return (False, True) if mirror else (False,)


def _batch_settings(features: CNNDescriptors) -> BatchSettings:
    return BatchSettings(
        preprocess=features.network_.preprocess,
        sides=features.input_sides_,
        grids=features.grids_,
        views=_views(features.mirror),
        n_features=features.n_features_out_,
        batch_size=features.batch_size,
        resize=features.resize,
        on_error=features.on_error,
        on_damage=features.on_damage,
        colour_profile=features.colour_profile,
        decode=features.decode,
        n_threads=check_n_threads(features.n_threads),
        progress=features.progress,
        on_gpu=features.output == "gpu",
    )


def _settings_of(features: CNNDescriptors, scale: int | None = None) -> dict[str, Any]:
    """Return the settings of the section in the store, or of the section of one scale."""
    return section_settings(
        features.network_,
        check_scales(features.scales if scale is None else scale),
        side=features.side,
        mirror=features.mirror,
        resize=features.resize,
        dtype=features.dtype_,
        ranges=ranges_of(features),
        colour_profile=features.colour_profile,
        decode=features.decode,
    )


def _transform(
    features: CNNDescriptors, images: Any
) -> tuple[Descriptors | StoredDescriptors, ExtractionReport]:
    if features.store is None:
        return _extract_to_memory(features, images)
    section = features.store_section()
    stored: Descriptors | StoredDescriptors
    if features.output == "store":
        # Damage is looked for now, because nobody can repair it while the descriptors are read.
        filled = _fill(features, images, section, check=True)
        stored = StoredDescriptors(section, filled.keys, n_features=features.n_features_out_)
    else:
        stored, filled = fill_and_read(partial(_fill, features, images, section, check=False), section)
    return stored, ExtractionReport(filled.skipped, filled.n_extracted, filled.damaged, filled.n_stored)


def _fill(features: CNNDescriptors, images: Any, section: Section, *, check: bool) -> Filled:
    scales = check_scales(features.scales)
    return fill_section(
        images,
        section,
        partial(batches_of, features, images, with_keys=True),
        single_scales=[_settings_of(features, scale) for scale in scales] if len(scales) > 1 else [],
        on_error=features.on_error,
        on_damage=features.on_damage,
        check=check,
        n_threads=check_n_threads(features.n_threads),
        progress=features.progress,
    )


def _extract_to_memory(features: CNNDescriptors, images: Any) -> tuple[Descriptors, ExtractionReport]:
    n = sum(h * w for h, w in features.grids_)
    values = empty((len(images) * n, features.n_features_out_), features.output)
    lengths = np.zeros(len(images), np.int64)
    skipped: list[tuple[int, str]] = []
    damaged: list[tuple[int, str]] = []
    for batch in batches_of(features, images, range(len(images)), out=values):
        lengths[batch.indices] = n
        skipped += batch.skipped
        damaged += batch.damaged.items()
    used = values[: int(lengths.sum())]
    if features.output == "gpu":
        used = GpuArray(used, origin=import_keras().config.backend())
    descriptors = Descriptors(used, np.concatenate([[0], np.cumsum(lengths)]))
    return descriptors, ExtractionReport(skipped, len(images) - len(skipped), damaged)


def batches_of(
    features: CNNDescriptors, images: Any, wanted: Sequence[int], **options: Any
) -> Iterator[Batch]:
    """Extract images. The engine is made only if there are any."""
    if not wanted:
        return iter(())
    return extract_batches(images, wanted, _engine(features), _batch_settings(features), **options)


def _engine(features: CNNDescriptors) -> Engine:
    """Return the engine. It is kept until another one is needed."""
    network, n_threads = features.network_, check_n_threads(features.n_threads)
    ranges = ranges_of(features) or None
    key = (network, features.engine_, features.dtype_, features.output, n_threads, *(ranges or {}).items())

    def make() -> Engine:
        return make_engine(
            network.cut,
            engine=features.engine_,
            dtype=features.dtype_,
            output=features.output,
            n_threads=n_threads,
            ranges=ranges,
        )

    return features._last_engine.get(key, make)  # type: ignore[no-any-return]


def _calibrate(features: CNNDescriptors, images: Any) -> dict[str, float]:
    """Measure ranges of activations for int8 on some of the images."""
    settings = _batch_settings(features)
    with closing(calibration_pixels(images, settings)) as pixels:
        return calibrate(features.network_.cut, pixels, n_threads=settings.n_threads)
