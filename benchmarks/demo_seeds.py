"""Draw the images of `medvlad demo` with several seeds, and compare the encodings on each drawing.

    python benchmarks/demo_seeds.py 0 1 2 3 4 5 6 7 8 9

Prints one row of a Markdown table for each seed: the accuracies, and the differences from average pooling
with their 95 % intervals. A drawing takes about 80 s of processor time.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from medvlad.cli.demo import ENCODINGS, demo_experiment
from medvlad.datasets.demo import write_demo_images


def row(seed):
    """Return the row of one seed."""
    with tempfile.TemporaryDirectory() as folder:
        experiment = demo_experiment()
        images = write_demo_images(Path(folder), random_state=seed)
        found = experiment.evaluate(experiment.load(images), ENCODINGS).results
    cells = [str(seed), *(f"{one['accuracy']:.3f}" for one in found["results"])]
    for pair in found["comparisons"]:
        low, high = pair["difference_ci95"]["accuracy"]
        cells.append(f"{pair['difference']['accuracy']:+.3f} ({low:+.3f} to {high:+.3f})")
    return f"| {' | '.join(cells)} |"


def main():
    header = ["Seed", *ENCODINGS, *(f"{name} minus {ENCODINGS[0]}" for name in ENCODINGS[1:])]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")  # noqa: T201
    for seed in sys.argv[1:]:
        print(row(int(seed)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
