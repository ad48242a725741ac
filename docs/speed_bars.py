"""What the public calls should reach, and what one run of benchmarks/quick.py measured."""

from __future__ import annotations

import math
from statistics import variance
from typing import NamedTuple

from speed_tables import (
    OWN,
    cases_of,
    fastest_rival,
    limits_of,
    mean,
    over,
    over_product,
    share_of_bandwidth,
    table,
)

#: With fewer fits, two inertias are not compared. `make bench-quick BENCH='--fits 8'` makes enough.
LEAST_FITS = 5


class Bar(NamedTuple):
    """What is required. A bar that needs AMX is not measured where the processor lacks it."""

    name: str
    limit: float
    at_most: bool = False
    needs_amx: bool = False


BARS = {
    "kernel": Bar("public call over its kernel, largest", 1.1, at_most=True),
    "encode rival": Bar("encode, dense and clustered: fastest rival over medvlad", 3, needs_amx=True),
    "encode sgemm": Bar("encode, dense and clustered: sgemm over medvlad", 1.6, needs_amx=True),
    "assign sgemm": Bar("assign, dense and clustered: sgemm over medvlad", 2.2, needs_amx=True),
    "k-means": Bar("k-means with seeding: scikit-learn over medvlad", 8),
    "inertia": Bar("k-means: mean inertia over that of scikit-learn", 1, at_most=True),
    "bandwidth": Bar("encode, VGG16 rows: share of the bandwidth", 0.6),
    "bfloat16": Bar("bfloat16, files of 224 pixels over Keras predict", 8, needs_amx=True),
    "int8": Bar("int8, files of 224 pixels over Keras predict", 12, needs_amx=True),
    # 0.8 of the two bars before, and of the two rates.
    "bfloat16 large": Bar(
        "bfloat16, 1-megapixel files with fast decoding over Keras predict", 6.4, needs_amx=True
    ),
    "int8 large": Bar("int8, 1-megapixel files with fast decoding over Keras predict", 9.6, needs_amx=True),
    "bfloat16 share": Bar(
        "bfloat16, 1-megapixel files with fast decoding over those of 224 pixels", 0.8, needs_amx=True
    ),
    "int8 share": Bar(
        "int8, 1-megapixel files with fast decoding over those of 224 pixels", 0.8, needs_amx=True
    ),
    "gap": Bar("SVM: relative duality gap", 1e-8, at_most=True),
}


def bars(found):
    """What is required, what was measured, and whether it is enough. The least favourable case counts."""
    values = encode_values(found) | network_values(found) | fitted_values(found)
    has_amx = "amx_bfloat16_gflops" in limits_of(found)
    rows = [row(bar, values.get(key), has_amx) for key, bar in BARS.items()]
    return table(["Bar", "Required", "Measured", "Met"], rows)


def row(bar, value, has_amx):
    required = f"at {'most' if bar.at_most else 'least'} {bar.limit:g}"
    if bar.needs_amx and not has_amx:
        return [bar.name, required, "not measured", "the processor has no AMX"]
    if value is None:
        return [bar.name, required, "not measured", "-"]
    if isinstance(value, tuple):
        value, errors = value
        shown = f"{value:.4f} +- {errors:.4f}"
        if abs(value - bar.limit) <= errors:
            return [bar.name, required, shown, "equal within two standard errors"]
    else:
        shown = f"{value:.4g}"
    met = value <= bar.limit if bar.at_most else value >= bar.limit
    return [bar.name, required, shown, "yes" if met else "no"]


def encode_values(found):
    """Values of encoding and assignment."""
    encode, assign = (list(cases_of(found, kind, "data", "n", "k")) for kind in ("encode", "assign"))
    limits, structured = limits_of(found), ("dense", "clustered")
    dense = [by_name for (data, n, k), by_name in encode if data in structured and n >= 289 and k == 256]
    assigned = [by_name for (data, _, k), by_name in assign if data in structured and k == 256]
    real = [by_name for (data, n, _), by_name in encode if data == "rooms" and n >= 289]
    kernels = [by_name[OWN].get("over_kernel") for _, by_name in encode + assign]
    return {
        "kernel": max((ratio for ratio in kernels if ratio is not None), default=None),
        "encode rival": least(over(by_name, fastest_rival(by_name)) for by_name in dense),
        "encode sgemm": least(map(over_product, dense)),
        "assign sgemm": least(map(over_product, assigned)),
        "bandwidth": least(share_of_bandwidth(by_name[OWN], limits) for by_name in real),
    }


def network_values(found):
    """Values of extraction."""
    nets = next((by_name for _, by_name in cases_of(found, "extract", "scale")), {})
    rates = {name: r["images"] / r["seconds"]["median"] for name, r in nets.items()}
    values = {}
    for dtype in ("bfloat16", "int8"):
        files = rates.get(f"medvlad {dtype}, 224-pixel JPEGs")
        large = rates.get(f"medvlad {dtype}, 1-megapixel JPEGs, fast decoding")
        keras = rates.get("keras predict")
        values[dtype] = files / keras if files and keras else None
        values[f"{dtype} large"] = large / keras if large and keras else None
        values[f"{dtype} share"] = large / files if large and files else None
    return values


def fitted_values(found):
    """Values of k-means and the SVM."""
    fits = next((by_name for _, by_name in cases_of(found, "kmeans", "rows", "k")), {})
    svms = next((by_name for _, by_name in cases_of(found, "svm", "n", "d")), {})
    return {
        "k-means": over(fits, "scikit-learn"),
        "inertia": inertia_ratio(fits),
        "gap": svms[OWN]["gap"] if OWN in svms else None,
    }


def inertia_ratio(fits):
    """Mean inertia of medvlad over that of scikit-learn, and two standard errors of it.

    None with fewer than LEAST_FITS fits of either: their spread says little then.
    """
    own, other = (fits[name]["inertia"] if name in fits else [] for name in (OWN, "scikit-learn"))
    if min(len(own), len(other)) < LEAST_FITS:
        return None
    squared_error = sum(variance(values) / len(values) for values in (own, other))
    return mean(own) / mean(other), 2 * math.sqrt(squared_error) / mean(other)


def least(values):
    return min((value for value in values if value is not None), default=None)
