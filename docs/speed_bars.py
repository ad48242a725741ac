"""What the public calls should reach, and what one run of benchmarks/quick.py measured."""

from __future__ import annotations

import math
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
    "inertia": Bar("k-means: mean inertia over that of scikit-learn, but for chance", 1, at_most=True),
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
    value, chance = value if isinstance(value, tuple) else (value, 0)
    met = value <= bar.limit + chance if bar.at_most else value >= bar.limit - chance
    shown = f"{value:.4g}" + (f" (chance {chance:.4f})" if chance else "")
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
    """Mean inertia of medvlad over that of scikit-learn, and by how much seeds alone may change it.

    The latter is two standard errors of the ratio, by the spread of medvlad's fits.
    """
    if not {OWN, "scikit-learn"} <= set(fits):
        return None
    own, other = (fits[name]["inertia"] for name in (OWN, "scikit-learn"))
    ratio = mean(own) / mean(other)
    if len(own) == 1:
        return ratio, 0
    spread = math.sqrt(sum((value - mean(own)) ** 2 for value in own) / (len(own) - 1))
    chance = 2 * spread * math.sqrt(1 / len(own) + 1 / len(other)) / mean(other)
    return ratio, chance


def least(values):
    return min((value for value in values if value is not None), default=None)
