"""Small evaluations of random images, complete enough for a report."""

from types import SimpleNamespace

import numpy as np
from PIL import Image

from medvlad import Descriptors, GlobalPool, WideLinearSVC
from medvlad.datasets.folders import ImageFolder
from medvlad.evaluation.cross_validation import held_out
from medvlad.evaluation.held_out_metrics import held_out_metrics
from medvlad.experiment import Evaluation

GRID = SimpleNamespace(grids_=((2, 2),), mirrored_=(False,))

SETTINGS = {
    "model": "vgg16",
    "weights": "/home/someone/weights/vgg16.weights.h5",
    "weights_fingerprint": "0123456789abcdef",
    "scales": [0],
    "recipe": {"power": 1.0, "tiles": [], "whiten": False, "reduce": None},
    "backend": "native",
    "available_backends": {"reference": "ok", "native": "ok: avx2", "cuda": "no CUDA driver found"},
}


def make_evaluation(
    rng, folder, class_names=("a", "b"), n=40, encoders=None, folds=4, calibration=None, positive=None
):
    """Evaluate encodings of `n` random images, some of which are decided wrongly."""
    class_names = list(class_names)
    labels = np.arange(n) % len(class_names)
    width = max(6, len(class_names))
    x = rng.normal(0, 1, (n, 4, width)).astype(np.float32)
    x += np.eye(width, dtype=np.float32)[labels][:, None] * 0.3
    paths = []
    for i in range(n):
        paths.append(folder / f"image {i}.png")
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(paths[-1])
    data = ImageFolder(paths, labels, class_names)
    descriptors = Descriptors.from_array(x)
    decided = {
        name: held_out(descriptors, data, encoder, WideLinearSVC(), folds=folds, calibration=calibration)
        for name, encoder in (encoders or {"avg": GlobalPool()}).items()
    }
    scored = [
        {"encode": name, "scales": [0], "parameters": {"encode": {"mode": "avg"}, "classify": {"C": 1.0}}}
        | held_out_metrics(data, one, positive=positive)
        for name, one in decided.items()
    ]
    results = {
        "results": scored,
        "comparisons": [],
        "dataset": {"n_images": n, "class_names": class_names, "n_groups": None, "root": str(folder)},
        "settings": SETTINGS,
        "versions": {"medvlad": "0"},
        "skipped": [],
        "damaged": [],
    }
    return Evaluation(results, data, descriptors, GRID, decided)
