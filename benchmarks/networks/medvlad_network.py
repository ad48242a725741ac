"""CNNDescriptors on images in memory or on JPEG files, and its engine alone on preprocessed pixels."""

from __future__ import annotations

import importlib.util
import inspect
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from PIL import Image
from problems import cache_folder

import medvlad
from medvlad.extraction.engines import calibrate, choose_engine, make_engine
from medvlad.extraction.networks.keras_network import import_keras
from medvlad.images.read import load_image
from medvlad.images.resize import resize_square

from . import ALONE, FAST_FILES
from .keras_network import model_of

#: Width and height of files. Half of the large ones is twice the input, so fast decoding reduces them.
_SIZES = {"224-pixel JPEGs": (224, 224), "1-megapixel JPEGs": (1200, 900), FAST_FILES: (1200, 900)}


def describe():
    if importlib.util.find_spec("keras") is None:
        raise ImportError("Keras is not installed")
    return {"medvlad": medvlad.__version__}


def prepare(layers, side, n_threads, dtype, how):
    if how == FAST_FILES and "decode" not in inspect.signature(medvlad.CNNDescriptors).parameters:
        raise ImportError("this version has no option decode")
    model = model_of(layers)
    if how != ALONE:
        return _Extraction(model, side, n_threads, dtype, how)
    engine = choose_engine(model, engine="auto", dtype=dtype, output="host")
    batches = [np.random.default_rng(1).uniform(-120, 130, (1, side, side, 3)).astype(np.float32)]
    ranges = calibrate(model, batches, n_threads=n_threads) if dtype == "int8" else None
    return make_engine(model, engine=engine, dtype=dtype, output="host", n_threads=n_threads, ranges=ranges)


class _Extraction:
    """CNNDescriptors: `transform` of images in memory, or `extract` of files into a new store.

    The temporary folder is removed with the object.
    """

    def __init__(self, model, side, n_threads, dtype, how):
        self._model, self._side = model, side
        self._folder = Path(tempfile.mkdtemp(prefix="medvlad-extract-"))
        weights = self._folder / "vgg19.weights.h5"
        network = import_keras().applications.VGG19(weights=None, include_top=False)
        network.set_weights(model.get_weights())
        network.save_weights(weights)
        own = {} if how == "memory" else {"store": self._folder / "store"}
        if how == FAST_FILES:
            own["decode"] = "fast"
        self._features = medvlad.CNNDescriptors(
            weights=weights,
            scales=((side - 224) // 320,),
            dtype=dtype,
            n_threads=n_threads,
            progress=False,
            **own,
        )
        self._size, self._images = _SIZES.get(how), []

    def __call__(self, pixels):
        """Extract as many images as `pixels` has. The values of the pixels are ignored."""
        if len(self._images) != len(pixels):
            self._images = [self._file(i) if self._size else self._array(i) for i in range(len(pixels))]
            self._features.fit(self._images[:1])
        if not self._size:
            self._features.transform(self._images)
            return
        shutil.rmtree(self._folder / "store", ignore_errors=True)
        made = self._features.extract(self._images)
        if made != len(pixels):
            raise RuntimeError(f"{made} of {len(pixels)} images were extracted")

    def difference(self):
        """Return the distance of descriptors from those of the Keras model, relative to their norm."""
        found = self._features.transform(self._images[:2]).values
        side = self._features.input_sides_[0]
        images = [load_image(image) if self._size else image for image in self._images[:2]]
        pixels = np.stack([resize_square(image, side) for image in images]).astype(np.float32)
        preprocess = import_keras().applications.vgg19.preprocess_input
        expected = np.asarray(self._model(preprocess(pixels))).reshape(found.shape)
        return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))

    def _array(self, i):
        """Return pixels of the size of the input, uint8."""
        return np.random.default_rng(i).integers(0, 256, (self._side, self._side, 3), dtype=np.uint8)

    def _file(self, i):
        """Return a cached JPEG with as much detail as a photograph: noise at several sizes."""
        width, height = self._size
        path = cache_folder() / f"noise-{width}x{height}-{i}.jpg"
        if path.exists():
            return path
        rng = np.random.default_rng(i)
        pixels = np.zeros((height, width, 3))
        for cells in (4, 16, 64, 256):
            small = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            pixels += np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)) / 4
        # Write to another name and rename: two processes may write the same file.
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".jpg", delete=False) as part:
            Image.fromarray(pixels.astype(np.uint8)).save(part, quality=90)
        Path(part.name).replace(path)
        return path

    def __del__(self):
        shutil.rmtree(self._folder, ignore_errors=True)
