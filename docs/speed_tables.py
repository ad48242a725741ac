"""Tables of speed, made from benchmarks/results/*.json; docs/tables.py puts them into the pages.

benchmarks/quick.py prints the tables of its own run with the functions at the end of this file.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SPEED = "xeon-model-207"
#: The run of `make bench-quick` that the README shows.
QUICK = "xeon-model-167-quick"
#: The same on a processor without AMX.
QUICK_WITHOUT_AMX = "epyc-model-17-quick"
#: What this package's users call, its C++ core alone, and the call that returns a new array.
OWN, KERNEL, FRESH = "medvlad", "kernel alone", "medvlad, new array"
OURS = (OWN, KERNEL, FRESH, "reference")
PRODUCT = "sgemm"
#: Names that result files give to implementations, in the words of the tables.
IN_WORDS = {
    "medvlad, float64": "medvlad with the same rows as float64",
    "keras predict": "keras predict, float32",
}
#: Kinds of rows, in words.
ROWS = {
    "synthetic": "26 % non-zero",
    "sparse": "26 % non-zero",
    "dense": "dense Gaussian",
    "clustered": "clustered",
    "rooms": "VGG16, rooms",
    "chest": "VGG16, chest",
}


def table(header, rows):
    """A table in Markdown; a column of empty cells is left out."""
    columns = [i for i in range(len(header)) if any(row[i] for row in rows)]
    lines = [[f" {line[i]} " if line[i] != "" else " " for i in columns] for line in (header, *rows)]
    lines.insert(1, ["---"] * len(columns))
    return "".join("|" + "|".join(line) + "|\n" for line in lines)


def measured(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def speeds(name, kind):
    return [result for result in measured(name)["results"] if result["kind"] == kind]


def rate(result, digits=0):
    return f"{result['images'] / result['seconds']['median']:,.{digits}f}"


def spread(result):
    slow, fast = (result["images"] / result["seconds"][end] for end in ("max", "min"))
    return f"{rate(result)} ({slow:,.0f} to {fast:,.0f})"


def encoding():
    """Images/s of encoding, against the fastest rival, two libraries by name, and the bare product.

    The ratios are those of the public call, or of the kernel if a file has the kernel only.
    """
    results = speeds(SPEED, "encode")
    cases = dict.fromkeys((r["data"], r["n"], r["k"]) for r in results)
    rows = []
    for case in cases:
        by_name = {r["implementation"]: r for r in results if (r["data"], r["n"], r["k"]) == case}
        seconds = {name: r["seconds"]["median"] for name, r in by_name.items()}
        best = fastest_rival(by_name)
        faiss = min((n for n in seconds if n.startswith("faiss")), key=seconds.get)
        own = seconds[OWN if OWN in seconds else KERNEL]
        data, n, k = case
        rows.append(
            [
                data,
                f"{n}, {k}",
                *(spread(by_name[name]) if name in by_name else "" for name in (OWN, KERNEL, FRESH)),
                f"{rate(by_name[best])} {best}",
                rate(by_name["scikit-learn"]),
                rate(by_name[faiss]),
                f"{seconds[best] / own:.1f}",
                f"{seconds[PRODUCT] / own:.2f}",
            ]
        )
    header = ["Data", "n an image, K", OWN, KERNEL, FRESH, "fastest rival", "scikit-learn", "FAISS"]
    return table([*header, "x rival", "x sgemm"], rows)


def extraction():
    """Images/s from pixels, and from files, to descriptors; in brackets over the bare product."""
    results = speeds(f"{SPEED}-extract", "extract")
    columns = {
        "Keras `predict`": "keras predict",
        "fastest other float32": None,
        "medvlad": "medvlad",
        "network alone": "medvlad, network alone",
        "files, 224 pixels": "medvlad, 224-pixel JPEGs",
        "files, 1 megapixel": "medvlad, 1-megapixel JPEGs",
        "int8, network alone": "medvlad int8, network alone",
        "int8, files, 224 pixels": "medvlad int8, 224-pixel JPEGs",
    }
    rows = []
    for scale in sorted({r["scale"] for r in results}):
        by_name = {r["implementation"]: r for r in results if r["scale"] == scale}
        speed = {name: r["images"] / r["seconds"]["median"] for name, r in by_name.items()}
        others = [
            name
            for name, r in by_name.items()
            if r["dtype"] == "float32" and not name.startswith((OWN, PRODUCT)) and name != "keras predict"
        ]
        fastest = max(others, key=speed.get)
        cells = []
        for name in columns.values():
            r = by_name.get(name or fastest)
            if r is None:
                cells.append("")
                continue
            product = r["flop"] / r["seconds"]["median"] / r["standards"][PRODUCT]
            digits = 1 if scale == 0 else 2
            suffix = "" if name else f" {fastest.removeprefix('keras ')}"
            cells.append(f"{rate(r, digits)}{suffix} ({product:.2f})")
        rows.append([224 + 320 * scale, *cells])
    return table(["Input", *columns], rows)


def kmeans():
    """Seconds of k-means, seeding included, over three seeds."""
    results = [r for r in speeds(SPEED, "kmeans") if r["phase"] == "total"]
    rows = []
    for k in sorted({r["k"] for r in results}):
        some = [r for r in results if r["k"] == k]
        own = next(r for r in some if r["implementation"] == OWN)
        scale = sum(own["inertia"]) / len(own["inertia"])
        for r in some:
            s = r["seconds"]
            reached = sum(r["inertia"]) / len(r["inertia"]) / scale
            shown = f"{s['median']:.2f} ({s['min']:.2f} to {s['max']:.2f})"
            rows.append([k, r["implementation"], r["iterations"], shown, f"{reached:.4f}"])
    return table(["K", "Implementation", "Steps", "Seconds", "Inertia over medvlad's"], rows)


def latency():
    """Microseconds of one image alone."""
    results = speeds(SPEED, "latency")
    names = list(dict.fromkeys(r["implementation"] for r in results))
    rows = []
    for n, k in dict.fromkeys((r["n"], r["k"]) for r in results):
        by_name = {r["implementation"]: r for r in results if (r["n"], r["k"]) == (n, k)}
        rows.append([n, k, *(f"{1e6 * by_name[name]['seconds']['median']:,.0f}" for name in names)])
    return table(["Descriptors", "K", *names], rows)


# One run of benchmarks/quick.py: {"machine": ..., "results": ...}


def fastest_rival(by_name):
    """The name of the fastest implementation that is not this package's and does the whole task, or None."""
    others = {
        name: r["seconds"]["median"]
        for name, r in by_name.items()
        if not name.startswith((OWN, PRODUCT)) and name not in OURS
    }
    return min(others, key=others.get, default=None)


def cases_of(found, kind, *keys):
    """Yield each case of a kind, and its results by implementation."""
    results = [r for r in found["results"] if r["kind"] == kind]
    for case in dict.fromkeys(tuple(r[key] for key in keys) for r in results):
        yield case, {r["implementation"]: r for r in results if tuple(r[key] for key in keys) == case}


def limits_of(found):
    """The limits with the threads of the run, or an empty dictionary."""
    return next(iter((found["machine"].get("limits") or {}).values()), {})


def over(by_name, name):
    """How many times as long another implementation takes as this package's public call, or None."""
    if name not in by_name or OWN not in by_name:
        return None
    return by_name[name]["seconds"]["median"] / by_name[OWN]["seconds"]["median"]


def over_product(by_name):
    """The same for the bare product, by its faster core type, or None."""
    ratios = [over(by_name, name) for name in by_name if name.startswith(PRODUCT)]
    return min(ratios, default=None)


def share_of_bandwidth(result, limits):
    """The least time to read the descriptors and write the result, over that of the call; None if unknown."""
    if "read_gb_s" not in limits:
        return None
    write = max(limits["write_gb_s"], limits.get("write_streaming_gb_s", 0))
    least = result["read_bytes"] / limits["read_gb_s"] + result["written_bytes"] / write
    return least / 1e9 / result["seconds"]["median"]


def number(value, digits=2):
    return "" if value is None else f"{value:.{digits}f}"


def milliseconds(result):
    return f"{1e3 * result['seconds']['median']:.1f} ms"


def quick_rows(found):
    """The rows of the table: task, problem, unit-bearing times, and ratios."""
    limits = limits_of(found)
    for kind in ("encode", "assign"):
        for (data, n, k), by_name in cases_of(found, kind, "data", "n", "k"):
            times = [milliseconds(by_name[name]) if name in by_name else "" for name in OURS[:3]]
            best = fastest_rival(by_name)
            rival = f"{milliseconds(by_name[best])}, {best}" if best else ""
            own = by_name[OWN]
            each = "" if kind == "assign" else f"{n} an image, "
            problem = f"{own['rows']:,} rows ({ROWS[data]}), {each}K = {k}"
            ratios = [over(by_name, best), over_product(by_name), own.get("over_kernel")]
            ratios.append(share_of_bandwidth(own, limits))
            yield [kind, problem, *times, rival, *map(number, ratios)]
    for (rows, k), by_name in cases_of(found, "kmeans", "rows", "k"):
        own = by_name[OWN]
        for name, r in by_name.items():
            if name != OWN:
                problem = f"{rows:,} rows, K = {k}, {r['iterations']} steps"
                inertia = mean(r["inertia"]) / mean(own["inertia"])
                rival = f"{in_seconds(r)}, {name} (inertia {inertia:.3f})"
                yield [
                    "k-means",
                    problem,
                    in_seconds(own),
                    "",
                    "",
                    rival,
                    number(over(by_name, name)),
                ] + 3 * [""]
    for (scale,), by_name in cases_of(found, "extract", "scale"):
        yield from network_rows(by_name, f"VGG19, {224 + 320 * scale} pixels")
    for (n, d), by_name in cases_of(found, "svm", "n", "d"):
        own = by_name[OWN]
        problem = f"{n:,} x {d:,}, {own['classes']} classes (gap {own['gap']:.0e})"
        for name, r in by_name.items():
            if name != OWN:
                rival = f"{in_seconds(r)}, {in_words(name)} (gap {r['gap']:.0e})"
                yield ["SVM", problem, in_seconds(own), "", "", rival, number(over(by_name, name), 1)] + 3 * [
                    ""
                ]


def in_words(name):
    """What the tables call an implementation."""
    return IN_WORDS.get(name, name)


def in_seconds(result):
    return f"{result['seconds']['median']:.2f} s"


def network_rows(by_name, network):
    """Rows of extraction: all against Keras' predict, and images in memory also against the fastest rival."""
    rates = {name: r["images"] / r["seconds"]["median"] for name, r in by_name.items()}
    others = {name: speed for name, speed in rates.items() if not name.startswith((OWN, PRODUCT))}
    for name, r in by_name.items():
        if not name.startswith(OWN):
            continue
        beside = (
            ["keras predict"] if r["whole"] else ["keras predict", max(others, key=others.get, default="")]
        )
        for other in dict.fromkeys(beside):
            if other in rates:
                problem = (
                    f"{network}: {name.removeprefix(OWN).lstrip(', ')}{'' if r['whole'] else ', in memory'}"
                )
                cells = [f"{rates[name]:.1f} images/s", "", "", f"{rates[other]:.1f} images/s, {other}"]
                yield ["extract", problem, *cells, number(rates[name] / rates[other], 1)] + 3 * [""]


def mean(values):
    return sum(values) / len(values)


def quick_table(found):
    """All public calls beside rivals, the bare product, the kernel and the bandwidth of memory."""
    header = ["Task", "Problem", OWN, KERNEL, "new array", "rival", "x rival", "x sgemm", "over kernel"]
    return table([*header, "of bandwidth"], list(quick_rows(found)))


def short_quick_table(found):
    """A few rows in few words, for the README."""
    rows = [[row[i] for i in (0, 1, 2, 5, 6)] for row in quick_rows(found)]

    def find(task, *words):
        found = (row for row in rows if row[0] == task and all(word in "".join(row) for word in words))
        return next(found, None)

    k_means = sorted((row for row in rows if row[0] == "k-means"), key=lambda row: float(row[4]))
    kept = {
        "encode": find("encode", "rooms", "289 an image"),
        "k-means": k_means[0] if k_means else None,
        "VGG19, bfloat16, files": find("extract", "bfloat16, 224-pixel JPEGs"),
        "VGG19, int8, files": find("extract", "int8, 224-pixel JPEGs"),
        "SVM": find("SVM", "scikit-learn"),
    }
    short = []
    for name, row in kept.items():
        if row is not None:
            size = "" if row[0] == "extract" else re.split(r" \(|, K|, \d+ classes", row[1])[0]
            other = re.sub(r" \(.*\)|, SkylakeX| predict", "", row[3])
            short.append([f"{name.strip()}, {size}".rstrip(", "), row[2], other, number(float(row[4]), 1)])
    return f"{machine_words(found)}\n{table(['Step', OWN, 'other', 'ratio'], short)}"


def limits_table(found):
    """What the machine can do at most, measured in the same run."""
    limits = limits_of(found)
    if not limits:
        return "The limits of the machine were not measured.\n"
    names = {
        "fma_float32_gflops": "float32 multiply-add, GFLOP/s",
        "dot_bfloat16_gflops": "bfloat16 dot product, GFLOP/s",
        "amx_bfloat16_gflops": "bfloat16 tiles (AMX), GFLOP/s",
        "read_gb_s": "read from memory, GB/s",
        "write_gb_s": "write to memory, GB/s",
        "write_streaming_gb_s": "streaming write, GB/s",
        "problem_read_gb_s": "read, array of the size of a problem, GB/s",
        "problem_write_gb_s": "write, array of the size of a problem, GB/s",
    }
    rows = [[name, limits[key]] for key, name in names.items() if key in limits]
    if "amx" in limits:
        rows.append(["bfloat16 tiles (AMX)", limits["amx"]])
    return table(["Limit, all threads", "Measured"], rows)


def disturbed_words(found):
    """How many measurements other programs disturbed."""
    disturbed = sum(r.get("disturbed_rounds", 0) for r in found["results"])
    rounds = sum(r["seconds"]["rounds"] for r in found["results"] if "disturbed_rounds" in r)
    return f"Other programs were busy during {disturbed} of {rounds} measurements."


def machine_words(found):
    """The processor and what ran on it, for the README."""
    told = found["machine"]
    tiles = "with" if "amx_bfloat16_gflops" in limits_of(found) else "without"
    name = re.sub(r"\(R\)|Intel|Processor|cpu family \d+, |, stepping \d+", "", told["processor"])
    return f"{' '.join(name.split())}, {told['processors']} cores, {tiles} AMX, {told['date']}.\n"


def machine_line(found):
    """The processor, what ran on it, and what was left out."""
    told = found["machine"]
    amx = "with" if "amx_bfloat16_gflops" in limits_of(found) else "without"
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    left_out = "; ".join(f"{name} ({why})" for name, why in told["left_out"].items())
    return (
        f"{told['processor']}, {told['processors']} processors, {amx} matrix tiles (AMX). "
        f"Level of the C++ core: {told['level']}. {told['date']}. {versions}."
        + (f" Left out: {left_out}." if left_out else "")
        + f" {disturbed_words(found)}"
        + "\n"
    )
