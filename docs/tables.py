"""Tables of the pages, made from result files; each stands between two comments::

    <!-- table: rooms -->
    | ... |
    <!-- end of table -->

python docs/tables.py             writes them anew into the pages
python docs/tables.py --check     says which are not what the files say; status 1 if any

Accuracies come from docs/results/*.json (benchmarks/accuracy.py measures them), speed from
benchmarks/results/*.json (benchmarks/report.py and benchmarks/quick.py write these; see speed_tables.py).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))  # not there with PYTHONSAFEPATH
import speed_bars  # noqa: E402
import speed_tables  # noqa: E402
from speed_tables import table  # noqa: E402

PAGES = ("README.md", "docs/results.md", "docs/performance.md")
_TABLE = re.compile(r"(<!-- table: ([a-z0-9 -]+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
SETS = ("chest_xray", "rooms", "hyperkvasir")


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


TABLES = {
    "paper": paper,
    "chest": lambda: ablation("chest_xray"),
    "rooms": lambda: ablation("rooms"),
    "hyperkvasir": lambda: ablation("hyperkvasir"),
    "presets": presets,
    "small network": small_network,
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
