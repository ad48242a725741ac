"""medvlad's engines on pixels in memory, or extraction from JPEG files to a store."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from PIL import Image

import medvlad
from medvlad.extraction.engines import calibrate, choose_engine, make_engine
from medvlad.extraction.networks.keras_network import import_keras
from medvlad.images.read import load_image
from medvlad.images.resize import resize_square

from .keras_network import model_of

#: Width and height in pixels.
_SIZES = {"224-pixel JPEGs": (224, 224), "1-megapixel JPEGs": (1156, 867)}


def describe():
    if importlib.util.find_spec("keras") is None:
        raise ImportError("Keras is not installed")
    return {"medvlad": medvlad.__version__}


def prepare(layers, side, n_threads, dtype, files=None):
    model = model_of(layers)
    engine = choose_engine(model, engine="auto", dtype=dtype, output="host")
    if files is None:
        rng = np.random.default_rng(1)
        batches = [rng.uniform(-120, 130, (1, side, side, 3)).astype(np.float32)]
        ranges = calibrate(model, batches, n_threads=n_threads) if dtype == "int8" else None
        return make_engine(
            model, engine=engine, dtype=dtype, output="host", n_threads=n_threads, ranges=ranges
        )
    return _WholeWay(model, side, n_threads, dtype, files)


class _WholeWay:
    """Extraction of files into a new store. Its temporary folder is removed with the object."""

    def __init__(self, model, side, n_threads, dtype, files):
        self._model = model
        self._folder = Path(tempfile.mkdtemp(prefix="medvlad-extract-"))
        weights = self._folder / "vgg19.weights.h5"
        network = import_keras().applications.VGG19(weights=None, include_top=False)
        network.set_weights(model.get_weights())
        network.save_weights(weights)
        self._features = medvlad.CNNDescriptors(
            weights=weights,
            scales=((side - 224) // 320,),
            dtype=dtype,
            n_threads=n_threads,
            store=self._folder / "store",
            progress=False,
        )
        self._size, self._paths = _SIZES[files], []

    def __call__(self, pixels):
        """Extract as many files as `pixels` has images. The values of the pixels are ignored."""
        if len(self._paths) != len(pixels):
            self._paths = [self._write(i) for i in range(len(pixels))]
            self._features.fit(self._paths[:1])
        shutil.rmtree(self._folder / "store", ignore_errors=True)
        made = self._features.extract(self._paths)
        if made != len(pixels):
            raise RuntimeError(f"{made} of {len(pixels)} images were extracted")
        return

    def difference(self):
        """Return the distance of stored descriptors from those of the Keras model, relative to their norm."""
        stored = self._features.transform(self._paths[:2])
        side = self._features.input_sides_[0]
        pixels = np.stack([resize_square(load_image(path), side) for path in self._paths[:2]])
        preprocess = import_keras().applications.vgg19.preprocess_input
        expected = np.asarray(self._model(preprocess(pixels.astype(np.float32)))).reshape(stored.values.shape)
        return float(np.linalg.norm(stored.values - expected) / np.linalg.norm(expected))

    def _write(self, i):
        """Write a JPEG with as much detail as a photograph: noise at several sizes."""
        rng = np.random.default_rng(i)
        width, height = self._size
        pixels = np.zeros((height, width, 3))
        for cells in (4, 16, 64, 256):
            small = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            pixels += np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)) / 4
        path = self._folder / f"{i}.jpg"
        Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)
        return path

    def __del__(self):
        shutil.rmtree(self._folder, ignore_errors=True)
