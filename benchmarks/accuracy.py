"""Measure rows of docs/results/SET.json with `medvlad evaluate` and write the results into them.

    python benchmarks/accuracy.py SET DIR --store FOLDER [--only TEXT] [--image-root FOLDER]
    python docs/tables.py                     then updates the tables of the pages

SET is chest_xray, rooms or hyperkvasir. DIR is the folder of its images, or a table with --image-root. For
hyperkvasir it is docs/results/hyperkvasir_folds.csv. --only selects the rows whose options
contain TEXT. Each row names its options. The first seed is 0.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import describe

ROOT = Path(__file__).parents[1]
_KEPT = (
    "accuracy",
    "accuracy_ci95",
    "balanced_accuracy",
    "balanced_accuracy_ci95",
    "auc",
    "auc_ci95",
    "sensitivity",
    "specificity",
    "n_train",
    "n_test",
    "over_seeds",
    "C",
    "inner_balanced_accuracy",
)


def measure(options, given):
    """Run `medvlad evaluate` with these options and return the results that the tables need."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "medvlad", "evaluate", given.images, *shlex.split(options)]
        command += ["--seed", "0", "--store", given.store, "--out", out]
        if given.image_root:
            command += ["--image-root", given.image_root]
        subprocess.run(command, check=True)
        found = json.loads((Path(out) / "results.json").read_text(encoding="utf-8"))
    (result,) = found["results"]
    network = {name: found["settings"][name] for name in ("model", "layer", "dtype", "engine")}
    return _kept(result) | network | {"versions": found["versions"]}


def _kept(result):
    kept = {name: _rounded(result[name]) for name in _KEPT if result.get(name) is not None}
    if result.get("adapted"):
        kept["adapted"] = _kept(result["adapted"])
    return kept


def _rounded(value):
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 6) if isinstance(value, float) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", choices=("chest_xray", "rooms", "hyperkvasir"))
    parser.add_argument("images")
    parser.add_argument("--store", required=True)
    parser.add_argument("--image-root")
    parser.add_argument("--only", default="")
    parsed = parser.parse_args()
    path = ROOT / "docs" / "results" / f"{parsed.set}.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    machine = describe()
    for row in [*known["paper"], *known["presets"]]:
        if parsed.only in row["options"]:
            row["measured"] = measure(f"{known['common']} {row['options']}", parsed)
            row["measured"] |= {"date": machine["date"], "processor": machine["processor"]}
            path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
