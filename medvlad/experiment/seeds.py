"""Repeat an evaluation with other seeds of k-means, of PCA and of the random folds.

The interval of an accuracy is that of the test images, for one codebook. Another seed gives another codebook,
and without a test part other folds, so another accuracy. The spread over seeds is part of what a
difference between two encodings must exceed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from medvlad._util.validate import further_seed
from medvlad.datasets.folders import ImageFolder
from medvlad.evaluation.cross_validation import HeldOut
from medvlad.evaluation.metrics import balanced_accuracy, class_aucs

__all__ = ["over_seeds", "seeds_in_words"]

_METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auc": "AUC"}


def over_seeds(
    experiment: Any, dataset: ImageFolder, first: HeldOut, decide: Callable[[Any], HeldOut]
) -> dict[str, Any]:
    """Return the metrics of one encoding over several seeds.

    Parameters
    ----------
    experiment : Experiment
        `n_seeds` is the number of seeds. The first one is `seed`, and each other one is larger by 1,
        or 0 after 4294967295.
    dataset : ImageFolder
    first : HeldOut
        Held-out predictions with the first seed.
    decide : callable
        Returns held-out predictions for an experiment with another seed.

    Returns
    -------
    dict
        seeds, a list, and for each of accuracy, balanced_accuracy and auc a dict with mean, std (of a sample,
        with n - 1), min, max, and values in the order of the seeds. A metric that is undefined is None.
    """
    seeds = [further_seed(experiment.seed, i) for i in range(experiment.n_seeds)]
    decided = [first, *(decide(replace(experiment, seed=seed)) for seed in seeds[1:])]
    found = [_metrics(dataset, one) for one in decided]
    return {"seeds": seeds} | {name: _spread([one[name] for one in found]) for name in _METRICS}


def seeds_in_words(result: dict[str, Any]) -> str:
    """Return a sentence about the metrics over seeds in one of the `results` of an evaluation."""
    found = result["over_seeds"]
    said = ", ".join(
        f"{words} {one['mean']:.3f} ({one['std']:.3f}, {one['min']:.3f} to {one['max']:.3f})"
        for name, words in _METRICS.items()
        if (one := found[name]) is not None
    )
    return f"{result['encode']} over {len(found['seeds'])} seeds, mean (standard deviation, range): {said}."


def _metrics(dataset: ImageFolder, decided: HeldOut) -> dict[str, float | None]:
    labels, predicted = dataset.labels[decided.tested], decided.decision.argmax(axis=1)
    aucs = class_aucs(labels, decided.decision)
    known = [value for value in aucs if value is not None]
    return {
        "accuracy": float(np.mean(predicted == labels)),
        "balanced_accuracy": balanced_accuracy(labels, predicted),
        "auc": float(np.mean(known)) if len(known) == len(aucs) else None,
    }


def _spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return {
        "mean": float(np.mean(known)),
        "std": float(np.std(known, ddof=1)),
        "min": min(known),
        "max": max(known),
        "values": known,
    }
