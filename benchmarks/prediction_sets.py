"""Measure how often prediction sets hold the true class, on images that the classifier was not trained on.

    python benchmarks/prediction_sets.py DIR --weights FILE [--model NAME] [--layer NAME] [--store FOLDER]
                                         [--part train] [--images 1500] [--resamples 200] [--folds 5]

DIR is the folder of the images. Each resample trains CalibratedSVC on two thirds of the average-pooled
vectors and tests it on the others. Images of a patient stay together. Each class and number of folds gets a
line:

- rank: coverage that whole ranks allow. With n held-out images it is 1 - floor(0.1 (n + 1)) / (n + 1).
- resamples: standard error of the mean over random divisions of these images.
- images: binomial standard error for as many images as the class has. It is the one for other images of this
  kind, because all resamples share the same images.

The program fails if a mean is below 0.9 by more than two standard errors of resamples, or above `rank` by
more than two standard errors of images.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from machine import describe
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

import medvlad as mv
from medvlad.decisions import CalibratedSVC, mean_descriptors
from medvlad.decisions.novelty import FLAGGED_BELOW
from medvlad.evaluation.calibration import calibration_metrics

COVERAGE = 0.9


def rank_coverage(n):
    """Return the smallest coverage of at least 0.9 that n held-out images of a class can give."""
    return 1 - np.floor((1 - COVERAGE) * (n + 1) + 1e-9) / (n + 1)


def divide(labels, groups, seed):
    """Return indices of two thirds and of one third of the images."""
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    return next(splitter(3, shuffle=True, random_state=seed).split(labels, labels, groups))


def measure(vectors, labels, groups, folds, resamples):
    """Return coverage (resamples, n_classes), rank coverage, calibration error and share of unusual."""
    n_classes = labels.max() + 1
    covered, rank = np.empty((resamples, n_classes)), np.empty((resamples, n_classes))
    error, unusual = np.empty(resamples), np.empty(resamples)
    for i in range(resamples):
        train, test = divide(labels, groups, i)
        own = None if groups is None else groups[train]
        model = CalibratedSVC(folds=folds).fit(vectors[train], labels[train], own)
        sets = model.prediction_sets(vectors[test], COVERAGE)
        covered[i] = [sets[labels[test] == k, k].mean() for k in range(n_classes)]
        rank[i] = rank_coverage(np.bincount(labels[train]))
        inside = model.calibration_.probabilities(model.held_out_decision_)
        error[i] = calibration_metrics(model.held_out_labels_, inside)["expected_calibration_error"]
        unusual[i] = (model.novelty_p(vectors[test]) < FLAGGED_BELOW).mean()
    return covered, rank.mean(axis=0), error.mean(), unusual.mean()


def report(names, labels, groups, vectors, folds, resamples):
    """Write the lines of one number of folds. Return the classes below 0.9, and those above `rank`."""
    covered, rank, error, unusual = measure(vectors, labels, groups, folds, resamples)
    mean, by_resample = covered.mean(axis=0), covered.std(axis=0, ddof=1) / np.sqrt(resamples)
    counts = np.bincount(labels)
    by_image = np.sqrt(COVERAGE * (1 - COVERAGE) / counts)
    for k, name in enumerate(names):
        values = f"{mean[k]:.4f}    {rank[k]:.4f}  {by_resample[k]:.4f}     {by_image[k]:.4f}"
        say(f"{folds:>5}  {name:<16}  {counts[k]:>6}  {values}")
    say(f"{folds} folds: calibration error of held-out scores {error:.3f}, called unusual {unusual:.3f}")
    low, high = mean < COVERAGE - 2 * by_resample, mean > rank + 2 * by_image
    return [names[k] for k in np.flatnonzero(low)], [names[k] for k in np.flatnonzero(high)]


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root")
    parser.add_argument("--model", default="vgg16")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--layer")
    parser.add_argument("--store")
    parser.add_argument("--part")
    parser.add_argument("--images", type=int)
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--folds", default="5")
    args = parser.parse_args()
    data = mv.load_image_folder(args.root, split=args.part)
    rows = np.arange(len(data.labels))
    if args.images is not None:
        rows = np.sort(np.random.default_rng(0).choice(rows, args.images, replace=False))
    layer = {} if args.layer is None else {"layer": args.layer}
    network = mv.CNNDescriptors(args.model, weights=args.weights, store=args.store, **layer)
    vectors = mean_descriptors(network.transform([data.paths[row] for row in rows]))
    labels, groups = data.labels[rows], None if data.groups is None else data.groups[rows]
    say(describe())
    say("folds  class             images  coverage  rank    resamples  images")
    for folds in map(int, args.folds.split(",")):
        low, high = report(data.class_names, labels, groups, vectors, folds, args.resamples)
        assert not low, f"covered too rarely: {low}"
        assert not high, f"covered too often: {high}"


if __name__ == "__main__":
    main()
