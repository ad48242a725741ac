"""Draw docs/static/networks.svg from docs/results/networks.json: accuracy against images per second.

python docs/networks_figure.py
"""

import statistics
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from tables import network_rows

STATIC = Path(__file__).parent / "static"
COLOURS = {"efficientnet-lite2": "#0072b2", "vgg16": "#d55e00"}
TITLES = {
    "chest_xray": "chest X-rays, AUC",
    "rooms": "rooms, accuracy",
    "hyperkvasir": "HyperKvasir, accuracy",
}
NAMES = {"average": "average pooling", "second": "second order"}
MARKERS = {"average": "o", "GeM": "v", "VLAD": "s", "Fisher": "D", "second": "P"}


def draw() -> Figure:
    """Return a figure with a panel for each data set."""
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, 3), TITLES.items(), strict=True):
        for one, _, tested in network_rows():
            metric = "auc" if name == "chest_xray" else "accuracy"
            colour, kind = COLOURS[one["network"]], one["encoding"].split()[0]
            rate, value = statistics.median(one["images_per_second"]), tested[name][metric]
            low, high = tested[name][f"{metric}_ci95"]
            axes.plot([rate, rate], [low, high], color=colour, alpha=0.25, linewidth=1)
            filled = colour if one["scales"] == [0] else "white"
            axes.plot(rate, value, MARKERS[kind], color=colour, markerfacecolor=filled, markersize=6)
        axes.set_xscale("log")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("images per second")
        axes.spines[["top", "right"]].set_visible(False)
    for network, colour in COLOURS.items():
        axes.plot([], [], "-", color=colour, label=network)
    for kind, marker in MARKERS.items():
        axes.plot([], [], marker, color="0.3", label=NAMES.get(kind, kind))
    axes.plot([], [], "o", color="0.3", label="filled: scale 0")
    axes.plot([], [], "o", color="0.3", markerfacecolor="white", label="hollow: scales 0 and 1")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return figure


if __name__ == "__main__":
    mpl.rcParams |= {"svg.hashsalt": "networks", "svg.fonttype": "none", "font.family": "sans-serif"}
    draw().savefig(STATIC / "networks.svg", metadata={"Date": None})
