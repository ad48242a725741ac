"""Small images of two classes, lying and upright stripes, that any network tells apart."""

import numpy as np
from PIL import Image

from medvlad.experiment import Experiment

#: Settings of the network of the fixture `small_weights`, and the same as options.
SMALL_NETWORK = {"model": "mobilenetv2", "layer": "out_relu"}
NETWORK = ["--model", "mobilenetv2", "--layer", "out_relu"]


def stripes(rng, upright):
    """Return an image of noisy stripes; their direction is the class."""
    wave = 100 + 80 * np.sin(np.arange(64) / 2 + rng.uniform(0, 6))
    pixels = np.broadcast_to(wave if upright else wave[:, None], (64, 64)) + rng.normal(0, 8, (64, 64))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_striped_images(root, rng, **parts):
    """Write images of each class into a folder for each part, 6 to train and 4 to test by default."""
    for part, n in ({"train": 6, "test": 4} | parts).items():
        for name, upright in (("lying", False), ("upright", True)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                stripes(rng, upright).save(folder / f"{i}.png")
    return root


def small_experiment(weights, **settings):
    """Return an experiment with the small network."""
    return Experiment(weights=weights, **SMALL_NETWORK, **settings)
