"""Measure how fast a network runs in each dtype, once per machine.

The trial runs batches of random pixels through the network, one dtype after the other and again, so that a
slow moment of the machine meets all of them. The rate of a dtype is that of its fastest batch. The rates are
kept in the user's cache folder, in a file for each key, so that every later run on the machine uses the same
numbers::

    $XDG_CACHE_HOME/medvlad/dtype-trials/SHA256.json        default of XDG_CACHE_HOME: ~/.cache

A file that is damaged counts as missing. If the folder cannot be written, the rates last as long as the
process. If two processes measure at the same time, each may use its own rates, and later runs those of one of
them.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from medvlad._util.atomic_file import atomic_file
from medvlad._util.cache_folder import cache_folder
from medvlad._util.validate import check_n_threads
from medvlad.extraction.engines import calibrate, make_engine

__all__ = ["kept_rates", "measured_rates"]

#: Side of the input in pixels, number of images in a batch, and least seconds of measurement for each dtype.
_SIDE, _BATCH, _SECONDS = 224, 8, 0.5
_LEAST_ROUNDS = 2
_MOST_BYTES = 1 << 16  # of a file that is read

#: Rates that this process knows, by the name of their file. So the calls of a process choose alike even if
#: the folder cannot be written.
_known: dict[str, dict[str, float]] = {}
_lock = threading.RLock()


def kept_rates(key: Mapping[str, Any]) -> dict[str, float] | None:
    """Return the rates of an earlier trial. None: there was none.

    Parameters
    ----------
    key : dict
        What the rates depend on, as JSON values. "engines" names the engine of each dtype.

    Returns
    -------
    dict of str to float, or None
        Images per second of each dtype.
    """
    with _lock:
        name = _file_name(key)
        if name not in _known:
            found = _read(name, key)
            if found is None:
                return None
            _known[name] = found
        return dict(_known[name])


def measured_rates(network: Any, key: Mapping[str, Any]) -> dict[str, float]:
    """Return the rates of an earlier trial, or measure and keep them.

    Parameters
    ----------
    network : keras.Model or PlainModel
    key : dict
        As for :func:`kept_rates`.

    Returns
    -------
    dict of str to float
        Images per second of each dtype in ``key["engines"]``.
    """
    with _lock:
        found = kept_rates(key)
        if found is not None:
            return found
        measured = _measure(network, key["engines"])
        name = _file_name(key)
        found = _read(name, key)  # another process may have measured meanwhile
        if found is None:
            found = measured
            _write(name, key, found)
        _known[name] = found
        return dict(found)


def _measure(network: Any, engines: Mapping[str, str]) -> dict[str, float]:
    """Return images per second of each dtype on its engine, with all processors."""
    n_threads = check_n_threads(None)
    pixels = np.random.default_rng(0).uniform(-1, 1, (_BATCH, _SIDE, _SIDE, 3)).astype(np.float32)
    ranges = calibrate(network, [pixels[:1]], n_threads=n_threads) if "int8" in engines else None
    made = {
        dtype: make_engine(
            network, engine=engine, dtype=dtype, output="host", n_threads=n_threads, ranges=ranges
        )
        for dtype, engine in engines.items()
    }
    for compute in made.values():  # the first call compiles
        compute(pixels)
    seconds: dict[str, list[float]] = {dtype: [] for dtype in made}
    while not all(len(spent) >= _LEAST_ROUNDS and sum(spent) >= _SECONDS for spent in seconds.values()):
        for dtype, compute in made.items():
            began = time.perf_counter()
            compute(pixels)
            seconds[dtype].append(time.perf_counter() - began)
    return {dtype: _BATCH / max(min(spent), 1e-9) for dtype, spent in seconds.items()}


def _file_name(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest() + ".json"


def _folder() -> Path:
    """Return the folder of the files. RuntimeError: the user has no home."""
    return cache_folder() / "dtype-trials"


def _read(name: str, key: Mapping[str, Any]) -> dict[str, float] | None:
    """Read the rates in a file. None: there is no such file, or it is damaged."""
    try:
        with (_folder() / name).open("rb") as file:
            content = json.loads(file.read(_MOST_BYTES))
        rates = {str(dtype): float(rate) for dtype, rate in content["images_per_second"].items()}
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    if content.get("key") != key or rates.keys() != key["engines"].keys():
        return None
    return rates if all(math.isfinite(rate) and rate > 0 for rate in rates.values()) else None


def _write(name: str, key: Mapping[str, Any], rates: Mapping[str, float]) -> None:
    """Write the rates to a file, if that is possible."""
    content = json.dumps({"key": key, "images_per_second": rates}, indent=1)
    with suppress(OSError, RuntimeError):
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / name) as file:
            file.write(content.encode())
