"""Sets of pictures with planted defects, and the findings of an audit of them."""

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from medvlad.audit import audit
from medvlad.datasets.folders import load_image_folder

SIDE = 96


def picture(rng, side=SIDE, sigma=3.0):
    """Return a smooth random texture in colour, unlike any other."""
    noise = gaussian_filter(rng.normal(size=(side, side, 3)), (sigma, sigma, 0))
    return Image.fromarray(np.clip(128 + 45 * noise / noise.std(), 20, 235).astype(np.uint8))


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def write_set(root, rng, n=20, classes=("a", "b"), parts=("train", "test"), make=None, ending="bmp"):
    """Write `n` images for each class and part. `make` may change a picture."""
    for part in parts:
        for name in classes:
            for i in range(n):
                image = picture(rng)
                image = image if make is None else make(image, part, name, i)
                save(image, root / part / name / f"{part}{name}{i}.{ending}")
    return root


def findings(found):
    """Return the findings by kind. Each kind occurs once."""
    kinds = [one["kind"] for one in found["findings"]]
    assert len(kinds) == len(set(kinds)), kinds
    return {one["kind"]: one for one in found["findings"]}


def audited(root, **options):
    """Return the audit of a folder."""
    return audit(load_image_folder(root, **options), n_threads=2)


def kinds_of(root, **options):
    """Return the severity of each finding of a folder, by kind."""
    return {one["kind"]: one["severity"] for one in audited(root, **options)["findings"]}


def shortcuts(found):
    """Return the features that tell the class."""
    return {kind[9:] for kind in findings(found) if kind.startswith("shortcut_")}


def copied(rng, root, one, other, options=None, change=lambda image: image):
    """Write a picture and its copy, changed by `change`."""
    image = picture(rng)
    save(image, root / one)
    return save(change(image), root / other, **(options or {}))
