"""Tables of the pages, made from result files; each stands between two comments::

    <!-- table: rooms -->
    | ... |
    <!-- end of table -->

python docs/tables.py             writes them anew into the pages
python docs/tables.py --check     says which are not what the files say; status 1 if any

Accuracies come from docs/results/*.json (benchmarks/accuracy.py measures them), speed from
benchmarks/results/*.json (benchmarks/report.py).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/results.md", "docs/performance.md")
_TABLE = re.compile(r"(<!-- table: ([a-z0-9 -]+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
SETS = ("chest_xray", "rooms", "hyperkvasir")
SPEED = "xeon-model-207"


def table(header, rows):
    """A table in Markdown; a column of empty cells is left out."""
    columns = [i for i in range(len(header)) if any(row[i] for row in rows)]
    lines = [header, ["---"] * len(header), *rows]
    text = "".join("| " + " | ".join(str(line[i]) for i in columns) + " |\n" for line in lines)
    return text.replace("|  |", "| |").replace("| --- ", "|---").replace("---|\n", "---|\n")


def read(name):
    return json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))


# Accuracies


def figure(measured, name, *, interval=True):
    """A figure to three decimals, with its interval; nothing where it was not measured.

    Transcribed rows have the bootstrap interval of an earlier version.
    """
    if measured is None or measured.get(name) is None:
        return ""
    ends = measured.get("bootstrap_ci95", {}).get(name) or measured.get(f"{name}_ci95")
    ends = ends if interval else None
    return f"{measured[name]:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")


def wilson(measured):
    low, high = measured["accuracy_ci95"]
    return f"{low:.3f} to {high:.3f}"


def penalty(measured):
    """The C of the folds: one, two, or from the least to the largest."""
    if "C" not in measured:
        return measured["C_text"]
    values = sorted(set(measured["C"]))
    shown = [f"{value:g}" for value in values]
    return ", ".join(shown) if len(shown) < 3 else f"{shown[0]} to {shown[-1]}"


def inside(measured):
    found = measured.get("inner_balanced_accuracy")
    return f"{sum(found) / len(found):.3f}" if found else "-"


def ablation(name):
    """Every recipe that was tried on a data set."""
    rows = []
    for row in read(name)["rows"]:
        m = row["measured"]
        adapted = m.get("adapted")
        rows.append(
            [
                row["label"],
                inside(m),
                penalty(m),
                figure(m, "accuracy", interval=adapted is None),
                figure(m, "balanced_accuracy", interval=False),
                figure(adapted, "accuracy"),
                figure(adapted, "balanced_accuracy", interval=False),
                figure(m, "auc"),
            ]
        )
    header = ["", "Inside", "C", "Accuracy", "Balanced", "Accuracy, adapted", "Balanced, adapted", "AUC"]
    return table(header, rows)


def paper():
    """The cells of the paper's tables."""
    rows = []
    for name in SETS:
        found = read(name)
        for row in found["paper"]:
            m, encode, scale = row["measured"], row["encode"], row["scale"]
            reported, ours = f"{row['reported']:.2f}", f"{m['accuracy']:.3f}"
            rows.append([found["in_the_paper"], f"{encode}, scale {scale}", reported, ours, wilson(m)])
    return table(["Data", "Encoding", "Paper (VGG19)", "Here (VGG16)", "95 % (Wilson)"], rows)


def preset_rows(found):
    """The rows of the two presets, and what they are called."""
    first, second = found["rows"][:2]
    best = next(row for row in found["rows"] if row["options"] == "--preset best")
    return [("paper, average pooling", first), ("paper, VLAD 64", second), ("best", best)]


def presets():
    rows = []
    for name in SETS:
        found = read(name)
        for preset, row in preset_rows(found):
            m = row["measured"]
            figures = [figure(m, what) for what in ("accuracy", "balanced_accuracy", "auc")]
            rows.append([preset, found["name"], *figures, figure(m.get("adapted"), "accuracy")])
    return table(["Preset", "Data", "Accuracy", "Balanced", "AUC", "Accuracy, adapted"], rows)


def small_network():
    """EfficientNet-Lite2 beside VGG16 with the same recipes."""
    rows = []
    for name in SETS:
        found = read(name)
        paper = ["average pooling, C = 1 (preset paper)", "VLAD 64, C = 1 (preset paper)"]
        vgg = [row for row in found["rows"] if row["label"] in paper]
        for network, row in [("VGG16", row) for row in vgg] + [
            ("EfficientNet-Lite2", row) for row in found.get("small_network", []) if "measured" in row
        ]:
            m = row["measured"]
            layer = "block5_pool, " if network == "VGG16" else ""
            figures = [figure(m, what) for what in ("accuracy", "balanced_accuracy", "auc")]
            adapted = figure(m.get("adapted"), "accuracy")
            rows.append([found["name"], network, layer + row["label"], inside(m), *figures, adapted])
    header = [
        "Data",
        "Network",
        "Layer and recipe",
        "Inside",
        "Accuracy",
        "Balanced",
        "AUC",
        "Accuracy, adapted",
    ]
    return table(header, rows)


def summary():
    """One row a data set, for the README."""
    rows = []
    for name in SETS:
        found = read(name)
        named = {preset: row["measured"] for preset, row in preset_rows(found)}
        best = named["best"]
        cells = [figure(named["paper, average pooling"], "accuracy"), figure(best, "accuracy")]
        name = f"{found['name']} (not medical)" if name == "rooms" else found["name"]
        rows.append([name, *cells, figure(best.get("adapted"), "accuracy") or "-", figure(best, "auc")])
    header = [
        "Data",
        "Accuracy, average pooling",
        "Accuracy, `--preset best`",
        "the same, adapted threshold",
        "AUC, `--preset best`",
    ]
    return table(header, rows)


# Speed


def speeds(name, kind):
    text = (ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8")
    return [result for result in json.loads(text)["results"] if result["kind"] == kind]


def rate(result, digits=0):
    return f"{result['images'] / result['seconds']['median']:,.{digits}f}"


def spread(result):
    slow, fast = (result["images"] / result["seconds"][end] for end in ("max", "min"))
    return f"{rate(result)} ({slow:,.0f} to {fast:,.0f})"


def encoding():
    """Images/s of encoding, against the fastest rival, two libraries by name, and the bare product."""
    results = speeds(SPEED, "encode")
    cases = dict.fromkeys((r["data"], r["n"], r["k"]) for r in results)
    rows = []
    for case in cases:
        by_name = {r["implementation"]: r for r in results if (r["data"], r["n"], r["k"]) == case}
        seconds = {name: r["seconds"]["median"] for name, r in by_name.items()}
        rivals = {n: s for n, s in seconds.items() if n not in ("native", "reference", "sgemm")}
        best = min(rivals, key=rivals.get)
        faiss = min((n for n in seconds if n.startswith("faiss")), key=seconds.get)
        native = seconds["native"]
        data, n, k = case
        rows.append(
            [
                data,
                f"{n}, {k}",
                spread(by_name["native"]),
                f"{rate(by_name[best])} {best}",
                rate(by_name["scikit-learn"]),
                rate(by_name[faiss]),
                f"{seconds[best] / native:.1f}",
                f"{seconds['sgemm'] / native:.2f}",
            ]
        )
    header = [
        "Data",
        "n an image, K",
        "native",
        "fastest rival",
        "scikit-learn",
        "FAISS",
        "x rival",
        "x sgemm",
    ]
    return table(header, rows)


def extraction():
    """Images/s from pixels, and from files, to descriptors; in brackets over the bare product."""
    results = speeds(f"{SPEED}-extract", "extract")
    columns = {
        "Keras `predict`": "keras predict",
        "fastest other float32": None,
        "this package, network": "medvlad",
        "files, 224 pixels": "medvlad, 224-pixel JPEGs",
        "files, 1 megapixel": "medvlad, 1-megapixel JPEGs",
        "int8, network": "medvlad int8",
        "int8, files, 224 pixels": "medvlad int8, 224-pixel JPEGs",
    }
    rows = []
    for scale in sorted({r["scale"] for r in results}):
        by_name = {r["implementation"]: r for r in results if r["scale"] == scale}
        speed = {name: r["images"] / r["seconds"]["median"] for name, r in by_name.items()}
        others = [
            name
            for name, r in by_name.items()
            if r["dtype"] == "float32"
            and not name.startswith(("medvlad", "sgemm"))
            and name != "keras predict"
        ]
        fastest = max(others, key=speed.get)
        cells = []
        for name in columns.values():
            r = by_name[name or fastest]
            product = r["flop"] / r["seconds"]["median"] / r["standards"]["sgemm"]
            digits = 1 if scale == 0 else 2
            suffix = "" if name else f" {fastest.removeprefix('keras ')}"
            cells.append(f"{rate(r, digits)}{suffix} ({product:.2f})")
        rows.append([224 + 320 * scale, *cells])
    return table(["Input", *columns], rows)


def summary_speed():
    """Keras against this package from files, for the README."""
    results = speeds(f"{SPEED}-extract", "extract")
    rows = []
    for scale in sorted({r["scale"] for r in results}):
        by_name = {r["implementation"]: r for r in results if r["scale"] == scale}
        keras, own = by_name["keras predict"], by_name["medvlad, 224-pixel JPEGs"]
        speed = [r["images"] / r["seconds"]["median"] for r in (keras, own)]
        digits = 1 if scale == 0 else 2
        side = 224 + 320 * scale
        rows.append(
            [f"{side} x {side}", rate(keras, digits), rate(own, digits), f"{speed[1] / speed[0]:.1f}"]
        )
    return table(
        ["Input in pixels", "Keras `predict`, images in memory", "medvlad, from files", "ratio"], rows
    )


def kmeans():
    """Seconds of k-means, seeding included, over three seeds."""
    results = [r for r in speeds(SPEED, "kmeans") if r["phase"] == "total"]
    rows = []
    for k in sorted({r["k"] for r in results}):
        some = [r for r in results if r["k"] == k]
        own = next(r for r in some if r["implementation"] == "native")
        scale = sum(own["inertia"]) / len(own["inertia"])
        for r in some:
            s = r["seconds"]
            reached = sum(r["inertia"]) / len(r["inertia"]) / scale
            shown = f"{s['median']:.2f} ({s['min']:.2f} to {s['max']:.2f})"
            rows.append([k, r["implementation"], r["iterations"], shown, f"{reached:.4f}"])
    return table(["K", "Implementation", "Steps", "Seconds", "Inertia over native's"], rows)


def latency():
    """Microseconds of one image alone."""
    results = speeds(SPEED, "latency")
    names = list(dict.fromkeys(r["implementation"] for r in results))
    rows = []
    for n, k in dict.fromkeys((r["n"], r["k"]) for r in results):
        by_name = {r["implementation"]: r for r in results if (r["n"], r["k"]) == (n, k)}
        rows.append([n, k, *(f"{1e6 * by_name[name]['seconds']['median']:,.0f}" for name in names)])
    return table(["Descriptors", "K", *names], rows)


TABLES = {
    "paper": paper,
    "chest": lambda: ablation("chest_xray"),
    "rooms": lambda: ablation("rooms"),
    "hyperkvasir": lambda: ablation("hyperkvasir"),
    "presets": presets,
    "small network": small_network,
    "summary": summary,
    "summary speed": summary_speed,
    "encoding": encoding,
    "extraction": extraction,
    "kmeans": kmeans,
    "latency": latency,
}


def filled(text):
    """The page with its tables as the result files have them."""
    return _TABLE.sub(lambda found: found[1] + TABLES[found[2]]() + found[4], text)


def main(arguments):
    """Write, or with --check compare."""
    stale = []
    for name in PAGES:
        page = ROOT / name
        text = page.read_text(encoding="utf-8")
        if filled(text) != text:
            stale.append(name)
            if "--check" not in arguments:
                page.write_text(filled(text), encoding="utf-8")
    if "--check" in arguments and stale:
        sys.stderr.write(
            f"tables of {', '.join(stale)} are not what the result files say: run docs/tables.py\n"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
