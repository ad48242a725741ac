"""Time the public calls beside the fastest rival of each, in about five minutes: `make bench-quick`.

    python benchmarks/quick.py -o RESULTS.json [--parts encode,assign,kmeans,extract,svm] [--rounds N]
        [--fits N]

Every result is checked against the specification. Implementations take turns in every round, each in its own
process (interleave.py), except those of the SVM, which share one. The limits of the machine are measured in
the same run. The rivals are those that were fastest in full runs (`make bench`), if they are installed. The
tables are those of docs/speed_tables.py, which also fills the README from RESULTS.json. With `--parts`, the
results of other parts in RESULTS.json are kept. With `--fits 16`, medvlad and scikit-learn fit k-means from
16 seeds each, which shows the spread of their inertias; that takes about a quarter of an hour.

The exit status is 1 if a public call takes more than 1.1 times as long as its kernel.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import clustering
import machine
import measure_networks as networks
import numpy as np
import problems
import svm_cases
from interleave import Missing, Processes
from measure import check, check_over_kernel, information, measure
from networks import BASE, FAST_FILES, NETWORKS, PRODUCT
from problems import Case
from rivals import CORE_TYPE, FRESH, KERNEL, OWN, RIVALS

from medvlad._util.validate import check_n_threads

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
from speed_bars import bars
from speed_tables import disturbed_words, limits_table, quick_table

#: Cases of encoding: made rows of each kind, and real ones if the images are there.
ENCODE = [
    Case("synthetic", 49, 64),
    Case("synthetic", 729, 256),
    *(Case(data, n, 256) for data in ("dense", "clustered") for n in (289, 729)),
    *(Case("rooms", n, k) for n, k in ((289, 256), (729, 64), (729, 256))),
]
ASSIGN = [Case(data, 1, 256) for data in ("sparse", "dense", "clustered")]
ENCODERS = (OWN, KERNEL, FRESH, "numba", "torch", "sgemm", f"sgemm, {CORE_TYPE}")
ASSIGNERS = (OWN, KERNEL, "torch", "superkmeans", "sgemm", f"sgemm, {CORE_TYPE}")
#: Name -> number of fits with different seeds. Slow libraries fit once.
KMEANS = {
    OWN: 2,
    "scikit-learn": 1,
    f"faiss, {CORE_TYPE}": 1,
    "faiss": 1,
    "superkmeans": 1,
    "scikit-learn-intelex": 1,
}
KMEANS_ROWS, KMEANS_K, KMEANS_STEPS = 200_000, 256, 10
#: Name -> number of images of a call.
NETWORK_IMAGES = {
    PRODUCT: 1,
    BASE: 8,
    "openvino bfloat16": 16,
    "medvlad bfloat16": 16,
    "medvlad bfloat16, 224-pixel JPEGs": 48,
    f"medvlad bfloat16, {FAST_FILES}": 48,
    "medvlad int8, 224-pixel JPEGs": 48,
    f"medvlad int8, {FAST_FILES}": 48,
}
NETWORK_ROUNDS, SVM_ROUNDS = 3, 3
#: Disturbed measurements are counted, but not repeated: that takes too long. `make bench` repeats them.
RETRIES = 0
IMAGES_OF_A_TEST = 3


class Run:
    """The results so far, and what all parts need."""

    def __init__(self, rounds, small, fits=None):
        self.rounds, self.small = rounds, small
        self.fits = KMEANS | (dict.fromkeys((OWN, "scikit-learn"), fits) if fits else {})
        self.n_threads = check_n_threads(None)
        self.results, self.slow, self.left_out = [], [], {}

    def add(self, kind, seconds, fields):
        """Keep a result with five numbers of its seconds."""
        q = np.quantile(seconds, [0, 0.25, 0.5, 0.75, 1]).tolist() if len(seconds) else [0.0] * 5
        numbers = dict(zip(("min", "q1", "median", "q3", "max"), q, strict=True))
        self.results.append({"kind": kind, **fields, "seconds": numbers | {"rounds": len(seconds)}})

    def leave_out(self, name, reason):
        if name not in self.left_out:
            say(f"  {name} is left out: {reason}")
        self.left_out[name] = str(reason)


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def encode_and_assign(run, task):
    """Encode or assign all cases with all implementations in turn."""
    cases, names = (ENCODE, ENCODERS) if task == "encode" else (ASSIGN, ASSIGNERS)
    processes = Processes()
    try:
        for case in cases:
            try:
                problem = problems.make(case, IMAGES_OF_A_TEST if run.small else None)
            except problems.Unavailable as reason:
                run.leave_out(case.data, reason)
                continue
            found = measure(processes, problem, names, run.n_threads, run.rounds, task=task, retries=RETRIES)
            del problem
            for name in names:
                if isinstance(found.by_name[name], Missing):
                    # The tuned library is not needed if the plain one has the same core type.
                    if name not in RIVALS or RIVALS[name].tuned is None:
                        run.leave_out(name, found.by_name[name])
                    continue
                check(found, name)
                measured = found.by_name[name]
                fields = information(found, name, measured, case.n, case.k, case.data, run.n_threads, task)
                run.add(task, measured.seconds, fields)
            try:
                check_over_kernel(found)
            except AssertionError as slow:
                run.slow.append(f"{task}, {case}: {slow}")
            say(f"  {task}, {case}")
    finally:
        processes.close()


def kmeans(run):
    """Fit k-means with seeding. All implementations fit the first seed before any fits the second."""
    n_rows, k = (2000, 8) if run.small else (KMEANS_ROWS, KMEANS_K)
    processes = Processes()
    found = {name: clustering.Fits([], [], 0, {}) for name in run.fits}
    try:
        x = problems.clustered_descriptors(n_rows, n_prototypes=max(n_rows // 200, 10))
        with processes.problem(x, None, None) as folder:
            del x
            for seed in range(max(run.fits.values())):
                for name, n_fits in run.fits.items():
                    if name == "faiss" and not isinstance(found[f"faiss, {CORE_TYPE}"], Missing):
                        found[name] = Missing(f"with core type {CORE_TYPE} it is faster")
                    if seed < n_fits and not isinstance(found[name], Missing):
                        found[name] = clustering.fit(
                            processes, folder, found[name], name, False, KMEANS_STEPS, k, seed, run.n_threads
                        )
                        say(f"  k-means, {name}")
    finally:
        processes.close()
    for name, fits in found.items():
        if isinstance(fits, Missing):
            if not name.startswith("faiss,"):
                run.leave_out(name, fits)
            continue
        # Another start may end in another minimum. A far worse one would be a different computation.
        assert np.mean(fits.inertia) <= 1.5 * np.mean(found[OWN].inertia), name
        fields = clustering.information(name, fits, "total", k, n_rows, KMEANS_STEPS, run.n_threads)
        run.add("kmeans", [seconds["total"] for seconds in fits.seconds], fields)


def extract(run):
    """Extract descriptors of VGG19 at 224 pixels from memory and from files."""
    processes = Processes(NETWORKS, "network_worker.py")
    # A test cannot build the full VGG19, which CNNDescriptors needs.
    names = [name for name in NETWORK_IMAGES if not (run.small and NETWORKS[name].public)]
    images = {name: 2 if run.small else NETWORK_IMAGES[name] for name in names}
    rounds = min(run.rounds, NETWORK_ROUNDS)
    try:
        networks.write_inputs(processes.folder, 0, networks.SMALL_BLOCKS if run.small else networks.BLOCKS)
        found, _ = networks.measure_group(processes, names, 0, run.n_threads, rounds, images, retries=RETRIES)
    finally:
        processes.close()
    for name in names:
        if isinstance(found[name], Missing):
            run.leave_out(name, found[name])
            continue
        assert found[name].difference <= networks.largest_difference(name), name
        fields = networks.information(name, found[name], 0, run.n_threads)
        run.add("extract", found[name].seconds, fields)


def svm(run):
    """Fit the linear SVM in turn with all implementations, and prove every solution by its duality gap."""
    case = svm_cases.SvmCase(60, 500) if run.small else svm_cases.SMALL
    x, y = svm_cases.make(case)
    fits = {name: [] for name in svm_cases.IMPLEMENTATIONS}
    svm_cases.warm_up()
    for r in range(1 if run.small else SVM_ROUNDS):
        for name, so_far in fits.items():
            if r == 0 or name in svm_cases.EXACT:  # scikit-learn takes ten times as long
                so_far.append(svm_cases.fit(name, x, y))
    for name, found in fits.items():
        gap = max(one.gap for one in found)
        assert gap <= (svm_cases.GAP if name in svm_cases.EXACT else 1e-2), name
        fields = {"implementation": name, "n": case.n, "d": case.d, "classes": case.classes}
        fields |= {"threads": run.n_threads, "gap": gap, "told_gap": found[-1].told_gap}
        run.add("svm", [one.seconds for one in found], fields)


PARTS = {
    "encode": lambda run: encode_and_assign(run, "encode"),
    "assign": lambda run: encode_and_assign(run, "assign"),
    "kmeans": kmeans,
    "extract": extract,
    "svm": svm,
}


#: What must be equal if the results of other parts are kept.
SAME = ("processor", "level", "versions")


def measured(parts, rounds, small, before=None, fits=None):
    """Run the parts. Return the content of the result file, and which public calls are too slow."""
    run, took = Run(rounds, small, fits), {}
    begin = time.perf_counter()
    try:
        limits = machine.limits([run.n_threads], quick=small)
    except machine.NoCompiler as reason:
        limits = None
        run.leave_out("limits of the machine", reason)
    took["limits"] = time.perf_counter() - begin
    for part in parts:
        say(f"{part}:")
        begin = time.perf_counter()
        PARTS[part](run)
        took[part] = time.perf_counter() - begin
    kept = [result for result in (before or {"results": []})["results"] if result["kind"] not in parts]
    told = machine.describe() | {"limits": limits, "left_out": run.left_out}
    told["part_seconds"] = {name: round(seconds, 1) for name, seconds in took.items()}
    if before:
        told["left_out"] = before["machine"]["left_out"] | run.left_out
        told["part_seconds"] = before["machine"]["part_seconds"] | told["part_seconds"]
    return {"machine": told, "results": kept + run.results}, run.slow


def summary(found):
    """Return what is printed: the machine and its limits, the table, and the bars."""
    told = found["machine"]
    lines = [
        f"\n{told['processor']}, {told['processors']} processors; level of the C++ core: {told['level']}",
        f"matrix tiles (AMX): {machine.why_no_amx(told['limits']) or 'measured'}\n",
        limits_table(found),
        quick_table(found),
        bars(found),
    ]
    seconds = ", ".join(f"{part} {took:.0f}" for part, took in told["part_seconds"].items())
    return (
        "\n".join(lines)
        + f"\n{disturbed_words(found)}\nseconds: {seconds}; together {sum(told['part_seconds'].values()):.0f}"
    )


def main(arguments=None):
    """Measure, print the tables, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--parts", default=",".join(PARTS), help="parts to run (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fits", type=int, help="seeds of k-means for medvlad and scikit-learn (2 and 1)")
    parser.add_argument("--small", action="store_true", help="small problems, which test this program")
    parsed = parser.parse_args(arguments)
    parts = parsed.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"no part is called {unknown[0]!r}: use some of {', '.join(PARTS)}")
    before = None
    if set(parts) != set(PARTS) and parsed.output.exists():
        before = json.loads(parsed.output.read_text(encoding="utf-8"))
        differing = [key for key in SAME if before["machine"].get(key) != machine.describe()[key]]
        if differing:
            parser.error(f"{parsed.output} has another {differing[0]}: name another file, or run all parts")
    found, slow = measured(parts, parsed.rounds, parsed.small, before, parsed.fits)
    parsed.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    say(summary(found))
    for line in slow:
        say(f"TOO SLOW: {line}")
    return int(bool(slow) and not parsed.small)


if __name__ == "__main__":
    sys.exit(main())
