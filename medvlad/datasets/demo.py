"""Write the images of ``medvlad demo``: simulated fields of tissue. Nothing is downloaded.

In the class `inflamed` most lymphocytes lie in the nests of tumour cells. In the class `excluded` most lie in
the stroma between the nests. Both classes have the same amounts of tumour, stroma and lymphocytes. So the
class is not what an image contains, but what lies where. The job was chosen to show when this matters.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from medvlad._util.processors import usable_processors
from medvlad._util.validate import InputError
from medvlad.datasets.tissue import draw_field

__all__ = ["CLASSES", "N_TEST", "N_TRAIN", "write_demo_images"]

logger = logging.getLogger(__name__)

#: Class name to the probability that a lymphocyte lies in a nest.
CLASSES = {"excluded": 1 / 3, "inflamed": 2 / 3}

#: Default number of training and test images of each class.
N_TRAIN, N_TEST = 250, 300


def write_demo_images(
    root: Path, *, n_train: int = N_TRAIN, n_test: int = N_TEST, random_state: int = 0
) -> Path:
    """Write simulated fields as PNG files.

    Parameters
    ----------
    root : Path
        Folder to write train/CLASS/*.png and test/CLASS/*.png into. Made if it does not exist.
    n_train, n_test : int, default=250 and 300
        Number of training and test images of each class.
    random_state : int, default=0
        Seed of the fields. Each field has its own seed, so fewer images are the first of more images.

    Returns
    -------
    Path
        `root`.

    Raises
    ------
    InputError
        If `root` holds images of other classes, such as those of an earlier version.
    """
    _check_classes(root)
    classes = list(CLASSES.items())

    def write(file: Path, seed: tuple[int, int, int]) -> None:
        rng = np.random.default_rng([random_state, *seed])
        draw_field(rng, classes[seed[1]][1]).save(file, compress_level=1)

    files, seeds = [], []
    for part, (split, n) in enumerate((("train", n_train), ("test", n_test))):
        for label, (name, _) in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            files += [folder / f"{name}_{i:03d}.png" for i in range(n)]
            seeds += [(part, label, i) for i in range(n)]
    with ThreadPoolExecutor(usable_processors().number) as threads:
        list(threads.map(write, files, seeds))  # raises what a thread has raised
    logger.info("wrote %d fields to %s", len(files), root)
    return root


def _check_classes(root: Path) -> None:
    """Refuse a folder with other classes, because they would be evaluated too."""
    found = [one for split in ("train", "test") for one in sorted(root.glob(f"{split}/*")) if one.is_dir()]
    others = [one for one in found if one.name not in CLASSES and not one.name.startswith(".")]
    if others:
        raise InputError(
            f"{others[0]} is no class of the demo, and would be evaluated too: remove {root}, or choose "
            "another folder with --out"
        )
