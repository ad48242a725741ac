"""Extract the descriptors of several layers of a network in one pass.

The network gets an output for each layer. Each layer has its own section of the store, with the same content
as if it had been extracted alone. So memory holds one batch of images, and a later run that uses one of the
layers finds its descriptors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, check_n_threads
from medvlad.extraction.batches import BatchSettings, extract_batches
from medvlad.extraction.cnn_descriptors import CNNDescriptors, ExtractionReport
from medvlad.extraction.engines import choose_engine, make_engine
from medvlad.extraction.networks import FrozenNetwork, kind_of, layers_of_network
from medvlad.extraction.networks.keras_network import float32_arithmetic, import_keras
from medvlad.extraction.scales import check_scales, input_sides
from medvlad.extraction.store_filling import fill_section, section_settings
from medvlad.extraction.weights import fingerprint
from medvlad.images.prefetch import as_sequence
from medvlad.store.store import DescriptorStore, Section
from medvlad.store.stored_descriptors import StoredDescriptors

__all__ = ["OneLayer", "candidate_layers", "extract_layers", "last_layers"]

#: Layers that change each number for itself. The layer before one of them is no candidate.
_POINTWISE = ("BatchNormalization", "ReLU", "Activation", "Dropout")


@dataclass(frozen=True)
class OneLayer:
    """The descriptors of one layer.

    Attributes
    ----------
    layer : str
        Name of the layer.
    grid : (int, int)
        Height and width of its map.
    descriptors : StoredDescriptors
        Descriptors of each image. A skipped image has none.
    """

    layer: str
    grid: tuple[int, int]
    descriptors: StoredDescriptors


def last_layers(network: Any, n: int) -> list[str]:
    """Return the last layers at which a network can be cut in two, the last one last.

    Every path from the image to the output goes through such a layer. So the sum that ends a residual block
    is one, and a convolution inside the block is not. A layer whose result goes into a batch normalisation or
    an activation only is left out: the layer behind it stands for both.

    Parameters
    ----------
    network : keras.Model
    n : int
        Largest number of layers.

    Returns
    -------
    list of str
        Names of layers with outputs of shape (h, w, D).
    """
    layers = [layer for layer in network.layers if type(layer).__name__ != "InputLayer"]
    made = {id(layer.output): i for i, layer in enumerate(layers)}
    last_use = list(range(len(layers)))
    readers: list[list[Any]] = [[] for _ in layers]
    for i, layer in enumerate(layers):
        read = layer.input if isinstance(layer.input, list | tuple) else [layer.input]
        for tensor in read:
            if id(tensor) in made:
                last_use[made[id(tensor)]] = i
                readers[made[id(tensor)]].append(layer)
    names, open_until = [], -1  # the last layer that reads a result from before this layer
    for i, layer in enumerate(layers):
        is_last_of_its_kind = not readers[i] or any(
            type(reader).__name__ not in _POINTWISE for reader in readers[i]
        )
        if open_until <= i and len(layer.output.shape) == 4 and is_last_of_its_kind:
            names.append(layer.name)
        open_until = max(open_until, last_use[i])
    return names[-n:]


def candidate_layers(extractor: CNNDescriptors, n: int) -> list[str]:
    """Return the last layers of a network, up to the `layer` of the extractor if Keras defines the network.

    Parameters
    ----------
    extractor : CNNDescriptors
    n : int
        Largest number of layers.

    Returns
    -------
    list of str
        See :func:`last_layers`. Of networks of ONNX files and timm: the last feature maps or patch tokens.

    Raises
    ------
    InputError
        If the network is an object, or has no such layer.
    """
    kind = kind_of(extractor.model)
    if kind == "module":
        raise InputError("the layers of a torch.nn.Module are not scored: give each one as layer='NAME'")
    if kind == "keras":
        names = last_layers(_keras_network(extractor).cut, n)
    else:
        spatial = [layer.name for layer in layers_of_network(extractor.model) if layer.is_spatial]
        names = spatial[:n][::-1]
    if not names:
        raise InputError(
            f"layer {extractor.layer!r} of {extractor.model} has no map (h, w, D) before it: choose a "
            "convolution or pooling layer"
        )
    return names


def _keras_network(extractor: CNNDescriptors) -> FrozenNetwork:
    """Return the network as Keras builds it, also if another engine would run it without Keras."""
    network: FrozenNetwork = extractor.with_parameters(engine="keras", dtype="float32").build().network_
    return network


def extract_layers(
    extractor: CNNDescriptors, images: Any, layers: Sequence[str]
) -> tuple[list[OneLayer], ExtractionReport]:
    """Make sure that the store holds the descriptors of several layers, and return them.

    Parameters
    ----------
    extractor : CNNDescriptors
        With a `store` and one scale. Its `layer` is the end of the network.
    images : sequence of paths and arrays
    layers : sequence of str
        Names of layers between the image and the end of the network.

    Returns
    -------
    found : list of OneLayer
    report : ExtractionReport

    Raises
    ------
    InputError
        If the settings do not work for several layers, or an image cannot be read.
    """
    scales = check_scales(extractor.scales)
    if extractor.store is None or len(scales) != 1:
        raise InputError("several layers need a store and one scale: use scales=0 and store='FOLDER'")
    store = DescriptorStore(extractor.store)
    if extractor.dtype == "auto":
        extractor = extractor.with_parameters(dtype=extractor.build().dtype_)
    if extractor.dtype == "int8":
        raise InputError("several layers cannot be extracted in int8: use dtype='float32'")
    images = as_sequence(images)
    if kind_of(extractor.model) != "keras":
        return _one_by_one(extractor, images, layers)
    whole = _keras_network(extractor)
    cuts = [_cut(whole, layer) for layer in layers]
    (side,) = input_sides(whole, scales, extractor.side)
    sections = [store.section(_settings(extractor, cut, scales)) for cut in cuts]
    views = (False, True) if extractor.mirror else (False,)
    sizes = [math.prod(cut.grid(side)) * cut.n_features for cut in cuts]
    settings = BatchSettings(
        preprocess=whole.preprocess,
        sides=(side,),
        grids=((1, 1),) * len(views),  # the maps of all layers, one after the other, count as one descriptor
        views=views,
        n_features=sum(sizes),
        batch_size=extractor.batch_size,
        resize=extractor.resize,
        on_error=extractor.on_error,
        on_damage=extractor.on_damage,
        colour_profile=extractor.colour_profile,
        decode=extractor.decode,
        n_threads=check_n_threads(extractor.n_threads),
        progress=extractor.progress,
        on_gpu=False,
    )

    def extract(wanted: Sequence[int]) -> Iterator[Any]:
        return extract_batches(images, wanted, _engine(extractor, whole, layers), settings, with_keys=True)

    filled = fill_section(
        images,
        cast(Section, _Sections(sections, sizes)),
        extract,
        single_scales=[],
        on_error=extractor.on_error,
        on_damage=extractor.on_damage,
        check=True,
        n_threads=check_n_threads(extractor.n_threads),
        progress=extractor.progress,
    )
    found = []
    for cut, section in zip(cuts, sections, strict=True):
        stored = StoredDescriptors(section, filled.keys, n_features=cut.n_features)
        found.append(OneLayer(cut.layer, cut.grid(side), stored))
    return found, ExtractionReport(filled.skipped, filled.n_extracted, filled.damaged, filled.n_stored)


def _one_by_one(
    extractor: CNNDescriptors, images: Any, layers: Sequence[str]
) -> tuple[list[OneLayer], ExtractionReport]:
    """Do the same for a network that Keras does not define, with a pass for each layer."""
    found, report = [], ExtractionReport([], 0)
    for layer in layers:
        one = extractor.with_parameters(layer=layer, output="store")
        stored, report = one.transform_with_report(images)
        found.append(OneLayer(layer, one.grids_[0], cast(StoredDescriptors, stored)))
    return found, report


def _cut(whole: FrozenNetwork, layer: str) -> FrozenNetwork:
    """Return the part of a network up to a layer, with the fingerprint that it has if it is built alone."""
    model = whole.cut
    with float32_arithmetic():
        part = import_keras().Model(model.input, model.get_layer(layer).output, name=model.name)
    part.trainable = False
    return FrozenNetwork(whole.model, layer, whole.source, part, whole.preprocess, fingerprint(part))


def _settings(extractor: CNNDescriptors, cut: FrozenNetwork, scales: tuple[int, ...]) -> dict[str, Any]:
    return section_settings(
        cut,
        scales,
        mirror=extractor.mirror,
        resize=extractor.resize,
        dtype=extractor.dtype,
        ranges=None,
        colour_profile=extractor.colour_profile,
        decode=extractor.decode,
    )


def _engine(
    extractor: CNNDescriptors, whole: FrozenNetwork, layers: Sequence[str]
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Return a function from pixels (b, s, s, 3) to the maps of all layers, (b, 1, 1, N)."""
    keras, model = import_keras(), whole.cut
    outputs = [model.get_layer(layer).output for layer in layers]
    with float32_arithmetic():
        network = keras.Model(model.input, outputs, name=model.name)
    wanted = "auto" if extractor.engine == "native" else extractor.engine
    chosen = choose_engine(network, engine=wanted, dtype=extractor.dtype, output="host")
    if chosen == "keras":  # that engine takes one output
        with float32_arithmetic():
            flat = [keras.layers.Flatten()(output) for output in outputs]
            joined = flat[0] if len(flat) == 1 else keras.layers.Concatenate()(flat)
            network = keras.Model(model.input, joined)
    compute = make_engine(
        network,
        engine=chosen,
        dtype=extractor.dtype,
        output="host",
        n_threads=check_n_threads(extractor.n_threads),
    )

    def all_maps(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        maps = compute(pixels)
        parts = [maps] if isinstance(maps, np.ndarray) else maps
        flat = [part.reshape(len(pixels), -1) for part in parts]
        return np.concatenate(flat, axis=1)[:, None, None]

    return all_maps


class _Sections:
    """Sections that are filled together: what :func:`fill_section` needs of a section.

    Parameters
    ----------
    sections : list of Section
        One for each layer.
    sizes : list of int
        Number of numbers of an image and view in each layer.
    """

    def __init__(self, sections: list[Section], sizes: list[int]) -> None:
        self._sections = sections
        self._ends = np.cumsum(sizes).tolist()

    def __contains__(self, key: object) -> bool:
        return all(key in section for section in self._sections)

    def forget_damaged(self, keys: Iterable[str | None]) -> None:
        keys = list(keys)
        for section in self._sections:
            section.forget_damaged(keys)

    def prepare(self) -> None:
        for section in self._sections:
            section.prepare()

    @contextmanager
    def writer(self) -> Iterator[Any]:
        with ExitStack() as stack:
            writers = [stack.enter_context(section.writer()) for section in self._sections]
            yield _Writer(partial(self._add, writers))

    def _add(self, writers: list[Any], key: str, values: NDArray[np.float32]) -> None:
        parts = np.split(values, self._ends[:-1], axis=1)  # (views, numbers) of each layer
        for section, writer, part in zip(self._sections, writers, parts, strict=True):
            writer.add(key, part.reshape(section.shape))


class _Writer:
    """Writer of an image into all sections."""

    def __init__(self, add: Callable[[str, NDArray[np.float32]], None]) -> None:
        self.add = add
