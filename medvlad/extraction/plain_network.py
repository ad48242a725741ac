"""VGG16 and VGG19 up to a convolution or pooling, made without Keras.

Importing Keras and its backend takes many seconds and hundreds of megabytes. The engines "native" and
"openvino" need only the convolutions of a network. So these two networks are made from their weights
directly, if one of these engines runs them and no GPU is there for Keras. The numbers are those of the
network that Keras builds, bit for bit: weights, fingerprint, preprocessing and engine are the same.

Weights are read from the same sources as in :mod:`medvlad.extraction.weights`. A file is read only if it
looks exactly as expected. In every other case Keras reads it, and reports what is wrong.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import import_extra
from medvlad.extraction.engines import choose_engine
from medvlad.extraction.engines.winograd import Convolution, Layer, Pooling
from medvlad.extraction.fetched_weights import weights_file
from medvlad.extraction.keras_files import cached_file, check_published, is_published
from medvlad.extraction.networks.choose import kind_of
from medvlad.extraction.networks.frozen import FrozenNetwork
from medvlad.extraction.weights import bundled_tensors, weights_source

__all__ = ["LAST_LAYER", "PlainModel", "needs_keras", "plain_network", "random_vgg16", "runs_in"]

#: Number of convolutions in each block.
_BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
#: Layer at which these networks are cut by default.
LAST_LAYER = "block5_pool"
_WIDTHS = (64, 128, 256, 512, 512)
#: Means of the channels B, G, R over ImageNet, which the input of VGG is relative to.
_MEANS = (103.939, 116.779, 123.68)

Tensors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class PlainModel:
    """What a :class:`~medvlad.extraction.networks.FrozenNetwork` asks of a model, for plain layers.

    Parameters
    ----------
    name : str
        Name of the network.
    plain_layers : list of Convolution and Pooling
        Layers from the pixels to the cut. Empty: only the name and the shape are wanted.
    """

    name: str
    plain_layers: list[Layer]

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of a batch of images. Any side is taken."""
        return None, None, None, 3

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """Shape of a batch of feature maps."""
        widths = [len(layer.bias) for layer in self.plain_layers if isinstance(layer, Convolution)]
        return None, None, None, widths[-1]

    def compute_output_shape(self, shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Return the shape of the feature maps of a batch (b, h, w, 3)."""
        halvings = sum(isinstance(layer, Pooling) for layer in self.plain_layers)
        return shape[0], shape[1] >> halvings, shape[2] >> halvings, int(self.output_shape[3] or 0)


def needs_keras(features: Any) -> bool:
    """Return whether the network of a CNNDescriptors is run or built by Keras. No weights are read.

    Start Keras quietly before :meth:`medvlad.CNNDescriptors.build` if so.
    """
    if kind_of(features.model) != "keras":
        return False
    layer = features.layer or LAST_LAYER
    return _chain(str(features.model).lower(), layer) is None or not _is_light(features)


def runs_in(network: FrozenNetwork, features: Any) -> bool:
    """Return whether a network can serve a CNNDescriptors: a plain one cannot serve the engine "keras"."""
    return not isinstance(network.cut, PlainModel) or _is_light(features)


def plain_network(features: Any) -> FrozenNetwork | None:
    """Return the network of a CNNDescriptors, made without Keras.

    Parameters
    ----------
    features : CNNDescriptors
        Its parameters model, layer, weights, engine, dtype and output are used.

    Returns
    -------
    FrozenNetwork or None
        None: Keras must build the network. It is another one, another engine runs it, or its weights have to
        be downloaded or are not as expected.

    Raises
    ------
    InputError, MissingExtraError
        As :func:`medvlad.extraction.engines.choose_engine`, or if the bundled weights are not installed.
    """
    if kind_of(features.model) != "keras":
        return None
    name, layer = str(features.model).lower(), features.layer or LAST_LAYER
    chain = _chain(name, layer)
    if chain is None or not _is_light(features):
        return None
    source = weights_source(features.weights)
    tensors = _read(name, source)
    if tensors is None or not _is_complete(name, tensors):
        return None
    layers: list[Layer] = []
    digest = hashlib.sha256()
    for layer in chain:
        if layer.endswith("pool"):
            layers.append(Pooling())
            continue
        kernel, bias = tensors[f"{layer}/kernel"], tensors[f"{layer}/bias"]
        for values in (kernel, bias):  # as medvlad.extraction.weights.fingerprint
            digest.update(str(values.shape).encode())
            digest.update(values.data)
        layers.append(Convolution(kernel, bias, True, layer))
    model = PlainModel(name, layers)
    return FrozenNetwork(features.model, layer, source, model, _preprocess, digest.hexdigest())


def random_vgg16() -> PlainModel:
    """Return VGG16 with random weights, which is as fast as VGG16 with real ones."""
    rng = np.random.default_rng(0)
    layers: list[Layer] = []
    for layer in _chain("vgg16", LAST_LAYER) or ():
        if layer.endswith("pool"):
            layers.append(Pooling())
            continue
        before, width = _convolutions("vgg16")[layer]
        kernel = rng.standard_normal((3, 3, before, width), np.float32)
        kernel *= np.float32((2 / (9 * before)) ** 0.5)  # so that activations keep their size
        layers.append(Convolution(kernel, np.zeros(width, np.float32), True, layer))
    return PlainModel("vgg16", layers)


def _is_light(features: Any) -> bool:
    """Return whether an engine other than Keras runs a plain network with these parameters."""
    stub = PlainModel(str(features.model).lower(), [])
    dtype = "float32" if features.dtype == "auto" else features.dtype  # settled when the network is there
    engine = choose_engine(stub, engine=features.engine, dtype=dtype, output=features.output)
    return engine != "keras"


def _preprocess(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return pixels as VGG takes them: BGR, relative to the means. The argument is changed in place."""
    pixels = pixels[..., ::-1]
    for channel, mean in enumerate(_MEANS):
        pixels[..., channel] -= mean
    return pixels


def _convolutions(name: str) -> dict[str, tuple[int, int]]:
    """Return the channels, in and out, of each convolution of a network, in order."""
    found, before = {}, 3
    for block, (number, width) in enumerate(zip(_BLOCKS[name], _WIDTHS, strict=True), 1):
        for i in range(1, number + 1):
            found[f"block{block}_conv{i}"] = (before, width)
            before = width
    return found


def _chain(name: str, layer: object) -> list[str] | None:
    """Return the names of the layers up to `layer`. None: this is no part of VGG's convolutions."""
    if name not in _BLOCKS:
        return None
    chain: list[str] = []
    for block, number in enumerate(_BLOCKS[name], 1):
        chain += [f"block{block}_conv{i}" for i in range(1, number + 1)] + [f"block{block}_pool"]
    return chain[: chain.index(layer) + 1] if isinstance(layer, str) and layer in chain else None


def _is_complete(name: str, tensors: Tensors) -> bool:
    """Return whether tensors are all the convolutions of a network, and finite."""
    convolutions = _convolutions(name)
    if tensors.keys() != {f"{layer}/{part}" for layer in convolutions for part in ("kernel", "bias")}:
        return False
    for layer, (before, width) in convolutions.items():
        kernel, bias = tensors[f"{layer}/kernel"], tensors[f"{layer}/bias"]
        if kernel.shape != (3, 3, before, width) or bias.shape != (width,):
            return False
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            return False
    return True


def _read(name: str, source: str) -> Tensors | None:
    """Read the weights of a source. None: they are not there, or not as expected.

    Raises
    ------
    InputError
        If a file has another SHA-256 or MD5 than it should have, or a URL cannot be read.
    """
    if source == "bundled":
        return bundled_tensors() if name == "vgg16" else None
    path = cached_file(name) if source == "imagenet" else weights_file(source)
    if not path.is_file():
        return None
    if source != "imagenet":
        check_published(path)
    elif not is_published(path):
        return None
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {key: _float32(archive[key]) for key in archive.files}
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                return _read_h5(name, io.BytesIO(archive.read("model.weights.h5")))
        with path.open("rb") as file:
            return _read_h5(name, file)
    except Exception:  # Keras reads the file instead, and reports what is wrong with it
        return None


def _read_h5(name: str, file: BinaryIO) -> Tensors | None:
    """Read the weights of Keras 3 (layers/conv2d_N/vars) or Keras 2 (one group for each layer)."""
    h5py = import_extra("h5py", "tensorflow", "weights")
    layers = list(_convolutions(name))
    tensors: Tensors = {}
    with h5py.File(file, "r") as content:
        if "layers" in content:
            groups = [f"conv2d_{i}" if i else "conv2d" for i in range(len(layers))]
            if {group for group in content["layers"] if len(content["layers"][group]["vars"])} != set(groups):
                return None
            for layer, group in zip(layers, groups, strict=True):
                variables = content["layers"][group]["vars"]
                if variables.attrs.get("name", layer) != layer or set(variables) != {"0", "1"}:
                    return None
                tensors |= _pair(layer, variables["0"], variables["1"])
            return tensors
        content = content.get("model_weights", content)
        weighted = [group for group in _texts(content.attrs["layer_names"]) if len(content[group])]
        if weighted != layers:
            return None
        for layer in layers:
            kernel, bias = _texts(content[layer].attrs["weight_names"])
            tensors |= _pair(layer, content[layer][kernel], content[layer][bias])
        return tensors


def _pair(layer: str, kernel: Any, bias: Any) -> Tensors:
    return {f"{layer}/kernel": _float32(kernel[()]), f"{layer}/bias": _float32(bias[()])}


def _float32(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, "<f4")


def _texts(names: Any) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]
