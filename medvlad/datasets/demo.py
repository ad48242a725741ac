"""Write the images of ``medvlad demo``: patches of the photographs in scikit-image. Nothing is downloaded.

Each class is one photograph. Training patches come from its left half and test patches from its right half,
so no pixel is in both.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from PIL import Image

from medvlad._util.validate import import_extra

__all__ = ["CLASSES", "write_demo_images"]

logger = logging.getLogger(__name__)

#: Class name to name of the photograph in skimage.data.
CLASSES = {
    "brick": "brick",
    "grass": "grass",
    "gravel": "gravel",
    "histology": "immunohistochemistry",
    "moon": "moon",
    "retina": "retina",
    "stars": "hubble_deep_field",
}

_PATCH = 40  # width and height in pixels; small, so that the task is not trivial
_N_PATCHES = 20  # for each class and part


def write_demo_images(root: Path, *, random_state: int = 0) -> Path:
    """Write the patches as PNG files.

    Parameters
    ----------
    root : Path
        Folder to write train/CLASS/*.png and test/CLASS/*.png into. Made if it does not exist.
    random_state : int, default 0
        Seed of the positions of the patches.

    Returns
    -------
    Path
        `root`.

    Raises
    ------
    MissingExtraError
        If scikit-image is not installed.
    """
    data = import_extra("skimage.data", "demo", "medvlad demo")
    rng = np.random.default_rng(random_state)
    for class_name, photograph in CLASSES.items():
        pixels = np.asarray(getattr(data, photograph)())
        middle = pixels.shape[1] // 2
        for part, half in (("train", pixels[:, :middle]), ("test", pixels[:, middle:])):
            folder = root / part / class_name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(_N_PATCHES):
                top, left = (int(rng.integers(0, side - _PATCH + 1)) for side in half.shape[:2])
                patch = half[top : top + _PATCH, left : left + _PATCH]
                Image.fromarray(patch).save(folder / f"{class_name}_{i:02d}.png")
    logger.info("wrote %d patches to %s", 2 * _N_PATCHES * len(CLASSES), root)
    return root
