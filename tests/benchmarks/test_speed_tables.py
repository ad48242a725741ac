"""docs/speed_tables.py and speed_bars.py: the tables of `make bench-quick`, for results checked by hand."""

from pathlib import Path

import pytest


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "docs")
    import speed_bars
    import speed_tables

    speed_tables.bars = speed_bars.bars
    return speed_tables


def result(kind, name, median, **info):
    return {"kind": kind, "implementation": name, "seconds": {"median": median}, **info}


def encode(name, median, kind="encode", data="dense", n=289, **info):
    size = {"rows": 60_000, "images": 207, "read_bytes": 1e9, "written_bytes": 0.5e9}
    return result(kind, name, median, data=data, n=n, k=256, **size, **info)


def run(*, amx=True, over_kernel=1.05):
    limits = {
        "read_gb_s": 20.0,
        "write_gb_s": 10.0,
        "write_streaming_gb_s": 50.0,
        "fma_float32_gflops": 300.0,
    }
    limits |= {"amx_bfloat16_gflops": 4000.0} if amx else {"amx": "absent: the processor does not report it"}
    return {
        "machine": {"limits": {"2": limits}},
        "results": [
            encode("medvlad", 0.1, over_kernel=over_kernel),
            encode("kernel alone", 0.095),
            encode("medvlad, new array", 0.12),
            encode("torch", 0.5),
            encode("numba", 0.4),
            encode("sgemm", 0.2),
            encode("sgemm, SkylakeX", 0.19),
            encode("medvlad", 0.05, kind="assign", n=1, over_kernel=1.0),
            encode("sgemm", 0.1, kind="assign", n=1),
            encode("medvlad", 0.2, data="rooms", over_kernel=1.0),
            result("kmeans", "medvlad", 2.0, rows=200_000, k=256, iterations=10, inertia=[2.0, 4.0]),
            result("kmeans", "scikit-learn", 40.0, rows=200_000, k=256, iterations=10, inertia=[3.0]),
            result("extract", "keras predict", 1.0, scale=0, images=8, whole=False),
            result("extract", "openvino", 0.5, scale=0, images=8, whole=False),
            result("extract", "medvlad bfloat16", 0.25, scale=0, images=8, whole=False),
            result("extract", "medvlad int8, 224-pixel JPEGs", 0.5, scale=0, images=48, whole=True),
            result("svm", "medvlad", 0.5, n=1000, d=32_768, classes=3, gap=1e-10),
            result("svm", "medvlad, float64", 0.5, n=1000, d=32_768, classes=3, gap=1e-10),
            result("svm", "scikit-learn", 5.0, n=1000, d=32_768, classes=3, gap=1e-7),
        ],
    }


def test_the_table_compares_with_rival_product_kernel_and_bandwidth(tables):
    text = tables.quick_table(run())
    times = "100.0 ms | 95.0 ms | 120.0 ms | 400.0 ms, numba"
    assert (
        f"60,000 rows (dense Gaussian), 289 an image, K = 256 | {times} | 4.00 | 1.90 | 1.05 | 0.60 |" in text
    )
    assert (
        "| k-means | 200,000 rows, K = 256, 10 steps | 2.00 s | | | 40.00 s, scikit-learn (inertia 1.000)"
        in text
    )
    assert "int8, 224-pixel JPEGs | 96.0 images/s | | | 8.0 images/s, keras predict | 12.0 |" in text
    assert "bfloat16, in memory | 32.0 images/s | | | 8.0 images/s, keras predict | 4.0 |" in text
    assert "bfloat16, in memory | 32.0 images/s | | | 16.0 images/s, openvino | 2.0 |" in text
    assert "5.00 s, scikit-learn (gap 1e-07) | 10.0 |" in text
    assert "0.50 s, medvlad with the same rows as float64 (gap 1e-10) | 1.0 |" in text


def verdicts(text):
    """Return {bar: (measured, met)} of a table of bars."""
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines()[2:]]
    return {row[0]: tuple(row[2:]) for row in rows}


def test_the_bars_take_the_least_favourable_case(tables):
    found = verdicts(tables.bars(run()))
    assert found["public call over its kernel, largest"] == ("1.05", "yes")
    assert found["encode, dense and clustered: fastest rival over medvlad"] == ("4", "yes")
    assert found["encode, dense and clustered: sgemm over medvlad"] == ("1.9", "yes")
    assert found["assign, dense and clustered: sgemm over medvlad"] == ("2", "no")
    assert found["k-means with seeding: scikit-learn over medvlad"] == ("20", "yes")
    assert found["k-means: mean inertia over that of scikit-learn"] == ("not measured", "-")  # too few fits
    assert found["encode, VGG16 rows: share of the bandwidth"] == ("0.3", "no")
    assert found["int8, files of 224 pixels over Keras predict"] == ("12", "yes")
    assert found["bfloat16, files of 224 pixels over Keras predict"] == ("not measured", "-")
    assert found["SVM: relative duality gap"] == ("1e-10", "yes")
    too_slow = verdicts(tables.bars(run(over_kernel=1.2)))
    assert too_slow["public call over its kernel, largest"] == ("1.2", "no")


@pytest.mark.parametrize(
    ("own", "other", "shown", "met"),
    [
        ([9.9, 10.1] * 3, [9.9, 10.0] * 3, "1.0050 +- 0.0101", "equal within two standard errors"),
        ([9.9, 10.1] * 50, [9.9, 10.0] * 50, "1.0050 +- 0.0023", "no"),
        ([9.7, 9.9] * 50, [9.9, 10.0] * 50, "0.9849 +- 0.0023", "yes"),
    ],
)
def test_inertias_are_compared_with_their_spread(tables, own, other, shown, met):
    import speed_bars

    fits = {"medvlad": {"inertia": own}, "scikit-learn": {"inertia": other}}
    row = speed_bars.row(speed_bars.BARS["inertia"], speed_bars.inertia_ratio(fits), True)
    assert row[2:] == [shown, met]
    assert speed_bars.inertia_ratio(fits | {"medvlad": {"inertia": own[:4]}}) is None


def test_bars_that_need_amx_are_not_measured_without_it(tables):
    found = verdicts(tables.bars(run(amx=False)))
    without = {name for name, (_, met) in found.items() if met == "the processor has no AMX"}
    assert len(without) == 9
    assert "encode, dense and clustered: sgemm over medvlad" in without
    assert found["public call over its kernel, largest"] == ("1.05", "yes")
    assert "absent: the processor does not report it" in tables.limits_table(run(amx=False))
