"""Write a Markdown report of benchmark results, and a trimmed copy of the results for publication.

    python benchmarks/report.py RESULTS.json -o REPORT.md [--trim TRIMMED.json]
    python benchmarks/report.py RESULTS.json --gpu FOLDER      write both, named after the GPU

RESULTS.json is written by ``pytest benchmarks --benchmark-json=RESULTS.json``, or is a trimmed copy of it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from statistics import fmean

from networks import BASE, PRODUCT
from rivals import CORE_TYPE, KERNEL, OURS, OWN, PARTS, RIVALS

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
from speed_tables import in_words, share_of_bandwidth

_KEPT = ("min", "q1", "median", "q3", "max", "rounds")


def trim(results):
    """Return the results without host name and folders, with five numbers for each benchmark's seconds."""
    if "results" in results:
        return results
    benchmarks = [
        bench["extra_info"] | {"seconds": {key: bench["stats"][key] for key in _KEPT}}
        for bench in results["benchmarks"]
        if "kind" in bench["extra_info"]
    ]
    return {"machine": results.get("machine") or {}, "results": benchmarks}


def report(trimmed):
    """Return the report as text."""
    machine, results = trimmed["machine"], trimmed["results"]
    sections = ["# Benchmarks", *_machine(machine)]
    for kind, title in (
        ("encode", "Encoding into an array that is there"),
        ("fresh", "Encoding into new arrays"),
        ("assign", "Assignment alone"),
    ):
        sections += _encoding(_of(results, kind), title, machine.get("limits") or {})
    sections += _latency(_of(results, "latency"))
    sections += _kmeans(_of(results, "kmeans"))
    sections += _svm(_of(results, "svm"))
    sections += _gpu(_of(results, "gpu"))
    sections += _extract(_of(results, "extract"))
    sections += _share(_of(results, "extraction"), _of(results, "encode"))
    return "\n\n".join(sections) + "\n"


def _of(results, kind):
    return [result for result in results if result["kind"] == kind]


def _values(results, *keys):
    """Return the different values of some fields, in the order of their first appearance."""
    return list(dict.fromkeys(tuple(result[key] for key in keys) for result in results))


def _table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _spread(seconds, scale=1.0, digits=1):
    """Return the median of a time with its extremes, or the median alone if there was one round."""
    middle, low, high = (f"{scale * seconds[key]:,.{digits}f}" for key in ("median", "min", "max"))
    return f"{middle} ({low} to {high})" if seconds["rounds"] > 1 else middle


def _rate(result):
    """Return GFLOP/s of the median round, the slowest and the fastest round."""
    gflop, seconds = result["flop"] / 1e9, result["seconds"]
    middle, low, high = (f"{gflop / seconds[key]:.1f}" for key in ("median", "max", "min"))
    return f"{middle} ({low} to {high})" if seconds["rounds"] > 1 else middle


def _gflops(result):
    return result["flop"] / 1e9 / result["seconds"]["median"]


def _own(results):
    """Return the name of the public call, or of its kernel if a file of an earlier version has no other."""
    return OWN if any(result["implementation"] == OWN for result in results) else KERNEL


def _names(results):
    """Return the implementations in the results, in the order of the table of rivals."""
    there = _values(results, "implementation")
    known = [name for name in RIVALS if (name,) in there]
    return known + [name for (name,) in there if name not in RIVALS]


def _machine(machine):
    if not machine:
        return []
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    load = ", ".join(map(str, machine["load_average"]))
    yield (
        f"{machine['processor']}, {machine['processors']} processors for this process, {machine['system']}, "
        f"Python {machine['python']}, {machine['date']}, load average at the end {load}. {versions}."
    )
    limits = machine.get("limits") or {}
    if not limits:
        yield "The machine's limits were not measured."
        return
    columns = {
        "fma_float32_gflops": "float32 multiply-add, GFLOP/s",
        "dot_bfloat16_gflops": "bfloat16 dot, GFLOP/s",
        "amx_bfloat16_gflops": "bfloat16 tiles (AMX), GFLOP/s",
        "read_gb_s": "read, GB/s",
        "write_gb_s": "write, GB/s",
        "write_streaming_gb_s": "streaming write, GB/s",
    }
    yield "What the machine can do at most, measured in the same run:"
    yield _table(
        ["Threads", "Instructions", *columns.values()],
        [
            [threads, rates["instructions"], *(rates.get(key, "-") for key in columns)]
            for threads, rates in limits.items()
        ],
    )


def _encoding(results, title, limits):
    if not results:
        return
    yield f"## {title}"
    yield (
        "GFLOP/s, counting assignment's 2 N K D only while everything is timed: median (slowest to fastest "
        f"round). {OWN} is the public call, {KERNEL} its C++ core without checks, {PARTS[0]} assignment's "
        f"product alone. Names with {CORE_TYPE} ran with that OpenBLAS core type, the others with the one "
        "that OpenBLAS chose. The share of the bandwidth is the least time to read all rows and to write the "
        "result, over the time of the call."
    )
    yield from _disturbed(results)
    own = _own(results)
    for data, threads in _values(results, "data", "threads"):
        some = [result for result in results if (result["data"], result["threads"]) == (data, threads)]
        names = _names(some)
        rates, ratios = [], []
        for n, k in _values(some, "n", "k"):
            by_name = {r["implementation"]: r for r in some if (r["n"], r["k"]) == (n, k)}
            rates.append([n, k, *(_rate(by_name[name]) if name in by_name else "-" for name in names)])
            ratios.append([n, k, *_ratios(by_name, limits.get(str(threads)), own)])
        yield f"### {data}, threads: {threads}"
        yield _table(["n an image", "K", *names], rates)
        header = [f"{own} / {name}" for name in ("fastest rival", "sgemm", f"sgemm, {CORE_TYPE}", "FMA peak")]
        header = ["n an image", "K", *header, f"seconds / {KERNEL}", "share of bandwidth"]
        told = [i for i in range(len(header)) if any(line[i] != "-" for line in ratios)]
        yield _table([header[i] for i in told], [[line[i] for i in told] for line in ratios])


def _disturbed(results):
    """Yield the number of disturbed measurements, if there are any."""
    disturbed = sum(result.get("disturbed_rounds", 0) for result in results)
    if disturbed:
        rounds = sum(result["seconds"]["rounds"] for result in results)
        yield f"Other programs were busy during {disturbed} of {rounds} measurements."


def _ratios(by_name, limits, name):
    """Return the rate of `name` relative to rival, product (both core types) and peak; and its costs.

    The costs are its seconds relative to its kernel's, and the share of the memory bandwidth that it reaches.
    """
    if name not in by_name:
        return ["-"] * 6
    own = by_name[name]
    rivals = {name: _gflops(r) for name, r in by_name.items() if name not in (*OURS, *PARTS)}
    best = max(rivals, key=rivals.get, default=None)
    products = [by_name.get(name) for name in ("sgemm", f"sgemm, {CORE_TYPE}")]
    default = products[0]
    if default and products[1] is None and set(default["core_types"]) == {CORE_TYPE}:
        products[1] = default
    return [
        f"{_gflops(own) / rivals[best]:.2f} ({best})" if best else "-",
        *(f"{_gflops(own) / _gflops(product):.2f}" if product else "-" for product in products),
        f"{_gflops(own) / limits['fma_float32_gflops']:.2f}" if limits else "-",
        f"{own['over_kernel']:.2f}" if "over_kernel" in own else "-",
        f"{share_of_bandwidth(own, limits):.2f}" if limits and "read_bytes" in own else "-",
    ]


def _svm(results):
    if not results:
        return
    yield "## The linear SVM"
    yield (
        "float32 rows unless said otherwise, C = 1. The gap is the largest relative duality gap of any "
        "class, computed in float64 from the coefficients. dual_gap_ is what the estimator says itself."
    )
    rows = []
    for r in results:
        told = "-" if r.get("told_gap") is None else f"{r['told_gap']:.1e}"
        size = f"{r['n']:,} x {r['d']:,}"
        seconds = _spread(r["seconds"], digits=2)
        rows.append([size, r["classes"], in_words(r["implementation"]), seconds, f"{r['gap']:.1e}", told])
    yield _table(["Rows x columns", "Classes", "Implementation", "Seconds", "Gap", "dual_gap_"], rows)


def _gpu(results):
    if not results:
        return
    limits = results[0]["limits"]
    yield "## Encoding on a GPU"
    products = ", ".join(
        f"{limits[key] / 1e3:.0f} TFLOP/s {name}"
        for key, name in (("tf32_gflops", "in tf32"), ("float32_gflops", "in float32"))
        if key in limits
    )
    copied = f"{limits['copy_gb_s']:,.0f} GB/s"
    yield (
        f"{limits['name']}: copies {copied} (read and written), multiplies {products}, "
        "measured in the same run. Input and output are on the device; the bound is what reading descriptors "
        "and writing vectors once takes at that rate, or the assignment's product, whichever is longer."
    )
    names = [name for (name,) in _values(results, "implementation")]
    rows = []
    for n, k in _values(results, "n", "k"):
        by_name = {r["implementation"]: r for r in results if (r["n"], r["k"]) == (n, k)}
        rates = [_images_a_second(by_name[name]) if name in by_name else "-" for name in names]
        rows.append([n, k, *rates, *_gpu_ratios(by_name, limits)])
    yield _table(
        [
            "n an image",
            "K",
            *(f"{name}, images/ms" for name in names),
            "bound / medvlad",
            "medvlad / best rival",
        ],
        rows,
    )


def _images_a_second(result):
    seconds = result["seconds"]
    middle, low, high = (f"{result['images'] / 1e3 / seconds[key]:,.1f}" for key in ("median", "max", "min"))
    return f"{middle} ({low} to {high})"


def _gpu_ratios(by_name, limits):
    """Return the share of the bound that medvlad reaches, and its speed relative to the fastest other."""
    if "medvlad" not in by_name:
        return ["-", "-"]
    own = by_name["medvlad"]
    rate = limits.get("tf32_gflops") or limits["float32_gflops"]
    bound = max(own["bytes"] / 1e9 / limits["copy_gb_s"], own["flop"] / 1e9 / rate)
    others = {name: r["seconds"]["median"] for name, r in by_name.items() if name != "medvlad"}
    best = min(others, key=others.get, default=None)
    seconds = own["seconds"]["median"]
    return [f"{bound / seconds:.2f}", f"{others[best] / seconds:.2f} ({best})" if best else "-"]


def _latency(results):
    if not results:
        return
    names = _names(results)
    yield "## One image alone"
    yield "Microseconds a call: median (fastest to slowest round)."
    yield from _disturbed(results)
    rows = []
    for n, k, threads in _values(results, "n", "k", "threads"):
        by_name = {
            r["implementation"]: _spread(r["seconds"], 1e6)
            for r in results
            if (r["n"], r["k"], r["threads"]) == (n, k, threads)
        }
        rows.append([n, k, threads, *(by_name.get(name, "-") for name in names)])
    yield _table(["Descriptors", "K", "Threads", *names], rows)


def _kmeans(results):
    if not results:
        return
    yield "## k-means"
    yield (
        "Seconds, median (fastest to slowest) over the seeds. The inertia is "
        "computed in float64 the same way for all and given relative to medvlad's mean."
    )
    yield from _disturbed(results)
    rows = []
    for key in _values(results, "rows", "k", "threads"):
        some = [r for r in results if (r["rows"], r["k"], r["threads"]) == key]
        scale = next((fmean(r["inertia"]) for r in some if r["implementation"] == OWN), None)
        for (name,) in _values(some, "implementation"):
            by_phase = {r["phase"]: r for r in some if r["implementation"] == name}
            inertia = next(iter(by_phase.values()))["inertia"]
            seconds = [
                _spread(by_phase[phase]["seconds"], digits=2) if phase in by_phase else "-"
                for phase in ("total", "seeding", "lloyd")
            ]
            reached = ", ".join(f"{i / scale:.4f}" if scale else f"{i:.6g}" for i in inertia)
            steps = next(iter(by_phase.values()))["iterations"]
            rows.append([*key, name, steps, *seconds, reached])
    header = [
        "Rows",
        "K",
        "Threads",
        "Implementation",
        "Steps",
        "Whole",
        "Seeding",
        "Lloyd",
        "Inertia, each seed",
    ]
    yield _table(header, rows)


def _extract(results):
    if not results:
        return
    yield "## Extraction"
    yield (
        "VGG19 up to block5_pool. Images/s, median (slowest to fastest round), and the multiplications "
        "and additions that this stands for, counted as 3x3 convolutions, over those of a matrix "
        f"product ({PRODUCT}) in the same run. JPEGs: the whole way from files to the store; the others get "
        "preprocessed pixels in memory. Difference: of the maps from those of Keras, over their length."
    )
    yield from _disturbed(results)
    for threads, scale in _values(results, "threads", "scale"):
        some = [r for r in results if (r["threads"], r["scale"]) == (threads, scale)]
        rates = {r["implementation"]: r["flop"] / r["seconds"]["median"] for r in some}
        rows = []
        for result in sorted(some, key=lambda r: -rates[r["implementation"]]):
            name = result["implementation"]
            images = result["images"]
            speeds = (f"{images / result['seconds'][key]:.2f}" for key in ("median", "max", "min"))
            shown = "-" if name == PRODUCT else "{} ({} to {})".format(*speeds)
            beside = result["standards"]
            shares = [f"{rates[name] / beside[s]:.2f}" if s in beside else "-" for s in (PRODUCT, BASE)]
            rows.append([name, shown, f"{rates[name] / 1e9:.0f}", *shares, f"{result['difference']:.1e}"])
        yield f"### {224 + 320 * scale} pixels, threads: {threads}"
        header = ["", "Images/s", "GFLOP/s", f"over {PRODUCT}", f"over {BASE}", "Difference"]
        yield _table(header, rows)


def _share(extraction, encoding):
    if not extraction:
        return
    extracted = extraction[0]["seconds"]["median"]
    yield "## The whole way from an image"
    yield f"{extraction[0]['implementation']}: {1e3 * extracted:.1f} ms an image. Beside it, encoding:"
    rows = []
    for result in encoding:
        if result["implementation"] == _own(encoding) and result["n"] == 49:
            encoded = result["seconds"]["median"] / result["images"]
            share = encoded / (encoded + extracted)
            label = [result["data"], result["k"], result["threads"]]
            rows.append([*label, f"{1e3 * encoded:.4f}", f"{100 * share:.3f} %"])
    yield _table(["Descriptors", "K", "Threads", "Encoding, ms an image", "Share of encoding"], rows)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="Markdown file to write")
    parser.add_argument("--trim", type=Path, help="JSON file to write, trimmed for publication")
    parser.add_argument("--gpu", type=Path, metavar="FOLDER", help="folder for both, named after the GPU")
    parsed = parser.parse_args(arguments)
    trimmed = trim(json.loads(parsed.results.read_text(encoding="utf-8")))
    output, trim_to = parsed.output, parsed.trim
    if parsed.gpu:
        name = next((r["limits"]["name"] for r in _of(trimmed["results"], "gpu")), None)
        if name is None:
            parser.error("nothing was timed on a GPU")
        stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        output, trim_to = parsed.gpu / f"{stem}.md", parsed.gpu / f"{stem}.json"
    if output is None:
        parser.error("say where to write: -o or --gpu")
    output.write_text(report(trimmed), encoding="utf-8")
    if trim_to:
        trim_to.write_text(json.dumps(trimmed, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
