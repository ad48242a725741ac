"""Two classes of images that any network tells apart: lying and upright stripes."""

import numpy as np
from PIL import Image

#: Options of a small network.
NETWORK = ["--model", "mobilenetv2", "--layer", "out_relu"]


def stripes(rng, upright):
    """Return an image of noisy stripes."""
    wave = 100 + 80 * np.sin(np.arange(64) / 2 + rng.uniform(0, 6))
    pixels = np.broadcast_to(wave if upright else wave[:, None], (64, 64)) + rng.normal(0, 8, (64, 64))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_striped_images(root, rng, n_train=6, n_test=4):
    """Write train and test images of both classes; return `root`."""
    for part, n in (("train", n_train), ("test", n_test)):
        for name, upright in (("lying", False), ("upright", True)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                stripes(rng, upright).save(folder / f"{i}.png")
    return root
