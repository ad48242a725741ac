"""Compare the speed of the working tree with that of another commit.

    python benchmarks/compare.py BASE [--rounds N] [--only TEXT]         the command of `make bench-compare`

Both versions are built. Three processes take turns, and only one runs at a time (interleave.py): base, head,
and base again. The second base shows how much two runs of the same code differ here. For each case, with the
seconds b_r, h_r and t_r of round r:

    d_r = log(h_r / b_r),   e_r = log(t_r / b_r)
    band = 99 % quantile of |median of e redrawn|, at least 2 %          noise of this run, by bootstrap
    head is slower if the 1 % quantile of (median of d redrawn) > band

So head is reported as slower only if the noise of the same minutes cannot explain the difference. The exit
status is 1 if any case is slower. If head computes other results than base, the run ends with an error.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from compare_worker import CASES
from interleave import Processes, interleaved
from rivals import Rival

ROOT = Path(__file__).parents[1]
LEAST_BAND = 0.02
DRAWS = 2000


class Verdict(NamedTuple):
    """The result of one case. Ratios are the seconds of head divided by those of base."""

    ratio: float
    low: float
    high: float
    band: float

    @property
    def slower(self):
        return self.low > 1 + self.band


def verdict(base, head, twin, seed=0):
    """Compare the seconds of the same rounds."""
    b, h, t = (np.log(np.asarray(seconds)) for seconds in (base, head, twin))
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(b), size=(DRAWS, len(b)))
    noise = np.abs(np.median((t - b)[rows], axis=1))
    change = np.median((h - b)[rows], axis=1)
    band = max(LEAST_BAND, math.expm1(float(np.quantile(noise, 0.99))))
    low, high = np.exp(np.quantile(change, [0.01, 0.99]))
    return Verdict(float(np.exp(np.median(h - b))), float(low), float(high), band)


def build(source, target):
    """Build the package in `source` and copy it to the folder `target`."""
    with tempfile.TemporaryDirectory() as wheels:
        pip = [sys.executable, "-m", "pip", "--quiet"]
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", wheels, str(source)], check=True)
        (wheel,) = Path(wheels).glob("*.whl")
        subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)


def compare(sites, rounds, only=""):
    """Return the verdict of each case for the packages in the folders `sites` (base, head)."""
    with tempfile.TemporaryDirectory(prefix="medvlad-compare-") as folder:  # of the workers' files
        return _compare([{"PYTHONPATH": str(site), "TMPDIR": folder} for site in sites], rounds, only)


def _compare(environments, rounds, only):
    base, head = environments
    rivals = {"base": Rival("", base), "head": Rival("", head), "base again": Rival("", base)}
    processes = Processes(rivals, "compare_worker.py")
    found = {}
    try:
        running = [processes.get(name, 2) for name in rivals]
        for case in CASES:
            if only not in case:
                continue
            told = [process.ask("load", case=case) for process in running]
            if any("absent" in answer for answer in told):
                sys.stdout.write(f"{case}: left out, {told[0].get('absent') or told[1].get('absent')}\n")
                continue
            digests = np.array([process.ask("result")["numbers"] for process in running])
            np.testing.assert_allclose(digests[1], digests[0], rtol=1e-4, atol=1e-6, err_msg=case)
            seconds, disturbed = interleaved(running, rounds)
            found[case] = verdict(*(seconds[name] for name in rivals))
            v = found[case]
            sys.stdout.write(
                f"{case}: {v.ratio:.3f} ({v.low:.3f} to {v.high:.3f}) of base's seconds, noise {v.band:.1%}, "
                f"{sum(disturbed.values())} of {3 * rounds} rounds disturbed"
                f"{': SLOWER' if v.slower else ''}\n"
            )
            sys.stdout.flush()
    finally:
        processes.close()
    return found


def main(arguments=None):
    """Build both versions and compare them. Return 1 if head is slower."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="commit, tag or branch; with --sites, the folder of the built package")
    parser.add_argument("--sites", metavar="HEAD", type=Path, help="folder of the built package to compare")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--only", default="", help="run only cases whose name contains this text")
    parsed = parser.parse_args(arguments)
    if parsed.sites:
        found = compare((Path(parsed.base), parsed.sites), parsed.rounds, parsed.only)
        return int(any(v.slower for v in found.values()))
    with tempfile.TemporaryDirectory() as folder:
        tree, base, head = (Path(folder) / name for name in ("tree", "base", "head"))
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), parsed.base], check=True)
        try:
            build(tree, base)
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
        build(ROOT, head)
        found = compare((base, head), parsed.rounds, parsed.only)
    return int(any(v.slower for v in found.values()))


if __name__ == "__main__":
    sys.exit(main())
