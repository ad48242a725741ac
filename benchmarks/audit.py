"""Measure how well the audit finds wrong labels and leaks that were planted in real images.

    python benchmarks/audit.py labels SET=DIR ... --model efficientnet-lite2 --weights bundled --store FOLDER
    python benchmarks/audit.py leaks SET=DIR ...  --model efficientnet-lite2 --weights bundled --store FOLDER

labels: a share of the labels is changed to another class, at random, 10 times. The table has the AUROC of
"this label was changed" by suspicion, and by self-confidence on the same folds (confident learning, Northcutt
2021): the probability of an image's own class by logistic regression. If cleanlab is installed, it computes
that score. Otherwise this file does.

leaks: copies of 200 images are cut, turned, mirrored and saved again. The table has the share of copies that
are found, if ten of them are among the images. A pair of different known patients that is found is a false
alarm, unless it is a copy. --show FOLDER writes these pairs as pictures.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from medvlad import CNNDescriptors, load_image_folder
from medvlad.audit.alignment import SAME_SCENE, align_pairs, details
from medvlad.audit.changes import changes_of_copies
from medvlad.audit.descriptor_pairs import UNCERTAIN, nearest_pairs, window_means
from medvlad.audit.images import read_facts
from medvlad.audit.label_errors import label_scores
from medvlad.evaluation.folds import stratified_folds

try:
    from cleanlab.rank import get_label_quality_scores
except ImportError:
    get_label_quality_scores = None

SEED, REPEATS, COPIES, AT_A_TIME = 0, 10, 200, 10
MOST = 2000  # images of a set that labels are changed in


def _say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def network_of(parsed, store=None):
    return CNNDescriptors(
        parsed.model,
        parsed.layer,
        weights=parsed.weights,
        dtype=parsed.dtype,
        store=store,
        output="store" if store else "host",
    )


def mean_descriptors(network, paths):
    """Return the mean descriptors of the images, of the whole map first."""
    return window_means(network.fit(paths).transform(paths), network.grids_)


def units_of(data):
    return np.unique(data.groups if data.groups is not None else np.arange(len(data)), return_inverse=True)[1]


# -------------------------------------------------------------------------------------------- labels


def measure_labels(parsed):
    _say("| images | changed | n | suspicion | margin | neighbours | self-confidence |")
    _say("|---|---|---|---|---|---|---|")
    for name, folder in parsed.sets:
        data = load_image_folder(folder)
        kept = np.arange(len(data)) if data.splits is None else np.flatnonzero(data.splits == "train")
        rng = np.random.default_rng(SEED)
        if len(kept) > MOST:
            units = units_of(data)
            kept = kept[np.isin(units[kept], rng.permutation(units[kept])[:MOST])][:MOST]
        data = data.take(kept)
        x, units = mean_descriptors(network_of(parsed, parsed.store), data.paths)[0], units_of(data)
        for share in (0.01, 0.05, 0.10):
            rows = [
                _planted(x, data.labels, units, share, np.random.default_rng([SEED, k]))
                for k in range(REPEATS)
            ]
            means = " | ".join(f"{np.mean(column):.3f}" for column in zip(*rows, strict=True))
            _say(f"| {name} | {share:.0%} | {len(data)} | {means} |")


def _planted(x, labels, units, share, rng):
    """Return the AUROC of each score after a share of the labels was changed."""
    labels, n_classes = labels.copy(), int(labels.max()) + 1
    changed = np.zeros(len(labels), bool)
    changed[rng.choice(len(labels), max(1, round(share * len(labels))), replace=False)] = True
    labels[changed] = (labels[changed] + rng.integers(1, n_classes, changed.sum())) % n_classes
    scores = label_scores(x, labels, units, SEED)
    quality = self_confidence(x, labels, units)
    ranked = (scores.suspicion, -scores.margin, -scores.neighbours, -quality)
    return [roc_auc_score(changed, score) for score in ranked]


def self_confidence(x, labels, units):
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    x = x - x.mean(axis=0)  # the same minimum, which the solver reaches in fewer steps
    probability = np.zeros((len(x), labels.max() + 1))
    for train, test in stratified_folds(labels, units, 5, SEED):
        regression = LogisticRegression(C=100.0, max_iter=1000, tol=1e-3).fit(x[train], labels[train])
        probability[test] = regression.predict_proba(x[test])
    if get_label_quality_scores is None:
        return probability[np.arange(len(labels)), labels]
    return get_label_quality_scores(labels, probability, method="self_confidence")


# --------------------------------------------------------------------------------------------- leaks


def cut(image, rng, most):
    left, top, right, bottom = rng.uniform(0, most, 4)
    w, h = image.size
    return image.crop((round(left * w), round(top * h), round((1 - right) * w), round((1 - bottom) * h)))


def tones(image, rng):
    gamma, gain = rng.uniform(0.6, 1.6), rng.uniform(0.85, 1.15)
    return image.point([min(255, round(255 * gain * (v / 255) ** gamma)) for v in range(256)] * 3)


def saved_again(image, rng):
    small = image.resize([max(64, round(side * rng.uniform(0.5, 1))) for side in image.size], Image.BILINEAR)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=int(rng.integers(20, 70)))
    return Image.open(buffer).convert("RGB")


def next_frame(image, rng):
    """Move, turn and zoom by a few percent, and add blur and noise, as a moving camera does."""
    w, h = image.size
    angle, zoom = np.deg2rad(rng.uniform(-4, 4)), rng.uniform(0.94, 1.06)
    a, b = np.cos(angle) / zoom, np.sin(angle) / zoom
    x, y = w * (0.5 + rng.uniform(-0.06, 0.06)), h * (0.5 + rng.uniform(-0.06, 0.06))
    moved = image.transform(
        image.size,
        Image.AFFINE,
        (a, -b, x - a * w / 2 + b * h / 2, b, a, y - b * w / 2 - a * h / 2),
        Image.BICUBIC,
    )
    moved = moved.crop((round(0.1 * w), round(0.1 * h), round(0.9 * w), round(0.9 * h)))
    blurred = np.asarray(moved.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1)))).astype(float)
    noisy = blurred * rng.uniform(0.9, 1.1) + rng.normal(0, 4, blurred.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def everything(image, rng):
    image = cut(image, rng, 0.08)
    image = image.transpose(Image.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image
    return saved_again(tones(image, rng), rng)


CHANGES = {
    "cut by up to 15 % a side": lambda image, rng: cut(image, rng, 0.15),
    "mirrored, cut by up to 5 %": lambda image, rng: cut(image, rng, 0.05).transpose(Image.FLIP_LEFT_RIGHT),
    "gamma 0.6 to 1.6": tones,
    "smaller, JPEG 20 to 70": saved_again,
    "next frame": next_frame,
    "cut 8 %, mirrored, gamma, JPEG": everything,
}


def pictures_of(paths):
    return np.stack([one.fine for one in read_facts(paths, fine=True)])


def measure_leaks(parsed):
    for name, folder in parsed.sets:
        data = load_image_folder(folder)
        network, detail = network_of(parsed, parsed.store), details(pictures_of(data.paths))
        x = mean_descriptors(network, data.paths)
        changes = changes_of_copies(network, data.paths, x, SEED)
        pairs = nearest_pairs(x, changes)
        correlation, _ = align_pairs(detail, pairs, n_threads=2)
        _say(f"{name}: {len(data)} images, {len(pairs)} candidates")
        if data.groups is not None:
            _false_alarms(parsed, name, data, pairs, correlation)
        rng = np.random.default_rng(SEED)
        chosen = np.sort(rng.choice(len(data), min(COPIES, len(data)), replace=False))
        for change, function in CHANGES.items():
            with tempfile.TemporaryDirectory() as temporary:
                paths = []
                for i in chosen:
                    image = Image.open(data.paths[i]).convert("RGB")
                    paths.append(Path(temporary) / f"{i}.png")
                    function(image, rng).save(paths[-1])
                copies, copied = mean_descriptors(network_of(parsed), paths), details(pictures_of(paths))
            n = len(data)
            own = np.column_stack([chosen, n + np.arange(len(chosen))])
            candidate = _proposed(x, copies, changes, chosen)
            value, _ = align_pairs(np.concatenate([detail, copied], axis=1), own, n_threads=2)
            found = candidate & (value >= SAME_SCENE)
            low, high = exact_interval(int(found.sum()), len(found))
            _say(
                f"| {name} | {change} | {candidate.mean():.3f} | {(value >= SAME_SCENE).mean():.3f} | "
                f"{found.mean():.3f} ({low:.3f} to {high:.3f}) | {np.quantile(value, 0.01):.2f} |"
            )


def _proposed(x, copies, changes, originals):
    """Return which copies are proposed together with their original, if few copies are among the images."""
    n, found = len(x[0]), []
    for some in np.array_split(np.arange(len(originals)), -(-len(originals) // AT_A_TIME)):
        both = [np.concatenate([mean, copy[some]]) for mean, copy in zip(x, copies, strict=True)]
        near = {tuple(pair) for pair in nearest_pairs(both, changes).tolist()}
        found += [(original, n + k) in near for k, original in enumerate(originals[some].tolist())]
    return np.array(found)


def _false_alarms(parsed, name, data, pairs, correlation):
    different = data.groups[pairs[:, 0]] != data.groups[pairs[:, 1]]
    for least in (UNCERTAIN, 0.7, 0.75, SAME_SCENE, 0.85, 0.9):
        _say(
            f"  correlation >= {least}: {(correlation >= least).sum()} pairs, "
            f"{((correlation >= least) & different).sum()} of different patients"
        )
    if parsed.show:
        Path(parsed.show).mkdir(parents=True, exist_ok=True)
        chosen = np.flatnonzero(different & (correlation >= UNCERTAIN))
        for rank, k in enumerate(chosen[np.argsort(-correlation[chosen])][:200]):
            both = Image.new("RGB", (450, 224))
            for side, i in enumerate(pairs[k]):
                both.paste(Image.open(data.paths[i]).convert("RGB").resize((224, 224)), (226 * side, 0))
            both.save(Path(parsed.show) / f"{name}_{rank:03d}_{correlation[k]:.3f}.png")


def exact_interval(k, n):
    low = 0.0 if k == 0 else beta.ppf(0.025, k, n - k + 1)
    return low, 1.0 if k == n else beta.ppf(0.975, k + 1, n - k)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["labels", "leaks"])
    parser.add_argument("sets", nargs="+", type=lambda text: text.split("=", 1), metavar="SET=DIR")
    parser.add_argument("--model", default="efficientnet-lite2")
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--layer")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--store")
    parser.add_argument("--show", metavar="FOLDER")
    parsed = parser.parse_args()
    (measure_labels if parsed.what == "labels" else measure_leaks)(parsed)


if __name__ == "__main__":
    main()
