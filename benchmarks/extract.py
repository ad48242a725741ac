"""Extract VGG16 block5_pool descriptors of images into a file, or time extraction with random weights."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np


def extract(images, weights, scale, out):
    """Save the descriptors (N, 512) of image files."""
    from medvlad import CNNDescriptors

    values = CNNDescriptors("vgg16", weights=weights, scales=(scale,)).transform(images).values
    # Write to another name and rename, so that an interrupted run leaves no incomplete file.
    with tempfile.NamedTemporaryFile(dir=out.parent, suffix=".npy", delete=False) as part:
        np.save(part, values)
    Path(part.name).replace(out)


def seconds_per_image(scale, n_images):
    """Return the seconds of extraction for one image. The weights are random: they do not affect the time."""
    import keras
    from PIL import Image

    from medvlad import CNNDescriptors

    rng = np.random.default_rng(0)
    side = 224 + 320 * scale
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.weights.h5"
        keras.applications.VGG16(weights=None, include_top=False).save_weights(weights)
        images = []
        for i in range(n_images):
            images.append(Path(folder) / f"{i}.png")
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(images[-1])
        network = CNNDescriptors("vgg16", weights=weights, scales=(scale,), progress=False)
        network.fit()
        network.transform(images)  # builds and traces the network
        begin = time.perf_counter()
        network.transform(images)
        return (time.perf_counter() - begin) / n_images


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--scale", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--time", type=int, metavar="IMAGES", help="print the seconds for each image instead")
    arguments = parser.parse_args()
    if arguments.time:
        seconds = seconds_per_image(arguments.scale, arguments.time)
        print(json.dumps({"seconds": seconds, "images": arguments.time}))  # noqa: T201
    else:
        extract(arguments.images, arguments.weights, arguments.scale, arguments.out)


if __name__ == "__main__":
    main()
