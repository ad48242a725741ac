"""Compare networks, layers, encodings and scales, and choose the presets by a rule.

    python benchmarks/presets.py inside SET=DIR ... --store FOLDER [--image-root HYPERKVASIR]
    python benchmarks/presets.py scales SET=DIR ... --store FOLDER [--image-root HYPERKVASIR]
    python benchmarks/presets.py test SET=DIR ... --store FOLDER [--image-root HYPERKVASIR]
    python benchmarks/presets.py speed SET=DIR
    python benchmarks/presets.py choose [--check]

SET is chest_xray, hyperkvasir or rooms. DIR is the folder of its images. For hyperkvasir it is
docs/results/hyperkvasir_folds.csv, whose folds keep frames of one video together. The results are in
docs/results/networks.json. `inside` and `test` measure what is missing there.

inside: balanced accuracy inside the training images (of chest_xray: of 1,500) at scale 0, for each network,
layer and encoding, with C chosen there. Run it with all sets before the other steps.

scales: the same with scales 0 and 1, for the layers that are chosen, see `finalists`.

test: train on all training images with the layer and the C of these steps, and predict the test images; or
each fold of a set without a test part. VLAD is measured with --seeds seeds of the codebook.

speed: images per second from files to vectors.

choose: the layer of each network and encoding, and the presets. --check compares them with the package.

Rules, fixed before these test images were predicted. Test results of some of these combinations were known
from earlier work, and hyperkvasir has no test part: each of its images is a training image of four folds. A
score is the mean over the sets of the mean over the folds inside the training images. Differences are taken
fold by fold. "As good" means within one standard error of the best.

- Layer: the one with the fewest numbers in a descriptor that is as good; of the same width, the earliest one.
- Preset "best": the fastest combination of network, layer, encoding and scales that is as good. Its encoding
  is average pooling or VLAD: models of the others have no evidence maps, or no ONNX graph.
- Preset "fast": the same, among those that are at least half as fast as the fastest.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from machine import describe
from sklearn.base import clone

import medvlad as mv
from medvlad._util.atomic_file import write_file
from medvlad.classifier.steps import PENALTIES
from medvlad.datasets.load import load_data
from medvlad.datasets.manifest_columns import TableSettings
from medvlad.encoders.recipe import PRESETS, Recipe
from medvlad.evaluation.cross_validation import FittedFold, HeldOut, Stopwatch, inner_folds
from medvlad.evaluation.folds import parts_of
from medvlad.evaluation.held_out_metrics import held_out_metrics
from medvlad.evaluation.parts import has_two_class_test
from medvlad.extraction.many_layers import extract_layers
from medvlad.svm.decision import decision_columns

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "networks.json"
SETS = ("chest_xray", "hyperkvasir", "rooms")
FOLDS = 5
IN_MEMORY = 6 << 30  # bytes
MOST_INSIDE = 1500  # images; more would take hours
MIXTURE_ROWS = 50_000  # the mixture of Fisher vectors takes minutes on ten times as many

#: Network -> its weights, and the layers from the one with the narrowest descriptors on.
NETWORKS = {
    "efficientnet-lite2": ("bundled", ("block14", "block20", "head")),
    "vgg16": ("bundled", ("block4_pool", "block5_conv3", "block5_pool")),
}
#: Name in the tables -> name of the encoder, and settings of the recipe.
ENCODINGS = {
    "average pooling": ("avg", {}),
    "GeM": ("gem", {}),
    "VLAD 64": ("vlad64", {}),
    "VLAD 64, L2, power": ("vlad64", {"descriptor_norm": True, "power": 0.5}),
    "Fisher 16, PCA 64": ("fisher16", {"descriptor_norm": True, "n_components": 64, "power": 0.5}),
    "second order, PCA 64": ("second-order", {"descriptor_norm": True, "n_components": 64, "power": 0.5}),
}
SCALES = ((0,), (0, 1))
#: What both presets set besides.
COMMON = {"C": "cv", "class_weight": "balanced", "calibration": "platt", "adapt_threshold": None}
_KEPT = ("accuracy", "balanced_accuracy", "auc")


@dataclass(frozen=True)
class Candidate:
    """What is compared: a network cut at a layer, an encoding, and scales."""

    network: str
    layer: str
    encoding: str
    scales: tuple[int, ...]

    def encoder(self, seed=0):
        name, settings = ENCODINGS[self.encoding]
        encoder = Recipe(**settings).encoder(name, random_state=seed)
        if name.startswith("fisher"):
            encoder.set_params(encode__max_samples=MIXTURE_ROWS)
        return encoder

    def descriptors(self, given, paths):
        """Return the descriptors of images, in memory if they are small. The store keeps them."""
        stored = mv.CNNDescriptors(
            self.network,
            self.layer,
            weights=NETWORKS[self.network][0],
            scales=self.scales,
            dtype=given.dtype,
            store=given.store,
            output="store",
        ).transform(paths)
        return stored.load() if stored.nbytes <= IN_MEMORY else stored

    @property
    def has_codebook(self):
        return ENCODINGS[self.encoding][0].startswith("vlad")


def all_candidates(scales):
    return [
        Candidate(network, layer, encoding, scales)
        for network, (_, layers) in NETWORKS.items()
        for layer in layers
        for encoding in ENCODINGS
    ]


def load(given, name, root):
    table = TableSettings(image_root=given.image_root) if Path(root).is_file() else TableSettings()
    return load_data(root, layout="chest-xray" if name == "chest_xray" else "folder", table=table)


def svm(C=1.0):
    return mv.WideLinearSVC(C, class_weight="balanced")


# ------------------------------------------------------------------------------------ result file


def read():
    text = RESULTS.read_text("utf-8") if RESULTS.exists() else ""
    found = json.loads(text) if text else {}
    return {"inside": [], "test": [], "speed": []} | found


def keep(part, given, row):
    """Put a row into the result file, with the date and the machine. Several processes may do so."""
    machine = describe()
    folder = os.open(RESULTS.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        found = read()
        found["dtype"] = given.dtype
        others = [one for one in found[part] if not _same_subject(one, row)]
        found[part] = [*others, row | {"date": machine["date"], "processor": machine["processor"]}]
        write_file(RESULTS, (json.dumps(found, indent=1) + "\n").encode(), "results")
    finally:
        os.close(folder)
    logging.info("%s", {name: one for name, one in row.items() if name not in ("folds", "over_seeds")})


def _same_subject(one, other):
    return one.get("set") == other.get("set") and candidate_of(one) == candidate_of(other)


def candidate_of(row):
    return Candidate(row["network"], row["layer"], row["encoding"], tuple(row["scales"]))


def is_known(part, name, candidate):
    return any(row["set"] == name and candidate_of(row) == candidate for row in read()[part])


# -------------------------------------------------------------------------------------- measuring


def measure(part, given, candidates, function):
    """Call `function` for each set and candidate that the result file lacks."""
    for name, root in given.sets:
        data = load(given, name, root)
        loaded = None, None
        for one in candidates:
            if is_known(part, name, one):
                continue
            key = (one.network, one.layer, one.scales)
            if loaded[0] != key:
                loaded = None, None  # before the next ones are loaded
                loaded = key, one.descriptors(given, data.paths)
            start = time.perf_counter()
            row = function(name, one, loaded[1], data)
            seconds = round(time.perf_counter() - start, 1)
            keep(part, given, {"set": name} | asdict(one) | row | {"seconds": seconds})


def extract(given, scale):
    """Fill the store with all layers that are compared, so that each network runs once."""
    for name, root in given.sets:
        paths = load(given, name, root).paths
        for network, (weights, layers) in NETWORKS.items():
            if scale:
                layers = sorted({one.layer for one in finalists((0, 1)) if one.network == network})
            extractor = mv.CNNDescriptors(
                network, NETWORKS[network][1][-1], weights=weights, scales=scale, dtype=given.dtype,
                store=given.store, output="store", progress=True,
            )  # fmt: skip
            extract_layers(extractor, paths, layers)


def drawn(train, data):
    """Return training images of patients drawn at random, MOST_INSIDE at most."""
    if len(train) <= MOST_INSIDE:
        return train
    patients = np.unique(data.groups[train])
    order = np.random.default_rng(0).permutation(len(patients))
    rank = order[np.searchsorted(patients, data.groups[train])]
    fits = np.sort(rank)[MOST_INSIDE - 1]
    return train[rank < fits]


def inside(_, one, descriptors, data):
    """Return the scores of the inner folds and the chosen C, for the training part of each outer fold."""
    scores, penalties = [], []
    for train, _ in parts_of(data, FOLDS, 0):
        train = drawn(train, data)
        found = inner_folds(
            descriptors.take(train),
            data.labels[train],
            data.groups_of(train),
            one.encoder(),
            svm(),
            PENALTIES,
        )
        scores.append([round(float(score), 6) for score in found.scores])
        penalties.append(found.penalty)
    return {"folds": scores, "C": penalties}


def test(n_seeds, name, one, descriptors, data):
    """Return the metrics of the test images, and their values over the seeds if there is a codebook."""
    (known,) = (row for row in read()["inside"] if row["set"] == name and candidate_of(row) == one)
    by_seed = []
    for seed in range(n_seeds if one.has_codebook else 1):
        decided = predicted(descriptors, data, one.encoder(seed), known["C"])
        by_seed.append(held_out_metrics(data, decided, adapt_threshold=has_two_class_test(data)))
    row = {metric: by_seed[0][metric] for metric in (*_KEPT, *(f"{metric}_ci95" for metric in _KEPT))}
    if by_seed[0].get("adapted"):
        row["adapted"] = {metric: by_seed[0]["adapted"].get(metric) for metric in _KEPT}
    if len(by_seed) > 1:
        row["over_seeds"] = {metric: [found[metric] for found in by_seed] for metric in _KEPT}
    return rounded(row)


def predicted(descriptors, data, encoder, penalties):
    """Return held-out predictions, with the C that was chosen inside the training images of each fold."""
    decision = np.full((len(data.labels), len(data.class_names)), np.nan)
    fitted = []
    for (train, tested), C in zip(parts_of(data, FOLDS, 0), penalties, strict=True):
        fold = FittedFold(train, tested, clone(encoder), svm(C))
        x_train, x_test = fold.encode(descriptors.take(train), descriptors.take(tested), Stopwatch())
        fold.head.fit(x_train, data.labels[train])
        decision[tested] = decision_columns(fold.head.decision_function(x_test))
        fitted.append(fold)
    rows = np.concatenate([fold.test for fold in fitted])
    return HeldOut(
        tested=rows, fitted=fitted, protocol="", seconds={}, decision=decision[rows], probability=None,
        penalties=list(penalties), inner_balanced_accuracy=None,
    )  # fmt: skip


def rounded(value):
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return round(value, 6) if isinstance(value, float) else value


def speed(given):
    """Measure images per second from files to vectors: three rounds over the first images of a folder."""
    paths = load(given, *given.sets[0]).paths[: given.images]
    candidates = all_finalists()
    rounds = {one: [] for one in candidates}
    ready = {}
    for one in candidates:
        network = mv.CNNDescriptors(
            one.network, one.layer, weights=NETWORKS[one.network][0], scales=one.scales, dtype=given.dtype
        )
        ready[one] = network, clone(one.encoder()).fit(network.fit(paths).transform(paths))
    for _ in range(3):
        for one, (network, encoder) in ready.items():
            start = time.perf_counter()
            vectors = encoder.transform(network.transform(paths))
            rounds[one].append(len(paths) / (time.perf_counter() - start))
            assert len(vectors) == len(paths)
            assert np.isfinite(vectors).all()
    for one, rates in rounds.items():
        keep("speed", given, asdict(one) | {"images_per_second": [round(rate, 2) for rate in rates]})


# --------------------------------------------------------------------------------------- choosing


def inside_scores(one):
    """Return the scores of the inner folds by set; without a test part, the means for the outer folds."""
    rows = [row for row in read()["inside"] if candidate_of(row) == one]
    found = {
        row["set"]: np.array(row["folds"][0] if len(row["folds"]) == 1 else np.mean(row["folds"], axis=1))
        for row in rows
    }
    if sorted(found) != sorted(SETS):
        sys.exit(f"{one} was not measured inside all of {', '.join(SETS)}: run `inside` first")
    return found


def mean_score(scores):
    return float(np.mean([one.mean() for one in scores.values()]))


def as_good(candidates):
    """Return the candidates within one standard error of the best, in the given order."""
    scores = {one: inside_scores(one) for one in candidates}
    best = max(scores.values(), key=mean_score)
    return [one for one, own in scores.items() if _short_of(best, own) <= _error(best, own)]


def _short_of(best, own):
    return mean_score(best) - mean_score(own)


def _error(best, own):
    """The standard error of the difference of two scores, whose folds are the same."""
    variances = [(best[name] - own[name]).var(ddof=1) / len(own[name]) for name in own]
    return float(np.sqrt(np.sum(variances))) / len(variances)


def chosen_layers():
    """Return the candidates at scale 0 with the layer that the rule chooses."""
    return [
        as_good([Candidate(network, layer, encoding, (0,)) for layer in layers])[0]
        for network, (_, layers) in NETWORKS.items()
        for encoding in ENCODINGS
    ]


def finalists(scales):
    """Return the candidates whose test images are predicted.

    At scale 0: those of `chosen_layers`, with the better one of the two VLADs of each network. At scales 0
    and 1: the same without Fisher vectors, and VGG16 cut at block5_pool only. Its earlier maps are four times
    as large, and would take hours.
    """
    found = chosen_layers()
    if scales != (0,):
        found = [one for one in found if not one.encoding.startswith("Fisher")]
        found = [one if one.network != "vgg16" else replace(one, layer="block5_pool") for one in found]
    for network in NETWORKS:
        vlads = [one for one in found if one.network == network and one.encoding.startswith("VLAD")]
        found.remove(min(vlads, key=lambda one: mean_score(inside_scores(one))))
    return [replace(one, scales=scales) for one in found]


def all_finalists():
    return [one for scales in SCALES for one in finalists(scales)]


def choose():
    """Return the chosen layers, and the presets by name."""
    rates = {candidate_of(row): float(np.median(row["images_per_second"])) for row in read()["speed"]}
    layers = chosen_layers()
    every = [one for one in all_finalists() if one.encoding.startswith(("average", "VLAD"))]
    every.sort(key=lambda one: -rates[one])
    quick = [one for one in every if rates[one] >= rates[every[0]] / 2]
    return layers, {"best": as_good(every)[0], "fast": as_good(quick)[0]}


def settings_of(one):
    """Return the settings of a preset that `choose` finds, as in medvlad.encoders.recipe."""
    name, settings = ENCODINGS[one.encoding]
    network = {"model": one.network, "layer": one.layer, "weights": NETWORKS[one.network][0]}
    return network | {"encode": name, "scales": one.scales} | settings


def check(presets):
    """End with a message if the package has other presets."""
    for name, one in presets.items():
        wanted = settings_of(one) | COMMON
        differing = {
            field: wanted.get(field)
            for field in wanted.keys() | PRESETS[name].keys()
            if PRESETS[name].get(field) != wanted.get(field)
        }
        if differing:
            sys.exit(f"preset {name!r} of the package is not the chosen one: {differing}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("inside", "scales", "test", "speed", "choose"))
    parser.add_argument("sets", nargs="*", type=lambda text: text.rpartition("=")[::2], metavar="SET=DIR")
    parser.add_argument("--store")
    parser.add_argument("--image-root", help="folder of the images that a table names")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=10, help="number of codebooks of the step test")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("medvlad").setLevel(logging.WARNING)
    if given.step == "inside":
        extract(given, 0)
        measure("inside", given, all_candidates((0,)), inside)
    elif given.step == "scales":
        extract(given, 1)
        measure("inside", given, finalists((0, 1)), inside)
    elif given.step == "test":
        measure("test", given, all_finalists(), partial(test, given.seeds))
    elif given.step == "speed":
        speed(given)
    else:
        layers, presets = choose()
        for one in layers:
            print(f"{one.network}, {one.encoding}: {one.layer}")  # noqa: T201
        for name, one in presets.items():
            print(f"preset {name}: {settings_of(one)}")  # noqa: T201
        if given.check:
            check(presets)


if __name__ == "__main__":
    main()
