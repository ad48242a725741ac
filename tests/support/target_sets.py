"""Data sets with several labels or numbers, and descriptors that tell them."""

from pathlib import Path

import numpy as np

from medvlad import Descriptors
from medvlad.datasets.folders import ImageFolder

NAMES = {"labels": ["effusion", "nodule", "fracture"], "regression": ["age", "weight"]}


def target_set(task, n=120, *, splits=False, seed=0):
    """Return a data set of `n` images, two a patient, and its descriptors."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4, 8)).astype(np.float32)
    facts = 2 * x.mean(axis=1)
    if task == "labels":
        targets = (
            np.stack([facts[:, 0] > 0.9, facts[:, 1] > 0, facts[:, 2] + facts[:, 3] > 0.5], axis=1) * 1.0
        )
        targets[rng.random(targets.shape) < 0.1] = np.nan
    else:
        targets = np.stack([50 + 10 * facts[:, 0] + rng.normal(size=n), facts[:, 1]], axis=1)
        targets[::7, 0] = np.nan
    patients = np.arange(n) // 2
    return ImageFolder(
        [Path(f"{i}.png") for i in range(n)],
        np.zeros(n, np.int64),
        NAMES[task],
        groups=np.array([f"p{i:03}" for i in patients]),
        splits=np.where(patients % 3 == 0, "test", "train") if splits else None,
        task=task,
        targets=targets,
    ), Descriptors.from_array(x)
