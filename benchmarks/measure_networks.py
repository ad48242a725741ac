"""Measurement and checks of VGG19's descriptors, shared by test_extract.py and quick.py.

The weights are random, which does not affect the time. Rivals get preprocessed pixels in memory. "medvlad" is
CNNDescriptors.transform of images in memory, "network alone" its engine on preprocessed pixels, and "JPEGs"
all of medvlad's extraction: hashing, decoding, resizing, network and store.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import NamedTuple

import numpy as np
from interleave import RETRIES, Missing, interleaved
from networks import BASE, FAST_FILES, NETWORKS, PRODUCT
from networks.sgemm_network import SIZE

from medvlad.extraction.cnn_descriptors import input_side

#: Number of convolutions of VGG19's blocks, and their channels; and of a small network, for tests.
BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
SMALL_BLOCKS = ((1, 16), (1, 32), (1, 64))
#: Largest allowed distance from Keras' maps, relative to their norm.
DIFFERENCE = {"float32": 1e-5, "bfloat16": 2e-2, "int8": 0.2}
#: The same for fast decoding, which changes the pixels.
FAST_DIFFERENCE = 0.5
#: The two standards for comparison.
STANDARDS = (PRODUCT, BASE)


class Extracted(NamedTuple):
    """Results of one implementation."""

    seconds: list[float]
    disturbed: int
    images: int
    flop: int
    standards: dict[str, float]
    """Operations a second of the standards, measured in the same rounds."""
    difference: float
    versions: dict[str, str]


def write_inputs(folder, scale, blocks=BLOCKS):
    """Write the weights of the network, and pixels for one scale."""
    np.savez(folder / "layers.npz", *layers(blocks))
    side = input_side(scale)
    pixels = np.random.default_rng(scale).uniform(-120, 130, (2, side, side, 3)).astype(np.float32)
    np.save(folder / f"pixels{side}.npy", pixels)


def measure_group(processes, names, scale, n_threads, n_rounds, images, base=None, retries=RETRIES):
    """Run implementations in turn and compare their maps with those of `BASE`, or of the first one.

    `images` is the number of images of a call, {name: number}. Returns {name: Extracted or Missing} and the
    maps for comparison. Two processes start at a time: they import large libraries with one thread each. The
    threads that start them stay until the end, because a process ends with the thread that started it
    (worker.die_with_parent).
    """
    with ThreadPoolExecutor(2) as pool:
        return _measure_group(pool, processes, names, scale, n_threads, n_rounds, images, base, retries)


def _measure_group(pool, processes, names, scale, n_threads, n_rounds, images, base, retries):
    folder, missing = processes.folder, {}

    def start(name):
        try:
            process = processes.get(name, n_threads)
            settings = {"images": images[name], "settings": NETWORKS[name].settings}
            told = process.ask("load", folder=str(folder), side=input_side(scale), **settings)
            if "absent" in told:
                raise Missing(told["absent"])
            return process
        except Missing as reason:
            missing[name] = reason
            return None

    running = [process for process in pool.map(start, names) if process]
    seconds, disturbed = interleaved(running, n_rounds, retries)
    flop = {name: images[name] * operations(input_side(scale)) for name in names}
    flop[PRODUCT] = 2 * SIZE**3
    standards = {name: flop[name] / median(seconds[name]) for name in STANDARDS if seconds.get(name)}
    found = {}
    for process in running:
        name = process.name
        difference = process.ask("result", folder=str(folder)).get("difference")
        if difference is None:
            maps = np.load(folder / "maps.npy")
            base = maps if base is None else base
            assert base.any()
            difference = float(np.linalg.norm(maps - base) / np.linalg.norm(base))
        found[name] = Extracted(
            seconds[name],
            disturbed[name],
            images[name],
            flop[name],
            standards,
            difference,
            process.hello["versions"],
        )
        processes.forget(name, n_threads)
    return found | missing, base


def information(name, found, scale, n_threads):
    """Return the fields of a measurement in the result file, except its seconds."""
    way = NETWORKS[name]
    return {
        "implementation": name,
        "dtype": way.dtype,
        "whole": way.whole,
        "scale": scale,
        "images": found.images,
        "flop": found.flop,
        "standards": found.standards,
        "threads": n_threads,
        "difference": found.difference,
        "disturbed_rounds": found.disturbed,
        "versions": found.versions,
    }


def largest_difference(name):
    """Return the largest allowed distance of an implementation from Keras' maps."""
    return FAST_DIFFERENCE if name.endswith(FAST_FILES) else DIFFERENCE[NETWORKS[name].dtype]


def layers(blocks):
    """Return kernels and biases in turn, and an empty array for pooling. The scale keeps numbers in range."""
    rng = np.random.default_rng(0)
    arrays, before = [], 3
    for count, width in blocks:
        for _ in range(count):
            kernel = rng.standard_normal((3, 3, before, width)) * np.sqrt(2 / (9 * before))
            arrays += [kernel.astype(np.float32), np.full(width, 0.05, np.float32)]
            before = width
        arrays += [np.zeros((0,)), np.zeros((0,))]
    return arrays


def operations(side):
    """Return the operations for one image: a multiplication and an addition for each weight and place."""
    flop, before = 0, 3
    for count, width in BLOCKS:
        for _ in range(count):
            flop += 2 * 9 * before * width * side * side
            before = width
        side //= 2
    return flop
