"""Options and fixtures of the benchmarks, and a table of rates at the end of a run."""

from __future__ import annotations

from collections import defaultdict

import machine
import pytest
from interleave import Processes
from networks import NETWORKS, PRODUCT
from rivals import RIVALS

from medvlad._util.validate import check_n_threads


def pytest_addoption(parser):
    group = parser.getgroup("medvlad benchmarks")
    group.addoption(
        "--threads", default="all", help="numbers of threads, such as 1,2 (default: all processors)"
    )
    group.addoption("--rounds", type=int, default=7, help="number of rounds of each encoding")
    group.addoption("--kmeans-rows", type=int, default=200_000, help="number of descriptors for k-means")


def pytest_generate_tests(metafunc):
    if "n_threads" in metafunc.fixturenames:
        words = metafunc.config.getoption("--threads").split(",")
        threads = sorted({check_n_threads(None if word == "all" else int(word)) for word in words})
        metafunc.parametrize("n_threads", threads, ids=lambda t: f"threads{t}")
    if "implementation" in metafunc.fixturenames and not hasattr(metafunc.function, "implementations"):
        metafunc.parametrize("implementation", RIVALS, ids=identifier)


def identifier(name):
    """Return the name of an implementation for use in the name of a test."""
    return name.replace(",", "").replace(" ", "_")


@pytest.fixture(scope="session")
def processes():
    """The processes of the implementations. They end with the session."""
    running = Processes()
    yield running
    running.close()


@pytest.fixture(scope="session")
def network_processes():
    """The processes of the implementations of a network. They end with the session."""
    running = Processes(NETWORKS, "network_worker.py")
    yield running
    running.close()


@pytest.fixture(scope="session")
def timing(request):
    """Whether anything is timed. With --benchmark-disable, only results of small problems are checked."""
    return not request.config.getoption("benchmark_disable")


@pytest.fixture(scope="session")
def n_rounds(request, timing):
    return request.config.getoption("--rounds") if timing else 0


@pytest.fixture(scope="session")
def measured_cases():
    """Cases measured in this session."""
    return {}


def pytest_benchmark_update_json(config, output_json):
    """Add a description of the machine, without its name or folders."""
    output_json["machine"] = machine.describe() | {"limits": config.stash.get(machine.LIMITS, None)}
    output_json["machine_info"] = {}
    output_json["commit_info"] = {}
    for bench in output_json["benchmarks"]:
        bench["options"] = {}


def pytest_terminal_summary(terminalreporter, config):
    """Print GFLOP/s (assignment only: 2 N K D) with their spread, and the ratio to the slowest."""
    session = getattr(config, "_benchmarksession", None)
    groups = defaultdict(list)
    for bench in getattr(session, "benchmarks", ()):
        if not bench.has_error and bench.stats.rounds > 0 and "flop" in bench.extra_info:
            groups[bench.group].append(bench)
    for group, benches in groups.items():
        terminalreporter.write_line("")
        terminalreporter.write_line(f"{group}: median (slowest to fastest) of n rounds")
        if benches[0].extra_info["kind"] == "extract":
            for line in extraction_lines(benches):
                terminalreporter.write_line(line)
            continue
        slowest = max(bench.stats.median for bench in benches)
        for bench in sorted(benches, key=lambda b: b.stats.median):
            stats, info = bench.stats, bench.extra_info
            gflop = info["flop"] / 1e9
            terminalreporter.write_line(
                f"  {info['implementation']:<22} {info['images'] / stats.median:10.0f} images/s "
                f"{gflop / stats.median:8.1f} GFLOP/s ({gflop / stats.max:.1f} to {gflop / stats.min:.1f})"
                f"   {slowest / stats.median:6.1f} x the slowest   n = {stats.rounds}"
            )


def extraction_lines(benches):
    """Yield lines of images/s and of the rate relative to a matrix product and to Keras' predict."""
    for bench in sorted(benches, key=lambda b: -b.extra_info["flop"] / b.stats.median):
        info, stats = bench.extra_info, bench.stats
        name, images, rate = info["implementation"], info["images"], info["flop"] / stats.median
        speed = (
            f"{images / stats.median:7.2f} ({images / stats.max:.2f} to {images / stats.min:.2f}) images/s"
        )
        shares = [f"{rate / 1e9:6.0f} GFLOP/s"]
        shares += [f"{rate / other:5.2f} x {standard}" for standard, other in info["standards"].items()]
        yield f"  {name:<36} {speed if name != PRODUCT else '':<34} {'  '.join(shares)}   n = {stats.rounds}"
