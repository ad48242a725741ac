"""Simulate a data set from the store to the model in bounded memory, and say where the time goes.

    python benchmarks/scale_million.py --images 1000000 --folder FOLDER

Images are synthetic: 49 descriptors of 512 numbers, of which 13 % are not zero. Each stage is a process of
its own, and prints one JSON line: seconds, images per second, bytes, and the peak of the resident memory.

    create      write the store (about 16 KB an image)
    open        open the store and list its images
    codebook    k-means with 64 centres on the default subsample
    components  PCA to 1,024 by blocks, on at most --sample training images, encoded at each pass
    project     encode all images, project them, and write a file
    svm         linear SVM of 10 classes on nine images of ten, by passes, and the accuracy of the others

A stage whose line is in FOLDER/NAME.json is not repeated, so a killed run goes on with the stage that it was
in, and `create` with the images that are missing. The exit status is 1 if a stage used more memory than
allowed, or if the model is wrong: the classes are planted so that some, but not all, held-out images can be
classified.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scale import Keys, peak

ROWS, WIDTH, NON_ZERO, CLASSES = 49, 512, 0.13, 10
CENTRES, REDUCED = 64, 1024
TOPICS, POOL, BLOCK = 96, 9600, 1024
STAGES = ("create", "open", "codebook", "components", "project", "svm")
BYTES_AN_IMAGE = 160  # lists of images, and space to sort them; see docs/scale.md
LIBRARIES = 200 << 20
MEMORY = "2 GiB"


class Images:
    """Synthetic images, made from a pool of descriptors: an image chooses 49, and gives each a gain.

    A descriptor belongs to a topic. An image has the topics of its class, or any.
    """

    def __init__(self):
        rng = np.random.default_rng(0)
        topics = rng.gamma(0.35, 1.0, (TOPICS, WIDTH))
        kept = np.quantile(topics, 1 - NON_ZERO, axis=1, keepdims=True)
        topics = np.where(topics > kept, topics, 0.0)
        pool = np.repeat(topics, POOL // TOPICS, axis=0)
        pool = np.where(rng.random(pool.shape) < 0.7, pool, rng.permuted(pool, axis=1))
        self.pool = (pool * rng.gamma(4.0, 0.25, pool.shape)).astype(np.float32)
        self.by_class = np.cumsum(rng.dirichlet(np.full(TOPICS, 3.0), CLASSES), axis=1)

    def labels(self, n_images):
        return np.random.default_rng(1).integers(0, CLASSES, n_images)

    def block(self, number, labels):
        """Yield the descriptors of the images of a block."""
        rng = np.random.default_rng((2, number))
        own = rng.random((len(labels), ROWS))
        topics = np.stack(
            [np.searchsorted(self.by_class[k], row) for k, row in zip(labels, own, strict=True)]
        )
        anything = rng.random((len(labels), ROWS)) < 0.5
        topics = np.where(anything, rng.integers(0, TOPICS, topics.shape), np.minimum(topics, TOPICS - 1))
        members = topics * (POOL // TOPICS) + rng.integers(0, POOL // TOPICS, topics.shape)
        gains = rng.uniform(0.5, 1.5, members.shape).astype(np.float32)
        for chosen, gain in zip(members, gains, strict=True):
            yield self.pool[chosen] * gain[:, None]


def create(given):
    from medvlad.store.store import DescriptorStore

    images, keys = Images(), Keys(given.images)
    labels = images.labels(given.images)
    section = DescriptorStore(given.folder / "store").section({"made by": "benchmarks/scale_million.py"})
    with section.writer() as writer:
        for start in range(0, given.images, BLOCK):
            own = range(start, min(start + BLOCK, given.images))
            if all(keys[i] in section for i in own):
                continue
            for i, values in zip(own, images.block(start // BLOCK, labels[own]), strict=True):
                writer.add(keys[i], values)
    share = float((images.pool != 0).mean())
    assert abs(share - NON_ZERO) < 0.01, share
    return {"bytes": section.n_bytes(), "non_zero": round(share, 4)}, 0


def stored_images(given):
    from medvlad.store.store import DescriptorStore
    from medvlad.store.stored_descriptors import StoredDescriptors

    (section,) = DescriptorStore(given.folder / "store").sections()
    return StoredDescriptors(section, Keys(given.images))


def open_store(given):
    stored = stored_images(given)
    assert len(stored) == given.images
    return {"bytes": 0}, 0


def n_train(given):
    return given.images - given.images // 10


def pipeline(given, *names):
    """Return the steps that `--encode vlad64 --reduce 1024` has. Those before `names` are fitted."""
    from medvlad.encoders.recipe import Recipe

    steps = Recipe(reduce=REDUCED).encoder(f"vlad{CENTRES}", random_state=0)
    for name in names:
        with np.load(given.folder / f"{name}.npz") as file:
            for attribute in file.files:
                value = file[attribute]
                setattr(steps.named_steps[name], attribute, value if value.ndim else value.item())
    return steps


def save(given, name, step, *attributes):
    np.savez(
        given.folder / f"{name}.npz", **{attribute: getattr(step, attribute) for attribute in attributes}
    )


def codebook(given):
    stored = stored_images(given)[: n_train(given)]
    vlad = pipeline(given).named_steps["encode"].fit(stored)
    save(given, "encode", vlad, "cluster_centers_", "n_features_in_", "n_iter_")
    sample = min(vlad.max_samples, int(stored.offsets[-1]))
    return {"bytes": 0, "steps": vlad.n_iter_, "sample": sample}, sample * WIDTH * 4


def components(given):
    from medvlad.encoders.block_pca import memory_of_components
    from medvlad.encoders.row_blocks import EncodedVectors

    stored, steps = stored_images(given), pipeline(given, "encode")
    n = min(n_train(given), given.sample)
    chosen = np.sort(np.random.default_rng(3).choice(n_train(given), n, replace=False))
    vectors = EncodedVectors(steps.named_steps["encode"], stored.take(chosen))
    pca = steps.named_steps["reduce"].fit_blocks(vectors)
    save(
        given, "reduce", pca,
        "components_", "mean_", "explained_variance_", "explained_variance_ratio_", "singular_values_",
        "n_features_in_", "n_components_",
    )  # fmt: skip
    kept = float(pca.explained_variance_ratio_.sum())
    assert 0.2 < kept < 1, kept
    assert (np.diff(pca.explained_variance_) <= 0).all()
    left = float(pca.noise_variance_ * (min(n, vectors.shape[1]) - REDUCED) * (n - 1)) ** 0.5
    return {
        "images": n, "bytes": 0, "passes": pca.n_passes_, "variance_kept": round(kept, 4),
        "largest_singular_value": float(pca.singular_values_[0]),
        "smallest_singular_value": float(pca.singular_values_[-1]),
        "bound_on_what_is_left": pca.error_bound_, "norm_of_what_is_left": left,
    }, memory_of_components(*vectors.shape, REDUCED)  # fmt: skip


def project(given):
    from medvlad.evaluation.encoded import encoded_blocks
    from medvlad.store.vector_file import new_vector_file

    stored, steps = stored_images(given), pipeline(given, "encode", "reduce")
    path, n_done = given.folder / "reduced.npy", 0
    with new_vector_file(path, given.images, REDUCED) as write:
        for indices, rows in encoded_blocks(steps, stored):
            write(indices, rows)
            n_done += len(rows)
            if n_done // 50_000 > (n_done - len(rows)) // 50_000:
                logging.info("%d images are projected", n_done)
    return {"bytes": path.stat().st_size}, (256 << 20) + 3 * 4 * REDUCED * CENTRES * WIDTH


def svm(given):
    from medvlad import WideLinearSVC
    from medvlad.svm.pass_solver import memory_of_passes

    n, labels = n_train(given), Images().labels(given.images)
    vectors = np.load(given.folder / "reduced.npy", mmap_mode="r")
    model = WideLinearSVC(solver="passes", memory=MEMORY, checkpoint=given.folder / "svm.state")
    begin = time.perf_counter()
    model.fit(vectors[:n], labels[:n])
    seconds = time.perf_counter() - begin
    right = 0
    for start in range(n, given.images, 4096):
        right += int((model.predict(np.array(vectors[start : start + 4096])) == labels[start:][:4096]).sum())
    accuracy = right / (given.images - n)
    assert 3 / CLASSES < accuracy < 0.999, accuracy
    assert model.dual_gap_ <= model.tol
    return {
        "images": n, "bytes": n * REDUCED * 4 * model.n_passes_, "passes": model.n_passes_,
        "gap": model.dual_gap_, "held_out_accuracy": round(accuracy, 4), "seconds_fit": round(seconds, 1),
    }, memory_of_passes(n, REDUCED, CLASSES, os.cpu_count())  # fmt: skip


def run_stage(given):
    """Run a stage in this process, and keep its line. Return the exit status."""
    begin, used = time.perf_counter(), time.process_time()
    function = open_store if given.stage == "open" else globals()[given.stage]
    found, allowed = function(given)
    seconds, images = time.perf_counter() - begin, found.get("images", given.images)
    allowed += LIBRARIES + BYTES_AN_IMAGE * given.images
    line = {
        "stage": given.stage, "images": images, "seconds": round(seconds, 1),
        "seconds_of_processors": round(time.process_time() - used, 1),
        "images_per_second": round(images / seconds), **found,
        "peak_mib": peak() >> 20, "allowed_mib": allowed >> 20, "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    if peak() > allowed:
        print(json.dumps(line))  # noqa: T201
        return 1
    kept(given, given.stage).write_text(json.dumps(line) + "\n")
    return 0


def kept(given, stage):
    return given.folder / f"{stage}.json"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, required=True, help="folder on a large disk")
    parser.add_argument("--sample", type=int, default=100_000, help="number of images for the components")
    parser.add_argument("--verbose", action="store_true", help="print what each pass does")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if given.stage:
        return run_stage(given)
    given.folder.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        if not kept(given, stage).exists():
            command = [sys.executable, *sys.argv, "--stage", stage]
            if status := subprocess.run(command, check=False).returncode:
                return status
        print(kept(given, stage).read_text(), end="", flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
