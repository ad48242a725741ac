"""Extraction: VGG19 up to block5_pool by all implementations in turn, and from JPEG files to a store.

measure_networks.py says what is timed.
"""

from __future__ import annotations

import pytest
from interleave import Missing
from measure import replay, replayed_time
from measure_networks import (
    BLOCKS,
    SMALL_BLOCKS,
    STANDARDS,
    information,
    largest_difference,
    measure_group,
    write_inputs,
)
from networks import BASE, NETWORKS

from medvlad.extraction.cnn_descriptors import input_side

pytestmark = pytest.mark.benchmark(timer=replayed_time)

#: Number of images of a call, by scale: in memory, and for extraction from files.
IMAGES, FILES = (8, 4, 2), (128, 24, 8)
#: Number of images for Keras' predict: a batch of 8 at every scale.
BASE_IMAGES = 8
#: Number of rounds, by scale.
ROUNDS = (5, 3, 3)
#: Number of other processes at a time.
GROUP = 6


@pytest.fixture(scope="session")
def extracted(request, network_processes, timing, n_rounds):
    """Measure a scale once in a session, with the networks selected for this session."""
    found = {}

    def names_of(scale, n_threads):
        wanted = [getattr(item, "callspec", None) for item in request.session.items]
        asked = {
            one.params.get("network")
            for one in wanted
            if one and one.params.get("scale") == scale and one.params.get("n_threads") == n_threads
        }
        return [name for name in NETWORKS if name in asked]

    def n_images(name, scale):
        if not timing:
            return 2
        return BASE_IMAGES if name == BASE else (FILES if NETWORKS[name].whole else IMAGES)[scale]

    def measure(scale, n_threads):
        """Measure in groups, because memory is too small for all. Each group includes the two standards."""
        write_inputs(network_processes.folder, scale, BLOCKS if timing else SMALL_BLOCKS)
        names = [name for name in names_of(scale, n_threads) if name not in STANDARDS]
        by_name, base = {}, None
        if not timing:  # the full VGG19
            reason = Missing(
                "CNNDescriptors is timed here; tests/extraction/test_cnn_descriptors.py tests it"
            )
            by_name = {name: reason for name in names if NETWORKS[name].public}
            names = [name for name in names if name not in by_name]
        for at in range(0, max(len(names), 1), GROUP):
            group = [*STANDARDS, *names[at : at + GROUP]]
            images = {name: n_images(name, scale) for name in group}
            rounds = min(n_rounds, ROUNDS[scale])
            part, base = measure_group(network_processes, group, scale, n_threads, rounds, images, base)
            by_name |= part
        return by_name

    def get(scale, n_threads):
        if (scale, n_threads) not in found:
            found[scale, n_threads] = measure(scale, n_threads)
        return found[scale, n_threads]

    return get


@pytest.mark.parametrize("network", NETWORKS, ids=lambda name: name.replace(",", "").replace(" ", "_"))
@pytest.mark.parametrize("scale", [0, 1, 2])
def test_extract(benchmark, extracted, timing, scale, network, n_threads):
    if scale and not timing:
        pytest.skip("larger images are timed, not tested")
    found = extracted(scale, n_threads)[network]
    if isinstance(found, Missing):
        pytest.skip(f"{network}: {found}")
    assert found.difference <= largest_difference(network)
    benchmark.group = f"extract, VGG19 block5_pool, {input_side(scale)} pixels, {n_threads} threads"
    benchmark.extra_info.update(kind="extract", **information(network, found, scale, n_threads))
    replay(benchmark, found.seconds)
