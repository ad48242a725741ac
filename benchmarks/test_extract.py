"""Extraction: VGG19 up to block5_pool by all implementations in turn, and from JPEG files to a store.

The weights are random, which does not affect the time. Rivals get preprocessed pixels in memory. "JPEGs" is
all of medvlad's extraction: hashing, decoding, resizing, network and store.
"""

from __future__ import annotations

from statistics import median
from typing import NamedTuple

import numpy as np
import pytest
from interleave import Missing, interleaved
from measure import replay, replayed_time
from networks import BASE, NETWORKS, PRODUCT
from networks.sgemm_network import SIZE

from medvlad.extraction.cnn_descriptors import input_side

pytestmark = pytest.mark.benchmark(timer=replayed_time)

#: Number of convolutions of VGG19's blocks, and their channels.
BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
#: Number of images of a call, by scale: for a network, and for extraction from files.
IMAGES, FILES = (8, 4, 2), (128, 24, 8)
#: Number of images for Keras' predict: a batch of 8 at every scale.
BASE_IMAGES = 8
#: Largest allowed distance from Keras' maps, relative to their norm.
DIFFERENCE = {"float32": 1e-5, "bfloat16": 2e-2, "int8": 0.2}
#: Number of rounds, by scale.
ROUNDS = (5, 3, 3)
#: The two standards for comparison, and the number of other processes at a time.
STANDARDS, GROUP = (PRODUCT, BASE), 6


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


@pytest.fixture(scope="session")
def extracted(request, network_processes, timing, n_rounds):
    """Measure a scale once in a session, with the networks selected for this session."""
    found = {}
    folder = network_processes.folder
    blocks = BLOCKS if timing else ((1, 16), (1, 32), (1, 64))
    np.savez(folder / "layers.npz", *_layers(blocks))

    def names_of(scale, n_threads):
        wanted = [getattr(item, "callspec", None) for item in request.session.items]
        asked = {
            one.params.get("network")
            for one in wanted
            if one and one.params.get("scale") == scale and one.params.get("n_threads") == n_threads
        }
        return [name for name in NETWORKS if name in asked]

    def measure(scale, n_threads):
        """Measure in groups, because memory is too small for all. Each group includes the two standards."""
        side = input_side(scale)
        rng = np.random.default_rng(scale)
        np.save(folder / f"pixels{side}.npy", rng.uniform(-120, 130, (2, side, side, 3)).astype(np.float32))
        names = [name for name in names_of(scale, n_threads) if name not in STANDARDS]
        by_name, base = {}, None
        for at in range(0, max(len(names), 1), GROUP):
            group, base = measure_group([*STANDARDS, *names[at : at + GROUP]], scale, n_threads, base)
            by_name |= group
        return by_name

    def measure_group(names, scale, n_threads, base):
        running, images, missing = [], {}, {}
        for name in names:
            way = NETWORKS[name]
            images[name] = (FILES if way.whole else IMAGES)[scale] if timing else 2
            if timing and name == BASE:
                images[name] = BASE_IMAGES
            if way.whole and not timing:  # the full VGG19
                missing[name] = Missing(
                    "the whole way is timed here; tests/extraction/test_cnn_descriptors.py tests it"
                )
                continue
            try:
                process = network_processes.get(name, n_threads)
                settings = {"images": images[name], "settings": way.settings}
                process.ask("load", folder=str(folder), side=input_side(scale), **settings)
                running.append(process)
            except Missing as reason:
                missing[name] = reason
        seconds, disturbed = interleaved(running, min(n_rounds, ROUNDS[scale]))
        flop = {name: images[name] * operations(input_side(scale)) for name in images}
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
            network_processes.forget(name, n_threads)
        return found | missing, base

    def get(scale, n_threads):
        if (scale, n_threads) not in found:
            found[scale, n_threads] = measure(scale, n_threads)
        return found[scale, n_threads]

    return get


def _layers(blocks):
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


@pytest.mark.parametrize("network", NETWORKS, ids=lambda name: name.replace(",", "").replace(" ", "_"))
@pytest.mark.parametrize("scale", [0, 1, 2])
def test_extract(benchmark, extracted, timing, scale, network, n_threads):
    if scale and not timing:
        pytest.skip("larger images are timed, not tested")
    found = extracted(scale, n_threads)[network]
    if isinstance(found, Missing):
        pytest.skip(f"{network}: {found}")
    assert found.difference <= DIFFERENCE[NETWORKS[network].dtype]
    benchmark.group = f"extract, VGG19 block5_pool, {input_side(scale)} pixels, {n_threads} threads"
    benchmark.extra_info.update(
        kind="extract",
        implementation=network,
        dtype=NETWORKS[network].dtype,
        whole=NETWORKS[network].whole,
        scale=scale,
        images=found.images,
        flop=found.flop,
        standards=found.standards,
        threads=n_threads,
        difference=found.difference,
        disturbed_rounds=found.disturbed,
        versions=found.versions,
    )
    replay(benchmark, found.seconds)
