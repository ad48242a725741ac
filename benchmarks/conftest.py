"""What the benchmarks share: the problems they time, and a table of rates at the end of a run."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest


@pytest.fixture(scope="session")
def problem():
    """Make descriptors like block5_pool's: 512 numbers, not negative, about a quarter of them not zero."""

    def make(n, k, n_rows=12_000):
        rng = np.random.default_rng(0)
        n_images = n_rows // n
        x = np.maximum(rng.normal(-0.64, 1, (n_images * n, 512)), 0).astype(np.float32)
        centers = x[rng.choice(len(x), k, replace=False)].copy()
        return x, np.arange(n_images + 1, dtype=np.int64) * n, centers

    return make


def pytest_terminal_summary(terminalreporter, config):
    """Print images/s and GFLOP/s (assignment only: 2 N K D) with the spread, and the ratio to reference."""
    session = getattr(config, "_benchmarksession", None)
    groups = defaultdict(list)
    for bench in getattr(session, "benchmarks", ()):
        if not bench.has_error and bench.stats.rounds > 0:
            groups[bench.group].append(bench)
    for group, benches in groups.items():
        terminalreporter.write_line("")
        terminalreporter.write_line(f"{group}: median of n runs (fastest to slowest)")
        slowest = max(bench.stats.median for bench in benches)
        for bench in sorted(benches, key=lambda b: b.stats.median):
            stats, info = bench.stats, bench.extra_info
            gflops = info["flop"] / 1e9
            terminalreporter.write_line(
                f"  {info['implementation']:<12} {info['images'] / stats.median:10.0f} images/s "
                f"{gflops / stats.median:8.1f} GFLOP/s ({gflops / stats.max:.1f} to {gflops / stats.min:.1f})"
                f"   {slowest / stats.median:6.1f} x the slowest   n = {stats.rounds}"
            )
