"""Settings of a run as a reader of a report wants to see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from medvlad.backends import get_backend

__all__ = ["penalties_in_words", "shown_settings"]


def shown_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a page shows.

    Parameters
    ----------
    settings : dict
        ``results["settings"]`` of :class:`medvlad.experiment.Evaluation`.

    Returns
    -------
    dict
        The same settings, with two changes. Weights are shown by file name: a path of this machine helps
        nobody else, and the fingerprint identifies them. Of the backends only the one that ran is shown,
        without the reasons why others cannot run here.
    """
    shown = {name: value for name, value in settings.items() if name != "available_backends"}
    if isinstance(shown.get("weights"), str):
        shown["weights"] = Path(shown["weights"]).name
    if "backend" in shown:
        shown["backend"] = _backend_that_ran(shown["backend"], settings.get("available_backends", {}))
    return shown


def _backend_that_ran(asked: str, states: Mapping[str, str]) -> str:
    """Return the name of a backend and what it says of itself, such as "native (avx2)"."""
    module = cast(ModuleType, get_backend(asked)) if asked == "auto" else None
    name = asked if module is None else module.__name__.rpartition(".")[2]
    _, _, detail = states.get(name, "").partition("ok: ")
    return f"{name} ({detail})" if detail else name


def penalties_in_words(penalties: Sequence[float]) -> str:
    """Return the C of each fold as text: "1", "1 in all 5 folds", or "fold 1: 0.1, fold 2: 1"."""
    if len(penalties) == 1:
        return f"{penalties[0]:g}"
    if len(set(penalties)) == 1:
        return f"{penalties[0]:g} in all {len(penalties)} folds"
    return ", ".join(f"fold {n}: {value:g}" for n, value in enumerate(penalties, 1))
