"""Data sets without files, for tests of the evaluation."""

import numpy as np

from medvlad.datasets.folders import ImageFolder
from medvlad.evaluation.cross_validation import held_out
from medvlad.evaluation.held_out_metrics import held_out_metrics


def folder(labels, groups=None, splits=None):
    """Return a data set of images with these labels; the classes are class0, class1, ..."""
    labels = np.array(labels)
    names = [f"class{k}" for k in range(labels.max() + 1)]
    return ImageFolder(
        [f"{i}.png" for i in range(len(labels))],
        labels,
        names,
        None if groups is None else np.array(groups, dtype=object),
        None if splits is None else np.array(splits),
    )


def evaluate(descriptors, data, encoder, classifier, *, folds=5, **settings):
    """Return the metrics of held-out predictions."""
    return held_out_metrics(data, held_out(descriptors, data, encoder, classifier, folds=folds), **settings)
