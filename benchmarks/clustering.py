"""Fits of k-means in their own processes, shared by test_kmeans.py and quick.py."""

from __future__ import annotations

from typing import NamedTuple

from interleave import Missing, ask_in_quiet
from rivals import OWN


class Fits(NamedTuple):
    """The fits of one implementation, one for each seed."""

    seconds: list[dict[str, float]]
    inertia: list[float]
    disturbed: int
    versions: dict[str, str]


def fit(processes, folder, so_far, worker, given, n_iter, k, seed, n_threads):
    """Fit once, and return `so_far` with this fit, or Missing. All inertias are computed in the same way.

    `given`: start from medvlad's seeds for the same k and seed, which an earlier fit left in `folder`.
    """
    start = folder / f"seeds-{k}-{seed}.npy"
    if given and not start.exists():
        return Missing("medvlad's seeds are not available")
    try:
        process = processes.get(worker, n_threads)
    except Missing as missing:
        return missing
    request = {"k": k, "seed": seed, "n_iter": n_iter, "start": str(start) if given else None}
    # Too long to repeat: disturbances are counted, not avoided.
    answer, quiet = ask_in_quiet(process, "kmeans", retries=0, folder=str(folder), **request)
    if worker == OWN and answer["start"]:
        (folder / "start.npy").replace(start)
    inertia = processes.get("reference", n_threads).ask("inertia", folder=str(folder))["inertia"]
    return Fits(
        [*so_far.seconds, answer["seconds"]],
        [*so_far.inertia, inertia],
        so_far.disturbed + (not quiet),
        process.hello["versions"],
    )


def information(name, found, phase, k, n_rows, n_iter, n_threads):
    """Return the fields of a measurement in the result file, except its seconds."""
    return {
        "implementation": name,
        "phase": phase,
        "k": k,
        "rows": n_rows,
        "iterations": n_iter,
        "threads": n_threads,
        "inertia": found.inertia,
        "disturbed_rounds": found.disturbed,
        "versions": found.versions,
    }
