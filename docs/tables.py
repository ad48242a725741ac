"""Tables of the pages, made from result files; each stands between two comments::

    <!-- table: rooms -->
    | ... |
    <!-- end of table -->

python docs/tables.py             writes them anew into the pages
python docs/tables.py --check     says which are not what the files say; status 1 if any

Accuracies come from docs/results/*.json (benchmarks/accuracy.py and benchmarks/presets.py measure them) and
docs/results_shift.json (benchmarks/shift.py), speed from benchmarks/results/*.json (benchmarks/report.py and
benchmarks/quick.py write these; see speed_tables.py).
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))  # not there with PYTHONSAFEPATH
import speed_bars  # noqa: E402
import speed_tables  # noqa: E402
from speed_tables import table  # noqa: E402

PAGES = ("README.md", "docs/results.md", "docs/results_shift.md", "docs/performance.md")
_TABLE = re.compile(r"(<!-- table: ([a-z0-9 -]+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
SETS = ("chest_xray", "rooms", "hyperkvasir")


def read(name):
    return json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))


# Accuracies


def figure(measured, name, *, interval=True):
    """A figure to three decimals, with its interval; nothing where it was not measured."""
    if measured is None or measured.get(name) is None:
        return ""
    ends = measured.get(f"{name}_ci95") if interval else None
    return f"{measured[name]:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")


def adapted(measured):
    """The accuracy with the adapted threshold of two classes."""
    return figure(measured.get("adapted"), "accuracy") or "none found"


def spread(values):
    """Mean and standard deviation over seeds, and their number if it is not ten."""
    number = "" if len(values) == 10 else f", {len(values)} seeds"
    return f"{statistics.mean(values):.3f} ({statistics.stdev(values):.3f}{number})"


def paper():
    """The cells of the paper's tables that were measured."""
    rows = []
    for name in SETS:
        found = read(name)
        for row in (row for row in found["paper"] if "measured" in row):
            m, encode, scale = row["measured"], row["encode"], row["scale"]
            reported, ours = f"{row['reported']:.2f}", f"{m['accuracy']:.3f}"
            seeds = spread(m["over_seeds"]["accuracy"]["values"]) if "over_seeds" in m else ""
            low, high = m["accuracy_ci95"]
            interval = f"{low:.3f} to {high:.3f}"
            what = f"{encode}, scale {scale}" + (", int8" if m["dtype"] == "int8" else "")
            rows.append([found["in_the_paper"], what, reported, ours, interval, seeds])
    header = ["Data", "Encoding", "Paper (VGG19)", "Here (VGG16)", "95 %", "Ten seeds: mean (SD)"]
    return table(header, rows)


# What benchmarks/presets.py measured


def same(row, other):
    """Whether two rows are about one network, layer, encoding and scales."""
    return all(row[field] == other[field] for field in ("network", "layer", "encoding", "scales"))


def inside(rows):
    """The mean over the sets of the mean over the folds."""
    by_set = {row["set"]: statistics.mean(score for fold in row["folds"] for score in fold) for row in rows}
    return statistics.mean(by_set.values()) if len(by_set) == len(SETS) else None


def layers():
    """Scores inside the training images: a row for each layer, a column for each encoding."""
    rows = [row for row in read("networks")["inside"] if row["scales"] == [0]]
    encodings = list(dict.fromkeys(row["encoding"] for row in rows))
    found = {}
    for row in rows:
        found.setdefault((row["network"], row["layer"]), {}).setdefault(row["encoding"], []).append(row)
    lines = [
        [network, layer, *(f"{inside(by_encoding[name]):.3f}" for name in encodings)]
        for (network, layer), by_encoding in found.items()
    ]
    return table(["Network", "Layer", *encodings], lines)


def network_rows():
    """Speed, score inside, and results on the test images of each combination that was tested."""
    known = read("networks")
    for one in known["speed"]:
        own = [row for row in known["inside"] if same(row, one)]
        yield one, inside(own), {row["set"]: row for row in known["test"] if same(row, one)}


def networks():
    lines = []
    for one, score, tested in network_rows():
        what = [one["network"], one["layer"], one["encoding"], " and ".join(map(str, one["scales"]))]
        chest, *others = (tested[name] for name in SETS)
        rate = f"{statistics.median(one['images_per_second']):.0f}"
        cells = [figure(chest, "accuracy"), adapted(chest), figure(chest, "auc")]
        lines.append([*what, rate, f"{score:.3f}", *cells, *(figure(row, "accuracy") for row in others)])
    header = [
        "Network",
        "Layer",
        "Encoding",
        "Scales",
        "Images/s",
        "Inside",
        "Chest X-rays",
        "adapted",
        "AUC",
    ]
    return table([*header, "Rooms", "HyperKvasir"], lines)


def network_seeds():
    lines = []
    for one, _, tested in network_rows():
        if all("over_seeds" in row for row in tested.values()):
            what = [one["network"], one["layer"], one["encoding"], " and ".join(map(str, one["scales"]))]
            chest = tested["chest_xray"]["over_seeds"]
            values = [chest["accuracy"], chest["auc"]]
            values += [tested[name]["over_seeds"]["accuracy"] for name in SETS[1:]]
            lines.append([*what, *map(spread, values)])
    header = ["Network", "Layer", "Encoding", "Scales", "Chest X-rays, accuracy", "Chest X-rays, AUC"]
    return table([*header, "Rooms", "HyperKvasir"], lines)


def preset_rows(found):
    """The rows of the presets, and what they are called."""
    named = {"paper, average pooling": "avg", "paper, VLAD 64": "vlad64"}
    by_encoding = {row["encode"]: row for row in found["paper"] if row["scale"] == 0}
    return [(name, by_encoding[encode]) for name, encode in named.items()] + [
        (row["preset"], row) for row in found["presets"]
    ]


def presets():
    rows = []
    for name in SETS:
        found = read(name)
        for preset, row in preset_rows(found):
            m = row["measured"]
            figures = [figure(m, what) for what in ("accuracy", "balanced_accuracy", "auc")]
            figures += [figure(m, what, interval=False) for what in ("sensitivity", "specificity")]
            rows.append([preset, found["name"], *figures, adapted(m) if name == "chest_xray" else "-"])
    header = ["Preset", "Data", "Accuracy", "Balanced", "AUC", "Sensitivity", "Specificity"]
    return table([*header, "Accuracy, adapted"], rows)


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
        "Accuracy, VGG16, average pooling",
        "Accuracy, `--preset best`",
        "the same, adapted threshold",
        "AUC, `--preset best`",
    ]
    return table(header, rows)


def of_shift():
    """What benchmarks/shift.py measured."""
    return json.loads((ROOT / "docs" / "results_shift.json").read_text(encoding="utf-8"))


def shift():
    """Chest X-rays, one image at a time and with the batch."""
    names = ("accuracy", "balanced_accuracy", "auc")
    rows = [
        [
            row["recipe"],
            *(figure(row["own"], name) for name in names),
            *(figure(row.get("adapted"), name) for name in names[:2]),
        ]
        for row in of_shift()["chest"]
    ]
    header = ["Recipe", "Accuracy", "Balanced", "AUC", "Accuracy, adapted", "Balanced, adapted"]
    return table(header, rows)


def shift_guard():
    """Balanced accuracy on other data sets, as they are and shifted."""
    found = of_shift()["guard"]
    recipes = list(next(iter(found.values())))
    rows = [
        [name, *(f"{one[name][k]:.3f}" for one in found.values() for k in ("plain", "shifted"))]
        for name in recipes
    ]
    header = ["Recipe", *(text for name in found for text in (name, f"{name}, shifted"))]
    return table(header, rows)


TABLES = {
    "shift": shift,
    "shift guard": shift_guard,
    "paper": paper,
    "layers": layers,
    "networks": networks,
    "network seeds": network_seeds,
    "presets": presets,
    "summary": summary,
    "encoding": speed_tables.encoding,
    "extraction": speed_tables.extraction,
    "kmeans": speed_tables.kmeans,
    "latency": speed_tables.latency,
    "speed": lambda: speed_tables.short_quick_table(speed_tables.measured(speed_tables.QUICK)),
    "quick": lambda: speed_tables.quick_table(speed_tables.measured(speed_tables.QUICK)),
    "limits": lambda: speed_tables.limits_table(speed_tables.measured(speed_tables.QUICK)),
    "bars": lambda: speed_bars.bars(speed_tables.measured(speed_tables.QUICK)),
    "machine": lambda: speed_tables.machine_line(speed_tables.measured(speed_tables.QUICK)),
    "quick without tiles": lambda: speed_tables.quick_table(
        speed_tables.measured(speed_tables.QUICK_WITHOUT_AMX)
    ),
    "bars without tiles": lambda: speed_bars.bars(speed_tables.measured(speed_tables.QUICK_WITHOUT_AMX)),
    "machine without tiles": lambda: speed_tables.machine_line(
        speed_tables.measured(speed_tables.QUICK_WITHOUT_AMX)
    ),
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
