"""Measure training against shifts, and write docs/results_shift.json.

    python benchmarks/shift.py guard ROOMS HYPERKVASIR --store FOLDER
    python benchmarks/shift.py chest CHEST_XRAY --store FOLDER [--train-only]

"guard" compares the recipes on other data sets: 5-fold cross-validation on squares of 224 pixels, tested on
the held-out images and on their shifted copies. "chest" trains on the training part of the chest X-rays and
predicts the test part once. With --train-only it fills the store and reads no test image.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from machine import describe

import medvlad as mv
from medvlad.datasets.published import LAYOUTS
from medvlad.evaluation.folds import stratified_folds
from medvlad.evaluation.metrics import balanced_accuracy, scores
from medvlad.evaluation.threshold import find_threshold
from medvlad.extraction.many_layers import extract_layers
from medvlad.images.look import looks_of
from medvlad.images.read import load_image
from medvlad.images.resize import resize_square
from medvlad.images.shifted_copies import ShiftedCopies
from medvlad.svm.invariance import Nuisance, fit_invariant_path

ROOT = Path(__file__).parents[1]
LAYERS = ("block14", "block20", "head")
CHOSEN_LAYERS = ("block14", "block20")
#: Layers, C, whether shifted copies are trained on, and whether nuisance directions are removed.
RECIPES = {
    "head": (("head",), 1.0, False, False),
    "two layers": (CHOSEN_LAYERS, 10.0, False, False),
    "two layers, copies": (CHOSEN_LAYERS, 3.0, True, False),
    "two layers, copies, nuisance (chosen)": (CHOSEN_LAYERS, 1.0, True, True),
    "block14, copies, nuisance": (("block14",), 1.0, True, True),
}
#: Single layers, of which the command line offers the recipe. They were added to the guard only.
GUARDED = RECIPES | {
    f"{layer}{words}": ((layer,), 1.0, remedied, remedied)
    for layer in ("head", "block20", "block14")
    for words, remedied in (("", False), (", copies, nuisance", True))
}


def pooled(images, store, dtype):
    """Return the pooled vectors of each layer, by its name."""
    network = mv.CNNDescriptors(
        "efficientnet-lite2", "head", weights="bundled", dtype=dtype, store=store, output="store"
    )
    found, _ = extract_layers(network, images, LAYERS)
    return {one.layer: mv.GlobalPool().fit_transform(one.descriptors) for one in found}


def fit(recipe, plain, copies, labels, looks):
    """Return the fitted classifier of a recipe and a function that joins its layers."""
    layers, c, with_copies, with_nuisance = recipe

    def joined(vectors):
        return np.hstack([vectors[layer] for layer in layers])

    x, n = joined(plain), len(labels)
    nuisance = None
    if with_copies:
        x, labels = np.vstack([x, joined(copies)]), np.tile(labels, 2)
        if with_nuisance:
            nuisance = Nuisance(np.tile(np.arange(n), 2), np.repeat([False, True], n), np.tile(looks, (2, 1)))
    (svm,) = fit_invariant_path(mv.WideLinearSVC(class_weight="balanced"), x, labels, [c], nuisance)
    return svm, joined


def rows_of(vectors, rows):
    return {layer: values[rows] for layer, values in vectors.items()}


def guard(parsed):
    """Return balanced accuracies of other data sets, not shifted and shifted."""
    found = {}
    for root in parsed.folders:
        data = mv.load_image_folder(root)
        images, y = [resize_square(load_image(path), 224) for path in data.paths], data.labels
        plain = pooled(images, parsed.store, parsed.dtype)
        copies = pooled(ShiftedCopies(images), parsed.store, parsed.dtype)
        looks = looks_of(images)
        for name, recipe in GUARDED.items():
            predicted = np.zeros((2, len(y)), int)
            for train, test in stratified_folds(y, data.groups, 5, 0):
                svm, joined = fit(
                    recipe, rows_of(plain, train), rows_of(copies, train), y[train], looks[train]
                )
                for k, tested in enumerate((plain, copies)):
                    predicted[k, test] = svm.predict(joined(rows_of(tested, test)))
            values = [round(balanced_accuracy(y, one), 4) for one in predicted]
            found.setdefault(Path(root).name, {})[name] = dict(zip(("plain", "shifted"), values, strict=True))
    return {"guard": found}


def chest(parsed):
    """Return the metrics of the test part."""
    data = LAYOUTS["chest-xray"](parsed.folders[0])
    train, test = (np.flatnonzero(data.splits == part) for part in ("train", "test"))
    paths, y = [data.paths[i] for i in train], data.labels[train]
    plain = pooled(paths, parsed.store, parsed.dtype)
    copies = pooled(ShiftedCopies(paths, 0), parsed.store, parsed.dtype)
    looks = looks_of(paths)
    if parsed.train_only:
        return {}
    tested = pooled([data.paths[i] for i in test], parsed.store, parsed.dtype)
    rows = []
    for name, recipe in RECIPES.items():
        svm, joined = fit(recipe, plain, copies, y, looks)
        decision = svm.decision_function(joined(tested))
        both = np.column_stack([-decision, decision])
        groups = None if data.groups is None else data.groups[test]
        measured = {}
        threshold = find_threshold(decision)
        for key, cut in (("own", 0.0), ("adapted", threshold.value)):
            if cut is not None:
                measured[key] = scores(
                    data.labels[test], (decision > cut).astype(int), both, data.class_names, groups=groups
                )
        rows.append({"recipe": name, "n_train": len(y), "n_test": len(test)} | measured)
    return {"chest": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("guard", "chest"))
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--store", required=True)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--train-only", action="store_true")
    parsed = parser.parse_args()
    found = {"guard": guard, "chest": chest}[parsed.what](parsed)
    path = ROOT / "docs" / "results_shift.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if found:
        machine = describe()
        known |= found | {"date": machine["date"], "processor": machine["processor"], "dtype": parsed.dtype}
        path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
